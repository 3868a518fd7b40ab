# From a path to the plans behind it. Built at start-up, immutable afterwards.
#
# Paths without parameters: one lookup in a hash table of raw bytes. Others: a tree with
# one level per segment; parameters are converted in C while walking.

from cpython.object cimport PyObject

from fastserve._speedups.plan cimport MAX_PARAMS, Plan

cdef enum:
    METHOD_COUNT = 10       # of parser.Method

cdef struct Params:
    int count
    PyObject* values[MAX_PARAMS]    # owned by the caller of match once it returns

cdef class PathEntry:
    # All that answers under one path pattern.
    cdef PyObject* by_method[METHOD_COUNT]  # Plan or NULL, by parser.Method; owned by `plans`
    cdef list plans
    cdef dict others                # method token (bytes) -> Plan, for METHOD_OTHER; or None
    cdef Plan any_method            # for methods=["*"], or None
    cdef readonly str allow         # "GET, HEAD, OPTIONS": the value of Allow

    # The plan for a method, or None: then the method is not allowed. HEAD falls back to GET.
    cdef Plan plan_for(self, int method, const char* token, Py_ssize_t size)

cdef enum:
    MATCH_FOUND = 0
    MATCH_NONE = 404
    MATCH_MALFORMED = 400           # a broken percent-escape in the path

cdef class Router:
    # Fill `entry` (borrowed) and `params` (owned references, in path order), or say why not.
    # Nothing is owned by the caller unless MATCH_FOUND.
    cdef int match(self, const char* path, Py_ssize_t size, bint escaped,
                   PyObject** entry, Params* params) except -1
