"""What the MySQL pool does when things go wrong, in three arms, on real MariaDB servers: `python3 -m chaos`.

The harness is standard library only. A scenario is one module in `chaos.scenarios`, with both of its sides: `run()` is
the harness's, and the functions that it hands to `call()` run inside a host's Python, in a worker: a lab.worker.
"""
