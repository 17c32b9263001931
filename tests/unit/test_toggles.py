"""patches.yaml: which file is read, what it may hold, and how errors are reported."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dirac_perfpatch import toggles
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.toggles import Toggle, Toggles, find, override, read, read_again, switched_off
from dirac_perfpatch.yamlfile import FileError

NAMES = [patch.name for patch in CATALOGUE]
KNOWN = ", ".join(NAMES)
TOP = "enabled, keep_on_update, in_tree, force, patches, comparison"
HOW = ("time", 0.5, 60, "replace", False)
COMPARED = "by, share, window_seconds"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.yaml"


def load(root: str | None, environment: dict[str, str]) -> Toggles:
    """Read the toggles as a start does."""
    assert not switched_off(environment)
    return read(find(root, environment))


def _load(file: Path, content: str | bytes | None = None) -> Toggles:
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(None, {"DIRAC_PERFPATCH_CONFIG": str(file)})


def _on(found: Toggles) -> list[str]:
    return [name for name, toggle in found.patches.items() if toggle.on]


def _refused(file: Path, content: str | bytes | None = None) -> str:
    """Return the error without the name of the file: the line number, if any, and the text."""
    with pytest.raises(FileError) as caught:
        _load(file, content)
    text = str(caught.value)
    assert text.startswith(f"{file}:")
    assert text.isprintable()  # so it is one line
    assert len(text) < 600
    return text[len(str(file)) + 1 :].lstrip()


# What is read


def test_the_shipped_file_is_the_one_source_of_the_defaults(tmp_path: Path) -> None:
    found = load(None, {})
    assert found.source == toggles.SHIPPED
    assert found.effect == (found.patches, True, "", 10000, False, False)
    assert {(toggle.mode, *toggle[2:]) for toggle in found.patches.values()} == {("on", *HOW)}
    assert found.patches["error_stack"].options == {"recheck_seconds": 1}
    assert found.patches["connection_checkout"].options == {"idle_ping_seconds": 5, "keepalive_seconds": 5}


def test_every_patch_is_in_the_shipped_file_in_the_order_of_the_catalogue() -> None:
    assert list(load(None, {}).patches) == NAMES


def test_the_shipped_file_read_as_a_user_s_own_says_the_same(file: Path) -> None:
    shutil.copyfile(toggles.SHIPPED, file)
    assert _load(file).patches == load(None, {}).patches
    assert _load(file).source == str(file)


NOTHING = ["", "\n", "# only a comment", "\n  # one\n\n# two\n", "---\n", "null\n", "{}", "\ufeff"]
NOTHING += ["patches:\n", "patches: {}\n", "comparison:\npatches:\n  error_stack: {}\n"]


@pytest.mark.parametrize("content", NOTHING)
def test_a_file_that_says_nothing_is_no_reason_to_switch_anything_on(file: Path, content: str) -> None:
    """A full disk may have emptied a file that said off."""
    error = "says nothing; write `enabled: on` alone for the defaults, or `enabled: off`"
    assert _refused(file, content) == error
    assert read(str(file), content).patches == load(None, {}).patches  # `set` may write into it


@pytest.mark.parametrize("content", ["patches:\nkeep_on_update: on\n", "enabled: on\n", "enabled: yes"])
def test_what_a_file_does_not_mention_keeps_its_default(file: Path, content: str) -> None:
    assert _load(file, content).patches == load(None, {}).patches


def test_one_patch_is_switched_off_and_the_others_stay(file: Path) -> None:
    found = _load(file, "patches:\n  error_stack: off\n")
    assert _on(found) == [name for name in NAMES if name != "error_stack"]
    assert found.keep_on_update is True


def test_which_patches_are_applied_to_unknown_code(file: Path) -> None:
    """None without a word; all, or one; what a patch says for itself wins, also over a later section."""
    assert {toggle.force for toggle in load(None, {}).patches.values()} == {False}
    found = _load(file, "patches:\n  error_stack:\n    force: on\n")
    assert {name for name, toggle in found.patches.items() if toggle.force} == {"error_stack"}
    assert found.patches["error_stack"].options == {"recheck_seconds": 1}
    assert found.effect != load(None, {}).effect
    found = override(_load(file, "patches:\n  error_stack:\n    force: off\n"), PLACE, {"force": "on"})
    assert {name for name, toggle in found.patches.items() if not toggle.force} == {"error_stack"}
    assert "force of error_stack must be on or off" in _refused(file, "patches:\n  error_stack:\n    force: all\n")


def test_what_is_done_with_changes_that_the_host_has_in_tree(file: Path) -> None:
    """For all patches, or for one; what a patch says for itself wins, also over a later section."""
    found = _load(file, "in_tree: leave\npatches:\n  error_stack:\n    in_tree: replace\n  dms_helpers: off\n")
    assert {name for name, toggle in found.patches.items() if toggle.in_tree == "replace"} == {"error_stack"}
    assert found.patches["error_stack"].options == {"recheck_seconds": 1}
    assert found.effect != load(None, {}).effect
    again = override(found, PLACE, {"in_tree": "replace", "dms_helpers": {"in_tree": "leave"}})
    assert {name for name, toggle in again.patches.items() if toggle.in_tree == "leave"} == {"dms_helpers"}
    wrong = {"in_tree: off\n": "in_tree", "patches:\n  dms_helpers:\n    in_tree: 1\n": "in_tree of dms_helpers"}
    for text, what in wrong.items():
        assert f"{what} must be replace or leave; it is " in _refused(file, text)


def test_options_are_taken_and_the_others_of_the_patch_keep_their_defaults(file: Path) -> None:
    found = _load(
        file,
        """
        patches:
          error_stack:
            recheck_seconds: 0
          proxy_loading:
            enabled: off
          connection_checkout:
            enabled: on
            idle_ping_seconds: 2.5
        """,
    )
    assert found.patches["error_stack"] == Toggle("on", {"recheck_seconds": 0}, *HOW)
    assert found.patches["proxy_loading"] == Toggle("off", {"max_proxies": 1000}, *HOW)
    assert found.patches["connection_checkout"] == Toggle(
        "on", {"idle_ping_seconds": 2.5, "keepalive_seconds": 5}, *HOW
    )


def test_the_main_switch_switches_all_off(file: Path) -> None:
    found = _load(file, "enabled: false\nkeep_on_update: on\npatches:\n  error_stack: on\n")
    assert _on(found) == []
    assert found.keep_on_update is False


def test_keep_on_update_is_a_switch_of_its_own(file: Path) -> None:
    found = _load(file, "keep_on_update: off\n")
    assert (_on(found), found.keep_on_update) == (NAMES, False)


def test_a_patch_that_is_compared_and_how(file: Path) -> None:
    found = _load(
        file,
        """
        comparison:
          by: process
          share: 0.25
          window_seconds: 5
          spool: /var/spool/perfpatch
          check_one_in: 0
          together: on
          follow_configuration: on
        patches:
          error_stack: ab
          dms_helpers: {enabled: ab, by: call, share: 1}
          connection_checkout:
            enabled: ab
            window_seconds: 0.5
        """,
    )
    assert (found.spool, found.check_one_in, found.together) == ("/var/spool/perfpatch", 0, True)
    assert found.follow_configuration
    assert found.patches["error_stack"] == Toggle("ab", {"recheck_seconds": 1}, "process", 0.25, 5)
    assert found.patches["dms_helpers"] == Toggle("ab", {}, "call", 1, 5)
    assert found.patches["connection_checkout"][2:] == ("process", 0.25, 0.5, "replace", False)
    assert found.patches["proxy_loading"].mode == "on"
    assert _on(found) == NAMES
    assert _load(file, "enabled: off\npatches:\n  error_stack: ab\n").patches["error_stack"].mode == "off"


def test_a_patch_is_imported_to_be_asked_only_if_its_calls_are_to_be_compared(file: Path, child: Any) -> None:
    code = f"""
import sys
from dirac_perfpatch.toggles import read
read({str(file)!r})
print([name for name in sys.modules if name.startswith("dirac_perfpatch.patches.")])
"""
    for by, imported in (("time", []), ("call", ["dirac_perfpatch.patches.error_stack"])):
        file.write_text(f"patches:\n  dms_helpers: on\n  error_stack:\n    enabled: ab\n    by: {by}\n")
        assert child(code).stdout == f"{imported}\n"


def test_a_broken_patch_is_no_reason_to_refuse_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toggles, "load", lambda name: 1 / 0)
    found = _load(file, "comparison:\n  by: call\npatches:\n  error_stack: ab\n  connection_close: ab\n")
    assert found.patches["error_stack"].mode == "ab"


def test_what_is_compared_by_call_does_not_concern_patches_that_are_not_compared(file: Path) -> None:
    found = _load(file, "comparison:\n  by: call\npatches:\n  error_stack: ab\n  connection_close: off\n")
    assert found.patches["error_stack"].by == "call"
    text = "comparison:\n  by: call\npatches:\n  connection_close:\n    enabled: ab\n    by: time\n"
    assert _load(file, text).patches["connection_close"].by == "time"


@pytest.mark.parametrize("word", ["on", "On", "ON", "true", "True", "TRUE", "yes", "Yes"])
@pytest.mark.parametrize("form", ["patches:\n  dms_helpers: {}", "patches: {{dms_helpers: {{enabled: {}}}}}"])
def test_every_spelling_of_on_and_off(file: Path, word: str, form: str) -> None:
    opposite = {"on": "off", "true": "false", "yes": "no"}[word.lower()]
    off = opposite.upper() if word.isupper() else opposite.capitalize() if word[0].isupper() else opposite
    assert "dms_helpers" in _on(_load(file, form.format(word)))
    assert "dms_helpers" not in _on(_load(file, form.format(off)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text + "# ünïcödé ✓ 中文\n",
        lambda text: "%YAML 1.1\n---\n" + text + "...\n",
        lambda text: text.rstrip("\n"),
        lambda text: textwrap.indent(text, "    "),
        lambda text: text.replace("off", "off   # for now"),
        lambda text: text.replace("patches", '"patches"'),
    ],
    ids=["CRLF", "BOM", "BOM CRLF", "unicode", "directive", "no last line end", "indented", "comment", "quoted key"],
)
def test_what_an_editor_may_do_to_a_file(file: Path, change: object) -> None:
    text = "enabled: on\npatches:\n  error_stack: off\n  proxy_loading:\n    max_proxies: 7\n"
    found = _load(file, change(text))  # type: ignore[operator]
    assert _on(found) == [name for name in NAMES if name != "error_stack"]
    assert found.patches["proxy_loading"].options == {"max_proxies": 7}


CUT = [
    "enabled: on\npatches:\n  dms_helpers: off\n  error_stack: off\n",
    "patches:\n  error_stack: off\n  dms_helpers:\n    enabled: off\n",
    "# why\nenabled: off\n\npatches:\n  error_stack: ab\n  # more\n  proxy_loading:\n    max_proxies: 5\n",
    "\ufeffpatches: {error_stack: off, dms_helpers: ab}\r\nenabled: on\r\n",
    "comparison:\n  follow_configuration: on\n  share: 0.25\nkeep_on_update: off\npatches:\n  error_stack: ab\n",
]


@pytest.mark.simulation
@pytest.mark.parametrize("text", [*CUT, Path(toggles.SHIPPED).read_text().replace("lookup: on", "lookup: off")])
def test_wherever_a_file_is_cut_off_nothing_changes(file: Path, text: str) -> None:
    """In a running process. A new text that is cut within a line switches no patch that the cut removed."""
    before = read(str(file), text)
    new = text.replace("o", "\u03bf", 1) if "#" in text[: text.index("o")] else "# new\n" + text
    found, modes = set(), set()
    for length in range(0, len(text), 1 if len(text) < 500 else 23):
        for cut in (text[:length], new[:length].rstrip("\n")):
            file.write_bytes(cut.encode())
            if cut.strip() == "enabled: on":
                continue  # that is how to ask for the defaults
            try:
                now = read_again(str(file), before)
            except FileError as error:
                assert str(error).startswith(f"{file}:")
            else:
                modes.add(str([toggle.mode for toggle in now.patches.values()]))
                found |= {str(now.effect)} if text.startswith(cut) else set()
    assert found <= {str(before.effect)}
    assert modes <= {str([toggle.mode for toggle in before.patches.values()])}


# Which file is read


def test_the_three_places_in_their_order(tmp_path: Path) -> None:
    named, root = tmp_path / "named.yaml", tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    installed = root / "etc" / "patches.yaml"
    assert load(str(root), {}).source == toggles.SHIPPED
    installed.write_text("patches:\n  error_stack: off\n")
    assert (load(str(root), {}).source, "error_stack" in _on(load(str(root), {}))) == (str(installed), False)
    named.write_text("patches:\n  dms_helpers: off\n")
    found = load(str(root), {"DIRAC_PERFPATCH_CONFIG": str(named)})
    assert found.source == str(named)
    # The first that is found is the only one that is read.
    assert _on(found) == [name for name in NAMES if name != "dms_helpers"]
    assert load(str(root), {"DIRAC_PERFPATCH_CONFIG": ""}).source == str(installed)
    assert load(None, {}).source == toggles.SHIPPED


def test_a_relative_path_is_that_of_the_folder_in_which_the_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = toggles.find(None, {"DIRAC_PERFPATCH_CONFIG": "my.yaml"})
    monkeypatch.chdir("/")
    assert found == str(tmp_path / "my.yaml")


@pytest.mark.parametrize("word", ["off", "OFF", " Off ", "no", "false", "0"])
def test_the_variable_switches_everything_off(word: str) -> None:
    assert switched_off({"DIRAC_PERFPATCH": word}) == f"DIRAC_PERFPATCH={word.strip().lower()}"


@pytest.mark.parametrize("word", ["on", "ON", "yes", "true", "1", "", "  "])
def test_the_variable_on_leaves_the_choice_to_the_file(file: Path, word: str) -> None:
    file.write_text("patches:\n  error_stack: off\n")
    found = load(None, {"DIRAC_PERFPATCH": word, "DIRAC_PERFPATCH_CONFIG": str(file)})
    assert _on(found) == [name for name in NAMES if name != "error_stack"]


@pytest.mark.parametrize("word", ["offf", "disable", "2", "none"])
def test_a_nonsense_word_in_the_variable_is_reported(word: str) -> None:
    with pytest.raises(OperatorError) as caught:
        switched_off({"DIRAC_PERFPATCH": word})
    assert str(caught.value) == f"DIRAC_PERFPATCH={word}: must be on or off"


# A section of the host's configuration

PLACE = "/Operations/Defaults/PerfPatch"


def test_a_section_says_something_over_a_file(file: Path) -> None:
    file.write_text("enabled: off\npatches:\n  error_stack: off\n  proxy_loading:\n    max_proxies: 5\n")
    section = {"enabled": "True", "dms_helpers": "ab", "comparison": {"by": "process", "share": "0.1"}}
    below = override(read(str(file)), PLACE, section)
    above = override(below, "/Operations/vo/PerfPatch", {"connection_checkout": {"idle_ping_seconds": "7"}})
    assert _on(below) == [name for name in NAMES if name != "error_stack"]
    assert below.patches["proxy_loading"].options == {"max_proxies": 5}
    assert above.patches["dms_helpers"] == Toggle("ab", {}, "process", 0.1, 60)
    assert above.patches["connection_checkout"].options["idle_ping_seconds"] == 7
    assert above.source == f"{file}, {PLACE}, /Operations/vo/PerfPatch"


def test_what_a_patch_says_for_itself_wins_over_a_later_section(file: Path) -> None:
    file.write_text("patches:\n  error_stack:\n    by: process\n  dms_helpers: ab\n")
    found = override(read(str(file)), PLACE, {"error_stack": "ab", "comparison": {"by": "call", "share": "0.1"}})
    assert found.patches["error_stack"][2:] == ("process", 0.1, 60, "replace", False)
    assert found.patches["dms_helpers"].by == "call"


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ({"eror_stack": "off"}, "eror_stack: unknown key 'eror_stack'; did you mean error_stack?"),
        ({"keep_on_update": "off"}, "keep_on_update: unknown key 'keep_on_update'; known: enabled, in_tree, force, "
         "comparison, " + KNOWN),
        ({"error_stack": "maybe"}, "error_stack: error_stack must be on, off or ab, or a mapping with `enabled:`; "
         "it is 'maybe'"),
        ({"error_stack": ""}, "error_stack: error_stack must be on, off or ab, or a mapping with `enabled:`; "
         "it is empty"),
        ({"enabled": "of"}, "enabled: enabled must be on or off (or true or false); it is 'of'"),
        ({"enabled": {"a": "b"}}, "enabled: enabled must be on or off (or true or false); it is a mapping"),
        ({"error_stack": {"recheck_seconds": "x"}}, "error_stack/recheck_seconds: recheck_seconds of error_stack must "
         "be a number of seconds, such as 1; it is 'x'"),
        ({"error_stack": {"recheck": "1"}}, "error_stack/recheck: unknown option of error_stack 'recheck'; did you "
         "mean recheck_seconds?"),
        ({"comparison": {"by": "call"}, "connection_checkout": "ab"}, "connection_checkout: connection_checkout cannot "
         "be compared by call: its calls influence each other; write `by: time` or `by: process` for it"),
        ({"comparison": {"follow_configuration": "off"}}, "comparison/follow_configuration: unknown key of comparison "
         "'follow_configuration'; known: by, share, window_seconds, together, spool, check_one_in"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_reported_with_the_path_and_what_is_right(section: dict[str, object], error: str) -> None:
    with pytest.raises(FileError) as caught:
        override(read(toggles.SHIPPED), PLACE, section)
    assert str(caught.value) == f"{PLACE}/{error}"


# What is refused: wrong content


@pytest.mark.parametrize(
    ("content", "error"),
    [
        # Wrong shapes.
        ("- error_stack\n", "1: the file must be a mapping: `enabled: true` and `patches:` with a patch's name per line"
         "; it is a list"),
        ("\n\nerror_stack\n", "3: the file must be a mapping: `enabled: true` and `patches:` with a patch's name per "
         "line; it is 'error_stack'"),
        ("# off?\noff\n", "2: the file must be a mapping: `enabled: true` and `patches:` with a patch's name per line; "
         "it is False"),
        ("enabled: on\npatches:\n  - error_stack\n", "2: patches must be a mapping: a patch's name and on, off or ab "
         "per line; it is a list"),
        ("enabled: on\npatches: on\n", "2: patches must be a mapping: a patch's name and on, off or ab per line; "
         "it is True"),
        # Unknown names.
        ("patches:\n  dms_helpers: on\n  eror_stack: on\n", "3: unknown patch 'eror_stack'; did you mean error_stack?"),
        ("patches:\n  nonsense: on\n", f"2: unknown patch 'nonsense'; known: {KNOWN}"),
        ("patches: {proxyloading: off}\n", "1: unknown patch 'proxyloading'; did you mean proxy_loading?"),
        ("patches:\n  error_stack:\n    enabled: on\n    recheck_second: 1\n",
         "4: unknown option of error_stack 'recheck_second'; did you mean recheck_seconds?"),
        ("patches:\n  dms_helpers:\n    size: 1\n", "3: unknown option of dms_helpers 'size'; known: enabled, "
         + COMPARED + ", in_tree, force"),
        ("enabled: on\n\npatchs:\n  error_stack: on\n", "3: unknown key 'patchs'; did you mean patches?"),
        ("error_stack: off\n", f"1: unknown key 'error_stack'; known: {TOP}"),
        ("1: on\n", f"1: unknown key '1'; known: {TOP}"),
        ("on: on\n", f"1: unknown key 'on'; known: {TOP}"),
        ("? |\n  enabled\n: on\n", "1: unknown key 'enabled\\n'; did you mean enabled?"),
        # Wrong values.
        ("enabled: maybe\n", "1: enabled must be on or off (or true or false); it is 'maybe'"),
        ("enabled: 'on'\n", "1: enabled must be on or off (or true or false); it is 'on'"),
        ("enabled: 1\n", "1: enabled must be on or off (or true or false); it is 1"),
        ("enabled:\npatches:\n  error_stack: on\n", "1: enabled must be on or off (or true or false); it is empty"),
        ("enabled:\n", "1: enabled must be on or off (or true or false); it is empty"),
        ("enabled: [on]\n", "1: enabled must be on or off (or true or false); it is a list"),
        ("keep_on_update: 2026-01-01\n", "1: keep_on_update must be on or off (or true or false); "
         "it is datetime.date(2026, 1, 1)"),
        ("patches:\n  error_stack: y\n",
         "2: error_stack must be on, off or ab, or a mapping with `enabled:`; it is 'y'"),
        ("patches:\n  error_stack: 0\n", "2: error_stack must be on, off or ab, or a mapping with `enabled:`; it is 0"),
        ("patches:\n  error_stack:\n  dms_helpers: on\n",
         "2: error_stack must be on, off or ab, or a mapping with `enabled:`; it is empty"),
        ("patches:\n  error_stack:\n    - on\n",
         "2: error_stack must be on, off or ab, or a mapping with `enabled:`; it is a list"),
        ("patches:\n  error_stack:\n    enabled: 1\n",
         "3: enabled of error_stack must be on, off or ab; it is 1"),
        ("patches:\n  error_stack:\n    enabled: on\n    recheck_seconds: soon\n",
         "4: recheck_seconds of error_stack must be a number of seconds, such as 1; it is 'soon'"),
        ("patches:\n  error_stack:\n    recheck_seconds: on\n",
         "3: recheck_seconds of error_stack must be a number of seconds, such as 1; it is True"),
        ("patches:\n  error_stack:\n    recheck_seconds: -1\n",
         "3: recheck_seconds of error_stack must be from 0 to 1000000000, not -1"),
        ("patches:\n  error_stack:\n    recheck_seconds: .nan\n",
         "3: recheck_seconds of error_stack must be from 0 to 1000000000, not nan"),
        ("patches:\n  error_stack:\n    recheck_seconds: .inf\n",
         "3: recheck_seconds of error_stack must be from 0 to 1000000000, not inf"),
        ("patches:\n  error_stack:\n    recheck_seconds:\n      - 1\n",
         "3: recheck_seconds of error_stack must be a number of seconds, such as 1; it is a list"),
        ("patches:\n  proxy_loading:\n    max_proxies: 0\n",
         "3: max_proxies of proxy_loading must be from 1 to 1000000000, not 0"),
        ("patches:\n  proxy_loading:\n    max_proxies: 1.5\n",
         "3: max_proxies of proxy_loading must be a whole number, such as 1000; it is 1.5"),
        ("patches:\n  proxy_loading:\n    max_proxies: 1e3\n",
         "3: max_proxies of proxy_loading must be a whole number, such as 1000; it is '1e3'"),
        ("patches:\n  proxy_loading:\n    max_proxies:\n",
         "3: max_proxies of proxy_loading must be a whole number, such as 1000; it is empty"),
        # The comparison.
        ("patches:\n  error_stack: on\n  dms_helpers: a\n",
         "3: dms_helpers must be on, off or ab, or a mapping with `enabled:`; it is 'a'"),
        ("patches:\n  error_stack:\n    enabled: abc\n",
         "3: enabled of error_stack must be on, off or ab; it is 'abc'"),
        ("patches:\n  error_stack:\n    by: host\n",
         "3: by of error_stack must be time, process or call; it is 'host'"),
        ("patches:\n  error_stack:\n    share: 50\n", "3: share of error_stack must be from 0 to 1, not 50"),
        ("patches:\n  error_stack:\n    share: half\n",
         "3: share of error_stack must be a number, such as 0.5; it is 'half'"),
        ("patches:\n  error_stack:\n    shar: 1\n", "3: unknown option of error_stack 'shar'; did you mean share?"),
        ("patches:\n  dms_helpers: on\n  connection_checkout:\n    by: call\n",
         "3: connection_checkout cannot be compared by call: its calls influence each other; write `by: time` or "
         "`by: process` for it"),
        ("comparison:\n  by: call\npatches:\n  connection_close: ab\n",
         "4: connection_close cannot be compared by call: its calls influence each other; write `by: time` or "
         "`by: process` for it"),
        ("patches:\n  lazy_imports: ab\n",
         "2: lazy_imports cannot be compared: it acts once, when a module is imported; write on or off"),
        ("enabled: ab\n", "1: enabled must be on or off (or true or false); it is 'ab'"),
        ("comparison: on\n", "1: comparison must be a mapping: a name and a value per line; it is True"),
        ("comparison:\n  windows: 60\n", "2: unknown key of comparison 'windows'; did you mean window_seconds?"),
        ("comparison:\n  by: on\n", "2: by of comparison must be time, process or call; it is True"),
        ("comparison:\n  share: 1.5\n", "2: share of comparison must be from 0 to 1, not 1.5"),
        ("comparison:\n  share: on\n", "2: share of comparison must be a number, such as 0.5; it is True"),
        ("comparison:\n  window_seconds: 0\n",
         "2: window_seconds of comparison must be from 0.1 to 86400, not 0"),
        ("comparison:\n  window_seconds:\n",
         "2: window_seconds of comparison must be a number of seconds, such as 60; it is empty"),
        ("comparison:\n  spool: var/spool\n", "2: spool of comparison must be the full path of a folder, or \"\" "
         "for the default; it is 'var/spool'"),
        ("comparison:\n  spool: on\n", "2: spool of comparison must be the full path of a folder, or \"\" "
         "for the default; it is True"),
        ("comparison:\n  check_one_in: -1\n", "2: check_one_in of comparison must be from 0 to 1000000000, not -1"),
        ("comparison:\n  check_one_in: 0.5\n",
         "2: check_one_in of comparison must be a whole number, such as 10000; it is 0.5"),
        ("comparison:\n  follow_configuration: yes please\n",
         "2: follow_configuration of comparison must be on or off (or true or false); it is 'yes please'"),
        # The same key twice.
        ("enabled: on\nkeep_on_update: on\nenabled: off\n", "3: 'enabled' is repeated; it is in line 1 already"),
        ("patches:\n  error_stack: on\n  dms_helpers: on\n  error_stack: off\n",
         "4: 'error_stack' is repeated; it is in line 2 already"),
        ("patches:\n  error_stack: {recheck_seconds: 1,\n                recheck_seconds: 2}\n",
         "3: 'recheck_seconds' is repeated; it is in line 2 already"),
        ("patches:\n  error_stack: on\npatches:\n  dms_helpers: on\n",
         "3: 'patches' is repeated; it is in line 1 already"),
        ('"en\\nabled": 1\n"en\\nabled": 1\n', "2: 'en\\nabled' is repeated; it is in line 1 already"),
        # What YAML has and toggles need not.
        ("patches: &all\n  error_stack: on\n",
         "1: anchors and aliases (& and *) are not supported; write the value out"),
        ("enabled: on\npatches: *all\n", "2: anchors and aliases (& and *) are not supported; write the value out"),
        ("enabled: !mine on\n", "1: tags such as '!mine' are not supported; write a plain value"),
        ("enabled: !<%0aa> on\n", "1: tags such as '\\na' are not supported; write a plain value"),
        ("enabled: on\n---\nenabled: off\n", "2: a second document begins here; only one is allowed"),
        ("[a, b]: on\n", "1: a key must be a word"),
        ("? {a: b}\n: on\n", "1: a key must be a word"),
    ],
)  # fmt: skip
def test_wrong_content_is_reported_with_its_line_and_what_is_right(file: Path, content: str, error: str) -> None:
    assert _refused(file, content) == error


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("enabled: on\npatches: [\n", 3),
        ("enabled: on\npatches: {error_stack: on\n\n", 4),
        ("enabled: on\npatches:\n\terror_stack: on\n", 3),
        ("enabled: on\npatches:\n  error_stack: on\n dms_helpers: on\n", 4),
        ("enabled: on\n  keep_on_update: on\n", 2),
        ("enabled: on\npatches: }\n", 2),
        ("enabled: 'on\n", 2),
        ("enabled: on: off\n", 1),
        ("enabled: on\npatches:\n  error_stack on\n  dms_helpers: on\n", 4),
        ("enabled: on\n@: on\n", 2),
        ("enabled: on\n%: on\n", 2),
        ('enabled: on\nkeep_on_update: "\\q"\n', 2),
        ('enabled: on\nkeep_on_update: "\\UFFFFFFFF"\n', 2),
        ('enabled: on\nkeep_on_update: "\\U00110000"\n', 2),
        ("\n%YAML 1.111111111111111111111111111111111111111\n%YAML 2\n", 3),
        ("enabled: on\r\npatches: [\r\n", 3),
        ("enabled: on\npatches:\n  error_stack: =\n", 3),
        ("enabled: on\nkeep_on_update: 2026-13-45\n", 2),
        ("enabled: 0x_\n", 1),
        ("# \x00\n", 1),
        ("enabled: on\n# \x07\n", 2),
        ("enabled: on\n\x1b[31m: on\n", 2),
        ("enabled: on\n# \ufffe\n", 2),
    ],
)
def test_what_is_not_yaml_is_reported_with_its_line(file: Path, content: str, line: int) -> None:
    error = _refused(file, content)
    assert error.startswith(f"{line}: ")
    assert "is not YAML: " in error or "is not a value: " in error


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"enabled: on\n# caf\xe9\n", "2: byte 0xe9 is not UTF-8; save it as UTF-8 text"),
        (b"\n\n\nenabled: \xff\n", "4: byte 0xff is not UTF-8; save it as UTF-8 text"),
        ("enabled: on\n".encode("utf-16"), "1: byte 0xff is not UTF-8; save it as UTF-8 text"),
        (b"\x7fELF\x02\x01\x01\x00\x90", "1: byte 0x90 is not UTF-8; save it as UTF-8 text"),
        (b"enabled: on\n\x00\x00", "2: is not YAML: U+0000 is not allowed in it"),
    ],
)
def test_rubbish_bytes_are_told_with_their_line(file: Path, content: bytes, error: str) -> None:
    assert _refused(file, content) == error


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(30)), 1, "anchors and aliases"),
        ("[" * 9, 1, "nested more than 8 levels deep"),
        ("[" * 60_000, 1, "nested more than 8 levels deep"),
        ("{" * 60_000, 1, "nested more than 8 levels deep"),
        ("- " * 30_000, 1, "nested more than 8 levels deep"),
        ("? " * 30_000, 1, "nested more than 8 levels deep"),
        ("".join(" " * n + "a:\n" for n in range(9)) + " " * 9 + "a: on\n", 9, "nested more than 8 levels deep"),
        ("".join(" " * n + "a:\n" for n in range(300)), 9, "nested more than 8 levels deep"),
        ("enabled: " + "9" * 60_000, 1, "has 60000 characters; a name or a value may have 200"),
        ("\nenabled: 0x" + "f" * 60_000, 2, "has 60002 characters; a name or a value may have 200"),
        ("enabled: 1" + ":00" * 300 + ":00.5", 1, "has 906 characters; a name or a value may have 200"),
        ("patches:\n  " + "x" * 900 + ": on\n", 2, "has 900 characters; a name or a value may have 200"),
        ("patches:\n  " + "x" * 5000 + ": on\n", 2, "has 5000 characters; a name or a value may have 200"),
        ("patches:\n  ? " + "x" * 5000 + "\n  : on\n", 2, "has 5000 characters; a name or a value may have 200"),
        ("enabled: !" + "x" * 5000 + "!y on\n", 1, "is not YAML: "),
        ("enabled: !<" + "x" * 5000 + "> on\n", 1, "are not supported; write a plain value"),
    ],
)
def test_bombs_do_not_go_off(file: Path, content: str, line: int, words: str) -> None:
    error = _refused(file, content)
    assert error.startswith(f"{line}: ")
    assert words in error


@pytest.mark.parametrize("size", [64 * 1024 + 1, 40_000_000])
def test_a_huge_file_is_not_read(file: Path, size: int) -> None:
    with file.open("wb") as huge:
        huge.truncate(size)
    assert _refused(file) == "is larger than 64 KiB; toggles take a page of text"


def test_a_file_of_the_largest_size_is_read(file: Path) -> None:
    text = "patches:\n  error_stack: off\n# "
    assert "error_stack" not in _on(_load(file, text + "x" * (64 * 1024 - len(text))))


@pytest.mark.parametrize(
    "content",
    [
        "enabled: !!python/object/apply:os.mkdir [{}]\n",
        "!!python/object/apply:os.mkdir [{}]\n",
        "? !!python/object/apply:os.mkdir [{}]\n: on\n",
        "enabled: on\n...\n--- !!python/object/apply:os.mkdir [{}]\n",
        'enabled: !!python/object/apply:subprocess.call [["mkdir", "{}"]]\n',
        '%TAG ! tag:yaml.org,2002:python/object/apply:\n---\nenabled: !os.mkdir ["{}"]\n',
    ],
)
def test_tags_build_no_objects(file: Path, tmp_path: Path, content: str) -> None:
    proof = tmp_path / "proof"
    error = _refused(file, content.format(proof))
    assert "tag" in error or "second document" in error
    assert not proof.exists()


# What is refused: wrong files


def test_a_missing_file_that_the_variable_names_is_reported(file: Path) -> None:
    assert _refused(file) == "cannot be read: No such file or directory"


def test_a_folder_is_reported(file: Path) -> None:
    file.mkdir()
    assert _refused(file) == "is a folder; name the file in it"


@pytest.mark.parametrize("target", ["nowhere", "my.yaml"])
def test_a_dangling_link_is_reported(tmp_path: Path, target: str) -> None:
    """Also in the installation, where a missing file is no error."""
    link = tmp_path / "etc" / "patches.yaml"
    link.parent.mkdir()
    link.symlink_to(target if target == "nowhere" else link)
    with pytest.raises(FileError, match=r"patches\.yaml: cannot be read: (No such file|Too many levels)"):
        load(str(tmp_path), {})


def test_a_root_without_etc_has_the_defaults(tmp_path: Path) -> None:
    assert load(str(tmp_path / "nowhere"), {}).source == toggles.SHIPPED
    (tmp_path / "etc").touch()
    assert load(str(tmp_path), {}).source == toggles.SHIPPED


_AS_NOBODY = """
import os
from dirac_perfpatch.toggles import FileError, find, read
import yaml
read(find(None))
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    print(read(find({root!r})).source)
except FileError as error:
    print(error)
"""


@pytest.mark.parametrize("locked", ["etc/patches.yaml", "etc"])
def test_a_file_without_permission_is_reported(tmp_path: Path, child: object, locked: str) -> None:
    """Also if its folder may not be searched: a file there may say off."""
    etc = tmp_path / "root" / "etc"
    etc.mkdir(parents=True)
    (etc / "patches.yaml").write_text("enabled: off\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("pytest", "test")):
            folder.chmod(0o755)
    (tmp_path / "root" / locked).chmod(0)
    answer = child(_AS_NOBODY.format(root=str(tmp_path / "root")))  # type: ignore[operator]
    (tmp_path / "root" / locked).chmod(0o755)
    assert answer.stderr == ""
    assert answer.stdout == (
        f"{etc / 'patches.yaml'}: cannot be read: Permission denied; make it readable for the user that runs DIRAC\n"
    )


@pytest.mark.parametrize("kind", ["fifo", "device", "terminal", "socket"])
def test_a_special_file_does_not_block(file: Path, child: object, kind: str) -> None:
    """In a child, which is killed at its timeout if it blocks."""
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(file))
    else:
        file.symlink_to("/dev/zero" if kind == "device" else "/dev/ptmx")
    answer = child(  # type: ignore[operator]
        "from dirac_perfpatch.toggles import FileError, find, read\n"
        "try:\n    read(find(None))\nexcept FileError as error:\n    print(error)",
        DIRAC_PERFPATCH_CONFIG=str(file),
    )
    assert (answer.stdout, answer.stderr) == (f"{file}: is not a regular file\n", "")


def test_a_file_that_becomes_a_pipe_between_two_looks_does_not_block(file: Path, child: object) -> None:
    """Nor does a regular file that makes its reader wait, such as /proc/kmsg, which only root may open."""
    os.mkfifo(file)
    code = (
        "import stat, os\n"
        "stat.S_ISREG = lambda mode: True\n"
        "writer = os.open(os.environ['FIFO'], os.O_RDWR)\n"
        "from dirac_perfpatch.yamlfile import content\n"
        "print(repr(content(os.environ['FIFO'])))"
    )
    answer = child(code, FIFO=str(file))  # type: ignore[operator]
    assert (answer.stdout, answer.stderr) == ("''\n", "")


def test_without_pyyaml_a_file_that_needs_it_is_reported(file: Path, tmp_path: Path, child: object) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('broken on purpose')")
    file.write_text("patches: {error_stack: off}\n")
    code = (
        "from dirac_perfpatch.toggles import FileError, find, read\n"
        "try:\n    print(read(find(None)).patches['error_stack'].on)\n"
        "except FileError as error:\n    print(error)"
    )
    answer = child(code, tmp_path, DIRAC_PERFPATCH_CONFIG=str(file))  # type: ignore[operator]
    assert answer.stdout == f"{file}: cannot be read without PyYAML (ImportError: broken on purpose)\n"
    for mark in ("", "\ufeff"):
        file.write_text(mark + "patches:\n  error_stack: off\n", encoding="utf-8")
        answer = child(code, tmp_path, DIRAC_PERFPATCH_CONFIG=str(file))  # type: ignore[operator]
        assert answer.stdout == "False\n"


# What a process does then


_START = """
import json, sys
sys.path_hooks  # nothing of a host is here
from dirac_perfpatch import extension_metadata, status
answers = [extension_metadata() for _ in range(3)]
import dirac_perfpatch.imports as imports
print(json.dumps([answers, [(e["state"], e["reason"]) for e in status()], len(imports._waiting)]))
"""


@pytest.mark.parametrize("content", ["patches: [\n", "enabled: 1\n", "patches:\n  nonsense: on\n"])
def test_a_bad_file_is_reported_in_one_line_and_nothing_else_happens(file: Path, child: object, content: str) -> None:
    import json

    error = _refused(file, content)
    answer = child(_START, DIRAC_PERFPATCH_CONFIG=str(file))  # type: ignore[operator]
    text = f"{file}:{'' if error[0].isdigit() else ' '}{error}"
    assert answer.stderr == f"dirac-perfpatch: {text}; DIRAC runs unpatched\n"
    metadata, states, waiting = json.loads(answer.stdout)
    assert metadata == [{"priority": -8524}] * 3
    assert states == [["off", text]] * len(NAMES)
    assert waiting == 0


def test_switched_off_by_the_variable_a_bad_file_is_not_mentioned(file: Path, child: object) -> None:
    import json

    file.write_text("patches: [\n")
    answer = child(_START, DIRAC_PERFPATCH_CONFIG=str(file), DIRAC_PERFPATCH="off")  # type: ignore[operator]
    assert answer.stderr == ""
    _, states, waiting = json.loads(answer.stdout)
    assert states == [["off", "switched off by DIRAC_PERFPATCH=off"]] * len(NAMES)
    assert waiting == 0
