"""A/B in production: calls run patched or stock by turns, are recorded, and the two are compared.

A process decides which arm its calls run in (``arms``), records them (``recording``), and writes that to the spool, a
folder (``keeper``, ``spool``), for as long as a patch is ``ab`` (``running``). The report reads such folders
(``spool_reading``),
works out the figures (``statistics``, ``report``) and shows them (``words``, ``tables``, ``page``, ``plots``).

Nothing is imported here: a host that only runs patches must pay for none of it.
"""
