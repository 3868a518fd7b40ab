# From a path to the plans behind it. Built at start-up, immutable afterwards.
#
# Paths without parameters: one lookup in a hash table of raw bytes. Others: a tree with
# one level per segment; parameters are converted in C. The path alone chooses the entry,
# the method then chooses the plan inside it: /users/me and /users/{name} never mix.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from fastserve._speedups.converters cimport TO_PATH
from fastserve._speedups.plan cimport MAX_PARAMS, Plan
from fastserve._speedups.table cimport Table

cdef enum:
    METHOD_COUNT = 10       # of parser.Method
    MAX_SEGMENTS = 64       # of one pattern: bounds the recursion and the spans on the stack

cdef struct Params:
    int count
    PyObject* values[MAX_PARAMS]    # owned by the caller of match once it returns

cdef class PathEntry:
    # All that answers under one path pattern.
    cdef PyObject* by_method[METHOD_COUNT]  # Plan or NULL, by parser.Method; owned by `plans`.
                                            # Once frozen HEAD and "*" are already filled in.
    cdef list plans
    cdef dict others                # method token (bytes) -> Plan, for METHOD_OTHER; or None
    cdef Plan any_method            # for methods=["*"], or None
    cdef readonly str allow         # "GET, HEAD, OPTIONS": the value of Allow

    # The plan for a method, or None: then the method is not allowed. HEAD falls back to GET.
    cdef Plan plan_for(self, int method, const char* token, Py_ssize_t size)
    cdef int add(self, list methods, Plan plan) except -1
    cdef int seal(self) except -1

cdef enum:
    MATCH_FOUND = 0
    MATCH_NONE = 404
    MATCH_MALFORMED = 400           # a broken percent-escape, a NUL, or text that is no UTF-8

cdef enum:
    BRANCHES = TO_PATH      # of one node: one for each converter before TO_PATH, which takes all
                            # the rest, so it leads to an entry and not to a node

cdef struct Node:
    Table literals          # decoded segment -> Node
    Node* branches[BRANCHES]    # or NULL
    bint branching          # some branch is not NULL
    PyObject* entry         # PathEntry of the pattern that ends here, or NULL
    PyObject* rest          # PathEntry of the pattern that ends in {...:path} here, or NULL

cdef class Router:
    # What answers when nothing else does. None: the protocol does it by itself. The last
    # two get the value of Allow as their only path parameter.
    cdef public Plan not_found
    cdef public Plan method_not_allowed
    cdef public Plan options

    cdef Table static_paths # raw path -> PathEntry
    cdef Node* nodes        # owned; nodes[0] is the root; NULL until frozen
    cdef Py_ssize_t node_count
    cdef int depth          # segments of the longest pattern
    cdef bint has_params    # some pattern has a parameter
    cdef list entries       # own what the tables and nodes point to
    cdef list keys
    cdef object draft       # the tree while routes are being added, then None
    cdef dict static_draft
    cdef object uuid_class  # uuid.UUID and uuid.SafeUUID.unknown, once a pattern needs them
    cdef object uuid_safety

    # Fill `entry` (borrowed) and `params` (owned references, in path order), or say why not.
    # Nothing is owned by the caller unless MATCH_FOUND. `escaped` says whether the path
    # holds a "%". An empty path means "/".
    cdef int match(self, const char* path, Py_ssize_t size, bint escaped,
                   PyObject** entry, Params* params) except -1

    # A value that takes steps: a float or a UUID.
    cdef PyObject* make(self, int converter, const char* text, Py_ssize_t size) except NULL

# Give the values of a match back; `count` is 0 afterwards.
cdef inline void release_params(Params* params) noexcept:
    while params.count > 0:
        params.count -= 1
        Py_DECREF(<object>params.values[params.count])
