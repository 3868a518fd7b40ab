"""Which peers are trusted: a comma list of networks, "unix" for unix sockets, "*" for all.

Ground floor: whoever reads a setting can say whether it is one. An IPv4 address that an
IPv6 socket shows (::ffff:192.0.2.1) counts as the IPv4 address that it is.
"""

from __future__ import annotations

import ipaddress

UNIX, EVERYBODY = "unix", "*"
UNIX_HOST = ""      # what Address.host is for a unix socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> Address | None:
    """An IP address, or None; a zone is dropped, a mapped IPv4 address is unwrapped."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


class Networks:
    """A set of networks; `"192.0.2.7" in networks`, where "" is the peer of a unix socket.

    text:  "10.0.0.0/8, 2001:db8::/32, 192.0.2.7, unix", "*", or "" for nobody
    Raises ValueError for what is none of these, with the reason.
    """

    def __init__(self, text: str) -> None:
        self.unix = self.everybody = False
        self._networks: list[Network] = []
        for item in filter(None, (part.strip() for part in text.split(","))):
            if item == EVERYBODY:
                self.everybody = self.unix = True
            elif item == UNIX:
                self.unix = True
            else:
                self._networks.append(_network(item))

    def __bool__(self) -> bool:
        return bool(self.unix or self._networks)

    def __contains__(self, host: str) -> bool:
        if host == UNIX_HOST:
            return self.unix
        found = parse_address(host)
        return found is not None and self.has(found)

    def has(self, address: Address) -> bool:
        """The same for an address that is read already."""
        return self.everybody or any(
            address in network for network in self._networks if network.version == address.version)


def _network(item: str) -> Network:
    try:
        return ipaddress.ip_network(item)
    except ValueError as error:
        try:
            meant = ipaddress.ip_network(item, strict=False)
        except ValueError:
            raise ValueError(
                f"{item!r} is no network ({error}); give addresses, networks such as "
                "10.0.0.0/8, unix, or *") from None
    address = item.partition("/")[0]
    raise ValueError(f"{item!r} has bits behind its mask: write {meant} or {address}")
