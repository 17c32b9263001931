"""patches.yaml: where it is looked for, its schema, and its errors.

The shipped file is the one source of the defaults and of the schema: it lists the options of each patch, and the kind
of each value. A user's file is laid over it, and a section of the host's configuration may be laid over both.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from dirac_perfpatch import host
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patches import AT_IMPORT, load
from dirac_perfpatch.yamlfile import FileError, Node, content, parse

SHIPPED = os.path.join(os.path.dirname(__file__), "patches.yaml")
FILE_VARIABLE = "DIRAC_PERFPATCH_CONFIG"
ON, OFF, AB = "on", "off", "ab"
_SHAPE = "`enabled: true` and `patches:` with a patch's name per line"
_DEFAULTS = "write `enabled: on` alone for the defaults"
_ARMS = ("time", "process", "call")
# What `comparison` says for all patches, and a patch may say for itself.
_PER_PATCH = ("by", "share", "window_seconds")
# The same for what the file says at its top.
_IN_TREE = "in_tree"
_FORCE = "force"
REPLACE, LEAVE = "replace", "leave"
_CHOICES = (_ARMS, (REPLACE, LEAVE))
_RANGES = {"share": (0, 1), "window_seconds": (0.1, 86400), "check_one_in": (0, 10**9)}
# In the settings: what the file says at its top level, and the section of that name.
_TOP, _COMPARISON = "", "comparison"

Settings = Mapping[str, Mapping[str, Any]]


class Toggle(NamedTuple):
    """What is wanted of one patch.

    Args:
        mode: ``on``, ``off`` or ``ab``.
        options: By name.
        by: If it is ``ab``: what is in one arm as a whole, a window of ``time``, a ``process`` or a ``call``.
        share: The part of the windows, processes or calls that run patched, from 0 to 1.
        window_seconds: The length of a window of time.
        in_tree: What is done where the host has the change itself, but wrong: ``replace`` or ``leave``.
        force: Whether code is changed that is of no known release of the host.
    """

    mode: str
    options: Mapping[str, Any]
    by: str
    share: float
    window_seconds: float
    in_tree: str = REPLACE
    force: bool = False

    @property
    def on(self) -> bool:
        """Whether any call may run patched."""
        return self.mode != OFF


class Toggles:
    """What is wanted of all patches.

    A plain class, because creating a named tuple class takes longer than reading the file.

    Args:
        source: Where they were read, for status: the path of the file, and of the sections laid over it.
        settings: Every value by its key, for each patch, for ``comparison``, and for the top level, which is "".
        says_enabled: Whether the last file read has the main switch.
        text: The content of the last file read.

    Attributes:
        patches: A toggle for each patch, by name.
        keep_on_update: Whether an update of DIRAC keeps the plugin.
        spool: The folder for what is recorded; empty for the default one.
        check_one_in: One patched call in this many is compared with the host's own answer; 0 for none.
        together: Whether the patches that are compared by time are all in the same arm.
        follow_configuration: Whether the section of the host's configuration is laid over the file.
    """

    def __init__(self, source: str, settings: Settings, says_enabled: bool = True, text: str = "") -> None:
        self.source = source
        self.settings = settings
        self.says_enabled = says_enabled
        self.text = text
        top, comparison = settings[_TOP], settings[_COMPARISON]
        self.patches = {
            name: _toggle(own, comparison, top) for name, own in settings.items() if name not in (_TOP, _COMPARISON)
        }
        self.keep_on_update: bool = top["enabled"] and top["keep_on_update"]
        self.spool: str = comparison["spool"]
        self.check_one_in: int = comparison["check_one_in"]
        self.together: bool = comparison["together"]
        self.follow_configuration: bool = comparison["follow_configuration"]

    @property
    def effect(self) -> tuple[Any, ...]:
        """Equal for toggles that want the same, wherever they were read."""
        compared = self.spool, self.check_one_in, self.together
        return (self.patches, self.keep_on_update, *compared, self.follow_configuration)


def _toggle(own: Mapping[str, Any], comparison: Mapping[str, Any], top: Mapping[str, Any]) -> Toggle:
    # Resolved only now: what a patch says for itself wins, even over a section that was read later.
    compared = {key: own.get(key, comparison[key]) for key in _PER_PATCH}
    compared.update({key: own.get(key, top[key]) for key in (_IN_TREE, _FORCE)})
    options = {key: value for key, value in own.items() if key not in ("enabled", *compared)}
    wanted = top["enabled"] and own["enabled"]
    return Toggle(AB if wanted == AB else ON if wanted else OFF, options, **compared)


def default_path(root: str | None) -> str | None:
    """Return the path of an installation's file, ``etc/patches.yaml`` below its root; None without a root."""
    return os.path.join(root, "etc", "patches.yaml") if root else None


def switched_off(environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable that switches everything off, with its value, for status; empty if it does not.

    Args:
        environment: Where it is looked up.

    Raises:
        OperatorError: The value is neither on nor off. The host must run stock then, whatever the files say.
    """
    on, said = host.is_switched_on(environment), f"{host.SWITCH_VARIABLE}={host.switch_word(environment)}"
    if on is None:
        raise OperatorError(f"{said}: must be on or off")
    return "" if on else said


def find(root: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the path of the file to read.

    Args:
        root: Of the DIRAC installation, if there is one.
        environment: Where the variable that names a file is looked up.
    """
    named = environment.get(FILE_VARIABLE)
    if named:
        return os.path.abspath(named)  # a process may change its folder
    path = default_path(root)
    if path is None:
        return SHIPPED
    try:
        # Not stat: a dangling link, or a folder that may not be searched, is an error to report, not a missing file.
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return SHIPPED
    except OSError:
        return path  # reading it reports why
    return path


def read(path: str, text: str | None = None, below: Toggles | None = None) -> Toggles:
    """Read a file.

    Args:
        path: The file.
        text: Its content. If None, the file is read. It must not be empty, because a full disk leaves an empty file,
            and only those who are trusted may be able to change it: see :mod:`dirac_perfpatch.trust`.
        below: What it is laid over; the shipped defaults if None.

    Raises:
        FileError: The file cannot be used.
    """
    shipped = _shipped(SHIPPED)
    if path == SHIPPED and text is None:
        return shipped
    said = _trusted_content(path) if text is None else text
    root = parse(path, said)
    found = _lay_over(below or shipped, root, path)
    found.text = said
    if text is None and not _says_something(root):
        raise FileError(path, 0, f"says nothing; {_DEFAULTS}, or `enabled: off`")
    return found


def _trusted_content(path: str) -> str:
    from dirac_perfpatch import trust  # only if there is such a file

    return content(path, trust.look)


def read_again(path: str, before: Toggles) -> Toggles:
    """Read a file that has changed while the process runs.

    A full disk, or an editor that is still writing, leaves the beginning of a file. That must not switch on what the
    rest switched off, so a file that lacks settings that it had must look complete.

    Args:
        path: The file.
        before: The last usable toggles of a file.

    Raises:
        FileError: The file cannot be used, or may be truncated.
    """
    found = read(path)
    loss = _loss(found, before)
    # The last value of a truncated text may differ, too: `60` becomes `6`.
    kept = before if before.text.startswith(found.text) else read(path, found.text, before)
    if loss and kept.effect != found.effect:
        raise FileError(path, 0, f"has lost settings, and {loss}; restore them, or {_DEFAULTS}")
    return found


def _loss(found: Toggles, before: Toggles) -> str:
    """Why a file may be truncated; empty if it cannot be."""
    if not found.says_enabled:
        return "has no line `enabled:`, as if truncated"
    if len(found.text.split()) == 2:
        return ""  # `enabled: on` alone asks for the defaults
    if not found.text.endswith(("\n", "\r")):
        return "ends in the middle of a line, as if truncated"
    return "is the beginning of its former text, as if truncated" if before.text.startswith(found.text) else ""


def _says_something(node: Node) -> bool:
    return any(map(_says_something, node.value.values())) if isinstance(node.value, dict) else node.value is not None


def override(below: Toggles, place: str, said: Mapping[str, Any]) -> Toggles:
    """Lay a section of the host's configuration over toggles.

    Args:
        below: The toggles.
        place: The path of the section, for errors and status.
        said: Its options as text and its subsections as mappings: ``enabled``, ``in_tree``, ``force``,
            the patches, ``comparison``.

    Raises:
        FileError: The section cannot be used. The text begins with the path of the option.
    """
    top = {name: _section_node(f"{place}/{name}", value) for name, value in said.items()}
    _refuse_unknown(top, ("enabled", _IN_TREE, _FORCE, _COMPARISON, *below.patches), "key")
    patches = {name: top.pop(name) for name in below.patches if name in top}
    root = Node({**top, "patches": Node(patches, 0, place)}, 0, place)
    return _lay_over(below, root, f"{below.source}, {place}")


def _section_node(place: str, value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node({name: _section_node(f"{place}/{name}", below) for name, below in value.items()}, 0, place)
    # Read as in the file, where it could have been written in the same way.
    return Node(parse(place, f"value: {value}").value["value"].value, 0, place)


@functools.cache
def _shipped(path: str) -> Toggles:
    """The defaults of the code that runs in this process: an update of the plugin replaces the file meanwhile."""
    top = parse(path, content(path)).value
    parts = {**top.pop("patches").value, _COMPARISON: top.pop(_COMPARISON), _TOP: Node(top, 1, path)}
    settings = {
        name: {key: child.value for key, child in node.value.items()}
        if isinstance(node.value, dict)
        else {"enabled": node.value}
        for name, node in parts.items()
    }
    return Toggles(path, settings)


def _lay_over(below: Toggles, root: Node, source: str) -> Toggles:
    """Lay a file or a section over toggles, which hold every known key."""
    defaults = dict(below.settings[_COMPARISON])
    per_patch = {key: defaults[key] for key in _PER_PATCH}
    if not root.line:
        # Not in the host's configuration: only the operator of the host may let it override the file.
        del defaults["follow_configuration"]
    top = _children(root, f"the file must be a mapping: {_SHAPE}")
    _refuse_unknown(top, (*below.settings[_TOP], "patches", _COMPARISON), "key")
    said = {_TOP: {key: _value(key, top[key], old) for key, old in below.settings[_TOP].items() if key in top}}
    patches = _children(top.get("patches"), "patches must be a mapping: a patch's name and on, off or ab per line")
    _refuse_unknown(patches, tuple(below.patches), "patch")
    for name, node in patches.items():
        if isinstance(node.value, dict):
            known = {"enabled": AB, **below.patches[name].options, **per_patch, _IN_TREE: REPLACE, _FORCE: False}
            said[name] = _values(name, node.value, known, "option")
        else:
            said[name] = {"enabled": _mode(node, f"{name} must be on, off or ab, or a mapping with `enabled:`")}
    compared = _children(top.get(_COMPARISON), "comparison must be a mapping: a name and a value per line")
    said[_COMPARISON] = _values(_COMPARISON, compared, defaults, "key")
    settings = {name: {**before, **said.get(name, {})} for name, before in below.settings.items()}
    _refuse_comparisons(settings, {name: patches.get(name) or top.get(_COMPARISON) or root for name in below.patches})
    return Toggles(source, settings, "enabled" in top)


def _refuse_comparisons(settings: Settings, nodes: Mapping[str, Node]) -> None:
    for name, node in nodes.items():
        if settings[name]["enabled"] == AB and name in AT_IMPORT:
            raise node.error(f"{name} cannot be compared: it acts once, when a module is imported; write on or off")
        general = settings[_COMPARISON]["by"] if settings[name]["enabled"] == AB else None
        by = settings[name].get("by", general)
        if by == "call" and not _calls_stand_alone(name):
            text = "its calls influence each other; write `by: time` or `by: process` for it"
            raise node.error(f"{name} cannot be compared by call: {text}")


def _calls_stand_alone(name: str) -> bool:
    # The patch says so. Its module is imported only here, because every command reads the toggles.
    try:
        return bool(load(name).calls_stand_alone)
    except Exception:
        return True  # applying it fails as well, and reports why


def _children(node: Node | None, text: str) -> dict[str, Node]:
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise _error(node, text)
    return node.value


def _values(name: str, found: Mapping[str, Node], known: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the values of a patch or of the comparison, each checked against the known value of its key."""
    _refuse_unknown(found, tuple(known), f"{what} of {name}")
    return {key: _value(f"{key} of {name}", node, known[key]) for key, node in found.items()}


def _mode(node: Node, text: str) -> bool | str:
    if not isinstance(node.value, bool) and node.value != AB:
        raise _error(node, text)
    return node.value


def _value(what: str, node: Node, known: Any) -> Any:
    """Return a value that is of the kind of a known one, and in its range."""
    value, key = node.value, what.partition(" ")[0]
    if known == AB:
        return _mode(node, f"{what} must be on, off or ab")
    if isinstance(known, bool):
        kind, right = "on or off (or true or false)", isinstance(value, bool)
    elif choices := [choices for choices in _CHOICES if known in choices]:
        *others, last = choices[0]
        kind, right = f"{', '.join(others)} or {last}", value in choices[0]
    elif isinstance(known, str):
        kind = 'the full path of a folder, or "" for the default'
        right = isinstance(value, str) and (not value or os.path.isabs(value))
    else:
        seconds = key.endswith("_seconds")
        whole = not seconds and key != "share"
        kind = f"a {'whole ' if whole else ''}number{' of seconds' if seconds else ''}, such as {known}"
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        least, most = _RANGES.get(key, (1 if whole else 0, 10**9))
        if right and not least <= value <= most:
            raise node.error(f"{what} must be from {least} to {most}, not {value}")
    if not right:
        raise _error(node, f"{what} must be {kind}")
    return value


def _refuse_unknown(found: Mapping[str, Node], known: tuple[str, ...], what: str) -> None:
    for key, node in found.items():
        if key not in known:
            import difflib  # only for an error

            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise node.error(f"unknown {what} {key!r}; {hint}")


def _error(node: Node, text: str) -> FileError:
    kinds = {dict: "a mapping", list: "a list", type(None): "empty"}
    return node.error(f"{text}; it is {kinds.get(type(node.value)) or repr(node.value)}")
