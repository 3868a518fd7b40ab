# Responses as bytes.
#
# A Serializer belongs to one worker. It appends to a buffer and never sends. Whatever it
# raises (ValueError, TypeError) names the offending part; the buffer is then as before.

from libc.stdint cimport int64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.responses cimport Response

cdef enum Persistence:
    PERSIST_SILENT = 0      # HTTP/1.1, the connection stays
    PERSIST_SAID = 1        # HTTP/1.0, the connection stays: "Connection: keep-alive"
    PERSIST_NOT = 2         # "Connection: close"

cdef enum Unknown:
    CHUNKED = -1            # a body of unknown length, in chunks
    UNTIL_CLOSE = -2        # the same for HTTP/1.0

cdef class Serializer:
    cdef Buffer common      # "Server: ...", "Date: ..." lines
    cdef Buffer text        # whole heads of a 200 up to the digits of Content-Length
    cdef Buffer json
    cdef Buffer octets
    cdef bytes server_line
    cdef readonly int status        # of what was appended last
    cdef int64_t body_size          # and of its body, sent or not; negative: not known
    cdef dict status_lines
    cdef int template(self, Buffer head, bytes media_type) except -1

    # Append what a handler returned. Returns None, or a large body that is not appended
    # and must follow by reference. May turn `persistence` into PERSIST_NOT.
    cdef bytes add_value(self, Buffer out, object value, bint head_only, Persistence* persistence)

    cdef bytes add_simple(self, Buffer out, Buffer template, const char* body, Py_ssize_t size,
                          object owner, bint head_only, Persistence persistence)
    cdef bytes add_response(self, Buffer out, Response response, bint head_only,
                            Persistence* persistence)

    # Append the head of a body that follows by itself. `length`: of it, or CHUNKED, UNTIL_CLOSE;
    # `media_type`: where the response has none.
    cdef int add_open_head(self, Buffer out, Response response, int64_t length, bytes media_type,
                           bint head_only, Persistence* persistence) except -1

    # Append an answer of our own: text/plain, with the reason phrase or `detail` as its body.
    cdef int add_plain(self, Buffer out, int status, bytes detail, str field, bint head_only,
                       Persistence persistence) except -1
    cdef bytes status_line(self, int status)
    cdef int add_head(self, Buffer out, Response response, int64_t size, bint head_only,
                      Persistence* persistence) except -1
    cdef bint framing_field(self, bytes name, bytes value, Persistence* persistence) except -1
