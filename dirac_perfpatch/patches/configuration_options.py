"""ConfigurationData.extractOptionFromCFG: an option of the configuration is looked up once per configuration.

Whatever reads an option gets here: gConfig.getValue, getOption and getOptionsDict, Operations, the Registry. The host
splits the path, walks the sections, makes a list of all options of the last one to see whether the option is among
them, and takes three locks. A service reads some ten options for each request, such as the banned addresses, the limit
of waiting requests and the rules of authorization: 5 % of the CPU of a short request. We keep what the host's function
found, by path.

The same answer: a value is a text, or None if there is no such option, and is kept for the object that holds the
configuration, which every change replaces (``_configuration``), and only if that object was the same before and after.
The conversion to a type, defaults and errors stay with the callers, and so does the look whether a refresh is due. Only
the configuration in use is concerned: reading from another one, such as the local file's alone, is as in stock.

While a new configuration is being loaded, the host's readers wait; here, whoever asks for what is kept gets the
present value, like a reader that comes a moment earlier.

No lock: each step is one operation on a dictionary, which belongs to one configuration for good. Threads that ask at
once look at once, as in stock, and so does a signal handler. The paths are as many as the process asks for, at most a
few thousand.

The seam is the method in its class, through which all callers pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dirac_perfpatch.patches._configuration import Configuration
from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, same_answer

_MODULE = "DIRAC.ConfigurationSystem.private.ConfigurationData"
# The module with the object that holds the configuration in use; it is complete later.
_IN_USE = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_METHOD = "ConfigurationData.extractOptionFromCFG"
_MAX_OPTIONS = 5000
_UNKNOWN = object()


class _Kept(NamedTuple):
    """The options that were looked up."""

    configuration: Any  # held, so that its identity cannot come back for another object
    values: dict[str, Any]


class _Options:
    """What the paths of options lead to."""

    def __init__(self, fitting: Fitting) -> None:
        fitting.undoing.append(self.forget)
        self._guard = fitting.guard
        self._data: Any = None  # the host's gConfigurationData, once it is there
        self._kept = _Kept(None, {})

    def forget(self) -> None:
        """Forget what is kept, once the patch is off: error_stack may keep our code, and with that this object."""
        self._kept = _Kept(None, {})

    def make(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """The method of the host's class, given its own."""
        guard = self._guard

        def extractOptionFromCFG(data: Any, path: Any, cfg: Any = False, disableDangerZones: Any = False) -> Any:
            if guard.off or cfg is not False or type(path) is not str or not self._is_in_use(data):
                return stock(data, path, cfg, disableDangerZones)
            try:
                configuration = self._configuration.in_use()
                kept = self._kept
                if kept.configuration is not configuration or len(kept.values) > _MAX_OPTIONS:
                    kept = self._kept = _Kept(configuration, {})
                value = kept.values.get(path, _UNKNOWN)
            except Exception as error:
                guard.failed(error)
                return stock(data, path, cfg, disableDangerZones)
            if value is not _UNKNOWN:
                return value
            value = stock(data, path, cfg, disableDangerZones)
            # If it has changed meanwhile, the value may be of the other one.
            if self._configuration.in_use() is configuration and (value is None or type(value) is str):
                kept.values[path] = value
            return value

        return extractOptionFromCFG

    def _is_in_use(self, data: Any) -> bool:
        if data is self._data:
            return True
        if data is not getattr(sys.modules.get(_IN_USE), "gConfigurationData", None):
            return False
        self._configuration = Configuration()
        self._data = data
        return True


def _look(fitting: Fitting) -> None:
    fitting.expect(_METHOD, "mergedCFG", "dangerZoneStart", "split", "listOptions", "dangerZoneEnd")


def _put_on(fitting: Fitting) -> None:
    fitting.stand_in(_METHOD, _Options(fitting).make(fitting.unbound(_METHOD)), same_answer)


def _paths() -> list[str]:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData

    paths: list[str] = []
    sections = [("", gConfigurationData.mergedCFG)]
    while sections and len(paths) < 300:
        path, section = sections.pop()
        paths += [f"{path}/{name}" for name in section.listOptions()]
        sections += [(f"{path}/{name}", section[name]) for name in section.listSections()]
    return paths


def _ask(database: Database | None) -> Any:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData

    paths = _paths()
    odd = ["", "/", "//Registry // Users", "/Registry/Users", "/Nobody/has/this", None, 1]
    spaced = [path.replace("/", " / ") for path in paths[:20]]
    return [gConfigurationData.extractOptionFromCFG(path) for path in (*paths, *odd, *spaced)]


def _option(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData

    before = gConfigurationData.mergedCFG
    section = {"Port": "9130", "Authorization": {"Default": "authenticated"}}
    tree = {"Systems": {"DataManagement": {"Services": {"FileCatalog": section}}}}
    gConfigurationData.mergedCFG = type(before)().loadFromDict(tree)
    path = "/Systems/DataManagement/Services/FileCatalog/Authorization/Default"
    try:
        yield lambda number: timed(lambda: gConfigurationData.extractOptionFromCFG(path), number)
    finally:
        gConfigurationData.mergedCFG = before


PATCH = Patch(
    name="configuration_options",
    targets=(Target((_MODULE,), _METHOD, _look, _put_on),),
    ask=_ask,
    cases=(Case("extractOptionFromCFG", _option, growth=(1,)),),
)
