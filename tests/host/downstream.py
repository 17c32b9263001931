"""A downstream extension, as experiments build theirs: a package with the entry point, its own components, and modules
and classes in the place of DIRAC's, which call what they override."""

from __future__ import annotations

from pathlib import Path

NAME = "Downstream"

# What a component asks the host, as plain data.
WORK = """
import json
import os
from datetime import datetime

from DIRAC import S_ERROR, gConfig
from DIRAC.Core.Security.X509Chain import X509Chain
from DIRAC.Core.Utilities import JEncode
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers


def answers():
    chain = X509Chain()
    found = [extensionsByPriority(), S_ERROR("on purpose")["CallStack"], gConfig.getValue("/Registry/DefaultGroup")]
    for _ in range(2):
        found.append(chain.loadProxyFromFile(os.environ["X509_USER_PROXY"])["OK"])
        found.append(chain.getCredentials()["Value"]["subject"])
        found.append(DMSHelpers(vo="fakevo").getSiteSEMapping()["Value"])
    found.append(chain.loadProxyFromFile("/no/such/proxy")["Message"])
    found.append(JEncode.encode([datetime(2020, 1, 2, 3, 4, 5), {"a": (1, None)}]))
    return json.dumps(found, default=sorted)
"""

# The plugin in a process, as plain data, and how a process tells it: one line each.
TELL = """
import json, os, sys

def plugin():
    found = sys.modules.get("dirac_perfpatch")
    return found and [[one["name"], one["state"], one["failures"], one["reason"]] for one in found.status()]

def tell(*more):
    for found in (plugin(), *more):
        os.write(int(os.environ["TOLD"]), json.dumps(found).encode() + b"\\n")
"""

_AGENT = """
from DIRAC import S_OK
from DIRAC.Core.Base.AgentModule import AgentModule
from Downstream.tell import tell
from Downstream.work import answers

class QuietAgent(AgentModule):
    def initialize(self):
        return S_OK()

    def execute(self):
        self.log.notice(answers())
        tell()
        return S_OK()
"""

_EXECUTOR = """
import os
from DIRAC import S_OK
from DIRAC.Core.Base.ExecutorModule import ExecutorModule
from Downstream.tell import tell
from Downstream.work import answers

class Quiet(ExecutorModule):
    @classmethod
    def initialize(cls):
        cls.ex_setMind("Downstream/Mind")
        return S_OK()

    def processTask(self, task_id, task):
        self.log.notice(answers())
        tell()
        return S_OK(str(os.getpid()))

    def serializeTask(self, task):
        return S_OK(task)

    deserializeTask = serializeTask
"""

# Gives each executor one task, and ends its process once it has the result.
_MIND = """
import itertools, os, signal, threading
from DIRAC import S_OK
from DIRAC.Core.Base.ExecutorMindHandler import ExecutorMindHandler

class MindHandler(ExecutorMindHandler):
    numbers = itertools.count(1)
    auth_conn_new = auth_conn_connected = auth_conn_drop = ["all"]
    auth_msg_TaskDone = auth_msg_TaskError = auth_msg_ExecutorError = ["all"]

    @classmethod
    def exec_executorConnected(cls, trid, types):
        # Not at once: without TLS, whoever is slow may miss what is sent right after an answer.
        threading.Timer(1, cls.executeTask, (next(cls.numbers), "task")).start()
        return S_OK()

    @classmethod
    def exec_dispatch(cls, task_id, task, path):
        return S_OK("" if path else "Downstream/Quiet")

    @classmethod
    def exec_serializeTask(cls, task):
        return S_OK(task)

    exec_deserializeTask = exec_serializeTask

    @classmethod
    def exec_taskProcessed(cls, task_id, task, kind):
        os.kill(int(task), signal.SIGTERM)
        return S_OK()

    @classmethod
    def exec_taskError(cls, task_id, task, message):
        return S_OK()
"""

# In the place of DIRAC's: its loader picks these.
_TREE = "DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryLevelTree"
_DIRECTORIES = f"""
from DIRAC.{_TREE} import DirectoryLevelTree as Base

class DirectoryLevelTree(Base):
    def getDirectorySize(self, *args, **kwargs):
        answer = super().getDirectorySize(*args, **kwargs)
        return {{**answer, "Downstream": True}}
"""

_ACCOUNTING = """
from DIRAC.AccountingSystem.DB.AccountingDB import AccountingDB as Base

# Of another name in later releases.
name = "insertRecordDirectly" if hasattr(Base, "insertRecordDirectly") else "_insertRecordDirectly"

class AccountingDB(Base):
    def insert(self, *args, **kwargs):
        return {**getattr(Base, name)(self, *args, **kwargs), "Downstream": True}

setattr(AccountingDB, name, AccountingDB.insert)
"""

_HELPERS = """
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers as Base

class DMSHelpers(Base):
    def getSiteSEMapping(self):
        answer = super().getSiteSEMapping()
        answer["Value"]["LCG.Downstream.ch"] = {"DOWNSTREAM-disk"}
        return answer
"""

_CHAIN = """
from DIRAC.Core.Security.X509Chain import X509Chain as Base

class X509Chain(Base):
    def loadProxyFromFile(self, path):
        self.loaded = path
        return super().loadProxyFromFile(path)

    def getCredentials(self, *args, **kwargs):
        answer = super().getCredentials(*args, **kwargs)
        answer["Value"]["downstream"] = True
        return answer
"""

_FILES = {
    "downstream-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: downstream\nVersion: 1\n",
    "downstream-1.dist-info/entry_points.txt": f"[dirac]\nmetadata = {NAME}:extension_metadata\n",
    f"{NAME}/__init__.py": "def extension_metadata():\n    return {'primary_extension': True, 'priority': 100}\n",
    f"{NAME}/tell.py": TELL,
    f"{NAME}/work.py": WORK,
    f"{NAME}/{_TREE.replace('.', '/')}.py": _DIRECTORIES,
    f"{NAME}/AccountingSystem/DB/AccountingDB.py": _ACCOUNTING,
    f"{NAME}/DataManagementSystem/Utilities/DMSHelpers.py": _HELPERS,
    f"{NAME}/Core/Security/X509Chain.py": _CHAIN,
    f"{NAME}/{NAME}System/Agent/QuietAgent.py": _AGENT,
    f"{NAME}/{NAME}System/Executor/Quiet.py": _EXECUTOR,
    f"{NAME}/{NAME}System/Service/MindHandler.py": _MIND,
}


def install(folder: Path) -> Path:
    """Write the extension into a folder for PYTHONPATH. Returns: the folder."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for inner in (folder / NAME).rglob("*"):
        if inner.is_dir() and inner.name != "__pycache__":
            (inner / "__init__.py").touch()
    return folder
