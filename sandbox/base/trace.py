"""What happened, one JSON line each: calls, faults that hit, changes told to views, steps of the clock.

Two runs with one seed, one script of calls and faults and a virtual clock give the same bytes; so a trace is both
the proof that a run can be repeated and the place to look for what a controller did. Keys are sorted, times are
seconds since the trace began with six decimals, and nothing that a client makes up at random goes in: a ClientToken
is written as the number of its first appearance, and signatures and dates are left out.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

Sink = Callable[[bytes], object]


class _Clock(Protocol):
    def now(self) -> float: ...


class Trace:
    """Off until it has a sink: `to` gets each line with its newline, in order."""

    def __init__(self, clock: _Clock) -> None:
        self.on = False
        self._clock = clock
        self._sink: Sink | None = None
        self._began = clock.now()
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder(order="sorted")
        self._names: dict[str, str] = {}
        self._number = 0

    def start(self, to: Sink) -> None:
        """From now on, with times counted from now."""
        with self._lock:
            self._sink, self._began, self._number = to, self._clock.now(), 0
            self._names.clear()
            self.on = True

    def stop(self) -> None:
        """No more lines."""
        with self._lock:
            self._sink, self.on = None, False

    def note(self, kind: str, **fields: object) -> None:
        """One line. `kind`: ec2, imds, fault, view, clock, foreign, script."""
        with self._lock:
            if self._sink is None:
                return
            self._number += 1
            at = round(self._clock.now() - self._began, 6)
            self._sink(self._encoder.encode({"n": self._number, "t": at, "kind": kind, **fields}) + b"\n")

    def stand_in(self, token: str) -> str:
        """The name under which a text that a client made up at random is written down."""
        with self._lock:
            return self._names.setdefault(token, f"token-{len(self._names) + 1}")


def digest(body: bytes, stand_ins: Mapping[str, str] | None = None) -> str:
    """A short mark of an answer's bytes (CRC-32), with random texts of the client replaced."""
    for text, name in (stand_ins or {}).items():
        body = body.replace(text.encode(), name.encode())
    return f"{zlib.crc32(body):08x}"
