"""Measure what a request costs the server: `python -m benchmarks --help`, benchmarks/README.md."""
