# The access log: a line for each request, made here, written elsewhere and in batches.
#
# add() only appends to a buffer; flush() hands all of it to `sink` as one bytes object, whole
# lines. Nothing a stranger sent can forge a line or move a cursor: every byte that is not
# printable ASCII is escaped as the format wants it.

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.observed cimport Observed

cdef class Journal:
    cdef Buffer lines
    cdef object sink            # called with bytes

    cdef int add(self, const Observed* seen) except -1
    cpdef int flush(self) except -1
