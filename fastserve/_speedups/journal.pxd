# The access log: a line for each request, made here, written elsewhere and in batches.
#
# add() only appends to a buffer; flush() hands all of it to `sink` as one bytes object, whole
# lines. Nothing a stranger sent can forge a line or move a cursor: every byte that is not
# printable ASCII is escaped as the format wants it. No line is longer than LOG_LINE_BYTES, which a
# pipe takes whole: what a stranger made longer is cut, and ends in "...".

from libc.stdint cimport int64_t, uint64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.observed cimport Observed

cpdef enum:
    LOG_LINE_BYTES = 4096           # of one line, at most
    MAX_LOGGED_HEADERS = 16
    MAX_LOGGED_NAME_BYTES = 64

cdef enum Format:
    TEXT = 0
    JSON = 1
    LOGFMT = 2

cdef enum:
    FLUSH_BYTES = 32 * 1024     # so much is not kept for the next tick
    TIME_BYTES = 32
    MAX_MATCHES = 64            # fields of one head that are written down

# A chosen field: its name, in small letters, and what stands before its value in a line.
cdef struct Chosen:
    const char* name            # borrowed from Journal.names
    Py_ssize_t size
    const char* lead            # borrowed from Journal.leads
    Py_ssize_t lead_size

cdef struct Match:
    int index                   # of the Chosen
    const char* value
    Py_ssize_t size

cdef class Journal:
    cdef Buffer lines
    cdef object sink            # called with bytes
    cdef Format form
    cdef object wall_offset_ns  # called for the wall clock's distance from CLOCK_MONOTONIC
    cdef int64_t offset_ns      # what it said last
    cdef int64_t second         # since the epoch: the one that `time` is
    cdef char[TIME_BYTES] time  # the start of a line's time, up to its whole seconds
    cdef Py_ssize_t time_size
    cdef bint choosy            # not every request has a line
    cdef uint64_t chance        # of a request, out of 2**64 - 1
    cdef uint64_t random        # never 0
    cdef int64_t slow_ns
    cdef tuple names, leads
    cdef int chosen_count
    cdef Chosen[MAX_LOGGED_HEADERS] chosen
    cdef Py_ssize_t leads_bytes # in a line, with what ends each value, and 3 for a cut one

    cdef int add(self, const Observed* seen) except -1
    cpdef int flush(self) except -1

    cdef bint wanted(self, const Observed* seen) noexcept
    cdef int64_t wall_ns(self, int64_t monotonic_ns) noexcept
    cdef int render_second(self, int64_t second) except -1
    cdef char* put_time(self, char* at, const Observed* seen) except NULL
    cdef char* text_line(self, char* at, const Observed* seen) except NULL
    cdef char* json_line(self, char* at, const Observed* seen) except NULL
    cdef char* logfmt_line(self, char* at, const Observed* seen) except NULL
    cdef char* put_headers(self, char* at, const char* line, const Observed* seen) except NULL
    cdef int find_headers(self, const Observed* seen, Match* matches) noexcept

# The same, for who wants fields instead of a line: `sink` is called with a dict for each request
# at once, and costs what it costs.
cdef class RecordJournal(Journal):
    cdef dict headers_of(self, const Observed* seen)
