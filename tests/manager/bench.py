"""One node for the manager's tests: EC2 and IMDS of the sandbox over HTTP, an agent in memory, managers by turns.

Only the kernel is left out (`Host`). One clock for all: the manager, EC2's lag and its states move together.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

from agent.manager import start
from agent.manager.audit import TICK_S
from agent.manager.host_network import Checked
from agent.manager.main import Manager
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.clock import SystemClock
from core.errors import HostNetworkError
from core.hostnet import LinkView, NodeRules
from core.limits import Limits
from core.nat import NatConfig
from core.settings import Settings
from sandbox.base import http as server
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds import Imds as ImdsService
from tests.manager.fake_agent import FakeAgent
from tests.sandbox.ec2_kit import START, Account, loopback, switch_to

PER_ENI = 14
# Questions to EC2 that nothing gives cause for are hours apart.
NEXT_SWEEP = 5 * 3600.0
# The metadata are looked at each minute, a tenth more or less.
NEXT_TICK = 1.11 * TICK_S
ROLE = "kubernetes.io/role/cni"
NO_MANAGE = {"node.k8s.amazonaws.com/no_manage": "true"}


class Clock(SystemClock):
    """The machine's clock, which a test can move ahead, or let run faster; naps are cut short unless it runs."""

    def __init__(self, speed: float = 1.0) -> None:
        self.ahead = 0.0
        self._speed = speed
        self._born = super().now()

    def now(self) -> float:
        real = super().now()
        return self._born + (real - self._born) * self._speed + self.ahead

    def unix(self) -> float:
        return START + self.now() - self._born

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / self._speed if self._speed > 1 else min(seconds, 0.02))


class Monitor:
    """Nobody disturbs this host, unless a test says so."""

    def __init__(self) -> None:
        self._quiet, self._other = socket.socketpair()
        self.listens_at = float("-inf")
        self.alarm = False

    def fileno(self) -> int:
        return self._quiet.fileno()

    def disturbed(self) -> bool:
        alarm, self.alarm = self.alarm, False
        return alarm

    def close(self) -> None:
        self._quiet.close()
        self._other.close()


@dataclass
class Host:
    """A host network that only remembers: places of ENIs, and rules 32765 by source. `broken`: MACs without a link."""

    links: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)  # MAC to primary address and table
    rules: dict[str, int] = field(default_factory=dict)
    node_rules: NodeRules | None = None
    nat: NatConfig | None = None
    monitor: Monitor = field(default_factory=Monitor)

    def close(self) -> None:
        self.monitor.close()

    def wait_link(self, mac: str, wait_s: float = 0.0) -> LinkView:
        if mac in self.broken:
            raise HostNetworkError(f"no link has MAC {mac}")
        if mac not in self.links:
            self.links.append(mac)
        number = self.links.index(mac)
        return LinkView(number + 2, f"ens{number + 5}", mac, 9001, True)

    def primary(self, mac: str, mtu: int) -> LinkView:
        return self.wait_link(mac)

    def set_eni(self, mac: str, mtu: int, table: int, primary_ip: str, subnet: str) -> tuple[LinkView, list[str]]:
        link = self.wait_link(mac)
        self.places[mac] = (primary_ip, table)
        self.rules[primary_ip] = table
        return link, []

    def check_enis(self, vpc_cidrs: Iterable[str]) -> Checked:
        there = {mac: place for mac, place in list(self.places.items()) if mac not in self.broken}
        wanted = dict(there.values())
        repaired = [ip for ip, table in wanted.items() if self.rules.get(ip) != table]
        self.rules = wanted
        missing = frozenset(mac for mac in self.places if mac in self.broken)
        return Checked(repaired, {mac: self.wait_link(mac) for mac in there}, missing)

    def drop_eni(self, mac: str, primary_ip: str) -> list[str]:
        self.places.pop(mac, None)
        self.rules.pop(primary_ip, None)
        return []

    def forget_eni(self, mac: str) -> None:
        self.places.pop(mac, None)

    def set_rules(self, want: NodeRules) -> list[str]:
        self.node_rules = want
        return []

    def set_nat(self, config: NatConfig) -> bool:
        changed, self.nat = self.nat != config, config
        return changed

    def link_names(self) -> list[str]:
        return [f"ens{number + 5}" for number in range(len(self.links))]

    def set_sysctls(self, primary_link: str, tcp_early_demux: bool) -> list[str]:
        return []


def until(what: str, ask: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Bench:
    """One node: EC2 and IMDS by the sandbox, an agent, and managers that come and go."""

    def __init__(self, account: Account, folder: Path, speed: float = 1.0) -> None:
        self.a = account
        self.folder = folder
        self.clock = Clock(speed)
        account.clock.now = self.clock.unix  # type: ignore[method-assign]
        self.host = Host()
        self.agent = FakeAgent(folder / "control.sock")
        service = ImdsService(account.truth, sleep=lambda seconds: None)
        address = account.node.private_ip
        self.imds = server.serve(
            loopback(), lambda request: replace(service(replace(request, peer=address)), hops=None), name="imds"
        )
        self.manager: Manager | None = None
        self.tools: Tools | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._turns = 0
        self._error: list[BaseException] = []
        self._gates: list[Gate] = []

    def settings(self, **more: Any) -> Settings:
        host: Any = self.imds.address
        defaults = {
            "cluster_name": "prod",
            "ec2_endpoint": self.a.url,
            "imds_endpoint": f"http://{host[0]}:{host[1]}",
            "http_timeout_s": 5,
        }
        return Settings(
            run_dir=str(self.folder), cni_bin_dir=str(self.folder / "bin"), cni_conf_dir=str(self.folder / "conf"),
            **{**defaults, **more},
        )  # fmt: skip

    def start(self, *, limits: Limits | None = None, seed: int = 3, **settings: Any) -> None:
        """A new manager, by the way that the process takes. `limits`: what it believes of its instance type."""
        config = self.settings(**settings)
        with contextlib.ExitStack() as replaced:
            replaced.enter_context(mock.patch.object(start, "HostNetwork", return_value=self.host))
            if limits is not None:
                replaced.enter_context(mock.patch.object(start, "shipped_limits", return_value=limits))
            started = start.start(config, self.clock, random.Random(seed))
        self.tools = started.tools
        self.manager = Manager(started)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(self.manager,))
        self._thread.start()

    def _run(self, manager: Manager) -> None:
        try:
            while not self._stop.is_set():
                manager.turn()
                self._turns += 1
                manager.wait(0.002)
        except BaseException as error:
            self._error.append(error)

    def kill(self) -> None:
        """The manager's loop ends where it is, and its workers send nothing any more, as after SIGKILL."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.manager is not None:
            self.manager.close()
            self.manager = None
            self.agent.left()
        assert self._error == []

    def restart_agent(self) -> None:
        """A new agent with the old one's journal."""
        old = self.agent
        old.stop()
        self.agent = FakeAgent(
            self.folder / "control.sock",
            enis=dict(old.enis),
            addresses=old.addresses,
            waiting=old.waiting,
            failed=old.failed,
            on_assign=old.on_assign,
        )

    def close(self) -> None:
        self.a.truth.faults.clear()
        for gate in self._gates:
            gate.open()
        self.kill()
        self.agent.stop()
        self.imds.close()
        self.host.close()

    # --- what is there ----------------------------------------------------------------------------------------

    def in_ec2(self) -> set[str]:
        """Secondary addresses of the node's ENIs by the ledger."""
        enis = self.a.truth.enis_of(self.a.node.instance_id)
        return {address for eni in enis for address in eni.addresses if address != eni.primary_ip}

    def settled(self, total: int) -> None:
        """Wait until the agent has so many open addresses, all of them EC2's."""
        until(f"{total} addresses", lambda: len(self.agent.open()) == total)
        assert self.agent.open() <= self.in_ec2()

    def served(self, seconds: float = 15.0, pace: float = 0.05) -> None:
        """Wait until every pod has an address; the clock moves on by `pace` at each look."""

        def nobody_waits() -> bool:
            self.clock.ahead += pace
            return not self.agent.waiting

        until("all pods have addresses", nobody_waits, seconds)
        assert self.agent.failed == []

    def tried_again(self, seconds: float = 30.0, pace: float = 0.05) -> None:
        """The kubelet tries again with each pod that has failed, until all have addresses."""

        def nobody_is_left() -> bool:
            self.clock.ahead += pace
            with self.agent.lock:
                again = len(self.agent.failed)
                self.agent.failed.clear()
                self.agent.add_pods(again)
                return not self.agent.waiting and not self.agent.failed

        until("all pods have addresses at last", nobody_is_left, seconds)

    def pass_time(self, seconds: float, step: float = 5.0, look: Callable[[], object] = lambda: False) -> bool:
        """Let time go by in steps, two turns or more in each; ends early, with True, when `look` is true."""
        end = self.clock.ahead + seconds
        while self.clock.ahead < end:
            self.clock.ahead += step
            self._quiet()
            if look():
                return True
        return bool(look())

    def _quiet(self) -> None:
        """Two turns, and whatever they start has come back, but for what hangs."""
        turns, end = self._turns + 2, time.monotonic() + 0.05
        while self._turns < turns or (self._at_work() and time.monotonic() < end):
            assert self._error == []
            time.sleep(0.0005)

    def _at_work(self) -> bool:
        jobs = self.manager._jobs if self.manager is not None else ()
        return any(one._running or one._todo.qsize() or one._finished for one in jobs)

    def calls(self, action: str) -> int:
        """Calls of an action that EC2 has got from this manager, whatever became of them."""
        assert self.tools is not None
        counts = self.tools.ec2.counts().get(action, {})
        return sum(number for outcome, number in counts.items() if outcome != "NotSent")

    def errors(self) -> list[str]:
        """The manager's last errors as the agent was told."""
        return cast("list[str]", self.agent.report.get("errors", []))

    def fault(self, action: str, **what: Any) -> None:
        """A rule of the sandbox; without `times` it holds until it is cleared."""
        self.a.truth.faults.add(Fault(action, **{"times": None, "status": 400, **what}))

    def tag(self, resource: str, tags: dict[str, str]) -> None:
        """Set tags, as an administrator does."""
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.a.ec2.create_tags(Resources=[resource], Tags=pairs)

    def serve(self, handler: Callable[[server.Request], server.Response]) -> None:
        """Let another handler answer for EC2."""
        switch_to(handler)

    def gate(self, thing: Any, name: str) -> Gate:
        """A gate that is open at the end of the test at the latest."""
        made = Gate(thing, name)
        self._gates.append(made)
        return made

    @property
    def known(self) -> Tools:
        """The tools of the manager that runs."""
        assert self.tools is not None
        return self.tools

    def busy(self) -> bool:
        """Whether a step of the pool is under way."""
        state = self.state
        return bool(state.creating or state.leaving) or any(m.busy for m in state.managed.values())

    @property
    def state(self) -> NodeState:
        """What the manager knows. For waiting only: what counts is what the agent and EC2 have."""
        assert self.manager is not None
        found: NodeState = self.manager._pool_manager._state
        return found

    def stranger(self, device: int, tags: dict[str, str] | None = None, **more: Any) -> str:
        """An ENI that somebody else makes and attaches."""
        spec = tag_spec(NO_MANAGE if tags is None else tags)
        eni_id = self.a.new(**({"TagSpecifications": spec} if spec else {}), **more)
        self.a.attach(eni_id, device)
        return eni_id

    def detach(self, eni_id: str) -> None:
        """Somebody takes an ENI away and deletes it."""
        attachment = self.a.truth.eni(eni_id).attachment
        assert attachment is not None
        self.a.truth.detach_eni(attachment.attachment_id)
        while self.a.truth.eni(eni_id).attachment is not None:
            self.clock.ahead += 0.1
            self.a.truth.tick()
        self.a.truth.delete_eni(eni_id)

    def second(self) -> str:
        """The id of the one secondary ENI that the agent knows."""
        (eni_id,) = [eni_id for eni_id in self.agent.enis if eni_id != self.a.eni]
        return eni_id

    def two_enis(self, **settings: Any) -> str:
        """A node whose pods fill the primary ENI and have two addresses of a second one; its id."""
        self.start(**{"warm_eni_target": 0, **settings})
        self.settled(PER_ENI)
        self.agent.add_pods(PER_ENI + 2)
        self.served()
        until("two ENIs", lambda: len(self.agent.enis) == 2)
        return self.second()

    def end_pods_on(self, eni_id: str) -> None:
        """All pods of one ENI go, without a cool-down."""
        with self.agent.lock:
            for address in self.agent.addresses.values():
                if address.eni_id == eni_id:
                    address.pod = None
            self.agent.tell()


class Gate:
    """Holds every call of a method until it is opened, as a queue, a hang or a budget would. `entered`: one is held."""

    def __init__(self, thing: Any, name: str) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        real = getattr(thing, name)

        def held(*arguments: Any, **more: Any) -> Any:
            self.entered.set()
            assert self._open.wait(60)
            return real(*arguments, **more)

        setattr(thing, name, held)

    def open(self) -> None:
        self._open.set()


def tag_spec(tags: dict[str, str]) -> list[dict[str, Any]]:
    """Tags as CreateNetworkInterface takes them."""
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": "network-interface", "Tags": pairs}] if pairs else []


def on_eni(b: Bench, eni_id: str) -> set[str]:
    """Addresses of an ENI that pods use."""
    return {base for base in b.agent.used() if b.agent.addresses[base].eni_id == eni_id}


def states(b: Bench, eni_id: str) -> set[str]:
    """States of an ENI's blocks, and its own."""
    with b.agent.lock:
        blocks = {address.state for address in b.agent.addresses.values() if address.eni_id == eni_id}
        return blocks | {b.agent.enis[eni_id].state}


def known(b: Bench) -> None:
    """Wait for the end of the start."""
    until("known", lambda: b.manager is not None and b.manager._audit.settled and b.agent.ready)
