# Handler plans: see plan.pxd for the contract.

from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

cdef extern from "Python.h":
    object PyObject_Vectorcall(object function, PyObject** arguments, size_t count, PyObject* names)
    object PyObject_CallNoArgs(object function)


cdef class Plan:
    """How to call one handler; made by fastserve.binding.

    handler:   the callable
    sources:   for each argument -1 (the request) or the index of a path parameter
    kwnames:   names of the last arguments, which are passed by keyword
    is_async:  whether calling it makes a coroutine
    max_body_bytes, handler_timeout_s:  None for the server's
    cancel_on_disconnect:  None for what fits the method
    exempt:    from the limit of requests in flight, as health checks are
    """

    def __init__(self, handler, sources, *, kwnames=(), bint is_async=False, param_names=(),
                 route=None, max_body_bytes=None, cancel_on_disconnect=None, handler_timeout_s=None,
                 decompress_requests=None, bint exempt=False):
        cdef int index
        if len(sources) > MAX_ARGUMENTS:
            raise ValueError(f"a handler takes at most {MAX_ARGUMENTS} arguments, not {len(sources)}")
        if len(param_names) > MAX_PARAMS:
            raise ValueError(f"a route has at most {MAX_PARAMS} path parameters, not {len(param_names)}")
        self.handler = handler
        self.is_async = is_async
        self.param_names = tuple(param_names)
        self.route = route
        self.template = b"" if route is None else route.path.encode()
        self.max_body_bytes = -1 if max_body_bytes is None else max_body_bytes
        self.cancel_on_disconnect = -1 if cancel_on_disconnect is None else cancel_on_disconnect
        self.handler_timeout_s = -1 if handler_timeout_s is None else handler_timeout_s
        self.decompress_requests = bool(decompress_requests)
        self.exempt = exempt
        self.kwnames = tuple(kwnames) or None
        self.argument_count = <int>len(sources)
        for index, source in enumerate(sources):
            if not -1 <= source < len(param_names):
                raise ValueError(f"argument {index} has no source {source}")
            self.source[index] = source
            if source == FROM_REQUEST:
                self.wants_request = True

    cdef object call(self, object request, PyObject** values):
        cdef PyObject* arguments[MAX_ARGUMENTS + 1]
        cdef int index, source
        cdef int named
        if self.argument_count == 0:
            return PyObject_CallNoArgs(self.handler)
        for index in range(self.argument_count):
            source = self.source[index]
            arguments[index] = <PyObject*>request if source == FROM_REQUEST else values[source]
        if self.kwnames is None:
            return PyObject_Vectorcall(self.handler, arguments, self.argument_count, NULL)
        named = <int>PyTuple_GET_SIZE(self.kwnames)
        return PyObject_Vectorcall(
            self.handler, arguments, self.argument_count - named, <PyObject*>self.kwnames)

    def around(self, handler):
        """The same plan with an `async def (request)` in the place of its handler."""
        cdef Plan plan = Plan(handler, (FROM_REQUEST,), is_async=True,
                              param_names=self.param_names, route=self.route, exempt=self.exempt)
        plan.max_body_bytes = self.max_body_bytes
        plan.handler_timeout_s = self.handler_timeout_s
        plan.cancel_on_disconnect = self.cancel_on_disconnect
        plan.decompress_requests = self.decompress_requests
        plan.number = self.number
        plan.unlogged = self.unlogged
        return plan

    def invoke(self, request, tuple values):
        """Call the handler with a request and its path parameters, in path order."""
        cdef PyObject* borrowed[MAX_PARAMS]
        cdef Py_ssize_t index
        if PyTuple_GET_SIZE(values) != PyTuple_GET_SIZE(self.param_names):
            raise ValueError("as many values as the path has parameters")
        for index in range(PyTuple_GET_SIZE(values)):
            borrowed[index] = PyTuple_GET_ITEM(values, index)
        return self.call(request, borrowed)
