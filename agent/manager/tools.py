"""What the manager's parts work with: one set, made at start, the same for all."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent.manager.agent_link import AgentLink
from agent.manager.enis import EniSteps
from agent.manager.host_network import HostNetwork
from agent.manager.jobs import Jobs
from agent.manager.report import Account
from clients.clock import Clock
from clients.ec2 import Ec2
from clients.imds import Imds
from core.settings import Settings


@dataclass(slots=True)
class Tools:
    """Workers are separate so that none waits for another: `growth` and `shrink` for steps of the pool, `checks` for
    what EC2 and IMDS show, `hosts` for the host's own network, `chores` for what nobody waits for."""

    settings: Settings
    imds: Imds
    ec2: Ec2
    steps: EniSteps
    host: HostNetwork
    link: AgentLink
    clock: Clock
    rng: random.Random
    account: Account
    growth: Jobs
    shrink: Jobs
    checks: Jobs
    hosts: Jobs
    chores: Jobs
