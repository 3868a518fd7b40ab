"""Files: `FileResponse` for one, `StaticFiles` (by `app.static()`) for a directory.

How a path of a client becomes a file, in this order:

1. It is refused, 404, when it holds a backslash, a NUL, an empty segment, "." or "..", an
   escaped slash or backslash, or a hidden name, unless those are allowed.
2. It is opened beneath the directory; the kernel, or a walk that follows no link by itself,
   keeps it there. Anything but a regular file or a directory is a 404.
3. A directory is its index file, if there is one; without the slash at the end a redirect.
4. What is not there is the fallback, for a client that asks for HTML, or a 404.

What was found is believed for a second: numbers, rendered fields, and the content of small
files (`keep_bytes`). Files are opened and read on the loop only as long as that needs no disk;
otherwise all of it happens again on a thread.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastserve._speedups.files import (
    KEPT_BYTES,
    READ_BYTES,
    Entry,
    OpenFile,
    Representation,
    Root,
    Shelf,
    open_file,
    read_file,
    respond_with,
)
from fastserve._speedups.messages import Request
from fastserve._speedups.multidict import MutableHeaders
from fastserve._speedups.responses import ConditionalResponse, Response
from fastserve.errors import HTTPError
from fastserve.mediatypes import media_type

if TYPE_CHECKING:
    from fastserve.blocking import BlockingPool

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]

# What a bundler puts into a name: 8 or more hexadecimal digits, letters and figures both, or
# eight of base64 with capitals, small letters and figures. A date has no letters.
HASHED = (
    r"[.\-_](?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}\."
    r"|[.\-](?=[\w\-]*[A-Z])(?=[\w\-]*[a-z])(?=[\w\-]*[0-9])[A-Za-z0-9_\-]{8}\."
)
FOR_EVER = "public, max-age=31536000, immutable"
SIBLINGS = ((b".zst", b"zstd"), (b".br", b"br"), (b".gz", b"gzip"))
ATTEMPTS = 3    # at a file that changes while it is opened
OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
NOT_THERE = frozenset((
    errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EACCES,
    errno.EPERM, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EISDIR,
))
_ESCAPED = re.compile(rb"%(?:2f|5c|00)", re.IGNORECASE)
_UNSAFE_IN_NAME = re.compile(r'[\x00-\x1f\x7f/\\]')


class Changed(Exception):
    """A file was not the same any more a moment after it was looked at."""


# --- one file ----------------------------------------------------------------------------


class FileResponse(ConditionalResponse):
    """A file, sent as the request asks for it: whole, in ranges, or not at all when it is known.

    path:          of the file; where it comes from a client, use app.static() instead
    status:        200 takes part in conditional and range requests, anything else does not
    headers:       a mapping, or (name, value) pairs
    content_type:  the default follows from the suffix of `filename`, or else of the path
    filename:      what the client shall save it as: adds Content-Disposition
    inline:        with a filename, show the file instead of saving it
    max_age_s:     how long a cache may keep it, in seconds
    A file that is not there, or that is no regular file, is answered with 404.
    Raises TypeError or ValueError for what cannot be sent.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        status: int = 200,
        headers: Pairs | None = None,
        *,
        content_type: str | None = None,
        filename: str | None = None,
        inline: bool = False,
        max_age_s: int | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        if "\0" in self.path:
            raise ValueError(f"the path of a FileResponse holds a NUL: {path!r}")
        kind = content_type or media_type(filename or self.path)
        super().__init__(b"", status, headers, content_type=kind)
        if filename is not None:
            self.headers["content-disposition"] = content_disposition(filename, inline=inline)
        if max_age_s is not None:
            self.headers["cache-control"] = f"max-age={_checked_age(max_age_s)}"

    def prepare(self, request: Request) -> Response | Awaitable[Response]:
        """What is sent: a 200, 206 or 304. Raises HTTPError(404), (412), (416) or (503)."""
        try:
            return respond_with(*self._load(request, cached=True))
        except (BlockingIOError, Changed):
            return self._prepare_on_thread(request)

    async def _prepare_on_thread(self, request: Request) -> Response:
        pool: BlockingPool = request.app.blocking_pool
        for _ in range(ATTEMPTS):
            try:
                return respond_with(*await pool.run(self._load, request, cached=False))
            except Changed:
                continue
        raise HTTPError(503, headers={"retry-after": "1"})

    def _load(
        self, request: Request, *, cached: bool
    ) -> tuple[Representation, Request, OpenFile | None]:
        file = _opened(open_file, os.fsencode(self.path), cached)
        if file is None or not file.is_file:
            raise HTTPError(404)
        headers = MutableHeaders(self.headers.items())
        kind = headers.pop("content-type") or self.content_type or ""
        content = None
        if file.size <= READ_BYTES and request.method != "HEAD":
            content = _read(file, cached)
        form = Representation(
            file,
            kind.encode("latin-1"),
            headers,
            content=content,
            now_s=time.time(),
            status=self.status,
        )
        if content is not None:
            file.release()
            return form, request, None
        return form, request, file

    def __repr__(self) -> str:
        return f"<FileResponse {self.status}, {self.path!r}>"


def content_disposition(filename: str, *, inline: bool = False) -> str:
    """A Content-Disposition with this file name (RFC 6266 section 4, RFC 8187 section 3.2).

    What a path is made of, and control characters, become "_".
    """
    kind = "inline" if inline else "attachment"
    name = _UNSAFE_IN_NAME.sub("_", filename)
    plain = re.sub(r'[^ !#$&\'()*+,\-.0-9:;<=>?@A-Z\[\]^_`a-z{|}~]', "_", name)
    if plain == name:
        return f'{kind}; filename="{name}"'
    encoded = quote(name.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


# --- a directory -------------------------------------------------------------------------


@dataclass(frozen=True)
class StaticOptions:
    """How the files of a directory are served; see App.static()."""

    index: str | None = "index.html"
    redirect: bool = True
    fallback: str | None = None
    precompressed: bool = True
    max_age_s: int | None = None
    immutable: str | None = HASHED
    hidden: bool = False
    symlinks: bool = True
    headers: Pairs = ()
    keep_bytes: int = KEPT_BYTES

    def __post_init__(self) -> None:
        """Raise ValueError or TypeError, naming the option, its value and the way out."""
        for option in ("index", "fallback"):
            name = getattr(self, option)
            if name is not None and not _is_plain(name, nested=option == "fallback"):
                raise ValueError(f"{option}={name!r}: give the name of a file in the directory")
        if self.max_age_s is not None:
            _checked_age(self.max_age_s)
        if type(self.keep_bytes) is not int or not 0 <= self.keep_bytes <= KEPT_BYTES:
            raise ValueError(
                f"keep_bytes={self.keep_bytes!r}: give a number of bytes up to {KEPT_BYTES}")
        if self.immutable is not None:
            try:
                re.compile(self.immutable)
            except re.error as error:
                raise ValueError(
                    f"immutable={self.immutable!r} is no regular expression: {error}") from None
        MutableHeaders(self.headers)


class StaticFiles:
    """The files of a directory; `shelf.get` is the handler: `(request, path)`.

    `path` is what the router decoded behind the prefix.
    Raises ValueError where there is no such directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        pool: BlockingPool,
        options: StaticOptions | None = None,
        *,
        use_openat2: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.options = options or StaticOptions()
        self._pool = pool
        self._immutable = re.compile(self.options.immutable) if self.options.immutable else None
        try:
            self.root = Root(
                os.fspath(directory), symlinks=self.options.symlinks, use_openat2=use_openat2)
        except OSError as error:
            raise ValueError(f"the directory {os.fspath(directory)!r} cannot be served: "
                             f"{error.strerror}") from None
        self.shelf = Shelf(self.root, self._look, clock)

    def without_slash(self, request: Request) -> Response:
        """Where the directory itself is, when it is asked for without the slash."""
        return _with_slash(request)

    def _look(self, request: Request, path: str) -> Any:
        raw = request.raw_path
        if _ESCAPED.search(raw) or not self._allows(path):
            raise HTTPError(404)
        try:
            entry, keep = self._find(path, request, cached=True)
            if isinstance(entry, Response):
                return entry
            answer = self.shelf.answer_with(entry, request)
        except (BlockingIOError, Changed):
            return self._look_on_thread(request, path)
        if keep:
            self.shelf.put(raw, entry)
        return self._look_on_thread(request, path) if answer is None else answer

    async def _look_on_thread(self, request: Request, path: str) -> Response:
        for _ in range(ATTEMPTS):
            try:
                entry, keep, file = await self._pool.run(self._load, path, request)
            except Changed:
                continue
            if isinstance(entry, Response):
                return entry
            answer = self.shelf.answer_with(entry, request, file)
            if answer is not None:
                if keep:
                    self.shelf.put(request.raw_path, entry)
                return answer
        raise HTTPError(503, headers={"retry-after": "1"})

    def _load(
        self, path: str, request: Request
    ) -> tuple[Entry | Response, bool, OpenFile | None]:
        entry, keep = self._find(path, request, cached=False)
        if isinstance(entry, Response):
            return entry, keep, None
        form = self.shelf.form_for(entry, request)
        if form.content is not None or form.name is None:
            return entry, keep, None
        return entry, keep, self._open(form.name, cached=False)

    def _allows(self, path: str) -> bool:
        *above, last = path.split("/")
        return (
            "\\" not in path
            and "\0" not in path
            and all(above)
            and not any(part in (".", "..") for part in (*above, last))
            and (self.options.hidden or not any(part.startswith(".") for part in (*above, last)))
        )

    def _find(
        self, path: str, request: Request, *, cached: bool
    ) -> tuple[Entry | Response, bool]:
        """What a path means, and whether it means that to everybody."""
        name = path.rstrip("/").encode("utf-8", "surrogateescape")
        file = self._open(name, cached=cached)
        if file is not None and file.is_directory:
            return self._directory(path, name, request, cached=cached)
        if file is None or not file.is_file or path.endswith("/"):
            return self._fallback(request, cached=cached)
        return self._entry(file, name, cached=cached), True

    def _directory(
        self, path: str, name: bytes, request: Request, *, cached: bool
    ) -> tuple[Entry | Response, bool]:
        if self.options.index is None:
            return self._fallback(request, cached=cached)
        name = (name + b"/" if name else b"") + self.options.index.encode()
        file = self._open(name, cached=cached)
        if file is None or not file.is_file:
            return self._fallback(request, cached=cached)
        if path and not path.endswith("/"):
            if not self.options.redirect:
                return self._fallback(request, cached=cached)
            return _with_slash(request), False
        return self._entry(file, name, cached=cached), True

    def _fallback(self, request: Request, *, cached: bool) -> tuple[Entry | Response, bool]:
        if self.options.fallback is None or not _asks_for_html(request):
            raise HTTPError(404)
        name = self.options.fallback.encode()
        file = self._open(name, cached=cached)
        if file is None or not file.is_file:
            raise HTTPError(404)
        own = {"cache-control": "no-cache", "vary": "Accept"}
        return self._entry(file, name, own, cached=cached), False

    def _open(self, name: bytes, *, cached: bool) -> OpenFile | None:
        return _opened(self.root.open, name, cached)

    def _entry(
        self, file: OpenFile, name: bytes, own: Mapping[str, str] | None = None, *, cached: bool
    ) -> Entry:
        siblings = []
        if self.options.precompressed:
            for suffix, coding in SIBLINGS:
                sibling = self._open(name + suffix, cached=cached)
                if sibling is not None and sibling.is_file:
                    siblings.append((sibling, name + suffix, coding))
        headers = self._headers(name, own or {}, varies=bool(siblings))
        kind = media_type(name.decode("utf-8", "replace")).encode()

        def form(file: OpenFile, name: bytes, coding: bytes) -> Representation:
            content = _read(file, cached) if file.size <= self.options.keep_bytes else None
            made = Representation(
                file, kind, headers, name=name, coding=coding, content=content, now_s=time.time())
            file.release()
            return made

        return Entry(form(file, name, b""), [form(*sibling) for sibling in siblings])

    def _headers(self, name: bytes, own: Mapping[str, str], *, varies: bool) -> MutableHeaders:
        headers = MutableHeaders(own)
        base = name.rpartition(b"/")[2].decode("utf-8", "replace")
        if "cache-control" not in headers:
            if self._immutable is not None and self._immutable.search(base):
                headers["cache-control"] = FOR_EVER
            elif self.options.max_age_s is not None:
                headers["cache-control"] = f"max-age={self.options.max_age_s}"
        if varies:
            headers["vary"] = ", ".join(filter(None, (headers.get("vary"), "Accept-Encoding")))
        headers.update(self.options.headers)
        return headers


def _with_slash(request: Request) -> Response:
    # As it was sent: it is a path that was opened, so it names no other host.
    target = request.raw_path.decode("latin-1") + "/"
    if request.query_string:
        target += "?" + request.query_string.decode("latin-1")
    return Response.redirect(target)


def _asks_for_html(request: Request) -> bool:
    # By name: a script or an image that is missing shall not become a page.
    return any("text/html" in accept.lower() for accept in request.headers.getlist("accept"))


def _opened(
    opener: Callable[[bytes, bool], OpenFile], name: bytes, cached: bool
) -> OpenFile | None:
    """The open file, or None for what a client may as well be told is not there.

    Raises BlockingIOError where it needs the disk, HTTPError(503) where there are too many
    open files, OSError for what somebody should look at.
    """
    try:
        return opener(name, cached)
    except BlockingIOError:
        raise
    except OSError as error:
        code = error.errno
    # Not inside the except: a file that a traceback holds stays open until it is collected.
    if code in NOT_THERE:
        return None
    if code in OUT_OF_RESOURCES:
        raise HTTPError(503, headers={"retry-after": "1"})
    raise OSError(code, os.strerror(code or 0), os.fsdecode(name))


def _read(file: OpenFile, cached: bool) -> bytes:
    try:
        return read_file(file, cached)
    except EOFError:
        raise Changed from None


def _is_plain(name: object, *, nested: bool) -> bool:
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    parts = name.split("/")
    return (nested or len(parts) == 1) and not any(part in ("", ".", "..") for part in parts)


def _checked_age(max_age_s: object) -> int:
    if type(max_age_s) is not int or not 0 <= max_age_s <= 2**31:
        raise ValueError(f"max_age_s={max_age_s!r}: give a number of seconds up to 2**31")
    return max_age_s
