"""The daemon's log: JSON lines that never hold an ADD up.

A line is a list append; it is written between two batches, when the answers are out. What cannot be written (a full
file system, a pipe that nobody reads) is dropped and counted. The file is opened anew when it was moved away, and is
moved away by ourselves at 100 MB (data plane specification, section 19).
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

LEVELS: Final = {"debug": 0, "info": 1, "warn": 2, "error": 3, "fatal": 4}
MAX_SIZE: Final = 100_000_000
BACKUPS: Final = 5
MAX_LINES: Final = 10_000
# A pipe that is ready for writing takes this much without blocking (pipe(7), PIPE_BUF).
_PIECE: Final = 4096

_text = msgspec.json.Encoder().encode


class Log:
    """Collects lines; `flush` writes them. `target`: stdout, stderr or a path."""

    def __init__(self, target: str, level: str) -> None:
        self.lowest = LEVELS[level]
        self.lost = 0
        self._path = "" if target in ("stdout", "stderr") else target
        self._fd = -1 if self._path else (sys.stdout if target == "stdout" else sys.stderr).fileno()
        self._lines: list[bytes] = []
        self._second = 0
        self._prefix = ""
        self._checked = 0.0
        self._inode = 0

    @property
    def debugging(self) -> bool:
        """Whether debug lines are wanted: ask before making a costly one."""
        return self.lowest == 0

    def debug(self, caller: str, text: str) -> None:
        """For developers: every call."""
        if self.lowest <= 0:
            self._add("debug", caller, text)

    def info(self, caller: str, text: str) -> None:
        """Normal, and worth knowing."""
        if self.lowest <= 1:
            self._add("info", caller, text)

    def warn(self, caller: str, text: str) -> None:
        """Odd, and dealt with."""
        if self.lowest <= 2:
            self._add("warn", caller, text)

    def error(self, caller: str, text: str) -> None:
        """Something failed."""
        self._add("error", caller, text)

    def _add(self, level: str, caller: str, text: str) -> None:
        if len(self._lines) >= MAX_LINES:
            self.lost += 1
            return
        ns = time.time_ns()
        second, rest = divmod(ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._prefix}.{rest // 1_000_000:03d}Z"
        self._lines.append(
            b'{"level":"%b","ts":"%b","caller":%b,"msg":%b}\n'
            % (level.encode(), stamp.encode(), _text(caller), _text(text))
        )

    def flush(self) -> None:
        """Write what was collected, as far as it can be without waiting."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            if self._path:
                self._reopen()
                os.write(self._fd, b"".join(lines))
            else:
                self._pour(lines)
        except OSError:
            self.lost += len(lines)

    def close(self) -> None:
        """Write what is left; standard streams stay open."""
        self.flush()
        if self._path and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pour(self, lines: list[bytes]) -> None:
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        for line in lines:
            for at in range(0, len(line), _PIECE):
                if not room.poll(0):
                    self.lost += 1
                    break
                os.write(self._fd, line[at : at + _PIECE])

    def _reopen(self) -> None:
        now = time.monotonic()
        if self._fd >= 0 and now - self._checked < 1.0:
            return
        self._checked = now
        path = Path(self._path)
        try:
            there = path.stat()
        except OSError:
            there = None
        if there is not None and there.st_size > MAX_SIZE:
            for number in range(BACKUPS, 1, -1):
                older = Path(f"{path}.{number - 1}")
                if older.exists():
                    older.replace(f"{path}.{number}")
            path.replace(f"{path}.1")
            there = None
        if self._fd >= 0 and (there is None or there.st_ino != self._inode):
            os.close(self._fd)
            self._fd = -1
        if self._fd < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._inode = os.fstat(self._fd).st_ino
