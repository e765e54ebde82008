"""The manager's account of itself, kept by the agent for `enid status`: targets, steps, errors, calls.

Shape (all values are text, numbers, lists and maps):

    phase         what the start is waiting for, or "running"
    instance      id, type, region, zone, node
    limits        enis, addresses_per_eni, max_pods, max_eni
    targets       warm_eni_target, warm_ip_target, minimum_ip_target, short, over
    kubernetes    "ok", or why the API server is not heard
    unmanaged     ids of ENIs that are left alone
    steps         the last ones, newest first: "12:03:04 assign 5 to eni-1: done in 120 ms"
    errors        the last ones, newest first: "12:03:04 ec2: text"
    ec2_calls     action -> outcome -> count
    warnings      settings whose values were replaced
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from core.errors import EnidError

KEPT: Final = 16
STATUS_EVERY_S: Final = 1.0


class Account:
    """Collects what goes into the report. `now` and `unix` are the two clocks' times."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.facts: dict[str, object] = {}
        self._steps: deque[str] = deque(maxlen=KEPT)
        self._errors: deque[str] = deque(maxlen=KEPT)
        self._sent: dict[str, object] | None = None

    def step(self, unix: float, what: str, outcome: str) -> None:
        """A step ended."""
        self._steps.appendleft(f"{_clock(unix)} {what}: {outcome}")

    def error(self, unix: float, error: Exception, doing: str = "") -> str:
        """Something failed; the line that was kept, for the log."""
        code = error.code if isinstance(error, EnidError) else "internal"
        text = error.text if isinstance(error, EnidError) else f"{type(error).__name__}: {error}"
        cause = f" ({error.cause})" if isinstance(error, EnidError) and error.cause else ""
        line = f"{doing}: {text}{cause}" if doing else f"{text}{cause}"
        self._errors.appendleft(f"{_clock(unix)} {code}: {line}")
        return line

    def changed(self) -> dict[str, object] | None:
        """The report, if it is another than the one that was sent."""
        report: dict[str, object] = {
            "phase": self.phase,
            **self.facts,
            "steps": list(self._steps),
            "errors": list(self._errors),
        }
        if report == self._sent:
            return None
        self._sent = report
        return report

    def resend(self) -> None:
        """The agent is a new one and knows nothing of us."""
        self._sent = None


def _clock(unix: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(unix))
