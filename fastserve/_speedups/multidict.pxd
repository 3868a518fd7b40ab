# Names with values, several per name, in order.

cdef class MultiDict:
    cdef list pairs         # (str, str); None until first needed

    cdef list all_pairs(self)
    cdef str fold(self, object name)

cdef class QueryParams(MultiDict):
    cdef bytes raw

cdef class Headers(MultiDict):
    # Of a request: the raw field lines of an accepted head, looked up in place.
    cdef bytes head
    cdef Py_ssize_t start   # of the field lines inside `head`

cdef class MutableHeaders:
    # Of a response: encoded and checked when set, so that rendering is a copy.
    cdef list pairs         # (bytes name, bytes value)

    cdef int insert(self, object name, object value) except -1

cdef QueryParams query_params(bytes raw)
cdef Headers request_headers(bytes head, Py_ssize_t start)
cdef MutableHeaders mutable_headers(object source)

# Percent-decoding of one component as UTF-8; "+" is a space only where asked for.
cdef str unquote(const char* data, Py_ssize_t size, bint plus)
