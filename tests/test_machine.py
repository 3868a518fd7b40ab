"""What is said when a server with workers starts: who, where, and within what limits."""

from __future__ import annotations

import os
import re
import sys
from types import SimpleNamespace

import pytest
from server_process import serve_in_process
from test_supervisor import APP, until

from fastserve import cpus, machine
from fastserve.config import Config
from fastserve.listeners import Listener


def said(caplog, monkeypatch, *, somaxconn=4096, workers=2, processors=(0, 1), **settings):
    """What introduce() logs on a machine like that."""
    monkeypatch.setattr(machine, "somaxconn", lambda: somaxconn)
    monkeypatch.setattr(machine, "raise_limit", lambda: 1024)
    monkeypatch.setattr(cpus, "allowed", lambda: list(processors))
    groups = [
        SimpleNamespace(listeners=[Listener(None, f"http://127.0.0.1:{port}", plain=plain)])
        for port, plain in ((8000, False), (8001, True))]
    caplog.set_level("INFO", logger="fastserve")
    machine.introduce(Config(workers=workers, **settings), workers, groups)
    return caplog.text


def test_the_limits_are_one_line(caplog, monkeypatch):
    """Files, the connections that they allow, and the queue, which the kernel may cut."""
    text = said(caplog, monkeypatch)
    assert f"supervisor {os.getpid()}: 2 workers for http://127.0.0.1:8000" in text
    assert ("1,024 open files, so 992 connections for each worker; 2,048 may wait in each queue"
            in text)
    assert "WARNING" not in text


def test_with_certificates_only_what_is_plain_is_http(caplog, monkeypatch):
    """The supervisor says the URLs that a client may use, as its workers do."""
    text = said(caplog, monkeypatch, ssl_certfile="cert.pem", ssl_keyfile="key.pem")
    assert "2 workers for https://127.0.0.1:8000, http://127.0.0.1:8001" in text


def test_fewer_connections_may_be_wanted(caplog, monkeypatch):
    """max_connections; but never more than the files allow."""
    assert "so 100 connections" in said(caplog, monkeypatch, max_connections=100)
    caplog.clear()
    assert "so 992 connections" in said(caplog, monkeypatch, max_connections=5000)


def test_a_queue_that_is_cut_is_a_warning_with_the_way_out(caplog, monkeypatch):
    """The kernel says nothing of it."""
    text = said(caplog, monkeypatch, somaxconn=128)
    assert "128 may wait in each queue" in text
    assert "backlog=2048 is cut to 128" in text
    assert "sysctl -w net.core.somaxconn=2048" in text


def test_where_the_kernel_tells_nothing_nothing_is_cut(caplog, monkeypatch):
    """As outside of Linux."""
    text = said(caplog, monkeypatch, somaxconn=None)
    assert "2,048 may wait" in text
    assert "WARNING" not in text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning is Linux's")
def test_workers_that_share_a_processor_are_told_of(caplog, monkeypatch):
    """Only where they are pinned: else the kernel shares by itself."""
    assert "WARNING" not in said(caplog, monkeypatch, workers=3)
    assert "3 workers share 2 processors" in said(caplog, monkeypatch, workers=3, pin_cpus=True)


@pytest.mark.parametrize(
    ("processors", "quota", "total", "words"),
    [
        (4, None, 4, "4 processors"),
        (1, None, 1, "1 processor"),
        (2, None, 8, "2 processors (of 8, by affinity)"),
        (8, 1.5, 8, "2 processors (of 8, by the cgroup's quota of 1.5)"),
        (1, 4.0, 8, "1 processor (of 8, by affinity)"),
    ])
def test_processors_are_told_with_what_keeps_them_few(monkeypatch, processors, quota, total, words):
    """Affinity or quota, whichever is less."""
    monkeypatch.setattr(cpus, "allowed", lambda: list(range(processors)))
    monkeypatch.setattr(cpus, "quota", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: total)
    assert cpus.explain() == words


@pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")
def test_a_server_says_it_all_when_it_starts(tmp_path):
    """Two lines of the supervisor, and one for each worker: where, its pid, its slot."""
    (tmp_path / "main.py").write_text(APP)
    with serve_in_process(tmp_path, "--workers", "2", target="main.py") as server:
        until(lambda: server.log.count("listening on") == 2)
        lines = server.log.splitlines()
    assert len(lines) == 4, lines
    assert f"supervisor {server.process.pid}: 2 workers for {server.url}" in lines[0]
    assert "limits: " in lines[1]
    found = {
        int(match[1]) for line in lines[2:]
        for match in re.finditer(rf"listening on {server.url} \(pid \d+, slot (\d)\)$", line)}
    assert found == {0, 1}
