# What the fields of a request ask of a representation: RFC 9110 sections 12.5.3, 13 and 14.
#
# Values are kept as they were sent; nothing is parsed before it is asked about. Everything
# here is linear in the size of the fields, which the head's limits bound.

from libc.stdint cimport int64_t

from fastserve._speedups.messages cimport Request

cdef enum:
    MAX_RANGES = 16             # of one request; more are answered with the whole

cdef class Conditions:
    # Each is None where it was not sent; of repeated fields the values, joined.
    cdef readonly bytes if_match, if_none_match, if_modified_since, if_unmodified_since
    cdef readonly bytes if_range, range, accept_encoding
    cdef readonly bint any      # of those before accept_encoding

cdef Conditions read_conditions(Request request)

# 200: go on; 304 or 412: the answer. `modified_s` is what Last-Modified says.
cpdef int precondition(Conditions conditions, bytes etag, int64_t modified_s) except -1

# The parts of a representation to send: None for all of it, an empty list for none that there
# is (416), or (offset, size) each, never larger together than all of it.
cpdef list selected_ranges(Conditions conditions, bytes etag, int64_t modified_s, int64_t size,
                           int64_t now_s)

# The weight from 0 to 1 that Accept-Encoding gives a coding; -1 where it does not name it.
cpdef double coding_weight(bytes accept_encoding, bytes coding) except -2
cpdef int64_t parse_date(bytes value) except -2     # seconds since the epoch; -1: no date
