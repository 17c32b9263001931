"""Stock, patched and in-tree DIRAC side by side: microseconds per call, growth, and start-up."""
