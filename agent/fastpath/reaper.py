"""Deletes the links of gone pods, many at once: the hot process's one native thread.

The kernel makes every RTM_DELLINK wait for RCU, 15 to 24 ms, and two hundred of them together 100 ms; so DEL only
sets a link down, and this thread deletes what has gathered, without the interpreter lock. The kernel holds its lock
for those 15 ms and more, and an ADD or DEL that comes meanwhile waits for all of them. So links gather while calls keep
coming, and are deleted 50 ms after the last one; half a second after the first at the latest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from agent.fastpath.loop import now_ns
from ext import netlink

GATHER_S: Final = 0.05
LONGEST_S: Final = 0.5
AGAIN_S: Final = 1.0
# The kernel's lock is held for the whole group: a bound on how long an ADD may wait behind it.
MOST: Final = 256


def gather_s(now_ns: int, began_ns: int, called_ns: int, waiting: int) -> float:
    """How long to wait for more links, in seconds; 0: delete what is there.

    `began_ns`: when the first came; `called_ns`: the last ADD or DEL.
    """
    left_s = LONGEST_S - (now_ns - began_ns) / 1e9
    noisy_s = GATHER_S - (now_ns - called_ns) / 1e9
    return max(0.0, min(left_s, noisy_s)) if waiting < MOST else 0.0


class Reaper(threading.Thread):
    """`put` links that are down and belong to nobody; they will be gone. Threads may call anything here."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        """Opens a socket in the caller's network namespace. `failed` is called in this thread."""
        super().__init__(name="reaper", daemon=True)
        self.socket = netlink.Socket.open()
        self._failed = failed
        self._lock = threading.Condition()
        self._waiting: list[int] = []
        self._pending: set[int] = set()
        self._hurry = False
        self._stopping = False
        self._called_ns = 0
        self._stop_gathering = threading.Event()

    def __contains__(self, index: int) -> bool:
        return index in self._pending

    def __len__(self) -> int:
        """Links that are not gone yet."""
        return len(self._pending)

    def called(self) -> None:
        """An ADD or DEL is being served, and the next one may follow at once."""
        self._called_ns = now_ns()

    def put(self, index: int) -> None:
        """Delete this link soon."""
        with self._lock:
            if index not in self._pending:
                self._pending.add(index)
                self._waiting.append(index)
                self._lock.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Do it now, and wait until all that were put before are gone; False if they are not in time."""
        with self._lock:
            wanted = set(self._pending)
            self._hurry = True
            self._stop_gathering.set()
            self._lock.notify_all()
            return self._lock.wait_for(lambda: not wanted & self._pending, timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Delete what is left and end the thread."""
        with self._lock:
            self._stopping = True
            self._stop_gathering.set()
            self._lock.notify_all()
        self.join(timeout_s)
        if not self.is_alive():
            self.socket.close()

    def _gather(self) -> None:
        began_ns = now_ns()
        while (wait_s := gather_s(now_ns(), began_ns, self._called_ns, len(self._waiting))) > 0:
            if self._stop_gathering.wait(wait_s):
                return

    def _take_out(self, batch: list[int]) -> list[int]:
        """Delete them; those that could not be. One that the kernel refuses must not keep the others."""
        try:
            netlink.set_group_and_delete(self.socket, batch)
            return []
        except Exception as error:
            self._failed(f"{len(batch)} links could not be deleted together: {type(error).__name__}: {error}")
        left = []
        for index in batch:
            try:
                self.socket.apply([netlink.link_del(index)])
            except Exception as error:
                self._failed(f"link {index} could not be deleted: {type(error).__name__}: {error}")
                left.append(index)
        return left

    def run(self) -> None:
        """The thread."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                hurried = self._hurry or self._stopping
            if not hurried:
                self._gather()
            with self._lock:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                if not self._waiting:
                    self._hurry = False
                    self._stop_gathering.clear()
            left = self._take_out(batch)
            with self._lock:
                self._pending.difference_update(set(batch).difference(left))
                self._waiting += left
                self._lock.notify_all()
                if self._stopping and len(self._waiting) == len(left):
                    return
            if left:
                # What cannot be deleted is tried again for ever, but at leisure.
                self._stop_gathering.wait(AGAIN_S)
