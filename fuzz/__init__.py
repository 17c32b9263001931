"""Throw made-up bytes at everything that the plugin reads, for minutes: `python3 -m fuzz`."""
