"""The application of clients_app.py, and files beside it: what lay_out() put into "files".

The directory is below the working directory of the server, so that each has its own.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from pathlib import Path

import brotli
from clients_app import MIB, PNG, app, content

from fastserve import App, FileResponse, Request, UploadFile

DIRECTORY = "files"
CHANGED_S = 1_767_225_600  # long ago, so that the tag of a file is a strong one
CHANGED = "Thu, 01 Jan 2026 00:00:00 GMT"
SCRIPT = b"window.scripted = document.title;\n" * 100
GZIPPED = gzip.compress(SCRIPT, mtime=0)
BROTLI = brotli.compress(SCRIPT)
PAGE = b"""<!doctype html>
<html><head><title>a page</title>
<link rel="stylesheet" href="page.css"><script src="page.js" defer></script></head>
<body><p id="styled">styled</p><img id="dot" src="dot.png">
<form id="form" method="post" action="/form" enctype="multipart/form-data">
<input name="title" value="a b&amp;c"><input id="file" name="file" type="file">
</form></body></html>
"""
SECONDS = 200
RATE = 8000
SAMPLES = bytes(range(256)) * (SECONDS * RATE // 256)
SOUND = b"RIFF%sWAVEfmt %sdata%s" % (
    struct.pack("<I", 36 + len(SAMPLES)),
    struct.pack("<IHHIIHH", 16, 1, 1, RATE, RATE, 1, 8),
    struct.pack("<I", len(SAMPLES)),
) + SAMPLES
CONTENTS = {
    "page.html": PAGE,
    "page.css": b"#styled { color: rgb(1, 2, 3) }",
    "page.js": SCRIPT,
    "page.js.gz": GZIPPED,
    "page.js.br": BROTLI,
    "dot.png": PNG,
    "sound.wav": SOUND,
    "small.bin": content(1000),
    "middle.bin": content(MIB),
    "large.bin": content(10 * MIB),
}


def lay_out(directory: Path) -> Path:
    """Write the files below a directory, which is to be the server's; that directory."""
    for name, data in CONTENTS.items():
        path = directory / DIRECTORY / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (CHANGED_S, CHANGED_S))
    return directory


def make_app() -> App:
    """For `fastserve run --factory`, in a directory that is laid out."""
    app.static("/files", DIRECTORY)
    return app


@app.get("/single/{name}")
def single(name: str):
    """The other way to send a file; names are from CONTENTS."""
    return FileResponse(Path(DIRECTORY) / name) if name in CONTENTS else (None, 404)


@app.post("/form", max_body_bytes=100 * MIB)
async def form(request: Request):
    """What came of a form: text fields as they are, files by name, type, size and digest."""
    found: dict[str, list[object]] = {}
    for name, value in (await request.form()).items():
        if isinstance(value, UploadFile):
            digest = hashlib.sha256(await value.read()).hexdigest()
            shown: object = [value.filename, value.content_type, value.size, digest]
        else:
            shown = value
        found.setdefault(name, []).append(shown)
    return found
