"""The configuration of a DIRAC installation: the local dirac.cfg files, and what its server publishes.

As on a real site, the local files hold what a process needs to reach the Configuration server and, on the server's
side, the database password. The server publishes everything else, which can be changed while services run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

# A section is a dict, an option is a string.
Section = dict[str, "Node"]
Node = Union[str, Section]

SETUP = "Lab"
INSTANCE = "Lab"
NAME = "Lab"  # of the published configuration; its file is named after it
VO = "fakevo"  # the VO of the test proxy inside DIRAC's wheel
GROUP = "fakevo_user"
USER_DN = "/O=Dirac Computing/O=CERN/CN=MrUser"
HOST_DN = "/O=Dirac Computing/O=CERN/CN=VOBox"

# The databases behind each service that can be started.
DATABASES: dict[str, list[str]] = {
    "Configuration/Server": [],
    "DataManagement/FileCatalog": ["DataManagement/FileCatalogDB"],
    "DataManagement/TornadoFileCatalog": ["DataManagement/FileCatalogDB"],
    "Accounting/DataStore": ["Accounting/AccountingDB"],
    "Accounting/ReportGenerator": ["Accounting/AccountingDB"],
    "WorkloadManagement/JobMonitoring": [
        f"WorkloadManagement/{name}" for name in ("JobDB", "JobLoggingDB", "TaskQueueDB")
    ],
    "WorkloadManagement/PilotManager": ["WorkloadManagement/PilotAgentsDB", "WorkloadManagement/JobDB"],
}


def is_https(service: str) -> bool:
    """Whether clients reach this service by HTTPS, not by DISET."""
    return service.split("/")[1].startswith("Tornado")


@dataclass(frozen=True)
class Layout:
    """The input for the configuration.

    ports: per service; database_names: per database ("System/DB"); certificates: folder with the host's certificate
    and key; levels: whether `Systems` has 8.0's setup and instance levels; options: more ones, by service.
    """

    ports: dict[str, int]
    database_names: dict[str, str]
    database_host: str
    database_port: int
    database_user: str
    database_password: str
    certificates: Path
    levels: bool
    sites: int
    users: int
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def url(self, service: str) -> str:
        scheme = "https" if is_https(service) else "dips"
        return f"{scheme}://localhost:{self.ports[service]}/{service}"

    def system_path(self, system: str) -> list[str]:
        """The path of a system's section: ["Systems", ...]."""
        return ["Systems", system] + ([INSTANCE] if self.levels else [])


def server_file(layout: Layout) -> Section:
    """dirac.cfg of the services."""
    tree = _common(layout, "yes")
    put(tree, ["DIRAC", "Security", "CertFile"], str(layout.certificates / "hostcert.pem"))
    put(tree, ["DIRAC", "Security", "KeyFile"], str(layout.certificates / "hostkey.pem"))
    configuration = {
        "Master": "yes",
        "MasterServer": layout.url("Configuration/Server"),
        "Name": NAME,
        "AutoPublish": "yes",
    }
    for option, value in configuration.items():
        put(tree, ["DIRAC", "Configuration", option], value)
    databases = {
        "User": layout.database_user,
        "Password": layout.database_password,
        "Host": layout.database_host,
        "Port": str(layout.database_port),
    }
    tree["Systems"] = {"Databases": dict(databases)}
    # The Configuration server cannot read its own port from what it will publish.
    _add_service(tree, layout, "Configuration/Server")
    return tree


def client_file(layout: Layout) -> Section:
    """dirac.cfg of a client that has a user's proxy."""
    return _common(layout, "no")


def published(layout: Layout) -> Section:
    """The configuration that the server publishes: Registry, Resources, Operations, Systems."""
    tree: Section = {"Registry": _registry(layout.users), "Resources": _resources(layout.sites)}
    tree["Operations"] = {"Defaults": _operations(layout.sites)}
    for service in layout.ports:
        _add_service(tree, layout, service)
    for database, name in layout.database_names.items():
        system, short = database.split("/")
        put(tree, [*layout.system_path(system), "Databases", short, "DBName"], name)
    # JobMonitoring starts without an OpenSearch that answers, but not without one that is configured.
    put(tree, ["Systems", "NoSQLDatabases"], {"User": "none", "Password": "none", "Port": "9", "SSL": "no"})
    return tree


def text(section: Section, indent: str = "") -> str:
    """The tree in dirac.cfg format: options first, each brace on its own line."""
    lines = [f"{indent}{name} = {value}\n" for name, value in section.items() if isinstance(value, str)]
    for name, value in section.items():
        if not isinstance(value, str):
            lines.append(f"{indent}{name}\n{indent}{{\n{text(value, indent + '  ')}{indent}}}\n")
    return "".join(lines)


def put(tree: Section, path: list[str], value: Node) -> None:
    """Set the option or section at this path, creating the sections above it."""
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        assert isinstance(below, dict), f"{name} is an option"
        tree = below
    tree[path[-1]] = value


def _common(layout: Layout, server_certificate: str) -> Section:
    dirac: Section = {
        "VirtualOrganization": VO,
        # Otherwise services publish URLs with the machine's name, for which the test certificate is not valid.
        "Hostname": "localhost",
        "Security": {"UseServerCertificate": server_certificate, "SkipCAChecks": "yes"},
        "Configuration": {"Servers": layout.url("Configuration/Server")},
    }
    if layout.levels:
        systems = sorted({name.split("/")[0] for name in [*layout.ports, *layout.database_names]})
        dirac["Setup"] = SETUP
        dirac["Setups"] = {SETUP: dict.fromkeys(systems, INSTANCE)}
    return {"DIRAC": dirac}


def _add_service(tree: Section, layout: Layout, service: str) -> None:
    system, name = service.split("/")
    path = layout.system_path(system)
    section: Section = {"Port": str(layout.ports[service]), "Authorization": {"Default": "all"}}
    if service == "Configuration/Server":
        # The only service whose handler is not named after it.
        section["HandlerPath"] = "DIRAC/ConfigurationSystem/Service/ConfigurationHandler.py"
    if is_https(service):
        section["Protocol"] = "https"
    section.update(layout.options.get(service, {}))
    put(tree, [*path, "Services", name], section)
    put(tree, [*path, "URLs", name], layout.url(service))


def _registry(users: int) -> Section:
    people: Section = {"MrUser": {"DN": USER_DN, "Email": "mr.user@example.org"}}
    for number in range(users):
        people[f"user{number:04}"] = {"DN": f"/O=Dirac Computing/O=CERN/CN=User {number:04}"}
    user_group: Section = {
        "Users": "MrUser",
        "Properties": "NormalUser, FileCatalogManagement",
        "VO": VO,
        "VOMSRole": f"/{VO}",
    }
    return {
        "DefaultGroup": GROUP,
        "Users": people,
        "Groups": {GROUP: user_group, "dirac_admin": {"Users": "MrUser", "Properties": "NormalUser, CSAdministrator"}},
        "Hosts": {"localhost": {"DN": HOST_DN, "Properties": "TrustedHost, CSAdministrator, ServiceAdministrator"}},
        "VO": {VO: {"VOMSName": VO, "DefaultGroup": GROUP}},
    }


def storage_elements(number: int) -> list[str]:
    """The SEs at the site with this number."""
    return [f"SITE{number:03}-disk", f"SITE{number:03}-tape"]


def _resources(sites: int) -> Section:
    """Sites with two SEs each; every tenth disk SE has an alias, every tenth tape SE a derived SE."""
    elements: Section = {}
    places: Section = {}
    for number in range(sites):
        disk, tape = storage_elements(number)
        for name in (disk, tape):
            elements[name] = _storage_element(number, name)
        if number % 10 == 0:
            elements[f"{disk}-alias"] = {"Alias": disk}
            elements[f"{tape}-user"] = {"BaseSE": tape}
        places[f"LCG.Site{number:03}.ch"] = {"SE": f"{disk}, {tape}", "MoUTierLevel": str(number % 3)}
    groups: Section = {"Tier1-disk": ", ".join(storage_elements(number)[0] for number in range(0, sites, 3))}
    catalogs: Section = {"FileCatalog": {"AccessType": "Read-Write", "Status": "Active"}}
    return {
        "StorageElements": elements,
        "StorageElementGroups": groups,
        "Sites": {"LCG": places},
        "FileCatalogs": catalogs,
    }


def _storage_element(number: int, name: str) -> Section:
    protocol: Section = {
        "Host": f"se{number:03}.example.org",
        "Port": "1094",
        "Protocol": "root",
        "Path": f"/data/{name}",
        "Access": "remote",
        "SpaceToken": "",
        "WSUrl": "",
    }
    return {"BackendType": "Test", "ReadAccess": "Active", "WriteAccess": "Active", "Access.1": protocol}


def _operations(sites: int) -> Section:
    by_protocol: Section = {"LCG.Site000.ch": "Tier1-disk", "LCG.Site001.ch": "LCG.Site000.ch"} if sites > 1 else {}
    return {
        "SiteSEMappingByProtocol": by_protocol,
        "SiteSEMappingByDownload": dict(by_protocol),
        "DataManagement": {"SEsUsedForFailover": "Tier1-disk", "SEsUsedForArchive": storage_elements(0)[1]},
        "Services": {"Catalogs": {"CatalogList": "FileCatalog"}},
    }
