# What one segment of a path may be turned into: does it fit, and the value. All of it is inline.
#
#   int    "-"? and 1 to 19 digits that fit 64 bits; leading zeros are allowed ("007" is 7)
#   uuid   8-4-4-4-12 hexadecimal digits, either case; gives uuid.UUID
#   float  "-"? digits, or digits "." digits; at most 64 characters, so always finite;
#          no exponent, no "inf", no "nan"
#   str    one segment that is not empty
#   path   all the rest with its slashes, may be empty: /files/{p:path} takes "/files/",
#          not "/files"
#
# The text of a fits_ function is not empty; a make_ function gets what its fits_ has judged.

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from fastserve._speedups.scan cimport hex_value

cdef extern from "Python.h":
    # Declared without an exception value: NULL is looked at by hand.
    PyObject* PyFloat_FromDouble(double value)
    double PyOS_string_to_double(const char* text, char** end, PyObject* overflow) except? -1.0
    object PyLong_FromString(const char* text, char** end, int base)
    int PyObject_GenericSetAttr(object target, object name, object value) except -1

# In the order in which they are tried.
cdef enum:
    TO_INT = 0
    TO_UUID = 1
    TO_FLOAT = 2
    TO_STR = 3
    TO_PATH = 4

cdef enum:
    MAX_INT_DIGITS = 19     # of 2**63 - 1, the widest int
    MAX_FLOAT_CHARS = 64    # of a float: 10**64 is far from infinity
    UUID_CHARS = 36

cdef inline bint is_digit(char byte) noexcept nogil:
    return c"0" <= byte <= c"9"

cdef inline bint fits_int(const char* text, Py_ssize_t size, int64_t* number) noexcept nogil:
    cdef bint negative = text[0] == c"-"
    cdef Py_ssize_t at = negative
    cdef uint64_t value = 0
    cdef unsigned int digit
    if size == at or size - at > MAX_INT_DIGITS:
        return False
    while at < size:
        digit = <unsigned int>text[at] - <unsigned int>c"0"
        if digit > 9:
            return False
        value = value * 10 + digit      # 19 nines are less than 2**64
        at += 1
    if value > (<uint64_t>1 << 63) - 1 + negative:
        return False
    # -2**63 has no positive twin: negate as unsigned.
    number[0] = <int64_t>(0 - value if negative else value)
    return True

cdef inline bint fits_float(const char* text, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = text[0] == c"-"
    cdef Py_ssize_t run = at
    if size > MAX_FLOAT_CHARS:
        return False
    while at < size and is_digit(text[at]):
        at += 1
    if at == run:
        return False
    if at == size:
        return True
    if text[at] != c".":
        return False
    at += 1
    run = at
    while at < size and is_digit(text[at]):
        at += 1
    return at == size and at > run

cdef inline bint fits_uuid(const char* text, Py_ssize_t size) noexcept nogil:
    cdef int at
    if size != UUID_CHARS:
        return False
    for at in range(UUID_CHARS):
        if at == 8 or at == 13 or at == 18 or at == 23:
            if text[at] != c"-":
                return False
        elif hex_value(text[at]) < 0:
            return False
    return True

cdef inline PyObject* make_float(const char* text, Py_ssize_t size) except NULL:
    cdef char buffer[MAX_FLOAT_CHARS + 1]
    cdef PyObject* value
    memcpy(buffer, text, <size_t>size)
    buffer[size] = 0
    value = PyFloat_FromDouble(PyOS_string_to_double(buffer, NULL, NULL))
    if value is NULL:
        raise MemoryError
    return value

# `uuid_class` is uuid.UUID, `safety` uuid.SafeUUID.unknown. UUID.__init__ would parse the text
# a second time in Python; this sets the same two slots in the way its own __setstate__ does.
cdef inline PyObject* make_uuid(const char* text, object uuid_class, object safety) except NULL:
    cdef char digits[UUID_CHARS - 3]
    cdef int at, out = 0
    for at in range(UUID_CHARS):
        if text[at] != c"-":
            digits[out] = text[at]
            out += 1
    digits[out] = 0
    value = uuid_class.__new__(uuid_class)
    PyObject_GenericSetAttr(value, "int", PyLong_FromString(digits, NULL, 16))
    PyObject_GenericSetAttr(value, "is_safe", safety)
    Py_INCREF(value)
    return <PyObject*>value
