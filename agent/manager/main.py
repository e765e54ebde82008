"""The manager process: settings, start, and the one loop that owns all state.

    python -I -m agent.manager.main

The loop waits for the agent, for workers that have ended, and for the next thing that is due; then it takes in,
plans, and says. It never waits for EC2, the API server or the kernel's links itself. It ends with 78 over a bad
setting or a node that it must not take over, and with 0 at SIGTERM: pods go on, and the next start finds all.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import select
import signal
import sys
from types import FrameType
from typing import Final

from agent import control
from agent.manager import logs
from agent.manager.audit import Audit
from agent.manager.clearance import Clearance
from agent.manager.control_client import ControlClient
from agent.manager.duties import Duty
from agent.manager.host_duty import HostDuty
from agent.manager.installer import Installer
from agent.manager.intake import Intake
from agent.manager.jobs import Jobs
from agent.manager.kube_duty import KubeDuty
from agent.manager.leaks import LeakDuty
from agent.manager.pool import Pool
from agent.manager.pool_manager import PoolManager
from agent.manager.start import Started, start
from agent.manager.upkeep import Upkeep
from agent.manager.vpc_duty import VpcDuty
from clients.clock import Clock, SystemClock
from core.errors import BadSetting
from core.settings import Settings, load

EX_CONFIG: Final = 78
SLOW_TICK_S: Final = 5.0
# A burst of ADDs becomes one EC2 call instead of several; nobody waits for the other turns.
PARKED_PAUSE_S: Final = 0.01
IDLE_PAUSE_S: Final = 0.1
REPORT_PAUSE_S: Final = 0.5

log = logging.getLogger("enid.manager")


class Stop(Exception):
    """SIGTERM or SIGINT."""


class Manager:
    """The parts, and the loop over them."""

    def __init__(self, started: Started) -> None:
        tools, state = started.tools, started.state
        self._tools = tools
        self._clock: Clock = tools.clock
        self._link = tools.link
        kube_jobs = Jobs(1, "kube")
        self._jobs = (tools.growth, tools.shrink, tools.checks, tools.hosts, tools.chores, kube_jobs)
        pool = Pool(tools, state)
        self._pool_manager = PoolManager(tools, state, pool)
        self._audit = Audit(tools, state, Intake(tools, state, pool, started.owner, started.primary))
        self._upkeep = Upkeep(tools, state)
        self._host = HostDuty(tools, state, pool, started.vpc_cidrs)
        self._duties: tuple[Duty, ...] = (
            self._host,
            VpcDuty(tools, state, self._host.networks, self._audit.hint_groups),
            KubeDuty(tools, state, kube_jobs),
            LeakDuty(tools, state),
            Clearance(tools, lambda: self._ready),
            Installer(tools, lambda: self._ready and self._link.total > 0),
        )
        self._met: ControlClient | None = None
        self._ready = False
        self._turn_at = float("-inf")
        self._report_at = float("-inf")
        tools.account.phase = "starting: EC2's word on this node's ENIs"

    def run(self) -> None:
        """For ever; ends by an exception."""
        while True:
            self.turn()
            self.wait()

    def turn(self) -> None:
        """Take in what has happened, and start what follows from it."""
        now = self._clock.now()
        self._link.connect()
        # Compared, not taken from what connect() says: the start has used this link before.
        if self._link.client is not self._met:
            self._met = self._link.client
            self._meet()
        if self._link.follow():
            self._soon()
        for jobs in self._jobs:
            if jobs.settle():
                self._turn_at = float("-inf")
        if self._pool_manager.audit_wanted():
            self._audit.wanted()
        if self._tools.host.monitor.disturbed():
            self._host.disturbed()
        self._audit.tick()
        for duty in self._duties:
            duty.tick()
        self._tools.ec2.close_idle()
        if self._audit.settled:
            self._say_ready()
        if self._audit.complete and now >= self._turn_at:
            self._pool_manager.turn(may_shrink=self._audit.settled)
            self._upkeep.tick()
            self._turn_at = min(now + SLOW_TICK_S, self._pool_manager.next_at, self._upkeep.next_at)
        self._report()

    def _meet(self) -> None:
        """The connection is another one than in the last turn: nothing that was said before counts."""
        # An agent that waits for a comparison with EC2 must not be told that there has been one.
        self._ready = False
        if self._link.client is None:
            return
        log.info("connected to the agent")
        self._pool_manager.forget_agent()
        self._tools.account.resend()
        self._audit.resync()

    def _soon(self) -> None:
        pause = PARKED_PAUSE_S if self._link.parked else IDLE_PAUSE_S
        self._turn_at = min(self._turn_at, self._clock.now() + pause)

    def close(self) -> None:
        """Hang up and let idle workers go; for tests, since the process just ends."""
        self._link.close()
        for jobs in self._jobs:
            jobs.close()

    def wait(self, at_most: float = SLOW_TICK_S) -> None:
        """Until something happens or is due."""
        now = self._clock.now()
        poll = select.poll()
        for jobs in self._jobs:
            poll.register(jobs.fileno(), select.POLLIN)
        due = [now + at_most, self._audit.due_at, *(duty.next_at for duty in self._duties)]
        due += [now + jobs.patience for jobs in self._jobs]
        monitor = self._tools.host.monitor
        if monitor.listens_at <= now:
            poll.register(monitor.fileno(), select.POLLIN)
        else:
            due.append(monitor.listens_at)
        if self._audit.complete:
            due.append(self._turn_at)
        if self._report_at > now:
            due.append(self._report_at)
        if self._link.news:
            due.append(now)
        if self._link.client is None:
            due.append(self._link.next_try)
        else:
            poll.register(self._link.client.fileno(), select.POLLIN)
        # Rounded up, or the last millisecond is a busy loop.
        poll.poll(max(min(due) - now, 0.0) * 1000 + 1)

    def _say_ready(self) -> None:
        if self._ready or self._link.calls([control.Ready()]) is None:
            return
        self._ready = True
        self._tools.account.phase = "running"
        # The objects of the start live as long as the process: the collector need not look at them again.
        gc.collect()
        gc.freeze()

    def _report(self) -> None:
        now = self._clock.now()
        if now < self._report_at or self._link.client is None:
            return
        self._tools.account.facts["ec2_calls"] = self._tools.ec2.counts()
        report = self._tools.account.changed()
        if report is not None:
            self._report_at = now + REPORT_PAUSE_S
            self._link.calls([control.Report(report)])


def main() -> int:
    """The process; its exit status."""
    try:
        settings = load(os.environ)
    except BadSetting as error:
        print(f"enid manager: {error.text}; remedy: {error.remedy}", file=sys.stderr)
        return EX_CONFIG
    logs.set_up(settings.log_file, settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return _run(settings)


def _run(settings: Settings) -> int:
    for warning in settings.warnings:
        log.warning("setting %s", warning)
    try:
        Manager(start(settings, SystemClock(), random.Random())).run()
    except Stop:
        log.info("stopped")
        return 0
    except BadSetting as error:
        log.critical("%s; %s", error.text, error.details())
        print(f"enid manager: {error.text}; remedy: {error.remedy}", file=sys.stderr)
        return EX_CONFIG
    except Exception:
        log.critical("the manager ends over an error of its own", exc_info=True)
        raise
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
