"""The manager's account of itself, kept by the agent for `enid status`: targets, steps, errors, calls.

Shape (all values are text, numbers, lists and maps):

    phase         what the start is waiting for, or "running"
    instance      id, type, region, zone, node
    limits        enis, addresses_per_eni, max_pods, max_eni
    targets       warm_eni_target, warm_ip_target, minimum_ip_target, short, over
    kubernetes    "ok", or why the API server is not heard
    unmanaged     ids of ENIs that are left alone
    not_in_ec2    addresses and ENIs that EC2 did not show
    repairs       what others have taken away of the host's network, and was put back
    steps         the last ones, newest first: "12:03:04 assign 5 to eni-1: done in 120 ms"
    errors        the last ones, newest first: "12:03:04 ec2: text"; one that comes again is counted, "(5 times)"
    ec2_calls     action -> outcome -> count
    warnings      settings whose values were replaced
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from core.errors import EnidError

KEPT: Final = 16


class Account:
    """Collects what goes into the report. `now` and `unix` are the two clocks' times."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.facts: dict[str, object] = {}
        self._steps: deque[str] = deque(maxlen=KEPT)
        # Text to when it was said last, and how often; the one said last is at the end.
        self._errors: dict[str, tuple[float, int]] = {}
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
        # An error that goes on and on must not push out the one that it comes from.
        _, times = self._errors.pop(f"{code}: {line}", (0.0, 0))
        self._errors[f"{code}: {line}"] = (unix, times + 1)
        while len(self._errors) > KEPT:
            del self._errors[next(iter(self._errors))]
        return line

    def changed(self) -> dict[str, object] | None:
        """The report, if it is another than the one that was sent."""
        report: dict[str, object] = {
            "phase": self.phase,
            **self.facts,
            "steps": list(self._steps),
            "errors": [
                f"{_clock(unix)} {text}" + f" ({times} times)" * (times > 1)
                for text, (unix, times) in reversed(self._errors.items())
            ],
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
