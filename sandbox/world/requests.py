"""What can be asked of a running world.

Each public method is one request of the control socket: its name, its parameters and their types are the
protocol (client.py is the typed face of it, with the documentation). Everything here may run in many threads.
"""

from __future__ import annotations

import os
from typing import Any, overload

from sandbox.base import shapes
from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import (
    CniError,
    Completed,
    Drop,
    Node,
    Pod,
    PodAnswer,
    ProbeReport,
    Process,
    Rule,
    Status,
)
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.records import Permission
from sandbox.net import internet, netns, probe
from sandbox.runtime import profiles
from sandbox.world.processes import base_env, run
from sandbox.world.scenario import NodeSpec
from sandbox.world.steer import Steer
from sandbox.world.world import NodeState, World

PROTOCOLS = ("-1", "tcp", "udp", "icmp", "icmpv6")


class Requests(Steer):
    """The requests, with those of `Steer`; `down` is the socket's own."""

    def __init__(self, world: World, user_namespace: bool) -> None:
        super().__init__(world)
        self._world = world
        self._user_namespace = user_namespace

    # --- the world ------------------------------------------------------------------------------------

    def status(self) -> Status:
        world = self._world
        drops: dict[str, int] = {}
        for drop in world.router.drops():
            drops[drop.reason] = drops.get(drop.reason, 0) + drop.packets
        return Status(
            folder=str(world.folder),
            pid=int((world.folder / "pid").read_text()),
            started_unix=world.started,
            region=world.scenario.region,
            vpc_cidr=world.scenario.vpc_cidr,
            user_namespace=self._user_namespace,
            nodes=[self._describe(state) for state in world.states()],
            pods=sum(len(state.runtime.pods()) for state in world.states()),
            enis=len(world.truth.enis),
            drops=drops,
            faults=world.script.summary(),
            branches=world.fabric.branches(),
        )

    def node(self, node: str) -> Node:
        return self._describe(self._world.state(node))

    def node_add(self, node: str, instance_type: str, subnet: int) -> Node:
        spec = NodeSpec(node, instance_type, subnet)
        self._world.scenario.check_node(spec)
        if any(state.name == node for state in self._world.states()):
            raise SandboxFailure("exists", f"there is a node {node} already")
        self._world.launch(spec)
        return self.node(node)

    def node_env(self, node: str) -> dict[str, str]:
        return self._world.env(node)

    def counters(self) -> list[Drop]:
        found = []
        for drop in self._world.router.drops():
            eni_id, node = self._world.fabric.origin_of(drop.port)
            found.append(
                Drop(drop.reason, drop.port, eni_id, node, drop.address, drop.packets, drop.bytes, drop.direction)
            )
        return found

    def reboot(self, node: str) -> None:
        instance_id = self._world.state(node).instance_id
        try:
            self._world.truth.reboot_instance(instance_id)
        except Ec2Error as refusal:
            instance = self._world.truth.instances.get(instance_id)
            state = instance.state if instance else "gone"
            raise SandboxFailure(
                "stopped", f"node {node} is {state}, so EC2 does not reboot it: {refusal}"
            ) from refusal

    # --- processes ------------------------------------------------------------------------------------

    def node_exec(self, node: str, argv: list[str], env: dict[str, str], stdin: bytes, timeout: float) -> Completed:
        return run(self._world.inside(node), argv, self._env(node, env), stdin, timeout)

    def node_spawn(self, node: str, name: str, argv: list[str], env: dict[str, str]) -> Process:
        log = self._world.state(node).folder / "log"
        return self._world.processes.spawn(node, self._world.inside(node), name, argv, self._env(node, env), log)

    def node_signal(self, node: str, name: str, sig: int) -> None:
        self._world.processes.signal(node, name, sig)

    def node_stop(self, node: str, name: str, timeout: float) -> int:
        return self._world.processes.stop(node, name, timeout)

    def kill(self, pid: int, sig: int) -> None:
        if pid <= 1 or pid == os.getpid():
            raise SandboxFailure("bad-request", f"pid {pid} belongs to the sandbox itself; use down")
        try:
            os.kill(pid, sig)
        except OSError as error:
            raise SandboxFailure("unknown", f"pid {pid}, signal {sig}: {error.strerror}") from error

    def processes(self, node: str) -> list[Process]:
        states = [self._world.state(node)] if node else self._world.states()
        return self._world.processes.listing({state.name: netns.path(state.name) for state in states})

    def internet_exec(self, argv: list[str], stdin: bytes, timeout: float) -> Completed:
        return run(netns.path(internet.NAME), argv, base_env(self._world.folder), stdin, timeout)

    def outside_exec(self, name: str, argv: list[str], stdin: bytes, timeout: float) -> Completed:
        known = [one.name for one in self._world.scenario.outside]
        if name not in known:
            raise SandboxFailure(
                "unknown", f"there is no network {name!r} outside; there are: {', '.join(known) or 'none'}"
            )
        return run(netns.path(name), argv, base_env(self._world.folder), stdin, timeout)

    def group_create(self, name: str, ingress: list[Rule], egress: list[Rule]) -> str:
        truth = self._world.truth
        vpc_id = next(iter(truth.vpcs))
        try:
            return truth.create_group(vpc_id, name, ingress=_rules(ingress), egress=_rules(egress)).group_id
        except Ec2Error as error:
            raise SandboxFailure("bad-request", f"group {name}: {error}") from error

    def group_rules(self, group: str, ingress: list[Rule] | None, egress: list[Rule] | None) -> None:
        try:
            self._world.truth.set_rules(group, ingress=_rules(ingress), egress=_rules(egress))
        except Ec2Error as error:
            raise SandboxFailure("bad-request", f"rules of group {group}: {error}") from error

    def public_address(self, address: str, on: bool) -> str:
        if on:
            return self._world.public.give(address)
        self._world.public.take(address)
        return ""

    def port(self, where: str) -> str:
        return self._world.port(where)

    def router_exec(self, argv: list[str], stdin: bytes, timeout: float) -> Completed:
        return run(netns.path("router"), argv, base_env(self._world.folder), stdin, timeout)

    # --- pods -----------------------------------------------------------------------------------------

    def pod_create(
        self,
        node: str,
        namespace: str,
        name: str,
        uid: str,
        annotations: dict[str, str],
        port_mappings: list[dict[str, Any]],
        timeout: float,
    ) -> PodAnswer:
        self._world.inside(node)
        state, cluster = self._world.state(node), self._world.cluster
        uid = cluster.bind_pod(node, namespace, name, uid, annotations, port_mappings)
        answer = state.runtime.create(namespace, name, uid, annotations, port_mappings, timeout)
        if answer.ok:
            host = self._world.truth.instance(state.instance_id).private_ip
            cluster.pod_running(namespace, name, host, answer.pod.ips)
        return answer

    def pod_delete(self, node: str, namespace: str, name: str, timeout: float) -> PodAnswer:
        runtime = self._world.state(node).runtime
        try:
            answer = runtime.delete(namespace, name, timeout)
        except SandboxFailure as failure:
            # A pod whose sandbox never came to be is only an object, as in a cluster.
            if failure.code != "unknown" or not self._world.cluster.pod_gone(namespace, name):
                raise
            return PodAnswer(Pod(node, namespace, name, "", "", "", "stopping"), None, None, 0, 0)
        if answer.ok:
            self._world.cluster.pod_gone(namespace, name)
        return answer

    def pod_exec(
        self, node: str, namespace: str, name: str, argv: list[str], stdin: bytes, timeout: float
    ) -> Completed:
        pod = self._world.state(node).runtime.find(namespace, name)
        return run(pod.netns, argv, base_env(self._world.folder), stdin, timeout)

    def pods(self, node: str) -> list[Pod]:
        states = [self._world.state(node)] if node else self._world.states()
        return [pod for state in states for pod in state.runtime.pods()]

    def runtime_verb(self, node: str, verb: str, namespace: str, name: str, timeout: float) -> CniError | None:
        return self._world.state(node).runtime.verb(verb, namespace, name, timeout)

    def runtime_profile(self, node: str, profile: str) -> None:
        self._world.state(node).runtime.profile = profiles.named(profile)

    # --- truth from inside ----------------------------------------------------------------------------

    def probe(self, targets: dict[str, str] | None, ifname: str, timeout: float) -> ProbeReport:
        return probe.all_pairs(self._targets(targets), ifname, timeout)

    def to_internet(self, targets: dict[str, str] | None, ifname: str, timeout: float) -> dict[str, str]:
        return probe.to_internet(self._targets(targets), ifname, timeout)

    # --- within ---------------------------------------------------------------------------------------

    def _describe(self, state: NodeState) -> shapes.Node:
        instance = self._world.truth.instance(state.instance_id)
        return Node(
            name=state.name,
            instance_id=instance.instance_id,
            instance_type=instance.instance_type,
            state=instance.state,
            primary_ip=instance.private_ip,
            subnet_id=instance.subnet_id,
            zone=instance.zone,
            netns=netns.path(state.name),
            folder=str(state.folder),
            nics=self._world.fabric.nics(instance.instance_id),
        )

    def _env(self, node: str, env: dict[str, str]) -> dict[str, str]:
        return {**base_env(self._world.state(node).folder), **self._world.env(node), **env}

    def _targets(self, targets: dict[str, str] | None) -> dict[str, str]:
        if targets is not None:
            return targets
        return {f"{pod.namespace}/{pod.name}": pod.netns for pod in self.pods("") if pod.state == "up"}


@overload
def _rules(rules: list[Rule]) -> list[Permission]: ...
@overload
def _rules(rules: list[Rule] | None) -> list[Permission] | None: ...
def _rules(rules: list[Rule] | None) -> list[Permission] | None:
    if rules is None:
        return None
    for rule in rules:
        if rule.protocol not in PROTOCOLS and not (rule.protocol.isdigit() and int(rule.protocol) <= 255):
            known = ", ".join(PROTOCOLS)
            raise SandboxFailure("bad-request", f"rule with protocol {rule.protocol!r}: none of {known}, 0 to 255")
    return [Permission(r.protocol, r.from_port, r.to_port, tuple(r.cidrs), tuple(r.groups)) for r in rules]
