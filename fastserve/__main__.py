"""`python -m fastserve` is the command `fastserve`."""

from fastserve.cli import main

main(prog_name="fastserve")
