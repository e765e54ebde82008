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
from agent.manager.housekeeping import Housekeeping
from agent.manager.jobs import Jobs
from agent.manager.pool import Pool
from agent.manager.pool_manager import PoolManager
from agent.manager.start import Started, start
from clients.clock import Clock, SystemClock
from cni import install
from core.errors import BadSetting, EnidError
from core.settings import Settings, load

EX_CONFIG: Final = 78
SLOW_TICK_S: Final = 5.0
# A burst of ADDs becomes one EC2 call instead of several; nobody waits for the other turns.
PARKED_PAUSE_S: Final = 0.01
IDLE_PAUSE_S: Final = 0.1
INSTALL_RETRY_S: Final = 5.0
REPORT_PAUSE_S: Final = 0.5

log = logging.getLogger("enid.manager")


class Stop(Exception):
    """SIGTERM or SIGINT."""


class Manager:
    """The parts, and the loop over them."""

    def __init__(self, started: Started) -> None:
        self._tools = started.tools
        self._clock: Clock = started.tools.clock
        self._link = started.tools.link
        kube_jobs = Jobs(1, "kube")
        self._jobs = (started.tools.growth, started.tools.shrink, started.tools.checks, kube_jobs)
        pool = Pool(started.tools, started.state)
        self._pool_manager = PoolManager(started.tools, started.state, pool)
        self._audit = Audit(started.tools, started.state, pool, started.owner, started.primary)
        self._housekeeping = Housekeeping(started.tools, started.state, started.primary, started.vpc_cidrs, kube_jobs)
        self._ready = False
        self._turn_at = float("-inf")
        self._report_at = float("-inf")
        self._install_at = float("-inf")
        self._shim_installed = False
        self._conflist_installed = False
        started.tools.account.phase = "starting: EC2's word on this node's ENIs"

    def run(self) -> None:
        """For ever; ends by an exception."""
        while True:
            self.turn()
            self.wait()

    def turn(self) -> None:
        """Take in what has happened, and start what follows from it."""
        now = self._clock.now()
        if self._link.connect():
            log.info("connected to the agent")
            self._ready = False
            self._pool_manager.forget_agent()
            self._tools.account.resend()
            self._audit.resync()
            if self._audit.complete:
                self._say_ready()
        if self._link.follow():
            self._soon()
        for jobs in self._jobs:
            if jobs.settle():
                self._turn_at = float("-inf")
        if self._pool_manager.audit_wanted():
            self._audit.wanted()
        if self._tools.host.disturbed():
            self._housekeeping.check_host_now()
        self._audit.tick()
        self._housekeeping.tick()
        if self._audit.settled:
            self._say_ready()
            if now >= self._turn_at:
                self._pool_manager.turn()
                hold = self._pool_manager.hold_until
                self._turn_at = min(now + SLOW_TICK_S, hold if hold > now else float("inf"))
        self._install()
        self._report()

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
        poll.register(self._tools.host.fileno(), select.POLLIN)
        due = [now + at_most, self._audit.due_at, self._housekeeping.next_at]
        due += [now + jobs.patience for jobs in self._jobs]
        if self._audit.settled:
            due.append(self._turn_at)
        due += [at for at in (self._report_at, self._install_at) if at > now]
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

    def _install(self) -> None:
        """The shim as soon as may be; the conflist, which makes the node ready, when an address can be given."""
        now = self._clock.now()
        if now < self._install_at or (self._shim_installed and self._conflist_installed):
            return
        settings = self._tools.settings
        try:
            if not self._shim_installed:
                install.install_shim(settings)
                self._shim_installed = True
            if self._ready and self._link.total > 0:
                if install.install_conflist(settings):
                    log.info("wrote the conflist into %s", settings.cni_conf_dir)
                self._conflist_installed = True
        except EnidError as error:
            log.error("%s", self._tools.account.error(self._tools.clock.unix(), error, "install"))
            self._install_at = now + INSTALL_RETRY_S

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
