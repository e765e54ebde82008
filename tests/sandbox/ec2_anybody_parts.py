"""What requests by chance are put together from: ids, addresses, blocks, tags, and what an ENI is to hold."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

from sandbox.ec2.truth import Truth

Request = dict[str, Any]
NOWHERE: Final = "0123456789abcdef0"
TABLES: Final = {
    "NetworkInterfaceIds": "enis",
    "InstanceIds": "instances",
    "SubnetIds": "subnets",
    "VpcIds": "vpcs",
    "GroupIds": "groups",
    "AssociationIds": "associations",
    "NetworkInterfacePermissionIds": "permissions",
}


class Parts:
    """Mostly of what is there; `seen` are ids that were there at some time."""

    def __init__(self, truth: Truth, rng: random.Random) -> None:
        self.truth, self.rng = truth, rng
        self.seen: dict[str, list[str]] = {}

    def one(self, table: Iterable[str], kind: str) -> str:
        """An id from a table, or now and then one that is not there."""
        some = list(table)
        if not some or self.rng.random() < 0.02:
            return f"{kind}-{NOWHERE}"
        return self.rng.choice(some)

    def some(self, table: Iterable[str], most: int) -> list[str]:
        every = list(table)
        return self.rng.sample(every, min(len(every), self.rng.randrange(most + 1)))

    def known(self, member: str) -> str:
        """An id that is or was there."""
        table: Any = getattr(self.truth, TABLES[member])
        seen = self.seen.setdefault(member, [])
        if table and self.rng.random() < 0.5:
            seen.append(self.rng.choice(list(table)))
        return self.rng.choice(seen) if seen else f"eni-{NOWHERE}"

    def vpc(self) -> str:
        """Mostly the first, so that others can be deleted again."""
        first = next(iter(self.truth.vpcs), f"vpc-{NOWHERE}")
        return first if self.rng.random() < 0.8 else self.one(self.truth.vpcs, "vpc")

    def eni(self) -> str:
        return self.one(self.truth.enis, "eni")

    def eni_with(self, wanted: Callable[[Any], Any]) -> Any:
        """The record of an ENI of some sort, or of any, if there is one."""
        every = list(self.truth.enis.values())
        fit = [eni for eni in every if wanted(eni)]
        return self.rng.choice(fit or every) if every else None

    def network(self, version: int) -> Any:
        """The block of some subnet."""
        blocks = [subnet.cidr if version == 4 else subnet.ipv6_cidr for subnet in self.truth.subnets.values()]
        return self.rng.choice([block for block in blocks if block] or [ipaddress.ip_network("10.0.0.0/24")])

    def address(self, version: int = 4) -> str:
        block = self.network(version)
        return str(block[self.rng.randrange(min(block.num_addresses, 256))])

    def prefix(self, version: int = 4) -> str:
        block = self.network(version)
        if version == 4 or block.version == 4:
            return f"{block[self.rng.randrange(block.num_addresses // 16) * 16]}/28"
        return f"{block[self.rng.randrange(40) << 48]}/80"

    def place(self) -> Request:
        """A subnet, and groups, mostly of its VPC."""
        subnet_id = self.one(self.truth.subnets, "subnet")
        subnet = self.truth.subnets.get(subnet_id)
        strange = self.rng.random() < 0.05
        groups = [
            one.group_id for one in self.truth.groups.values() if strange or (subnet and one.vpc_id == subnet.vpc_id)
        ]
        return {"SubnetId": subnet_id, "Groups": self.some(groups, 3)}

    def tags(self, kind: str) -> Request:
        if self.rng.random() < 0.7:
            return {}
        pairs = [{"Key": f"k{self.rng.randrange(4)}", "Value": "v"}]
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": pairs}]}

    def token(self) -> Request:
        return {"ClientToken": f"t{self.rng.randrange(30)}"} if self.rng.random() < 0.1 else {}

    def wanted(self) -> Request:
        """How members of an ENI say what it is to hold in IPv4."""
        dice = self.rng
        ways: tuple[Callable[[], Request], ...] = (
            lambda: {"SecondaryPrivateIpAddressCount": dice.choice((1, 1, 2, 3, 5, 100_000))},
            lambda: {"Ipv4PrefixCount": dice.randrange(1, 3)},
            lambda: {"PrivateIpAddresses": [{"PrivateIpAddress": self.address()} for _ in range(dice.randrange(1, 3))]},
            lambda: {"Ipv4Prefixes": [{"Ipv4Prefix": self.prefix()}]},
            dict,
            dict,
        )
        return dice.choice(ways)()

    def wanted6(self) -> Request:
        dice = self.rng
        ways: tuple[Callable[[], Request], ...] = (
            lambda: {"Ipv6AddressCount": dice.choice((1, 1, 2, 3, 100_000))},
            lambda: {"Ipv6PrefixCount": dice.randrange(1, 3)},
            lambda: {"Ipv6Addresses": [{"Ipv6Address": self.address(6)}]},
            lambda: {"Ipv6Prefixes": [{"Ipv6Prefix": self.prefix(6)}]},
            dict,
            dict,
            dict,
        )
        return dice.choice(ways)()
