"""Chromium, headless, and files: a static page, its cache, ranges, forms; TCP and TLS."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from devtools import Tab, chromium
from files_app import CONTENTS, SCRIPT, SECONDS
from server_process import ServerProcess, serve_files, tls_flags

MIDDLE = CONTENTS["middle.bin"]
LARGE = CONTENTS["large.bin"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[dict[str, ServerProcess]]:
    """One over TCP and one over TLS, for all the tests of this module."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in ("tcp", "tls"):
            directory = tmp_path_factory.mktemp(kind)
            flags = tls_flags(directory) if kind == "tls" else ()
            servers[kind] = stack.enter_context(serve_files(directory, *flags))
        yield servers


@pytest.fixture(scope="module")
def browser(needs, servers, tmp_path_factory):
    """A browser that trusts the certificate of the second; opens tabs."""
    certificate = x509.load_pem_x509_certificate(Path(servers["tls"].certificate).read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    with chromium(
        needs("chromium"), tmp_path_factory.mktemp("chromium"),
        f"--ignore-certificate-errors-spki-list={pin}",
    ) as open_tab:
        yield open_tab


@pytest.fixture(params=["tcp", "tls"])
def base(request, servers) -> str:
    """The URL of the directory of files."""
    return f"{servers[request.param].url}/files"


@pytest.fixture
def tab(browser, base) -> Iterator[Tab]:
    """A tab that shows the static page, and has nothing in its cache but that."""
    tab = browser()
    tab.call("Network.clearBrowserCache")
    tab.open(f"{base}/page.html")
    yield tab
    tab.close()


def test_a_static_page_is_shown(tab, base):
    """With its style, its precompressed script and its picture, over HTTP/1.1."""
    found = tab.evaluate("""
        await new Promise(done => requestAnimationFrame(done));
        return [
            getComputedStyle(document.getElementById("styled")).color,
            window.scripted,
            document.getElementById("dot").naturalWidth,
            isSecureContext,
        ];
    """)
    assert found == ["rgb(1, 2, 3)", "a page", 1, True]
    responses = tab.responses()
    for name in ("page.html", "page.css", "page.js", "dot.png"):
        response = responses[f"{base}/{name}"]
        assert (response["status"], response["protocol"]) == (200, "http/1.1"), name
    headers = {k.lower(): v for k, v in responses[f"{base}/page.js"]["headers"].items()}
    assert headers["content-encoding"] in ("br", "gzip")
    if base.startswith("https:"):
        assert responses[f"{base}/page.html"]["securityDetails"]["protocol"] == "TLS 1.3"
    assert tab.failures() == []


def test_a_page_that_is_shown_again_is_not_sent_again(tab, base):
    """A reload, and a fetch that insists, ask by ETag and are told 304."""
    tab.events.clear()
    tab.call("Page.reload")
    tab.wait_for("Page.loadEventFired", lambda _: True)
    assert tab.statuses(f"{base}/page.html") == [304]
    tab.events.clear()
    text = tab.evaluate('return await (await fetch("page.js", {cache: "no-cache"})).text()')
    assert text.encode() == SCRIPT
    assert tab.statuses(f"{base}/page.js") == [304]


def test_files_are_fetched_whole_and_in_part(tab):
    """10 MiB compared by their digest; one range, several, and what is beyond the end."""
    found = tab.evaluate("""
        const body = await (await fetch("large.bin")).arrayBuffer();
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
        const ask = range => fetch("middle.bin", {headers: {range}, cache: "no-store"});
        const one = await ask("bytes=1000-1009");
        const several = await ask("bytes=0-9,500-599");
        return [
            [...digest], one.status, [...new Uint8Array(await one.arrayBuffer())],
            several.status, several.headers.get("content-type").split(";")[0],
            (await ask("bytes=99999999-")).status,
            (await fetch("nothing")).status,
        ];
    """)
    assert found == [
        list(hashlib.sha256(LARGE).digest()), 206, list(MIDDLE[1000:1010]),
        206, "multipart/byteranges", 416, 404]


def test_sound_is_played_from_the_middle(tab, base):
    """A media element asks for ranges and can seek, which it cannot without them."""
    tab.events.clear()
    found = tab.evaluate(f"""
        const sound = new Audio("sound.wav");
        sound.preload = "auto";
        await new Promise((done, failed) => {{
            sound.oncanplay = done;
            sound.onerror = () => failed(sound.error.message);
        }});
        sound.currentTime = {SECONDS - 5};
        await new Promise(done => {{ sound.onseeked = done; }});
        return [Math.round(sound.duration), sound.currentTime, sound.seekable.end(0) > 100];
    """)
    assert found == [SECONDS, SECONDS - 5, True]
    assert set(tab.statuses(f"{base}/sound.wav")) == {206}


def test_a_form_is_submitted_with_a_file(tab, tmp_path):
    """The file that a user chose arrives byte for byte, under its name."""
    path = tmp_path / "caf\u00e9 ;.bin"
    path.write_bytes(MIDDLE)
    tab.choose_file("#file", path)
    tab.events.clear()
    tab.evaluate('document.getElementById("form").submit()')
    tab.wait_for("Page.loadEventFired", lambda _: True)
    shown = json.loads(tab.evaluate("return document.body.textContent"))
    digest = hashlib.sha256(MIDDLE).hexdigest()
    assert shown == {
        "title": ["a b&c"],
        "file": [[path.name, "application/octet-stream", len(MIDDLE), digest]],
    }


def test_a_large_upload_is_counted(tab):
    """10 MiB by fetch(), and a FormData with a file, over one server."""
    found = tab.evaluate("""
        const body = await (await fetch("large.bin")).blob();
        const counted = await (await fetch("/count", {method: "POST", body})).json();
        const form = new FormData();
        form.append("file", body, "large.bin");
        const shown = await (await fetch("/form", {method: "POST", body: form})).json();
        return [counted.sha256, shown.file[0][3]];
    """)
    assert found == [hashlib.sha256(LARGE).hexdigest()] * 2
