"""The life of an address between EC2 and the pool, and the pool against EC2's word, with a memory.

A Describe may be older than our own last change, and one wrong answer must never take an address from a live pod,
nor give a pod one that is gone. So each address of an ENI has a life:

    held      EC2 shows it, or has just answered that we have it (`given`): the pool may have it
    leaving   out of the pool; a step that takes it off the ENI waits, is under way, or hangs: nobody may have it
    left      that step has ended, well or unknown how: it rests from then on, since an answer of EC2 that was asked for
              within LAG_S may still show it; an answer to a later question counts again

The stamp of `left` is taken when the step *ends*: a step that waits for its turn can take longer than the rest. The
same holds for whole ENIs. An ENI on which an earlier life of ours may have ended a step a moment ago is `unsure`: what
EC2 shows on it beside the pool counts only when it is asked again later. What EC2 does not show is put into
quarantine, which costs nobody anything; only what is missing twice, at least a minute apart, and has no pod and no
cool-down, is dropped. Metadata (IMDS) is no witness here at all: it only makes us ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# EC2's answers lag behind its changes by seconds; the existing system waits as long (IPAM specification, fact 7).
LAG_S: Final = 60.0
TWICE_S: Final = 60.0
# An answer comes in minutes after its question, at the worst.
KEPT_S: Final = 600.0

NEVER: Final = float("-inf")
# ENI id and address: what has left one ENI may be given to another at once.
Key = tuple[str, str]


class PoolAddress(NamedTuple):
    """One secondary address as the pool has it."""

    eni_id: str
    base: str
    idle: bool
    quarantined: bool


@dataclass(slots=True)
class Memory:
    """What was done and seen lately, in seconds of the caller's clock; see the top of this file.

    `missing`, `missing_enis`: what EC2 did not show, and since when.
    """

    given: dict[Key, float] = field(default_factory=dict)
    leaving: set[Key] = field(default_factory=set)
    left: dict[Key, float] = field(default_factory=dict)
    left_enis: dict[str, float] = field(default_factory=dict)
    unsure: dict[str, float] = field(default_factory=dict)
    missing: dict[Key, float] = field(default_factory=dict)
    missing_enis: dict[str, float] = field(default_factory=dict)

    def give(self, eni_id: str, addresses: Iterable[str], now: float) -> None:
        """EC2 has answered a change with these: they are ours from now on, whatever an older answer shows."""
        for address in addresses:
            self.given[eni_id, address] = now
            self.left.pop((eni_id, address), None)

    def leave(self, eni_id: str, addresses: Iterable[str]) -> None:
        """They are out of the pool and a step is to take them off."""
        self.leaving.update((eni_id, address) for address in addresses)

    def stay(self, eni_id: str, addresses: Iterable[str]) -> None:
        """The step has ended and has not taken them off."""
        self.leaving.difference_update((eni_id, address) for address in addresses)

    def gone(self, eni_id: str, addresses: Iterable[str], now: float) -> None:
        """The step has ended; these are off the ENI, or may be."""
        for key in [(eni_id, address) for address in addresses]:
            self.leaving.discard(key)
            self.given.pop(key, None)
            self.left[key] = now

    def may_have(self, eni_id: str, address: str, asked_s: float) -> bool:
        """Whether EC2's word, asked for at `asked_s`, is enough to give this address to the pool."""
        if not self.stays(eni_id, address, asked_s):
            return False
        return (eni_id, address) in self.given or asked_s - self.unsure.get(eni_id, NEVER) >= LAG_S

    def stays(self, eni_id: str, address: str, asked_s: float) -> bool:
        """Whether an address that EC2 shows is not one that we take, or have just taken, off its ENI."""
        key = (eni_id, address)
        return key not in self.leaving and asked_s - self.left.get(key, NEVER) >= LAG_S

    def rests_until(self, eni_id: str, address: str) -> float:
        """When EC2's word for this address counts again, if the steps that are under way leave it alone."""
        key = (eni_id, address)
        unsure = NEVER if key in self.given else self.unsure.get(eni_id, NEVER)
        return max(self.left.get(key, NEVER), unsure) + LAG_S

    def outgoing(self, eni_id: str, now: float) -> set[str]:
        """Addresses of an ENI that are leaving it, or have left it so lately that a Describe may still show them."""
        resting = [key for key, when in self.left.items() if now - when < LAG_S]
        return {address for eni, address in (*self.leaving, *resting) if eni == eni_id}

    def young(self, eni_id: str, address: str, asked_s: float) -> bool:
        """Whether an answer asked for at `asked_s` may be older than the change that gave us this address."""
        return asked_s - self.given.get((eni_id, address), NEVER) < LAG_S

    def eni_rests(self, eni_id: str, asked_s: float) -> bool:
        """Whether an ENI that an answer shows has been removed by us, or may have been, so lately that it may lag."""
        return asked_s - self.left_enis.get(eni_id, NEVER) < LAG_S

    def forget(self, now: float) -> None:
        """Drop what no longer matters."""
        for times in (self.given, self.left):
            for key in [key for key, when in times.items() if now - when > KEPT_S]:
                del times[key]
        for enis in (self.left_enis, self.unsure):
            for eni_id in [eni_id for eni_id, when in enis.items() if now - when > KEPT_S]:
                del enis[eni_id]


class Actions(NamedTuple):
    """What to do: pairs of ENI and address to add, to quarantine, to open again, to drop."""

    add: tuple[Key, ...]
    quarantine: tuple[Key, ...]
    reopen: tuple[Key, ...]
    drop: tuple[Key, ...]


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
    add: list[Key] = []
    quarantine: list[Key] = []
    reopen: list[Key] = []
    drop: list[Key] = []
    known = {entry.base for entry in pool}
    for eni_id, addresses in ec2.items():
        if eni_id in busy:
            continue
        fresh = [a for a in sorted(addresses) if a not in known and memory.may_have(eni_id, a, asked_s)]
        add += [(eni_id, address) for address in fresh]
    for entry in pool:
        key = (entry.eni_id, entry.base)
        if entry.eni_id in busy:
            continue
        if entry.base in ec2.get(entry.eni_id, ()) and memory.stays(*key, asked_s):
            memory.missing.pop(key, None)
            if entry.quarantined:
                reopen.append(key)
        elif memory.young(*key, asked_s):
            continue
        else:
            since = memory.missing.setdefault(key, asked_s)
            if not entry.quarantined:
                quarantine.append(key)
            elif entry.idle and asked_s - since >= TWICE_S:
                drop.append(key)
    there = {(entry.eni_id, entry.base) for entry in pool}
    for key in [key for key in memory.missing if key not in there or key in drop]:
        del memory.missing[key]
    return Actions(tuple(add), tuple(quarantine), tuple(reopen), tuple(drop))


def enis_gone(known: Iterable[str], seen: Collection[str], memory: Memory, asked_s: float) -> tuple[str, ...]:
    """Those of `known` ENIs that EC2 has not shown for the second time, at least a minute after the first."""
    names = set(known)
    for eni_id in [name for name in memory.missing_enis if name in seen or name not in names]:
        del memory.missing_enis[eni_id]
    missed = {eni_id: memory.missing_enis.setdefault(eni_id, asked_s) for eni_id in sorted(names - set(seen))}
    return tuple(eni_id for eni_id, since in missed.items() if asked_s - since >= TWICE_S)
