# Multi-dicts of requests and responses.
#
# A request's headers and query are looked at in the bytes they arrived in; nothing is
# built for what a handler does not read. A response's headers are checked the moment
# they are set, so no line break can leave (RFC 9110 section 5.5).

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.string cimport memcmp

from fastserve._speedups.head cimport Field, next_field
from fastserve._speedups.scan cimport QUERY, TOKEN, find, find_any, hex_value, is_in

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


@cython.freelist(16)
cdef class MultiDict:
    """Names with values, several per name; immutable. `[]` and get() give the first."""

    def __init__(self, pairs=()):
        self.pairs = [(str(name), str(value)) for name, value in pairs]

    cdef list all_pairs(self):
        return self.pairs

    cdef str fold(self, object name):
        return name

    cdef object find(self, object name):
        cdef str wanted = self.fold(name)
        for key, value in self.all_pairs():
            if key == wanted:
                return value
        return None

    def __getitem__(self, name):
        value = self.find(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name, default=None):
        """The first value of `name`, or `default`."""
        value = self.find(name)
        return default if value is None else value

    def getlist(self, name):
        """Every value of `name`, in order; empty when there is none."""
        cdef str wanted = self.fold(name)
        return [value for key, value in self.all_pairs() if key == wanted]

    def items(self):
        """Every (name, value), repeated names included, in order."""
        return list(self.all_pairs())

    def keys(self):
        """Every name once, in order of first appearance."""
        return list(dict(self.all_pairs()))

    def values(self):
        """Every value, in order."""
        return [value for _, value in self.all_pairs()]

    def __contains__(self, name):
        return isinstance(name, str) and self.find(name) is not None

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return len(self.keys())

    def __eq__(self, other):
        if not isinstance(other, MultiDict):
            return NotImplemented
        return self.all_pairs() == (<MultiDict>other).all_pairs()

    __hash__ = None

    def __repr__(self):
        return f"{type(self).__name__}({self.all_pairs()!r})"


cdef inline const char* open_part(MultiDict part, const char** cursor) noexcept:
    # Sets the cursor to where the part of the head begins; returns where it ends.
    cdef const char* head = PyBytes_AS_STRING(part.head)
    cursor[0] = head + part.start
    return head + part.end


cdef class QueryParams(MultiDict):
    """The query of a target, decoded as application/x-www-form-urlencoded."""

    cdef list all_pairs(self):
        cdef const char* cursor
        cdef const char* end
        cdef Component part
        if self.pairs is None:
            self.pairs = []
            end = open_part(self, &cursor)
            while next_component(&cursor, end, &part):
                self.pairs.append((name_in(&part), value_in(&part)))
        return self.pairs

    cdef object find(self, object name):
        cdef const char* cursor
        cdef const char* end
        cdef const char* wanted
        cdef Py_ssize_t size
        cdef Component part
        if self.pairs is not None:
            return MultiDict.find(self, name)
        wanted = PyUnicode_AsUTF8AndSize(name, &size)
        end = open_part(self, &cursor)
        while next_component(&cursor, end, &part):
            if part.plain_name:
                if part.name_size == size and memcmp(part.name, wanted, size) == 0:
                    return value_in(&part)
            elif name_in(&part) == <str>name:
                return value_in(&part)
        return None


cdef QueryParams query_params(bytes head, Py_ssize_t start, Py_ssize_t size):
    cdef QueryParams params = QueryParams.__new__(QueryParams)
    params.head = head
    params.start = start
    params.end = start + size
    return params


def form_pairs(bytes content, Py_ssize_t max_fields):
    """The fields of an application/x-www-form-urlencoded body, as (name, value) in order.

    Raises ValueError when there are more than max_fields.
    """
    cdef const char* cursor = PyBytes_AS_STRING(content)
    cdef const char* end = cursor + PyBytes_GET_SIZE(content)
    cdef Component part
    cdef list pairs = []
    while next_component(&cursor, end, &part):
        if len(pairs) == max_fields:
            raise ValueError(f"the form has more than {max_fields} fields")
        pairs.append((name_in(&part), value_in(&part)))
    return pairs


cdef struct Component:
    # name "=" value of a query, still encoded; without a "=" the value is empty.
    const char* name
    Py_ssize_t name_size
    const char* value
    Py_ssize_t value_size
    bint plain_name     # nothing in it is encoded
    bint plain_value


cdef inline bint next_component(const char** cursor, const char* end, Component* part) noexcept:
    # Only "&" separates ("a;b" is one name), as in the WHATWG URL standard. What is between
    # two of them is skipped when empty.
    cdef const char* p = cursor[0]
    while p < end and p[0] == c"&":
        p += 1
    if p >= end:
        return False
    part.name = p
    p = find_any(p, end, QUERY)
    part.plain_name = p == end or p[0] == c"&" or p[0] == c"="
    while p < end and p[0] != c"&" and p[0] != c"=":
        p = find_any(p + 1, end, QUERY)
    part.name_size = p - part.name
    if p < end and p[0] == c"=":
        p += 1
    part.value = p
    p = find_any(p, end, QUERY)
    while p < end and p[0] == c"=":
        p = find_any(p + 1, end, QUERY)
    part.plain_value = p == end or p[0] == c"&"
    if not part.plain_value:
        p = find(p, end, c"&")
    part.value_size = p - part.value
    cursor[0] = p
    return True


cdef inline str name_in(const Component* part):
    return decoded(part.name, part.name_size, part.plain_name)


cdef inline str value_in(const Component* part):
    return decoded(part.value, part.value_size, part.plain_value)


cdef inline str decoded(const char* data, Py_ssize_t size, bint plain):
    return PyUnicode_DecodeUTF8(data, size, "replace") if plain else unquote(data, size, True)


cdef inline bint is_plain(const char* data, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size):
        if data[i] == c"%" or data[i] == c"+":
            return False
    return True


cdef str unquote(const char* data, Py_ssize_t size, bint plus):
    # A broken escape stays as it is; bytes that are not UTF-8 become U+FFFD.
    cdef Py_ssize_t i = 0, used = 0
    cdef int high, low
    cdef bytes decoded
    cdef char* out
    if is_plain(data, size):
        return PyUnicode_DecodeUTF8(data, size, "replace")
    decoded = PyBytes_FromStringAndSize(NULL, size)     # never longer than its source
    out = PyBytes_AS_STRING(decoded)
    while i < size:
        if data[i] == c'%' and i + 2 < size:
            high = hex_value(data[i + 1])
            low = hex_value(data[i + 2])
            if high >= 0 and low >= 0:
                out[used] = <char>(high * 16 + low)
                used += 1
                i += 3
                continue
        out[used] = c' ' if plus and data[i] == c'+' else data[i]
        used += 1
        i += 1
    return PyUnicode_DecodeUTF8(out, used, "replace")


cdef class Headers(MultiDict):
    """Header fields, names compared without case and listed in lower case."""

    def __init__(self, pairs=()):
        self.pairs = [(str(name).lower(), str(value)) for name, value in pairs]

    cdef str fold(self, object name):
        return name.lower()

    cdef list all_pairs(self):
        cdef const char* cursor
        cdef const char* end
        cdef Field field
        if self.pairs is None:
            pairs = []
            end = open_part(self, &cursor)
            while next_field(&cursor, end, &field):
                pairs.append((
                    PyUnicode_DecodeLatin1(field.name, field.name_size, NULL).lower(),
                    PyUnicode_DecodeLatin1(field.value, field.value_size, NULL)))
            self.pairs = pairs
        return self.pairs

    cdef object find(self, object name):
        cdef const char* cursor
        cdef const char* end
        cdef const char* wanted
        cdef Py_ssize_t size
        cdef Field field
        if self.pairs is not None:
            return MultiDict.find(self, name)
        wanted = PyUnicode_AsUTF8AndSize(name, &size)
        end = open_part(self, &cursor)
        while next_field(&cursor, end, &field):
            if field.name_size == size and same_name(field.name, wanted, size):
                return PyUnicode_DecodeLatin1(field.value, field.value_size, NULL)
        return None


cdef inline char lower(char c) noexcept nogil:
    return <char>(c | 0x20) if c'A' <= c <= c'Z' else c


cdef inline bint same_name(const char* left, const char* right, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        if lower(left[i]) != lower(right[i]):
            return False
    return True


cdef Headers request_headers(bytes head, Py_ssize_t start):
    cdef Headers headers = Headers.__new__(Headers)
    headers.head = head
    headers.start = start
    headers.end = PyBytes_GET_SIZE(head)
    return headers


cdef int name_host(Headers headers, bytes target) except -1:
    cdef str rest = target.partition(b"://")[2].decode("latin-1")
    cdef tuple host = ("host", rest.partition("/")[0].partition("?")[0])
    cdef list pairs = headers.all_pairs()
    if "host" in headers:
        headers.pairs = [host if pair[0] == "host" else pair for pair in pairs]
    else:
        headers.pairs = [host, *pairs]
    return 0


cdef bytes checked_name(object name):
    # RFC 9110 section 5.1: a token.
    cdef bytes encoded
    cdef unsigned char c
    if not isinstance(name, str):
        raise TypeError(f"a header name is a str, not {type(name).__name__}")
    try:
        encoded = (<str>name).encode("ascii")
    except UnicodeEncodeError:
        raise ValueError(f"header name {name!r} is not ASCII (RFC 9110 section 5.1)") from None
    if not encoded:
        raise ValueError("a header name is empty (RFC 9110 section 5.1)")
    for c in encoded:
        if not is_in(<char>c, TOKEN):
            raise ValueError(f"header name {name!r} holds {chr(c)!r} (RFC 9110 section 5.1)")
    return encoded


cdef bytes checked_value(object name, object value):
    # RFC 9110 section 5.5: no CTL but HTAB; Latin-1, as every server sends it.
    cdef bytes encoded
    cdef unsigned char c
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} is a str, not {type(value).__name__}")
    try:
        encoded = (<str>value).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"header {name!r} holds a character outside Latin-1: {value!r}") from None
    for c in encoded:
        if c < 0x20 and c != c'\t' or c == 0x7F:
            kind = "a line break" if c in (10, 13) else "a control character"
            raise ValueError(f"header {name!r} contains {kind}: {value!r} (RFC 9110 section 5.5)")
    return encoded.strip(b" \t")


cdef class MutableHeaders:
    """The header fields of a response; checked when set.

    Raises ValueError for a name that is no token or a value with a control character,
    TypeError for what is no str (RFC 9110 sections 5.1 and 5.5).
    """

    def __cinit__(self):
        self.pairs = []

    def __init__(self, source=None):
        self.update(source)

    cdef int insert(self, object name, object value) except -1:
        self.pairs.append((checked_name(name), checked_value(name, value)))
        return 0

    def update(self, source):
        """Set every field of a mapping, or add every (name, value) of an iterable."""
        if source is None:
            return
        if hasattr(source, "getlist") or not hasattr(source, "items"):
            pairs = source.items() if hasattr(source, "items") else source
            for name, value in pairs:
                self.insert(name, value)
        else:
            for name, value in source.items():
                self[name] = value

    def add(self, name, value):
        """Add a field beside those of the same name."""
        self.insert(name, value)

    def __setitem__(self, name, value):
        cdef bytes encoded = checked_name(name), checked = checked_value(name, value)
        if self.pairs:
            self._drop(encoded)
        self.pairs.append((encoded, checked))

    def __delitem__(self, name):
        if not self._drop(checked_name(name)):
            raise KeyError(name)

    def _drop(self, bytes name):
        cdef bytes folded = name.lower()
        kept = [pair for pair in self.pairs if pair[0].lower() != folded]
        found = len(kept) != len(self.pairs)
        self.pairs = kept
        return found

    def setdefault(self, name, value):
        """The value of `name`, which is set to `value` when absent."""
        found = self.get(name)
        if found is None:
            self[name] = found = value
        return found

    def pop(self, name, default=None):
        """Remove `name`; its first value, or `default`."""
        value = self.get(name)
        if value is None:
            return default
        del self[name]
        return value

    def getlist(self, name):
        """Every value of `name`, in order."""
        folded = name.lower()
        return [value for key, value in self.items() if key.lower() == folded]

    def get(self, name, default=None):
        """The first value of `name`, or `default`."""
        for value in self.getlist(name):
            return value
        return default

    def items(self):
        """Every (name, value), in order."""
        return [(name.decode("ascii"), value.decode("latin-1")) for name, value in self.pairs]

    def keys(self):
        """Every name, in lower case, once."""
        return list(dict.fromkeys(name.lower() for name, _ in self.items()))

    def __getitem__(self, name):
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name):
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return len(self.keys())

    def __repr__(self):
        return f"MutableHeaders({self.items()!r})"


cdef MutableHeaders mutable_headers(object source):
    cdef MutableHeaders headers = MutableHeaders.__new__(MutableHeaders)
    if source is not None:
        if type(source) is dict:
            for name, value in (<dict>source).items():
                headers.insert(name, value)
        else:
            headers.update(source)
    return headers
