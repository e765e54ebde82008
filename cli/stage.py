"""Nodes of the sandbox with enid on each: what the demo and the end-to-end tests have in common.

Everything that is claimed about pods is checked here against three witnesses that are not ours: what a socket
inside another pod's namespace saw, what the router dropped, and what EC2's ledger says.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cli.control_client import ControlClient
from core import names
from core.errors import AgentGone
from sandbox.base import shapes
from sandbox.base.failures import SandboxFailure
from sandbox.face.client import Sandbox

T = TypeVar("T")
DAEMON = "enid"
OURS = re.compile(r"enid-supervisor|agent\.fastpath\.main|agent\.manager\.main")
TCP_ESTABLISHED: Final = "01"  # include/net/tcp_states.h


def wait_for(what: str, ask: Callable[[], T], seconds: float = 60.0) -> T:
    """Poll `ask` until it is truthy; TimeoutError names `what` and the last answer."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s; last answer {answer!r}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Place:
    """A pod that is to be: where, and its name."""

    node: str
    namespace: str
    name: str

    @property
    def label(self) -> str:
        """The name that the sandbox's probe uses."""
        return f"{self.namespace}/{self.name}"


@dataclass
class Stage:
    """A world, and enid's environment on its nodes. `extra_env` is laid over what the sandbox offers."""

    world: Sandbox
    extra_env: Mapping[str, str] = field(default_factory=dict)

    # --- daemons --------------------------------------------------------------------------------------

    def start_daemon(self, node: str) -> None:
        """`enid agent` on the node, as the container would start it."""
        command = [sys.executable, "-I", "-m", "cli.main", "agent"]
        self.world.node_spawn(node, DAEMON, command, env=dict(self.extra_env))

    def conflist_there(self, node: str) -> bool:
        """The conflist tells the runtime that addresses can be given."""
        return any((self.world.node_folder(node) / "cni" / "conf").glob("*.conflist"))

    def agent_ready(self, node: str) -> bool:
        """Whether an agent answers that the manager has called ready."""
        try:
            with ControlClient(self.world.node_folder(node) / "run" / "control.sock") as client:
                return client.snapshot().ready
        except AgentGone:
            return False

    def wait_ready(self, node: str, seconds: float = 60.0) -> None:
        """Until the conflist is there; a daemon that ended before is an error with its last output."""

        def ready() -> bool:
            ended = [p for p in self.world.processes(node) if p.name == DAEMON and p.rc is not None]
            if ended:
                log = (self.world.node_folder(node) / "log" / f"{DAEMON}.out").read_text(errors="replace")
                raise RuntimeError(f"enid on {node} ended with {ended[-1].rc}:\n{log[-2000:]}")
            return self.conflist_there(node) and self.agent_ready(node)

        wait_for(f"{node}: conflist, and an agent that the manager called ready", ready, seconds)

    def start(self, nodes: Sequence[str]) -> None:
        """Daemons on all nodes, ready."""
        for node in nodes:
            self.start_daemon(node)
        for node in nodes:
            self.wait_ready(node)

    def daemons(self, node: str) -> list[shapes.Process]:
        """Supervisor, agent and manager of the node, as far as they live."""
        return [p for p in self.world.processes(node) if p.rc is None and OURS.search(" ".join(p.argv))]

    def descriptors(self, node: str) -> dict[str, int]:
        """Open descriptors of each daemon of the node, by the name of its program; from the kernel."""
        found = {}
        for process in self.daemons(node):
            match = OURS.search(" ".join(process.argv))
            assert match is not None
            listed = self.world.node_exec(node, ["ls", f"/proc/{process.pid}/fd"])
            found[match.group()] = len(listed.text.split())
        return found

    def ec2_connections(self, node: str) -> int:
        """Connections to EC2, which the manager keeps for some seconds after its last call; from the kernel."""
        lines = self.world.node_exec(node, ["cat", "/proc/net/tcp"]).text.splitlines()[1:]
        address = self.world.node_env(node)["AWS_ENDPOINT_URL_EC2"].removeprefix("http://")
        peer = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
        return sum(far.startswith(peer) and state == TCP_ESTABLISHED for _, _, far, state, *_ in map(str.split, lines))

    def kill_daemons(self, node: str) -> int:
        """SIGKILL to every daemon of the node; how many there were."""
        found = self.daemons(node)
        for process in found:
            # Children die with their supervisor, perhaps before their turn comes.
            with contextlib.suppress(SandboxFailure):
                self.world.kill(process.pid, signal.SIGKILL)
        wait_for(f"{node}: daemons gone", lambda: not self.daemons(node), 10)
        return len(found)

    def free_addresses(self, node: str) -> int:
        """What the node's pool can hand out at once, as its agent says."""
        with ControlClient(self.world.node_folder(node) / "run" / "control.sock") as client:
            return client.snapshot().pool.free

    def status(self, node: str) -> dict[str, object]:
        """What `enid status --output json` says on the node."""
        done = self.command(node, "status", "--output", "json")
        if done.rc != 0:
            raise RuntimeError(f"enid status on {node}: {done.error_text}")
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def command(self, node: str, *words: str) -> shapes.Completed:
        """One `enid` command in the node's environment."""
        return self.world.node_exec(node, [sys.executable, "-I", "-m", "cli.main", *words], env=dict(self.extra_env))

    # --- pods -----------------------------------------------------------------------------------------

    def create(self, places: Sequence[Place], at_once: int = 30) -> list[shapes.PodAnswer]:
        """All of them, `at_once` at a time, in the order given; CNI failures are in the answers."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda p: self.world.pod_create(p.node, p.namespace, p.name), places))

    def delete(self, places: Sequence[Place], at_once: int = 30) -> list[shapes.PodAnswer]:
        """All of them, `at_once` at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda p: self.world.pod_delete(p.node, p.namespace, p.name), places))

    # --- witnesses ------------------------------------------------------------------------------------

    def ledger_problems(self, addresses: Mapping[str, tuple[str, str]]) -> list[str]:
        """`addresses`: label to (node, address). Each must be a secondary address of exactly one ENI of that node."""
        holders: dict[str, list[shapes.LedgerEni]] = {}
        for eni in self.world.ledger():
            for address in eni.addresses:
                holders.setdefault(address, []).append(eni)
        problems = []
        for label, (node, address) in addresses.items():
            enis = holders.get(address, [])
            if len(enis) != 1:
                problems.append(f"{label}: {address} is on {len(enis)} ENIs in EC2's ledger")
            elif enis[0].node != node:
                problems.append(f"{label}: {address} belongs to {enis[0].node or 'no node'}, the pod is on {node}")
            elif enis[0].primary_ip == address:
                problems.append(f"{label}: {address} is the primary address of {enis[0].eni_id}")
        twice = [a for a, n in Counter(address for _, address in addresses.values()).items() if n > 1]
        return problems + [f"{address} is in two pods" for address in twice]

    def enis_used(self, addresses: Mapping[str, tuple[str, str]]) -> dict[str, dict[int, int]]:
        """Per node: pods per device number, from EC2's ledger."""
        device = {a: (eni.node, eni.device or 0) for eni in self.world.ledger() for a in eni.addresses}
        used: dict[str, Counter[int]] = {}
        for _, address in addresses.values():
            node, number = device[address]
            used.setdefault(node, Counter())[number] += 1
        return {node: dict(sorted(counts.items())) for node, counts in sorted(used.items())}

    def probe_problems(self, addresses: Mapping[str, tuple[str, str]]) -> tuple[shapes.ProbeReport, list[str]]:
        """All pairs echo; every peer must have seen each pod under its own address and no other."""
        report = self.world.probe()
        problems = [f"{f.source} -> {f.target}: {f.why} {f.seen}".rstrip() for f in report.failures]
        wanted = len(addresses) * (len(addresses) - 1)
        if report.sent != wanted:
            problems.append(f"{report.sent} pairs were tried, not {wanted}")
        for label, (_, address) in addresses.items():
            seen = report.seen_source.get(label, [])
            if seen != [address]:
                problems.append(f"{label} has {address} in the CNI result; its peers saw {seen}")
        return report, problems

    def internet_problems(self, addresses: Mapping[str, tuple[str, str]]) -> list[str]:
        """A pod that leaves the VPC is seen with its node's primary address."""
        primary = {node.name: node.primary_ip for node in self.world.nodes()}
        seen = self.world.to_internet()
        return [
            f"{label}: the internet host saw {seen.get(label) or 'nothing'}, not {primary[node]} of {node}"
            for label, (node, _) in addresses.items()
            if seen.get(label) != primary[node]
        ]

    def spoofed(self) -> int:
        """Packets that the router dropped because their source is no address of the ENI that they left by."""
        return sum(drop.packets for drop in self.world.counters() if drop.reason == "spoof")

    def host_state(self, node: str) -> dict[str, list[str]]:
        """Links, IPv4 addresses, routes and rules, nft ruleset and mounts of the node: lines without counters and ages.

        Mounts are all of the world's, with the namespaces that are kept alive by one.
        """
        commands = {
            "links": ["ip", "-o", "link"],
            "addresses": ["ip", "-o", "-4", "address"],
            "routes": ["ip", "-4", "-d", "route", "show", "table", "all"],
            "rules": ["ip", "-4", "-d", "rule"],
            "neighbours": ["ip", "neigh", "show", "nud", "permanent"],
            "nft": ["nft", "-s", "list", "ruleset"],
            "mounts": ["cat", "/proc/self/mounts"],
        }
        state = {}
        for what, command in commands.items():
            done = self.world.node_exec(node, command)
            if done.rc != 0:
                raise RuntimeError(f"{' '.join(command)} on {node}: {done.error_text}")
            # Link indexes and the @if suffix grow with every veth that ever was.
            state[what] = sorted(
                re.sub(r"^\d+: |@\S+|\bpackets \d+ bytes \d+", "", line) for line in done.text.splitlines()
            )
        return state

    def pod_traces(self, node: str, prefix: str = names.DEFAULT_VETH_PREFIX) -> list[str]:
        """Whatever on the node could only be a pod's: host veths, pod rules, routes and neighbours on veths."""
        state = self.host_state(node)
        veth = re.compile(rf"\b{prefix}[0-9a-f]{{11}}\b")
        left = [
            f"{what}: {line}" for what in ("links", "routes", "neighbours") for line in state[what] if veth.search(line)
        ]
        pod_rules = (f"{names.RULE_TO_POD}:", f"{names.RULE_FROM_POD}:")
        return left + [f"rules: {line}" for line in state["rules"] if line.startswith(pod_rules)]


def cni_addresses(answers: Sequence[shapes.PodAnswer]) -> dict[str, tuple[str, str]]:
    """Label to (node, address) as the CNI results have them; failed creates are left out."""
    found = {}
    for answer in answers:
        if answer.result is not None:
            (ip,) = answer.result["ips"]
            found[f"{answer.pod.namespace}/{answer.pod.name}"] = (answer.pod.node, ip["address"].split("/")[0])
    return found


def failed(answers: Sequence[shapes.PodAnswer]) -> list[str]:
    """The creates and deletes that failed, in words."""
    return [
        f"{a.pod.namespace}/{a.pod.name} on {a.pod.node}: {a.error.msg} ({a.error.details})"
        for a in answers
        if a.error is not None
    ]
