# Hosts and ports as URIs write them: see authority.pxd for the contract.

from libc.stdint cimport uint32_t

from fastserve._speedups.scan cimport DIGIT, HEX, HOST, find, is_in, skip

cdef enum:
    MAX_PORT_DIGITS = 5


cdef bint is_ipv6(const char* p, const char* end) noexcept nogil:
    # RFC 3986 section 3.2.2: eight groups of 1*4HEXDIG, one "::" for at least one of them,
    # the last two perhaps as an IPv4 address. No zone, no IPvFuture: nobody sends them.
    cdef int groups = 0, digits, octets, octet
    cdef bint gap = False
    cdef const char* group
    if end - p >= 2 and p[0] == c":" and p[1] == c":":
        gap = True
        p += 2
    while p < end:
        group = p
        p = skip(p, end, HEX)
        digits = <int>(p - group) if p - group <= 4 else 5
        if digits == 0 or digits > 4:
            return False
        if p < end and p[0] == c".":
            p = group
            for octets in range(4):
                if octets:
                    if p == end or p[0] != c".":
                        return False
                    p += 1
                group = p
                octet = 0
                while p < end and p - group < 3 and is_in(p[0], DIGIT):
                    octet = octet * 10 + (p[0] - c"0")
                    p += 1
                if p == group or octet > 255 or (p - group > 1 and group[0] == c"0"):
                    return False
            groups += 2
            break
        groups += 1
        if p == end:
            break
        if p[0] != c":":
            return False
        p += 1
        if p == end:
            return False
        if p[0] == c":":
            if gap:
                return False
            gap = True
            p += 1
    return p == end and (groups <= 7 if gap else groups == 8)


cdef bint is_port(const char* p, const char* end) noexcept nogil:
    # RFC 3986 section 3.2.3 allows any digits, none included; more than 65535 is no port.
    cdef uint32_t port = 0
    if end - p > MAX_PORT_DIGITS:
        return False
    while p < end:
        if not is_in(p[0], DIGIT):
            return False
        port = port * 10 + <uint32_t>(p[0] - c"0")
        p += 1
    return port <= 65535


cdef bint is_authority(const char* p, const char* end, bint port_required) noexcept nogil:
    # uri-host [ ":" port ] with a host (RFC 9110 section 7.2, 4.2.1). "@" is in no set here:
    # userinfo is refused (section 4.2.4).
    cdef const char* start = p
    if p < end and p[0] == c"[":
        p = find(p, end, c"]")
        if p == end or not is_ipv6(start + 1, p):
            return False
        p += 1
    else:
        p = skip(p, end, HOST)
        while p < end and p[0] == c"%":
            if end - p < 3 or not is_in(p[1], HEX) or not is_in(p[2], HEX):
                return False
            p = skip(p + 3, end, HOST)
        if p == start:
            return False
    if p == end:
        return not port_required
    if p[0] != c":" or (port_required and p + 1 == end):
        return False
    return is_port(p + 1, end)
