"""Faults of every kind under load, and counts of what the clients saw.

`python -m tests.faults L4` runs one row in a short form, `--full` at its size. Each prints the
requests that were attempted and answered, how the others failed, and the longest wait, and ends
with status 1 where a requirement is not met.
"""
