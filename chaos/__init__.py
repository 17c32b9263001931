"""The behaviour of the MySQL pool when things go wrong, in three arms, on real MariaDB servers: `python3 -m chaos`.

The harness is standard library only. A scenario is one module in `chaos.scenarios` that has both sides: `run()` runs in
the harness, and the functions that it passes to `call()` run in a host's Python, in a lab.worker.
"""
