"""The pool's addresses against EC2's word, with a memory.

A Describe may be older than our own last change, and one wrong answer must never take an address from a live
pod. So an answer counts only where nothing was changed shortly before it was asked for; what is missing is put
into quarantine, which costs nobody anything; and only what is missing twice, at least a minute apart, and has no
pod and no cool-down, is dropped. Metadata (IMDS) is no witness here at all: it only makes us ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# EC2's answers lag behind its changes by seconds; the existing system waits as long (ipam.md, fact 7).
LAG_S: Final = 60.0
TWICE_S: Final = 60.0


class PoolAddress(NamedTuple):
    """One secondary address as the pool has it."""

    eni_id: str
    base: str
    idle: bool
    quarantined: bool


@dataclass(slots=True)
class Memory:
    """What was done and seen lately, in seconds of the caller's clock.

    `given`: addresses that EC2 confirmed by answering a change; `taken`: those that left the pool to be unassigned;
    `missing`: addresses, and ids of ENIs, that EC2 did not show, and since when.
    """

    given: dict[str, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)

    def forget(self, now: float) -> None:
        """Drop what no longer matters."""
        for times in (self.given, self.taken):
            for address in [address for address, when in times.items() if now - when > 2 * LAG_S]:
                del times[address]


class Actions(NamedTuple):
    """What to do: pairs of ENI and address to add; addresses to quarantine, to open again, to drop."""

    add: tuple[tuple[str, str], ...]
    quarantine: tuple[str, ...]
    reopen: tuple[str, ...]
    drop: tuple[str, ...]


def compare(
    pool: Iterable[PoolAddress],
    ec2: Mapping[str, Collection[str]],
    memory: Memory,
    asked_s: float,
    busy: Collection[str] = (),
) -> Actions:
    """Actions that follow from one Describe, asked for at `asked_s`. `ec2`: secondary addresses by managed ENI.

    ENIs in `busy` have a step under way, which settles its own addresses. Updates `memory.missing`.
    """
    pool = list(pool)
    add: list[tuple[str, str]] = []
    quarantine: list[str] = []
    reopen: list[str] = []
    drop: list[str] = []
    known = {entry.base for entry in pool}
    for eni_id, addresses in ec2.items():
        if eni_id in busy:
            continue
        fresh = [a for a in sorted(addresses) if a not in known and not _recent(memory.taken, a, asked_s)]
        add += [(eni_id, address) for address in fresh]
    for entry in pool:
        if entry.eni_id in busy:
            continue
        if entry.base in ec2.get(entry.eni_id, ()):
            memory.missing.pop(entry.base, None)
            if entry.quarantined:
                reopen.append(entry.base)
        elif _recent(memory.given, entry.base, asked_s):
            continue
        else:
            since = memory.missing.setdefault(entry.base, asked_s)
            if not entry.quarantined:
                quarantine.append(entry.base)
            elif entry.idle and asked_s - since >= TWICE_S:
                drop.append(entry.base)
    for name in [
        name for name in memory.missing if not name.startswith("eni-") and (name not in known or name in drop)
    ]:
        del memory.missing[name]
    return Actions(tuple(add), tuple(quarantine), tuple(reopen), tuple(drop))


def enis_gone(known: Iterable[str], seen: Collection[str], memory: Memory, asked_s: float) -> tuple[str, ...]:
    """Those of `known` ENIs that EC2 has not shown for the second time, at least a minute after the first."""
    gone = []
    for eni_id in known:
        if eni_id in seen:
            memory.missing.pop(eni_id, None)
        elif asked_s - memory.missing.setdefault(eni_id, asked_s) >= TWICE_S:
            gone.append(eni_id)
    return tuple(gone)


def _recent(times: Mapping[str, float], address: str, asked_s: float) -> bool:
    return address in times and asked_s - times[address] < LAG_S
