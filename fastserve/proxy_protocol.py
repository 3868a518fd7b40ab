"""The PROXY protocol, versions 1 and 2: whom a proxy in front of the connection serves.

As HAProxy's proxy-protocol.txt has it, strictly: what is not exactly a header is refused.
`measure` says how many bytes belong to the header, so that the reader takes those and not
one more: the next one is the first of a TLS handshake or of a request. `parse` says what
they mean. Nothing here does input or output.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

V1_START = b"PROXY "
V1_BYTES = 107              # section 2.1, with the CRLF
V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED_BYTES = 16
V2_REST_BYTES = 216 + 4096  # addresses of unix sockets, and as many bytes of TLVs

TYPE_CRC32C, TYPE_SSL = 0x03, 0x20
CLIENT_SSL = 0x01           # in the first byte of TYPE_SSL: the client spoke TLS
# family and transport, of streams -> bytes of addresses and ports
V2_ADDRESS_BYTES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}


class NoHeader(ValueError):
    """The bytes are no PROXY header, nor the start of one."""


@dataclass(frozen=True)
class Source:
    """Whom a header names.

    peer:       (address, port) of the client, ("", 0) for a unix socket; None: the header
                names nobody (LOCAL, UNKNOWN, AF_UNSPEC), who is connected is the client
    encrypted:  the client spoke TLS to the proxy
    """

    peer: tuple[str, int] | None = None
    encrypted: bool = False


def measure(data: bytes) -> tuple[int, bool]:
    """How many bytes of data belong to the header, and whether that is all of it.

    Raises NoHeader.
    """
    if data.startswith(V1_START) or V1_START.startswith(data):
        return _measure_v1(data)
    if data.startswith(V2_START) or V2_START.startswith(data):
        return _measure_v2(data)
    raise NoHeader("neither version begins like that")


def _measure_v1(data: bytes) -> tuple[int, bool]:
    end = data.find(b"\n", 0, V1_BYTES) + 1
    if end:
        return end, True
    if len(data) >= V1_BYTES:
        raise NoHeader(f"a line of more than {V1_BYTES} bytes")
    return len(data), False


def _measure_v2(data: bytes) -> tuple[int, bool]:
    if len(data) < V2_FIXED_BYTES:
        return len(data), False
    rest = int.from_bytes(data[14:16], "big")
    if rest > V2_REST_BYTES:
        raise NoHeader(f"{rest} bytes of addresses and TLVs")
    whole = V2_FIXED_BYTES + rest
    return min(whole, len(data)), len(data) >= whole


def parse(header: bytes) -> Source:
    """What one whole header says. Raises NoHeader."""
    return _parse_v1(header) if header.startswith(V1_START) else _parse_v2(header)


def _parse_v1(header: bytes) -> Source:
    if not header.endswith(b"\r\n"):
        raise NoHeader("the line does not end with CRLF")
    words = header[len(V1_START):-2].decode("latin-1").split(" ")
    if words[0] == "UNKNOWN":
        return Source()
    kinds = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
    kind = kinds.get(words[0])
    if kind is None or len(words) != 5:
        raise NoHeader("not a protocol, two addresses and two ports")
    try:
        source, _ = kind(words[1]), kind(words[2])
    except ValueError as error:
        raise NoHeader(str(error)) from None
    if "%" in words[1] + words[2]:
        raise NoHeader("an address with a zone")
    port, _ = _port(words[3]), _port(words[4])
    return Source((str(source), port))


def _port(word: str) -> int:
    canonical = word.isascii() and word.isdigit() and (word == "0" or not word.startswith("0"))
    if not canonical or len(word) > 5 or int(word) > 65535:
        raise NoHeader(f"{word!r} is no port")
    return int(word)


def _parse_v2(header: bytes) -> Source:
    version, command = header[12] >> 4, header[12] & 15
    if version != 2 or command not in (0, 1):
        raise NoHeader(f"version {version}, command {command}")
    if command == 0:        # LOCAL: the proxy itself, e.g. a health check; the rest is skipped
        _check_sum(header, _tlvs_of_local(header))
        return Source()
    size = V2_ADDRESS_BYTES.get(header[13])
    if size is None:
        raise NoHeader(f"family and transport {header[13]:#04x}")
    if size > len(header) - V2_FIXED_BYTES:
        raise NoHeader("shorter than its addresses")
    addresses = header[V2_FIXED_BYTES:V2_FIXED_BYTES + size]
    tlvs = _tlvs(header, V2_FIXED_BYTES + size)
    _check_sum(header, tlvs)
    if size == 0:
        return Source()     # AF_UNSPEC names nobody, nor whether it spoke TLS
    return Source(_source(header[13], addresses), _client_tls(header, tlvs))


def _source(family: int, addresses: bytes) -> tuple[str, int]:
    if family == 0x11:
        host, _, port, _ = struct.unpack("!4s4sHH", addresses)
        return str(ipaddress.IPv4Address(host)), port
    if family == 0x21:
        host, _, port, _ = struct.unpack("!16s16sHH", addresses)
        return str(ipaddress.IPv6Address(host)), port
    return "", 0


TLVs = list[tuple[int, int, int]]   # type, start and end of the value in the header


def _tlvs(header: bytes, at: int) -> TLVs:
    found: TLVs = []
    while at < len(header):
        if at + 3 > len(header):
            raise NoHeader("a TLV that is cut off")
        start = at + 3
        at = start + int.from_bytes(header[at + 1:start], "big")
        if at > len(header):
            raise NoHeader("a TLV that is longer than the header")
        found.append((header[start - 3], start, at))
    return found


def _tlvs_of_local(header: bytes) -> TLVs:
    # What a LOCAL header carries besides is to be skipped, whatever it is; a checksum counts
    # where one can be found.
    try:
        return _tlvs(header, V2_FIXED_BYTES + V2_ADDRESS_BYTES.get(header[13], 0))
    except NoHeader:
        return []


def _client_tls(header: bytes, tlvs: TLVs) -> bool:
    return any(
        kind == TYPE_SSL and end > start and header[start] & CLIENT_SSL
        for kind, start, end in tlvs)


def _check_sum(header: bytes, tlvs: TLVs) -> None:
    """Section 2.2.3: over the whole header, the checksum itself taken as zero."""
    sums = [(start, end) for kind, start, end in tlvs if kind == TYPE_CRC32C]
    if not sums:
        return
    if len(sums) > 1 or sums[0][1] - sums[0][0] != 4:
        raise NoHeader("a checksum that is not one of four bytes")
    start, end = sums[0]
    if crc32c(header[:start] + bytes(4) + header[end:]) != int.from_bytes(header[start:end], "big"):
        raise NoHeader("the checksum is wrong")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of RFC 9260 appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
