"""How much each instance type can hold: ENIs per network card, addresses per ENI.

The figures come from AWS's public DescribeInstanceTypes answers (as collected in moto's data, Apache-2.0; made by
`make_data.py`), on purpose not from a table of any network plugin: a test against a program's own table would agree
with its mistakes. A scenario may add types of its own, for example one with room for thousands of addresses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from sandbox.ec2 import errors

DATA: Final = resources.files("sandbox.ec2") / "data"


def quotas() -> dict[str, int]:
    """The account's quotas by name, as they are without a raise (`data/quotas.json`, each with its source)."""
    return {name: row["value"] for name, row in json.loads((DATA / "quotas.json").read_text()).items()}


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One type. `cards` holds the most ENIs of each network card, by index. `hypervisor` is nitro, xen or empty."""

    name: str
    enis: int
    ipv4_per_eni: int
    ipv6_per_eni: int
    cards: tuple[int, ...]
    default_card: int = 0
    hypervisor: str = "nitro"
    bare_metal: bool = False
    vcpus: int = 2
    memory_mib: int = 8192
    architectures: tuple[str, ...] = ("x86_64",)
    efa: bool = False
    branches: int | None = None  # most branch ENIs of its trunk; 0: takes no trunk; None: not known here

    @property
    def prefixes(self) -> bool:
        """Whether its ENIs may hold prefixes: only instances built on Nitro (EC2 guide, prefixes)."""
        return self.hypervisor == "nitro" or self.bare_metal


class Catalogue:
    """All instance types that exist: the public ones, read on first use, and those registered at run time."""

    def __init__(self) -> None:
        self._own: dict[str, InstanceType] = {}
        self._public: dict[str, list[int]] | None = None
        self._shapes: list[list[object]] = []
        self._branches: dict[str, int] = {}
        self._roomiest: tuple[int, int] | None = None

    def _load(self) -> dict[str, list[int]]:
        if self._public is None:
            data = json.loads((DATA / "instance_types.json").read_text())
            self._shapes = data["shapes"]
            self._public = data["types"]
        return self._public

    def register(
        self,
        name: str,
        *,
        enis: int,
        ipv4: int,
        ipv6: int | None = None,
        cards: Sequence[int] | None = None,
        hypervisor: str = "nitro",
        bare_metal: bool = False,
        vcpus: int = 2,
        memory_mib: int = 8192,
        branches: int = 0,
        efa: bool = False,
    ) -> InstanceType:
        """Make up a type. `cards` gives the most ENIs per network card (default: one card with all of them).

        Raises ValueError if the figures cannot be those of a type.
        """
        if not name or enis < 1 or ipv4 < 1 or (ipv6 is not None and ipv6 < 0) or branches < 0:
            raise ValueError(f"instance type {name!r}: enis={enis}, ipv4={ipv4}, ipv6={ipv6}: at least 1, 1 and 0")
        if cards is not None and (not cards or min(cards) < 1):
            raise ValueError(f"instance type {name!r}: cards={cards!r}: at least one card with at least one ENI each")
        made = InstanceType(
            name=name,
            enis=enis,
            ipv4_per_eni=ipv4,
            ipv6_per_eni=ipv4 if ipv6 is None else ipv6,
            cards=tuple(cards) if cards is not None else (enis,),
            hypervisor=hypervisor,
            bare_metal=bare_metal,
            vcpus=vcpus,
            memory_mib=memory_mib,
            branches=branches,
            efa=efa,
        )
        self._own[name] = made
        self._roomiest = None
        return made

    def get(self, name: str) -> InstanceType:
        """Raises NO_TYPE."""
        if name in self._own:
            return self._own[name]
        row = self._load().get(name)
        if row is None:
            raise errors.NO_TYPE(type=name)
        shape, vcpus, memory_mib = row
        made = self._own[name] = _unpack(name, self._shapes[shape], vcpus, memory_mib, self._branch_limit(name))
        return made

    def _branch_limit(self, name: str) -> int | None:
        """EC2's API does not tell these (`data/branches.json` has its source)."""
        if not self._branches:
            self._branches = json.loads((DATA / "branches.json").read_text())["types"]
        return self._branches.get(name)

    def roomiest(self) -> tuple[int, int]:
        """The most IPv4 and IPv6 addresses that an ENI can hold on any type."""
        if self._roomiest is None:
            rows = [(kind.ipv4_per_eni, kind.ipv6_per_eni) for kind in self]
            self._roomiest = max(ipv4 for ipv4, _ in rows), max(ipv6 for _, ipv6 in rows)
        return self._roomiest

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._load().keys() | self._own.keys())

    def __iter__(self) -> Iterator[InstanceType]:
        return (self.get(name) for name in self.names())

    def __len__(self) -> int:
        return len(self.names())


def _unpack(name: str, shape: Sequence[object], vcpus: int, memory_mib: int, branches: int | None) -> InstanceType:
    enis, ipv4, ipv6, cards, default_card, hypervisor, bare_metal, architectures, efa = shape
    if not (
        isinstance(enis, int) and isinstance(ipv4, int) and isinstance(ipv6, int) and isinstance(default_card, int)
    ):
        raise ValueError(f"data of instance type {name!r} is damaged: {shape!r}")
    if not (isinstance(cards, list) and isinstance(architectures, list)):
        raise ValueError(f"data of instance type {name!r} is damaged: {shape!r}")
    return InstanceType(
        name=name,
        enis=enis,
        ipv4_per_eni=ipv4,
        ipv6_per_eni=ipv6,
        cards=tuple(cards),
        default_card=default_card,
        hypervisor=str(hypervisor),
        bare_metal=bool(bare_metal),
        vcpus=vcpus,
        memory_mib=memory_mib,
        architectures=tuple(architectures),
        efa=bool(efa),
        branches=branches if hypervisor == "nitro" or bare_metal else 0,
    )
