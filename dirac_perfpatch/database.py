"""The database that ``dirac-perfpatch check`` and ``bench`` may ask.

Its password is read from a file: every user of the machine can read a command line.
"""

from __future__ import annotations

import configparser
import re

from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patching import Database

HELP = "System/Database from DIRAC's configuration, such as Accounting/AccountingDB, or the path of a MySQL option file"
_SECTION = "client"
_KEYS = ("user", "password", "database")


def find(text: str) -> Database:
    """Return a database and its account, without connecting.

    Args:
        text: ``System/Database`` in the host's configuration; anything else is the path of a MySQL option file with a
            section ``[client]``.

    Raises:
        OperatorError: There is no such account. The text never holds a password.
    """
    return _configured(text) if re.fullmatch(r"\w+/\w+", text) else _in_file(text)


def _configured(name: str) -> Database:
    from DIRAC.ConfigurationSystem.Client.Utilities import getDBParameters

    try:
        answer = getDBParameters(name)
    except Exception as error:  # 8.0 raises for an unknown system
        raise OperatorError(f"--db {name}: not found in DIRAC's configuration: {error}") from None
    if not answer["OK"]:
        raise OperatorError(f"--db {name}: {answer['Message']}; if you mean a file, write ./{name}")
    found = answer["Value"]
    return Database(found["Host"], found["Port"], found["User"], found["Password"], found["DBName"])


def _in_file(path: str) -> Database:
    # As in MySQL, a name may have no value, and the last of several values counts.
    parser = configparser.RawConfigParser(delimiters="=", allow_no_value=True, strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        # Without the text: it may hold a password, as in earlier releases.
        raise OperatorError(f"--db: {error.strerror}; give {HELP}") from None
    except (configparser.Error, ValueError):  # whose texts quote the file
        raise OperatorError(f"--db {path}: is not a MySQL option file") from None
    if not parser.has_section(_SECTION):
        raise OperatorError(f"--db {path}: has no section [{_SECTION}]")
    client = {key: _unquoted(value or "") for key, value in parser.items(_SECTION)}
    missing = [key for key in _KEYS if not client.get(key)]
    if missing:
        raise OperatorError(f"--db {path}: [{_SECTION}] has no {', '.join(missing)}")
    port = client.get("port") or "3306"
    if not port.isdecimal():
        raise OperatorError(f"--db {path}: the port in [{_SECTION}] is not a number")
    return Database(client.get("host") or "localhost", int(port), *(client[key] for key in _KEYS))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
