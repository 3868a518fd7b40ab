# Conditional and range requests, and codings: see conditions.pxd for the contract.
#
# A field that cannot be read counts as one that was not sent, but for If-Match: a client that
# names what it wants to see unchanged must not be told that it is (RFC 9110 section 13.1).

import re
import time
from calendar import timegm
from datetime import datetime

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr

from fastserve._speedups.messages cimport Request
from fastserve._speedups.head cimport Field, next_field

cdef object ENTITY_TAG = re.compile(rb'[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|$)')
cdef object EMPTY_ELEMENT = re.compile(rb"[ \t]*,")
cdef object CODING = re.compile(
    rb"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*"
    rb"(?:;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*")
cdef object RANGE = re.compile(rb"[ \t]*(?:([0-9]{1,40})-([0-9]{0,40})|-([0-9]{1,40}))[ \t]*")
cdef object IMF_FIXDATE = re.compile(
    rb"[A-Z][a-z]{2}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) "
    rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) GMT")
cdef object RFC850_DATE = re.compile(
    rb"[A-Z][a-z]+day, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) "
    rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) GMT")
cdef object ASCTIME_DATE = re.compile(
    rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) "
    rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) (?P<year>\d{4})")
cdef tuple MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun",
                     b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


@cython.freelist(16)
cdef class Conditions:
    """The conditional fields of a request, as bytes or None."""

    def __init__(self, *, if_match=None, if_none_match=None, if_modified_since=None,
                 if_unmodified_since=None, if_range=None, range=None, accept_encoding=None):
        self.if_match = if_match
        self.if_none_match = if_none_match
        self.if_modified_since = if_modified_since
        self.if_unmodified_since = if_unmodified_since
        self.if_range = if_range
        self.range = range
        self.accept_encoding = accept_encoding
        self.any = any(field is not None for field in (
            if_match, if_none_match, if_modified_since, if_unmodified_since, if_range, range))


cdef enum:
    SHORTEST = 8                # of a line that may matter, "Range:x\r\n"


cdef inline bint is_name(Field* field, const char* name, Py_ssize_t size) noexcept:
    # `name` is in lower case; a token has no character that `| 0x20` takes for another one of it.
    cdef Py_ssize_t i
    if field.name_size != size:
        return False
    for i in range(size):
        if (field.name[i] | 0x20) != (name[i] | 0x20):
            return False
    return True


cdef inline bytes joined(bytes before, Field* field):
    cdef bytes value = PyBytes_FromStringAndSize(field.value, field.value_size)
    return value if before is None else before + b", " + value


cdef Conditions read_conditions(Request request):
    cdef Conditions found = Conditions.__new__(Conditions)
    cdef const char* cursor = request.first_field()
    cdef const char* end = cursor + request.fields_size()
    cdef Field field
    cdef char first
    while end - cursor > SHORTEST:
        first = cursor[0] | 0x20
        if not (first == c'i' and cursor[2] == c'-' or first == c'r' or (
                first == c'a' and cursor[6] == c'-')):
            cursor = <const char*>memchr(cursor, c'\n', end - cursor)
            if cursor == NULL:
                break
            cursor += 1
            continue
        if not next_field(&cursor, end, &field):
            break
        if first == c'i':
            if is_name(&field, b"if-none-match", 13):
                found.if_none_match = joined(found.if_none_match, &field)
            elif is_name(&field, b"if-modified-since", 17):
                found.if_modified_since = joined(found.if_modified_since, &field)
            elif is_name(&field, b"if-match", 8):
                found.if_match = joined(found.if_match, &field)
            elif is_name(&field, b"if-unmodified-since", 19):
                found.if_unmodified_since = joined(found.if_unmodified_since, &field)
            elif is_name(&field, b"if-range", 8):
                found.if_range = joined(found.if_range, &field)
            else:
                continue
            found.any = True
        elif first == c'r' and is_name(&field, b"range", 5):
            found.range = joined(found.range, &field)
            found.any = True
        elif first == c'a' and is_name(&field, b"accept-encoding", 15):
            found.accept_encoding = joined(found.accept_encoding, &field)
    return found


def conditions_of(Request request):
    """The Conditions of a request."""
    return read_conditions(request)


cdef inline bytes opaque(bytes tag):
    return tag[2:] if tag.startswith(b"W/") else tag


cdef bint tag_in(bytes value, bytes etag, bint strong):
    # Whether a list of entity tags names this one (RFC 9110 section 8.8.3.2).
    cdef Py_ssize_t at = 0, end = len(value)
    cdef bytes tag
    if strong and etag.startswith(b"W/"):
        return False
    while at < end:
        found = ENTITY_TAG.match(value, at)
        if found is None:
            found = EMPTY_ELEMENT.match(value, at)
            if found is None:
                return False
            at = found.end()
            continue
        tag = found[1]
        if (tag == etag) if strong else (opaque(tag) == opaque(etag)):
            return True
        at = found.end()
    return False


cpdef int precondition(Conditions conditions, bytes etag, int64_t modified_s) except -1:
    # In the order of RFC 9110 section 13.2.2; the method is GET or HEAD.
    cdef int64_t since
    if conditions.if_match is not None:
        if conditions.if_match.strip() != b"*" and not tag_in(conditions.if_match, etag, True):
            return 412
    elif conditions.if_unmodified_since is not None:
        since = parse_date(conditions.if_unmodified_since)
        if since >= 0 and modified_s > since:
            return 412
    if conditions.if_none_match is not None:
        if conditions.if_none_match.strip() == b"*" or tag_in(conditions.if_none_match, etag, False):
            return 304
    elif conditions.if_modified_since is not None:
        since = parse_date(conditions.if_modified_since)
        if since >= 0 and modified_s <= since:
            return 304
    return 200


cdef bint unchanged(bytes if_range, bytes etag, int64_t modified_s, int64_t now_s):
    # RFC 9110 section 13.1.5. A date is only as good as a strong tag when the file was not
    # changed within the second in which somebody may have got it (section 8.8.2.2).
    cdef bytes value = if_range.strip(b" \t")
    if value.endswith(b'"'):
        return value == etag and not etag.startswith(b"W/")
    return parse_date(value) == modified_s and now_s > modified_s


cpdef list selected_ranges(Conditions conditions, bytes etag, int64_t modified_s, int64_t size,
                           int64_t now_s):
    if conditions.range is None or (
            conditions.if_range is not None
            and not unchanged(conditions.if_range, etag, modified_s, now_s)):
        return None
    return parse_ranges(conditions.range, size)


cpdef list parse_ranges(bytes value, int64_t size):
    """The (offset, size) that a Range asks for of `size` bytes (RFC 9110 section 14.1).

    Returns None where the field is to be ignored: malformed, of another unit, of more than
    MAX_RANGES ranges, or asking for more bytes than there are, as overlapping ranges do.
    """
    cdef list elements, chosen = []
    cdef bint asked = False
    cdef object first, last, total = 0
    unit, equals, rest = value.partition(b"=")
    if not equals or unit.strip(b" \t").lower() != b"bytes":
        return None
    elements = rest.split(b",", 8 * MAX_RANGES)
    if len(elements) > 8 * MAX_RANGES:
        return None
    for element in elements:
        if not element.strip(b" \t"):
            continue
        found = RANGE.fullmatch(element)
        if found is None:
            return None
        asked = True
        if found[3] is not None:
            first, last = max(0, size - int(found[3])), size - 1
            if int(found[3]) == 0:
                continue
            if size == 0:
                return None     # the last bytes of nothing: all of it (section 14.1.2)
        else:
            first = int(found[1])
            last = min(int(found[2]), size - 1) if found[2] else size - 1
            if found[2] and int(found[2]) < first:
                return None
        if first < size:
            chosen.append((first, last - first + 1))
            total += last - first + 1
        if len(chosen) > MAX_RANGES:
            return None
    if not asked or total > size:
        return None
    return chosen


cpdef double coding_weight(bytes accept_encoding, bytes coding) except -2:
    cdef double star = -1, weight
    for element in accept_encoding.lower().split(b","):
        found = CODING.fullmatch(element)
        if found is None:
            continue
        weight = 1.0 if found[2] is None else float(found[2])
        name = found[1][2:] if found[1] in (b"x-gzip", b"x-compress") else found[1]
        if name == coding:
            return weight
        if name == b"*":
            star = weight
    return star


cpdef int64_t parse_date(bytes value) except -2:
    """Seconds since the epoch of any of the three forms of RFC 9110 section 5.6.7, or -1."""
    cdef int year
    found = (IMF_FIXDATE.fullmatch(value) or RFC850_DATE.fullmatch(value)
             or ASCTIME_DATE.fullmatch(value))
    if found is None or found["month"] not in MONTHS:
        return -1
    year = int(found["year"])
    if len(found["year"]) == 2:
        # More than fifty years ahead it means the past.
        this_year = time.gmtime().tm_year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    try:
        moment = datetime(year, MONTHS.index(found["month"]) + 1, int(found["day"]),
                          int(found["hour"]), int(found["minute"]), min(int(found["second"]), 59))
    except ValueError:
        return -1
    if int(found["second"]) > 60:
        return -1
    return max(-1, timegm(moment.timetuple()))
