"""The whole manager against the sandbox's EC2 and IMDS over HTTP and an agent in memory: only the kernel is left out.

Compared at the end of each test: what the agent may hand out is what EC2's ledger says, and no limit is broken.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.manager.agent_link import AgentLink
from agent.manager.enis import EniSteps, Owner
from agent.manager.host_network import HostNetwork
from agent.manager.jobs import Jobs
from agent.manager.main import Manager
from agent.manager.report import Account as Report
from agent.manager.start import Started
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.clock import SystemClock
from clients.ec2 import Ec2
from clients.imds import Imds
from core.errors import HostNetworkError
from core.hostnet import LinkView, NodeRules
from core.nat import NatConfig
from core.settings import Settings
from sandbox import http as server
from sandbox.faults import Fault
from sandbox.imds import Imds as ImdsService
from tests.sandbox.ec2_kit import Account, check, loopback, make_account
from tests.sandbox.fake_agent import FakeAgent

PER_ENI = 14


class Clock(SystemClock):
    """The machine's clock, which a test can move ahead; naps are cut short."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


@dataclass
class Host:
    """A host network that only remembers. `broken`: MACs of links that do not come."""

    links: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    rules: NodeRules | None = None
    nat: NatConfig | None = None

    def __post_init__(self) -> None:
        self._quiet, self._other = socket.socketpair()

    def fileno(self) -> int:
        return self._quiet.fileno()

    def disturbed(self) -> bool:
        return False

    def close(self) -> None:
        self._quiet.close()
        self._other.close()

    def wait_link(self, mac: str, wait_s: float = 0.0) -> LinkView:
        if mac in self.broken:
            raise HostNetworkError(f"no link with MAC {mac}")
        if mac not in self.links:
            self.links.append(mac)
        number = self.links.index(mac)
        return LinkView(number + 2, f"ens{number + 5}", mac, 9001, True)

    def primary(self, mac: str, mtu: int) -> LinkView:
        return self.wait_link(mac)

    def set_eni(self, mac: str, mtu: int, table: int, primary_ip: str, subnet: str) -> tuple[LinkView, list[str]]:
        return self.wait_link(mac), []

    def drop_eni(self, primary_ip: str) -> list[str]:
        return []

    def set_rules(self, want: NodeRules) -> list[str]:
        self.rules = want
        return []

    def set_nat(self, config: NatConfig) -> bool:
        changed, self.nat = self.nat != config, config
        return changed

    def set_sysctls(self, primary_link: str, tcp_early_demux: bool) -> list[str]:
        return []


def until(what: str, ask: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Bench:
    """One node: EC2 and IMDS by the sandbox, an agent, and managers that come and go."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.a = account
        self.folder = folder
        self.clock = Clock()
        self.host = Host()
        self.agent = FakeAgent(folder / "control.sock")
        service = ImdsService(account.truth, sleep=lambda seconds: None)
        address = account.node.private_ip
        self.imds = server.serve(
            loopback(), lambda request: replace(service(replace(request, peer=address)), hops=None), name="imds"
        )
        self.manager: Manager | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: list[BaseException] = []

    def settings(self, **more: Any) -> Settings:
        return Settings(
            run_dir=str(self.folder), cni_bin_dir=str(self.folder / "bin"), cni_conf_dir=str(self.folder / "conf"),
            cluster_name="prod", **more,
        )  # fmt: skip

    def start(self, **settings: Any) -> None:
        """A new manager, as after a start of the process."""
        config = self.settings(**settings)
        host: Any = self.imds.address
        imds = Imds(f"http://{host[0]}:{host[1]}", 5.0, self.clock, random.Random(1))
        identity = imds.identity()
        ec2 = Ec2(identity.region, endpoint=self.a.url, timeout=5, clock=self.clock, rng=random.Random(2))
        limits = ec2.limits(identity.instance_type)
        state = NodeState(identity, limits, limits.addresses_per_eni, limits.enis)
        state.subnets = ec2.subnets(identity.vpc_id, identity.zone)
        owner = Owner(identity.instance_id, "prod", {})
        rng = random.Random(3)
        tools = Tools(
            settings=config,
            imds=imds,
            ec2=ec2,
            steps=EniSteps(ec2, owner, self.clock, rng),
            host=cast("HostNetwork", self.host),
            link=AgentLink(str(self.folder / "control.sock"), self.clock),
            clock=self.clock,
            rng=rng,
            account=Report(),
            growth=Jobs(3, "growth"),
            shrink=Jobs(2, "shrink"),
            checks=Jobs(2, "checks"),
        )
        primary = self.host.primary(identity.mac, 9001)
        self.manager = Manager(Started(tools, state, owner, primary, imds.vpc_cidrs(identity.mac)))
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(self.manager,))
        self._thread.start()

    def _run(self, manager: Manager) -> None:
        try:
            while not self._stop.is_set():
                manager.turn()
                manager.wait(0.02)
        except BaseException as error:
            self._error.append(error)

    def kill(self) -> None:
        """The manager's loop ends where it is; what its workers are at goes on or not, as after SIGKILL."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.manager is not None:
            self.manager.close()
            self.manager = None
        assert self._error == []

    def restart_agent(self) -> None:
        """A new agent with the old one's journal."""
        old = self.agent
        old.stop()
        self.agent = FakeAgent(
            self.folder / "control.sock", enis=dict(old.enis), addresses=old.addresses, waiting=old.waiting
        )

    def close(self) -> None:
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


@pytest.fixture
def b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    account = make_account()
    account.truth.delays.attach = account.truth.delays.detach = 0.0
    made = Bench(account, tmp_path)
    yield made
    made.close()
    check(account.truth)


def test_start_of_a_fresh_node(b: Bench) -> None:
    b.start()
    b.settled(PER_ENI)
    until("ready", lambda: b.agent.ready)
    (eni,) = b.agent.enis.values()
    truth = b.a.truth.eni(b.a.eni)
    assert (eni.eni_id, eni.primary, eni.table, eni.mac) == (b.a.eni, True, 254, truth.mac)
    assert (eni.primary_ip, eni.subnet_gateway, eni.ifname) == (truth.primary_ip, "10.0.0.1", "ens5")
    until("conflist", (b.folder / "conf" / "10-aws.conflist").exists)
    assert (b.folder / "bin" / "aws-cni").exists()
    tags = {tag["Key"] for tag in b.a.describe(b.a.eni)["TagSet"]}
    assert "node.k8s.amazonaws.com/instance_id" in tags
    until("report", lambda: b.agent.report.get("phase") == "running" and b.agent.report.get("steps"))
    assert b.agent.report["limits"] == {"enis": 4, "addresses_per_eni": 14, "max_pods": 58, "max_eni": None}
    assert b.agent.report["errors"] == []
    # At most one call per action, but for what the growth itself needs.
    calls = cast("dict[str, dict[str, int]]", b.agent.report["ec2_calls"])
    assert all(sum(outcomes.values()) == 1 for outcomes in calls.values()), calls


def test_the_conflist_waits_for_the_first_address(b: Bench) -> None:
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", error="UnauthorizedOperation", status=403, times=None))
    b.start(warm_ip_target=2)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert b.agent.outlook.code == "ec2"
    assert "UnauthorizedOperation" in b.agent.outlook.text
    assert b.agent.ready
    assert not (b.folder / "conf" / "10-aws.conflist").exists()
    b.a.truth.faults.clear()
    b.settled(2)
    until("conflist", (b.folder / "conf" / "10-aws.conflist").exists)
    until("outlook", lambda: b.agent.outlook and b.agent.outlook.can_grow)


def test_a_burst_grows_to_the_limit_and_names_it(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(4 * PER_ENI)
    until("all pods have addresses", lambda: not b.agent.waiting)
    b.settled(4 * PER_ENI)
    assert len(b.agent.used()) == 4 * PER_ENI
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 1, 2, 3]
    assert {eni.table for eni in b.agent.enis.values()} == {254, 2, 3, 4}
    b.agent.add_pods(1)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert b.agent.outlook.code == "node-full"
    assert "sandbox.room allows 4 ENIs with 14 pod addresses each: 56 in all" in b.agent.outlook.text
    assert b.agent.refused == []


def test_shrinks_when_pods_go(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(20)
    until("all pods have addresses", lambda: not b.agent.waiting)
    b.settled(22)
    b.agent.delete_pods(20, cool=True)
    b.clock.ahead += 100
    until("a turn", lambda: b.agent.report.get("targets"))
    assert len(b.in_ec2()) == 22, "a cooling address was given back"
    with b.agent.lock:
        for address in b.agent.addresses.values():
            address.cooling = False
        b.agent.add_pods(0)

    def small() -> bool:
        b.clock.ahead += 1
        return len(b.in_ec2()) == 2

    until("given back", small)
    b.settled(2)
    assert list(b.agent.enis) == [b.a.eni]
    assert b.agent.refused == []


ACTIONS = [
    "AssignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "CreateTags",
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop=True, times=2),
        Fault(when="after", drop=True, times=2),
        Fault(when="after", body=b"\xffnonsense", status=200, times=2),
        Fault(error="InternalError", status=500, times=2),
        Fault(error="RequestLimitExceeded", status=503, times=3),
    ],
    ids=["lost", "lost-after", "nonsense", "internal", "throttled"],
)
def test_every_pod_gets_its_address_whatever_ec2_does(b: Bench, action: str, fault: Fault) -> None:
    b.start(warm_ip_target=1)
    until("ready", lambda: b.agent.ready)
    b.a.truth.faults.add(replace(fault, action=action))
    b.agent.add_pods(20)

    def served() -> bool:
        b.clock.ahead += 0.05
        return not b.agent.waiting

    until("all pods have addresses", served, 30)
    assert len(b.agent.used()) == 20
    assert b.agent.used() <= b.in_ec2()
    assert b.agent.refused == []


def test_an_address_that_ec2_no_longer_shows_stays_with_its_pod(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(2)
    b.settled(4)
    victim, idle = sorted(b.agent.used())[0], sorted(b.agent.open() - b.agent.used())[0]
    b.clock.ahead += 61
    b.a.truth.unassign_ipv4(b.a.eni, addresses=[victim, idle])
    thief = b.a.new(
        PrivateIpAddresses=[{"PrivateIpAddress": victim, "Primary": True}, {"PrivateIpAddress": idle, "Primary": False}]
    )
    b.clock.ahead += 61
    until("quarantine", lambda: b.agent.addresses[victim].state == b.agent.addresses[idle].state == "quarantined")
    b.clock.ahead += 70
    until("the idle one goes", lambda: idle not in b.agent.addresses)
    b.clock.ahead += 700
    b.settled(3)
    assert b.agent.addresses[victim].state == "quarantined"
    assert victim in b.agent.used()
    # It comes back: somebody had taken it by mistake.
    b.a.truth.delete_eni(thief)
    b.a.truth.assign_ipv4(b.a.eni, addresses=[victim])
    b.clock.ahead += 70
    until("open again", lambda: b.agent.addresses[victim].state == "open")


def test_addresses_that_others_assign_come_in(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.a.truth.assign_ipv4(b.a.eni, count=2)
    b.clock.ahead += 61
    until("taken in, and given back as surplus", lambda: len(b.agent.open()) == 4 or len(b.in_ec2()) == 2)


def test_an_empty_answer_of_ec2_quarantines_nothing(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    empty = b"<DescribeNetworkInterfacesResponse></DescribeNetworkInterfacesResponse>"
    b.a.truth.faults.add(Fault("DescribeNetworkInterfaces", body=empty, status=200, times=None))
    b.clock.ahead += 700
    until("told", lambda: any("primary ENI" in str(line) for line in cast("list[str]", b.agent.report["errors"])))
    assert all(address.state == "open" for address in b.agent.addresses.values())


def test_a_new_agent_is_told_everything_again(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(16)
    until("all pods have addresses", lambda: not b.agent.waiting)
    b.restart_agent()
    until("ready", lambda: b.agent.ready)
    until("ENIs", lambda: "SetEni" in b.agent.commands)
    b.agent.add_pods(3)
    until("all pods have addresses", lambda: not b.agent.waiting)
    assert b.agent.used() <= b.in_ec2()
    assert b.agent.refused == []


def test_an_agent_that_lost_its_pool_gets_it_back(b: Bench) -> None:
    b.start(warm_ip_target=5)
    b.settled(5)
    before = b.agent.open()
    b.agent.stop()
    b.agent = FakeAgent(b.folder / "control.sock")
    b.settled(5)
    assert b.agent.open() == before


def test_a_new_manager_changes_nothing(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(16)
    until("all pods have addresses", lambda: not b.agent.waiting)
    b.settled(18)
    b.kill()
    told = len(b.a.told.events)
    b.agent.ready = False
    b.start(warm_ip_target=2)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(2)
    until("all pods have addresses", lambda: not b.agent.waiting)
    b.settled(20)
    assert [event for event, _ in b.a.told.events[told:]] == ["addresses_changed"]
    assert b.agent.refused == []


def test_what_a_killed_manager_left_half_done_is_finished(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.kill()
    steps = {"node.k8s.amazonaws.com/instance_id": b.a.node.instance_id}
    stamp = {"node.k8s.amazonaws.com/createdAt": "2020-01-01T00:00:00Z"}
    description = f"aws-K8S-{b.a.node.instance_id}"
    tags = [{"Key": key, "Value": value} for key, value in {**steps, **stamp}.items()]
    spec = [{"ResourceType": "network-interface", "Tags": tags}]
    leaked = b.a.new(Description=description, TagSpecifications=spec)
    attached = b.a.new(Description=description, TagSpecifications=spec, SecondaryPrivateIpAddressCount=3)
    b.a.attach(attached, 1)
    assigned = set(b.a.truth.assign_ipv4(b.a.eni, count=1)[0])
    b.start(warm_ip_target=2)
    until("the attached one serves", lambda: attached in b.agent.enis)
    until("its addresses", lambda: len(b.agent.open()) >= 5)
    until("kept for the instance's life", lambda: b.a.describe(attached)["Attachment"]["DeleteOnTermination"])
    # On an ENI that the agent knew, an address that it does not know may have been given back a moment ago.
    assert not assigned & b.agent.open()
    b.clock.ahead += 15
    until("the leaked one goes", lambda: leaked not in b.a.truth.enis)
    b.clock.ahead += 70
    until("the address is used or given back", lambda: assigned <= b.agent.open() or not assigned & b.in_ec2())
    assert b.agent.refused == []


def test_an_unmanaged_eni_is_left_alone_and_counts(b: Bench) -> None:
    other = b.a.new(
        TagSpecifications=[
            {
                "ResourceType": "network-interface",
                "Tags": [{"Key": "node.k8s.amazonaws.com/no_manage", "Value": "true"}],
            }
        ],
        SecondaryPrivateIpAddressCount=2,
    )
    b.a.attach(other, 1)
    b.start(warm_eni_target=0)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(3 * PER_ENI)
    until("all pods have addresses", lambda: not b.agent.waiting)
    assert other not in b.agent.enis
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 2, 3]
    b.agent.add_pods(1)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert "1 of them not managed" in b.agent.outlook.text
    until("told", lambda: b.agent.report.get("unmanaged") == [other])
    assert b.a.describe(other)["TagSet"] == [{"Key": "node.k8s.amazonaws.com/no_manage", "Value": "true"}]


def test_a_link_that_does_not_come_is_waited_for(b: Bench) -> None:
    mac = b.a.truth.eni(b.a.new(SecondaryPrivateIpAddressCount=4)).mac
    eni = next(eni for eni in b.a.truth.enis.values() if eni.mac == mac)
    b.a.attach(eni.eni_id, 1)
    b.host.broken.add(mac)
    b.start()
    until("ready all the same", lambda: b.agent.ready)
    b.settled(PER_ENI)
    assert eni.eni_id not in b.agent.enis
    b.host.broken.clear()
    b.clock.ahead += 15
    until("set up", lambda: eni.eni_id in b.agent.enis)
    b.settled(PER_ENI + 4)


def test_security_groups_of_the_primary_are_followed(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(PER_ENI + 1)
    until("two ENIs", lambda: len(b.agent.enis) == 2)
    second = next(eni_id for eni_id in b.agent.enis if eni_id != b.a.eni)
    b.a.truth.set_groups(b.a.eni, b.a.groups[2:4])

    def followed() -> bool:
        b.clock.ahead += 1
        return set(b.a.truth.eni(second).groups) == set(b.a.groups[2:4])

    until("the second ENI has them", followed)


def test_a_full_subnet_is_told_and_tried_again(b: Bench) -> None:
    b.a.truth.faults.add(
        Fault("AssignPrivateIpAddresses", error="InsufficientFreeAddressesInSubnet", status=400, times=None)
    )
    b.a.truth.faults.add(
        Fault("CreateNetworkInterface", error="InsufficientFreeAddressesInSubnet", status=400, times=None)
    )
    b.start(warm_ip_target=1)
    until("outlook", lambda: b.agent.outlook and b.agent.outlook.code == "subnet-full")
    assert b.agent.outlook is not None
    assert b.agent.outlook.retry_after_s is not None
    assert b.a.subnet.subnet_id in b.agent.outlook.text
    b.a.truth.faults.clear()
    b.clock.ahead += 121
    b.settled(1)
