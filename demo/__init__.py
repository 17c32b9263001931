"""The same work on two real DIRAC installations, one stock and one patched: `python3 -m demo`."""
