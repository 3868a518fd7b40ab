"""Chromium, headless, against a real server process."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pytest
from clients_app import MIB, TAG, content
from devtools import Tab, chromium
from server_process import ServerProcess, serve_in_process


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServerProcess]:
    """A server for all the tests of this module."""
    with serve_in_process(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def browser(needs, tmp_path_factory):
    """A browser for all the tests of this module; opens tabs."""
    with chromium(needs("chromium"), tmp_path_factory.mktemp("chromium")) as open_tab:
        yield open_tab


@pytest.fixture
def tab(browser, served) -> Iterator[Tab]:
    """A tab that shows the page of the application."""
    tab = browser()
    tab.call("Network.clearBrowserCookies")
    tab.call("Network.clearBrowserCache")
    tab.open(f"{served.url}/page")
    yield tab
    tab.close()


def test_a_page_comes_with_its_style_script_and_picture(tab, served):
    """Everything that the page names is loaded, used, and came over HTTP/1.1."""
    found = tab.evaluate("""
        await new Promise(done => requestAnimationFrame(done));
        return {
            colour: getComputedStyle(document.getElementById("styled")).color,
            scripted: window.scripted,
            width: document.getElementById("dot").naturalWidth,
        };
    """)
    assert found == {"colour": "rgb(1, 2, 3)", "scripted": "a page", "width": 1}
    responses = tab.responses()
    for path in ("/page", "/page.css", "/page.js", "/dot.png"):
        response = responses[served.url + path]
        assert (response["status"], response["protocol"]) == (200, "http/1.1"), path
    assert tab.failures() == []


def test_fetch_has_every_method(tab):
    """Bodies and statuses arrive as they were sent, whatever the method."""
    found = tab.evaluate("""
        const found = {};
        for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE"]) {
            const body = method === "GET" ? undefined : "body of " + method;
            const seen = await (await fetch("/seen", {method, body})).json();
            found[method] = [seen.method, seen.body];
        }
        const head = await fetch("/large/1000", {method: "HEAD"});
        found.HEAD = [head.headers.get("content-length"), await head.text()];
        found.json = await (await fetch("/echo", {
            method: "POST", body: JSON.stringify({a: ["ü"]}),
            headers: {"content-type": "application/json"},
        })).json();
        found.nothing = (await fetch("/nothing")).status;
        found.missing = (await fetch("/nowhere")).status;
        found.redirected = (await fetch("/redirect/3")).url.endsWith("/");
        found.zipped = (await (await fetch("/zipped")).text()).length;
        return found;
    """)
    assert found == {
        "GET": ["GET", ""],
        **{method: [method, f"body of {method}"] for method in ("POST", "PUT", "PATCH", "DELETE")},
        "HEAD": ["1000", ""],
        "json": {"a": ["ü"]},
        "nothing": 204,
        "missing": 404,
        "redirected": True,
        "zipped": 7000,
    }


def test_large_bodies_go_both_ways_whole(tab):
    """Two MiB down and up again, compared by their digest."""
    found = tab.evaluate(f"""
        const body = await (await fetch("/large/{2 * MIB}")).arrayBuffer();
        const answer = await fetch("/count", {{method: "PUT", body}});
        return await answer.json();
    """)
    assert (found["size"], found["sha256"]) == (
        2 * MIB, hashlib.sha256(content(2 * MIB)).hexdigest())


def test_a_refused_upload_is_read(tab):
    """fetch() resolves with the 413 instead of failing on a reset connection."""
    statuses = tab.evaluate("""
        const statuses = [];
        for (let i = 0; i < 5; i++) {
            const body = new Uint8Array(200000);
            statuses.push((await fetch("/small", {method: "POST", body})).status);
        }
        return statuses;
    """)
    assert statuses == [413] * 5


def test_a_form_is_submitted(tab, served):
    """A form's submission is a navigation, with its fields encoded by the browser."""
    tab.events.clear()
    tab.evaluate('document.getElementById("form").submit()')
    tab.wait_for("Page.loadEventFired", lambda _: True)
    shown = tab.evaluate("return JSON.parse(document.body.textContent)")
    assert (shown["method"], shown["body"]) == ("POST", "first=a+b%26c&second=%C3%BC")
    assert ["content-type", "application/x-www-form-urlencoded"] in shown["headers"]


def test_a_form_carries_a_file(tab):
    """FormData with a file arrives as multipart/form-data, byte for byte."""
    file = content(3000)
    seen = tab.evaluate(f"""
        const bytes = Uint8Array.from(atob("{base64.b64encode(file).decode()}"),
                                      letter => letter.charCodeAt(0));
        const form = new FormData();
        form.append("field", "value");
        form.append("file", new File([bytes], "ü.bin", {{type: "application/x-thing"}}));
        return await (await fetch("/seen", {{method: "POST", body: form}})).json();
    """)
    kind = dict(seen["headers"])["content-type"]
    assert kind.startswith("multipart/form-data; boundary=")
    body = seen["body"].encode("latin-1")
    assert body.count(b"--" + kind.partition("boundary=")[2].encode()) == 3
    assert b'name="field"\r\n\r\nvalue\r\n' in body
    assert b"Content-Type: application/x-thing\r\n\r\n" + file + b"\r\n" in body


def test_cookies_are_kept_and_sent(tab):
    """Set-Cookie fills the jar, HttpOnly stays out of the script's sight, deletion works."""
    found = tab.evaluate("""
        const json = async path => await (await fetch(path)).json();
        return [
            await json("/cookies/set?a=1&hidden=2"),
            document.cookie,
            await json("/cookies/delete/a"),
            document.cookie,
        ];
    """)
    assert found == [{"a": "1", "hidden": "2"}, "a=1", {"hidden": "2"}, ""]


def test_the_connection_is_kept(tab, served):
    """Thirty requests one behind the other use connections that are there already."""
    tab.events.clear()
    ports = tab.evaluate("""
        const ports = [];
        for (let i = 0; i < 10; i++) {
            ports.push((await (await fetch("/seen?" + i)).json()).port);
            await (await fetch("/nowhere?" + i)).text();
            await (await fetch("/seen?post" + i, {method: "POST", body: "x"})).json();
        }
        return ports;
    """)
    assert len(set(ports)) == 1
    responses = tab.responses()
    assert len(responses) == 30
    assert all(response["connectionReused"] for response in responses.values())


def test_what_is_known_is_asked_again_by_its_tag(tab, served):
    """The browser's cache sends If-None-Match, understands the 304 and has its body."""
    fetch_it = 'return await (await fetch("/tagged")).text()'
    assert tab.evaluate(fetch_it) == "the body behind the tag"
    tab.events.clear()
    assert tab.evaluate(fetch_it) == "the body behind the tag"
    # What tells comes from another process: that of the first request may come behind clear().
    tab.wait_for("Network.requestWillBeSentExtraInfo",
                 lambda sent: sent["headers"].get("If-None-Match") == TAG)
    tab.wait_for("Network.responseReceivedExtraInfo", lambda got: got["statusCode"] == 304)


def test_a_stream_is_read_as_it_is_made(tab):
    """The reader has the first line while the handler waits for the page's next request."""
    found = tab.evaluate("""
        const reader = (await fetch("/gated/browser")).body.getReader();
        const text = piece => new TextDecoder().decode(piece.value);
        const first = text(await reader.read());
        await fetch("/release/browser", {method: "POST"});
        const second = text(await reader.read());
        return [first, second, (await reader.read()).done];
    """)
    assert found == ["first\n", "second\n", True]


def test_streams_are_whole_or_an_error(tab):
    """Chunked, sized and trailed bodies are complete; one that is cut rejects its promise."""
    found = tab.evaluate("""
        const sizes = [];
        for (const stream of ["stream", "stream-sync", "stream-sized", "trailed"])
            sizes.push((await (await fetch(`/${stream}/300000`)).arrayBuffer()).byteLength);
        const cut = await fetch("/cut").then(answer => answer.text()).catch(error => error.name);
        const hinted = await (await fetch("/hinted")).text();
        return [sizes, cut, hinted];
    """)
    assert found == [[300_000] * 4, "TypeError", "at last"]


def test_events_arrive(tab):
    """EventSource reads a stream of events."""
    found = tab.evaluate("""
        const source = new EventSource("/events");
        const seen = [];
        source.onmessage = event => seen.push([event.lastEventId, event.data]);
        await new Promise(done => source.addEventListener("end", done));
        source.close();
        return seen;
    """)
    assert found == [[str(i), f"number {i}"] for i in range(3)]


def test_a_generator_ends_when_the_page_leaves(tab, served):
    """Navigating away closes what the page was still reading."""
    tab.evaluate('await (await fetch("/endless/browser")).body.getReader().read()')
    tab.open(f"{served.url}/page")
    assert tab.evaluate("""
        for (let i = 0; i < 500; i++) {
            if (await (await fetch("/left/browser")).json()) return true;
            await new Promise(done => setTimeout(done, 20));
        }
    """)


def test_many_fetches_at_once(tab):
    """A hundred at once, over the six connections that a browser opens."""
    found = tab.evaluate("""
        const all = [...Array(100).keys()];
        const sizes = await Promise.all(all.map(
            async i => (await (await fetch("/large/" + (1000 + i))).arrayBuffer()).byteLength));
        const ports = await Promise.all(all.map(
            async i => (await (await fetch("/seen?" + i)).json()).port));
        return [sizes, new Set(ports).size];
    """)
    assert found[0] == [1000 + i for i in range(100)]
    assert 1 <= found[1] <= 6


def test_what_is_aborted_harms_nobody(tab):
    """Fetches that are given up half way leave a server that answers the next."""
    found = tab.evaluate("""
        for (let i = 0; i < 10; i++) {
            const control = new AbortController();
            const answer = await fetch("/large/5000000", {signal: control.signal});
            await answer.body.getReader().read();
            control.abort();
        }
        return await (await fetch("/")).text();
    """)
    assert found == "Hello, World!"


def test_a_websocket_is_refused(tab):
    """A plain route answers 200 to a handshake: the browser sees an error, nothing hangs."""
    found = tab.evaluate("""
        const socket = new WebSocket(location.origin.replace("http", "ws") + "/");
        const closed = await new Promise(done => { socket.onclose = done; });
        return [closed.code, await (await fetch("/")).text()];
    """)
    assert found == [1006, "Hello, World!"]


def test_a_beacon_is_sent(tab):
    """navigator.sendBeacon, whose answer nobody reads, gets one."""
    tab.events.clear()
    assert tab.evaluate('return navigator.sendBeacon("/echo", "a beacon")')
    response = tab.wait_for(
        "Network.responseReceived", lambda params: params["response"]["url"].endswith("/echo"))
    assert response["response"]["status"] == 200
