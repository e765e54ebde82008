"""Worker threads for what waits: EC2, the API server, IMDS, links that are to appear.

The main loop owns all state. It hands a function and what to do with the outcome to a worker; the outcome comes
back through a queue and is dealt with in the main loop, which is woken by a descriptor. So no state has a lock.
"""

from __future__ import annotations

import collections
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What a job came to: `value`, or the `error` it raised."""

    value: Any = None
    error: Exception | None = None


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    done: Callable[[Outcome], None]


class Jobs:
    """A fixed number of daemon threads. At the end of the process they just stop: the next start asks EC2 anyway."""

    def __init__(self, workers: int, name: str) -> None:
        self._todo: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._finished: collections.deque[tuple[_Job, Outcome]] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Readable when a job has ended."""
        return self._wake

    def start(self, work: Callable[[], T], done: Callable[[Outcome], None]) -> None:
        """Run `work` in a worker and `done` with its outcome in the thread that calls `settle`."""
        self._todo.put(_Job(work, done))

    def settle(self) -> int:
        """Deal with all jobs that have ended; how many there were."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        count = 0
        while self._finished:
            job, outcome = self._finished.popleft()
            job.done(outcome)
            count += 1
        return count

    def close(self) -> None:
        """End the idle workers; busy ones end with what they are at."""
        for _ in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            try:
                outcome = Outcome(value=job.work())
            except Exception as error:
                outcome = Outcome(error=error)
            self._finished.append((job, outcome))
            os.eventfd_write(self._wake, 1)
            # Otherwise the last outcome lives as long as the thread is idle.
            del job, outcome
