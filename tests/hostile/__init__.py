"""Clients that mean harm, and counts of what a real server did about them.

`python -m tests.hostile S1` runs one row in a short form, with the deadlines set small;
`--full` runs it at its size with the defaults. Each prints its counts by class and ends
with status 1 where a requirement is not met. Speeds are required in the full form only.
"""
