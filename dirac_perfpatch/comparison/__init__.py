"""A/B in production: calls run patched or stock by turns, are recorded, and the two are compared.

A process that has a patch that is ``ab`` (``running``) decides in which arm its calls run (``arms``), records them
(``recording``), and writes that to the spool, a folder (``journal``, ``spool``). The report reads such folders
(``spool_reading``), works out the figures (``statistics``, ``report``) and shows them (``words``, ``tables``, ``page``,
``plots``).

Nothing is imported here: a host that only runs patches must pay for none of it.
"""
