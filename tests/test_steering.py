"""Which listener of a SO_REUSEPORT group gets a connection, by a program in the kernel."""

from __future__ import annotations

import collections
import select
import socket
import sys

import pytest

from fastserve.steering import MOST_SLOTS, program, steer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the program is for Linux")


@pytest.fixture
def group():
    """Five listeners of one port."""
    listeners = []
    port = 0
    for _ in range(5):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1024)
        port = sock.getsockname()[1]
        listeners.append(sock)
    yield listeners
    for sock in listeners:
        sock.close()


def counts(group, connections):
    """How many of so many new connections each listener got."""
    where = group[0].getsockname()
    clients = [socket.create_connection(where) for _ in range(connections)]
    got = collections.Counter()
    for _ in clients:
        ready, _, _ = select.select(group, [], [], 5)
        ready[0].accept()[0].close()
        got[group.index(ready[0])] += 1
    for client in clients:
        client.close()
    return got


@pytest.mark.parametrize("slots", [[0], [4], [1, 3], [0, 1, 2], [0, 1, 2, 3, 4], [0, 2, 3, 4]])
def test_connections_go_to_the_slots_that_were_named(group, slots):
    """Each of them gets some, and nobody else any: with 100 each, chance is out of the game."""
    assert steer(group[2], slots)

    got = counts(group, 100 * len(slots))

    assert sorted(got) == slots
    assert min(got.values()) > 30


def test_the_last_program_counts(group):
    """Attached by any socket of the group, again and again."""
    for slot in (3, 1, 4):
        assert steer(group[slot - 1], [slot])
        assert sorted(counts(group, 20)) == [slot]


def test_the_largest_program_is_taken(group):
    """The kernel's limit of instructions is beyond the limit of slots."""
    slots = list(range(1, MOST_SLOTS + 1))
    assert len(program(slots)) <= 4096
    assert steer(group[0], slots)


def test_where_the_kernel_takes_no_program_that_is_said():
    """A unix socket has no such group."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert not steer(sock, [0])
