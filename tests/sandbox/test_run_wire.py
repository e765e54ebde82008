"""JSON lines with descriptors: whatever the other side does meanwhile."""

from __future__ import annotations

import os
import socket
from typing import Any

from sandbox.base import wire


def test_an_answer_may_come_before_the_end_of_sending() -> None:
    """The other side has read the line, answered and hung up by the time that the first call returns."""
    near, far = socket.socketpair()
    lines = wire.Lines(far)

    class Hasty(socket.socket):
        def sendmsg(self, *parts: Any) -> int:
            sent = super().sendmsg(*parts)
            assert lines.next() == b"{}\n"
            far.close()
            return sent

    with Hasty(fileno=near.detach()) as link:
        wire.send(link, b"{}\n", (0,))
    taken = lines.take_descriptors()
    assert len(taken) == 1
    os.close(taken[0])
