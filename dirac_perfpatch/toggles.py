"""patches.yaml: where it is looked for, its schema, and its errors.

The file that ships with the plugin is the one source of the defaults, and of the schema, too: a patch has the options
that it has there, and a value must be of the kind that it has there. A section of the host's configuration may say the
same things over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dirac_perfpatch.patches import load
from dirac_perfpatch.yamlfile import FileError, Node, content, parse, read

SHIPPED = os.path.join(os.path.dirname(__file__), "patches.yaml")
FILE_VARIABLE = "DIRAC_PERFPATCH_CONFIG"
SWITCH_VARIABLE = "DIRAC_PERFPATCH"
ON, OFF, AB = "on", "off", "ab"
_ON_WORDS = ("", "on", "true", "yes", "1")
_OFF_WORDS = ("off", "false", "no", "0")
_SHAPE = "`enabled: true` and `patches:` with a patch's name per line"
_DEFAULTS = "write `enabled: on` alone for the defaults"
_ARMS = ("time", "process", "call")


class ToggleError(Exception):
    """The toggles cannot be used; the text names the place and says what would be right."""


class Trial(NamedTuple):
    """How a patch that is ``ab`` is divided between its two arms.

    Args:
        by: What is in one arm as a whole: a window of ``time``, a ``process`` or a ``call``.
        share: Of the windows, processes or calls that run patched, from 0 to 1.
        window_seconds: How long a window of time is.
    """

    by: str
    share: float
    window_seconds: float


class Toggle(NamedTuple):
    """What is wanted of one patch.

    Args:
        mode: ``on``, ``off`` or ``ab``.
        options: By name.
        trial: How it is compared if it is ``ab``.
    """

    mode: str
    options: Mapping[str, Any]
    trial: Trial

    @property
    def on(self) -> bool:
        """Whether any call may run patched."""
        return self.mode != OFF


class ComparisonToggles(NamedTuple):
    """What is wanted of the comparison as a whole.

    Args:
        spool: The folder for what is recorded; empty for the default one.
        check_one_in: One patched call in so many is compared with the host's own answer; 0 for none.
        follow_configuration: Whether the section of the host's configuration overrides the file.
    """

    spool: str
    check_one_in: int
    follow_configuration: bool


class Toggles(NamedTuple):
    """What is wanted of every patch.

    Args:
        source: Where it was read, for status: a path, or the variable that switched everything off.
        patches: By name of patch; one that is not there is off.
        keep_on_update: Whether an update of DIRAC is to keep the plugin.
        comparison: Of patches that are ``ab``; None if the variable switched everything off.
    """

    source: str
    patches: Mapping[str, Toggle]
    keep_on_update: bool = False
    comparison: ComparisonToggles | None = None


# The two that follow are no named tuples because making the class of one takes longer than reading the file.


class _Wish:
    """What was said of one patch.

    Args:
        mode: As in :class:`Toggle`.
        options: As in :class:`Toggle`.
        trial: What the patch has of its own, by name.
    """

    def __init__(self, mode: str, options: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
        self.mode = mode
        self.options = options
        self.trial = trial


class Draft:
    """What was said in all places that were read so far: the last word for each thing.

    Args:
        source: The places.
        enabled: The main switch.
        keep_on_update: As in :class:`Toggles`.
        patches: By name.
        trial: What a patch has that says nothing else.
        comparison: As in :class:`Toggles`.
        says_enabled: Whether the last of the places says ``enabled``.
        text: Of the file.
    """

    def __init__(
        self,
        source: str,
        enabled: bool,
        keep_on_update: bool,
        patches: Mapping[str, _Wish],
        trial: Trial,
        comparison: ComparisonToggles,
        says_enabled: bool,
        text: str = "",
    ) -> None:
        self.source = source
        self.enabled = enabled
        self.keep_on_update = keep_on_update
        self.patches = patches
        self.trial = trial
        self.comparison = comparison
        self.says_enabled = says_enabled
        self.text = text

    def toggles(self) -> Toggles:
        """What follows from it for every patch."""
        patches = {
            name: Toggle(wish.mode if self.enabled else OFF, wish.options, self.trial._replace(**wish.trial))
            for name, wish in self.patches.items()
        }
        return Toggles(self.source, patches, self.enabled and self.keep_on_update, self.comparison)


def default_path(root: str | None) -> str | None:
    """Where the file of an installation is: ``etc/patches.yaml`` below its root; None without a root."""
    return os.path.join(root, "etc", "patches.yaml") if root else None


def switched_off(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that switches everything off, as it is, for status; empty if it does not.

    Args:
        environment: Where it is looked up.

    Raises:
        ToggleError: It says something else. The host is to run stock then, whatever the files say.
    """
    word = environment.get(SWITCH_VARIABLE, "").strip().lower()
    if word not in _ON_WORDS + _OFF_WORDS:
        raise ToggleError(f"{SWITCH_VARIABLE}={word}: must be on or off")
    return f"{SWITCH_VARIABLE}={word}" if word in _OFF_WORDS else ""


def find(root: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The path of the file that is to be read."""
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


def draft(path: str, text: str | None = None, below: Draft | None = None) -> Draft:
    """What a file says, completed by the shipped defaults.

    Args:
        path: Of the file.
        text: What is in it. If None it is read, and must say something: it is empty after a disk was full.
        below: What completes it, if not the shipped defaults.

    Raises:
        ToggleError: It is not as it should be.
    """
    try:
        shipped = _shipped()
        if path == SHIPPED and text is None:
            return shipped
        said = content(path) if text is None else text
        root = parse(path, said.removeprefix("\ufeff"))
        found = _merge(path, root, below or shipped, path)
        if text is None and not _says_something(root):
            raise FileError(path, None, f"says nothing; {_DEFAULTS}, or `enabled: off`")
    except FileError as error:
        raise ToggleError(str(error)) from None
    found.text = said
    return found


def draft_again(path: str, before: Draft) -> Draft:
    """What a file says that has changed while the process runs.

    A full disk, or an editor that has just begun to write, leaves the beginning of a file. What was switched off in it
    must not come on by that, so a file that leaves out what it said before must look complete.

    Args:
        path: Of the file.
        before: What the last one said that could be used.

    Raises:
        ToggleError: It is not as it should be, or it may have been cut off.
    """
    found = draft(path)
    loss = _loss(found, before)
    # The last number of what was cut off is another one, too.
    kept = before if before.text.startswith(found.text) else draft(path, found.text, before)
    if loss and kept.toggles()[1:] != found.toggles()[1:]:
        raise ToggleError(f"{path}: leaves out what it said before, and {loss}; complete it; {_DEFAULTS}")
    return found


def _loss(found: Draft, before: Draft) -> str:
    """Why a file may have been cut off; empty if that cannot be."""
    if not found.says_enabled:
        return "has no line `enabled:`, as if it was cut off"
    if len(found.text.split()) == 2:
        return ""  # `enabled: on` alone: this is how to ask for the defaults
    if not found.text.endswith(("\n", "\r")):
        return "ends in the middle of a line, as if it was cut off there"
    return "is the beginning of what it was, as if it was cut off there" if before.text.startswith(found.text) else ""


def _says_something(node: Node) -> bool:
    return any(map(_says_something, node.value.values())) if isinstance(node.value, dict) else node.value is not None


def override(below: Draft, place: str, said: Mapping[str, Any]) -> Draft:
    """What a section of the host's configuration says, over what was said before.

    Args:
        below: What was said before.
        place: The path of the section, for errors and status.
        said: Its options as text and its subsections as mappings, by name: ``enabled``, the patches, ``comparison``.

    Raises:
        ToggleError: Something in it is not as it should be. The text begins with its path.
    """
    top = {name: _section_node(f"{place}/{name}", value) for name, value in said.items()}
    known = ("enabled", "comparison", *below.patches)
    try:
        _refuse_unknown(place, top, known, "key")
        patches = {name: top.pop(name) for name in below.patches if name in top}
        root = Node({**top, "patches": Node(patches, 0, place)}, 0, place)
        return _merge(place, root, below, f"{below.source}, {place}")
    except FileError as error:
        raise ToggleError(str(error)) from None


def _section_node(place: str, value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node({name: _section_node(f"{place}/{name}", below) for name, below in value.items()}, 0, place)
    # Read as in the file, where it could have been written in the same way.
    root = parse(place, f"value: {value}")
    return Node(root.value["value"].value, 0, place)


def _shipped() -> Draft:
    patches, top = {}, read(SHIPPED).value
    for name, node in top["patches"].value.items():
        options = {key: value.value for key, value in node.value.items()} if isinstance(node.value, dict) else {}
        mode = options.pop("enabled") if options else node.value
        patches[name] = _Wish(ON if mode else OFF, options, {})
    compared = {key: node.value for key, node in top["comparison"].value.items()}
    trial = Trial(**{key: compared.pop(key) for key in Trial._fields})
    comparison = ComparisonToggles(**compared)
    return Draft(SHIPPED, top["enabled"].value, top["keep_on_update"].value, patches, trial, comparison, True)


def _merge(path: str, root: Node, below: Draft, source: str) -> Draft:
    """Put what a file or section says over what was said before."""
    if root.value is None:
        root = Node({}, 1)
    top = _children(path, root, f"the file must be a mapping: {_SHAPE}")
    _refuse_unknown(path, top, ("enabled", "keep_on_update", "patches", "comparison"), "key")
    enabled = _bool(path, top["enabled"], "enabled") if "enabled" in top else below.enabled
    keep = _bool(path, top["keep_on_update"], "keep_on_update") if "keep_on_update" in top else below.keep_on_update
    wanted = {}
    if "patches" in top and top["patches"].value is not None:
        wanted = _children(path, top["patches"], "patches must be a mapping: a patch's name and on, off or ab per line")
    _refuse_unknown(path, wanted, tuple(below.patches), "patch")
    patches = {
        name: _wish(path, name, wanted[name], wish) if name in wanted else wish for name, wish in below.patches.items()
    }
    trial, comparison = below.trial, below.comparison
    if "comparison" in top and top["comparison"].value is not None:
        trial, comparison = _comparison(path, top["comparison"], below)
    merged = Draft(source, enabled, keep, patches, trial, comparison, "enabled" in top)
    _refuse_by_call(path, merged, wanted, top.get("comparison"))
    return merged


def _wish(path: str, name: str, node: Node, below: _Wish) -> _Wish:
    if not isinstance(node.value, dict):
        mode = _mode(path, node, f"{name} must be on, off or ab, or a mapping with `enabled:`")
        return _Wish(mode, below.options, below.trial)
    _refuse_unknown(path, node.value, ("enabled", *below.options, *Trial._fields), f"option of {name}")
    mode, options, trial = below.mode, dict(below.options), dict(below.trial)
    for key, child in node.value.items():
        if key == "enabled":
            mode = _mode(path, child, f"enabled of {name} must be on, off or ab")
        elif key in Trial._fields:
            trial[key] = _COMPARED[key](path, child, f"{key} of {name}")
        else:
            options[key] = _number(path, child, f"{key} of {name}", options[key])
    return _Wish(mode, options, trial)


def _comparison(path: str, node: Node, below: Draft) -> tuple[Trial, ComparisonToggles]:
    said = _children(path, node, "comparison must be a mapping: a name and a value per line")
    # Not in the host's configuration: it is the operator of the host who allows it to override the file.
    known = [name for name in _COMPARED if not (node.place and name == "follow_configuration")]
    _refuse_unknown(path, said, tuple(known), "key of comparison")
    values = {key: _COMPARED[key](path, child, f"{key} of comparison") for key, child in said.items()}
    trial = {key: values.pop(key) for key in Trial._fields if key in values}
    return below.trial._replace(**trial), below.comparison._replace(**values)


def _refuse_by_call(path: str, merged: Draft, wanted: Mapping[str, Node], section: Node | None) -> None:
    for name, wish in merged.patches.items():
        compared = wish.mode == AB and wish.trial.get("by", merged.trial.by) == "call"
        if (compared or wish.trial.get("by") == "call") and not _calls_stand_alone(name):
            node = wanted.get(name) or section or Node(None, 1, path)
            text = "its calls do not stand alone; write `by: time` or `by: process` for it"
            raise _error(path, node, f"{name} cannot be compared by call: {text}")


def _calls_stand_alone(name: str) -> bool:
    # The patch says so, whose module is imported for it only here: every command reads the toggles.
    try:
        return bool(load(name).calls_stand_alone)
    except Exception:
        return True  # it cannot be put on either, and who tries says why


def _children(path: str, node: Node, text: str) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise _error(path, node, f"{text}; {_seen(node)}")
    return node.value


def _mode(path: str, node: Node, text: str) -> str:
    if isinstance(node.value, bool):
        return ON if node.value else OFF
    if node.value != AB:
        raise _error(path, node, f"{text}; {_seen(node)}")
    return AB


def _bool(path: str, node: Node, what: str) -> bool:
    if not isinstance(node.value, bool):
        raise _error(path, node, f"{what} must be on or off (or true or false); {_seen(node)}")
    return node.value


def _number(path: str, node: Node, what: str, default: float) -> float:
    """Any number from 0 on where the default is an amount of seconds; a whole number from 1 on where it is a count."""
    if what.partition(" ")[0].endswith("_seconds"):
        return _between(path, node, what, f"a number of seconds, such as {default}", 0, 10**9)
    return _whole(path, node, what, default, 1)


def _whole(path: str, node: Node, what: str, default: float, least: int) -> int:
    if not isinstance(node.value, int):
        raise _error(path, node, f"{what} must be a whole number, such as {default}; {_seen(node)}")
    return int(_between(path, node, what, f"a whole number, such as {default}", least, 10**9))


def _between(path: str, node: Node, what: str, kind: str, least: float, most: float) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _error(path, node, f"{what} must be {kind}; {_seen(node)}")
    if not least <= value <= most:
        raise _error(path, node, f"{what} must be from {least} to {most}, not {value}")
    return value


def _by(path: str, node: Node, what: str) -> str:
    if node.value not in _ARMS:
        raise _error(path, node, f"{what} must be {', '.join(_ARMS[:-1])} or {_ARMS[-1]}; {_seen(node)}")
    return str(node.value)


def _share(path: str, node: Node, what: str) -> float:
    return _between(path, node, what, "a number, such as 0.5", 0, 1)


def _window(path: str, node: Node, what: str) -> float:
    return _between(path, node, what, "a number of seconds, such as 60", 0.1, 86400)


def _sample(path: str, node: Node, what: str) -> int:
    return _whole(path, node, what, 10000, 0)


def _folder(path: str, node: Node, what: str) -> str:
    if not isinstance(node.value, str) or (node.value and not os.path.isabs(node.value)):
        raise _error(path, node, f'{what} must be the full path of a folder, or "" for the default; {_seen(node)}')
    return node.value


# The keys of the section, each with what reads it. The first three may be said of a patch as well.
_COMPARED: dict[str, Callable[[str, Node, str], Any]] = {
    "by": _by,
    "share": _share,
    "window_seconds": _window,
    "spool": _folder,
    "check_one_in": _sample,
    "follow_configuration": _bool,
}


def _refuse_unknown(path: str, found: Mapping[str, Node], known: tuple[str, ...], what: str) -> None:
    for key, node in found.items():
        if key not in known:
            import difflib  # only for an error

            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise _error(path, node, f"unknown {what} {key!r}; {hint}")


def _error(path: str, node: Node, text: str) -> FileError:
    return FileError(node.place, None, text) if node.place else FileError(path, node.line, text)


def _seen(node: Node) -> str:
    if isinstance(node.value, (dict, list)):
        return "it is a mapping" if isinstance(node.value, dict) else "it is a list"
    return "it is empty" if node.value is None else f"it is {node.value!r}"
