"""What can be done to any world that runs, with a data plane or without: its faults, its time, its trace.

A part of `client.Sandbox`; the class there says how an answer is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sandbox.base import shapes
from sandbox.world.script import FaultList
from sandbox.world.steer import TimeState

T = TypeVar("T")


class Steering:
    """The requests of `world.steer`."""

    def _ask(self, answer: type[T], do: str, patience: float = 60.0, **fields: object) -> T:
        raise NotImplementedError  # client.Sandbox has it

    def ledger(self) -> list[shapes.LedgerEni]:
        """EC2's truth about ENIs: the reference for every address."""
        return self._ask(list[shapes.LedgerEni], "ledger")

    def fault(self, name: str, value: str | float | None = None) -> dict[str, str]:
        """Set a switch (`off`, 0 or an empty value clears it; None leaves it as it is); all that are set.

        Raises SandboxFailure `bad-request` naming the switch, the value and what it takes.
        """
        return self._ask(dict[str, str], "fault", name=name, value=None if value is None else str(value))

    def faults(self) -> FaultList:
        """Switches, rules in force with their hits, and steps of scripts that wait or failed."""
        return self._ask(FaultList, "faults")

    def load_faults(self, steps: str | bytes | list[dict[str, Any]]) -> list[str]:
        """A script (`world.script`), as text of a file or as Python values; ids of the steps that wait.

        Steps that are due at once and could not be done are in `faults().failures`.
        Raises SandboxFailure `bad-request` naming the step; nothing is taken in then.
        """
        text = msgspec.json.encode(steps).decode() if isinstance(steps, list) else steps
        return self._ask(list[str], "fault_load", text=text.decode() if isinstance(text, bytes) else text)

    def clear_fault(self, name: str = "*") -> FaultList:
        """A rule or step by id, a switch by name, or all; what is left. Raises SandboxFailure `unknown`."""
        return self._ask(FaultList, "fault_clear", name=name)

    def time(self, *, rate: float | None = None, advance: float = 0.0) -> TimeState:
        """The world's clock, after `rate` (its seconds per second, 0 stops it) and `advance` (seconds) are applied.

        Lags, delays, steps of scripts, tokens and request buckets follow it. Packets, processes and the kernel do not.
        """
        return self._ask(TimeState, "time", rate=rate, advance=advance)

    def trace(self, on: bool) -> Path:
        """Write each call, fault, view's change and clock step to a file from now on, or stop; the file."""
        return Path(self._ask(str, "trace", on=on))
