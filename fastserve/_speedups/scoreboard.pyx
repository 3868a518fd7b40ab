# What one worker counts: see scoreboard.pxd for the contract.

import mmap

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastserve._speedups.observed cimport Observed
from fastserve._speedups.plan cimport Plan
from fastserve._speedups.router cimport METHOD_COUNT

cdef extern from *:
    """
    #define FS_TOP_BIT(n) (63 - __builtin_clzll(n))
    """
    int FS_TOP_BIT(unsigned long long n) noexcept

cdef enum:
    SHORTEST_BIT = 13           # of bucket 1: from 8,192 ns
    NO_ROUTE = 0
    OTHER_ROUTES = 1
    WORDS_PER_ROW = ROW_BYTES >> 3
    FIRST_ROW = HEADER_BYTES >> 3

cdef inline int row_of(Scoreboard board, const Observed* seen) except -1:
    # Without a reference to the plan, for what was asked for before.
    cdef int place
    if seen.plan == NULL:
        return NO_ROUTE
    place = (<Plan>seen.plan).number * METHOD_COUNT + seen.method
    if place < board.places and board.row_of[place]:
        return board.row_of[place]
    return board.new_row(<Plan>seen.plan, seen.method)


cdef tuple METHOD_NAMES = (
    "other", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")

# By index in a row. The first stand for every status of their class that has no place.
KNOWN = (
    *range(200, 209), 226, *range(300, 309), *range(400, 419), *range(421, 427), 428, 429, 431,
    451, 499, *range(500, 509), 511)
STATUS_NAMES = ("1xx", "2xx", "3xx", "4xx", "5xx", *map(str, KNOWN))

cdef uint8_t[600] INDEX_OF
for _status in range(100, 600):
    INDEX_OF[_status] = _status // 100 - 1
for _index, _status in enumerate(KNOWN):
    INDEX_OF[_status] = 5 + _index


cdef int bucket_of(int64_t duration_ns) noexcept:
    cdef int top, bucket
    if duration_ns < 1 << SHORTEST_BIT:
        return 0
    top = FS_TOP_BIT(<uint64_t>duration_ns)
    bucket = 1 + 2 * (top - SHORTEST_BIT) + <int>((duration_ns >> (top - 1)) & 1)
    return <int>(bucket if bucket < BUCKETS else BUCKETS - 1)


def bucket_limit_ns(int bucket):
    """What every duration in a bucket is below; 0 for the last, which has no limit."""
    if bucket >= BUCKETS - 1:
        return 0
    return (3 if bucket & 1 else 2) << (SHORTEST_BIT - 1 + bucket // 2)


cdef class Scoreboard:
    """A worker's block of a shared file, for writing.

    fd:         of the file, from which the block is mapped
    block:      its number
    slot:       whose worker this is
    recording:  whether the last requests are written down one by one
    """

    def __init__(self, int fd, int block, *, int slot=0, bint recording=True):
        cdef timespec wall
        mapping = mmap.mmap(fd, BLOCK_BYTES, offset=block * BLOCK_BYTES)
        PyObject_GetBuffer(mapping, &self.view, PyBUF_WRITABLE)
        self.words = <uint64_t*>self.view.buf
        self.recording = recording
        clock_gettime(CLOCK_REALTIME, &wall)
        self.words[AT_LAYOUT] = LAYOUT
        self.words[AT_PID] = getpid()
        self.words[AT_SLOT] = slot
        self.words[AT_BORN_NS] = now_ns()
        self.words[AT_WALL_OFFSET_NS] = (
            <uint64_t>wall.tv_sec * 1000000000 + wall.tv_nsec - self.words[AT_BORN_NS])
        self.words[AT_ROWS] = 2
        self.name_row(OTHER_ROUTES, b"other (other routes)")

    def __dealloc__(self):
        free(self.row_of)
        if self.words != NULL:
            PyBuffer_Release(&self.view)

    cdef int begin(self, const Observed* seen) except -1:
        cdef uint64_t* record
        cdef Py_ssize_t size
        cdef char* line
        self.words[AT_REQUESTS] += 1
        if not self.recording:
            return 0
        record = self.record_of(seen.number)
        record[RECORD_NUMBER] = 0
        record[RECORD_BEGUN_NS] = seen.begun_ns
        record[RECORD_RAN_NS] = seen.ran_ns
        memset(record + RECORD_ANSWERED_NS, 0, 8 * (RECORD_SIZES - RECORD_ANSWERED_NS))
        record[RECORD_ROW] = row_of(self, seen)
        memcpy(record + RECORD_ID, seen.id, ID_BYTES)
        line = <char*>(record + RECORD_LINE)
        # The request line, or as much as there is room for; behind the target comes the version.
        size = 0
        if seen.head != NULL:
            size = <Py_ssize_t>(seen.target_start + seen.target_size) - seen.method_start
            if size > LINE_BYTES:
                size = LINE_BYTES
            memcpy(line, seen.head + seen.method_start, size)
        record[RECORD_SIZES] = seen.id_size | self.write_client(record, seen) << 8 | size << 16
        record[RECORD_NUMBER] = seen.number
        return 0

    cdef int write_client(self, uint64_t* record, const Observed* seen) except -1:
        cdef Py_ssize_t size
        if seen.client == NULL:
            return 0
        size = min(PyBytes_GET_SIZE(<bytes>seen.client), CLIENT_BYTES)
        memcpy(record + RECORD_CLIENT, PyBytes_AS_STRING(<bytes>seen.client), size)
        return <int>size

    cdef int end(self, const Observed* seen) except -1:
        cdef int row = row_of(self, seen)
        cdef uint64_t* counts = self.words + FIRST_ROW + row * WORDS_PER_ROW
        cdef uint64_t* record
        cdef int64_t duration_ns = seen.ended_ns - seen.begun_ns
        counts[ROW_SUM_NS] += duration_ns
        counts[ROW_BODY_BYTES] += seen.body_bytes
        counts[ROW_HISTOGRAM + bucket_of(duration_ns)] += 1
        counts[ROW_STATUSES + INDEX_OF[seen.status if 100 <= seen.status < 600 else 500]] += 1
        if not self.recording:
            return 0
        record = self.record_of(seen.number)
        if record[RECORD_NUMBER] != <uint64_t>seen.number:
            return 0    # so many came after it that its place is another's
        record[RECORD_ANSWERED_NS] = seen.answered_ns
        record[RECORD_BODY_BYTES] = seen.body_bytes
        record[RECORD_STATUS] = seen.status
        record[RECORD_ENDED_NS] = seen.ended_ns
        return 0

    cdef int new_row(self, Plan plan, int method) except -1:
        cdef int place = plan.number * METHOD_COUNT + method, places
        cdef int row = <int>self.words[AT_ROWS]
        cdef int16_t* grown
        if place >= self.places:
            places = 2 * place + METHOD_COUNT
            grown = <int16_t*>realloc(self.row_of, places * sizeof(int16_t))
            if grown == NULL:
                raise MemoryError
            memset(grown + self.places, 0, (places - self.places) * sizeof(int16_t))
            self.row_of = grown
            self.places = places
        if plan.number == 0:
            row = NO_ROUTE      # an answer of the server's own
            return row
        if row == MAX_ROWS:
            row = OTHER_ROUTES
        else:
            self.name_row(row, f"{METHOD_NAMES[method]} ".encode() + plan.template)
            self.words[AT_ROWS] = row + 1
        self.row_of[place] = <int16_t>row
        return row

    cdef int name_row(self, int row, bytes label) except -1:
        # Cut, it still ends with a NUL.
        label = label[:LABEL_BYTES - 1].decode(errors="ignore").encode()
        memcpy(self.words + FIRST_ROW + row * WORDS_PER_ROW + ROW_LABEL,
               PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label))
        return 0

    cdef int lagged(self, int64_t lag_ns) except -1:
        # A turn of the loop was that late, or that long.
        cdef int second = <int>(<uint64_t>now_ns() // 1000000000 % LAG_SECONDS)
        if self.longest_second != second:
            self.longest_second = second
            self.longest[second] = 0
        if <uint64_t>lag_ns > self.longest[second]:
            self.longest[second] = lag_ns
        return 0

    def tick(self, double lag_s, dict gauges):
        """Refresh the gauges; four times a second.

        lag_s:   how late the tick is
        gauges:  by their AT_...
        """
        cdef int64_t lag_ns = <int64_t>(max(lag_s, 0.0) * 1e9)
        cdef uint64_t longest = 0
        cdef int second
        self.lagged(lag_ns)
        for second in range(LAG_SECONDS):
            if self.longest[second] > longest:
                longest = self.longest[second]
        self.words[AT_TICKED_NS] = now_ns()
        self.words[AT_LAG_NS] = lag_ns
        self.words[AT_LONGEST_LAG_NS] = longest
        self.words[AT_LAG_SUM_NS] += lag_ns
        self.words[AT_LAG_HISTOGRAM + bucket_of(lag_ns)] += 1
        for word, value in gauges.items():
            if not AT_CONNECTIONS <= word < AFTER_COUNTERS:
                raise ValueError(f"{word} is no gauge")
            self.words[<int>word] = value

    def add(self, int counter, uint64_t count=1):
        """Count something that is not a request."""
        if not FIRST_COUNTER <= counter < AFTER_COUNTERS:
            raise ValueError(f"{counter} is no counter")
        self.words[counter] += count
