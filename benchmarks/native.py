"""Build the C programs, once per change of their source."""

import hashlib
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-Wall", "-Wextra")


def build(name: str, cache: Path) -> str:
    """The path of the program made from NAME.c; NAME may begin with a folder."""
    source = HERE / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:12]
    program = cache.expanduser() / "native" / f"{source.stem}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", *FLAGS, str(source), "-o", str(program)], check=True)
    return str(program)
