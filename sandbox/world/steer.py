"""What can be asked of any running world, with or without a data plane: what goes wrong, the time, the trace.

As in requests.py, each public method is one request of the control socket.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec

from sandbox.base.clocks import SteeredClock
from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import LedgerEni
from sandbox.ec2.truth import Truth
from sandbox.world import place, script
from sandbox.world.script import FaultList, Script
from sandbox.world.switches import Switches


class Steerable(Protocol):
    """A world as far as this file needs it."""

    folder: Path
    clock: SteeredClock
    truth: Truth
    switches: Switches
    script: Script

    def name_by_id(self, instance_id: str) -> str: ...

    def tick(self) -> None:
        """Do what is due by the clock."""


class TimeState(msgspec.Struct, frozen=True):
    """The world's clock: `now` in seconds since 1970, `rate` in its seconds per second of the machine."""

    now: float
    rate: float


class Steer:
    """The requests. `time` moves lags, delays, tokens and buckets; packets and processes keep the kernel's time."""

    def __init__(self, world: Steerable) -> None:
        self._steered = world
        self._traced: BinaryIO | None = None

    def fault(self, name: str, value: str | None) -> dict[str, str]:
        if value is None:
            self._steered.switches.check_name(name)
        else:
            self._steered.switches.set(name, value)
        return self._steered.switches.current()

    def faults(self) -> FaultList:
        return self._steered.script.listing()

    def fault_load(self, text: str) -> list[str]:
        return self._steered.script.load(script.parse(text))

    def fault_clear(self, name: str) -> FaultList:
        self._steered.script.clear(name)
        return self._steered.script.listing()

    def time(self, rate: float | None, advance: float) -> TimeState:
        clock = self._steered.clock
        try:
            if rate is not None:
                clock.run_at(rate)
            if advance:
                clock.advance(advance)
        except ValueError as error:
            raise SandboxFailure("bad-request", f"time: {error}") from error
        self._steered.tick()
        return TimeState(round(clock.now(), 6), clock.rate)

    def trace(self, on: bool) -> str:
        """The file that is written to, or was."""
        file = self._steered.folder / place.TRACE
        self._steered.truth.trace.stop()
        if self._traced is not None:
            self._traced.close()
            self._traced = None
        if on:
            # Without a buffer: of a killed world every whole line is there.
            self._traced = cast(BinaryIO, open(file, "wb", buffering=0))  # noqa: SIM115  # closed when it is over
            self._steered.truth.trace.start(self._traced.write)
        return str(file)

    def ledger(self) -> list[LedgerEni]:
        truth = self._steered.truth
        with truth.lock:
            enis = list(truth.enis.values())
        return [
            LedgerEni(
                eni_id=eni.eni_id,
                mac=eni.mac,
                subnet_id=eni.subnet_id,
                status=eni.status,
                instance_id=eni.instance_id,
                node=self._steered.name_by_id(eni.instance_id),
                device=eni.device if eni.attachment else None,
                card=eni.card if eni.attachment else None,
                primary_ip=eni.primary_ip,
                addresses=list(eni.addresses),
                prefixes=list(eni.prefixes),
                groups=list(eni.groups),
                source_dest_check=eni.source_dest_check,
                ipv6_addresses=list(eni.ipv6_addresses),
                ipv6_prefixes=list(eni.ipv6_prefixes),
            )
            for eni in enis
        ]
