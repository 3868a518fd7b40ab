# A request that has been answered, as those see it who count and write it down.
#
# Whatever is pointed to is borrowed, for the call alone. A stranger wrote the head: all of it
# but method, framing and Host is unjudged, and may hold any byte that a field may.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef struct Observed:
    int64_t number          # of the worker's requests; from 1
    int64_t begun_ns        # CLOCK_MONOTONIC: its head was complete
    int64_t ran_ns          # it had waited for its turn among those under way
    int64_t answered_ns     # its answer, or the head of that, was made
    int64_t ended_ns        # all of it was handed to the transport, or given up
    int64_t body_bytes      # of the answer's body, as far as that went
    int status              # 499: the client left before there was one
    uint8_t method          # head.Method
    uint8_t minor_version
    bint refused            # it was no request: there is no head, nor method or version
    const char* head        # its raw request line; NULL where it was refused
    uint32_t method_start, method_size
    uint32_t target_start, target_size
    const char* fields      # the raw field lines with the blank one
    uint32_t fields_size
    bint nameless           # the client's own id is known not to be among them
    PyObject* plan          # the Plan that answered, or NULL
    PyObject* client        # bytes: an address without its port, or b"-"
    char id[40]             # of the request: the client's own, where that is a sane one
    uint8_t id_size
