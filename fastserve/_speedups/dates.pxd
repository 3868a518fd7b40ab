# A time as HTTP writes it, the IMF-fixdate of RFC 9110 section 5.6.7. All of it is inline.

from libc.stdint cimport int64_t
from libc.string cimport memcpy
from libc.time cimport gmtime_r, time_t, tm

from fastserve._speedups.digits cimport put_pair

cdef extern from *:
    """
    static const char fs_days[] = "Sun, Mon, Tue, Wed, Thu, Fri, Sat, ";
    static const char fs_months[] = " Jan  Feb  Mar  Apr  May  Jun  Jul  Aug  Sep  Oct  Nov  Dec ";
    """
    # Five bytes each; of a month the name is the three in the middle.
    const char* DAYS "fs_days"
    const char* MONTHS "fs_months"

cdef enum:
    DATE_BYTES = 29

# hh:mm:ss at `at`; returns what is behind.
cdef inline char* put_clock(char* at, const tm* when) noexcept nogil:
    at = put_pair(at, when.tm_hour)
    at[0] = c":"
    at = put_pair(at + 1, when.tm_min)
    at[0] = c":"
    return put_pair(at + 1, when.tm_sec)

# Writes DATE_BYTES at `at` and returns what is behind. `seconds` since the epoch, of the years
# 1970 to 9999.
cdef inline char* put_date(char* at, int64_t seconds) noexcept nogil:
    cdef time_t when = <time_t>seconds
    cdef tm found
    cdef int year
    gmtime_r(&when, &found)
    year = 1900 + found.tm_year
    memcpy(at, DAYS + 5 * found.tm_wday, 5)
    at = put_pair(at + 5, found.tm_mday)
    memcpy(at, MONTHS + 5 * found.tm_mon, 5)
    at = put_pair(put_pair(at + 5, <int>(year // 100)), <int>(year % 100))
    at[0] = c" "
    at = put_clock(at + 1, &found)
    memcpy(at, b" GMT", 4)
    return at + 4
