"""Finding the account of a database; no error shows a password."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from conftest import Write

from dirac_perfpatch import cli, database
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patching import Database

SECRET = "s3cr:t%(x)s#='"
GOOD = f"""# as MySQL writes it
[client-server]
[client]
  skip-ssl
  host = db.example.org
  port = 3307
  user: is no name
  user = "dirac"
  password = {SECRET}
  database = AccountingDB
[mysqld]
password = another
"""


def refusal(text: str) -> str:
    """Return the error for a database that cannot be found."""
    with pytest.raises(OperatorError) as caught:
        database.find(text)
    assert SECRET not in "".join(traceback.format_exception(None, caught.value, caught.tb))
    return str(caught.value)


def test_an_option_file(tmp_path: Path) -> None:
    path = tmp_path / "my.cnf"
    path.write_text(GOOD)
    found = database.find(str(path))
    assert found == Database("db.example.org", 3307, "dirac", SECRET, "AccountingDB")
    assert SECRET not in repr(found)


def test_an_option_file_on_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "my.cnf"
    path.write_text("[client]\nuser=a\npassword='b c'\ndatabase=d\n")
    assert database.find(str(path)) == Database("localhost", 3306, "a", "b c", "d")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD.replace("client]", "mysql]"), "has no section [client]"),
        (GOOD.replace("user =", "usr ="), "[client] has no user"),
        (GOOD.replace("database = AccountingDB", "database"), "[client] has no database"),
        (GOOD.replace("3307", "many"), "the port in [client] is not a number"),
        (f"password={SECRET}\n", "is not a MySQL option file"),
        (f"[client]\n={SECRET}\n", "is not a MySQL option file"),
        (GOOD.encode("utf-16"), "is not a MySQL option file"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "my.cnf"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert refusal(str(path)) == f"--db {path}: {said}"


@pytest.mark.parametrize("text", ["no/such/file", f"localhost:3306:dirac:{SECRET}:AccountingDB", "AccountingDB", "/"])
def test_an_error_says_what_would_be_right(text: str) -> None:
    assert refusal(text).endswith("; give " + database.HELP)


def test_the_name_of_a_database_of_the_host(modules: Write) -> None:
    modules(
        "DIRAC.ConfigurationSystem.Client.Utilities",
        "def getDBParameters(name):\n"
        "    if name == 'No/System': raise RuntimeError('no such system')\n"
        "    if name == 'No/Password': return {'OK': False, 'Message': 'Failed to get: Password'}\n"
        "    return {'OK': True, 'Value': dict(Host='h', Port=1, User='u', Password='p', DBName=name)}\n",
    )
    assert database.find("Accounting/AccountingDB") == Database("h", 1, "u", "p", "Accounting/AccountingDB")
    assert refusal("No/System") == "--db No/System: not found in DIRAC's configuration: no such system"
    assert refusal("No/Password").startswith(
        "--db No/Password: Failed to get: Password; if you mean a file, write ./No/Password"
    )


def test_the_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.metadata, "version", {"dirac-perfpatch": "1.2.3"}.__getitem__)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, "dirac-perfpatch 1.2.3\n")
