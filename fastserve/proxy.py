"""Who the client is, as trusted proxies tell it: X-Forwarded-*, Forwarded, CF-Connecting-IP.

Only fields that are named are believed, and only from peers whose networks are named. Any
client can send any of them, and a proxy that writes one passes the others on as they came:
a field that no proxy of yours writes must not be in the list.

A list is walked from the right. Its last entry was written by the peer, and says whom that
saw; where that one is trusted too, the entry before was written by it, and so on. The
client is the first that is not trusted. What is no address ends the walk: then the last
one that was known is the client. Nothing here ever fails a request.

Names are compared as they are: X_Forwarded_For is another field (CVE-2024-45614).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from fastserve.config import Config
from fastserve.networks import Networks, parse_address

MAX_HOPS = 32           # entries of a list that are looked at; a chain of proxies is shorter
MAX_AUTHORITY = 255 + 6     # a name (RFC 1035 section 2.3.4), a colon and a port

Client = tuple[str, int]
# client, scheme, authority, port of the authority where that names none; None: not told
Told = tuple[Client | None, str | None, str | None, int | None]

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::([0-9]{1,5}))?")
_PLAIN = re.compile(r"([0-9.]{7,15})(?::([0-9]{1,5}))?")
# RFC 7239 section 4: forwarded-pair = token "=" ( token / quoted-string ), and what follows it
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*)\")"
    r"[ \t]*)?(;|,|$)")
_ESCAPED = re.compile(r"\\(.)")


class Fields(Protocol):
    """What is needed of request.headers."""

    def getlist(self, name: str, /) -> list[str]:
        """Every value of a field, in order."""


class ForwardedFields:
    """Reads what trusted proxies say; given to an Engine as `forwarded`.

    networks:  whom to believe
    fields:    which fields, in lower case
    """

    def __init__(self, networks: Networks, fields: tuple[str, ...]) -> None:
        self.networks = networks
        self.fields = frozenset(fields)

    @classmethod
    def from_config(cls, config: Config) -> ForwardedFields | None:
        """As the settings say; None where they trust nobody."""
        networks = Networks(config.forwarded_allow_ips)
        fields = tuple(config.forwarded_headers.split(","))
        return cls(networks, fields) if networks else None

    def trusts(self, host: str) -> bool:
        """Whether a peer is to be believed; "" is the peer of a unix socket."""
        return host in self.networks

    def read(self, headers: Fields) -> Told:
        """What the fields of a request from a trusted peer say."""
        if "forwarded" in self.fields:
            return self._forwarded(headers)
        client, hops = None, 1
        if "x-forwarded-for" in self.fields:
            client, hops = self._walk(_from_right(headers.getlist("x-forwarded-for")))
        elif "cf-connecting-ip" in self.fields:
            given = headers.getlist("cf-connecting-ip")
            client = read_node(given[0].strip()) if len(given) == 1 else None
        scheme = self._aligned(headers, "x-forwarded-proto", hops)
        authority = self._aligned(headers, "x-forwarded-host", hops)
        port = self._aligned(headers, "x-forwarded-port", hops)
        return client, read_scheme(scheme), read_authority(authority), read_port(port)

    def _walk(self, nodes: Iterator[str]) -> tuple[Client | None, int]:
        """The client, and how many entries from the right it stands."""
        client, hops = None, 0
        for node in nodes:
            seen = read_node(node)
            if seen is None:
                break
            client, hops = seen, hops + 1
            if hops == MAX_HOPS or seen[0] not in self.networks:
                break
        return client, max(hops, 1)

    def _aligned(self, headers: Fields, name: str, hops: int) -> str | None:
        """The entry by the proxy that wrote the client's, or the first where there are fewer."""
        if name not in self.fields:
            return None
        entries = list(islice(_from_right(headers.getlist(name)), hops))
        return entries[-1] if entries else None

    def _forwarded(self, headers: Fields) -> Told:
        client = scheme = authority = None
        hops = 0
        for element in _elements(headers.getlist("forwarded")):
            scheme = read_scheme(element.get("proto")) or scheme
            authority = read_authority(element.get("host")) or authority
            seen = read_node(element.get("for", ""))
            if seen is None:
                break
            client, hops = seen, hops + 1
            if hops == MAX_HOPS or seen[0] not in self.networks:
                break
        return client, scheme, authority, None


def _from_right(lines: list[str]) -> Iterator[str]:
    """The entries of a comma list over several fields, the last first."""
    for line in reversed(lines):
        rest, comma = line, ","
        while comma:
            rest, comma, entry = rest.rpartition(",")
            yield entry.strip(" \t")


def _elements(lines: list[str]) -> Iterator[dict[str, str]]:
    """The elements of Forwarded (RFC 7239 section 4), the last first; {} for a malformed field."""
    for line in reversed(lines):
        yield from reversed(_parse_forwarded(line) or [{}])


def _parse_forwarded(line: str) -> list[dict[str, str]] | None:
    elements: list[dict[str, str]] = [{}]
    at = 0
    while True:
        found = _PAIR.match(line, at)
        if found is None:
            return None
        name, token, quoted, end = found.groups()
        if name is not None:
            if name.lower() in elements[-1]:
                return None     # each parameter once (section 4)
            value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
            elements[-1][name.lower()] = value
        if not end:
            return elements
        at = found.end()
        if end == ",":
            elements.append({})


def read_node(text: str) -> Client | None:
    """(address, port) of 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80, or None.

    The port is 0 where there is none.
    """
    found = _PLAIN.fullmatch(text) or _BRACKETED.fullmatch(text)
    host, digits = found.groups() if found is not None else (text, None)
    if len(host) > 45 or "%" in host:
        return None
    address = parse_address(host)
    port = 0 if digits is None else int(digits)
    if address is None or port > 65535:
        return None
    return str(address), port


def read_scheme(text: str | None) -> str | None:
    """The scheme "http" or "https", or None for anything else."""
    return None if text is None else _SCHEMES.get(text.lower())


def read_authority(text: str | None) -> str | None:
    """A host with or without port, or None for what is none."""
    if text is None or len(text) > MAX_AUTHORITY or _AUTHORITY.fullmatch(text) is None:
        return None
    return text


def read_port(text: str | None) -> int | None:
    """A port from 1 to 65535, or None."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    return int(text) if 1 <= int(text) <= 65535 else None
