"""All tests; `python3 -m tests` runs them in the environments that they need."""
