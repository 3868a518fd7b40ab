"""What the application of a fault test does when it is imported and started, and that it says so.

FAULTS_DIR holds two files: `mood`, which the test writes, and `events`, to which each process adds
a line: "import PID", "startup PID", "shutdown PID". It is the same for servers of every make.

Moods: "import N" takes N seconds to import; "broken" raises; "exit N" ends the process; "hang"
never comes to an end; "start N" takes N seconds to start up, "lifespan" fails there, "farewell"
at shutdown.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

HOME = os.environ.get("FAULTS_DIR", "")


def note(event: str) -> None:
    """Write down that it happened, in one piece."""
    if HOME:
        line = f"{event} {os.getpid()}\n".encode()
        number = os.open(f"{HOME}/events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(number, line)
        os.close(number)


def mood() -> str:
    """What the test has written last."""
    return (Path(HOME) / "mood").read_text() if HOME else ""


def imported() -> None:
    """Do what the mood says of the import."""
    note("import")
    word, _, number = mood().partition(" ")
    if word == "import":
        time.sleep(float(number))
    elif word == "broken":
        raise RuntimeError("the code is broken")
    elif word == "exit":
        os._exit(int(number))
    elif word == "hang":
        time.sleep(3600)


def started() -> None:
    """Do what the mood says of the start-up."""
    word, _, number = mood().partition(" ")
    if word == "start":
        time.sleep(float(number))
    elif word == "lifespan":
        raise RuntimeError("there is no database")
    note("startup")


def ended() -> None:
    """Do what the mood says of the shutdown."""
    note("shutdown")
    if mood() == "farewell":
        raise RuntimeError("there was no farewell")
