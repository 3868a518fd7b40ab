"""Forms: text fields and files out of a request body, within bounds that hold for all of it.

    form = await request.form()             # str and UploadFile by name; files on disk if large
    async for part in request.parts(): ...  # one after the other, nothing kept

application/x-www-form-urlencoded is decoded by the wire floor; multipart/form-data (RFC 7578)
is taken apart by python-multipart, of the extra `forms`. A limit counts per request, never per
field: text fields together, files together, and what of the files stays in memory. Sizes and
counts are answered with 413, what is malformed with 400, another media type with 415.

Files past `form_memory_bytes` go to temporary files, written on the application's pool of
threads, one write of a request at a time. A temporary file has no name, and is closed when
its UploadFile is let go: with the request, whichever way that ends, unless somebody keeps it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

from fastserve._speedups.multidict import Headers, form_pairs
from fastserve.errors import HTTPError, MissingExtraError

if TYPE_CHECKING:
    from fastserve._speedups.messages import Request

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

MAX_BOUNDARY_BYTES = 70         # RFC 2046 section 5.1.1
MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 8 * 1024    # of one part, all of them
MAX_NAME_BYTES = 1024           # of a field, and of a file
DISK_WRITE_BYTES = 256 * 1024   # gathered for one write

T = TypeVar("T")
Offload = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class FormLimits:
    """What one form may hold; the settings of the same names.

    max_form_fields:       text fields
    max_form_files:        files
    max_form_field_bytes:  names and values of all text fields together
    form_memory_bytes:     of all files together; the rest is on disk
    """

    max_form_fields: int = 1000
    max_form_files: int = 100
    max_form_field_bytes: int = 1024 * 1024
    form_memory_bytes: int = 1024 * 1024


# --- what a handler gets -----------------------------------------------------------------


class UploadFile:
    """A file of a form.

    file:      the content, a binary file at its start; on disk when it is large
    filename:  as the client names it: never a path to write to
    size:      in bytes
    headers:   of its part
    """

    def __init__(
        self,
        file: IO[bytes] | None = None,
        *,
        filename: str = "",
        size: int = 0,
        headers: Headers | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.file: IO[bytes] = BytesIO() if file is None else file
        self.filename = filename
        self.size = size
        self.headers = Headers() if headers is None else headers
        self._offload = offload or _to_thread
        self._writing = False
        self._dropped = False

    @property
    def content_type(self) -> str | None:
        """The Content-Type the client gave, or None."""
        return self.headers.get("content-type")

    @property
    def in_memory(self) -> bool:
        """Whether the content is not on disk."""
        return isinstance(self.file, BytesIO)

    async def read(self, size: int = -1) -> bytes:
        """At most `size` bytes from where it is; all the rest by default."""
        content: bytes = await self._call(self.file.read, size)
        return content

    async def seek(self, offset: int) -> None:
        """Go on reading from here."""
        await self._call(self.file.seek, offset)

    async def close(self) -> None:
        """Close the file now instead of with the request."""
        await self._call(self.file.close)

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if self.in_memory else await self._offload(function, *args)

    async def _write(self, pieces: list[bytes]) -> None:
        """Append to the file on disk, which is made at the first time."""
        self._writing = True
        await self._offload(self._append, pieces)

    def _append(self, pieces: list[bytes]) -> None:
        # On a thread. A request that ended meanwhile leaves the closing to us.
        try:
            if isinstance(self.file, BytesIO):
                from tempfile import TemporaryFile

                begun = self.file
                self.file = TemporaryFile(buffering=DISK_WRITE_BYTES)   # noqa: SIM115
                self.file.write(begun.getbuffer())
            self.file.writelines(pieces)
        finally:
            self._writing = False
            if self._dropped:
                self.file.close()

    def _drop(self) -> None:
        """Close, without waiting for the disk."""
        self._dropped = True
        if not self._writing:
            self.file.close()

    def __del__(self) -> None:
        file = getattr(self, "file", None)
        if file is not None:
            file.close()

    def __repr__(self) -> str:
        return f"<UploadFile {self.filename!r}, {self.size} bytes>"


Value = str | UploadFile


class FormData:
    """The values of a form by name, several per name, in order; `[]` and get() give the first."""

    def __init__(self, pairs: Iterable[tuple[str, Value]] = ()) -> None:
        self._pairs = list(pairs)
        self._by_name: dict[str, list[Value]] = {}
        for name, value in self._pairs:
            self._by_name.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Value:
        return self._by_name[name][0]

    @overload
    def get(self, name: str) -> Value | None: ...
    @overload
    def get(self, name: str, default: T) -> Value | T: ...
    def get(self, name: str, default: Any = None) -> Any:
        """The first value of `name`, or `default`."""
        return self._by_name[name][0] if name in self._by_name else default

    def getlist(self, name: str) -> list[Value]:
        """Every value of `name`, in order; empty when there is none."""
        return list(self._by_name.get(name, ()))

    def items(self) -> list[tuple[str, Value]]:
        """Every (name, value), repeated names included, in order."""
        return list(self._pairs)

    def keys(self) -> list[str]:
        """Every name once, in order of first appearance."""
        return list(self._by_name)

    def values(self) -> list[Value]:
        """Every value, in order."""
        return [value for _, value in self._pairs]

    async def close(self) -> None:
        """Close every file now instead of with the request."""
        for value in self.values():
            if isinstance(value, UploadFile):
                await value.close()

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"FormData({self._pairs!r})"


class Part:
    """One part of a multipart form, while it arrives.

    name:      of the field
    filename:  as the client names the file; None for a text field
    headers:   of the part
    """

    def __init__(self, head: _Head, parts: Parts | None = None) -> None:
        self.name = head.name
        self.filename = head.filename
        self.headers = head.headers
        self._parts = parts
        self._ended = False

    @property
    def content_type(self) -> str | None:
        """The Content-Type the client gave, or None."""
        return self.headers.get("content-type")

    async def read(self, max_bytes: int) -> bytes:
        """All that is left of the part; HTTPError(413) when that is more than max_bytes."""
        pieces = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > max_bytes:
                raise HTTPError(413, f"part {self.name!a} is larger than {max_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def __aiter__(self) -> Part:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._parts is None or self._parts.current is not self:
            raise RuntimeError(
                f"part {self.name!r} is gone: read each part before asking for the next one")
        event = await self._parts.event()
        if not isinstance(event, bytes):
            self._ended = True
            raise StopAsyncIteration
        return event

    def __repr__(self) -> str:
        return f"<Part {self.name!r}>"


class Parts:
    """The parts of a multipart body, in order; what is not read of one is skipped."""

    current: Part | None = None

    def __init__(self, limits: FormLimits, request: Request) -> None:
        self._request = request
        self._reader = _Reader(_boundary(request), limits)
        self._stream = request.stream()

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        while True:
            event = await self.event()
            if isinstance(event, _Head):
                self.current = Part(event, self)
                return self.current

    async def event(self) -> _Event:
        """What comes next: the head of a part, a piece of it, or None for its end.

        Raises StopAsyncIteration behind the last part, HTTPError where there should be more.
        """
        while not self._reader.events:
            try:
                piece = await anext(self._stream)
            except StopAsyncIteration:
                self._reader.finish()
                raise
            self._reader.feed(piece)
        return self._reader.events.popleft()


# --- reading -----------------------------------------------------------------------------


class Forms:
    """How an application reads forms.

    offload:  await offload(function, *args) calls it on a thread
    """

    def __init__(self, limits: FormLimits, offload: Offload) -> None:
        self.limits = limits
        self._offload = offload

    async def read(self, request: Request) -> FormData:
        """The form in a body. Raises HTTPError with 400, 413 or 415."""
        kind = _media_type(request)
        if kind == URLENCODED:
            return FormData(await self._read_urlencoded(request))
        if kind == MULTIPART:
            return FormData(await self._read_multipart(request))
        raise _unsupported(f"{URLENCODED}, {MULTIPART}")

    def parts(self, request: Request) -> Parts:
        """The parts of a multipart body. Raises HTTPError with 400 or 415."""
        if _media_type(request) != MULTIPART:
            raise _unsupported(MULTIPART)
        return Parts(self.limits, request)

    async def _read_urlencoded(self, request: Request) -> list[tuple[str, str]]:
        limit = min(request.max_body_bytes, self.limits.max_form_field_bytes)
        content = await request.body(max_bytes=limit)
        try:
            return form_pairs(content, self.limits.max_form_fields)
        except ValueError as error:
            raise HTTPError(413, str(error)) from None

    async def _read_multipart(self, request: Request) -> list[tuple[str, Value]]:
        reader = _Reader(_boundary(request), self.limits)
        keeper = _Keeper(self.limits, self._offload)
        try:
            async for piece in request.stream(max_bytes=request.max_body_bytes):
                reader.feed(piece)
                while reader.events:
                    await keeper.take(reader.events.popleft())
            reader.finish()
        except BaseException:
            keeper.drop()
            raise
        return keeper.pairs


class _Head:
    """The header of a part: checked."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.headers = Headers(headers)
        kind, parameters = _parameters(_only(self.headers, "content-disposition"))
        if kind != "form-data" or "name" not in parameters:
            raise _malformed("a part has no Content-Disposition: form-data with a name")
        self.name = parameters["name"]
        self.filename = parameters.get("filename")
        for name in (self.name, self.filename or ""):
            if len(name.encode()) > MAX_NAME_BYTES:
                raise HTTPError(413, f"a name in the form is longer than {MAX_NAME_BYTES} bytes")
        kind, parameters = _parameters(_only(self.headers, "content-type") or "text/plain")
        if kind.startswith("multipart/"):
            raise _malformed("a part is multipart itself (RFC 7578 section 4.3)")
        self.charset = CHARSETS.get(parameters.get("charset", "utf-8").lower())
        if self.charset is None:
            raise HTTPError(415, f"a part has a charset other than {', '.join(CHARSETS)}")
        encoding = _only(self.headers, "content-transfer-encoding") or "binary"
        if encoding.lower() not in ("binary", "8bit", "7bit"):
            raise _malformed("a part has a Content-Transfer-Encoding (RFC 7578 section 4.7)")


_Event = _Head | bytes | None    # None ends a part

CHARSETS = {
    "utf-8": "utf-8", "us-ascii": "utf-8", "iso-8859-1": "latin-1", "windows-1252": "cp1252"}


class _Keeper:
    """Gathers the parts of a form into pairs, within their bounds."""

    def __init__(self, limits: FormLimits, offload: Offload) -> None:
        self.pairs: list[tuple[str, Value]] = []
        self._limits = limits
        self._offload = offload
        self._head: _Head | None = None
        self._upload: UploadFile | None = None
        self._pieces: list[bytes] = []      # of the field, or on the way to the disk
        self._pieces_size = 0
        self._field_bytes = 0
        self._memory_bytes = 0

    async def take(self, event: _Event) -> None:
        """One event of the reader; waits while the disk does."""
        if isinstance(event, _Head):
            self._begin(event)
        elif event is None:
            await self._end()
        elif self._upload is None:
            self._count_field(len(event))
            self._pieces.append(event)
        else:
            await self._store(self._upload, event)

    def drop(self) -> None:
        """Close what was begun: there will be no form."""
        for _, value in self.pairs:
            if isinstance(value, UploadFile):
                value._drop()
        self.pairs.clear()
        if self._upload is not None:
            self._upload._drop()
            self._upload = None

    def _begin(self, head: _Head) -> None:
        self._head = head
        if head.filename is None:
            self._count_field(len(head.name.encode()))
        else:
            self._upload = UploadFile(
                filename=head.filename, headers=head.headers, offload=self._offload)

    def _count_field(self, size: int) -> None:
        self._field_bytes += size
        limit = self._limits.max_form_field_bytes
        if self._field_bytes > limit:
            raise HTTPError(413, f"the text fields are larger than {limit} bytes")

    async def _store(self, upload: UploadFile, piece: bytes) -> None:
        upload.size += len(piece)
        if upload.in_memory and not self._pieces:
            if self._memory_bytes + len(piece) <= self._limits.form_memory_bytes:
                self._memory_bytes += len(piece)
                upload.file.write(piece)
                return
            self._memory_bytes -= upload.size - len(piece)
        self._pieces.append(piece)
        self._pieces_size += len(piece)
        if self._pieces_size >= DISK_WRITE_BYTES:
            await self._write(upload)

    async def _write(self, upload: UploadFile) -> None:
        pieces, self._pieces, self._pieces_size = self._pieces, [], 0
        await upload._write(pieces)

    async def _end(self) -> None:
        head, upload = self._head, self._upload
        assert head is not None and head.charset is not None  # noqa: S101, PT018
        if upload is None:
            value = b"".join(self._pieces).decode(head.charset, "replace")
            self._pieces = []
            self.pairs.append((head.name, value))
            return
        if self._pieces:
            await self._write(upload)
        await upload.seek(0)
        self._upload = None
        self.pairs.append((head.name, upload))


class _Reader:
    """Bytes in, events out: python-multipart under our bounds."""

    def __init__(self, boundary: bytes, limits: FormLimits) -> None:
        try:
            from python_multipart.exceptions import FormParserError
            from python_multipart.multipart import MultipartParser
        except ImportError:
            raise MissingExtraError("reading multipart/form-data", "forms") from None
        self._error = FormParserError
        self._marks = _Marks(limits)
        self._parser = MultipartParser(
            boundary,
            self._marks.callbacks(),
            max_header_count=MAX_PART_HEADERS + 1,      # ours is the one that answers
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        self._parser.logger = logging.Logger("silent")  # one line for each mistake of a client's
        self._parser.logger.disabled = True
        self.events = self._marks.events

    @property
    def ended(self) -> bool:
        """Whether the last boundary was seen."""
        return self._marks.ended

    def feed(self, piece: bytes) -> None:
        """The next piece of the body; what it holds goes to `events`."""
        try:
            self._parser.write(piece)
        except self._error as error:
            if "header size" in str(error):
                raise _too_much_header() from None
            raise _malformed("the multipart body is malformed") from None

    def finish(self) -> None:
        """The body is over. Raises HTTPError(400) when it should not be."""
        if not self.ended:
            raise _malformed("the multipart body is cut short")


class _Marks:
    """What the parser calls back; refers to nothing that refers to it."""

    def __init__(self, limits: FormLimits) -> None:
        self.events: deque[_Event] = deque()
        self.ended = False
        self._limits = limits
        self._fields = self._files = 0
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> Any:
        """For a MultipartParser."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._head,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._headers = []
        self._header_bytes = 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise _too_much_header()

    def _header_end(self) -> None:
        if len(self._headers) == MAX_PART_HEADERS:
            raise HTTPError(413, f"a part has more than {MAX_PART_HEADERS} header lines")
        value = self._value.decode("utf-8", "replace").strip(" \t")
        if any((c < " " and c != "\t") or c == "\x7f" for c in value):
            raise _malformed("a part has a control character in its header")
        self._headers.append((self._name.decode("latin-1"), value))
        self._name.clear()
        self._value.clear()

    def _head(self) -> None:
        head = _Head(self._headers)
        if head.filename is None:
            self._fields += 1
            if self._fields > self._limits.max_form_fields:
                raise HTTPError(
                    413, f"the form has more than {self._limits.max_form_fields} fields")
        else:
            self._files += 1
            if self._files > self._limits.max_form_files:
                raise HTTPError(413, f"the form has more than {self._limits.max_form_files} files")
        self.events.append(head)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(data[start:end])

    def _part_end(self) -> None:
        self.events.append(None)

    def _end(self) -> None:
        self.ended = True


# --- header values -----------------------------------------------------------------------


def _media_type(request: Request) -> str:
    value, _, _ = request.headers.get("content-type", "").partition(";")
    return value.strip(" \t").lower()


_BOUNDARY_CHARS = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=? ")


def _boundary(request: Request) -> bytes:
    """The boundary of a multipart body (RFC 2046 section 5.1.1)."""
    _, parameters = _parameters(request.headers["content-type"])
    boundary = parameters.get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise _malformed(f"the boundary has 1 to {MAX_BOUNDARY_BYTES} characters")
    if not _BOUNDARY_CHARS.issuperset(boundary) or boundary.endswith(" "):
        raise _malformed("the boundary has a character that none can have")
    return boundary.encode("ascii")


_PARAMETER_CHARS = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _parameters(value: str) -> tuple[str, dict[str, str]]:
    """A header value like `form-data; name="a"`: what it begins with, and its parameters.

    Linear in the value. Parameters like `filename*` are ignored (RFC 7578 section 4.2).
    Raises HTTPError(400), also for a parameter that is given twice.
    """
    at = value.find(";")
    if at < 0:
        return value.strip(" \t").lower(), {}
    kind = value[:at].strip(" \t").lower()
    found: dict[str, str] = {}
    while at < len(value):
        at = _after_blanks(value, at + 1)
        if at == len(value):
            break
        equals = value.find("=", at)
        name = value[at:equals].lower()
        if equals < 0 or not name or not _PARAMETER_CHARS.issuperset(name) or name in found:
            raise _malformed("a header has a malformed or repeated parameter")
        found[name], at = _parameter_value(value, equals + 1)
    return kind, {name: text for name, text in found.items() if "*" not in name}


def _parameter_value(value: str, at: int) -> tuple[str, int]:
    """The value of a parameter that begins here, and where the next ";" or the end is."""
    if not value.startswith('"', at):
        end = value.find(";", at)
        end = len(value) if end < 0 else end
        text = value[at:end].rstrip(" \t")
        if not text or '"' in text or " " in text or "\t" in text:
            raise _malformed("a header has a parameter without a proper value")
        return text, end
    characters = []
    at += 1
    while at < len(value) and value[at] != '"':
        if value[at] == "\\" and value[at + 1 : at + 2] in ('"', "\\"):
            at += 1     # any other backslash is one: browsers do not escape it
        characters.append(value[at])
        at += 1
    end = _after_blanks(value, at + 1)
    if at >= len(value) or not (end >= len(value) or value[end] == ";"):
        raise _malformed("a header has a quoted value that does not end")
    return "".join(characters), end


def _after_blanks(value: str, at: int) -> int:
    while at < len(value) and value[at] in " \t":
        at += 1
    return at


def _only(headers: Headers, name: str) -> str:
    """The value of a field that may be there once; "" when it is not."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise _malformed(f"a part has more than one {name}")
    return values[0] if values else ""


def _malformed(detail: str) -> HTTPError:
    return HTTPError(400, detail)


def _too_much_header() -> HTTPError:
    return HTTPError(413, f"a part has more than {MAX_PART_HEADER_BYTES} bytes of header")


def _unsupported(accepted: str) -> HTTPError:
    return HTTPError(415, f"the body is no form: send {accepted}", {"accept": accepted})


async def _to_thread(function: Callable[..., Any], *args: Any) -> Any:
    import asyncio

    return await asyncio.to_thread(function, *args)
