"""The start of the manager: who we are, what we may have, and the host's own rules; then the main loop takes over.

Nothing here gives up: EC2, IMDS and the agent come back, and a manager that ends itself would only be started
again. What waits is told to the agent, so that `enid status` shows it. The one exception is a node whose state
needs what this release does not serve, which is refused before anything is changed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Final, TypeVar

from agent import control
from agent.manager import takeover
from agent.manager.agent_link import AgentLink
from agent.manager.enis import EniSteps
from agent.manager.host_duty import nat_config, node_rules
from agent.manager.host_network import HostNetwork
from agent.manager.jobs import Jobs
from agent.manager.owner import Owner
from agent.manager.report import Account
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from clients.clock import Clock
from clients.ec2 import Ec2
from clients.ec2_answers import Subnet
from clients.ec2_codes import DENIED
from clients.imds import Identity, Imds
from core import limits
from core.errors import BadSetting, Ec2Error, EnidError
from core.hostnet import LinkView
from core.limits import Limits
from core.settings import Settings

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 10.0
# IMDS is on the node: what has not answered by then never will.
IMDS_TIMEOUT_S: Final = 3.0
T = TypeVar("T")

log = logging.getLogger("enid.manager.start")


@dataclass(frozen=True, slots=True)
class Started:
    """Everything that the main loop needs."""

    tools: Tools
    state: NodeState
    owner: Owner
    primary: LinkView
    vpc_cidrs: tuple[str, ...]


def start(settings: Settings, clock: Clock, rng: random.Random) -> Started:
    """Find out what this node is and bring its host network up. Raises TakeoverRefused."""
    link = AgentLink(settings.control_socket, clock)
    account = Account()
    if settings.warnings:
        account.facts["warnings"] = list(settings.warnings)
    patience = Patience(clock, rng, account, link)
    host = patience.try_until("host network: open netlink", lambda: HostNetwork(clock))
    if not serving(link):
        takeover.check(patience.try_until("host network: links", host.link_names))
    imds = Imds(settings.imds_endpoint, IMDS_TIMEOUT_S, clock, rng)
    identity = patience.try_until("instance metadata", imds.identity)
    ec2 = patience.try_until("EC2 client", lambda: _ec2(settings, identity, clock, rng))
    account.facts["instance"] = {
        "id": identity.instance_id,
        "type": identity.instance_type,
        "region": identity.region,
        "zone": identity.zone,
        "node": settings.node_name,
    }
    known = shipped_limits(identity.instance_type)
    if known is None:
        known = patience.try_until("instance type", lambda: ec2.limits(identity.instance_type))
    vpc_cidrs = patience.try_until("VPC networks", lambda: imds.vpc_cidrs(identity.mac))
    primary = patience.try_until("host network: primary link", lambda: host.primary(identity.mac, settings.eni_mtu))
    patience.try_until("host network: sysctls", lambda: host.set_sysctls(primary.name, settings.tcp_early_demux))
    patience.try_until("host network: rules", lambda: host.set_rules(node_rules(settings)))
    nat = nat_config(settings, identity.address, primary.name, vpc_cidrs)
    patience.try_until("host network: SNAT", lambda: host.set_nat(nat))

    state = NodeState(identity, known)
    state.subnets = patience.try_until("subnets", lambda: zone_subnets(ec2, identity))
    owner = Owner(identity.instance_id, settings.cluster_name, settings.additional_eni_tags)
    tools = Tools(
        settings=settings,
        imds=imds,
        ec2=ec2,
        steps=EniSteps(ec2, owner, clock, rng, manage_untagged=settings.manage_untagged_eni),
        host=host,
        link=link,
        clock=clock,
        rng=rng,
        account=account,
        growth=Jobs(3, "growth"),
        shrink=Jobs(2, "shrink"),
        checks=Jobs(2, "checks"),
        hosts=Jobs(1, "hosts"),
        chores=Jobs(1, "chores"),
    )
    log.info(
        "%s %s: %d ENIs, %d pod addresses each",
        identity.instance_type,
        identity.instance_id,
        known.enis,
        known.addresses_per_eni,
    )
    return Started(tools, state, owner, primary, vpc_cidrs)


def _ec2(settings: Settings, identity: Identity, clock: Clock, rng: random.Random) -> Ec2:
    agent = f"amazon-vpc-cni-k8s/{settings.version}" if settings.version else ""
    return Ec2(
        identity.region,
        endpoint=settings.ec2_endpoint,
        timeout=settings.http_timeout_s,
        user_agent=agent,
        clock=clock,
        rng=rng,
    )


def serving(link: AgentLink) -> bool:
    """Whether a manager has been ready in this run of the agent.

    Then this is no take-over: what has come onto the node since must not end a daemon that serves pods.
    """
    link.connect()
    return link.client is not None and link.client.snapshot.ready


def zone_subnets(ec2: Ec2, identity: Identity) -> tuple[Subnet, ...]:
    """The zone's subnets, none if they may not be asked for: then the node's own is used.

    Raises Ec2Error for what may pass: without its tags an excluded subnet would be taken for a good one.
    """
    try:
        return ec2.subnets(identity.vpc_id, identity.zone, Priority.WAITING)
    except Ec2Error as error:
        if error.api_code not in DENIED:
            raise
        log.warning("subnets cannot be described, the node's own is used: %s", error.text)
        return ()


def shipped_limits(instance_type: str) -> Limits | None:
    """The limits of a type in the table that is shipped, or None if EC2 has to be asked."""
    return limits.parse(resources.files("core").joinpath(limits.TABLE).read_text(encoding="ascii"), instance_type)


class Patience:
    """Tries a step of the start until it works, and tells what it is waiting for."""

    def __init__(self, clock: Clock, rng: random.Random, account: Account, link: AgentLink) -> None:
        self._clock = clock
        self._rng = rng
        self._account = account
        self._link = link

    def try_until(self, what: str, work: Callable[[], T]) -> T:
        """The result of `work`, whenever it comes. A bad setting is not waited for."""
        wait = FIRST_RETRY_S
        self._account.phase = f"starting: {what}"
        while True:
            try:
                return work()
            except BadSetting:
                raise
            except EnidError as error:
                log.error("%s", self._account.error(self._clock.unix(), error, what))
            self._tell()
            self._clock.sleep(wait * (0.75 + 0.5 * self._rng.random()))
            wait = min(wait * 2, MAX_RETRY_S)

    def _tell(self) -> None:
        self._link.connect()
        self._link.follow()
        if self._link.client is not None:
            report = self._account.changed()
            if report is not None:
                self._link.calls([control.Report(report)])
