"""Worker threads for what waits: EC2, the API server, IMDS, links that are to appear.

The main loop owns all state. It hands a function and what to do with the outcome to a worker; the outcome comes
back through a queue and is dealt with in the main loop, which is woken by a descriptor. So no state has a lock.

Every job ends: one that has not come back in its time is written off. Its outcome is then an error, its worker is
replaced, and its lease is over, so that it can change nothing outside any more should it ever wake up.
"""

from __future__ import annotations

import collections
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from clients.deadline import Lease, held
from core.errors import EnidError

# Longer than any step takes whose calls are bounded; what takes longer hangs where nothing bounds it.
LIMIT_S: Final = 180.0
T = TypeVar("T")


class JobOverdue(EnidError):
    """A job did not come back; what it was at may or may not have been done."""

    code = "overdue"
    remedy = "none needed: the manager asks again; if it goes on, see what the manager waits for"


@dataclass(slots=True)
class Outcome:
    """What a job came to: `value`, or the `error` it raised."""

    value: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    done: Callable[[Outcome], None]
    limit_s: float
    lease: Lease = field(default_factory=lambda: Lease(0.0))
    written_off: bool = False


class Jobs:
    """A fixed number of daemon threads. At the end of the process they just stop: the next start asks EC2 anyway."""

    def __init__(self, workers: int, name: str) -> None:
        self._name = name
        self._workers = workers
        self._numbers = 0
        self._todo: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Job] = set()
        self._finished: collections.deque[tuple[_Job, Outcome]] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for _ in range(workers):
            self._hire()

    def fileno(self) -> int:
        """Readable when a job has ended."""
        return self._wake

    def start(self, work: Callable[[], T], done: Callable[[Outcome], None], limit_s: float = LIMIT_S) -> None:
        """Run `work` in a worker, for `limit_s` of real time at most, and `done` in the thread that calls `settle`."""
        self._todo.put(_Job(work, done, limit_s))

    @property
    def patience(self) -> float:
        """Seconds until a job has to be written off, if none ends."""
        with self._lock:
            return max(min((job.lease.left for job in self._running), default=float("inf")), 0.0)

    def settle(self) -> int:
        """Deal with all jobs that have ended or are overdue; how many there were."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        count = 0
        while self._finished:
            job, outcome = self._finished.popleft()
            if not job.written_off:
                job.done(outcome)
                count += 1
        for job in self._overdue():
            self._hire()
            job.done(Outcome(error=JobOverdue(f"a job of {self._name} has not come back in {job.limit_s:g} s")))
            count += 1
        return count

    def close(self) -> None:
        """End the idle workers; what busy ones are at they end without another call to the outside."""
        for _ in range(self._workers):
            self._todo.put(None)
        with self._lock:
            for job in self._running:
                job.lease.end()
            os.close(self._wake)
            self._wake = -1

    def _hire(self) -> None:
        self._numbers += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._numbers}", daemon=True).start()

    def _overdue(self) -> list[_Job]:
        with self._lock:
            late = [job for job in self._running if job.lease.left <= 0]
            for job in late:
                job.written_off = True
                self._running.discard(job)
        return late

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            outcome = self._carry_out(job)
            with self._lock:
                self._running.discard(job)
                if job.written_off:
                    # Somebody else sits in this one's place already.
                    return
                self._finished.append((job, outcome))
                if self._wake >= 0:
                    os.eventfd_write(self._wake, 1)
            # Otherwise the last outcome lives as long as the thread is idle.
            del job, outcome

    def _carry_out(self, job: _Job) -> Outcome:
        job.lease = Lease(job.limit_s)
        with self._lock:
            self._running.add(job)
        try:
            with held(job.lease):
                return Outcome(value=job.work())
        except Exception as error:
            return Outcome(error=error)
        except BaseException as error:
            # Whatever ends a thread must not leave its job under way for ever.
            return Outcome(error=RuntimeError(f"{type(error).__name__}: {error}"))
