# Requests read by llhttp: see httptools_parser.pxd.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr

from fastserve._speedups.chunks cimport Chunks, read_chunks
from fastserve._speedups.head cimport (
    FIELDS, FIRST_LINE, METHOD_OTHER, REQUEST_LINE, FieldMemo, Head, finish_head,
    judge_field, judge_request_line, judge_size_of_line, judge_size_of_rest, judge_underscores)
from fastserve._speedups.parser cimport Parser

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

# llhttp refuses the methods it does not know, and of some it wants another protocol's name
# behind the target. Those go by this one, which has no rules of its own.
cdef bytes STAND_IN = b"POST"

# For a body whose head somebody else has read.
cdef bytes CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


cdef class Reading:
    def __cinit__(self):
        self.fields = []
        self.body = []

    def on_url(self, bytes url):
        self.url = url if self.url is None else self.url + url

    def on_header(self, bytes name, bytes value):
        self.fields.append((name, value))

    def on_headers_complete(self):
        self.headers_complete = True

    def on_body(self, bytes body):
        self.body.append(body)

    def on_message_complete(self):
        self.message_complete = True


cdef class HttptoolsParser(Parser):
    """llhttp under the rules of NativeParser. One object reads one connection."""

    cdef Parser for_connection(self):
        cdef HttptoolsParser parser = HttptoolsParser.__new__(HttptoolsParser)
        parser.limits = self.limits
        return parser

    cdef Py_ssize_t parse_head(
            self, const char* data, Py_ssize_t size, Head* head, FieldMemo* memo) noexcept:
        # llhttp reads every head anew: the memo stays as it is.
        try:
            return self.next_lines(data, size, head)
        except HttpParserError:
            return -400

    cdef Py_ssize_t parse_chunks(
            self, const char* data, Py_ssize_t size, Chunks* chunks,
            const char** body, Py_ssize_t* body_size) noexcept:
        try:
            return self.next_chunks(data, size, chunks, body, body_size)
        except HttpParserError:
            return -400

    cdef void begin(self) except *:
        self.reading = Reading()
        self.machine = HttpRequestParser(self.reading)
        self.fields = []

    cdef bint feed(self, bytes data) except *:
        # Whether llhttp takes the next bytes for another protocol's. It says so by raising.
        try:
            self.machine.feed_data(data)
        except HttpParserUpgrade:
            return True
        return False

    cdef Py_ssize_t next_lines(self, const char* data, Py_ssize_t size, Head* head) except? -1:
        cdef Py_ssize_t stop = min(size, <Py_ssize_t>self.limits.max_head_bytes)
        cdef Py_ssize_t start
        cdef const char* line
        cdef const char* lf
        cdef bint blank
        cdef int status
        if head.phase == FIRST_LINE and head.scanned == 0:
            self.begin()
        while True:
            line = data + head.line_start
            start = max(head.line_start, head.scanned)
            lf = <const char*>memchr(data + start, c"\n", <size_t>(stop - start)) if start < stop else NULL
            if lf == NULL:
                head.scanned = <unsigned int>stop
                return judge_size_of_rest(&self.limits, head, stop - head.line_start)
            blank = lf - line == 1 and line[0] == c"\r"
            if head.phase == FIRST_LINE:
                head.phase = REQUEST_LINE
                if blank:
                    head.line_start += 2
                    continue
            status = judge_size_of_line(&self.limits, head, lf + 1 - line, blank)
            if status == 0:
                if head.phase != FIELDS:
                    status = self.next_request_line(data, line, lf, head)
                elif not blank:
                    status = self.next_field_line(line[:lf + 1 - line], head)
                else:
                    status = self.last_line(data, head)
                    return status if status else lf + 1 - data
            if status:
                return status
            head.line_start = <unsigned int>(lf + 1 - data)

    cdef int next_request_line(
            self, const char* data, const char* line, const char* lf, Head* head) except? -1:
        cdef int status = judge_request_line(&self.limits, data, line, lf, head)
        cdef Py_ssize_t skipped
        if status:
            return status
        if head.method == METHOD_OTHER:
            skipped = head.method_size
            self.feed(STAND_IN + line[skipped:lf + 1 - line])
        else:
            self.feed(line[:lf + 1 - line])
        head.fields_start = <unsigned int>(lf + 1 - data)
        head.phase = FIELDS
        return 0

    cdef int next_field_line(self, bytes line, Head* head) except? -1:
        # llhttp refuses names that are no tokens and values with controls; it would take a
        # folded line (RFC 9112 section 5.2) and, here and there, line ends that are not CRLF.
        # A HTAB behind a value is OWS (RFC 9110 section 5.6.3); llhttp would keep it, and
        # not know "chunked" with it: so it does not get to see any.
        cdef bytes name, value
        cdef int status
        if line.startswith((b" ", b"\t")) or line.find(b"\r") != len(line) - 2:
            return -400
        line = line.removesuffix(b"\r\n").rstrip(b" \t")
        self.feed(line + b"\r\n")
        name, _, value = line.partition(b":")
        value = value.lstrip(b" \t")
        status = judge_field(
            head, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
            PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        self.fields.append((name, value))
        head.header_count += 1
        return status

    cdef int last_line(self, const char* data, Head* head) except? -1:
        # llhttp reports a field when it sees the next line, so it is held to account here.
        cdef int status = judge_underscores(head, data)
        cdef Py_ssize_t size = head.target_size
        cdef bint upgraded, has_body = head.chunked or head.content_length > 0
        cdef bytes method
        if status == 0:
            status = finish_head(head)
        if status:
            return status
        upgraded = self.feed(b"\r\n")
        if head.method == METHOD_OTHER:
            method = STAND_IN
        else:
            method = (data + head.method_start)[:<Py_ssize_t>head.method_size]
        if self.machine.get_method() != method \
                or self.reading.url != (data + head.target_start)[:size] \
                or self.machine.get_http_version() != f"1.{head.minor_version}" \
                or self.reading.fields != self.fields \
                or not self.reading.headers_complete \
                or self.reading.message_complete != (upgraded or not has_body):
            return -400
        if upgraded and has_body:
            # We ignore such an Upgrade, llhttp the body: it needs to hear of that again.
            self.machine = None
        return 0

    cdef Py_ssize_t next_chunks(
            self, const char* data, Py_ssize_t size, Chunks* chunks,
            const char** body, Py_ssize_t* body_size) except? -1:
        # llhttp knows neither the limits nor all of the grammar of extensions, and takes
        # trailers that change the framing. So the rules read first, and llhttp has to find
        # the same data in what they consumed.
        cdef Py_ssize_t consumed = read_chunks(
            &self.limits.body, data, size, chunks, body, body_size)
        if consumed <= 0:
            return consumed
        if self.machine is None:
            self.begin()
            self.feed(CHUNKED_HEAD)
        self.feed(PyBytes_FromStringAndSize(data, consumed))
        found = b"".join(self.reading.body)
        self.reading.body.clear()
        if found != PyBytes_FromStringAndSize(body[0], body_size[0]) \
                or self.reading.message_complete != chunks.done:
            return -400
        return consumed
