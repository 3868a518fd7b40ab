"""What supervisor and worker tell each other."""

from __future__ import annotations

import os
import socket

import pytest

from fastserve.orders import MOST_KEPT, MOST_UNSENT, Orders


@pytest.fixture
def ends():
    ours, theirs = Orders.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(ends):
    """However many are sent before somebody reads."""
    ours, theirs = ends
    for number in range(100):
        ours.send({"order": "x" * number, "number": number})

    received = []
    while len(received) < 100:
        received += [message for message, _ in theirs.receive()]

    assert [message["number"] for message in received] == list(range(100))
    assert theirs.receive() == []


def test_sockets_travel_beside_their_message(ends):
    """Each message gets its own; a duplicate stays open when the original is closed."""
    ours, theirs = ends
    first, second = socket.socketpair()
    ours.send({"order": "none"})
    ours.send({"order": "two"}, [first, second])
    ours.send({"order": "one"}, [first])
    first.close()
    second.close()

    received = []
    while len(received) < 3:
        received += theirs.receive()

    assert [len(sockets) for _, sockets in received] == [0, 2, 1]
    one, two = received[1][1]
    one.send(b"through")
    assert two.recv(100) == b"through"
    for _, sockets in received:
        for sock in sockets:
            sock.close()


def test_the_end_of_the_other_process_is_the_end_of_the_talk(ends):
    """It is EOFError; telling the dead is not a mistake."""
    ours, theirs = ends
    theirs.close()
    ours.send({"order": "stop"})
    with pytest.raises(EOFError):
        ours.receive()


def test_who_does_not_read_is_not_waited_for(ends):
    """Sending returns at once, keeps a bounded rest, and what was kept is read later."""
    ours, theirs = ends
    for number in range(100_000):
        ours.send({"order": "y" * 50, "number": number})
    assert ours._bytes_waiting <= MOST_UNSENT

    numbers = []
    while messages := theirs.receive():
        numbers += [message["number"] for message, _ in messages]
        if ours._waiting:
            ours.send({"order": "more", "number": -1})
    wanted = [number for number in numbers if number >= 0]
    assert wanted == list(range(len(wanted)))
    assert len(wanted) > 1000


def test_sockets_of_a_message_that_has_to_wait_are_kept(ends):
    """As duplicates: the sender may close its own at once, and each arrives with its message."""
    ours, theirs = ends
    before = len(os.listdir("/proc/self/fd"))
    fill(ours)
    pairs = []
    for number in range(5):
        near, far = socket.socketpair()
        ours.send({"order": "adopt", "number": number}, [far])
        far.close()
        pairs.append(near)
    assert ours._sockets_waiting == 5

    received = {}
    while ours._waiting or len(received) < 5:
        for message, sockets in theirs.receive():
            if message["order"] == "adopt":
                received[message["number"]] = sockets
        ours.flush()

    for number, near in enumerate(pairs):
        (far,) = received[number]
        near.send(b"%d" % number)
        assert far.recv(10) == b"%d" % number
        near.close()
        far.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_more_than_some_sockets_are_kept(ends):
    """And none is left open behind the end of the talk."""
    ours, theirs = ends
    fill(ours)
    while ours._bytes_waiting > MOST_UNSENT // 2:   # room for the messages, not for their sockets
        theirs.receive()
        ours.flush()
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket() as sock:
        for _ in range(MOST_KEPT):
            ours.send({"order": "adopt"}, [sock, sock])
        assert ours._sockets_waiting == MOST_KEPT
        ours.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1   # its own


def fill(ours):
    """Send until the other end takes no more."""
    while ours._bytes_waiting < MOST_UNSENT - 1000:
        ours.send({"order": "y" * 500})
