"""Ends for what waits: how long this thread may go on, and a call that is cut off although its server trickles.

A time-out of a socket counts from one byte to the next, so a server that sends a byte now and then holds a call for
ever. And a worker that has been given up must not wake up later and change EC2, when nobody counts with it any more.
So each worker has a lease that every client asks before it sends, and each call a time after which its connection is
shut down. Both count real time (CLOCK_MONOTONIC), which stands still while the machine sleeps.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

RETRY_S: Final = 0.05

_local = threading.local()


class Lease:
    """How long a worker may send. `end` takes it away at once; safe to call from another thread."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until it is over; 0 or less when it is."""
        return self._until - time.monotonic()

    def end(self) -> None:
        """Over now."""
        self._until = float("-inf")


@contextmanager
def held(lease: Lease) -> Iterator[None]:
    """This thread works under `lease` until the block ends."""
    _local.lease = lease
    try:
        yield
    finally:
        _local.lease = None


def left() -> float:
    """Seconds that this thread may still go on; without a lease there is no end."""
    lease: Lease | None = getattr(_local, "lease", None)
    return float("inf") if lease is None else lease.left


class Cut:
    """One call with an end. Whoever opens its connection puts it into `connection` (an object with `sock`).

    `held_back`: set by who was about to send the request, found it too late, and did not.
    """

    def __init__(self) -> None:
        self.connection: Any = None
        self.happened = False
        self.held_back = False
        self._over = threading.Event()

    def _run(self, seconds: float) -> None:
        if self._over.wait(seconds):
            return
        self.happened = True
        # The connection may be between two of its sockets: looked at until the call has ended.
        while not self._over.wait(RETRY_S):
            sock = getattr(self.connection, "sock", None)
            if sock is not None:
                try:
                    # Not the method of an SSL socket, which another thread is reading from.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    pass


class Unbounded(OSError):
    """A call could not be given an end, so it was not begun: there is no thread for it (pids.max, RLIMIT_NPROC)."""


@contextmanager
def cut_after(seconds: float) -> Iterator[Cut]:
    """Shut the call's connection down if the block has not ended after `seconds`; its reads then end with an error.

    Raises Unbounded before the block.
    """
    cut = Cut()
    try:
        threading.Thread(target=cut._run, args=(seconds,), name="cut", daemon=True).start()
    except RuntimeError as error:
        raise Unbounded(f"no thread to end a call with: {error}") from error
    try:
        yield cut
    finally:
        cut._over.set()
