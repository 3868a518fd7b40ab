"""Build the C programs, once per change of their source."""

import hashlib
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-Wall", "-Wextra")
LIBRARIES = ("-lm",)


def build(name: str, cache: Path) -> str:
    """The path of the program made from NAME.c and the headers here; NAME may name a folder."""
    source = HERE / f"{name}.c"
    parts = [source.read_bytes(), " ".join((*FLAGS, *LIBRARIES)).encode()]
    parts += [header.read_bytes() for header in sorted(HERE.glob("*.h"))]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:12]
    program = cache.expanduser() / "native" / f"{source.stem}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", *FLAGS, str(source), "-o", str(program), *LIBRARIES], check=True)
    return str(program)
