"""Sockets that another process opened: each address finds its own, and nothing else is used."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.listeners import Heritage, open_groups

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")


def inherited(groups):
    """What a process would inherit of these groups: duplicates, by their keys."""
    return Heritage([
        (group.key, [listener.socket.dup() for listener in group.listeners]) for group in groups])


def close(groups):
    for group in groups:
        group.close()


def names(groups):
    return [[listener.socket.getsockname() for listener in group.listeners] for group in groups]


def test_each_address_has_its_own_again(tmp_path):
    """Every slot of it, also where one address is asked for twice."""
    name = f"unix:@heritage-{os.getpid()}"      # of which the whole machine has one
    config = Config(bind=("127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path}/a", name))
    first = open_groups(config)
    first[0].of(2)
    heritage = inherited(first)
    second = open_groups(config, heritage)
    assert heritage.sockets == {}
    assert names(second) == names(first)
    assert [len(group.listeners) for group in second] == [3, 1, 1, 1]
    assert [group.shared for group in second] == [False, False, True, True]
    assert len({group.key for group in second}) == 4
    assert second[0].of(3).socket.getsockname() == names(first)[0][0]    # it grows on
    for group in first:
        group.leave_file()
    close(first)
    assert os.path.exists(tmp_path / "a")
    close(second)
    assert not os.path.exists(tmp_path / "a")


def test_what_nobody_asks_for_is_closed(tmp_path):
    """And what was not inherited is opened."""
    first = open_groups(Config(bind=("127.0.0.1:0",)))
    port = names(first)[0][0][1]
    heritage = inherited(first)
    close(first)
    second = open_groups(Config(uds=str(tmp_path / "a")), heritage)
    assert list(heritage.sockets) == ["tcp:127.0.0.1:0"]
    socket.create_connection(("127.0.0.1", port), 5).close()
    heritage.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    close(second)


def test_a_unix_socket_without_its_file_is_opened_anew(tmp_path):
    """Nobody could connect to the one that is inherited."""
    config = Config(uds=str(tmp_path / "a"))
    first = open_groups(config)
    heritage = inherited(first)
    close(first)
    (tmp_path / "a").write_text("somebody else's")
    with pytest.raises(ConfigError, match="a file that is no socket"):
        open_groups(config, heritage)
    (tmp_path / "a").unlink()
    second = open_groups(config)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "a"))
    close(second)


def test_sockets_of_a_manager_are_for_who_names_no_address():
    """An address that is named is opened, and the others are left where they are."""
    sock = socket.create_server(("127.0.0.1", 0))
    heritage = Heritage(activated=[sock])
    named = open_groups(Config(bind=("127.0.0.1:0",)), heritage)
    assert heritage.activated == [sock]
    assert names(named)[0][0] != sock.getsockname()
    taken = open_groups(Config(), heritage)
    assert heritage.activated == []
    assert names(taken) == [[sock.getsockname()]]
    assert not sock.getblocking()
    close([*named, *taken])
