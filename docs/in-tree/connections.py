"""DIRAC 9.1.9 and later: the pool hands out connections that are dead, and kills those that are alive.

Needs a database: HOST PORT USER PASSWORD DATABASE, and an account that may kill its own connections.
"""

import os
import sys
import time

import MySQLdb
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.Core.Utilities.MySQL import MySQL

extensionsByPriority()  # as every command does
host, port, user, password, name = sys.argv[1:]


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


def make():
    return MySQL(host, user, password, name, port=int(port))


def number(db, conn=None):
    return db._query("SELECT CONNECTION_ID()", conn=conn)["Value"][0][0]


db = make()


def connect():
    return MySQLdb.connect(host=host, port=int(port), user=user, passwd=password)


killer = connect()


def kill(connection_id):
    killer.query(f"KILL {connection_id}")
    time.sleep(0.1)


kill(number(db))
tell("a connection that was killed while idle fails no statement", db._query("SELECT 1")["OK"])

db._getConnection()["Value"].close()
tell("a connection that somebody closed fails no statement", db._query("SELECT 1")["OK"])

db._update("SET SESSION wait_timeout = 1")
time.sleep(1.6)
tell("a connection that timed out fails no statement", db._query("SELECT 1")["OK"])

other = connect()
pooled = db._getConnection()["Value"]
kill(number(db, conn=other))
db._query("SELECT 1", conn=other)  # fails, on the caller's own connection
tell("the pool's connection survives the loss of another one", pooled.open == 1)

db._query("SELECT 1")
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, str(number(db)).encode())
    os._exit(0)
os.waitpid(child, 0)
of_child = int(os.read(reader, 20))
tell("a child has a connection of its own", of_child != number(db))
