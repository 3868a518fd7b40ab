"""Listening sockets from a Config, opened before anything else can go wrong.

An address is `HOST:PORT`, `[IPV6]:PORT`, `unix:PATH` or `fd://N`. A name is listened to on
every address it has. `[::]` takes IPv4 as well (IPV6_V6ONLY off), unless an IPv4 address
with the same port is listed beside it: then each family has its own socket.

TCP sockets carry SO_REUSEPORT: each worker slot has one of its own for each address, made in
order and held open by the supervisor for life, so that the queue of a slot outlives its
worker. That alone would also let two strangers share the port unnoticed, so each is first
bound without it: what is in use is refused. Other sockets all slots share.

A unix socket has its owner and permissions before anybody can connect. A file of its name
is replaced only when it is a socket of the same user with nobody behind it, and removed at
the end only when it is still ours. `@NAME` is an abstract socket (Linux): it has no file,
so every user of this network namespace may connect.

What another process has opened for us, a supervisor before this one or systemd, is a Heritage: an
address takes its sockets from there before it opens any.

Every failure is a ConfigError of one line.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve.config import DEFAULT_HOST, DEFAULT_PORT, Config
from fastserve.errors import ConfigError
from fastserve.steering import steer

SUN_PATH_BYTES = 108 if sys.platform == "linux" else 104    # with the NUL behind a path
_UNACKED = struct.Struct("@24xI")    # of struct tcp_info: for a listener, how many wait
ACTIVATED = "activated"     # the key of what a service manager opened as it likes

_TCP = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")


@dataclass
class Listener:
    """One listening, non-blocking socket.

    label:  where it is, for people: http://127.0.0.1:8000, unix:/run/app.sock
    path:   the file of a unix socket that is ours to remove
    plain:  it speaks plain HTTP, whatever certificates there are
    """

    socket: socket.socket
    label: str
    path: str | None = None
    identity: tuple[int, int] = field(default=(0, 0))   # device and inode of `path`
    plain: bool = False

    def where(self, *, encrypted: bool) -> str:
        """Its label, as https:// where the server has certificates and this is not plain."""
        if encrypted and not self.plain:
            return self.label.replace("http://", "https://", 1)
        return self.label

    @property
    def is_tcp(self) -> bool:
        return self.socket.family in (socket.AF_INET, socket.AF_INET6)

    def queued(self) -> int | None:
        """How many connections wait to be accepted; None where nobody tells."""
        if not self.is_tcp or sys.platform != "linux":
            return None
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
        except OSError:
            return None
        return int(_UNACKED.unpack(info)[0])

    def close(self) -> None:
        """Close the socket and remove its file, if the file is still ours."""
        self.socket.close()
        if self.path is None:
            return
        try:
            if _identity(self.path) == self.identity:
                os.unlink(self.path)
        except FileNotFoundError:
            pass


class Heritage:
    """Listening sockets that another process has opened for us.

    sockets:    of each address, by the key of its Group, in the order of its slots
    activated:  those without a key, which a service manager opened as it likes
    """

    def __init__(
        self, sockets: Iterable[tuple[str, list[socket.socket]]] = (),
        activated: Iterable[socket.socket] = (),
    ) -> None:
        self.sockets = dict(sockets)
        self.activated = list(activated)
        self._asked: list[str] = []

    def key(self, address: str) -> str:
        """The key of the next group of this address, which may be asked for twice."""
        self._asked.append(address)
        again = self._asked.count(address)
        return address if again == 1 else f"{address}#{again}"

    def take(self, key: str) -> list[socket.socket]:
        """The sockets of a group, which are its own from now on; none where there are none."""
        for sock in self.activated:
            if key == f"fd://{sock.fileno()}":
                self.activated.remove(sock)
                return [sock]
        return self.sockets.pop(key, [])

    def close(self) -> None:
        """Close what nobody took."""
        for sock in [*(sock for some in self.sockets.values() for sock in some), *self.activated]:
            sock.close()
        self.sockets.clear()
        self.activated = []


class Group:
    """The listeners of one address: one for each slot, or one that all slots share.

    listeners:  in the order of their listen() calls, which is how the kernel numbers them
    key:        which address it is, for who inherits it
    """

    def __init__(
        self, key: str, listeners: list[Listener], grow: Callable[[], socket.socket] | None
    ) -> None:
        self.key = key
        self.listeners = listeners
        self._grow = grow

    @property
    def shared(self) -> bool:
        """Whether there is one for all."""
        return self._grow is None

    def of(self, slot: int) -> Listener:
        """The listener of a slot, which is made, behind those before it, if there is none."""
        if self._grow is None:
            return self.listeners[0]
        while slot >= len(self.listeners):
            first = self.listeners[0]
            self.listeners.append(Listener(self._grow(), first.label, plain=first.plain))
        return self.listeners[slot]

    def made(self, slot: int) -> list[Listener]:
        """The listener of a slot, if there is one; none is made."""
        index = 0 if self.shared else slot
        return self.listeners[index:index + 1]

    def steer(self, slots: Sequence[int]) -> bool:
        """Send new connections to these slots; False where the kernel chooses by itself."""
        return self.shared or steer(self.listeners[0].socket, slots)

    def retire(self, slot: int) -> None:
        """Close the listener of the last slot: any other would renumber those behind it."""
        if not self.shared and slot == len(self.listeners) - 1:
            self.listeners.pop().close()

    def let_go(self) -> None:
        """Leave the listeners to the workers: when the last closes, new connections are refused.

        Files of unix sockets stay until close().
        """
        for listener in self.listeners:
            listener.socket.close()

    def leave_file(self) -> None:
        """The file of a unix socket is another process's to remove."""
        for listener in self.listeners:
            listener.path = None

    def close(self) -> None:
        """Close them all."""
        for listener in self.listeners:
            listener.close()


@dataclass(frozen=True)
class Tcp:
    host: str
    port: int

    def __str__(self) -> str:
        return f"port {self.port} on {self.host}"


@dataclass(frozen=True)
class Unix:
    path: str


@dataclass(frozen=True)
class Inherited:
    number: int


Address = Tcp | Unix | Inherited


def parse_address(text: str, setting: str = "bind") -> Address:
    """Read HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N, which stands in a setting."""
    if text.startswith("unix:") and len(text) > 5:
        return Unix(text[5:])
    if text.startswith("fd://") and text[5:].isascii() and text[5:].isdigit():
        return Inherited(int(text[5:]))
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(
            f"{setting}={text!r}: must be HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N "
            "(every address: 0.0.0.0:8000 or [::]:8000)"
        )
    return Tcp(match["v6"] if match["host"] is None else match["host"], int(match["port"]))


def addresses(config: Config) -> list[Address]:
    """Every address a Config asks for, those of `plain_bind` last."""
    plain = (parse_address(item, "plain_bind") for item in config.plain_bind)
    return [*_main_addresses(config), *plain]


def _main_addresses(config: Config) -> list[Address]:
    if config.bind:
        return [parse_address(item) for item in config.bind]
    if config.uds is not None:
        return [Unix(config.uds)]
    if config.fd is not None:
        return [Inherited(config.fd)]
    return [Tcp(config.host.strip("[]"), config.port)]


def names_an_address(config: Config) -> bool:
    """Whether somebody said where to listen."""
    return config.bind != () or config.plain_bind != () or config.uds is not None \
        or config.fd is not None or (config.host, config.port) != (DEFAULT_HOST, DEFAULT_PORT)


def open_listeners(config: Config, heritage: Heritage | None = None) -> list[Listener]:
    """Open the listeners of a process that serves alone."""
    return [group.of(0) for group in open_groups(config, heritage)]


def open_groups(config: Config, heritage: Heritage | None = None) -> list[Group]:
    """Open the first listener of every address, or none: a failure closes those already open.

    heritage:  what need not be opened; what it was given beyond the Config's addresses stays there
    """
    heritage = heritage or Heritage()
    if heritage.activated and not names_an_address(config):
        return _activated(heritage)
    wanted = addresses(config)
    encrypted = len(wanted) - len(config.plain_bind)
    opened: list[Group] = []
    try:
        for number, address in enumerate(wanted):
            groups = _open_address(address, config, _ipv6_only(address, wanted), heritage)
            opened += groups
            for listener in (one for group in groups for one in group.listeners):
                listener.plain = number >= encrypted
    except BaseException:
        for group in opened:
            group.close()
        raise
    return opened


def _open_address(
    address: Address, config: Config, ipv6_only: bool, heritage: Heritage
) -> list[Group]:
    if isinstance(address, Tcp):
        return _open_tcp(address, config.backlog, ipv6_only, heritage)
    if isinstance(address, Unix):
        key = heritage.key(f"unix:{address.path}")
        inherited = _inherited_unix(address.path, heritage.take(key))
        return [Group(key, [inherited or _open_unix(address.path, config)], None)]
    key = heritage.key(f"fd://{address.number}")
    return [Group(key, [_adopt(address.number, heritage.take(key))], None)]


# --- TCP ---------------------------------------------------------------------------------


def probe(address: Tcp, wanted: list[Address]) -> None:
    """Raise ConfigError where an address cannot be had. A server that has it notices nothing.

    wanted:  all addresses, this one among them
    """
    for family, sockaddr in _resolve(address):
        _bound(family, sockaddr, _ipv6_only(address, wanted), share=False).close()


def _ipv6_only(address: Address, wanted: list[Address]) -> bool:
    return isinstance(address, Tcp) and any(
        isinstance(other, Tcp) and ":" not in other.host and other.port == address.port
        for other in wanted
    )


def _open_tcp(
    address: Tcp, backlog: int, ipv6_only: bool, heritage: Heritage
) -> list[Group]:
    groups: list[Group] = []
    port = address.port
    try:
        for family, sockaddr in _resolve(address):
            where = (sockaddr[0], port, *sockaddr[2:])
            key = heritage.key(f"tcp:{sockaddr[0]}:{address.port}")
            socks = heritage.take(key)
            if not socks:
                if port != 0:
                    _bound(family, where, ipv6_only, share=False).close()
                socks = [_listening(family, where, backlog, ipv6_only)]
            port = socks[0].getsockname()[1]    # a free port, once chosen, is for all of a name
            where = (sockaddr[0], port, *sockaddr[2:])
            grow = functools.partial(_listening, family, where, backlog, ipv6_only)
            groups.append(Group(
                key, [Listener(sock, url_of(sock)) for sock in socks],
                grow if sys.platform == "linux" else None))
    except BaseException:
        for group in groups:
            group.close()
        raise
    return groups


def _resolve(address: Tcp) -> list[tuple[int, Any]]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on host {address.host!r}: it is not an address or name of this machine "
            f"({getattr(error, 'strerror', None) or error})"
        ) from None
    unique = {(family, sockaddr): None for family, _, _, _, sockaddr in found}
    return list(unique)


def _listening(
    family: int, where: tuple[str | int, ...], backlog: int, ipv6_only: bool
) -> socket.socket:
    sock = _bound(family, where, ipv6_only, share=True)
    try:
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explain(error, where) from None
    return sock


def _bound(
    family: int, where: tuple[str | int, ...], ipv6_only: bool, *, share: bool
) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)    # close-on-exec, as all of Python's
    except OSError as error:
        raise _explain(error, where) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share and hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ipv6_only))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # on Linux inherited
        sock.setblocking(False)
        sock.bind(where)
    except OSError as error:
        sock.close()
        raise _explain(error, where) from None
    return sock


def _explain(error: OSError, where: tuple[str | int, ...]) -> ConfigError:
    host, port = where[:2]
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} on {host} is in use")
    if error.errno == errno.EACCES:
        return ConfigError(
            f"port {port} on {host} needs privileges: take one above 1023, "
            "or grant CAP_NET_BIND_SERVICE"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ConfigError(f"port {port} on {host}: this machine has no such address")
    return ConfigError(f"cannot listen on port {port} on {host}: {error.strerror}")


def url_of(sock: socket.socket) -> str:
    """Where a socket listens, as a URL or unix:PATH."""
    name = sock.getsockname()
    if sock.family == socket.AF_INET6:
        return f"http://[{name[0]}]:{name[1]}"
    if sock.family == socket.AF_INET:
        return f"http://{name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name)}".replace("\0", "@", 1)


# --- unix sockets ------------------------------------------------------------------------


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _open_unix(path: str, config: Config) -> Listener:
    if path[0] in "@\0":
        return _open_abstract(path[1:], config.backlog)
    uid, gid = _owner(config.uds_owner)
    _remove_stale(path, {os.geteuid()} if uid == -1 else {os.geteuid(), uid})
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    identity = None
    try:
        sock.setblocking(False)
        sock.bind(path)
        identity = _identity(path)
        if (uid, gid) != (-1, -1):
            os.chown(path, uid, gid, follow_symlinks=False)
        os.chmod(path, config.uds_mode)     # after chown(), which takes bits away
        sock.listen(config.backlog)         # until here, connecting is refused
        return Listener(sock, f"unix:{path}", path, identity)
    except OSError as error:
        if identity is None:
            sock.close()
        else:
            Listener(sock, "", path, identity).close()
        if error.errno == errno.EPERM:
            raise ConfigError(
                f"uds_owner={config.uds_owner!r}: this user may not give unix:{path} away: "
                "name a group it belongs to, or start as root"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"unix:{path} is in use") from None
        raise ConfigError(f"cannot listen on unix:{path}: {error.strerror or error}") from None


def _open_abstract(name: str, backlog: int) -> Listener:
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            f"cannot listen on unix:@{name}: abstract sockets are Linux's; "
            f"for a file of that name give ./@{name}"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind("\0" + name)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"unix:@{name} is in use") from None
        raise ConfigError(f"cannot listen on unix:@{name}: {error.strerror or error}") from None
    return Listener(sock, f"unix:@{name}")


def _owner(text: str | None) -> tuple[int, int]:
    """Numbers of USER, USER:GROUP or :GROUP; -1 for what is not given."""
    if text is None:
        return -1, -1
    user, colon, group = text.partition(":")
    if (not user and not group) or (colon and not group):
        raise ConfigError(f"uds_owner={text!r}: must be USER, USER:GROUP or :GROUP")
    return _number(text, "user", user), _number(text, "group", group)


def _number(owner: str, kind: str, name: str) -> int:
    if not name:
        return -1
    if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
        return int(name)
    try:
        if kind == "user":
            return pwd.getpwnam(name).pw_uid
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"uds_owner={owner!r}: there is no {kind} {name!r}") from None


def probe_unix(path: str, owner: str | None) -> None:
    """Raise ConfigError where a unix socket cannot be had, as far as looking tells.

    Whether somebody listens there is not asked, which would take a connection.
    """
    abstract = path[0] in "@\0"
    most = SUN_PATH_BYTES - (not abstract)
    if len(os.fsencode(path)) > most:
        raise ConfigError(f"cannot listen on unix:{path}: a path of more than {most} bytes")
    if not abstract:
        uid, _ = _owner(owner)
        _leftover(path, {os.geteuid()} if uid == -1 else {os.geteuid(), uid})


def _leftover(path: str, owners: set[int]) -> os.stat_result | None:
    """The socket file that is there, if any. Raises ConfigError for any other."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot listen on unix:{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot listen on unix:{path}: there is a file that is no socket")
    if found.st_uid not in owners:
        raise ConfigError(
            f"cannot listen on unix:{path}: there is a socket of user {found.st_uid}, "
            "not of ours: remove it, or take another path"
        )
    return found


def _remove_stale(path: str, owners: set[int]) -> None:
    """Remove a socket file nobody listens behind; refuse to touch anything else."""
    found = _leftover(path, owners)
    if found is None:
        return
    if _is_alive(path):
        raise ConfigError(f"unix:{path} is in use")
    with contextlib.suppress(FileNotFoundError):
        if _identity(path) == (found.st_dev, found.st_ino):     # not what another has just made
            os.unlink(path)


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:    # EAGAIN: alive, its queue is full
            if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT):
                raise ConfigError(f"cannot listen on unix:{path}: {error.strerror}") from None
        return True


# --- inherited sockets -------------------------------------------------------------------


def _inherited_unix(path: str, socks: list[socket.socket]) -> Listener | None:
    """The listener of an inherited socket, if its file is still there."""
    if not socks:
        return None
    if path[0] in "@\0":
        return Listener(socks[0], f"unix:@{path[1:]}")
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            return Listener(socks[0], f"unix:{path}", path, _identity(path))
    socks[0].close()    # nobody could connect to it
    return None


def _activated(heritage: Heritage) -> list[Group]:
    """What a service manager listens on for us; all slots share it."""
    groups = []
    for sock in heritage.activated:
        problem = _unfit(sock)
        if problem is not None:
            raise ConfigError(
                f"cannot serve on the socket {sock.fileno()} of LISTEN_FDS: {problem}")
        sock.setblocking(False)
        groups.append(Group(heritage.key(ACTIVATED), [Listener(sock, url_of(sock))], None))
    heritage.activated = []
    return groups


def probe_inherited(number: int) -> None:
    """Raise ConfigError where a descriptor is nothing to serve on. It stays as it is."""
    _fit(number, []).detach()


def _fit(number: int, inherited: list[socket.socket]) -> socket.socket:
    try:
        sock = inherited[0] if inherited else socket.socket(fileno=number)
    except OSError as error:
        reason = "it is no socket" if error.errno == errno.ENOTSOCK else "it is not open"
        raise ConfigError(f"cannot adopt fd {number}: {reason}") from None
    problem = _unfit(sock)
    if problem is not None:
        sock.detach()   # not ours: leave it as it was
        raise ConfigError(f"cannot adopt fd {number}: {problem}")
    return sock


def _adopt(number: int, inherited: list[socket.socket]) -> Listener:
    sock = _fit(number, inherited)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return Listener(sock, f"{url_of(sock)} (fd {number})")


def _unfit(sock: socket.socket) -> str | None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "it is neither a TCP nor a unix socket"
    if sock.type != socket.SOCK_STREAM:
        return "it is no stream socket"
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:     # macOS has no such question
        return None
    return None if listens else "it does not listen"
