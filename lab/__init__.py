"""Real things to test against: Debian packages, DIRAC environments, a MariaDB server, whole DIRAC installations.

Standard library only, except for the synthetic spools. Everything else is real: environments hold released DIRAC
wheels, the database is MariaDB, services run what `dirac-service` runs. Everything started here listens on its own
loopback ports. It is stopped with the object that started it, or dies with this process.
"""
