"""What is looked at again and again beside the pool: host network, VPC networks, groups, the node object, leaks.

Each duty has its own period and at most one job under way; a failure is told and tried again at the next turn.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent.manager.enis import EniSteps
from agent.manager.jobs import Jobs, Outcome
from agent.manager.state import ManagedEni, NodeState
from agent.manager.tools import Tools
from clients.clock import Clock
from clients.ec2 import TAG_CREATED
from clients.kube import Kube, NodeView
from core.errors import EnidError, HostNetworkError
from core.hostnet import LinkView, NodeRules
from core.nat import NatConfig
from core.settings import Settings

HOST_S: Final = 30.0
KUBE_S: Final = 30.0
REPAIR_S: Final = 0.2
SWEEP_FIRST_S: Final = 10.0
SWEEP_S: Final = 3600.0
# A creation takes seconds; what is older and attached nowhere was lost.
LEAK_AGE_S: Final = 300.0

log = logging.getLogger("enid.manager.housekeeping")


@dataclass(slots=True)
class _Duty:
    """One thing to do every `period` seconds."""

    period: float
    next_at: float
    start: Callable[[], None]
    running: bool = False


@dataclass(frozen=True, slots=True)
class _HostFindings:
    """What a check of the host came to; `trouble` is what IMDS answered instead of networks and groups."""

    repaired: list[str]
    vpc_cidrs: tuple[str, ...]
    groups: tuple[str, ...]
    trouble: EnidError | None


def nat_config(settings: Settings, address: str, link: str, vpc_cidrs: tuple[str, ...]) -> NatConfig:
    """The nftables table that these settings ask for."""
    return NatConfig(
        primary_ip=address,
        primary_link=link,
        veth_prefix=settings.veth_prefix,
        mark=settings.connmark,
        vpc_cidrs=vpc_cidrs,
        excluded_cidrs=settings.exclude_snat_cidrs,
        external_snat=settings.external_snat,
        node_port_support=settings.node_port_support,
        randomize=settings.randomize_snat,
    )


def node_rules(settings: Settings) -> NodeRules:
    """The policy rules that these settings ask for."""
    return NodeRules(
        settings.connmark, settings.node_port_support, settings.external_snat, settings.external_service_cidrs
    )


class Housekeeping:
    """The duties of one node. Called by the main loop; `kube_jobs` is a worker of its own: that server may hang."""

    def __init__(
        self, tools: Tools, state: NodeState, primary: LinkView, vpc_cidrs: tuple[str, ...], kube_jobs: Jobs
    ) -> None:
        self._tools = tools
        self._state = state
        self._primary = primary
        self._vpc_cidrs = vpc_cidrs
        self._kube_jobs = kube_jobs
        self._kube: Kube | None = None
        self._kube_away = False
        self._born = tools.clock.unix()
        now = tools.clock.now()
        self._duties = {
            "host": _Duty(HOST_S, now + HOST_S, self._check_host),
        }
        if tools.settings.node_name:
            self._duties["kubernetes"] = _Duty(KUBE_S, now, self._read_node)
        else:
            log.warning("MY_NODE_NAME is not set: the node's pod capacity follows from its instance type")
            tools.account.facts["kubernetes"] = "not asked: MY_NODE_NAME is not set"
        if tools.settings.leaked_eni_cleanup:
            self._duties["leaks"] = _Duty(SWEEP_S, now + SWEEP_FIRST_S, self._sweep)

    @property
    def next_at(self) -> float:
        """When the next duty is due."""
        return min((duty.next_at for duty in self._duties.values() if not duty.running), default=float("inf"))

    def tick(self) -> None:
        """Start what is due."""
        now = self._tools.clock.now()
        self._tools.ec2.close_idle()
        for duty in self._duties.values():
            if not duty.running and now >= duty.next_at:
                duty.running = True
                duty.next_at = now + duty.period * (0.9 + 0.2 * self._tools.rng.random())
                duty.start()

    def check_host_now(self) -> None:
        """Somebody took rules of ours away: look soon, but not more often than is bearable if they go on."""
        duty = self._duties["host"]
        duty.next_at = min(duty.next_at, self._tools.clock.now() + REPAIR_S)

    def _run(self, name: str, jobs: Jobs, work: Callable[[], Any], use: Callable[[Any], None]) -> None:
        duty = self._duties[name]

        def done(outcome: Outcome) -> None:
            duty.running = False
            if outcome.error is None:
                use(outcome.value)
            elif name == "kubernetes":
                self._kube_failed(outcome.error)
            else:
                log.warning("%s", self._tools.account.error(self._tools.clock.unix(), outcome.error, name))

        jobs.start(work, done)

    # --- host network, VPC networks, security groups ------------------------------------------------------------

    def _check_host(self) -> None:
        tools, settings = self._tools, self._tools.settings
        secondary = [m for m in self._state.managed.values() if m.ready and not m.primary]
        address, mac = self._state.identity.address, self._state.identity.mac

        old = (self._vpc_cidrs, self._state.groups)

        def work() -> _HostFindings:
            trouble = None
            try:
                cidrs, groups = tools.imds.vpc_cidrs(mac), tools.imds.security_groups(mac)
            except EnidError as error:
                # The old values are good for the check of the host.
                trouble = error
                cidrs, groups = old
            link = tools.host.primary(mac, settings.eni_mtu)
            repaired = tools.host.set_sysctls(link.name, settings.tcp_early_demux)
            repaired += tools.host.set_rules(node_rules(settings))
            if tools.host.set_nat(nat_config(settings, address, link.name, cidrs)):
                repaired.append("nftables table enid")
            for managed in secondary:
                repaired += self._check_eni(managed)
            return _HostFindings(repaired, cidrs, groups, trouble)

        def use(found: _HostFindings) -> None:
            self._vpc_cidrs = found.vpc_cidrs
            for what in found.repaired:
                log.warning("repaired: %s", what)
                tools.account.step(tools.clock.unix(), "repair", what)
            if found.trouble is not None:
                log.warning("%s", tools.account.error(tools.clock.unix(), found.trouble, "host"))
            self._follow_groups(found.groups)

        self._run("host", tools.checks, work, use)

    def _check_eni(self, managed: ManagedEni) -> list[str]:
        """In a worker. An ENI that is being detached has no link any more, and that is right."""
        mtu = self._tools.settings.eni_mtu
        try:
            link, repaired = self._tools.host.set_eni(
                managed.eni.mac, mtu, managed.table, managed.eni.primary_ip, managed.subnet_cidr
            )
        except HostNetworkError as error:
            if managed.eni_id in self._state.managed:
                log.warning("%s: %s", managed.eni_id, error)
            return []
        if link.ifindex != managed.ifindex:
            log.warning("%s has a new link %s, index %d", managed.eni_id, link.name, link.ifindex)
        return repaired

    def _follow_groups(self, groups: tuple[str, ...]) -> None:
        """Give the primary's security groups to all ENIs that have others (ipam.md section 20), until it worked."""
        self._state.groups = groups
        for managed in self._state.managed.values():
            if managed.primary or not groups or set(managed.groups) == set(groups) or managed.busy:
                continue
            self._set_groups(managed, groups)

    def _set_groups(self, managed: ManagedEni, groups: tuple[str, ...]) -> None:
        def done(outcome: Outcome) -> None:
            if outcome.error is not None:
                line = self._tools.account.error(self._tools.clock.unix(), outcome.error, f"groups of {managed.eni_id}")
                log.warning("%s", line)
            else:
                managed.groups = groups

        self._tools.shrink.start(lambda: self._tools.ec2.set_groups(managed.eni_id, groups), done)

    # --- Kubernetes ---------------------------------------------------------------------------------------------

    def _read_node(self) -> None:
        name = self._tools.settings.node_name

        def work() -> NodeView:
            if self._kube is None:
                self._kube = Kube(self._tools.settings.cluster_endpoint)
            return self._kube.node(name)

        def use(node: NodeView) -> None:
            if self._kube_away:
                log.info("the API server answers again")
            self._kube_away = False
            self._state.max_pods = node.max_pods
            self._state.unschedulable = node.unschedulable
            self._tools.account.facts["kubernetes"] = "ok"

        self._run("kubernetes", self._kube_jobs, work, use)

    def _kube_failed(self, error: Exception) -> None:
        text = error.text if isinstance(error, EnidError) else str(error)
        cause = error.cause if isinstance(error, EnidError) else ""
        if not self._kube_away:
            # Node monitoring looks for the first words of this line.
            log.warning("Unable to reach API Server: %s (%s); going on without it", text, cause)
        self._kube_away = True
        self._tools.account.facts["kubernetes"] = f"away: {text}"

    # --- leaks --------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        state, steps, clock = self._state, self._tools.steps, self._tools.clock
        in_flight = frozenset(state.leaving) | frozenset(state.managed)

        def use(deleted: list[str]) -> None:
            for eni_id in deleted:
                self._tools.account.step(clock.unix(), f"delete leaked {eni_id}", "done")

        self._run("leaks", self._tools.checks, lambda: sweep(steps, clock, self._born, in_flight), use)


def sweep(steps: EniSteps, clock: Clock, born_unix: float, in_flight: frozenset[str]) -> list[str]:
    """Delete ENIs that this node made and that are attached nowhere; their ids.

    What was made before this process began is nobody's. What this life made may be about to be attached, so it
    is left alone until it is old. One that cannot be deleted is met again at the next sweep.
    """
    deleted = []
    for eni in steps.leaked():
        if eni.eni_id in in_flight:
            continue
        created = _unix(eni.tags.get(TAG_CREATED, ""))
        if created is None or born_unix <= created > clock.unix() - LEAK_AGE_S:
            continue
        try:
            steps.delete(eni.eni_id)
        except EnidError as error:
            log.warning("leaked %s: %s", eni.eni_id, error.text)
            continue
        log.warning("deleted %s, which was attached nowhere", eni.eni_id)
        deleted.append(eni.eni_id)
    return deleted


def _unix(stamp: str) -> float | None:
    """Seconds since 1970 of a createdAt tag; None for what is none: such an ENI is left to its owner."""
    try:
        when = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return when.timestamp() if when.tzinfo else None
