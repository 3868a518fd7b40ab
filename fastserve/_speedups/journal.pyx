from fastserve._speedups.observed cimport Observed
cdef class Journal:
    cdef int add(self, const Observed* seen) except -1:
        return 0
    cpdef int flush(self) except -1:
        return 0
