"""A module is executed with its imports deferred only if nobody can tell, whatever its code is."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dirac_perfpatch import imports
from dirac_perfpatch.patches import lazy_imports
from dirac_perfpatch.patches.lazy_imports import _Entry
from dirac_perfpatch.patching import Guard

Write = Callable[[str, str], Path]

LIBRARY = "class Tool(Exception):\n    pass\ndef work():\n    return 'done'\nOTHER = 3\n"
PLAIN = "from heavy_lib import Tool, work\ndef use():\n    return work(), Tool().__class__.__name__\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    yield write
    for name in set(sys.modules) - before:
        if not name.startswith("dirac_perfpatch"):
            del sys.modules[name]
    lazy_imports._deferred.clear()
    lazy_imports._reasons.clear()


def imported(entry: _Entry) -> ModuleType:
    """Import a module as the host does while the patch is on."""
    prepare, guard = lazy_imports._prepare(entry), Guard("lazy_imports", lambda reason: None)
    imports.before_execution(entry.module, lambda spec: prepare(spec, guard))
    try:
        return importlib.import_module(entry.module)
    finally:
        imports.prepare_no_longer(entry.module)
        assert guard.failures == 0
        assert not [name for name in sys.modules if name.startswith("dirac-perfpatch:")]


def entry_of(statement: str = "from heavy_lib import Tool, work", needs: tuple[str, ...] = ()) -> _Entry:
    return _Entry("the_module", {"heavy_lib": ("Tool", "work")}, statement, needs)


def work_of() -> Any:
    return getattr(sys.modules.get("heavy_lib"), "work", None)


def test_the_first_call_imports_and_leaves_the_module_as_the_host_has_it(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write("the_module", PLAIN)
    module = imported(entry_of())
    assert "heavy_lib" not in sys.modules
    assert not {"Tool", "work"} & set(vars(module))
    assert {"Tool", "work"} <= set(dir(module))
    assert type(module.__loader__) is type(importlib.import_module("json").__loader__)
    assert module.use() == ("done", "Tool")
    del sys.modules["the_module"]
    stock = importlib.import_module("the_module")
    assert sorted(vars(module)) == sorted(vars(stock))
    assert module.use.__code__ == stock.use.__code__
    assert vars(module.use) == {}
    assert module.Tool is stock.Tool


@pytest.mark.parametrize(
    "code",
    [
        "from heavy_lib import Tool, work\n@work\ndef use(): pass\n".replace("@work", "@(lambda f, w=work: f)"),
        "from heavy_lib import Tool, work\ndef use(tool=Tool): return work\n",
        "from heavy_lib import Tool, work\nclass Mine(Tool): pass\ndef use(): return work\n",
        "from heavy_lib import Tool, work\ndef use(tool: Tool): return work\n",
        "from heavy_lib import Tool, work\nclass Mine:\n    tool = Tool()\n    def use(self): return work\n",
        "from heavy_lib import Tool, work\nTOOLS = [Tool() for _ in range(2)]\ndef use(): return work\n",
        "from heavy_lib import Tool, work\ntry:\n    {}['a']\nexcept (KeyError, Tool):\n    pass\n",
        "from heavy_lib import Tool, work\ndef use(): return work()\nANSWER = use()\n",
        "from heavy_lib import Tool, work\nTOOLS = {number: Tool for number in range(2)}\ndef use(): return work\n",
        "from heavy_lib import Tool, work\ndef use(): return work\nKEPT = [use()]\n",
        "from heavy_lib import Tool, work\nuse = [lambda: work()]\n",
        "from heavy_lib import Tool, work\ndef __getattr__(name): raise AttributeError\ndef use(): return work()\n",
        "from heavy_lib import Tool, work\nasync def use(): return work()\n",
        "from heavy_lib import Tool\nfrom heavy_lib import work as labour\ndef use(): return labour()\n",
        "import heavy_lib\nTool, work = heavy_lib.Tool, heavy_lib.work\n",
        "def use():\n    from heavy_lib import work\n    return work()\n",
        "",
    ],
)
def test_what_is_used_while_the_module_is_executed_is_imported_then(write: Write, code: str) -> None:
    write("heavy_lib", LIBRARY)
    write("the_module", code)
    module = imported(entry_of())
    assert "the_module" not in lazy_imports._deferred
    assert not [value for value in vars(module).values() if isinstance(value, lazy_imports._StandIn)]
    assert getattr(module, "KEPT", [work_of()]) == [work_of()]
    names = set(vars(module))
    del sys.modules["the_module"]
    assert names == set(vars(importlib.import_module("the_module")))
    if hasattr(module, "use") and callable(module.use):
        assert module.use.__code__.co_filename == module.__file__


def test_a_name_that_the_table_does_not_know_is_the_real_one(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write("the_module", "from heavy_lib import OTHER, Tool, work\nNEXT = OTHER + 1\ndef use(): return Tool, work\n")
    module = imported(entry_of())
    assert module.NEXT == 4
    assert module.use() == (module.Tool, module.work)


def test_a_library_that_is_missing_gives_the_host_s_own_error_or_fallback(write: Write) -> None:
    write("the_module", PLAIN)
    with pytest.raises(ModuleNotFoundError, match="No module named 'heavy_lib'"):
        imported(entry_of(needs=("heavy_lib",)))
    write("light_lib", LIBRARY)
    statement = "try:\n from heavy_lib import Tool, work\nexcept ImportError:\n from light_lib import Tool, work\n"
    write("the_module", statement + "def use(): return Tool, work\n")
    sys.modules.pop("the_module", None)
    assert imported(entry_of(statement, ("heavy_lib",))).Tool.__module__ == "light_lib"


def test_a_broken_library_raises_its_error_at_each_use_until_it_is_repaired(write: Write) -> None:
    write("heavy_lib", "raise ImportError('broken on purpose')")
    write("the_module", PLAIN)
    module = imported(entry_of())
    for _ in range(2):
        with pytest.raises(ImportError, match="broken on purpose"):
            module.use()
        with pytest.raises(ImportError, match="broken on purpose"):
            _ = module.Tool
    write("heavy_lib", LIBRARY)
    sys.path_importer_cache.clear()
    assert module.use() == ("done", "Tool")


def test_an_error_of_the_module_itself_is_the_host_s(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write("the_module", PLAIN + "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        imported(entry_of())
    assert "the_module" not in sys.modules
    write("the_module", PLAIN + "def (:\n")
    with pytest.raises(SyntaxError):
        imported(entry_of())


def test_decorated_functions_methods_and_generators(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write(
        "the_module",
        "import contextlib, functools\n"
        "from heavy_lib import Tool, work\n"
        "def bare(function):\n"
        "    return lambda *args: function(*args)\n"
        "@contextlib.contextmanager\n"
        "def managed():\n"
        "    try:\n"
        "        yield work()\n"
        "    except KeyError as error:\n"
        "        assert error.args == (work(),)\n"
        "@bare\n"
        "def hidden(): return work()\n"
        "def outer():\n"
        "    def inner(): return work()\n"
        "    return inner()\n"
        "class Mine:\n"
        "    @staticmethod\n"
        "    def static(word='x'): return word + work()\n"
        "    @classmethod\n"
        "    def of_class(cls, *, word='y'): return cls.__name__ + word + work()\n"
        "    @property\n"
        "    def prop(self): return work()\n"
        "    @functools.lru_cache(maxsize=None)\n"
        "    def cached(self): return work()\n",
    )
    module: Any = imported(entry_of())
    assert "heavy_lib" not in sys.modules
    with module.managed() as answer:
        raise KeyError(answer)
    assert (module.hidden(), module.outer(), module.Mine.static(), module.Mine.static("z")) == (
        "done",
        "done",
        "xdone",
        "zdone",
    )
    assert (module.Mine.of_class(), module.Mine().prop, module.Mine().cached()) == ("Mineydone", "done", "done")


def test_a_generator_stays_one_and_imports_at_its_first_step(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write(
        "the_module",
        "from heavy_lib import Tool, work\ndef steps(word):\n    got = yield word + work()\n    return got\n",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # from Python 3.13 on, code of another kind is deprecated
        module: Any = imported(entry_of())
        assert inspect.isgeneratorfunction(module.steps)
        steps = module.steps("x")
        assert "heavy_lib" not in sys.modules
        assert next(steps) == "xdone"
        with pytest.raises(StopIteration) as end:
            steps.send("got")
    assert end.value.value == "got"
    assert inspect.isgeneratorfunction(module.steps)


def test_threads_that_use_it_first_at_once(write: Write) -> None:
    write("heavy_lib", "import time\ntime.sleep(0.2)\n" + LIBRARY)
    write("the_module", PLAIN)
    module = imported(entry_of())
    barrier, answers = threading.Barrier(16), []

    def ask(number: int) -> None:
        barrier.wait()
        answers.append(module.use() if number % 2 else (module.work(), module.Tool.__name__))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [("done", "Tool")] * 16


def test_a_base_class_that_is_deferred(write: Write) -> None:
    write("heavy_lib", "class Tool:\n    def __init__(self): self.made = True\n")
    write(
        "the_module",
        "import heavy_lib\n"
        "class Mine(heavy_lib.Tool):\n"
        "    def __init__(self): super().__init__()\n"
        "def make(): return Mine(), heavy_lib\n",
    )
    entry = _Entry("the_module", {"heavy_lib": ("heavy_lib",)}, "import heavy_lib", (), base=("Mine", "heavy_lib.Tool"))
    module: Any = imported(entry)
    assert "heavy_lib" not in sys.modules
    assert not {"Mine", "heavy_lib"} & set(vars(module))
    made, library = module.make()
    assert made.made
    assert type(made).__mro__ == (module.Mine, library.Tool, object)
    assert issubclass(module.Mine, library.Tool)


def test_what_a_test_puts_there_stays(write: Write) -> None:
    write("heavy_lib", LIBRARY)
    write("the_module", PLAIN)
    module: Any = imported(entry_of())
    module.work = lambda: "mocked"
    assert module.use() == ("mocked", "Tool")
