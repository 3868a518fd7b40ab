# Numbers as decimal digits, two at a time. All of it is inline.
#
# Each writes at `at`, where there is room for the most it may write, and returns what is behind.

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    static const char fs_pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    """
    const char* PAIRS "fs_pairs"

cdef enum:
    DIGITS = 20             # of the longest number of 64 bits

# Two digits of 0 to 99.
cdef inline char* put_pair(char* at, int value) noexcept nogil:
    memcpy(at, PAIRS + 2 * value, 2)
    return at + 2

# At most DIGITS bytes.
cdef inline char* put_number(char* at, uint64_t value) noexcept nogil:
    cdef char[DIGITS] digits
    cdef int first = DIGITS
    while value >= 100:
        first -= 2
        memcpy(digits + first, PAIRS + 2 * (value % 100), 2)
        value //= 100
    if value >= 10:
        first -= 2
        memcpy(digits + first, PAIRS + 2 * value, 2)
    else:
        first -= 1
        digits[first] = <char>(c"0" + value)
    memcpy(at, digits + first, <size_t>(DIGITS - first))
    return at + (DIGITS - first)
