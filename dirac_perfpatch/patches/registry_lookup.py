"""getHostnameForDN and getUsernameForDN: who has a DN is found out once per configuration.

The host walks the hosts, or the users, of the registry and parses each one's list of DNs until it finds the one that it
looks for: 1.2 to 2.1 ms for the last of 200 hosts, twice for each request that comes with a host certificate, and 15 ms
for the last of 1,500 users. We make one such walk per configuration and keep who has which DN. From 9.0 on the host
keeps what getUsernameForDN answers for 300 s; there only getHostnameForDN is changed.

The same answer: the walk uses the host's own functions, in its order, and the first one that has the DN wins. The
result is kept for the object that holds the configuration, which every change replaces (``_configuration``), and only
if that object was the same before and after. The host looks whether a refresh is due whenever it reads the
configuration, so we do that, too. An answer is a new dictionary with a name in it; nothing in it is shared.

The host itself answers the rest: a DN that nobody has, because its error contains the call stack; a DN that is not a
string; and a look-up among given users, because its only frequent caller, AuthManager, keeps the answer for a minute.
So unknown DNs cost what they cost in stock. getVOForGroup of 8.0 is left as it is: it reads two options, in 7 us.

Our walk goes to the end, where the host's stops at the DN that it looks for: the first look-up in a configuration costs
what an unknown DN costs. Not seen: functions of ``gConfig`` that are replaced, as the host's tests do.

No lock: what is kept is one tuple that is replaced and never changed. Threads that ask at once walk at once, as in
stock, and so does a signal handler.

The seam is the code of the two functions, which other modules bind by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dirac_perfpatch.patches._configuration import Configuration
from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    InTree,
    Meter,
    NotAsked,
    Patch,
    Target,
    Timed,
    without_stacks,
)

_MODULE = "DIRAC.ConfigurationSystem.Client.Helpers.Registry"
_BASE = "gBaseRegistrySection"


class _Owners(NamedTuple):
    """Who has which DN."""

    configuration: Any  # held, so that its identity cannot come back for another object
    names: dict[str, str]


_NOTHING = _Owners(None, {})


class _Section:
    """The owners of DNs in one section of the registry: Hosts or Users."""

    def __init__(self, fitting: Fitting, name: str) -> None:
        fitting.undoing.append(self.forget)
        self._guard = fitting.guard
        self._config = fitting.resolve("gConfig")
        self._s_ok = fitting.resolve("S_OK")
        self._path = f"{fitting.resolve(_BASE)}/{name}"
        self._configuration = Configuration()
        self._kept = _NOTHING

    def forget(self) -> None:
        """Forget what is kept, once the patch is off: error_stack may keep our code, and with that this object."""
        self._kept = _NOTHING

    def answer(self, dn: Any) -> Any:
        """The host's answer if somebody has the DN; None if the host has to say."""
        if self._guard.off or type(dn) is not str:
            return None
        self._configuration.refresh_if_due()
        try:
            owners = self._kept
            if owners.configuration is not self._configuration.in_use():
                owners = self._walk()
            name = owners.names.get(dn.strip())
            return None if name is None else self._s_ok(name)
        except Exception as error:
            self._guard.failed(error)
            return None

    def _walk(self) -> _Owners:
        self._guard.note("walks")
        configuration = self._configuration.in_use()
        owners = _Owners(configuration, {})
        found = self._config.getSections(self._path)
        for name in found["Value"] if found["OK"] else ():
            for dn in self._config.getValue(f"{self._path}/{name}/DN", []):
                owners.names.setdefault(dn, name)
        if self._configuration.in_use() is not configuration:  # refreshed meanwhile: this may be of both
            return _NOTHING
        self._kept = owners
        return owners


def _look_at_hosts(fitting: Fitting) -> None:
    fitting.expect("getHostnameForDN", "strip", "gConfig", "getSections", "getValue", _BASE, "S_OK", "S_ERROR")


def _put_on_hosts(fitting: Fitting) -> None:
    hosts = _Section(fitting, "Hosts")

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def getHostnameForDN(dn: Any) -> Any:
            return hosts.answer(dn) or stock(dn)

        return getHostnameForDN

    fitting.take_over("getHostnameForDN", make, _check)


def _look_at_users(fitting: Fitting) -> None:
    if hasattr(fitting.resolve("getUsernameForDN"), "cache_clear"):
        raise InTree("the host keeps the answers itself")
    fitting.expect("getUsernameForDN", "strip", "gConfig", "getSections", "getValue", _BASE, "S_OK", "S_ERROR")


def _put_on_users(fitting: Fitting) -> None:
    users = _Section(fitting, "Users")

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def getUsernameForDN(dn: Any, usersList: Any = None) -> Any:
            return (None if usersList else users.answer(dn)) or stock(dn, usersList)

        return getUsernameForDN

    fitting.take_over("getUsernameForDN", make, _check)


def _check(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    return "" if without_stacks(original(*args, **kwargs)) == without_stacks(answer) else "a different answer"


def _ask(database: Database | None) -> Any:
    from DIRAC import gConfig
    from DIRAC.ConfigurationSystem.Client.Helpers import Registry

    answers = []
    for section, look_up in (("Hosts", Registry.getHostnameForDN), ("Users", Registry.getUsernameForDN)):
        names = gConfig.getSections(f"/Registry/{section}").get("Value", [])
        some = dict.fromkeys((*names[:3], *names[-3:]))
        dns = [dn for name in some for dn in gConfig.getValue(f"/Registry/{section}/{name}/DN", [])]
        answers += [look_up(dn) for dn in (*dns, *(f" {dn}\n" for dn in dns), "/CN=nobody has this DN")]
    return without_stacks(answers)


def _made_up(section: str, number: int) -> Iterator[None]:
    """A registry of so many hosts or users, in this process only."""
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from DIRAC.ConfigurationSystem.private.Refresher import gRefresher

    gRefresher.disable()  # for good: nothing is to be fetched in between
    before = gConfigurationData.mergedCFG
    entries = {f"entry{one}.example.org": {"DN": _made_up_dn(one)} for one in range(number)}
    gConfigurationData.mergedCFG = type(before)().loadFromDict({"Registry": {section: entries}})
    try:
        yield
    finally:
        gConfigurationData.mergedCFG = before


def _made_up_dn(number: int) -> str:
    return f"/DC=org/DC=example/OU=made up/CN=entry{number}.example.org"


def _last_host(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.ConfigurationSystem.Client.Helpers import Registry

    dn = _made_up_dn(size - 1)
    for _ in _made_up("Hosts", size):
        yield lambda number: timed(lambda: Registry.getHostnameForDN(dn), number)


def _last_user(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.ConfigurationSystem.Client.Helpers import Registry

    if hasattr(Registry.getUsernameForDN, "cache_clear"):
        raise NotAsked("the host keeps the answers itself")
    dn = _made_up_dn(size - 1)
    for _ in _made_up("Users", size):
        yield lambda number: timed(lambda: Registry.getUsernameForDN(dn), number)


PATCH = Patch(
    name="registry_lookup",
    targets=(
        Target((_MODULE,), "getHostnameForDN", _look_at_hosts, _put_on_hosts),
        Target((_MODULE,), "getUsernameForDN", _look_at_users, _put_on_users),
    ),
    ask=_ask,
    cases=(
        Case("getHostnameForDN, the last", _last_host, (200,), (200,), "hosts"),
        Case("getUsernameForDN, the last", _last_user, (1500,), (), "users"),
    ),
)
