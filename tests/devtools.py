"""A headless Chromium that is told what to do over the DevTools protocol."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from server_process import START_S
from websockets.sync.client import connect

FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--no-proxy-server", "--remote-debugging-port=0"),
)
ANSWER_S = 60


class Tab:
    """One page of a browser.

    events:  what the browser told of it so far, as (method, params)
    """

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._last = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "Runtime"):
            self.call(f"{domain}.enable")
        self.events.clear()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; AssertionError on an error."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self.socket.send(json.dumps(message))
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _receive(self, deadline: float) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv(deadline - time.monotonic()))
        if "method" in message and message.get("sessionId") == self._session:
            self.events.append((message["method"], message["params"]))
        return message

    def wait_for(self, method: str, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event of this kind that matches, of those so far and to come."""
        deadline = time.monotonic() + ANSWER_S
        seen = 0
        while True:
            for name, params in self.events[seen:]:
                if name == method and matches(params):
                    return params
            seen = len(self.events)
            self._receive(deadline)

    def open(self, url: str) -> None:
        """Go to an address and wait until everything on the page is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired", lambda _: True)

    def evaluate(self, script: str) -> Any:
        """The value of the body of an async function, run in the page."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def responses(self) -> dict[str, dict[str, Any]]:
        """The last response for each address, as the browser saw it."""
        return {
            params["response"]["url"]: params["response"]
            for name, params in self.events
            if name == "Network.responseReceived"
        }

    def failures(self) -> list[dict[str, Any]]:
        """Loads that the browser gave up."""
        return [params for name, params in self.events if name == "Network.loadingFailed"]

    def statuses(self, url: str) -> list[int]:
        """What the server answered for an address, where the browser's cache did not."""
        asked = {
            params["requestId"]
            for name, params in self.events
            if name == "Network.requestWillBeSent" and params["request"]["url"] == url
        }
        for name, params in list(self.events):      # what tells comes from another process
            if name == "Network.responseReceived" and params["requestId"] in asked \
                    and params["hasExtraInfo"]:
                self.wait_for("Network.responseReceivedExtraInfo",
                              lambda told, id=params["requestId"]: told["requestId"] == id)
        return [
            params["statusCode"]
            for name, params in self.events
            if name == "Network.responseReceivedExtraInfo" and params["requestId"] in asked
        ]

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an input of the page, as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self) -> None:
        """Close the page."""
        session, self._session = self._session, None
        assert session
        self.call("Target.closeTarget", targetId=self._target)


@contextlib.contextmanager
def chromium(program: str, directory: Path, *flags: str) -> Iterator[Callable[[], Tab]]:
    """A browser with a new, empty profile below a directory; yields what opens a tab."""
    profile = directory / "profile"
    profile.mkdir()
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # root has none
    command = [program, *FLAGS, *sandbox, *flags, f"--user-data-dir={profile}"]
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_address(profile, process), max_size=None, compression=None) as socket:
            yield lambda: Tab(socket)
            socket.send('{"id": 0, "method": "Browser.close"}')
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = told.read_text().split("\n") if told.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.02)
    raise AssertionError("the browser did not start")
