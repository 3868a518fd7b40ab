# What one worker counts, in memory that others read: counters, histograms, the last requests.
#
# A Scoreboard is one block of a file without a name, which the supervisor makes and every worker
# maps its own part of. One process writes a block, without locks: each number is eight aligned
# bytes. Whoever reads (fastserve.shm) sees a moment that may lie between two numbers of one
# request, never half a number.
#
# A block is a header of words, rows (one for each method and route that was asked for), and
# a ring of the last requests. All offsets below are in words of eight bytes, but for *_BYTES.

from libc.stdint cimport int16_t, int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastserve._speedups.observed cimport Observed
from fastserve._speedups.plan cimport Plan

cpdef enum:
    LAYOUT = 1              # of all this; readers refuse another one
    HEADER_BYTES = 4096
    MAX_ROWS = 512
    ROW_BYTES = 1280
    RING_RECORDS = 256
    RECORD_BYTES = 320
    BLOCK_BYTES = 768 * 1024

# The header. Gauges, which a tick refreshes, then counters, which only grow.
cpdef enum:
    AT_LAYOUT = 0
    AT_PID = 1
    AT_BORN_NS = 2          # CLOCK_MONOTONIC
    AT_WALL_OFFSET_NS = 3   # the wall clock's, less CLOCK_MONOTONIC's
    AT_ROWS = 4             # how many are used
    AT_CURRENT = 5          # number of the request whose handler holds the loop; 0: none
    AT_SLOT = 6
    AT_CONNECTIONS = 16
    AT_IN_FLIGHT = 17       # async requests under way
    AT_WAITING = 18         # requests that wait for max_in_flight
    AT_ACCEPT_QUEUE = 19    # connections in the kernel's queue, as of the last tick
    AT_DRAINING = 20
    AT_LAG_NS = 21          # of the last tick: how late it came
    AT_LONGEST_LAG_NS = 22  # of the last ten seconds: ticks, and turns of our own
    AT_TICKED_NS = 23       # CLOCK_MONOTONIC: the last tick
    FIRST_COUNTER = 32      # those before are not added up over workers that have ended
    AT_CONNECTIONS_TOTAL = 32
    AT_REQUESTS = 33        # that were begun
    AT_BYTES_IN = 34
    AT_BYTES_OUT = 35
    AT_SHED = 36            # 503 for max_in_flight
    AT_REJECTED = 37        # connections above max_connections, answered 503
    AT_LINES_DROPPED = 38   # of the access log
    AT_EXPIRED = 40         # deadlines, by deadlines.Wait; then the handlers'
    AT_HANDLERS_EXPIRED = 47
    AT_LAG_SUM_NS = 48
    AT_LAG_HISTOGRAM = 64   # BUCKETS of them: one entry for each tick
    AFTER_COUNTERS = 112

# A row: row 0 is what no route answered, row 1 what found no row any more.
cpdef enum:
    ROW_SUM_NS = 0
    ROW_BODY_BYTES = 1      # of the answers
    ROW_HISTOGRAM = 8
    BUCKETS = 48            # see bucket_of()
    ROW_STATUSES = 56
    STATUSES = 64           # see STATUS_NAMES
    ROW_LABEL = 120         # UTF-8 up to a NUL: "GET /users/{id}"
    LABEL_BYTES = 320

# A record of the ring: where request `number` is, at number modulo RING_RECORDS.
cpdef enum:
    RECORD_NUMBER = 0       # 0: never used. Written first and checked last by who reads
    RECORD_BEGUN_NS = 1     # CLOCK_MONOTONIC
    RECORD_ANSWERED_NS = 2  # 0: not yet
    RECORD_ENDED_NS = 3     # 0: not yet
    RECORD_BODY_BYTES = 4
    RECORD_STATUS = 5       # 0: not yet
    RECORD_ROW = 6
    RECORD_SIZES = 7        # bytes: id, client, then 16 bits for the line
    RECORD_ID = 8           # 40 bytes
    RECORD_CLIENT = 13      # 48 bytes
    RECORD_LINE = 19        # 160 bytes: "GET /users/7?full=1", cut where it is longer
    RECORD_RAN_NS = 39      # CLOCK_MONOTONIC: it had its turn among those under way
    ID_BYTES = 40
    CLIENT_BYTES = 48
    LINE_BYTES = 160

cdef enum:
    LAG_SECONDS = 10        # see AT_LONGEST_LAG_NS
    SHORTEST_LAG_NS = 1000000   # worth to be told of

cdef class Scoreboard:
    cdef Py_buffer view             # of the mapping, which it keeps
    cdef uint64_t* words            # its start
    cdef bint recording             # fill the ring
    cdef int16_t* row_of            # owned; by plan.number and method; 0: not known yet
    cdef int places                 # in row_of
    cdef uint64_t[LAG_SECONDS] longest      # lags, each the longest of a second
    cdef int longest_second

    # A request began: count it, and write down what is known of it.
    cdef int begin(self, const Observed* seen) except -1
    # It has its answer, whole or not.
    cdef int end(self, const Observed* seen) except -1
    cdef int lagged(self, int64_t lag_ns) except -1

    cdef int write_client(self, uint64_t* record, const Observed* seen) except -1
    cdef int new_row(self, Plan plan, int method) except -1
    cdef int name_row(self, int row, bytes label) except -1

    cdef inline uint64_t* record_of(self, int64_t number) noexcept:
        return self.words + ((HEADER_BYTES + MAX_ROWS * ROW_BYTES) >> 3) + (
            <int>(<uint64_t>number % RING_RECORDS) * (RECORD_BYTES >> 3))

cdef inline int64_t now_ns() noexcept:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec

# Bucket i holds durations below bucket_limit_ns(i) and not below that of i - 1; the last holds
# all the rest. Limits are 2**k and 1.5 * 2**k ns, from 8,192 ns on.
cdef int bucket_of(int64_t duration_ns) noexcept
