"""diraccfg's trees are what its own methods make of them: content, order, comments and errors, for every text."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import DIRAC
import pytest
from conftest import forced, stock
from diraccfg import CFG
from diraccfg import cfg as module
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading
from dirac_perfpatch.patches._cfg import difference
from dirac_perfpatch.patches.configuration_parsing import made_up

METHODS = ("loadFromBuffer", "serialize", "clone", "mergeWith")
# Pieces of the format, with what may go wrong in it; the end of a line and whole lines are frequent.
PIECES = st.sampled_from(
    [*"abAB{}{}=+/# \t\r,", "\n", "\n", "\n", "+=", "c d", "e/f", "\x0b", "\u2028", "\xa0", "é", "//", "\\\n", "'"]
    + ["a = b\n", "a += c\n", "b = 1, 2,,3\n", "s\n{\n", "t\n{\n", "}\n", "s {\n", "s { a = b }\n", "# x # y\n", "#\n"]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=40))
TREES = st.deferred(lambda: st.dictionaries(st.sampled_from("abcde"), st.one_of(VALUES, TREES), max_size=4))
VALUES = st.sampled_from(["", "1", "1,2", " , ", "x, y ,z", "=", "{}"])
COMMENTS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["", "one", "two\n lines\n", "#"])), max_size=4)


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or its error."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


def same(ours: Any, its: Any) -> bool:
    return difference(ours, its) is None if isinstance(ours, CFG) else bool(ours == its)


def original(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = vars(CFG)[name].__wrapped__
    return function


def parsed(text: Any) -> CFG:
    """The tree, or what is left of one after an error, which are those of diraccfg's own method."""
    ours, its = CFG().loadFromDict({"old": "1"}), CFG().loadFromDict({"old": "1"})
    answers = outcome(ours.loadFromBuffer, text), outcome(original("loadFromBuffer"), its, text)
    assert answers[0] is ours or answers[0] == answers[1]
    assert difference(ours, its) is None
    return ours


def check_tree(tree: CFG) -> None:
    for indent in ("", "\t"):
        assert tree.serialize(indent) == original("serialize")(tree, indent)
    assert str(tree) == repr(tree) == original("serialize")(tree)
    assert difference(tree.clone(), original("clone")(tree)) is None


def failures() -> int:
    return loading.plugin.switches["configuration_parsing"].guard.failures


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, other=TEXTS)
def test_the_same_trees_and_errors(text: str, other: str) -> None:
    one, two = parsed(text), parsed(other)
    for tree in (one, two):
        check_tree(tree)
    ours, its = outcome(one.mergeWith, two), outcome(original("mergeWith"), one, two)
    assert same(ours, its)
    assert failures() == 0


@settings(max_examples=80, deadline=None)
@given(one=TREES, two=TREES, comments=COMMENTS, others=COMMENTS)
def test_the_same_merged_trees(one: Any, two: Any, comments: Any, others: Any) -> None:
    """An option here and a section there are an error of diraccfg's."""
    trees = CFG().loadFromDict(one), CFG().loadFromDict(two)
    for tree, said in zip(trees, (comments, others)):
        for name, comment in said:
            tree.setComment(name, comment)
    ours = outcome(trees[0].mergeWith, trees[1])
    assert same(ours, outcome(original("mergeWith"), *trees))
    check_tree(ours if isinstance(ours, CFG) else trees[0])
    assert failures() == 0


@pytest.mark.parametrize(
    "text",
    [
        "a{b=c}",
        "a\n{\n  b = { c }\n  x = }\n}\n",
        "a { b { } c = d\n}\n",
        "two\nlines\n{\n}\n",
        "# of the append\na = 1\n# lost\na += 2\n# kept\nb = 3",
        "#a\n\n# b ## c\n{\n",
        "#a\nname\n# b\n{\n}\n",
        "a = 1\na\n{\n}\n",
        "a\n{\n}\na = 1\n",
        "a\n{\n}\na += 1\n",
        "a\n{\n}\na\n{\n}\n",
        "a/b = 1\n",
        "a\n{\n}\na/b = 1\na/b += 2\na/c\n{\n x = 1\n}\na/c/d = /\n",
        "/\n{\nx = 1\n}\n",
        "a/b\n{\n}\n",
        " = 1\n",
        "+= 1\n",
        "a += 1\n",
        "a ++= 1\n",
        "a + = 1\na +=+= 2\n",
        "a == 1 = 2 += 3\na = b \\\n c\n",
        "a = 1\r\nb\r\n{\r\n}\r\n",
        "\ufeffa = 1\n",
        "x } y\n",
        "a = // no comment\n// b = c\n",
        "a = 1\nb = 2\na = 3\n",
        "a = 1\nb = 2\na {\n",
        "",
        "\n \n",
        "#",
        "a",
    ],
)
def test_what_is_odd_is_as_odd(text: str) -> None:
    check_tree(parsed(text))


def test_what_is_not_plain_text_gets_the_answer_of_diraccfg() -> None:
    class Text(str):
        def split(self, *args: Any, **kwargs: Any) -> Any:
            return ["mine = 1"]

    for wrong in (Text("a = 1"), b"a = 1", None, 5, ["a = 1"]):
        parsed(wrong)
    tree = CFG().loadFromDict({"a": "1", "s": {"b": "2"}})
    for name, value in (("indent", 5), ("comment", None), ("comment", [1]), ("entry", 7), ("entry", Text("x"))):
        odd = tree.clone()
        if name == "comment":
            odd["s"].setComment("b", value)
        elif name == "entry":
            odd.addKey("odd", value, "")
        indent = {"tabLevelString": value} if name == "indent" else {}
        for method, args, kwargs in (("serialize", (), indent), ("clone", (), {}), ("mergeWith", (tree,), {})):
            its = outcome(original(method), odd, *args, **kwargs)
            assert same(outcome(getattr(odd, method), *args, **kwargs), its)
        assert same(outcome(tree.mergeWith, odd), outcome(original("mergeWith"), tree, odd))
    for other in (None, "a", {"a": "1"}):
        assert outcome(tree.mergeWith, other) == outcome(original("mergeWith"), tree, other)
    assert failures() == 0


def test_an_entry_may_be_listed_twice_or_missing() -> None:
    tree = CFG().loadFromDict({"a": "1", "b": "2", "s": {"x": "1"}, "t": {}})
    tree.copyKey("a", "b")
    check_tree(tree)
    tree.copyKey("s", "t")
    check_tree(tree)
    assert same(outcome(lambda: tree.mergeWith(CFG())), outcome(original("mergeWith"), tree, CFG()))
    assert same(outcome(lambda: CFG().mergeWith(tree)), outcome(original("mergeWith"), CFG(), tree))
    tree.listAll().append("nothing")
    for method in ("serialize", "clone"):
        assert outcome(getattr(tree, method)) == outcome(original(method), tree) == (KeyError, "'nothing'")


def test_what_is_shared_and_what_is_copied() -> None:
    """As in diraccfg: what only the second tree has is shared with the result."""
    one, two = CFG().loadFromDict({"one": {"a": {}}, "both": {}}), CFG().loadFromDict({"two": {}, "both": {"c": {}}})
    merged = one.mergeWith(two)
    assert merged["two"] is two["two"]
    assert merged["both"]["c"] is two["both"]["c"]
    assert merged["both"] is not two["both"]
    assert merged["one"] is not one["one"]
    assert merged["one"]["a"] is not one["one"]["a"]
    copy = one.clone()
    copy["one"].setOption("new", "1")
    copy["both"].setComment("x", "y")
    assert not one.isOption("one/new")


def test_real_configurations() -> None:
    """All that come with DIRAC."""
    files = [path for path in Path(DIRAC.__file__).parent.rglob("*.cfg") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        check_tree(parsed(path.read_text(errors="replace")))
    check_tree(parsed(made_up(300)))


def test_a_tree_is_an_ordinary_one() -> None:
    tree = parsed(made_up(3))
    assert all(type(section) is CFG for section in (tree, tree["Sites"], tree["Sites"]["LCG.Site0.org"]))
    assert difference(pickle.loads(pickle.dumps(tree)), tree) is None
    assert list(vars(tree)) == list(vars(CFG()))
    tree["Sites"].createNewSection("new").setOption("a", "1")
    assert tree.getOption("Sites/new/a", "") == "1"
    assert tree == original("loadFromBuffer")(CFG(), str(tree))


def test_subclasses_keep_their_own_methods() -> None:
    class Mine(CFG):  # type: ignore[misc]
        def setOption(self, name: str, value: str, comment: str = "") -> Any:
            return super().setOption(name.upper(), value, comment)

    assert Mine().loadFromBuffer("a = 1\n").getAsDict() == {"A": "1"}
    for method in ("serialize", "clone"):
        mine = Mine().loadFromBuffer("a = 1\ns\n{\n}\n")
        assert same(getattr(mine, method)(), original(method)(mine))
    assert same(mine.mergeWith(CFG()), original("mergeWith")(mine, CFG()))


def test_deeper_than_any_stack() -> None:
    """Neither fails where diraccfg does not."""
    for depth in (50, 300):
        check_tree(parsed("".join(f"s{level}\n{{\n" for level in range(depth)) + "a = 1\n" + "}\n" * depth))
    text = "s\n{\n" * 5000 + "}\n" * 5000
    tree = CFG().loadFromBuffer(text)
    for method in METHODS[1:3]:
        assert outcome(getattr(tree, method))[0] is RecursionError
    assert failures() == 0


def test_readers_see_the_tree_before_or_after() -> None:
    """Those that use diraccfg's lock, which it may have been built without, and those that do not."""
    texts = ["a = 1\ns\n{\n" + f"  x = {number}\n" * 200 + "}\n" for number in range(2)]
    tree, stop, wrong = CFG().loadFromBuffer(texts[0]), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen = outcome(tree.listAll), outcome(lambda: tree.getOption("s/x", ""))
            if seen[0] not in (["a", "s"], []) or seen[1] not in ("0", "1"):
                wrong.append(seen)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for number in range(300):
            tree.loadFromBuffer(texts[number % 2])
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert wrong == []


def test_diraccfgs_lock_is_held_as_by_diraccfg() -> None:
    """So a tree does not change while another thread is in the middle of it."""
    tree = CFG().loadFromBuffer("a = 1\n")
    done = threading.Event()
    with module.gCFGSynchro.lock:
        threads = [
            threading.Thread(target=lambda call=call: (call(), done.set()), daemon=True)
            for call in (lambda: tree.loadFromBuffer("b = 1"), tree.clone, tree.serialize, lambda: tree.mergeWith(tree))
        ]
        for thread in threads:
            thread.start()
        assert not done.wait(0.2)
    for thread in threads:
        thread.join(10)
    assert done.is_set()


def test_another_format_is_left_to_diraccfg(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a later release: what it makes of a probe is not what we would."""
    switch = loading.plugin.switches["configuration_parsing"]
    with stock("configuration_parsing"), forced("configuration_parsing"), monkeypatch.context() as patch:
        own = CFG.loadFromBuffer

        def loadFromBuffer(self: Any, data: str) -> Any:
            return own(self, data.replace("//", "#"))

        changed = module.gCFGSynchro(lambda self, data: own(self, data.upper()))
        patch.setattr(CFG, "loadFromBuffer", changed)
        switch.put_on()
        assert CFG.loadFromBuffer is changed
        assert CFG().loadFromBuffer("a = b").getAsDict() == {"A": "B"}
        states = {target["attribute"]: target["state"] for target in switch.status()["targets"]}
        assert states == {f"CFG.{name}": "failed" if name == "loadFromBuffer" else "applied" for name in METHODS}
        switch.take_off()


def test_taken_off_diraccfgs_own_methods_are_back() -> None:
    patched = [vars(CFG)[name] for name in METHODS]
    with stock("configuration_parsing"):
        own = [vars(CFG)[name] for name in METHODS]
        assert all(function.__code__.co_filename == module.__file__ for function in own)
        assert own == [function.__wrapped__ for function in patched]
        assert CFG().loadFromBuffer("a = 1").getAsDict() == {"a": "1"}
