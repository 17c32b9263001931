# The two commands of the README. Both install what is missing (as root) and ask nothing.
.PHONY: demo test chaos bench bench-starts bench-services release docs fuzz soak matrix host-tests

demo:
	python3 -m demo

test:
	python3 -m tests

# What each patch does on a sample of DIRAC's releases from 8.0.0 on; `python3 -m lab.matrix --all` asks every one.
matrix:
	python3 -m lab.matrix

# DIRAC's own tests on 8.0.86, 9.0.28, 9.1.8 and 9.1.22, each without and with the plugin, test by test.
host-tests:
	python3 -m hosttests

# The MySQL pool under kills, restarts and silent networks: 9.1.8 and 9.1.22, each without and with the plugin.
chaos:
	python3 -m chaos

# Made-up bytes for everything that the plugin reads, ten minutes.
fuzz:
	python3 -m fuzz

# Real services under load, with toggles that change every second, ten minutes: nothing fails, and nothing grows.
soak:
	python3 -m soak

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

# The sdist and the wheel, reproducible, checked on each host, with a bill of materials and sums, in dist/. No upload.
release:
	python3 -m release

# The documentation as web pages that need no network, in build/docs.
docs:
	python3 -m release.documentation
