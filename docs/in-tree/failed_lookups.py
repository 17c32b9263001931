"""DIRAC 9.1.13 and later: a look-up in the database that has failed once fails until the process is restarted.

Without a database: two objects whose statements fail once, as if the connection had been lost.
"""

import itertools
import threading

from cachetools import LRUCache
from DIRAC import S_ERROR, S_OK, gLogger
from DIRAC.AccountingSystem.DB.AccountingDB import AccountingDB
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.DataManagementSystem.DB.FileCatalogComponents.FileManager.FileManagerBase import FileManagerBase

extensionsByPriority()  # as every command does


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


class Once:
    """A database that loses the first statement, and then has the number 7 for whatever it is asked."""

    def __init__(self):
        self.lost = False

    def answer(self, *args, **kwargs):
        if not self.lost:
            self.lost = True
            return S_ERROR("MySQL server has gone away")
        return S_OK(((7,),))

    _query = _update = answer

    def _getConnection(self):
        return S_OK(self)


files = FileManagerBase(Once())
files._getStatusInt("AprioriGood")
tell("FileManagerBase._getStatusInt recovers from a lost connection", files._getStatusInt("AprioriGood")["OK"])
files._getStatusInt("AprioriGood")["Value"] = "mine"
tell("its answer is the caller's own", files._getStatusInt("AprioriGood").get("Value") == 7)

accounting = object.__new__(AccountingDB)
accounting.log, accounting._AccountingDB__keysCache = gLogger, {}
accounting._getConnection = lambda: S_OK(None)
accounting._escapeString = lambda text: S_OK(f'"{text}"')
for name in ("_addkeyvalue", "_gettablename"):  # from 9.1.14 on
    setattr(accounting, f"{name}_cache", LRUCache(9))
    setattr(accounting, f"{name}_lock", threading.Lock())
add = AccountingDB._AccountingDB__addKeyValue.__get__(accounting, AccountingDB)


def answers(answer):
    accounting._query = accounting.insertFields = lambda *args, **kwargs: answer()


answers(lambda: S_ERROR("MySQL server has gone away"))
add("Job", "Site", "LCG.CERN.ch")
numbers = itertools.count(1)
answers(lambda: S_OK(((next(numbers),),)))
tell("AccountingDB.__addKeyValue recovers from a lost connection", add("Job", "Site", "LCG.CERN.ch")["OK"])
one, true = (add("Job", "Site", value)["Value"] for value in (1, True))
tell("1 and True are two values, as in the database", one != true)
