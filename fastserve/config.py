"""Settings: one frozen Config, every limit with its unit, every mistake explained.

One table. A field `max_body_bytes` is the flag `--max-body-bytes` and the keyword
`app.run(max_body_bytes=...)`; its help, group and check stand beside its default.
Whatever cannot work is a ConfigError that names the setting, the value and the way out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastserve.errors import ConfigError
from fastserve.networks import Networks
from fastserve.presets import PRESETS

LISTEN, WORKERS, SERVER = "Where to listen", "Workers", "Server"
LIMITS, TIMES = "Limits", "Time"
TLS, BEHIND = "TLS", "Behind a proxy"
LOGS = "Logs and metrics"
ACCESS_LOGS = ("off", "text", "json", "logfmt", "logging")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
FORWARDED_HEADERS = (
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded",
    "cf-connecting-ip")

OCTAL = 'must be octal permissions up to 777: write 0o660 or "660"'
_OCTAL = re.compile(r"(?:0o)?[0-7]{1,4}")
_SIZE = re.compile(r"(\d{1,18}) ?([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}
HEALTH_PATHS = ("/-/live", "/-/ready")      # as in health.py
NO_PATH = "none"
MAX_LOGGED_HEADERS, MAX_LOGGED_NAME_BYTES = 16, 64     # as in _speedups/journal.pxd

Check = Callable[[str, Any], None]


def _fail(name: str, value: object, must: str) -> ConfigError:
    return ConfigError(f"{name}={value!r}: {must}")


def whole(low: int, high: int = 2**31 - 1) -> Check:
    """A whole number from low to high."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _fail(name, value, f"must be a whole number from {low} to {high}")

    return check


def seconds(low: float, high: float = 86400) -> Check:
    """A number of seconds from low to high."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _fail(name, value, "must be a number of seconds")
        if not low <= value <= high:
            raise _fail(name, value, f"must be from {low} to {high} seconds")

    return check


def rate(name: str, value: Any) -> None:
    """A number of bytes per second."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
        raise _fail(name, value, "must be a number of bytes per second from 0 to 1000000000")


def share(name: str, value: Any) -> None:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise _fail(name, value, "must be a number from 0 to 1")


def one_of(*choices: str) -> Check:
    """One of these words."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise _fail(name, value, f"must be one of {', '.join(choices)}")

    return check


def yes_or_no(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise _fail(name, value, "must be True or False")


def text(name: str, value: Any) -> None:
    """Some text without control characters."""
    if not isinstance(value, str) or not value:
        raise _fail(name, value, "must be some text")
    if not value.isprintable():
        raise _fail(name, value, "must not hold control characters")


def secret(name: str, value: Any) -> None:
    """Some text that is not shown."""
    try:
        text(name, value)
    except ConfigError:
        raise ConfigError(f"{name}: must be some text without control characters") from None


def workers_number(value: str) -> int | str:
    """What a command line or file says of it."""
    return int(value) if value.isascii() and value.isdigit() else value


def byte_count(value: str) -> int:
    """What a command line or file says of a size: 536870912, 512M, 2GiB; else ValueError."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no size")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def memory(name: str, value: Any) -> None:
    """A number of bytes that a process may hold; 0 is any."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**62:
        raise _fail(name, value, "must be a number of bytes, or a size like 512M or 2G")


def permissions(name: str, value: Any) -> None:
    """Permissions of a file."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise _fail(name, value, OCTAL)


def workers_count(name: str, value: Any) -> None:
    """A number of workers, or "auto"."""
    if value != "auto" and (
            isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 512):
        raise _fail(name, value, "must be a whole number from 1 to 512, or auto")


def socket_path(name: str, value: Any) -> None:
    """A path; or an abstract name behind "@", or behind a NUL as the kernel has it."""
    abstract = isinstance(value, str) and value.startswith("\0") and len(value) > 1
    text(name, value[1:] if abstract and value[1:].isprintable() else value)


def control_path(name: str, value: Any) -> None:
    """A path, whose permissions keep others out."""
    text(name, value)
    if value[0] in "@\0":
        raise _fail(name, value, "must be a path: anybody may use an abstract socket")


def page_path(name: str, value: Any) -> None:
    """A path that the server answers itself."""
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]", value):
        raise _fail(name, value, 'must be a path of plain characters, like "/metrics"')


def texts(name: str, value: Any) -> None:
    """A tuple of texts."""
    if not isinstance(value, tuple):
        raise _fail(name, value, "must be a list of texts")
    if not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise _fail(name, value, "must be texts without control characters")


def is_field_name(text: Any) -> bool:
    """Whether it may be the name of a header field (RFC 9110 section 5.1)."""
    return isinstance(text, str) and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text) is not None


def field_names(name: str, value: Any) -> None:
    """A tuple of names of header fields, each once."""
    texts(name, value)
    if not all(is_field_name(item) and len(item) <= MAX_LOGGED_NAME_BYTES for item in value):
        raise _fail(name, value, "must be names of header fields, of at most "
                    f"{MAX_LOGGED_NAME_BYTES} bytes, each given by itself")
    if len({item.lower() for item in value}) < len(value):
        raise _fail(name, value, "must name each header once")
    if len(value) > MAX_LOGGED_HEADERS:
        raise _fail(name, value, f"must be at most {MAX_LOGGED_HEADERS} headers")


def skipped(name: str, value: Any) -> None:
    """A tuple of paths of routes, or of the one word that stands for none."""
    texts(name, value)
    if value != (NO_PATH,) and not all(item.startswith("/") for item in value):
        raise _fail(name, value, f'must be paths of routes, like "/users/{{id}}", or {NO_PATH}')


def field_name_or_nothing(name: str, value: Any) -> None:
    """The name of a header field, or the empty text."""
    if value != "" and not is_field_name(value):
        raise _fail(name, value, "must be the name of a header field, or empty")


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise _fail(name, value, "must be True or False")


def networks(name: str, value: Any) -> None:
    """A comma list of networks; may be empty."""
    if not isinstance(value, str):
        raise _fail(name, value, "must be a comma list of networks")
    try:
        Networks(value)
    except ValueError as error:
        raise _fail(name, value, f"must be a comma list of networks: {error}") from None


def words(*choices: str) -> Check:
    """A comma list of some of these words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or not set(value.split(",")) <= set(choices):
            raise _fail(name, value, f"must be a comma list of {', '.join(choices)}")

    return check


def _setting(default: Any, group: str, check: Check, help: str, **extra: Any) -> Any:
    choices = extra.pop("choices", None)
    return field(
        default=default,
        repr=not extra.get("secret", False),
        metadata={"group": group, "check": check, "help": help, "choices": choices, **extra},
    )


def _choice(default: str, group: str, choices: tuple[str, ...], help: str) -> Any:
    return _setting(default, group, one_of(*choices), help, choices=choices)


@dataclass(frozen=True)
class Config:
    """Everything that can be set about a server. The order is the order of the help page."""

    host: str = _setting(
        DEFAULT_HOST, LISTEN, text, "Address or name to listen on; '::' is both families.")
    port: int = _setting(
        DEFAULT_PORT, LISTEN, whole(0, 65535), "Port to listen on; 0 takes a free one.")
    uds: str | None = _setting(
        None, LISTEN, socket_path,
        "Listen on a unix socket at this path instead; @NAME is an abstract one.", type=str)
    uds_mode: int = _setting(
        0o666, LISTEN, permissions, "Permissions of the unix socket, octal.", octal=True)
    uds_owner: str | None = _setting(
        None, LISTEN, text, "Owner of the unix socket: USER, USER:GROUP or :GROUP.", type=str)
    fd: int | None = _setting(
        None, LISTEN, whole(0), "Adopt this listening socket (file descriptor) instead.", type=int)
    bind: tuple[str, ...] = _setting(
        (), LISTEN, texts, "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N; several are possible.")
    backlog: int = _setting(2048, LISTEN, whole(1), "Connections the kernel may hold for us.")

    workers: int | str | None = _setting(
        None, WORKERS, workers_count, "Worker processes, under a supervisor; auto is one for each "
        "usable processor. Left out, this process serves alone.", type=workers_number,
        metavar="N|auto")
    preload: bool = _setting(
        False, WORKERS, yes_or_no,
        "Import the application once, before the workers: less memory, and no reload.")
    boot_timeout_s: float = _setting(
        60.0, WORKERS, seconds(0.1, 3600), "For a worker to import, start up and serve.")
    stall_soft_s: float = _setting(
        1.0, WORKERS, seconds(0, 3600),
        "A loop that has not turned for so long gets no new connections; 0 is no limit.")
    stall_hard_s: float = _setting(
        30.0, WORKERS, seconds(0), "A worker whose loop has not is replaced; 0 is no limit.")
    control: str | None = _setting(
        None, WORKERS, control_path, "Unix socket for `fastserve ctl`, for its owner alone.",
        type=str, metavar="PATH")
    user: str | None = _setting(
        None, WORKERS, text, "Whom the workers become; the supervisor stays root.", type=str)
    group: str | None = _setting(
        None, WORKERS, text, "Their group, where it is not the user's own.", type=str)
    drain_delay_s: float = _setting(
        0.0, WORKERS, seconds(0, 3600), "How long it goes on accepting when told to stop.")
    max_requests: int = _setting(
        0, WORKERS, whole(0, 2**62), "A worker is replaced after so many; 0 is any number.")
    max_requests_jitter: int = _setting(
        0, WORKERS, whole(0, 2**62), "Or up to so many more, drawn for each worker.")
    max_lifetime_s: float = _setting(
        0.0, WORKERS, seconds(0, 31_536_000), "A worker is replaced at this age; 0 is any age.")
    max_lifetime_jitter_s: float = _setting(
        0.0, WORKERS, seconds(0, 31_536_000), "Or up to so much later, drawn for each worker.")
    max_rss_bytes: int = _setting(
        0, WORKERS, memory,
        "A worker that holds more memory is replaced; 512M and 2G are sizes; 0 is any size.",
        type=byte_count, metavar="BYTES")
    pin_cpus: bool = _setting(
        False, WORKERS, yes_or_no, "Keep each worker on a processor of its own (Linux).")
    canary: int = _setting(
        0, WORKERS, whole(0, 511),
        "A reload tries the new code on so many workers first, and takes it back if it fails.")
    canary_s: float = _setting(
        20.0, WORKERS, seconds(0.1, 86400), "For how long it is compared with the others.")

    loop: str = _choice("uvloop", SERVER, ("uvloop", "asyncio"), "Event loop.")
    http: str = _choice("native", SERVER, ("native", "httptools"), "HTTP parser.")
    tasks: str = _choice("direct", SERVER, ("direct", "asyncio"), "How async handlers run.")
    blocking_threads: int = _setting(
        40, SERVER, whole(1, 10_000), "Threads for handlers marked @blocking.")
    busy_poll_us: int = _setting(
        0, SERVER, whole(0, 1_000_000), "How long a loop that has nothing to do looks for more "
        "before it sleeps: answers come sooner, and cost a processor's time.")
    decompress_requests: bool = _setting(
        False, SERVER, yes_or_no, "Decode request bodies sent with gzip, deflate, br or zstd.")
    compress_responses: bool = _setting(
        False, SERVER, yes_or_no, "Compress response bodies with zstd, br or gzip.")
    pid_file: str | None = _setting(
        None, SERVER, text, "Write the number of the process for signals here.", type=str,
        metavar="PATH")

    ssl_certfile: str | None = _setting(
        None, TLS, text, "Serve TLS with this certificate and its chain, PEM.", type=str)
    plain_bind: tuple[str, ...] = _setting(
        (), TLS, texts, "Further addresses, which speak plain HTTP; several are possible.",
        metavar="HOST:PORT")
    ssl_keyfile: str | None = _setting(
        None, TLS, text, "Its key, PEM, where it is not in the same file.", type=str)
    ssl_keyfile_password: str | None = _setting(
        None, TLS, secret, "What the keys are encrypted with.", type=str, secret=True)
    ssl_sni: tuple[str, ...] = _setting(
        (), TLS, texts, "Another certificate for clients that ask for HOST or *.DOMAIN; "
        "several are possible.", metavar="HOST=CERT[:KEY]")
    ssl_ca_certs: str | None = _setting(
        None, TLS, text, "Whose client certificates are accepted, PEM.", type=str)
    ssl_cert_reqs: str = _choice(
        "none", TLS, ("none", "optional", "required"), "Ask clients for a certificate.")
    ssl_min_version: str = _choice(
        "TLSv1.2", TLS, ("TLSv1.2", "TLSv1.3"), "The oldest version to speak.")
    ssl_ciphers: str | None = _setting(
        None, TLS, text, "Ciphers of TLS 1.2, as OpenSSL names them [Mozilla's intermediate].",
        type=str)
    handshake_timeout_s: float = _setting(
        10.0, TLS, seconds(0.1, 3600), "How long a TLS handshake, or a PROXY header, may take.")
    max_handshakes: int = _setting(
        1024, TLS, whole(1), "Handshakes and PROXY headers under way; beyond it the oldest ends.")

    behind: str | None = _setting(
        None, BEHIND, one_of(*PRESETS), "Defaults for a server behind this proxy.",
        choices=tuple(PRESETS))
    forwarded_allow_ips: str = _setting(
        "", BEHIND, networks, "Proxies whose forwarded fields are believed: networks, unix, "
        "or * for all; nobody unless given.", metavar="NETWORKS")
    forwarded_headers: str = _setting(
        "x-forwarded-for,x-forwarded-proto", BEHIND, words(*FORWARDED_HEADERS),
        "Which of their fields; each must be one that they write themselves.", metavar="NAMES")
    proxy_protocol: str = _choice(
        "off", BEHIND, ("off", "optional", "required"), "PROXY protocol, version 1 or 2.")
    proxy_allow_ips: str = _setting(
        "", BEHIND, networks, "Who may send its header: networks, unix, or * for all.",
        metavar="NETWORKS")
    health_paths: bool = _setting(
        True, BEHIND, flag, "Answer /-/live and /-/ready.")

    metrics: str | None = _setting(
        None, LOGS, page_path, "Answer here with what the server counts, for Prometheus: "
        "/metrics unless given another PATH.", type=str, metavar="[PATH]", alone="/metrics")
    log_level: str = _choice("info", LOGS, LOG_LEVELS, "What to log.")
    log_format: str = _choice("text", LOGS, ("text", "json"), "How to log it.")
    log_file: str | None = _setting(
        None, LOGS, text, "Log here, not to stderr; when the file is moved, a new one is made.",
        type=str, metavar="PATH")
    access_log: str = _choice("off", LOGS, ACCESS_LOGS, "A line for each request.")
    access_log_file: str = _setting(
        "-", LOGS, text, "Where those lines go: a file, - for stdout, or stderr.", metavar="PATH")
    access_log_headers: tuple[str, ...] = _setting(
        (), LOGS, field_names, "Write down this header of each request; several are possible.",
        metavar="NAME")
    access_log_skip: tuple[str, ...] = _setting(
        HEALTH_PATHS, LOGS, skipped, "Requests of this route get no line, but for 5xx; several "
        "are possible, none logs all.", metavar="PATH")
    access_log_sample: float = _setting(
        1.0, LOGS, share, "The share of requests that get a line; 5xx always do.")
    access_log_slow_s: float = _setting(
        0.0, LOGS, seconds(0), "Only requests that took so long, and 5xx.")
    request_id_header: str = _setting(
        "x-request-id", LOGS, field_name_or_nothing,
        "The header whose request id is believed; empty: none.", metavar="NAME")

    max_head_bytes: int = _setting(32768, LIMITS, whole(256, 2**24), "Request line and headers.")
    max_field_bytes: int = _setting(8192, LIMITS, whole(64, 2**24), "One header line.")
    max_headers: int = _setting(100, LIMITS, whole(1, 10_000), "Header lines of a request.")
    max_target_bytes: int = _setting(8192, LIMITS, whole(16, 2**24), "The request target.")
    max_body_bytes: int = _setting(
        1048576, LIMITS, whole(0, 2**62), "A body read whole; a route may set its own.")
    max_chunk_extension_bytes: int = _setting(
        4096, LIMITS, whole(0, 2**24), "Chunk extensions of one body.")
    max_trailer_bytes: int = _setting(8192, LIMITS, whole(2, 2**24), "The trailers of one body.")
    max_trailers: int = _setting(32, LIMITS, whole(0, 10_000), "Trailer lines of one body.")
    max_form_fields: int = _setting(1000, LIMITS, whole(0), "Text fields of one form.")
    max_form_files: int = _setting(100, LIMITS, whole(0), "Files of one form.")
    max_form_field_bytes: int = _setting(
        1048576, LIMITS, whole(0), "The text fields of one form together.")
    form_memory_bytes: int = _setting(
        1048576, LIMITS, whole(0), "Files of one form kept in memory; more goes to disk.")
    max_decompression_ratio: int = _setting(
        100, LIMITS, whole(1, 10_000), "Times that a request body may grow when decoded.")
    max_pipelined: int = _setting(
        16, LIMITS, whole(1, 10_000), "Requests of one connection under way at once.")
    max_in_flight: int = _setting(
        0, LIMITS, whole(0, 2**24), "Async requests under way at once; 0 is any number.")
    max_queued: int = _setting(
        100, LIMITS, whole(0, 2**24), "Requests that may wait for one of those to end.")
    max_connections: int | None = _setting(
        None, LIMITS, whole(1, 2**24), "Connections open at once; all that open files allow.",
        type=int)
    when_full: str = _choice(
        "wait", LIMITS, ("wait", "reject"),
        "The connections above that wait in the queue, or are answered 503.")
    lingering_close_bytes: int = _setting(
        262144, LIMITS, whole(0, 2**31 - 1), "Unread body that is drained before closing.")

    header_timeout_s: float = _setting(
        10.0, TIMES, seconds(0), "For a whole request head, from its first byte; 0 is no limit.")
    keep_alive_timeout_s: float = _setting(
        75.0, TIMES, seconds(0), "Between two requests of a connection.")
    body_timeout_s: float = _setting(
        30.0, TIMES, seconds(0), "Between two reads of a request body.")
    body_min_rate_bytes_s: float = _setting(
        500.0, TIMES, rate, "What a request body must bring, on average.")
    body_grace_s: float = _setting(10.0, TIMES, seconds(0), "Before that rate counts.")
    write_timeout_s: float = _setting(
        30.0, TIMES, seconds(0), "For a client that reads nothing of what waits for it.")
    handler_timeout_s: float = _setting(
        0.0, TIMES, seconds(0), "For an async handler to begin its answer; 0 is no limit.")
    queue_timeout_s: float = _setting(
        0.1, TIMES, seconds(0, 3600), "How long a request above max_in_flight waits for its 503.")
    retry_after_s: int = _setting(
        1, TIMES, whole(0, 86400), "What such a 503 tells its client to wait.")
    lingering_close_s: float = _setting(
        2.0, TIMES, seconds(0, 3600), "How long an unread body is drained before closing.")
    graceful_timeout_s: float = _setting(
        30.0, TIMES, seconds(0), "How long requests may take to end when stopping.")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                setting.metadata["check"](setting.name, value)
        self._check_together()

    def _check_together(self) -> None:
        """Settings that are fine alone and make no sense together."""
        ways = [name for name in ("uds", "fd", "bind") if getattr(self, name) not in (None, ())]
        if (self.host, self.port) != (DEFAULT_HOST, DEFAULT_PORT):
            ways.append("host and port")
        self._check_workers()
        self._check_user()
        if len(ways) > 1:
            raise ConfigError(
                f"{' and '.join(ways)} contradict each other: "
                "give one of them, or every address by bind"
            )
        self._check_tls()
        self._check_proxies()
        if self.metrics is not None and importlib.util.find_spec("prometheus_client") is None:
            raise ConfigError(
                f"metrics={self.metrics!r} needs prometheus_client: "
                'pip install "fastserve[metrics]"')
        self._check_logs()
        if self.uds is not None and self.uds[0] in "@\0" and (
                self.uds_owner is not None or self.uds_mode != 0o666):
            raise ConfigError(
                f"uds={self.uds!r} is an abstract socket, which has no file, so neither "
                "uds_mode nor uds_owner: leave them out, or give a path"
            )
        if self.max_target_bytes > self.max_head_bytes:
            raise ConfigError(
                f"max_target_bytes={self.max_target_bytes} is more than "
                f"max_head_bytes={self.max_head_bytes}, which holds it: raise max_head_bytes too"
            )
        if self.max_field_bytes > self.max_head_bytes:
            raise ConfigError(
                f"max_field_bytes={self.max_field_bytes} is more than "
                f"max_head_bytes={self.max_head_bytes}, which holds it: raise max_head_bytes too"
            )

    def _check_workers(self) -> None:
        if self.workers is None:
            for name in ("preload", "control", *OF_WORKERS):
                value = getattr(self, name)
                if value:
                    raise ConfigError(
                        f"{name}={value!r} is for a server with workers: give workers too")
        for name, of in (
                ("max_requests_jitter", "max_requests"),
                ("max_lifetime_jitter_s", "max_lifetime_s")):
            if getattr(self, name) and not getattr(self, of):
                raise ConfigError(f"{name}={getattr(self, name)!r} without {of}: give that too")
        if self.max_rss_bytes and not os.path.exists("/proc/self/statm"):
            raise ConfigError(
                f"max_rss_bytes={self.max_rss_bytes}: this system does not tell what a process "
                "holds (/proc/PID/statm): leave it out, or use max_requests")
        if self.pin_cpus and not hasattr(os, "sched_setaffinity"):
            raise ConfigError("pin_cpus=True: this system cannot pin processes: leave it out")
        if self.canary and self.preload:
            raise ConfigError(
                f"canary={self.canary} is for reloads, and preload excludes them: leave one out")
        if isinstance(self.workers, int) and self.canary >= self.workers:
            raise ConfigError(
                f"canary={self.canary} of workers={self.workers} leaves none to compare with: "
                "take fewer, or more workers")

    def _check_user(self) -> None:
        if self.group is not None and self.user is None:
            raise ConfigError(f"group={self.group!r} without user would stay root: give user too")
        if self.user is None:
            return
        if self.workers is None:
            raise ConfigError(
                f"user={self.user!r} is for a server with workers, whose supervisor stays what it "
                "is: give workers too, 1 will do")
        if self.preload:
            raise ConfigError(
                f"user={self.user!r} contradicts preload=True, which runs the application's "
                "imports as root: leave one of them out")

    def _check_tls(self) -> None:
        if self.ssl_certfile is None:
            for setting in dataclasses.fields(self):
                value = getattr(self, setting.name)
                if (setting.name.startswith("ssl_") or setting.name == "plain_bind") \
                        and value != setting.default:
                    shown = "..." if setting.metadata.get("secret") else repr(value)
                    raise ConfigError(
                        f"{setting.name}={shown} is for TLS, which needs ssl_certfile: give that")
        if self.ssl_cert_reqs != "none" and self.ssl_ca_certs is None:
            raise ConfigError(
                f"ssl_cert_reqs={self.ssl_cert_reqs!r} needs to know whose certificates are good: "
                "give ssl_ca_certs")
        if self.ssl_ca_certs is not None and self.ssl_cert_reqs == "none":
            raise ConfigError(
                f"ssl_ca_certs={self.ssl_ca_certs!r} without asking clients for a certificate: "
                "give ssl_cert_reqs, optional or required")

    def _check_proxies(self) -> None:
        believed = set(self.forwarded_headers.split(","))
        for one in ("forwarded", "cf-connecting-ip"):
            others = believed & {"forwarded", "cf-connecting-ip", "x-forwarded-for"} - {one}
            if one in believed and others:
                raise ConfigError(
                    f"forwarded_headers={self.forwarded_headers!r}: {one} and "
                    f"{others.pop()} both say who the client is: name the one your proxy writes")
        if "forwarded" in believed and len(believed) > 1:
            raise ConfigError(
                f"forwarded_headers={self.forwarded_headers!r}: forwarded says it all: "
                "name it alone")
        default = type(self).forwarded_headers
        if self.forwarded_headers != default and not Networks(self.forwarded_allow_ips):
            raise ConfigError(
                f"forwarded_headers={self.forwarded_headers!r}, but nobody is believed: "
                "name your proxies in forwarded_allow_ips")
        if (self.proxy_protocol == "off") == bool(Networks(self.proxy_allow_ips)):
            raise ConfigError(
                f"proxy_protocol={self.proxy_protocol!r} contradicts "
                f"proxy_allow_ips={self.proxy_allow_ips!r}: give both, or neither")

    def _check_logs(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.name.startswith("access_log_") and value != setting.default:
                if self.access_log == "off":
                    raise ConfigError(
                        f"{setting.name}={value!r}, but there is no access log: give access_log "
                        f"too, one of {', '.join(ACCESS_LOGS[1:])}")
                if self.access_log == "logging" and setting.name == "access_log_file":
                    raise ConfigError(
                        f"access_log_file={value!r} contradicts access_log='logging', where the "
                        "handlers of \"fastserve.access\" decide: leave it out, or give "
                        "access_log as text, json or logfmt")

    @classmethod
    def load(cls, given: Mapping[str, Any]) -> Config:
        """A Config from what somebody gave by name; None means not given.

        Raises ConfigError for a name that is no setting, with the nearest one that is.
        """
        names = [setting.name for setting in dataclasses.fields(cls)]
        values = {}
        for name, value in given.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(names)}"
                raise ConfigError(f"{name}={value!r}: there is no such setting.{hint}")
            if value is not None:
                values[name] = value
        for name in ("bind", "plain_bind", "ssl_sni", "access_log_headers", "access_log_skip"):
            if isinstance(values.get(name), str):
                values[name] = (values[name],)
            elif isinstance(values.get(name), Iterable) and not isinstance(
                    values[name], (bytes, Mapping)):    # which their checks refuse
                values[name] = tuple(values[name])
        if isinstance(values.get("max_rss_bytes"), str):    # of a file
            with contextlib.suppress(ValueError):
                values["max_rss_bytes"] = byte_count(values["max_rss_bytes"])
        mode = values.get("uds_mode")
        if isinstance(mode, str) and _OCTAL.fullmatch(mode):    # of a file
            values["uds_mode"] = int(mode, 8)
        behind = values.get("behind")
        for name, value in PRESETS.get(behind, {}).items() if isinstance(behind, str) else ():
            values.setdefault(name, value)
        return cls(**values)

    def unlogged_paths(self) -> tuple[str, ...]:
        """Of the routes that the access log leaves out."""
        return () if self.access_log_skip == (NO_PATH,) else self.access_log_skip

    def engine_limits(self) -> dict[str, Any]:
        """What App.build_engine() takes as keywords."""
        return {name: getattr(self, name) for name in ENGINE_SETTINGS}


OF_WORKERS = (
    "max_requests", "max_lifetime_s", "max_rss_bytes", "pin_cpus", "canary")
ENGINE_SETTINGS = (
    "http",
    "tasks",
    "max_head_bytes",
    "max_field_bytes",
    "max_headers",
    "max_target_bytes",
    "max_body_bytes",
    "max_chunk_extension_bytes",
    "max_trailer_bytes",
    "max_trailers",
    "max_form_fields",
    "max_form_files",
    "max_form_field_bytes",
    "form_memory_bytes",
    "decompress_requests",
    "compress_responses",
    "max_decompression_ratio",
    "max_pipelined",
    "when_full",
    "max_in_flight",
    "max_queued",
    "header_timeout_s",
    "keep_alive_timeout_s",
    "body_timeout_s",
    "body_min_rate_bytes_s",
    "body_grace_s",
    "write_timeout_s",
    "handler_timeout_s",
    "queue_timeout_s",
    "retry_after_s",
    "lingering_close_s",
    "lingering_close_bytes",
    "request_id_header",
    "busy_poll_us",
)
