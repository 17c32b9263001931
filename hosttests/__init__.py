"""Whether DIRAC's own tests, which are in its wheel, have the same outcome with the plugin: `python3 -m hosttests`."""
