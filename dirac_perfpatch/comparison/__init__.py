"""A/B in production: calls run patched and stock in turns, are recorded, and are compared.

A process with a patch that is ``ab`` (``running``) chooses the arm of each call (``arms``, ``clock``), records the
calls (``recording``) and the outcomes (``outcomes``), and writes snapshots (``snapshot``) into the spool, a folder
(``journal``, ``spool``). The report reads spools (``spool_reading``), works out the figures (``statistics``, ``rows``,
``effects``, ``report``) and shows them (``words``, ``tables``, ``page``, ``plots``, ``colours``); the exporter serves a
spool to Prometheus.

Nothing is imported here, so a host that compares nothing pays nothing.
"""
