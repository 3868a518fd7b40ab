# Names with values, several per name, in order.

cdef class MultiDict:
    # Of a request: a part of its raw head, and looked up in place until somebody wants all.
    cdef bytes head
    cdef Py_ssize_t start, end  # of that part inside `head`
    cdef list pairs             # (str, str); None until first needed

    cdef list all_pairs(self)
    cdef str fold(self, object name)
    cdef object find(self, object name)     # the first value, or None

cdef class QueryParams(MultiDict):
    pass

cdef class Headers(MultiDict):
    pass

cdef class MutableHeaders:
    # Of a response: encoded and checked when set, so that rendering is a copy.
    cdef list pairs         # (bytes name, bytes value)

    cdef int insert(self, object name, object value) except -1

cdef QueryParams query_params(bytes head, Py_ssize_t start, Py_ssize_t size)
cdef Headers request_headers(bytes head, Py_ssize_t start)
# An absolute-form target names the host, whatever Host says (RFC 9112 section 3.2.2).
cdef int name_host(Headers headers, bytes target) except -1
cdef MutableHeaders mutable_headers(object source)

# Percent-decoding of one component as UTF-8; "+" is a space only where asked for.
cdef str unquote(const char* data, Py_ssize_t size, bint plus)
