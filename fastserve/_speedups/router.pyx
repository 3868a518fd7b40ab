# From a path to the plans behind it: see router.pxd for the contract.
#
# The tree of  /  /users/me  /users/{id:int}  /users/{name}/posts  /files/{p:path}
#
#     root ─┬─ ""       ■ /
#           ├─ "users" ─┬─ "me"      ■ /users/me
#           │           ├─ {int}     ■ /users/{id:int}
#           │           └─ {str} ──── "posts"  ■ /users/{name}/posts
#           └─ "files" ─── {path}    ■ /files/{p:path}
#
# A pattern and a path are both what stands between their slashes: "/a/" is ["a", ""], and
# nothing is redirected, collapsed or normalised. So "/a" is not "/a/", "//" is two empty
# segments, and "." and ".." are names like any other (whoever opens files looks out for them).
#
# Order at one node: the literal, then int, uuid, float, str, then the rest of the path.
# A branch that leads nowhere is left again. A node has one way leading to it, so a match
# visits it at most once: the cost is bounded by the tree, whatever a client sends. What
# each takes stands in converters.pxd. What does not convert is no match: the next branch is
# tried, in the end it is a 404.
#
# Percent-escapes are decoded once, after splitting, so "%2F" does not split; literals are
# compared decoded ("/%61" finds "/a"). In a {p:path} an escaped slash comes out as a slash
# like the others: who must tell them apart reads the raw target. Any escape that is cut or
# not hexadecimal, and any "%00", is MATCH_MALFORMED whatever the routes are; so is a str or
# path parameter that is not UTF-8. Raw bytes are taken as they are (the parser has refused
# control characters).
#
# Matching is two steps: walk() chooses, on bytes alone and without one Python object; then
# the values are made. Thus nothing has to be given back when a branch is left.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr

from fastserve._speedups.converters cimport (
    TO_FLOAT, TO_INT, TO_PATH, TO_STR, TO_UUID, fits_float, fits_int, fits_uuid, make_float,
    make_uuid)
from fastserve._speedups.plan cimport MAX_PARAMS, Plan
from fastserve._speedups.scan cimport hex_value
from fastserve._speedups.table cimport close_table, insert, longest_probe, look_up, open_table

cdef extern from "Python.h":
    # Declared without an exception value: NULL is looked at by hand.
    PyObject* PyLong_FromLongLong(long long value)
    PyObject* PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    int PyErr_ExceptionMatches(object kind)
    void PyErr_Clear()

cdef enum:
    STACK_BYTES = 1024      # longer paths that hold escapes are decoded on the heap

cdef struct Span:
    # One segment, decoded.
    const char* start
    Py_ssize_t size

cdef struct Capture:
    # A parameter that fits but is not made yet.
    int converter
    const char* start
    Py_ssize_t size
    int64_t number          # of TO_INT

cdef struct Walk:
    # One match. Every pointer leads into the path or its decoded copy; nothing is owned.
    int count               # segments of the path; depth + 1 stands for any number beyond depth
    const char* end         # of the whole text
    int captured
    Py_ssize_t visited      # nodes
    Span segments[MAX_SEGMENTS + 1]
    Capture captures[MAX_PARAMS]


cdef void split(Walk* walk, const char* path, Py_ssize_t size, int depth) noexcept nogil:
    # path[0] is "/". What lies beyond `depth` segments can only matter to {...:path}, which
    # takes it whole: it is not looked at, however many slashes a client sends.
    cdef const char* start = path + 1
    cdef const char* slash
    walk.end = path + size
    walk.count = 0
    while walk.count < depth:
        slash = <const char*>memchr(start, b"/", <size_t>(walk.end - start))
        walk.segments[walk.count].start = start
        walk.segments[walk.count].size = (walk.end if slash is NULL else slash) - start
        walk.count += 1
        if slash is NULL:
            return
        start = slash + 1
    walk.segments[depth].start = walk.end
    walk.segments[depth].size = 0
    walk.count = depth + 1


cdef bint split_decoded(
        Walk* walk, const char* path, Py_ssize_t size, int depth, char* text) noexcept nogil:
    # The same for a path that holds escapes; the decoded text goes to `text` (room for `size`).
    # All of it is decoded and judged. False: malformed.
    cdef Py_ssize_t at = 1, out = 0, start = 0
    cdef int high, low, count = 0
    cdef uint8_t byte
    while at < size:
        byte = <uint8_t>path[at]
        at += 1
        if byte == c"/":
            if count < depth:
                walk.segments[count].start = text + start
                walk.segments[count].size = out - start
            count += count <= depth
            start = out + 1
        elif byte == c"%":
            if size - at < 2:
                return False
            high = hex_value(path[at])
            low = hex_value(path[at + 1])
            at += 2
            if high < 0 or low < 0 or (high | low) == 0:
                return False
            byte = <uint8_t>((high << 4) | low)
        text[out] = <char>byte
        out += 1
    walk.end = text + out
    if count < depth:
        walk.segments[count].start = text + start
        walk.segments[count].size = out - start
        walk.count = count + 1
    else:
        walk.segments[depth].start = walk.end
        walk.segments[depth].size = 0
        walk.count = depth + 1
    return True


cdef PyObject* walk_on(Walk* walk, const Node* node, int index) noexcept nogil:
    # The entry that the segments from `index` on lead to, or NULL. Recursion is as deep as
    # the deepest pattern, at most MAX_SEGMENTS; captures never pass MAX_PARAMS, since the way
    # to a node is the beginning of a pattern that add() has counted.
    cdef const Span* segment
    cdef Capture* capture
    cdef Node* child
    cdef PyObject* found
    cdef int converter
    walk.visited += 1
    if index == walk.count:
        return node.entry
    segment = &walk.segments[index]
    child = <Node*>look_up(&node.literals, segment.start, segment.size)
    if child is not NULL:
        found = walk_on(walk, child, index + 1)
        if found is not NULL:
            return found
    if node.branching and segment.size > 0:
        for converter in range(BRANCHES):
            child = node.branches[converter]
            if child is NULL:
                continue
            capture = &walk.captures[walk.captured]
            if converter == TO_INT:
                if not fits_int(segment.start, segment.size, &capture.number):
                    continue
            elif converter == TO_UUID:
                if not fits_uuid(segment.start, segment.size):
                    continue
            elif converter == TO_FLOAT:
                if not fits_float(segment.start, segment.size):
                    continue
            capture.converter = converter
            capture.start = segment.start
            capture.size = segment.size
            walk.captured += 1
            found = walk_on(walk, child, index + 1)
            if found is not NULL:
                return found
            walk.captured -= 1
    if node.rest is not NULL:
        capture = &walk.captures[walk.captured]
        capture.converter = TO_PATH
        capture.start = segment.start
        capture.size = walk.end - segment.start
        walk.captured += 1
    return node.rest


cdef int make_values(Router router, const Walk* walk, Params* params) except -1:
    # MATCH_FOUND, or nothing is left in `params`.
    cdef const Capture* capture
    cdef PyObject* value
    cdef int index
    params.count = 0
    for index in range(walk.captured):
        capture = &walk.captures[index]
        if capture.converter == TO_INT:
            value = PyLong_FromLongLong(capture.number)
        elif capture.converter == TO_FLOAT or capture.converter == TO_UUID:
            try:
                value = router.make(capture.converter, capture.start, capture.size)
            except BaseException:
                release_params(params)
                raise
        else:
            value = PyUnicode_DecodeUTF8(capture.start, capture.size, NULL)
        if value is NULL:
            release_params(params)
            if PyErr_ExceptionMatches(UnicodeDecodeError):
                PyErr_Clear()
                return MATCH_MALFORMED
            return -1
        params.values[index] = value
        params.count = index + 1
    return MATCH_FOUND


# parser.Method, not cimported: that would load the parser for its ten numbers. A test reads
# parser.pxd and compares.
cdef enum:
    OTHER = 0
    GET = 1
    HEAD = 2

cdef dict METHODS = {
    "GET": GET, "HEAD": HEAD, "POST": 3, "PUT": 4, "DELETE": 5, "PATCH": 6, "OPTIONS": 7,
    "TRACE": 8, "CONNECT": 9,
}
# What Allow says of a route for every method. TRACE and CONNECT would be promises nobody wants.
cdef tuple USUAL_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


cdef class PathEntry:
    def __init__(self):
        raise TypeError("made by Router.add")

    def __cinit__(self, *args):
        self.plans = []

    cdef int add(self, list methods, Plan plan) except -1:
        cdef int method
        for token in methods:
            if token == "*":
                if self.any_method is not None:
                    raise ValueError("two plans for every method of one path")
                self.any_method = plan
                continue
            method = METHODS.get(token, OTHER)
            if method != OTHER:
                if self.by_method[method] is not NULL:
                    raise ValueError(f"two plans for {token} of one path")
                self.plans.append(plan)
                self.by_method[method] = <PyObject*>plan
                continue
            if self.others is None:
                self.others = {}
            key = token.encode("ascii")
            if key in self.others:
                raise ValueError(f"two plans for {token} of one path")
            self.others[key] = plan
        return 0

    cdef int seal(self) except -1:
        # Fill in what follows from the rest, so that a request does not have to ask.
        cdef int method
        names = {name for name, method in METHODS.items() if self.by_method[method] is not NULL}
        if self.by_method[HEAD] is NULL:
            self.by_method[HEAD] = self.by_method[GET]
        if self.any_method is not None:
            names.update(USUAL_METHODS)
            for method in range(METHOD_COUNT):
                if self.by_method[method] is NULL:
                    self.by_method[method] = <PyObject*>self.any_method
        if "GET" in names:
            names.add("HEAD")
        names.add("OPTIONS")
        ordered = [name for name in METHODS if name in names]
        if self.others is not None:
            ordered += sorted(token.decode("ascii") for token in self.others)
        self.allow = ", ".join(ordered)
        return 0

    cdef Plan plan_for(self, int method, const char* token, Py_ssize_t size):
        if method == OTHER and self.others is not None:
            plan = self.others.get(PyBytes_FromStringAndSize(token, size))
            if plan is not None:
                return <Plan>plan
        if self.by_method[method] is NULL:
            return None
        return <Plan>self.by_method[method]


class _Draft:
    # A node while routes are being added.
    __slots__ = ("branches", "entry", "literals", "rest")

    def __init__(self):
        self.literals = {}
        self.branches = [None] * BRANCHES
        self.entry = None
        self.rest = None


cdef dict CONVERTERS = {
    "int": TO_INT, "uuid": TO_UUID, "float": TO_FLOAT, "str": TO_STR, "path": TO_PATH,
}


cdef class Router:
    """The compiled routes: add() them, freeze(), then match.

    not_found, method_not_allowed, options: plans that answer when no route does; None means
    the protocol answers by itself. The last two take the value of Allow as their parameter.
    """

    def __cinit__(self):
        self.entries = []
        self.keys = []
        self.draft = _Draft()
        self.static_draft = {}

    def __dealloc__(self):
        cdef Py_ssize_t index
        close_table(&self.static_paths)
        if self.nodes is not NULL:
            for index in range(self.node_count):
                close_table(&self.nodes[index].literals)
            PyMem_Free(self.nodes)

    def add(self, pattern, methods, Plan plan not None):
        """Let a plan answer a pattern.

        pattern:  what stands between the slashes of the path: a literal as decoded bytes, or
                  (converter, name) with a converter of int, uuid, float, str, path
        methods:  tokens, or ["*"] for every method that has no plan of its own
        Raises ValueError if the pattern cannot be, does not fit the plan, or is taken.
        """
        if self.draft is None:
            raise RuntimeError("the router is frozen: add every route before freeze()")
        pattern = tuple(pattern)
        methods = list(methods)
        if not 1 <= len(pattern) <= MAX_SEGMENTS:
            raise ValueError(f"a pattern has 1 to {MAX_SEGMENTS} segments, not {len(pattern)}")
        if not methods:
            raise ValueError("a route answers at least one method")
        names = []
        takes_rest = False
        for index, segment in enumerate(pattern):
            if isinstance(segment, bytes):
                if b"/" in segment or b"\0" in segment:
                    raise ValueError(f"segment {segment!r} holds a slash or a NUL")
                continue
            converter, name = segment
            if converter not in CONVERTERS:
                raise ValueError(f"there is no converter {converter!r}")
            takes_rest = converter == "path"
            if takes_rest and index != len(pattern) - 1:
                raise ValueError("a path parameter takes the rest and must be last")
            names.append(name)
        if len(names) > MAX_PARAMS:
            raise ValueError(f"a route has at most {MAX_PARAMS} path parameters, not {len(names)}")
        # The plan reads its arguments by index from the values of a match: never fewer.
        if tuple(names) != plan.param_names:
            raise ValueError(f"the pattern has parameters {tuple(names)}, the plan {plan.param_names}")

        node = self.draft
        for segment in pattern:
            if isinstance(segment, bytes):
                if segment not in node.literals:
                    node.literals[segment] = _Draft()
                node = node.literals[segment]
            elif segment[0] != "path":
                branch = CONVERTERS[segment[0]]
                if node.branches[branch] is None:
                    node.branches[branch] = _Draft()
                node = node.branches[branch]
        slot = "rest" if takes_rest else "entry"
        entry = getattr(node, slot)
        if entry is None:
            entry = PathEntry.__new__(PathEntry)
            setattr(node, slot, entry)
            self.entries.append(entry)
            if not names:
                self.static_draft[b"/" + b"/".join(pattern)] = entry
        (<PathEntry>entry).add(methods, plan)
        self.depth = max(self.depth, <int>len(pattern))
        if names:
            self.has_params = True

    def freeze(self):
        """Build the tables. From here on the routes are fixed; a second call does nothing."""
        cdef Node* node
        cdef Py_ssize_t index
        cdef int branch
        if self.draft is None:
            return
        drafts = [self.draft]       # breadth first: the nodes of one level lie side by side
        for draft in drafts:
            drafts += draft.literals.values()
            drafts += [child for child in draft.branches if child is not None]
            if draft.branches[TO_UUID] is not None and self.uuid_class is None:
                import uuid
                self.uuid_class = uuid.UUID
                self.uuid_safety = uuid.SafeUUID.unknown
        places = {id(draft): place for place, draft in enumerate(drafts)}
        for entry in self.entries:
            (<PathEntry>entry).seal()

        open_table(&self.static_paths, len(self.static_draft))
        for path, entry in self.static_draft.items():
            self.keys.append(path)
            insert(&self.static_paths, path, <void*>entry)
        self.nodes = <Node*>PyMem_Calloc(len(drafts), sizeof(Node))
        if self.nodes is NULL:
            raise MemoryError
        self.node_count = len(drafts)
        for index, draft in enumerate(drafts):
            node = &self.nodes[index]
            open_table(&node.literals, len(draft.literals))
            for text, child in draft.literals.items():
                self.keys.append(text)
                insert(&node.literals, text, &self.nodes[<Py_ssize_t>places[id(child)]])
            for branch in range(BRANCHES):
                child = draft.branches[branch]
                if child is not None:
                    node.branches[branch] = &self.nodes[<Py_ssize_t>places[id(child)]]
                    node.branching = True
            # `entries` owns them.
            node.entry = NULL if draft.entry is None else <PyObject*>draft.entry
            node.rest = NULL if draft.rest is None else <PyObject*>draft.rest
        self.draft = None
        self.static_draft = None

    cdef int match(self, const char* path, Py_ssize_t size, bint escaped,
                   PyObject** entry, Params* params) except -1:
        cdef Walk walk
        cdef void* found
        if self.nodes is NULL:
            raise RuntimeError("the router is not frozen: call freeze() first")
        if size == 0:
            path = b"/"
            size = 1
        if path[0] != c"/":
            return MATCH_NONE       # "*"
        if escaped:
            return match_escaped(self, path, size, entry, params)
        found = look_up(&self.static_paths, path, size)
        if found is not NULL:
            entry[0] = <PyObject*>found
            params.count = 0
            return MATCH_FOUND
        if not self.has_params:
            return MATCH_NONE
        split(&walk, path, size, self.depth)
        return finish(self, &walk, entry, params)

    cdef PyObject* make(self, int converter, const char* text, Py_ssize_t size) except NULL:
        if converter == TO_FLOAT:
            return make_float(text, size)
        return make_uuid(text, self.uuid_class, self.uuid_safety)

    # Doors for Python: tests, tools, benchmarks.

    def find(self, str method not None, path not None):
        """What answers a request, as the protocol will see it.

        path:  the raw path, without the query; anything with a buffer
        Returns (plan, values); (None, allow) when the path answers other methods only;
        404; or 400 for a malformed path.
        """
        cdef PyObject* entry = NULL
        cdef Params params
        cdef Py_buffer view
        cdef int index, verdict
        cdef bint escaped
        PyObject_GetBuffer(path, &view, PyBUF_SIMPLE)
        try:
            escaped = memchr(view.buf, b"%", <size_t>view.len) is not NULL
            verdict = self.match(<const char*>view.buf, view.len, escaped, &entry, &params)
        finally:
            PyBuffer_Release(&view)
        if verdict != MATCH_FOUND:
            return verdict
        try:
            token = method.encode()
            plan = (<PathEntry>entry).plan_for(
                METHODS.get(method, OTHER), PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token))
            if plan is None:
                return None, (<PathEntry>entry).allow
            return plan, tuple([<object>params.values[index] for index in range(params.count)])
        finally:
            release_params(&params)

    def match_many(self, str method not None, bytes path not None, Py_ssize_t count):
        """Do `count` times what the protocol does per request; returns the last verdict.

        For benchmarks: one call from Python hides behind many matches.
        """
        cdef PyObject* entry = NULL
        cdef Params params
        cdef int verdict = MATCH_NONE
        cdef int number = METHODS.get(method, OTHER)
        cdef bytes token = method.encode()
        cdef bint escaped = b"%" in path
        cdef Py_ssize_t done
        for done in range(count):
            verdict = self.match(
                PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path), escaped, &entry, &params)
            if verdict == MATCH_FOUND:
                plan = (<PathEntry>entry).plan_for(
                    number, PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token))
                release_params(&params)
        return verdict

    def effort(self, bytes path not None):
        """The number of tree nodes that a match of this raw path visits; 0: no tree needed.

        A count, so that a test can say "flat" without a clock.
        """
        cdef Walk walk
        cdef bytes text = bytes(len(path) + 1)
        if self.nodes is NULL or path[:1] != b"/":
            return 0
        walk.visited = walk.captured = 0
        if b"%" in path:
            if not split_decoded(&walk, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path),
                                 self.depth, PyBytes_AS_STRING(text)):
                return 0
        elif (not self.has_params or look_up(
                &self.static_paths, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path)) is not NULL):
            return 0
        else:
            split(&walk, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path), self.depth)
        walk_on(&walk, self.nodes, 0)
        return walk.visited

    def shape(self):
        """Facts about the frozen tables.

        Returns a dict: entries, static_paths, nodes, depth, and longest_probe: the most slots
        that a look-up of any key at all reads, over every table.
        """
        cdef Py_ssize_t index, longest = longest_probe(&self.static_paths)
        cdef Py_ssize_t static_paths = 0
        cdef uint64_t at
        for index in range(self.node_count):
            longest = max(longest, longest_probe(&self.nodes[index].literals))
        if self.static_paths.slots is not NULL:
            for at in range(self.static_paths.mask + 1):
                static_paths += self.static_paths.slots[at].key is not NULL
        return {
            "entries": len(self.entries), "static_paths": static_paths,
            "nodes": self.node_count, "depth": self.depth, "longest_probe": longest,
        }


cdef int finish(Router router, Walk* walk, PyObject** entry, Params* params) except -1:
    cdef PyObject* found
    walk.visited = walk.captured = 0
    found = walk_on(walk, router.nodes, 0)
    if found is NULL:
        return MATCH_NONE
    entry[0] = found
    return make_values(router, walk, params)


cdef int match_escaped(
        Router router, const char* path, Py_ssize_t size,
        PyObject** entry, Params* params) except -1:
    # Its own function, to keep the decoded copy off the stack of plain paths.
    cdef Walk walk
    cdef char room[STACK_BYTES]
    cdef char* text = room
    if size > STACK_BYTES:
        text = <char*>PyMem_Malloc(<size_t>size)
        if text is NULL:
            raise MemoryError
    try:
        if not split_decoded(&walk, path, size, router.depth, text):
            return MATCH_MALFORMED
        return finish(router, &walk, entry, params)
    finally:
        if text is not room:
            PyMem_Free(text)
