# The two commands of the README. Both install what is missing (as root) and ask nothing.
.PHONY: demo test chaos bench bench-services

demo:
	python3 -m demo

test:
	python3 -m tests

# The MySQL pool under kills, restarts and silent networks: 9.1.8 and 9.1.22, each without and with the plugin.
chaos:
	python3 -m chaos

# 9.1.8 and 9.1.22, each without and with the plugin, side by side, with growth curves.
bench:
	python3 -m bench

# Requests of real clients to real services: stock 9.1.8 and 9.1.22, each without and with the plugin, nine minutes.
bench-services:
	python3 -m bench.services
