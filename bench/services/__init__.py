"""What users feel: requests to real services, in stock, patched and in-tree DIRAC: `python3 -m bench.services`."""
