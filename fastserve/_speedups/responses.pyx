# Responses: see responses.pxd for the contract.
#
# A response is a status, a body and headers that were checked when they were set.

from fastserve._speedups.messages cimport Request
from fastserve._speedups.multidict cimport MutableHeaders, mutable_headers

cdef object dumps = None      # orjson's, once something is encoded or served: its import is slow

cdef bytes TEXT = b"text/plain; charset=utf-8"
cdef bytes HTML = b"text/html; charset=utf-8"
cdef bytes JSON = b"application/json"
cdef bytes OCTETS = b"application/octet-stream"


cpdef int load_encoder() except -1:
    """Import orjson now; an engine does it before the first request."""
    global dumps
    from orjson import dumps as orjson_dumps
    dumps = orjson_dumps
    return 0


cdef bytes dump_json(object value):
    if dumps is None:
        load_encoder()
    return dumps(value)


cdef bytes checked_media_type(object value):
    # Through the same gate as any header value.
    cdef MutableHeaders gate
    if value is None:
        return None
    gate = mutable_headers(None)
    gate.insert("content-type", value)
    return gate.pairs[0][1]


cdef class Response:
    """A status, a body and headers.

    body:          bytes, or str for text/plain in UTF-8
    status:        200 to 599
    headers:       a mapping, or (name, value) pairs; a content-type here wins
    content_type:  of the body; the default follows from the body's type
    Raises TypeError or ValueError for what cannot be sent.
    """

    def __cinit__(self):
        self.status = 200

    def __init__(self, body=b"", status=200, headers=None, *, content_type=None):
        if type(body) is bytes:
            self.body = <bytes>body
            if content_type is None and self.body:
                self.media_type = OCTETS
        elif isinstance(body, str):
            self.body = body.encode()
            if content_type is None:
                self.media_type = TEXT
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body = bytes(body)
            if content_type is None:
                self.media_type = OCTETS
        else:
            raise TypeError(f"the body of a Response is bytes or str, not {type(body).__name__}; "
                            "Response.json() takes other values")
        if content_type is not None:
            self.media_type = checked_media_type(content_type)
        self.status = checked_status(status)
        if headers is not None:
            self.own_headers = mutable_headers(headers)

    @property
    def headers(self):
        """The header fields, to read and to change; Content-Type among them only when set here."""
        if self.own_headers is None:
            self.own_headers = mutable_headers(None)
        return self.own_headers

    @property
    def content_type(self):
        """The value of Content-Type, or None."""
        if self.own_headers is not None:
            own = self.own_headers.get("content-type")
            if own is not None:
                return own
        return None if self.media_type is None else self.media_type.decode("latin-1")

    @content_type.setter
    def content_type(self, value):
        if self.own_headers is not None:
            self.own_headers.pop("content-type")
        self.media_type = checked_media_type(value)

    @staticmethod
    def text(content, status=200, headers=None):
        """A text/plain response in UTF-8."""
        return make_response(content.encode(), status, headers, TEXT)

    @staticmethod
    def html(content, status=200, headers=None):
        """A text/html response in UTF-8."""
        return make_response(content.encode(), status, headers, HTML)

    @staticmethod
    def json(content, status=200, headers=None):
        """An application/json response of whatever orjson encodes."""
        return make_response(dump_json(content), status, headers, JSON)

    @staticmethod
    def redirect(location, status=307, headers=None):
        """Send the client elsewhere; what is not ASCII is percent-encoded (RFC 9110 section 10.2.2)."""
        from urllib.parse import quote

        if not 300 <= status <= 399:
            raise ValueError(f"the status of a redirect is from 300 to 399, not {status}")
        response = make_response(b"", status, headers, None)
        response.headers["location"] = quote(location, safe="!#$%&'()*+,/:;=?@[]~")
        return response

    def set_cookie(self, name, value="", *, max_age_s=None, expires=None, path="/", domain=None,
                   secure=False, httponly=False, samesite="lax", partitioned=False):
        """Add a Set-Cookie field (RFC 6265 section 4.1).

        max_age_s:  seconds to live; None: until the browser closes
        expires:    a datetime, or None
        samesite:   "lax", "strict", "none" or None
        """
        self.headers.add("set-cookie", render_cookie(
            name, value, max_age_s, expires, path, domain, secure, httponly, samesite, partitioned))

    def delete_cookie(self, name, *, path="/", domain=None):
        """Make the client forget a cookie."""
        self.set_cookie(name, "", max_age_s=0, path=path, domain=domain, samesite=None)

    def __repr__(self):
        return f"<Response {self.status}, {len(self.body)} bytes>"

    cdef Response copied(self):
        cdef Response made = <Response>type(self).__new__(type(self))
        own = getattr(self, "__dict__", None)       # of an application's subclass
        made.status = self.status
        made.body = self.body
        made.media_type = self.media_type
        if self.own_headers is not None:
            made.own_headers = mutable_headers(list(self.own_headers.items()))
        if own:
            made.__dict__.update(own)
        return made


cdef class StreamingResponse(Response):
    """A response whose body is sent as it is made.

    source:    an iterable or async iterable of bytes or str (sent as UTF-8)
    length:    of the body in bytes, where it is known: sent as Content-Length, and checked
    trailers:  fields to send behind a chunked body: a mapping, or a function that makes one
               when the body ended
    """

    def __init__(self, source, status=200, headers=None, *, content_type=None, length=None,
                 trailers=None):
        if not hasattr(source, "__aiter__") and not hasattr(source, "__iter__") or isinstance(
                source, (str, bytes, bytearray, memoryview, dict)):
            raise TypeError("the source of a StreamingResponse is an iterable or async iterable "
                            f"of bytes or str, not {type(source).__name__}")
        if length is not None and (type(length) is not int or length < 0):
            raise ValueError(f"length is a number of bytes, not {length!r}")
        if length is not None and trailers is not None:
            raise ValueError("trailers follow a chunked body (RFC 9112 section 7.1.2): "
                             "leave out length or trailers")
        Response.__init__(self, b"", status, headers,
                          content_type="application/octet-stream" if content_type is None else content_type)
        self.source = source
        self.length = -1 if length is None else length
        self.trailers = trailers

    cdef Response copied(self):
        cdef StreamingResponse made = <StreamingResponse>Response.copied(self)
        made.source = self.source
        made.length = self.length
        made.trailers = self.trailers
        made.waits_for_first = self.waits_for_first
        return made


cdef class ConditionalResponse(Response):
    """A response that is decided by the request it answers; prepare() says what is sent."""

    cpdef object prepare(self, Request request):
        raise NotImplementedError


cdef class FileSpan:
    """A part of an open file: (fd, offset, size)."""

    def __init__(self, int fd, int64_t offset, int64_t size):
        self.fd = fd
        self.offset = offset
        self.size = size


cdef class PartsResponse(Response):
    """A body of known length in parts, some of them in files.

    parts:     bytes and FileSpan, in order
    on_close:  called once, when all of it is sent or given up
    """

    def __init__(self, parts, status=200, headers=None, *, content_type=None, on_close=None):
        Response.__init__(self, b"", status, headers, content_type=content_type)
        self.parts = parts
        self.on_close = on_close
        self.length = 0
        for part in parts:
            self.length += (<FileSpan>part).size if type(part) is FileSpan else len(part)

    cdef Response copied(self):
        cdef PartsResponse made = <PartsResponse>Response.copied(self)
        made.parts = self.parts
        made.length = self.length
        made.on_close = self.on_close
        return made


cdef int checked_status(object status) except -1:
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"a status is an int, not {type(status).__name__}")
    if not 200 <= status <= 599:
        raise ValueError(f"a status is from 200 to 599, not {status}")
    return status


cdef Response make_response(bytes body, object status, object headers, bytes media_type):
    cdef Response response = Response.__new__(Response)
    response.body = body
    response.status = checked_status(status)
    response.media_type = media_type
    if headers is not None:
        response.own_headers = mutable_headers(headers)
    return response


cdef str COOKIE_NAME_EXCLUDED = ' \t()<>@,;:\\"/[]?={}'


cdef str render_cookie(name, value, max_age_s, expires, path, domain, secure, httponly, samesite,
                       partitioned):
    if not name or not name.isascii() or any(c in COOKIE_NAME_EXCLUDED or c < " " for c in name):
        raise ValueError(f"cookie name {name!r} is no token (RFC 6265 section 4.1.1)")
    if any(c in ' ",;\\' or not "!" <= c <= "~" for c in value):
        raise ValueError(f"cookie {name!r} has a value that needs encoding: {value!r}")
    parts = [f"{name}={value}"]
    if max_age_s is not None:
        parts.append(f"Max-Age={int(max_age_s)}")
    if expires is not None:
        from email.utils import format_datetime
        parts.append(f"Expires={format_datetime(expires, usegmt=True)}")
    for attribute, given in (("Path", path), ("Domain", domain)):
        if given is not None:
            if ";" in given:
                raise ValueError(f"the {attribute.lower()} of cookie {name!r} holds a ';'")
            parts.append(f"{attribute}={given}")
    if samesite is not None:
        if samesite.lower() not in ("lax", "strict", "none"):
            raise ValueError(f"samesite is 'lax', 'strict', 'none' or None, not {samesite!r}")
        parts.append(f"SameSite={samesite.capitalize()}")
    for flag, given in (("Secure", secure), ("HttpOnly", httponly), ("Partitioned", partitioned)):
        if given:
            parts.append(flag)
    return "; ".join(parts)


cdef Response to_response(object value):
    if isinstance(value, Response):
        return <Response>value
    if isinstance(value, str):
        return make_response((<str>value).encode() if type(value) is str else str(value).encode(),
                             200, None, TEXT)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return make_response(bytes(value), 200, None, OCTETS)
    if value is None:
        return make_response(b"", 204, None, None)
    if type(value) is tuple:
        return response_of_tuple(<tuple>value)
    if hasattr(type(value), "__next__") or hasattr(type(value), "__anext__"):
        return stream_of(value)
    return make_response(dump_json(value), 200, None, JSON)


cdef StreamingResponse stream_of(object iterator):
    # What a generator yields first tells what its body is.
    cdef StreamingResponse response = StreamingResponse.__new__(StreamingResponse)
    response.body = b""
    response.source = iterator
    response.length = -1
    response.waits_for_first = True
    return response


cdef Response response_of_tuple(tuple value):
    # (body, status) or (body, status, headers).
    cdef Response response
    if len(value) not in (2, 3) or type(value[1]) is not int:
        raise TypeError("a handler returned a tuple that is neither (body, status) nor "
                        f"(body, status, headers): {value!r:.200}")
    response = to_response(value[0])
    if response is value[0]:
        response = response.copied()    # it may be one that is kept, and returned again
    response.status = checked_status(value[1])
    if len(value) == 3 and value[2] is not None:
        for name, given in mutable_headers(value[2]).items():
            response.headers.add(name, given)
    return response


def as_response(value):
    """What a handler returned, as a Response; for middleware and tests."""
    return to_response(value)
