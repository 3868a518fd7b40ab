# The access log's lines: see journal.pxd for the contract.
#
# A line is written with a cursor into memory that was reserved for the longest one. Each part
# has a room of its own, and what is left is for the header values: so the sum never passes
# LOG_LINE_BYTES, whatever a stranger sends.

import json
import os
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from libc.time cimport gmtime_r, time_t, tm

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.dates cimport MONTHS, put_clock
from fastserve._speedups.digits cimport put_number, put_pair
from fastserve._speedups.head cimport METHOD_OTHER, Field, next_field
from fastserve._speedups.observed cimport Observed
from fastserve._speedups.plan cimport Plan

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__SSE2__) && !defined(FASTSERVE_NO_SIMD)
    #include <emmintrin.h>
    #define FS_LOG_SSE2 1
    #endif

    /* What may stand in a quoted string as it is: printable ASCII but quote and backslash. And
       what may stand without quotes: neither a space nor "=", either. */
    static inline int fs_quotable(char c) {
        return (uint8_t)c >= ' ' && (uint8_t)c < 0x7f && c != '"' && c != '\\\\';
    }
    static inline int fs_plain(char c) {
        return (uint8_t)c > ' ' && (uint8_t)c < 0x7f && c != '"' && c != '\\\\' && c != '=';
    }
    /* The first byte in [p, end) that may not, or end. */
    static inline const char *fs_skip_quotable(const char *p, const char *end) {
    #ifdef FS_LOG_SSE2
        for (; end - p >= 16; p += 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)p);
            /* signed: bytes from 0x80 are below a space too */
            __m128i stop = _mm_cmplt_epi8(x, _mm_set1_epi8(' '));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7f)));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8('"')));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8('\\\\')));
            int hit = _mm_movemask_epi8(stop);
            if (hit) return p + __builtin_ctz((unsigned)hit);
        }
    #endif
        while (p < end && fs_quotable(*p)) p++;
        return p;
    }
    static inline const char *fs_skip_plain(const char *p, const char *end) {
        while (p < end && fs_plain(*p)) p++;
        return p;
    }
    """
    const char* skip_quotable "fs_skip_quotable"(const char* p, const char* end) noexcept nogil
    const char* skip_plain "fs_skip_plain"(const char* p, const char* end) noexcept nogil

cdef enum:
    # The rooms, in bytes as they are written. With the words around them, numbers and the
    # longest names they leave some 500 bytes for header values in the worst of lines.
    CLIENT_ROOM = 128
    METHOD_ROOM = 64
    TARGET_ROOM = 1536
    ROUTE_ROOM = 256
    ID_ROOM = 240
    VALUE_ROOM = 1024           # of one field; several fields of one name share it
    CUT_BYTES = 3               # "..."
    END_BYTES = 4               # '"}}' and the line feed

cdef int64_t SECOND_NS = 1000000000
cdef dict FORMATS = {"text": TEXT, "json": JSON, "logfmt": LOGFMT}
cdef const char* HEX = b"0123456789abcdef"


cdef inline bint is_unlogged(const Observed* seen) noexcept:
    return seen.plan != NULL and (<Plan>seen.plan).unlogged and seen.status < 500


cdef inline char* say(char* at, const char* words) noexcept:
    # Words of our own; the compiler knows their length.
    cdef size_t size = strlen(words)
    memcpy(at, words, size)
    return at + size


cdef inline char* put(char* at, const char* data, Py_ssize_t size) noexcept:
    memcpy(at, data, size)
    return at + size


cdef inline char* put_count(char* at, int64_t value) noexcept:
    return put_number(at, 0 if value < 0 else <uint64_t>value)


cdef inline char* put_micros(char* at, int micros) noexcept:
    at = put_pair(at, <int>(micros // 10000))
    at = put_pair(at, <int>(micros // 100 % 100))
    return put_pair(at, <int>(micros % 100))


cdef inline char* put_duration(char* at, const Observed* seen) noexcept:
    # Seconds, to the microsecond.
    cdef int64_t micros = (seen.ended_ns - seen.begun_ns) // 1000
    if micros < 0:
        micros = 0
    at = put_count(at, micros // 1000000)
    at[0] = c"."
    return put_micros(at + 1, <int>(micros % 1000000))


cdef char* put_escape(char* at, uint8_t byte, Format form) noexcept:
    if byte == c'"' or byte == c"\\":
        at[0] = c"\\"
        at[1] = <char>byte
        return at + 2
    at = say(at, b"\\x" if form == TEXT else b"\\u00")
    at[0] = HEX[byte >> 4]
    at[1] = HEX[byte & 15]
    return at + 2


cdef inline char* put_escaped(char* at, const char* data, Py_ssize_t size, Py_ssize_t room,
                              Format form, bint bare) noexcept:
    # As much of it as there is room for, at least CUT_BYTES; bare: a space, too, is escaped.
    cdef const char* end = data + size
    cdef const char* stop
    cdef char* limit = at + room - CUT_BYTES
    while data < end:
        stop = skip_plain(data, end) if bare else skip_quotable(data, end)
        if stop - data > limit - at:
            return say(put(at, data, limit - at), b"...")
        at = put(at, data, stop - data)
        data = stop
        if data < end:
            if limit - at < 6:
                return say(at, b"...")
            at = put_escape(at, data[0], form)
            data += 1
    return at


cdef inline char* put_between_quotes(
        char* at, const char* data, Py_ssize_t size, Py_ssize_t room, Format form) noexcept:
    return put_escaped(at, data, size, room, form, False)


cdef inline char* put_bare(
        char* at, const char* data, Py_ssize_t size, Py_ssize_t room, Format form) noexcept:
    # One word without quotes. Nothing is "-".
    return put_escaped(at, data, size, room, form, True) if size else say(at, b"-")


cdef inline char* put_logfmt(
        char* at, const char* data, Py_ssize_t size, Py_ssize_t room) noexcept:
    # With quotes where it needs them, which come out of the room.
    if size and skip_plain(data, data + size) == data + size:
        return put_bare(at, data, size, room, LOGFMT)
    at[0] = c'"'
    at = put_between_quotes(at + 1, data, size, room - 2, LOGFMT)
    at[0] = c'"'
    return at + 1


cdef char* put_json_text(char* at, bytes data, Py_ssize_t room) except NULL:
    # The application's own words: UTF-8, and shown as such.
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef char* limit = at + room - CUT_BYTES
    if size <= limit - at and skip_quotable(start, start + size) == start + size:
        return put(at, start, size)
    for character in data.decode("utf-8", "replace"):
        piece = json.dumps(character)[1:-1].encode()
        if len(piece) > limit - at:
            return say(at, b"...")
        at = put(at, piece, len(piece))
    return at


cdef inline bytes template_of(const Observed* seen):
    return b"" if seen.plan == NULL else (<Plan>seen.plan).template


cdef inline bytes client_of(const Observed* seen):
    return b"-" if seen.client == NULL else <bytes>seen.client


cdef inline char small(char byte) noexcept:
    return <char>(byte | 0x20) if c"A" <= byte <= c"Z" else byte


cdef bint is_named(const Field* field, const Chosen* chosen) noexcept:
    cdef Py_ssize_t index
    if <Py_ssize_t>field.name_size != chosen.size:
        return False
    for index in range(chosen.size):
        if small(field.name[index]) != chosen.name[index]:
            return False
    return True


def distance_of_clocks_ns():
    """How far the wall clock is ahead of CLOCK_MONOTONIC."""
    return time.time_ns() - time.monotonic_ns()


cdef class Journal:
    """Writes a line for each request into a buffer, and the buffer to a sink.

    sink:            called with bytes, whole lines
    format:          "text", "json" or "logfmt"
    headers:         names of request fields to write down, at most 16 of at most 64 bytes
    sample:          the share of requests that get a line, 0 to 1; statuses from 500 always do
    slow_s:          only requests that took so long, or have a status from 500
    wall_offset_ns:  called for the wall clock's distance from CLOCK_MONOTONIC; four times a second
    Raises ValueError for a format or headers that cannot be.
    """

    def __init__(self, sink, *, format="json", headers=(), double sample=1.0, double slow_s=0.0,
                 wall_offset_ns=distance_of_clocks_ns):
        if format not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
        if not 0 <= sample <= 1:
            raise ValueError(f"sample is from 0 to 1, not {sample}")
        self.form = FORMATS[format]
        self.sink = sink
        self.choosy = sample < 1 or slow_s > 0
        # 2**64 - 1 is no double: the nearest one is above it
        self.chance = UINT64_MAX if sample >= 1 else <uint64_t>(sample * <double>UINT64_MAX)
        self.random = int.from_bytes(os.urandom(8), "little") | 1
        self.slow_ns = <int64_t>(slow_s * 1e9)
        self.choose(headers)
        self.wall_offset_ns = wall_offset_ns
        self.offset_ns = wall_offset_ns()
        self.second = -1
        self.lines = Buffer()
        self.lines.reserve(FLUSH_BYTES + LOG_LINE_BYTES)

    def choose(self, headers):
        cdef int index
        cdef Chosen* chosen
        if len(headers) > MAX_LOGGED_HEADERS:
            raise ValueError(f"at most {MAX_LOGGED_HEADERS} headers, not {len(headers)}")
        self.names = tuple(name.lower().encode() for name in headers)
        if any(not 0 < len(name) <= MAX_LOGGED_NAME_BYTES for name in self.names):
            raise ValueError(f"the name of a header has at most {MAX_LOGGED_NAME_BYTES} bytes")
        leads = {TEXT: b' "', JSON: b',"%s":"', LOGFMT: b" header.%s="}[self.form]
        self.leads = tuple(leads % name if self.form != TEXT else leads for name in self.names)
        self.chosen_count = <int>len(self.names)
        for index, name in enumerate(self.names):
            chosen = &self.chosen[index]
            chosen.name = PyBytes_AS_STRING(name)
            chosen.size = PyBytes_GET_SIZE(name)
            lead = self.leads[index]
            chosen.lead = PyBytes_AS_STRING(lead)
            chosen.lead_size = PyBytes_GET_SIZE(lead)
        self.leads_bytes = sum([len(lead) + 2 + CUT_BYTES for lead in self.leads])

    cdef int add(self, const Observed* seen) except -1:
        cdef char* at
        if (self.choosy and not self.wanted(seen)) or is_unlogged(seen):
            return 0
        self.lines.reserve(LOG_LINE_BYTES)
        at = self.lines.data + self.lines.size
        if self.form == JSON:
            at = self.json_line(at, seen)
        elif self.form == TEXT:
            at = self.text_line(at, seen)
        else:
            at = self.logfmt_line(at, seen)
        at[0] = c"\n"
        self.lines.size = at + 1 - self.lines.data
        if self.lines.size >= FLUSH_BYTES:
            self.flush()
        return 0

    cpdef int flush(self) except -1:
        """Hand what there is to the sink; and look at the wall clock anew."""
        self.offset_ns = self.wall_offset_ns()
        if self.lines.size:
            data = PyBytes_FromStringAndSize(self.lines.data, self.lines.size)
            self.lines.size = 0
            self.sink(data)
        return 0

    cdef bint wanted(self, const Observed* seen) noexcept:
        if seen.status >= 500:
            return True
        if seen.ended_ns - seen.begun_ns < self.slow_ns:
            return False
        if self.chance == UINT64_MAX:
            return True
        # xorshift64* (Vigna 2016)
        self.random ^= self.random >> 12
        self.random ^= self.random << 25
        self.random ^= self.random >> 27
        return self.random * <uint64_t>0x2545F4914F6CDD1D < self.chance

    cdef int64_t wall_ns(self, int64_t monotonic_ns) noexcept:
        cdef int64_t wall = monotonic_ns + self.offset_ns
        return wall if wall > 0 else 0

    cdef int render_second(self, int64_t second) except -1:
        cdef time_t moment = <time_t>second
        cdef tm parts
        cdef int year
        cdef char* at = self.time
        gmtime_r(&moment, &parts)
        year = parts.tm_year + 1900     # until 2262, where int64_t ends
        if self.form == TEXT:
            at = put_pair(at, parts.tm_mday)
            at[0] = c"/"
            at = put(at + 1, MONTHS + 5 * parts.tm_mon + 1, 3)
            at[0] = c"/"
            at = put_pair(put_pair(at + 1, <int>(year // 100)), <int>(year % 100))
            at[0] = c":"
        else:
            at = put_pair(put_pair(at, <int>(year // 100)), <int>(year % 100))
            at[0] = c"-"
            at = put_pair(at + 1, parts.tm_mon + 1)
            at[0] = c"-"
            at = put_pair(at + 1, parts.tm_mday)
            at[0] = c"T"
        at = put_clock(at + 1, &parts)
        at = say(at, b" +0000" if self.form == TEXT else b".")
        self.time_size = at - self.time
        self.second = second
        return 0

    cdef char* put_time(self, char* at, const Observed* seen) except NULL:
        cdef int64_t wall = self.wall_ns(seen.ended_ns)
        cdef int64_t second = wall // SECOND_NS
        if second != self.second:
            # nobody may have flushed for a while: the loop was busy
            self.offset_ns = self.wall_offset_ns()
            wall = self.wall_ns(seen.ended_ns)
            second = wall // SECOND_NS
            self.render_second(second)
        at = put(at, self.time, self.time_size)
        if self.form == TEXT:
            return at
        at = put_micros(at, <int>((wall - second * SECOND_NS) // 1000))
        at[0] = c"Z"
        return at + 1

    cdef char* json_line(self, char* at, const Observed* seen) except NULL:
        cdef const char* line = at
        cdef bytes client = client_of(seen), template = template_of(seen)
        at = self.put_time(say(at, b'{"time":"'), seen)
        at = say(at, b'","client":"')
        at = put_between_quotes(
            at, PyBytes_AS_STRING(client), PyBytes_GET_SIZE(client), CLIENT_ROOM, JSON)
        if seen.head == NULL:
            at = say(at, b'","method":null,"target":null,"version":null')
        else:
            at = say(at, b'","method":"')
            at = put_between_quotes(
                at, seen.head + seen.method_start, seen.method_size, METHOD_ROOM, JSON)
            at = say(at, b'","target":"')
            at = put_between_quotes(
                at, seen.head + seen.target_start, seen.target_size, TARGET_ROOM, JSON)
            at = say(at, b'","version":"1.1"' if seen.minor_version else b'","version":"1.0"')
        if PyBytes_GET_SIZE(template) == 0:
            at = say(at, b',"route":null')
        else:
            at = say(at, b',"route":"')
            at = put_json_text(at, template, ROUTE_ROOM)
            at[0] = c'"'
            at += 1
        at = put_count(say(at, b',"status":'), seen.status)
        at = put_count(say(at, b',"body_bytes":'), seen.body_bytes)
        at = put_duration(say(at, b',"duration_s":'), seen)
        if seen.id_size == 0:
            at = say(at, b',"request_id":null')
        else:
            at = say(at, b',"request_id":"')
            at = put_between_quotes(at, seen.id, seen.id_size, ID_ROOM, JSON)
            at[0] = c'"'
            at += 1
        if self.chosen_count:
            at = say(at, b',"headers":{')
            at = self.put_headers(at, line, seen)
            at[0] = c"}"
            at += 1
        at[0] = c"}"
        return at + 1

    cdef char* text_line(self, char* at, const Observed* seen) except NULL:
        cdef const char* line = at
        cdef bytes client = client_of(seen), template = template_of(seen)
        at = put_bare(at, PyBytes_AS_STRING(client), PyBytes_GET_SIZE(client), CLIENT_ROOM, TEXT)
        at = self.put_time(say(at, b" - - ["), seen)
        at = say(at, b'] "')
        if seen.head == NULL:
            at = say(at, b"-")
        else:
            at = put_between_quotes(
                at, seen.head + seen.method_start, seen.method_size, METHOD_ROOM, TEXT)
            at[0] = c" "
            at = put_between_quotes(
                at + 1, seen.head + seen.target_start, seen.target_size, TARGET_ROOM, TEXT)
            at = say(at, b" HTTP/1.1" if seen.minor_version else b" HTTP/1.0")
        at = put_count(say(at, b'" '), seen.status)
        at[0] = c" "
        at = put_count(at + 1, seen.body_bytes)
        at[0] = c" "
        at = put_duration(at + 1, seen)
        at[0] = c" "
        at = put_bare(at + 1, seen.id, seen.id_size, ID_ROOM, TEXT)
        at = say(at, b' "')
        if PyBytes_GET_SIZE(template) == 0:
            at = say(at, b"-")
        else:
            at = put_between_quotes(
                at, PyBytes_AS_STRING(template), PyBytes_GET_SIZE(template), ROUTE_ROOM, TEXT)
        at[0] = c'"'
        return self.put_headers(at + 1, line, seen)

    cdef char* logfmt_line(self, char* at, const Observed* seen) except NULL:
        cdef const char* line = at
        cdef bytes client = client_of(seen), template = template_of(seen)
        at = self.put_time(say(at, b"time="), seen)
        at = say(at, b" client=")
        at = put_logfmt(at, PyBytes_AS_STRING(client), PyBytes_GET_SIZE(client), CLIENT_ROOM)
        if seen.head != NULL:
            at = say(at, b" method=")
            at = put_logfmt(at, seen.head + seen.method_start, seen.method_size, METHOD_ROOM)
            at = say(at, b" target=")
            at = put_logfmt(at, seen.head + seen.target_start, seen.target_size, TARGET_ROOM)
            at = say(at, b" version=1.1" if seen.minor_version else b" version=1.0")
        else:
            at = say(at, b" method=- target=- version=-")
        if PyBytes_GET_SIZE(template) == 0:
            at = say(at, b" route=-")
        else:
            at = say(at, b" route=")
            at = put_logfmt(
                at, PyBytes_AS_STRING(template), PyBytes_GET_SIZE(template), ROUTE_ROOM)
        at = put_count(say(at, b" status="), seen.status)
        at = put_count(say(at, b" body_bytes="), seen.body_bytes)
        at = put_duration(say(at, b" duration_s="), seen)
        at = say(at, b" request_id=")
        if seen.id_size == 0:
            at = say(at, b"-")
        else:
            at = put_logfmt(at, seen.id, seen.id_size, ID_ROOM)
        return self.put_headers(at, line, seen)

    cdef char* put_headers(self, char* at, const char* line, const Observed* seen) except NULL:
        # `line` is where the line began.
        cdef Match[MAX_MATCHES] matches
        cdef int index, nth, found
        cdef int count = self.find_headers(seen, matches)
        cdef Chosen* chosen
        cdef Py_ssize_t later = self.leads_bytes, room
        cdef char* value
        cdef bint first = True
        for index in range(self.chosen_count):
            chosen = &self.chosen[index]
            found = 0
            for nth in range(count):
                if matches[nth].index == index:
                    found += 1
            if found == 0 and self.form != TEXT:
                later -= chosen.lead_size + 2 + CUT_BYTES
                continue
            # What is left of the line, less what this name and those behind it cost at least.
            room = LOG_LINE_BYTES - END_BYTES - (at - line) - later + CUT_BYTES
            later -= chosen.lead_size + 2 + CUT_BYTES
            if room > VALUE_ROOM:
                room = VALUE_ROOM
            if self.form == JSON and first:     # no comma
                at = put(at, chosen.lead + 1, chosen.lead_size - 1)
            else:
                at = put(at, chosen.lead, chosen.lead_size)
            first = False
            if found == 0:
                at = say(at, b'-"')
            elif found == 1 and self.form == LOGFMT:
                for nth in range(count):
                    if matches[nth].index == index:
                        at = put_logfmt(at, matches[nth].value, matches[nth].size, room + 2)
            else:
                if self.form == LOGFMT:
                    at = say(at, b'"')
                value = at
                found = 0
                for nth in range(count):
                    if matches[nth].index != index:
                        continue
                    found += 1
                    if found > 1:
                        if room - (at - value) < 2 + CUT_BYTES:
                            break
                        at = say(at, b", ")
                    at = put_between_quotes(
                        at, matches[nth].value, matches[nth].size, room - (at - value), self.form)
                at = say(at, b'"')
        return at

    cdef int find_headers(self, const Observed* seen, Match* matches) noexcept:
        cdef const char* cursor
        cdef const char* end
        cdef Field field
        cdef int count = 0, index
        if seen.head == NULL or self.chosen_count == 0:
            return 0
        cursor = seen.fields
        end = cursor + seen.fields_size
        while count < MAX_MATCHES and next_field(&cursor, end, &field):
            for index in range(self.chosen_count):
                if is_named(&field, &self.chosen[index]):
                    matches[count].index = index
                    matches[count].value = field.value
                    matches[count].size = field.value_size
                    count += 1
                    break
        return count

    def add_request(self, head=None, *, int status=200, bytes client=b"-", bytes id=b"",
                    int64_t body_bytes=0, int64_t begun_ns=0, int64_t ended_ns=0,
                    Plan plan=None):
        """Write down a request that something else than an engine answered.

        head:                the raw head, or None for what was no request
        client:              an address without its port
        id:                  at most 40 bytes
        begun_ns, ended_ns:  CLOCK_MONOTONIC
        plan:                of the route that answered, or None
        """
        cdef Observed seen
        cdef bytes raw
        memset(&seen, 0, sizeof(Observed))
        if len(id) > <Py_ssize_t>sizeof(seen.id):
            raise ValueError(f"an id has at most {sizeof(seen.id)} bytes, not {len(id)}")
        seen.refused = head is None
        if head is not None:
            raw = head
            line = raw[:raw.index(b"\r\n")]
            method, target, version = line.split(b" ")
            seen.head = PyBytes_AS_STRING(raw)
            seen.method = METHOD_OTHER
            seen.minor_version = version == b"HTTP/1.1"
            seen.method_size = <uint32_t>len(method)
            seen.target_start = seen.method_size + 1
            seen.target_size = <uint32_t>len(target)
            seen.fields = seen.head + len(line) + 2
            seen.fields_size = <uint32_t>(len(raw) - len(line) - 2)
        seen.status = status
        seen.client = <PyObject*>client
        memcpy(seen.id, PyBytes_AS_STRING(id), len(id))
        seen.id_size = <uint8_t>len(id)
        seen.body_bytes = body_bytes
        seen.begun_ns = begun_ns
        seen.answered_ns = seen.ended_ns = ended_ns
        seen.plan = NULL if plan is None else <PyObject*>plan
        self.add(&seen)


cdef class RecordJournal(Journal):
    """Hands each request to a sink as a dict, at once.

    sink:  called with the fields of the JSON format, but for the time: that is "ended_s", the
           seconds since the epoch; texts are Latin-1 as the client sent them, None is unknown
    The rest is a Journal's.
    """

    cdef int add(self, const Observed* seen) except -1:
        cdef bytes template
        if (self.choosy and not self.wanted(seen)) or is_unlogged(seen):
            return 0
        template = template_of(seen)
        fields = {
            "ended_s": self.wall_ns(seen.ended_ns) / 1e9,
            "client": client_of(seen).decode("latin-1"),
            "method": None, "target": None, "version": None,
            "route": template.decode("utf-8", "replace") or None,
            "status": seen.status,
            "body_bytes": seen.body_bytes,
            "duration_s": max((seen.ended_ns - seen.begun_ns) / 1e9, 0.0),
            "request_id": seen.id[:seen.id_size].decode("latin-1") or None,
            "headers": self.headers_of(seen),
        }
        if seen.head != NULL:
            fields["method"] = seen.head[
                seen.method_start:seen.method_start + seen.method_size].decode("latin-1")
            fields["target"] = seen.head[
                seen.target_start:seen.target_start + seen.target_size].decode("latin-1")
            fields["version"] = "1.1" if seen.minor_version else "1.0"
        self.sink(fields)
        return 0

    cdef dict headers_of(self, const Observed* seen):
        cdef Match[MAX_MATCHES] matches
        cdef int nth
        cdef dict found = {}
        for nth in range(self.find_headers(seen, matches)):
            name = (<bytes>self.names[matches[nth].index]).decode()
            value = matches[nth].value[:matches[nth].size].decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found
