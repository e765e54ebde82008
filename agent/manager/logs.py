"""The manager's log: JSON lines of the existing system's form, in the same file as the agent's.

The agent moves the file away when it is large; the handler notices that and opens it anew. Where the file cannot be
opened the log goes to standard error, which is where a container's log is read anyway.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path
from typing import Final

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
NAMES: Final = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error"}


class JsonLines(logging.Formatter):
    """`level`, `ts`, `caller`, `msg`, as the data plane specification, 19, has them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback goes into `stack`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {
            "level": NAMES.get(record.levelno, "fatal"),
            "ts": stamp,
            "caller": f"{record.module}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def set_up(target: str, level: str) -> None:
    """Send everything of `enid.*` to `target`: stdout, stderr or a path."""
    handler: logging.Handler
    problem = ""
    if target in ("stdout", "stderr"):
        handler = logging.StreamHandler(sys.stdout if target == "stdout" else sys.stderr)
    else:
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.WatchedFileHandler(target, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            problem = f"the log file {target} cannot be written: {error}"
            handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger("enid")
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(LEVELS.get(level, logging.ERROR))
    if problem:
        root.warning("%s", problem)
