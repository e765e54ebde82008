"""The hot process: `python -I -m agent.fastpath.main`, seen as `aws-k8s-agent`.

The supervisor starts it with the listening CNI socket (descriptor ENID_LISTEN_FD) and without cloud credentials. One
thread with one loop does everything but the deletion of links. It may be killed at any point.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Final

from agent.fastpath import start
from agent.fastpath.add import Adder
from agent.fastpath.control_server import ControlServer
from agent.fastpath.delete import Deleter
from agent.fastpath.kernel import Kernel
from agent.fastpath.links import LinkWatch
from agent.fastpath.log import Log
from agent.fastpath.loop import READ, Loop, now_ns
from agent.fastpath.node import Node
from agent.fastpath.parked import ParkingLot
from agent.fastpath.reaper import Reaper
from agent.fastpath.repair import Repair
from agent.fastpath.server import Server
from agent.fastpath.spool import Spool
from agent.fastpath.verbs import Verbs
from core.errors import AlreadyRunning, BadSetting, EnidError
from core.netconf import version_of
from core.settings import Settings, load
from ext import journal, netlink

COMM: Final = "aws-k8s-agent"
EX_CONFIG: Final = 78
EX_FAILED: Final = 1
DEFAULT_LISTEN_FD: Final = 3
HOUSEKEEPING_NS: Final = 2_000_000_000


def name_itself() -> None:
    """What neighbours look for (proc(5), comm). Not being able to is no reason to fail."""
    try:
        Path("/proc/self/comm").write_text(COMM)
    except OSError:
        pass


def raise_descriptor_limit() -> None:
    """Each parked ADD holds three descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listener(environ: dict[str, str]) -> socket.socket:
    """The socket that the supervisor holds. Raises BadSetting if it is none."""
    text = environ.get("ENID_LISTEN_FD", str(DEFAULT_LISTEN_FD))
    rule = "ENID_LISTEN_FD must be the number of a listening unix socket"
    if not text.isdecimal():
        raise BadSetting(f"ENID_LISTEN_FD={text!r}: {rule}")
    fd = int(text)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise BadSetting(f"ENID_LISTEN_FD={text!r}: descriptor {fd} is no socket; {rule}")
        sock = socket.socket(fileno=fd)
        if sock.family != socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BadSetting(f"ENID_LISTEN_FD={text!r}: descriptor {fd} does not listen; {rule}")
    except (OSError, OverflowError) as error:
        raise BadSetting(f"ENID_LISTEN_FD={text!r}: {error}; {rule}") from error
    os.set_inheritable(fd, False)
    return sock


class Agent:
    """All parts, tied together. Raises EnidError, OSError, JournalError, NetlinkError if it cannot serve."""

    def __init__(self, settings: Settings, log: Log, listening: socket.socket) -> None:
        self.settings = settings
        self.log = log
        self.loop = Loop(self._broken)
        boot = start.boot_id()
        try:
            left = start.open_journal(settings.journal_dir, boot)
        except journal.InUse as error:
            raise AlreadyRunning(str(error)) from error
        host = netlink.Socket.open()
        self.reaper = Reaper(lambda text: self.log.error("reaper", text))
        # Listens before anything is dumped, so that no deletion falls between.
        self.links = LinkWatch([host, self.reaper.socket])
        self.repair = Repair([host, self.reaper.socket])
        self.node = Node(settings, log, self.loop, Kernel(host), self.reaper, left.journal, boot)
        self.reaper.start()
        start.resync(self.node, left)

        self.deleter = Deleter(self.node)
        self.spool = Spool(settings.spool_dir, log, lambda request: self.verbs.replay(request))
        self.adder = Adder(self.node, self.spool)
        self.lot = ParkingLot(self.node, self.adder.serve, lambda: self.control.flush())
        self.adder.lot = self.deleter.lot = self.lot
        self.node.room_changed = self.lot.serve
        self.verbs = Verbs(self.node, self.adder, self.deleter)
        self.control = ControlServer(self.node, self.lot, settings.control_socket)
        self.spool.prepare()
        self.spool.check()
        self.links.start(self.node)
        self.repair.start(self.node)
        self.node.moves()
        self.server = Server(self.loop, log, listening, self.verbs.handle, version_of)
        self.loop.after_batch(log.flush)
        self._signals()
        self.node.alive()
        self._housekeeping()

    def _broken(self, error: BaseException) -> None:
        """A fault of our own: told with its place, and the loop goes on."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
        self.node.note_error("loop", "internal", f"{type(error).__name__} at {where}: {error}")

    def _signals(self) -> None:
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._wake = (read, write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        self.loop.watch(read.fileno(), READ, lambda _events: self._signalled(read.recv(64)))

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.log.info("main", "told to stop")
            self.loop.stop()

    def _housekeeping(self) -> None:
        self.loop.at(now_ns() + HOUSEKEEPING_NS, self._housekeeping)
        self.server.sweep()
        self.spool.sweep()
        self.node.sweep()

    def run(self) -> None:
        """Serve until told to stop, then leave all as the next one wants to find it."""
        # What is there now stays for ever; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self.log.flush()
        self.loop.run()
        self.lot.close()
        self.server.close()
        self.control.close()
        self.links.close()
        self.repair.close()
        self.node.checkpoint.write()
        self.reaper.stop(2.0)
        self.node.journal.close()
        self.log.info("main", "stopped")
        self.log.close()


def main() -> int:
    """The exit status: 0 after SIGTERM, 78 for a bad setting, 1 for what a restart may heal."""
    name_itself()
    environ = dict(os.environ)
    try:
        settings = load(environ)
        listening = listener(environ)
    except BadSetting as error:
        for fault in error.text.split("; "):
            print(f"aws-k8s-agent: bad setting: {fault}", file=sys.stderr)
        return EX_CONFIG
    raise_descriptor_limit()
    log = Log(settings.log_file, settings.log_level)
    # The text that node monitoring counts to notice a daemon that keeps restarting.
    log.info("main", "Starting L-IPAMD: enid's agent")
    for warning in settings.warnings:
        log.warn("settings", warning)
    try:
        Agent(settings, log, listening).run()
    except (EnidError, OSError, journal.JournalError, netlink.NetlinkError) as error:
        text = f"cannot serve: {getattr(error, 'text', '') or error}"
        log.error("main", text)
        log.close()
        print(f"aws-k8s-agent: {text}", file=sys.stderr)
        return EX_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
