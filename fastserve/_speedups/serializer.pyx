# Responses as bytes: see serializer.pxd for the contract (RFC 9112 sections 4 and 6).
#
# The commonest heads are rendered once a second, when the date changes, and copied; only
# the digits of Content-Length are written per response.

import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from fastserve._speedups.dates cimport DATE_BYTES, put_date
from fastserve._speedups.digits cimport DIGITS, put_number
from fastserve._speedups.responses cimport Response, dump_json, to_response
from fastserve._speedups.multidict cimport MutableHeaders

from fastserve.errors import reason_phrase

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    LARGE_BODY = 32 * 1024      # sent by reference from here on; copying less is cheaper

cdef const char* ENDINGS[3]
ENDINGS[<int>PERSIST_SILENT] = b"\r\n\r\n"
ENDINGS[<int>PERSIST_SAID] = b"\r\nConnection: keep-alive\r\n\r\n"
ENDINGS[<int>PERSIST_NOT] = b"\r\nConnection: close\r\n\r\n"
cdef Py_ssize_t ENDING_SIZES[3]
ENDING_SIZES[<int>PERSIST_SILENT] = 4
ENDING_SIZES[<int>PERSIST_SAID] = 28
ENDING_SIZES[<int>PERSIST_NOT] = 23
cdef enum:
    LONGEST_ENDING = 28


cdef inline void put_digits(Buffer out, int64_t value) noexcept:
    # The caller has reserved DIGITS bytes.
    out.size = put_number(out.data + out.size, <uint64_t>value) - out.data


cdef int append_bytes(Buffer out, bytes data) except -1:
    return out.append(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class Serializer:
    """Renders responses; one per worker.

    server_header:  the value of Server, or None for no such header
    """

    def __init__(self, server_header="fastserve"):
        self.common = Buffer()
        self.text = Buffer()
        self.json = Buffer()
        self.octets = Buffer()
        self.status_lines = {}
        self.server_line = b""
        if server_header is not None:
            gate = MutableHeaders({"server": server_header})
            self.server_line = b"Server: %b\r\n" % gate["server"].encode("latin-1")
        self.set_time(time.time())

    def set_time(self, double seconds):
        """Render the Date of every response from now on."""
        self.common.size = 0
        append_bytes(self.common, self.server_line)
        append_bytes(self.common, b"Date: ")
        self.common.reserve(DATE_BYTES)
        put_date(self.common.data + self.common.size, <int64_t>seconds)
        self.common.size += DATE_BYTES
        append_bytes(self.common, b"\r\n")
        self.template(self.text, b"text/plain; charset=utf-8")
        self.template(self.json, b"application/json")
        self.template(self.octets, b"application/octet-stream")

    cdef int template(self, Buffer head, bytes media_type) except -1:
        head.size = 0
        append_bytes(head, b"HTTP/1.1 200 OK\r\n")
        head.append(self.common.data, self.common.size)
        append_bytes(head, b"Content-Type: %b\r\nContent-Length: " % media_type)
        return 0

    cdef bytes status_line(self, int status):
        cdef bytes line = self.status_lines.get(status)
        if line is None:
            line = f"HTTP/1.1 {status} {reason_phrase(status)}\r\n".encode()
            self.status_lines[status] = line
        return line

    cdef bytes add_value(self, Buffer out, object value, bint head_only, Persistence* persistence):
        cdef const char* data
        cdef Py_ssize_t size
        if type(value) is str:
            data = PyUnicode_AsUTF8AndSize(value, &size)
            return self.add_simple(out, self.text, data, size, None, head_only, persistence[0])
        if type(value) is dict or type(value) is list:
            body = dump_json(value)
            return self.add_simple(out, self.json, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
                                   body, head_only, persistence[0])
        if type(value) is bytes:
            return self.add_simple(out, self.octets, PyBytes_AS_STRING(value),
                                   PyBytes_GET_SIZE(value), value, head_only, persistence[0])
        return self.add_response(out, to_response(value), head_only, persistence)

    cdef bytes add_simple(self, Buffer out, Buffer template, const char* body, Py_ssize_t size,
                          object owner, bint head_only, Persistence persistence):
        cdef bint apart = size >= LARGE_BODY
        self.status = 200
        self.body_size = size
        out.reserve(template.size + DIGITS + LONGEST_ENDING + (0 if apart else size))
        out.put(template.data, template.size)
        put_digits(out, size)
        out.put(ENDINGS[<int>persistence], ENDING_SIZES[<int>persistence])
        if head_only:
            return None
        if apart:
            return PyBytes_FromStringAndSize(body, size) if owner is None else <bytes>owner
        out.put(body, size)
        return None

    cdef bytes add_response(self, Buffer out, Response response, bint head_only,
                            Persistence* persistence):
        cdef Py_ssize_t mark = out.size
        cdef Py_ssize_t size
        cdef bytes body = response.body
        cdef int status = response.status
        if body is None:
            raise TypeError("the body of a Response is None")
        if not 200 <= status <= 599:
            raise ValueError(f"a status is from 200 to 599, not {status}")
        size = PyBytes_GET_SIZE(body)
        if size and (status == 204 or status == 304 or status == 205):
            raise ValueError(f"a {status} has no body, but {size} bytes were returned "
                             "(RFC 9110 sections 15.3.5, 15.3.6, 15.4.5)")
        try:
            self.add_head(out, response, size, head_only, persistence)
        except BaseException:
            out.size = mark
            raise
        if head_only or size == 0:
            return None
        if size >= LARGE_BODY:
            return body
        out.append(PyBytes_AS_STRING(body), size)
        return None

    cdef int add_open_head(self, Buffer out, Response response, int64_t length, bytes media_type,
                           bint head_only, Persistence* persistence) except -1:
        cdef Py_ssize_t mark = out.size
        cdef int status = response.status
        if not 200 <= status <= 599:
            raise ValueError(f"a status is from 200 to 599, not {status}")
        if length != 0 and (status == 204 or status == 304 or status == 205):
            raise ValueError(f"a {status} has no body, but one was returned "
                             "(RFC 9110 sections 15.3.5, 15.3.6, 15.4.5)")
        if response.media_type is None:
            response.media_type = media_type
        try:
            return self.add_head(out, response, length, head_only, persistence)
        except BaseException:
            out.size = mark
            raise

    cdef int add_head(self, Buffer out, Response response, int64_t size, bint head_only,
                      Persistence* persistence) except -1:
        cdef bytes name, value
        cdef bytes length = None
        cdef bint own_type = False, own_date = False, own_server = False
        cdef int status = response.status
        cdef MutableHeaders headers = response.own_headers
        self.status = status
        self.body_size = size
        append_bytes(out, self.status_line(status))
        if headers is not None:
            for name, value in headers.pairs:
                if len(name) == 4 and name.lower() == b"date":
                    own_date = True
                elif len(name) == 6 and name.lower() == b"server":
                    own_server = True
                elif len(name) == 12 and name.lower() == b"content-type":
                    own_type = True
        if not own_date and not own_server:
            out.append(self.common.data, self.common.size)
        elif not own_server:
            append_bytes(out, self.server_line)
        elif not own_date:
            out.append(self.common.data + len(self.server_line),
                       self.common.size - len(self.server_line))
        if response.media_type is not None and not own_type and status != 204:
            append_bytes(out, b"Content-Type: ")
            append_bytes(out, response.media_type)
            append_bytes(out, b"\r\n")
        if headers is not None:
            for name, value in headers.pairs:
                if self.framing_field(name, value, persistence):
                    if len(name) == 14:
                        length = value
                    continue
                append_bytes(out, name)
                append_bytes(out, b": ")
                append_bytes(out, value)
                append_bytes(out, b"\r\n")
        if length is not None and not head_only and length != b"%d" % size:
            raise ValueError(f"header 'content-length' says {length.decode()}, but "
                             + (f"the body has {size} bytes; leave it out" if size >= 0 else
                                "the body is a stream; give StreamingResponse its length="))
        if size == CHUNKED and length is None:
            append_bytes(out, b"Transfer-Encoding: chunked")
        elif status != 204 and status != 304 and size != UNTIL_CLOSE:
            append_bytes(out, b"Content-Length: ")
            if length is not None:
                append_bytes(out, length)
            else:
                out.reserve(DIGITS)
                put_digits(out, size)
        else:
            # The last line has its CRLF already.
            out.append(ENDINGS[<int>persistence[0]] + 2, ENDING_SIZES[<int>persistence[0]] - 2)
            return 0
        out.append(ENDINGS[<int>persistence[0]], ENDING_SIZES[<int>persistence[0]])
        return 0

    cdef bint framing_field(self, bytes name, bytes value, Persistence* persistence) except -1:
        # Fields that frame the message are ours to write (RFC 9112 sections 6 and 9).
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        cdef bytes folded
        if size != 14 and size != 10 and size != 17:
            return False
        folded = name.lower()
        if folded == b"content-length":
            if not value.isdigit():
                raise ValueError(f"header 'content-length' is no number: {value.decode('latin-1')!r}")
            return True
        if folded == b"transfer-encoding":
            raise ValueError("header 'transfer-encoding' is the server's to set; leave it out")
        if folded == b"connection":
            if value.lower() == b"close":
                persistence[0] = PERSIST_NOT
            elif value.lower() != b"keep-alive":
                raise ValueError("header 'connection' may only be 'close' here, "
                                 f"not {value.decode('latin-1')!r}")
            return True
        return False

    cdef int add_plain(self, Buffer out, int status, bytes detail, str field, bint head_only,
                       Persistence persistence) except -1:
        cdef bytes line = self.status_line(status)
        self.status = status
        self.body_size = 0
        append_bytes(out, line)
        out.append(self.common.data, self.common.size)
        if field is not None:
            append_bytes(out, f"{field}\r\n".encode("latin-1"))
        if status == 204:
            out.append(ENDINGS[<int>persistence] + 2, ENDING_SIZES[<int>persistence] - 2)
            return 0
        if detail is None:
            detail = line[13:-2]
        self.body_size = PyBytes_GET_SIZE(detail)
        append_bytes(out, b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: ")
        out.reserve(DIGITS)
        put_digits(out, PyBytes_GET_SIZE(detail))
        out.append(ENDINGS[<int>persistence], ENDING_SIZES[<int>persistence])
        if not head_only:
            append_bytes(out, detail)
        return 0
