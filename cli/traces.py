"""What a demo could leave behind, compared as a whole before and after.

"No trace" is claimed of two things: of a node whose pods are gone, and of this machine when the VPC is gone. Both are
asked of the kernel and of EC2's ledger, and everything that is new counts, whatever its name; only what belongs to an
ENI that EC2 itself says is attached may have come meanwhile.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.base import shapes

State = Mapping[str, Sequence[str]]
NAMESPACES = ("pid", "mnt", "net")


@dataclass(frozen=True)
class Attached:
    """The ENIs of a node, as EC2 has them: interface name to primary address."""

    addresses: Mapping[str, str]

    @classmethod
    def of(cls, node: shapes.Node, ledger: Iterable[shapes.LedgerEni]) -> Attached:
        """By the ENIs of the node and the whole ledger."""
        primary = {eni.eni_id: eni.primary_ip for eni in ledger}
        return cls({nic.ifname: primary[nic.eni_id] for nic in node.nics if nic.eni_id in primary})

    def without(self, others: Attached) -> Attached:
        """Those that `others` lacks."""
        return Attached({name: ip for name, ip in self.addresses.items() if others.addresses.get(name) != ip})

    def explain(self, line: str) -> bool:
        """Whether the line speaks of one of them, by its name or its primary address."""
        words = [*self.addresses, *self.addresses.values()]
        return any(re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", line) for word in words)


def of_node(before: State, after: State, had: Attached, has: Attached) -> list[str]:
    """What is new on a node or gone from it, but for the ENIs that came or went meanwhile."""
    came, went = has.without(had), had.without(has)
    found = []
    for what in before:
        found += [f"new in {what}: {x}" for x in _extra(after[what], before[what]) if not came.explain(x)]
        found += [f"gone from {what}: {x}" for x in _extra(before[what], after[what]) if not went.explain(x)]
    return found


def _extra(lines: Iterable[str], known: Iterable[str]) -> list[str]:
    """Lines that are there more often than before."""
    left = list(known)
    extra = []
    for line in lines:
        if line in left:
            left.remove(line)
        else:
            extra.append(line)
    return extra


# --- this machine ---------------------------------------------------------------------------------------


def machine() -> dict[str, set[str]]:
    """Links, mounts and named namespaces of this machine, as this process sees them."""
    mounts = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mounts.add(f"{left.split()[4]} ({' '.join(right.split()[:2])})")
    named = Path("/run/netns")
    return {
        "link": {name for _, name in socket.if_nameindex()},
        "mount": mounts,
        "namespace": set(os.listdir(named)) if named.is_dir() else set(),
    }


def of_machine(before: Mapping[str, set[str]]) -> list[str]:
    """What this machine has now and had not before."""
    now = machine()
    return [
        f"{what} {name} has come meanwhile, from us or from another program"
        for what in before
        for name in sorted(now[what] - before[what])
    ]


def world_namespaces(outer: int) -> set[str]:
    """Of all processes of a world, by the pid of its outermost one: such as `pid:[4026532281]`, but not our own."""
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES}
    return {space for pid in _family(outer) for space in _namespaces(pid)} - own


def processes_in(spaces: set[str], home: Path) -> list[str]:
    """Processes of this machine that live in one of these namespaces, or were started to work in the folder."""
    left = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        named = f"{home}/nodes" in words or ("sandbox.world.daemon" in words and str(home) in words)
        if not ended and (named or _namespaces(int(entry.name)) & spaces):
            left.append(f"process {entry.name}: {words[:120]}")
    return left


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                found += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
    return found


def _namespaces(pid: int) -> set[str]:
    found = set()
    for kind in NAMESPACES:
        with suppress(OSError):  # ended, or another user's
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found
