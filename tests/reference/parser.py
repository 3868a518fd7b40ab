"""Requests read in plain Python: the oracle for both parsers.

Written from RFC 9112 and RFC 9110 with regular expressions, for clarity and not for speed.
head() and chunked() look at all bytes at once and give what the parsers' doors of the same
names give: the meaning, a status to answer, or None for "more is needed".
"""

import ipaddress
import re

LIMITS = {
    "max_head_bytes": 32768,
    "max_field_bytes": 8192,
    "max_headers": 100,
    "max_target_bytes": 8192,
    "max_chunk_extension_bytes": 4096,
    "max_trailer_bytes": 8192,
    "max_trailers": 32,
}
SINGLE = (
    b"authorization", b"content-location", b"content-range", b"content-type", b"date", b"from",
    b"if-modified-since", b"if-range", b"if-unmodified-since", b"max-forwards", b"origin",
    b"proxy-authorization", b"range", b"referer", b"user-agent",
)  # fmt: skip
OF_HEADS_ONLY = (
    b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type",
)  # fmt: skip
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT")

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
PARAMETER = rb"%s(?:=(?:%s|%s))?" % (TOKEN, TOKEN, QUOTED)
CODING = rb"%s(?:[ \t]*;[ \t]*%s)*" % (TOKEN, PARAMETER)

REQUEST_LINE = re.compile(rb"(%s) ([^ ]+) HTTP/([0-9])\.([0-9])\r\n" % TOKEN)
ORIGIN = re.compile(rb"(/?[!\"$->@-~]*)(?:\?([!\"$-~]*))?")
ABSOLUTE = re.compile(rb"https?://([^/?]+)((?s:.*))", re.IGNORECASE)
AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]*)\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
)
FIELD = re.compile(rb"(%s):[ \t]*([\t -~\x80-\xff]*?)[ \t]*\r\n" % TOKEN)
CODINGS = re.compile(rb"%s(?:[ \t]*,[ \t]*%s)*" % (CODING, CODING))
OPTION = re.compile(rb"(?:%s)?" % TOKEN)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;%s)*)\r\n" % PARAMETER)


class Refused(Exception):
    def __init__(self, status):
        self.status = status


def require(condition, status=400):
    if not condition:
        raise Refused(status)


def is_authority(text):
    match = AUTHORITY.fullmatch(text)
    if not match or int(match[2] or b"0") > 65535:
        return False
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1].decode())
        except ValueError:
            return False
    return True


def read_request_line(line, limits):
    match = REQUEST_LINE.fullmatch(line)
    require(match)
    method, target, major, minor = match.groups()
    require(major == b"1" and minor in b"01", 505)
    require(len(method) <= 32, 501)
    require(len(target) <= limits["max_target_bytes"], 414)
    if method == b"CONNECT":
        require(is_authority(target) and re.search(rb":[0-9]+\Z", target))
        raise Refused(501)
    path, authority = target, None
    if absolute := ABSOLUTE.fullmatch(target):
        authority, path = absolute.groups()
        require(is_authority(authority))
        require(path == b"" or path[:1] in b"/?")
    elif target == b"*":
        require(method == b"OPTIONS")
    else:
        require(target.startswith(b"/"))
    match = ORIGIN.fullmatch(path)
    require(match)
    return {
        "method": method,
        "method_id": METHODS.index(method) + 1 if method in METHODS else 0,
        "target": target,
        "path": match[1] or b"/",
        "path_escaped": b"%" in match[1],
        "query": match[2],
        "version": f"1.{minor.decode()}",
    }, authority


def read_coding(value):
    """Whether Transfer-Encoding says chunked; False: it says something else, well-formed."""
    if value.lower() == b"chunked":
        return True
    require(CODINGS.fullmatch(value))
    bare = re.sub(QUOTED, b"", value)
    names = [coding.strip(b" \t").lower() for coding in bare.split(b",")]
    for index, name in enumerate(names):
        if name.split(b";")[0].strip(b" \t") == b"chunked":
            require(name == b"chunked" and index == len(names) - 1)
    return False


class Fields:
    """What the fields of a head say together."""

    def __init__(self, version, authority):
        self.version, self.authority = version, authority
        self.values = {}
        self.chunked = self.other_coding = False
        self.length = None
        self.options = set()

    def add(self, name, value):
        name = name.lower()
        self.values.setdefault(name, []).append(value)
        if name in (b"host", b"content-length", b"transfer-encoding"):
            require(len(self.values[name]) == 1)
            require(not {b"content-length", b"transfer-encoding"} <= self.values.keys())
        if name in SINGLE:
            require(len(self.values[name]) == 1)
        if name == b"host":
            old = self.version == "1.0" and self.authority is None
            require(is_authority(value) or (value == b"" and old))
        elif name == b"content-length":
            require(re.fullmatch(rb"0*[0-9]{1,19}", value) and int(value) < 2**63)
            self.length = int(value)
        elif name == b"transfer-encoding":
            require(self.version == "1.1")
            self.chunked = read_coding(value)
            self.other_coding = not self.chunked
        elif name == b"connection":
            options = [option.strip(b" \t") for option in value.split(b",")]
            require(all(OPTION.fullmatch(option) for option in options))
            self.options |= {option.lower() for option in options}

    def judge_underscores(self, names):
        # As gateways fold them, RFC 3875 section 4.1.18.
        count = 0
        for name in names:
            count += b"_" in name
            require(count <= 32, 431)
            if b"_" in name:
                dashed = name.lower().replace(b"_", b"-")
                require(dashed not in (b"content-length", b"transfer-encoding"))
                alike = {other for other in self.values if other.replace(b"_", b"-") == dashed}
                require(len(alike) == 1)

    def meaning(self):
        modern = self.version == "1.1"
        require(not modern or b"host" in self.values)
        require(not self.other_coding, 501)
        expectations = {value.lower() for value in self.values.get(b"expect", ()) if modern}
        require(expectations <= {b"100-continue"}, 417)
        return {
            "content_length": self.length,
            "chunked": self.chunked,
            "keep_alive": b"close" not in self.options
            and (modern or b"keep-alive" in self.options),
            "expect_continue": bool(expectations),
            "upgrade": modern
            and b"upgrade" in self.values
            and b"upgrade" in self.options
            and not self.chunked
            and not self.length,
        }


def read_head(data, limits):
    window = data[: limits["max_head_bytes"]]
    full = len(window) == limits["max_head_bytes"]
    start = 2 if window.startswith(b"\r\n") else 0
    longest = limits["max_target_bytes"] + 64
    end = window.find(b"\n", start) + 1
    require((end or len(window) + 1) - start <= longest, 414)
    if not end:
        require(not full, 431)
        return None
    meaning, authority = read_request_line(window[start:end], limits)
    fields = Fields(meaning["version"], authority)
    headers = []
    while True:
        start, end = end, window.find(b"\n", end) + 1
        require((end or len(window) + 1) - start <= limits["max_field_bytes"], 431)
        if not end:
            require(not full, 431)
            return None
        line = window[start:end]
        if line == b"\r\n":
            fields.judge_underscores([name for name, _ in headers])
            return {**meaning, "headers": headers, **fields.meaning(), "consumed": end}
        require(len(headers) < limits["max_headers"], 431)
        match = FIELD.fullmatch(line)
        require(match)
        headers.append(match.groups())
        fields.add(*match.groups())


def read_chunked(data, limits):
    body, position, extension_bytes = b"", 0, 0
    while True:
        longest = 18 + limits["max_chunk_extension_bytes"] - extension_bytes
        end = data.find(b"\n", position, position + longest) + 1
        if not end:
            require(len(data) - position < longest)
            return None
        match = CHUNK_LINE.fullmatch(data[position:end])
        require(match)
        extension_bytes += len(match[2])
        require(extension_bytes <= limits["max_chunk_extension_bytes"])
        size = int(match[1], 16)
        require(size < 2**63)
        position = end
        if size == 0:
            break
        body += data[position : position + size]
        position += size
        require(b"\r\n".startswith(data[position : position + 2]))
        position += 2
        if position > len(data):
            return None
    start, count = position, 0
    while True:
        longest = start + limits["max_trailer_bytes"]
        end = data.find(b"\n", position, longest) + 1
        if not end:
            require(len(data) < longest, 431)
            return None
        line = data[position:end]
        position = end
        if line == b"\r\n":
            return body, end
        count += 1
        require(count <= limits["max_trailers"], 431)
        match = FIELD.fullmatch(line)
        require(match)
        require(match[1].lower() not in OF_HEADS_ONLY)


def judged(read, data, limits):
    try:
        return read(data, {**LIMITS, **limits})
    except Refused as refused:
        return refused.status


def head(data, **limits):
    return judged(read_head, data, limits)


def chunked(data, **limits):
    return judged(read_chunked, data, limits)
