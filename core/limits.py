"""What an instance type allows: ENIs, addresses per ENI, pods.

The table spares a privileged EC2 call at each start for the types it knows; every other type is asked for by
DescribeInstanceTypes. The bound is that of the default network card in both cases, since an attach beyond it
fails although other cards have room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TABLE: Final = "data/instance_limits.txt"  # in this package, for whoever reads it
HOST_NETWORK_PODS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one instance type. `enis` holds for the default card, `ipv4_per_eni` includes the primary address."""

    instance_type: str
    enis: int
    ipv4_per_eni: int
    hypervisor: str = "unknown"
    bare_metal: bool = False
    cards: int = 1

    @property
    def addresses_per_eni(self) -> int:
        """Addresses that pods can have on one ENI: the primary address is never given to a pod."""
        return self.ipv4_per_eni - 1

    @property
    def max_pods(self) -> int:
        """The kubelet's usual bound (limits specification, 4), used while the node object cannot be read."""
        return self.enis * self.addresses_per_eni + HOST_NETWORK_PODS


def parse(table: str, instance_type: str) -> Limits | None:
    """The limits of a type in the text of a table, or None. Raises ValueError for a damaged line."""
    for line in table.splitlines():
        if line.startswith("#") or instance_type not in line:
            continue
        head, _, names = line.partition(":")
        if instance_type not in names.split():
            continue
        enis, addresses, hypervisor, metal, cards = head.split()
        return Limits(instance_type, int(enis), int(addresses), hypervisor, metal == "metal", int(cards))
    return None
