"""A/B in production: which arm a call runs in, what is recorded of it, and what the records say.

Nothing of this is imported in a process none of whose patches is ``ab``.
"""
