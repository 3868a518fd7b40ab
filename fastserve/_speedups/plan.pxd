# What the wire needs to know to call a handler, compiled once at registration.
#
# A plan never changes after start-up. `source[i]` says where argument i comes from:
# FROM_REQUEST, or the index of a path parameter. The last len(kwnames) arguments are
# passed by keyword.

from cpython.object cimport PyObject

cdef enum:
    MAX_PARAMS = 16         # path parameters of one route
    MAX_ARGUMENTS = 24      # arguments of one handler
    FROM_REQUEST = -1

cdef class Plan:
    cdef readonly object handler            # called with the arguments
    cdef readonly bint is_async             # calling it makes a coroutine
    cdef readonly bint wants_request        # some argument is the request
    cdef readonly tuple param_names         # of the path, in path order
    cdef readonly object route              # fastserve.routing.Route, or None for the built-in answers
    cdef readonly Py_ssize_t max_body_bytes # -1: the server's limit; for stream(), none
    cdef readonly double handler_timeout_s  # -1: the server's; 0: none
    cdef readonly int cancel_on_disconnect  # -1: as the method says
    cdef public bint decompress_requests    # undo the Content-Encoding of a request; set at start-up
    cdef readonly bint exempt               # answered however many requests are in flight
    cdef public bint unlogged               # the access log leaves it out, but for 5xx
    cdef readonly bytes template            # the route's path as it was registered, for who counts
    cdef public int number                  # among the plans of its application
    cdef tuple kwnames                      # None, or the names of the keyword arguments
    cdef int argument_count
    cdef signed char source[MAX_ARGUMENTS]

    # Call the handler. `request` is None when not wants_request; `values` are the path
    # parameters in path order, borrowed.
    cdef object call(self, object request, PyObject** values)
