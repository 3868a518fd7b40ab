"""Gunicorn's request files, read from its sdist: what it refuses we refuse, or say why not.

The files are Gunicorn's own and stay there: they are downloaded when the test runs.
"""

import ast
import re
import subprocess
import sys
import tarfile

import pytest
import wire_cases

from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

RELEASE = "26.1.0"
COUNTS = {"invalid": 74, "valid": 63}
# Gunicorn's limits where its verdict is about them; ours are others.
LIMITS = {
    "invalid/006": {"max_target_bytes": 4000},
    "invalid/008": {"max_field_bytes": 8190},
    "invalid/010": {"max_field_bytes": 10},
    "invalid/011": {"max_headers": 2},
    "invalid/012": {"max_field_bytes": 98},
    "invalid/017": {"max_field_bytes": 8190},
    "invalid/limit_header_default_01": {"max_field_bytes": 8190},
    "valid/024": {"max_field_bytes": 2**16, "max_head_bytes": 2**20, "max_target_bytes": 2**16},
    "valid/026": {"max_field_bytes": 2**16, "max_head_bytes": 2**20},
    "valid/099": {"max_field_bytes": 2**16, "max_head_bytes": 2**20, "max_target_bytes": 2**16},
}
NO_HOST = {"valid/020"}  # HTTP/1.0; what looks like a second head is its body
# Not refused but waited for: the end of input, which is no end of a message, comes with the FIN.
WAITED_FOR = {"invalid/001", "invalid/rfc9112_chunked_missing_final_crlf_01"}
LAXER = {
    "invalid/003c": "any token is a method (RFC 9110 section 9.1), even one that begins with -",
    "invalid/019": "what proxies say of the scheme is no matter of the head's grammar",
}
FRAGMENT = "a fragment is never sent (RFC 9112 section 3.2)"
CODING = "a coding that we do not speak (RFC 9112 section 6.1)"
CODINGS = "more than one Transfer-Encoding, or one beside Content-Length (RFC 9112 section 6.3)"
SWITCH = "read by Gunicorn under a leniency switch; there is none here"
PROXY = "the PROXY protocol is read by the transport, where it was asked for"
STRICTER = {
    "valid/005": (400, FRAGMENT),
    "valid/009": (400, FRAGMENT),
    "valid/012": (400, "Content-Type in a trailer (RFC 9110 section 6.5.1)"),
    "valid/013": (400, "white space in a chunk extension (RFC 9110 section 5.6.3)"),
    "valid/025": (400, CODINGS),
    "valid/025_line": (501, CODING),
    "valid/027": (400, "bytes beyond ASCII in a target (RFC 3986 section 2)"),
    "valid/028": (400, SWITCH),
    "valid/029": (400, CODINGS),
    "valid/030": (400, CODINGS),
    "valid/040": (400, "framing spelled with an underscore"),
    "valid/040_compat": (400, SWITCH),
    "valid/compat_obs_fold": (400, SWITCH),
    "valid/compat_obs_fold_huge": (400, SWITCH),
    "valid/pp_01": (400, PROXY),
    "valid/pp_02": (400, PROXY),
    "valid/pp_04": (400, PROXY),
    "valid/pp_05": (400, PROXY),
    "valid/rfc9112_smuggle_gzip_chunked_01": (501, CODING),
    "valid/rfc9112_smuggle_te_identity_chunked_01": (501, CODING),
    "valid/rfc9112_target_absolute_userinfo_01": (400, "userinfo (RFC 9110 section 4.2.4)"),
    "valid/rfc9112_target_authority_connect_01": (501, "we are no proxy (RFC 9110 section 9.3.6)"),
    "valid/rfc9112_target_authority_ipv6_01": (501, "we are no proxy (RFC 9110 section 9.3.6)"),
}


@pytest.fixture(scope="module")
def requests(request, tmp_path_factory):
    """The files: {"invalid/001": (bytes on the wire, expected requests)}."""
    folder = tmp_path_factory.mktemp("gunicorn")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "-d", str(folder), f"gunicorn=={RELEASE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sources = list(folder.glob("*.tar.gz"))
    if not sources:
        reason = f"gunicorn {RELEASE} cannot be downloaded: {done.stderr.strip()[-200:]}"
        if request.config.getoption("--require-all"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(sources[0]) as archive:
        texts = {
            "/".join(member.name.split("/")[-2:]): archive.extractfile(member).read()
            for member in archive
            if re.search(r"/tests/requests/(in)?valid/[^/]+\.(http|py)$", member.name)
        }
    names = [name.removesuffix(".http") for name in texts if name.endswith(".http")]
    return {
        name: (on_the_wire(name, texts[f"{name}.http"]), expected(texts[f"{name}.py"]))
        for name in names
    }


def on_the_wire(name, text):
    """The notation of the files: line ends do not count, escapes do.

    Most requests lack the Host that HTTP/1.1 demands (RFC 9112 section 3.2): it is added.
    """
    data = text.replace(b"\n", b"")
    for escape, byte in ((b"\\r", b"\r"), (b"\\n", b"\n"), (b"\\0", b"\0"), (b"\\t", b"\t")):
        data = data.replace(escape, byte)
    data = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), data)
    if b"host:" not in data.lower():
        count = 0 if name in NO_HOST else -1
        data = data.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n", count)
    return data


def expected(source):
    """(method, target, body) of each request that the file's .py describes; nothing is run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Dict):
            continue
        table = {key.value: value for key, value in zip(node.keys, node.values, strict=True)}
        if "method" in table:
            target, body = table["uri"], table.get("body")
            found.append((
                table["method"].value.encode(),
                target.args[0].value.encode("latin-1", "replace"),
                body.value or b"" if isinstance(body, ast.Constant) else None,
            ))  # fmt: skip
    return found


def test_the_files_are_all_there(requests):
    """A release with other files needs another look."""
    for kind, count in COUNTS.items():
        assert sum(name.startswith(kind) for name in requests) == count


@pytest.mark.parametrize("backend", [NativeParser, HttptoolsParser])
def test_what_gunicorn_refuses_is_refused(requests, backend):
    """However it arrives."""
    for name, (data, _) in requests.items():
        if not name.startswith("invalid"):
            continue
        parser = backend(**LIMITS.get(name, {}))
        _, end = wire_cases.read_stream(parser, data)
        if name in LAXER:
            assert end is None, name
        elif name in WAITED_FOR:
            assert end == "incomplete", name
        else:
            assert isinstance(end, int), (name, data[:200])
        for cut in range(1, min(len(data), 400), 7):
            assert wire_cases.read_stream(parser, data, [cut])[1] == end, (name, cut)


@pytest.mark.parametrize("backend", [NativeParser, HttptoolsParser])
def test_what_gunicorn_accepts_is_accepted_alike_or_refused_for_a_reason(requests, backend):
    """The same methods, targets and bodies."""
    for name, (data, wanted) in requests.items():
        if not name.startswith("valid"):
            continue
        messages, end = wire_cases.read_stream(backend(**LIMITS.get(name, {})), data)
        if name in STRICTER:
            assert end == STRICTER[name][0], name
            continue
        assert not isinstance(end, int), (name, end, data[:200])
        assert len(messages) <= len(wanted), name
        for (head, body), (method, target, content) in zip(messages, wanted, strict=False):
            read = head["method"].upper() if name == "valid/031compat" else head["method"]
            assert (read, head["target"]) == (method, target), name  # there by a switch
            assert content is None or body == content, name
