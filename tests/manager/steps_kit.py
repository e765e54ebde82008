"""What the tests of the manager's steps do again and again."""

from __future__ import annotations

from collections.abc import Callable

from agent.manager.enis import Created, EniSteps
from clients.budget import Priority
from clients.ec2 import Ec2
from tests.sandbox.ec2_kit import Account

NOW = Priority.WAITING


def create(steps: EniSteps, ec2: Ec2, a: Account, count: int = 3, device: int = 1) -> Created:
    subnets = [subnet for subnet in ec2.subnets(a.vpc.vpc_id, "us-west-2a") if subnet.subnet_id == a.subnet.subnet_id]
    return steps.create(count, device, subnets, tuple(a.groups[:2]), {}, NOW)


def held(a: Account, eni_id: str) -> set[str]:
    eni = a.truth.eni(eni_id)
    return set(eni.addresses) - {eni.primary_ip}


def room(addresses: int) -> Callable[[], int]:
    """What the subnet has left, by EC2's count."""
    return lambda: addresses
