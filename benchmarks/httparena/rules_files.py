"""Rules of static and upload: bytes that leave, and bytes that arrive."""

import contextlib
import os
from pathlib import Path

from benchmarks.httparena.data import BINARY_FILES, STATIC_FILES
from benchmarks.httparena.report import Report, dice
from benchmarks.httparena.wire import ask, chunked, request

ACCEPT = {"Accept-Encoding": "br;q=1, gzip;q=0.8"}
SIZES = (512_000, 2_097_152, 10_485_760, 20_971_520)
CHUNK = 65_536
TYPES = {
    ".css": ("text/css",), ".js": ("application/javascript", "text/javascript"),
    ".html": ("text/html",), ".svg": ("image/svg+xml",), ".json": ("application/json",),
    ".woff2": ("font/woff2", "application/font-woff2"), ".webp": ("image/webp",),
}


def files_come_whole(report: Report) -> None:
    """Uncompressed for who names no coding, decoded the same for who does; with their types."""
    for name in STATIC_FILES:
        what = f"GET /static/{name}"
        plain = ask(report.target, request(f"/static/{name}"))
        coded = ask(report.target, request(f"/static/{name}", headers=ACCEPT))
        report.same((plain.status, coded.status), (200, 200), what, "status")
        report.same(plain.coding, "", what, "Content-Encoding for who names none")
        expected = TYPES[Path(name).suffix]
        report.check(plain.kind in expected, what, f"Content-Type: expected {expected[0]}, "
                     f"found {plain.kind!r}")
        report.check(coded.kind in expected, what, "another Content-Type when compressed")
        whole = _on_disk(report, name)
        if whole is None:
            whole = plain.body
        report.check(plain.body == whole, what,
                     f"expected the {len(whole)} bytes of the file, found {len(plain.body)} others")
        report.check(coded.decoded() == whole, what,
                     f"compressed ({coded.coding or 'not'}) it is another file")
        report.check(name not in BINARY_FILES or not coded.coding, what,
                     "what is compressed already need not be compressed again")


def what_is_not_there_is_a_404(report: Report) -> None:
    """And so is whatever leads out of the directory."""
    for path, expected in (
            ("/static/nonexistent.txt", (404,)), ("/static/../dataset.json", (400, 403, 404)),
            ("/static/%2e%2e/dataset.json", (400, 403, 404))):
        status = ask(report.target, request(path)).status
        report.check(status in expected, f"GET {path}", f"expected 404, found {status}")


def a_known_file_is_not_sent_again(report: Report) -> None:
    """A server that gives a tag knows it again."""
    known = ask(report.target, request("/static/app.js")).headers.get("etag")
    if known is not None:
        answer = ask(report.target, request("/static/app.js", headers={"If-None-Match": known}))
        report.same((answer.status, answer.body), (304, b""), f"If-None-Match: {known}")


def files_are_read_for_each_request(report: Report) -> None:
    """A file that changes is another one at once; needs the folder, and leave to write there."""
    if report.target.data is None:
        return
    path = report.target.data / "static" / f"fresh-{dice.getrandbits(32):x}.txt"
    try:
        for text in ("first", "other"):
            path.write_text(text)
            for _ in range(3):
                answer = ask(report.target, request(f"/static/{path.name}"))
                report.same((answer.status, answer.body), (200, text.encode()),
                            f"GET /static/{path.name}", "a file that has just changed")
    except OSError:
        return      # a folder that is mounted read-only
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def uploads_are_counted(report: Report) -> None:
    """Small ones, and the sizes that are measured."""
    for size in (17, dice.randint(30, 90), *SIZES):
        _upload(report, size, request("/upload", os.urandom(size)))


def uploads_without_a_length_are_counted(report: Report) -> None:
    """What was read is counted: no header says how much it will be."""
    for size in (dice.randint(1, 99), dice.randint(500_000, 3_000_000)):
        body = os.urandom(size)
        pieces = [body[at:at + CHUNK] for at in range(0, size, CHUNK)]
        _upload(report, size, chunked("/upload", *pieces))


def _upload(report: Report, size: int, data: bytes) -> None:
    report.is_text(ask(report.target, data), str(size), f"POST /upload of {size} bytes")


def _on_disk(report: Report, name: str) -> bytes | None:
    if report.target.data is None:
        return None
    return (report.target.data / "static" / name).read_bytes()


static = (files_come_whole, what_is_not_there_is_a_404, a_known_file_is_not_sent_again,
          files_are_read_for_each_request)
upload = (uploads_are_counted, uploads_without_a_length_are_counted)
