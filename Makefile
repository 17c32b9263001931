# The two commands of the README. Both install what is missing (as root) and ask nothing.
.PHONY: demo test host-tests chaos bench bench-starts bench-services

demo:
	python3 -m demo

test:
	python3 -m tests

# DIRAC's own tests on 8.0.86, 9.0.28, 9.1.8 and 9.1.22, each without and with the plugin, test by test.
host-tests:
	python3 -m hosttests

# The MySQL pool under kills, restarts and silent networks: 9.1.8 and 9.1.22, each without and with the plugin.
chaos:
	python3 -m chaos

# 9.1.8 and 9.1.22, each without and with the plugin, side by side, with growth curves; then what people start.
bench:
	python3 -m bench
	python3 -m bench.starts

# Commands, a job wrapper, an agent and a service, stock and patched, on each line of releases, ten minutes.
bench-starts:
	python3 -m bench.starts

# Requests of real clients to real services: stock 9.1.8 and 9.1.22, each without and with the plugin, ten minutes.
bench-services:
	python3 -m bench.services
