"""Which database ``dirac-perfpatch check`` and ``bench`` may ask: its password is not for the command line, where every
user of the machine can read it."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping

from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patching import Database

HELP = (
    "System/Database as in DIRAC's configuration, such as Accounting/AccountingDB; or the path of a MySQL option file"
)
_SECTION = "client"
_KEYS = ("user", "password", "database")


def find(text: str) -> Database:
    """Find out how to connect to a database.

    Args:
        text: ``System/Database``, for what the host's own configuration says; anything else is the path of a MySQL
            option file with a section ``[client]``.

    Returns:
        The database. Nothing has connected to it.

    Raises:
        OperatorError: Nothing says so.
    """
    return _configured(text) if re.fullmatch(r"\w+/\w+", text) else _in_file(text)


def _configured(name: str) -> Database:
    from DIRAC.ConfigurationSystem.Client.Utilities import getDBParameters

    try:
        answer = getDBParameters(name)
    except Exception as error:  # 8.0 raises for a system that it does not know
        raise OperatorError(f"--db {name}: DIRAC's configuration cannot tell: {error}") from None
    if not answer["OK"]:
        raise OperatorError(f"--db {name}: {answer['Message']}; a file is named with its folder, as ./{name}")
    found = answer["Value"]
    return Database(found["Host"], found["Port"], found["User"], found["Password"], found["DBName"])


def _in_file(path: str) -> Database:
    # As MySQL reads it: names without a value, and the last of several values counts.
    parser = configparser.RawConfigParser(delimiters="=", allow_no_value=True, strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        # Not what was said: it may be a password, as in earlier releases.
        raise OperatorError(f"--db: {error.strerror}; it takes {HELP}") from None
    except (configparser.Error, ValueError):  # their texts quote the file
        raise OperatorError(f"--db {path}: is no MySQL option file") from None
    if not parser.has_section(_SECTION):
        raise OperatorError(f"--db {path}: has no section [{_SECTION}]")
    return _described(path, {key: _unquoted(value or "") for key, value in parser.items(_SECTION)})


def _described(path: str, client: Mapping[str, str]) -> Database:
    missing = [key for key in _KEYS if not client.get(key)]
    if missing:
        raise OperatorError(f"--db {path}: [{_SECTION}] has no {', '.join(missing)}")
    port = client.get("port") or "3306"
    if not port.isdecimal():
        raise OperatorError(f"--db {path}: the port in [{_SECTION}] is no number")
    return Database(client.get("host") or "localhost", int(port), *(client[key] for key in _KEYS))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
