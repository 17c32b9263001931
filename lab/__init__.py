"""Real things to test against: Debian packages, DIRAC environments, a MariaDB server, whole DIRAC installations.

Standard library only, but for the synthetic spools. Nothing here is a stand-in: environments hold released DIRAC
wheels, the database is MariaDB, services run what `dirac-service` runs. Everything started here listens on loopback
ports of its own and is stopped with the object that started it, or dies with this process.
"""
