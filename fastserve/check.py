"""`fastserve check`: what is wrong with these settings, this machine and this application.

It looks, and changes nothing: an address is tried by binding a socket that never listens and
shares with nobody, so a server that runs here notices nothing. What the machine allows is judged
in machine.py; here are the settings, the files they name, and the application.
"""

from __future__ import annotations

import importlib
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastserve.app import App
from fastserve.binding import is_async
from fastserve.blocking import is_blocking
from fastserve.config import Config
from fastserve.errors import ConfigError, FastserveError, ImportTargetError
from fastserve.health import Health
from fastserve.host_checks import (
    DAY_S,
    ERROR,
    MACHINE_CHECKS,
    NOTE,
    OK,
    WARN,
    Check,
    Finding,
    Machine,
    holder_of,
)
from fastserve.listeners import (
    Inherited,
    Tcp,
    Unix,
    addresses,
    probe,
    probe_inherited,
    probe_unix,
)
from fastserve.networks import Networks
from fastserve.pidfile import StillRunsError
from fastserve.pidfile import probe as probe_pid_file
from fastserve.privileges import User
from fastserve.readings import Reading
from fastserve.shm import BoardError
from fastserve.tls import Certificates, certificate_files

if TYPE_CHECKING:
    from fastserve.metrics import Metrics

WITHOUT_LIMIT = {
    "header_timeout_s": "a client may hold a connection with half a request",
    "keep_alive_timeout_s": "idle connections stay for ever",
    "body_timeout_s": "a client may hold a handler with half a body",
    "body_min_rate_bytes_s": "a client may send a body byte by byte",
    "write_timeout_s": "a client that reads nothing holds its answer in memory",
    "stall_hard_s": "a worker that hangs is never replaced",
}
LARGE_BODY_BYTES = FREE_BYTES = 1 << 30
STREAMS = ("-", "stderr")
EXPIRES_SOON_S = 14 * DAY_S
LIBRARIES = ("uvloop", "httptools", "orjson")
# setting -> (modules, extra, what it lacks without)
EXTRAS = {
    "decompress_requests": (("brotli",), "compress", "br is answered 415"),
    "compress_responses": (("brotli",), "compress", "clients of br get gzip"),
}

AppCheck = Callable[[App, Config], Iterator[Finding]]


def findings_of(
    config: Config, machine: Machine, load: Callable[[], App] | None = None
) -> list[Finding]:
    """All that was looked at.

    load:  imports the application; None looks at none
    """
    found: list[Finding] = []
    if load is not None:
        try:
            app = load()
        except ImportTargetError as error:
            found.append(Finding(ERROR, "application", str(error), "fastserve routes MODULE:APP"))
        else:
            machine = with_memory(machine)
            found += [one for check in APP_CHECKS for one in check(app, config)]
    for check in (*SETTING_CHECKS, *MACHINE_CHECKS):
        try:
            found += check(config, machine)
        except ConfigError as error:    # what several of them have to read
            found.append(Finding(ERROR, "settings", str(error), "fastserve run --help"))
    return list(dict.fromkeys(found))


def with_memory(machine: Machine) -> Machine:
    """The same, knowing what this process holds, which has imported what a worker has."""
    import dataclasses

    importlib.import_module("fastserve.worker")
    pages = (machine.text("/proc/self/statm") or "0 0").split()[1]
    return dataclasses.replace(machine, rss_bytes=int(pages) * os.sysconf("SC_PAGE_SIZE"))


def lines_of(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding, the worst last; and one that counts."""
    order = {OK: 0, NOTE: 1, WARN: 2, ERROR: 3}
    for one in sorted(findings, key=lambda finding: order[finding.level]):
        line = f"{one.level:<5}  {one.name}: {one.found}"
        yield f"{line}  ->  {one.mend}" if one.mend else line
    counts = [(level, sum(one.level == level for one in findings)) for level in order]
    yield ", ".join(f"{count} {level}" for level, count in counts if count)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {"ok": succeeded(findings), "findings": [asdict(one) for one in findings]}


def succeeded(findings: Sequence[Finding]) -> bool:
    """Whether there is no error."""
    return not any(one.level == ERROR for one in findings)


# --- where to listen ---------------------------------------------------------------------


def tcp_addresses(config: Config, machine: Machine) -> Iterator[Finding]:
    """Each can be bound; where it cannot, who has it."""
    wanted = addresses(config)
    for address in wanted:
        if not isinstance(address, Tcp):
            continue
        try:
            probe(address, wanted)
        except ConfigError as error:
            holder = holder_of(address.port, machine) if "in use" in str(error) else None
            ours = holder is not None and "fastserve" in holder
            yield Finding(
                NOTE if ours else ERROR, "address",
                f"{error}{f' by {holder}' if holder else ''}",
                "stop it first, or reload it" if ours else
                f"ss -ltnp 'sport = :{address.port}', or take another --port")
        else:
            yield Finding(OK, "address", f"{address} is free")


def unix_sockets(config: Config, machine: Machine) -> Iterator[Finding]:
    """The directory of each lets us in, and not everybody replace the file."""
    for address in addresses(config):
        if not isinstance(address, Unix):
            continue
        path = address.path.replace("\0", "@", 1)
        try:
            probe_unix(path, config.uds_owner)
        except ConfigError as error:
            yield Finding(ERROR, "unix socket", str(error), "take another --uds or --uds-owner")
            continue
        if _listens(path, machine):
            yield Finding(ERROR, "unix socket", f"{path} is in use",
                          f"ss -lxp src {path}, or take another --uds")
        elif path[0] == "@":
            yield Finding(NOTE, "unix socket", f"{path} is abstract: every user of this machine "
                          "may connect", "give a path, whose permissions say who may")
        else:
            yield from _directory("unix socket", path)


def inherited_sockets(config: Config, machine: Machine) -> Iterator[Finding]:
    """Each descriptor that is to be served on is one, here and now."""
    for address in addresses(config):
        if not isinstance(address, Inherited):
            continue
        try:
            probe_inherited(address.number)
        except ConfigError as error:
            yield Finding(ERROR, "inherited socket", str(error),
                          "start it with a listening socket there, or leave out --fd")
        else:
            yield Finding(OK, "inherited socket", f"fd {address.number} listens")


def _listens(path: str, machine: Machine) -> bool:
    """Whether somebody listens on a unix socket, without connecting to it."""
    wanted = {path, os.path.abspath(path)}
    for line in (machine.text("/proc/net/unix") or "").splitlines()[1:]:
        cells = line.split(None, 7)
        if len(cells) == 8 and cells[7] in wanted and int(cells[3], 16) & 0x10000:
            return True
    return False


def control_socket(config: Config, machine: Machine) -> Iterator[Finding]:
    """The directory of --control."""
    if config.control is None:
        yield Finding(OK, "control socket", "none")
        return
    try:
        probe_unix(config.control, None)
    except ConfigError as error:
        yield Finding(ERROR, "control socket", str(error), "take another --control")
    else:
        yield from _directory("control socket", config.control)


def pid_file(config: Config, machine: Machine) -> Iterator[Finding]:
    """Its directory, and what is there already."""
    if config.pid_file is None:
        yield Finding(OK, "pid file", "none")
        return
    try:
        probe_pid_file(config.pid_file)
    except StillRunsError as error:
        yield Finding(NOTE, "pid file", str(error), "stop it first, or reload it")
    except ConfigError as error:
        yield Finding(ERROR, "pid file", str(error), "take another --pid-file")
    else:
        yield from _directory("pid file", config.pid_file)


def _directory(name: str, path: str) -> Iterator[Finding]:
    directory = os.path.dirname(os.path.abspath(path))
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        yield Finding(ERROR, name, f"{directory}: {error.strerror}", f"mkdir -p {directory}")
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        yield Finding(ERROR, name, f"{directory} cannot be written by this user",
                      f"chown {os.geteuid()} {directory}, or take another directory")
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield Finding(WARN, name, f"everybody may replace what is in {directory}",
                      f"chmod o-w {directory}")
    else:
        yield Finding(OK, name, path)


# --- settings ----------------------------------------------------------------------------


def limits(config: Config, machine: Machine) -> Iterator[Finding]:
    """Those that are off, or as good as."""
    off = {name: why for name, why in WITHOUT_LIMIT.items() if getattr(config, name) == 0}
    for name, why in off.items():
        default = type(config).__dataclass_fields__[name].default
        yield Finding(WARN, "limits", f"{name}=0: {why}", f"{name}={default:g}, the default")
    if config.max_body_bytes >= LARGE_BODY_BYTES:
        yield Finding(WARN, "limits", f"max_body_bytes={config.max_body_bytes}: a few requests "
                      "can fill the memory", "read large bodies by request.stream()")
    elif not off:
        yield Finding(OK, "limits", "none is off")


def proxies(config: Config, machine: Machine) -> Iterator[Finding]:
    """Who may say where a request comes from."""
    reachable = [str(one) for one in addresses(config) if not _is_local(one)]
    for name in ("forwarded_allow_ips", "proxy_allow_ips"):
        if "*" in getattr(config, name).replace(" ", "").split(",") and reachable:
            yield Finding(WARN, "proxies", f"{name}='*' and {reachable[0]}: whoever reaches it "
                          "may claim any address and scheme",
                          f"{name}=NETWORKS of your proxies, or listen where only they reach it")
            return
    if config.behind is not None and not Networks(config.forwarded_allow_ips) \
            and not Networks(config.proxy_allow_ips):
        yield Finding(WARN, "proxies", f"behind={config.behind!r}, and nobody is believed: every "
                      "request comes from the proxy", "leave out forwarded_allow_ips=''")
        return
    yield Finding(OK, "proxies", config.forwarded_allow_ips or "nobody is believed")


def _is_local(address: object) -> bool:
    if isinstance(address, Inherited):
        return False
    return not isinstance(address, Tcp) or address.host.strip("[]") in (
        "localhost", "::1") or address.host.startswith("127.")


def libraries(config: Config, machine: Machine) -> Iterator[Finding]:
    """What it needs can be imported."""
    versions = []
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
            versions.append(f"{name} {metadata.version(name)}")
        except (ImportError, metadata.PackageNotFoundError) as error:
            yield Finding(ERROR, "libraries", f"{name}: {error}",
                          f"pip install --force-reinstall {name}")
    if len(versions) == len(LIBRARIES):
        yield Finding(OK, "libraries", ", ".join(versions))


def choices(config: Config, machine: Machine) -> Iterator[Finding]:
    """Those that are there for comparison and trouble."""
    slow = [f"{name}={getattr(config, name)}" for name, fast in
            (("loop", "uvloop"), ("http", "native"), ("tasks", "direct"))
            if getattr(config, name) != fast]
    if slow:
        yield Finding(NOTE, "choices", f"{', '.join(slow)}: slower than the defaults",
                      "leave them out unless something needs them")
    else:
        yield Finding(OK, "choices", "the fast ones")


def extras(config: Config, machine: Machine) -> Iterator[Finding]:
    """What the settings can do without a library that is not installed."""
    missing = False
    for name, (modules, extra, lacks) in EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        if getattr(config, name) and absent:
            missing = True
            yield Finding(WARN, "extras", f"{name} without {', '.join(absent)}: {lacks}",
                          f"pip install 'fastserve[{extra}]'")
    if not missing:
        yield Finding(OK, "extras", "what the settings need is installed")


def log_files(config: Config, machine: Machine) -> Iterator[Finding]:
    """Their directories, and the room that is left there."""
    named = [config.log_file, config.access_log_file if config.access_log != "off" else None]
    paths = [path for path in named if path not in (None, *STREAMS)]
    if not paths:
        yield Finding(OK, "log files", "none")
    for path in paths:
        directory = os.path.dirname(os.path.abspath(str(path)))
        problem = _unwritable(str(path))
        if problem is not None:
            yield Finding(ERROR, "log files", f"{path} {problem}", "name a file to append to")
            continue
        try:
            found = os.statvfs(directory)
        except OSError:
            free = FREE_BYTES
        else:
            free = found.f_bavail * found.f_frsize
        if free < FREE_BYTES:
            yield Finding(WARN, "log files", f"{free >> 20} MiB are free for {path}",
                          f"make room: du -sh {directory}/*")
        else:
            yield from _directory("log files", str(path))


def _unwritable(path: str) -> str | None:
    if os.path.isdir(path):
        return "is a directory"
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return "cannot be written by this user"
    return None


def workers_user(config: Config, machine: Machine) -> Iterator[Finding]:
    """Who is to be become is known, and may be."""
    if config.user is None:
        return
    try:
        User.from_config(config)
    except ConfigError as error:
        yield Finding(ERROR, "user", str(error), f"getent passwd {config.user}")
    else:
        yield Finding(OK, "user", f"{config.user} is known")


# --- TLS ---------------------------------------------------------------------------------


def certificates(config: Config, machine: Machine) -> Iterator[Finding]:
    """They load with their keys, are valid for a while yet, and their keys are secret."""
    if config.ssl_certfile is None:
        yield Finding(OK, "TLS", "off")
        return
    try:
        Certificates(config)
    except ConfigError as error:
        yield Finding(ERROR, "TLS", str(error), "openssl x509 -noout -text -in CERT")
        return
    for certificate, key in certificate_files(config):
        yield from _expiry(certificate)
        if os.stat(key).st_mode & 0o007:
            yield Finding(WARN, "TLS", f"everybody may read the key in {key}", f"chmod o= {key}")


def _expiry(path: str) -> Iterator[Finding]:
    end_s, end = _end_of(path)
    left_s = end_s - time.time()
    if left_s < 0:
        yield Finding(ERROR, "TLS", f"{path} has expired: {end}", "renew it")
    elif left_s < EXPIRES_SOON_S:
        yield Finding(WARN, "TLS", f"{path} expires in {left_s / DAY_S:.0f} days: {end}",
                      "renew it; it is taken up without a restart")
    else:
        yield Finding(OK, "TLS", f"{path} is valid until {end}")


def _end_of(path: str) -> tuple[float, str]:
    """When the first certificate of a file expires: seconds since 1970, and for people."""
    import _ssl  # the public module tells it of peers only

    end = str(_ssl._test_decode_cert(path)["notAfter"])  # type: ignore[attr-defined]
    return ssl.cert_time_to_seconds(end), end


# --- the application ---------------------------------------------------------------------


def handlers(app: App, config: Config) -> Iterator[Finding]:
    """How many routes, and which of them run where."""
    waiting = sum(is_blocking(route.endpoint) for route in app.routes)
    plain = [route for route in app.routes
             if not is_async(route.endpoint) and not is_blocking(route.endpoint)]
    shown = (f"{len(app.routes)} routes: {len(app.routes) - waiting - len(plain)} async, "
             f"{len(plain)} sync, {waiting} @blocking")
    if not app.routes:
        yield Finding(WARN, "application", "it has no routes", "app.get(...), app.include(...)")
    elif plain:
        yield Finding(NOTE, "application", f"{shown}; sync ones hold the loop until they return, "
                      f"such as {plain[0].label}", "@blocking where one waits for something")
    else:
        yield Finding(OK, "application", shown)


def route_limits(app: App, config: Config) -> Iterator[Finding]:
    """Async handlers that nothing ends."""
    if config.handler_timeout_s:
        yield Finding(OK, "handler timeout", f"{config.handler_timeout_s:g} s")
        return
    endless = [route for route in app.routes if not route.options.get("handler_timeout_s")]
    if endless:
        yield Finding(NOTE, "handler timeout", f"{len(endless)} routes have none, such as "
                      f"{endless[0].label}", "--handler-timeout-s 30, or one for each route")
    else:
        yield Finding(OK, "handler timeout", "each route has its own")


def debugging(app: App, config: Config) -> Iterator[Finding]:
    """Tracebacks for clients."""
    if app.debug:
        yield Finding(WARN, "debug", "clients are shown tracebacks", "App(debug=False)")
    else:
        yield Finding(OK, "debug", "off")


def routing(app: App, config: Config) -> Iterator[Finding]:
    """The routes compile, beside the server's own; which none can be added to from here on."""
    own: list[Metrics] = []
    try:
        if config.metrics is not None:
            from fastserve import metrics  # brings prometheus_client, an extra

            own.append(metrics.Metrics(config.metrics, _read_nothing))
        app.build_router(
            health=Health() if config.health_paths else None, pages=own,
            unlogged=config.unlogged_paths(), decompress_requests=config.decompress_requests,
            compress_responses=config.compress_responses)
    except FastserveError as error:
        yield Finding(ERROR, "routing", str(error), "fastserve routes MODULE:APP")
    else:
        yield Finding(OK, "routing", "every route and page has a place")
    finally:
        for page in own:
            page.close()


def _read_nothing() -> Reading:
    raise BoardError("nothing is served")


APP_CHECKS: tuple[AppCheck, ...] = (handlers, route_limits, debugging, routing)
SETTING_CHECKS: tuple[Check, ...] = (
    tcp_addresses, unix_sockets, inherited_sockets, control_socket, pid_file, log_files,
    workers_user, limits, proxies, certificates, libraries, choices, extras)
