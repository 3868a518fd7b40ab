"""Which listener of a SO_REUSEPORT group a new connection goes to: a classic BPF program.

The kernel's own choice hashes the addresses: blind to who is alive, and uneven for the few
long-lived connections of a proxy's pool. This program draws a number instead, and only among
the slots it is given. It belongs to the group: attach it by any of its sockets; the last one
counts. Where the kernel takes none, its hash stays (Linux since 4.6; unprivileged).
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

SO_ATTACH_REUSEPORT_CBPF = 51
RANDOM = 0xFFFFF000 + 56    # SKF_AD_OFF + SKF_AD_RANDOM
LOAD, MODULO, IF_EQUAL, RETURN, RETURN_IT = 0x20, 0x94, 0x15, 0x06, 0x16
MOST_SLOTS = 1024           # the kernel takes 4,096 instructions


def program(slots: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The instructions that draw one of some slots, evenly: (code, if true, if false, k)."""
    drawn = [(LOAD, 0, 0, RANDOM), (MODULO, 0, 0, len(slots))]
    if list(slots) == list(range(len(slots))):
        return [*drawn, (RETURN_IT, 0, 0, 0)]
    for number, slot in enumerate(slots[:-1]):
        drawn += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, slot)]
    return [*drawn, (RETURN, 0, 0, slots[-1])]


def steer(member: socket.socket, slots: Sequence[int]) -> bool:
    """Send new connections of a group to some of its slots; False where the kernel does not.

    member:  any socket of the group
    slots:   indices in the order of the listen() calls; not empty
    """
    instructions = program(slots)
    code = array.array("B", b"".join(struct.pack("=HBBI", *one) for one in instructions))
    filter_program = struct.pack("@HP", len(instructions), code.buffer_info()[0])
    try:
        member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter_program)
    except OSError:
        return False
    return True
