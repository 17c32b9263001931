"""patches.yaml: where it is looked for, its schema, and its errors.

The file that ships with the plugin is the one source of the defaults, and of the schema, too: a patch has the options
that it has there, and a value must be of the kind that it has there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from dirac_perfpatch.yamlfile import FileError, Node, read

SHIPPED = os.path.join(os.path.dirname(__file__), "patches.yaml")
FILE_VARIABLE = "DIRAC_PERFPATCH_CONFIG"
SWITCH_VARIABLE = "DIRAC_PERFPATCH"
_ON_WORDS = ("", "on", "true", "yes", "1")
_OFF_WORDS = ("off", "false", "no", "0")
_SHAPE = "`enabled: true` and `patches:` with a patch's name per line"


class ToggleError(Exception):
    """The toggles cannot be used; the text names the place and says what would be right."""


class Toggle(NamedTuple):
    """What is wanted of one patch: whether it is on, and its options by name."""

    on: bool
    options: Mapping[str, Any]


class Toggles(NamedTuple):
    """What is wanted of every patch.

    Args:
        source: Where it was read, for status: a path, or the variable that switched everything off.
        patches: By name of patch; one that is not there is off.
        keep_on_update: Whether an update of DIRAC is to keep the plugin.
    """

    source: str
    patches: Mapping[str, Toggle]
    keep_on_update: bool = False


def default_path(root: str | None) -> str | None:
    """Where the file of an installation is: ``etc/patches.yaml`` below its root; None without a root."""
    return os.path.join(root, "etc", "patches.yaml") if root else None


def load(root: str | None, environment: Mapping[str, str] = os.environ) -> Toggles:
    """Find and read the toggles.

    Args:
        root: The root of the DIRAC installation, or None if it is not known.
        environment: Where the two variables are looked up.

    Returns:
        The toggles: those of the file that was found, completed by the shipped defaults.

    Raises:
        ToggleError: A variable or a file is not as it should be. The host is to run stock then.
    """
    word = environment.get(SWITCH_VARIABLE, "").strip().lower()
    if word not in _ON_WORDS + _OFF_WORDS:
        raise ToggleError(f"{SWITCH_VARIABLE}={word}: must be on or off")
    if word in _OFF_WORDS:
        return Toggles(f"{SWITCH_VARIABLE}={word}", {})
    try:
        path = _find(root, environment)
        shipped = _shipped()
        return shipped if path == SHIPPED else _merge(path, read(path), shipped)
    except FileError as error:
        raise ToggleError(str(error)) from None


def _find(root: str | None, environment: Mapping[str, str]) -> str:
    named = environment.get(FILE_VARIABLE)
    if named:
        return named
    path = default_path(root)
    if path is None:
        return SHIPPED
    try:
        # Not stat: a link that leads nowhere is a mistake to be told, not a reason to take the defaults. Nor is a
        # folder that may not be searched.
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return SHIPPED
    except OSError:
        return path  # reading it says why
    return path


def _shipped() -> Toggles:
    patches, top = {}, read(SHIPPED).value
    for name, node in top["patches"].value.items():
        if isinstance(node.value, dict):
            options = {key: value.value for key, value in node.value.items()}
            patches[name] = Toggle(options.pop("enabled"), options)
        else:
            patches[name] = Toggle(node.value, {})
    return Toggles(SHIPPED, patches, top["keep_on_update"].value)


def _merge(path: str, root: Node, shipped: Toggles) -> Toggles:
    """Put what a file says over the defaults."""
    schema, keep = shipped.patches, shipped.keep_on_update
    if root.value is None:
        return Toggles(path, schema, keep)
    top = _children(path, root, f"the file must be a mapping: {_SHAPE}")
    _refuse_unknown(path, top, ("enabled", "keep_on_update", "patches"), "key")
    on = _bool(path, top["enabled"], "enabled") if "enabled" in top else True
    keep = _bool(path, top["keep_on_update"], "keep_on_update") if "keep_on_update" in top else keep
    wanted = {}
    if "patches" in top and top["patches"].value is not None:
        wanted = _children(path, top["patches"], "patches must be a mapping: a patch's name and on or off per line")
    _refuse_unknown(path, wanted, tuple(schema), "patch")
    merged = {}
    for name, default in schema.items():
        toggle = _toggle(path, name, wanted[name], default) if name in wanted else default
        merged[name] = Toggle(on and toggle.on, toggle.options)
    return Toggles(path, merged, on and keep)


def _toggle(path: str, name: str, node: Node, default: Toggle) -> Toggle:
    if isinstance(node.value, bool):
        return Toggle(node.value, default.options)
    if not isinstance(node.value, dict):
        raise FileError(path, node.line, f"{name} must be on or off, or a mapping with `enabled:`; {_seen(node)}")
    _refuse_unknown(path, node.value, ("enabled", *default.options), f"option of {name}")
    on = _bool(path, node.value["enabled"], f"enabled of {name}") if "enabled" in node.value else default.on
    options = {
        key: _number(path, node.value[key], f"{key} of {name}", value) if key in node.value else value
        for key, value in default.options.items()
    }
    return Toggle(on, options)


def _children(path: str, node: Node, text: str) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise FileError(path, node.line, f"{text}; {_seen(node)}")
    return node.value


def _bool(path: str, node: Node, what: str) -> bool:
    if not isinstance(node.value, bool):
        raise FileError(path, node.line, f"{what} must be on or off (or true or false); {_seen(node)}")
    return node.value


def _number(path: str, node: Node, what: str, default: int) -> float:
    """Any number from 0 on where the default is an amount of seconds; a whole number from 1 on where it is a count."""
    value, seconds = node.value, what.partition(" ")[0].endswith("_seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float) if seconds else int):
        kind = "a number of seconds" if seconds else "a whole number"
        raise FileError(path, node.line, f"{what} must be {kind}, such as {default}; {_seen(node)}")
    least = 0 if seconds else 1
    if not least <= value <= 10**9:
        raise FileError(path, node.line, f"{what} must be from {least} to 1000000000, not {value}")
    return value


def _refuse_unknown(path: str, found: Mapping[str, Node], known: tuple[str, ...], what: str) -> None:
    for key, node in found.items():
        if key not in known:
            import difflib  # only for an error

            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise FileError(path, node.line, f"unknown {what} {key!r}; {hint}")


def _seen(node: Node) -> str:
    if isinstance(node.value, (dict, list)):
        return "it is a mapping" if isinstance(node.value, dict) else "it is a list"
    return "it is empty" if node.value is None else f"it is {node.value!r}"
