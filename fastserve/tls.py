"""TLS: certificates, chosen by host name and replaced while serving.

A set of certificates is one SSLContext for each, and is never changed: a reload makes a new
set, and what does not load leaves the old one in place. Connections that are open keep what
they began with.

Safe by default: TLS 1.2 and 1.3 with forward secrecy and authenticated ciphers only, no
compression, no renegotiation, no protocol but http/1.1. A user's mistake is a ConfigError
that names the setting and the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from fastserve.config import Config
from fastserve.errors import ConfigError

# "Intermediate" of Mozilla's server-side TLS guidelines, without the finite-field DHE ciphers,
# which need parameters of their own and cost the server most. TLS 1.3 has its own three.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_DEMANDS = {
    "none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
LOOK_S = 1.0    # between two looks at the files: a certificate and its key are not copied at once
_SNI = re.compile(
    r"(?P<host>(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)=(?P<cert>[^:]+)(?::(?P<key>.+))?")

logger = logging.getLogger("fastserve")

Identity = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The certificates of a server; `context` is for the next handshake.

    Raises ConfigError for what cannot be loaded.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pairs = _pairs(config)
        self._files = _files(config, self._pairs)
        self._seen = self._loaded = self._identity()
        self._due_s = 0.0
        self.context = self._load()

    @classmethod
    def from_config(cls, config: Config) -> Certificates | None:
        """As the settings say; None where they do not ask for TLS."""
        return None if config.ssl_certfile is None else cls(config)

    def reload(self) -> bool:
        """Load all files again; whether that worked. The old certificates stay where not."""
        self._seen = self._loaded = self._identity()
        try:
            self.context = self._load()
        except ConfigError as error:
            logger.error("cannot reload the certificates, the old ones stay: %s", error)
            return False
        logger.info("reloaded the certificates")
        return True

    def tick(self, now_s: float) -> None:
        """check(), once in LOOK_S at most. Call it more often, with the time of any one clock."""
        if now_s >= self._due_s:
            self._due_s = now_s + LOOK_S
            self.check()

    def check(self) -> None:
        """Reload when a file has changed, and has not for one call since: somebody may write."""
        found = self._identity()
        if found == self._seen != self._loaded:
            self.reload()
        self._seen = found

    def _identity(self) -> Identity:
        return tuple(_identity(path) for path in self._files)

    def _load(self) -> ssl.SSLContext:
        by_host = {
            host: self._context(setting, cert, key)
            for host, (setting, cert, key) in self._pairs.items()}
        default = by_host.pop("")
        if by_host:
            default.sni_callback = _chooser(by_host)
        return default

    def _context(self, setting: str, cert: str, key: str | None) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[config.ssl_min_version]
        # both are what OpenSSL 3 does by itself, and 1.1.1 does not
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        # all of them are good: let a phone choose the one that it has no hardware for
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.set_ciphers(config.ssl_ciphers or CIPHERS)
        except ssl.SSLError:
            raise ConfigError(
                f"ssl_ciphers={config.ssl_ciphers!r} matches no cipher: "
                "try it with `openssl ciphers`") from None
        _load_pair(context, setting, cert, key, config.ssl_keyfile_password)
        if config.ssl_ca_certs is not None:
            _load_authorities(context, config.ssl_ca_certs)
        context.verify_mode = _DEMANDS[config.ssl_cert_reqs]
        return context


def certificate_files(config: Config) -> list[tuple[str, str]]:
    """The files of each certificate and its key."""
    return [(cert, key or cert) for _, cert, key in _pairs(config).values()]


def _pairs(config: Config) -> dict[str, tuple[str, str, str | None]]:
    """By host or *.domain, "" for the default: setting, certificate, key."""
    assert config.ssl_certfile is not None  # noqa: S101  for mypy
    pairs: dict[str, tuple[str, str, str | None]] = {
        "": ("ssl_certfile", config.ssl_certfile, config.ssl_keyfile)}
    for item in config.ssl_sni:
        found = _SNI.fullmatch(item)
        if found is None:
            raise ConfigError(
                f"ssl_sni={item!r}: must be HOST=CERT or HOST=CERT:KEY; HOST may be *.DOMAIN")
        host = found["host"].lower()
        if host in pairs:
            raise ConfigError(f"ssl_sni={item!r}: {host} has a certificate already")
        pairs[host] = (f"ssl_sni={item!r}", found["cert"], found["key"])
    return pairs


def _files(config: Config, pairs: dict[str, tuple[str, str, str | None]]) -> list[str]:
    named = [path for _, cert, key in pairs.values() for path in (cert, key)]
    return sorted({path for path in (*named, config.ssl_ca_certs) if path is not None})


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)   # behind links: some renew by pointing a link elsewhere
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _chooser(by_host: dict[str, ssl.SSLContext]) -> Callable[[Any, str | None, Any], None]:
    def choose(connection: Any, name: str | None, _: Any) -> None:
        """Give a client the certificate of the host that it asks for; else the default stays."""
        if name is None:
            return
        host = name.lower().rstrip(".")
        found = by_host.get(host) or by_host.get("*." + host.partition(".")[2])
        if found is not None:
            connection.context = found

    return choose


@contextlib.contextmanager
def bad_names_unreported() -> Iterator[None]:
    """While inside, no report on stderr of a host name in a handshake that is no ASCII.

    CPython decodes the name before it calls a sni_callback, ends the handshake where it cannot,
    and reports that as an exception that nobody can catch: a traceback for each such hello of a
    stranger. What is left is the complaint of Entrance about the handshake, which is rationed.
    """
    before = sys.unraisablehook

    def hook(report: sys.UnraisableHookArgs) -> None:
        if not _is_of_a_name(report):
            before(report)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:      # else somebody came after us, who may call it still
            sys.unraisablehook = before


def _is_of_a_name(report: sys.UnraisableHookArgs) -> bool:
    error = report.exc_value
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "ascii":
        return False
    # The name itself stands where a report names a function; newer versions say it in words.
    return isinstance(report.object, bytes) or "servername" in (report.err_msg or "")


def _readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _load_pair(
    context: ssl.SSLContext, setting: str, cert: str, key: str | None, password: str | None
) -> None:
    _readable(setting, cert)
    if key is not None:
        _readable("ssl_keyfile" if setting == "ssl_certfile" else setting, key)
    asked = False

    def give_password() -> str:     # without one, OpenSSL would ask on the terminal
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(cert, key, give_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        _explain(error, setting, cert, key or cert, None if not asked else password or "")


def _explain(
    error: Exception, setting: str, cert: str, key: str, password: str | None
) -> NoReturn:
    """What is wrong with a certificate and its key.

    password:  what was given to OpenSSL; None: it did not ask
    """
    reason = getattr(error, "reason", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        raise ConfigError(
            f"{setting}: the key in {key} is not that of the certificate in {cert}") from None
    if password == "":
        raise ConfigError(
            f"{setting}: the key in {key} is encrypted: give ssl_keyfile_password") from None
    if password is not None:
        raise ConfigError(
            f"ssl_keyfile_password does not open the key in {key} ({reason})") from None
    if cert == key:
        what = f"{cert} holds no certificate with its key, in PEM"
    else:
        what = f"{cert} and {key} are no certificate and key, in PEM"
    raise ConfigError(f"{setting}: {what} ({reason})") from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _readable("ssl_ca_certs", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"ssl_ca_certs: {path} holds no certificates, in PEM ({error.reason})") from None
