"""CFG.loadFromBuffer, serialize, clone and mergeWith: a configuration is read and written line by line.

diraccfg parses a configuration character by character, 230 ms for 1.3 MB. It writes it in 540 ms, because for each
entry it lists all options and sections of the section again, and copies or merges it in 80 to 110 ms. Each command pays
that, and so does each process whenever somebody changes the configuration, while all who read an option wait. We go
through the lines, and through the trees, once: 33, 13, 15 and 17 ms.

The same tree: the form of a line decides what diraccfg makes of it, and a line is cut at its first "=", "{" or "}"
instead of being looked at character by character. What it makes of odd names, such as paths, its own methods do here,
too. The names, the comments and the entries of each section are in the same order, which callers see
(``listSections(ordered=False)``). As in diraccfg, a section that only the second of two merged trees has is shared
with the result, and one that only the first has is copied.

The same errors: what diraccfg refuses, a text or a tree that holds anything but plain texts and ``CFG`` objects, it
gets itself, before anything has changed; so what a failed parse leaves behind is the same, too. When the patch is put
on, both treat a text that has everything of the format in it; if they do not agree, as another release of diraccfg may
not, diraccfg keeps its own method. Seen to differ: diraccfg ends in a RecursionError when it writes, copies or merges
sections that are some 480 levels deep; we go twice as deep.

The lock is diraccfg's own, held as long as diraccfg holds it, and none if DIRAC_FEWER_CFG_LOCKS says so. While a text
is parsed, the object has its earlier content, where diraccfg shows parts of the new one to readers without the lock.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from dirac_perfpatch.patches._cfg import NotPlain, Trees, difference
from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, UnknownHost, same_answer

_MODULE = "diraccfg.cfg"
_LOAD, _SERIALIZE, _CLONE, _MERGE = (f"CFG.{name}" for name in ("loadFromBuffer", "serialize", "clone", "mergeWith"))
# Every form of a line, and what diraccfg makes of odd ones.
_PROBE = """
  a = 1, 2,,3
# first # comment
  #second = {
one
{
  b= x = y  #no comment
  b += z
  c d =
  c d +=,= {
  two {
    e=f=
    three{ g = h }
    g }
  } f } four {
  }
a += 4 += 5
a = { 6
one/k = l
one/k += m
#last
fi
ve
{
}
"""
# What to write, copy and merge. Short, because each command waits for it at its start.
_TREE = "# one\n#two\na = 1, 2,,3\nb =\ns\n{\n  c = 1\n#three\n  t\n  {\n    d = 1\n  }\n}\nu\n{\n}\ne = 1\n"
_OVER = "# four\ns\n{\n  c = 2\n  t\n  {\n  }\n  v\n  {\n  }\n}\nw\n{\n}\na = 2\nf = 3\n"


def _plain(function: Any) -> Any:
    """The function below our wrapper and diraccfg's lock."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return function.__closure__[names.index("funcToCall")].cell_contents if "funcToCall" in names else function


def _look(path: str, *names: str) -> Callable[[Fitting], None]:
    def look(fitting: Fitting) -> None:
        for needed in ("gCFGSynchro", "CFG.setOption", "CFG.createNewSection", "CFG.appendToOption"):
            fitting.resolve(needed)
        code = getattr(_plain(fitting.resolve(path)), "__code__", None)
        if not set(getattr(code, "co_names", ())).issuperset(names):
            raise UnknownHost(f"{path} is not the function that this patch knows")

    return look


def _prove(path: str, same: bool) -> None:
    if not same:
        raise UnknownHost(f"{path} does not treat a configuration as this patch does")


def _put_on_load(fitting: Fitting) -> None:
    guard, cfg, stock = fitting.guard, fitting.resolve("CFG"), fitting.unbound(_LOAD)
    trees = Trees(cfg)
    _prove(_LOAD, difference(trees.parse(_PROBE), stock(cfg(), _PROBE)) is None)

    @fitting.resolve("gCFGSynchro")
    def load(tree: Any, text: Any) -> None:
        trees.put(tree, trees.parse(text))

    def loadFromBuffer(self: Any, data: Any) -> Any:
        if guard.off or type(self) is not cfg:
            return stock(self, data)
        try:
            load(self, data)
        except NotPlain:
            return stock(self, data)
        except Exception as error:
            guard.failed(error)
            return stock(self, data)
        return self

    def check(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
        return difference(answer, original(cfg(), *args[1:], **kwargs)) or ""

    fitting.stand_in(_LOAD, loadFromBuffer, check)


def _put_on_serialize(fitting: Fitting) -> None:
    trees = Trees(fitting.resolve("CFG"))
    tree = trees.parse(_TREE)
    write = _guarded(fitting, _SERIALIZE, trees.text)
    _prove(_SERIALIZE, trees.text(tree, " ") == fitting.unbound(_SERIALIZE)(tree, " "))

    def serialize(self: Any, tabLevelString: Any = "") -> Any:
        return write(self, tabLevelString)

    fitting.stand_in(_SERIALIZE, serialize, same_answer)


def _put_on_clone(fitting: Fitting) -> None:
    trees = Trees(fitting.resolve("CFG"))
    tree = trees.parse(_TREE)
    copy = _guarded(fitting, _CLONE, trees.clone)
    _prove(_CLONE, difference(trees.clone(tree), fitting.unbound(_CLONE)(tree)) is None)

    def clone(self: Any) -> Any:
        return copy(self)

    fitting.stand_in(_CLONE, clone, _same_tree)


def _put_on_merge(fitting: Fitting) -> None:
    trees = Trees(fitting.resolve("CFG"))
    one, other = trees.parse(_TREE), trees.parse(_OVER)
    merge = _guarded(fitting, _MERGE, trees.merge)
    _prove(_MERGE, difference(trees.merge(one, other), fitting.unbound(_MERGE)(one, other)) is None)

    def mergeWith(self: Any, cfgToMergeWith: Any) -> Any:
        return merge(self, cfgToMergeWith)

    fitting.stand_in(_MERGE, mergeWith, _same_tree)


def _guarded(fitting: Fitting, path: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    """A function that reads trees, under diraccfg's lock; the host's method answers if it raises."""
    guard, stock, ours = fitting.guard, fitting.unbound(path), fitting.resolve("gCFGSynchro")(ours)

    def answer(*arguments: Any) -> Any:
        if guard.off:
            return stock(*arguments)
        try:
            return ours(*arguments)
        # Of a tree that has a name without an entry or a comment, or something other than texts in it; or of one that
        # changes meanwhile, if diraccfg uses no lock.
        except (NotPlain, KeyError, AttributeError, TypeError, RuntimeError):
            return stock(*arguments)
        except Exception as error:
            guard.failed(error)
            return stock(*arguments)

    return answer


def _same_tree(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    return difference(answer, original(*args, **kwargs)) or ""


def made_up(kilobytes: int) -> str:
    """A configuration of about that size: sites, storage elements and users, as in those of large communities."""
    lines: list[str] = []
    common = ("Enabled = Yes", "Comment = As everywhere else", "Tags = one", "Tags += two", "Contact = /CN=nobody")
    for section, names, options in (
        ("Sites", "LCG.Site{}.org", ("Name = SITE-{}", "Coordinates = 6.04:46.23", "Mail = admin@site{}.example.org")),
        ("StorageElements", "Site{}-disk", ("BackendType = Eos", "ReadAccess = Active", "Host = eos{}.example.org")),
        ("Users", "user{}", ("DN = /DC=org/DC=example/OU=Users/CN=user{}/CN=A User {}", "Email = user{}@example.org")),
        ("Groups", "group{}", ("Users = user{}", "Users += user", "Users += another", "Properties = NormalUser")),
    ):
        lines.append(f"{section}\n{{\n")
        for number in range(max(3, round(kilobytes * 1.15))):
            body = "".join(f"    {option}\n" for option in (*options, *common))
            lines.append(f"  {names}\n  {{\n{body}  }}\n".replace("{}", str(number)))
        lines.append("}\n")
    return "".join(lines)


def _ask(database: Database | None) -> Any:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from diraccfg import CFG

    answers: list[Any] = []
    for text in (_PROBE, made_up(2), str(gConfigurationData.mergedCFG)):
        tree = CFG().loadFromBuffer(text)
        copy = tree.clone()
        merged = CFG().loadFromBuffer(_PROBE).mergeWith(tree)
        answers += [_content(tree), _content(copy), _content(merged), tree.serialize("  "), str(merged)]
    for wrong in ("a\n{\n", "}", "= b", "a += b", "a\n{\n}\na\n{\n}"):
        try:
            CFG().loadFromBuffer(wrong)
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    return answers


def _content(tree: Any) -> list[Any]:
    """Everything in a tree, in its order."""
    names = [tree.listAll(), tree.listOptions(False), tree.listSections(False)]
    entries = [(tree.getComment(name), tree[name]) for name in tree]
    return [*names, *((comment, one if isinstance(one, str) else _content(one)) for comment, one in entries)]


def _load_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from diraccfg import CFG

    text = made_up(size)
    yield lambda number: timed(lambda: CFG().loadFromBuffer(text), number)


def _serialize_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from diraccfg import CFG

    tree = CFG().loadFromBuffer(made_up(size))
    yield lambda number: timed(tree.serialize, number)


def _refresh_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """What a process does with a new configuration that it has received."""
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import ConfigurationData

    received = zlib.compress(made_up(size).encode(), 9)
    data = ConfigurationData(False)
    yield lambda number: timed(lambda: data.loadRemoteCFGFromCompressedMem(received), number)


_NAMES = ("_CFG__orderedList", "_CFG__commentDict", "_CFG__dataDict")
PATCH = Patch(
    name="configuration_parsing",
    targets=(
        Target(
            (_MODULE,),
            _LOAD,
            _look(_LOAD, "reset", "createNewSection", "setOption", "appendToOption", "strip", "replace", "pop"),
            _put_on_load,
        ),
        Target((_MODULE,), _SERIALIZE, _look(_SERIALIZE, *_NAMES, "fromChar", "serialize"), _put_on_serialize),
        Target((_MODULE,), _CLONE, _look(_CLONE, *_NAMES, "deepcopy", "clone"), _put_on_clone),
        Target(
            (_MODULE,),
            _MERGE,
            _look(_MERGE, "setOption", "getComment", "createNewSection", "mergeWith", "clone"),
            _put_on_merge,
        ),
    ),
    ask=_ask,
    cases=(
        Case("CFG.loadFromBuffer", _load_case, (100,), (10, 100, 1000), "KB"),
        Case("CFG.serialize", _serialize_case, (100,), (1000,), "KB"),
        Case("a refreshed configuration", _refresh_case, (100,), (1000,), "KB"),
    ),
)
