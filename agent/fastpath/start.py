"""From what earlier runs left behind to a node that serves: restart is a resync.

The rules are in `core/recovery.py`; here the three sources are read, and what was decided is done. A source that
cannot be read is told and does without: a damaged file must never be a node that cannot start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agent.fastpath import node as nodes
from agent.fastpath.history import History
from agent.fastpath.loop import now_ns
from agent.fastpath.node import Node
from core import addresses, records
from core.errors import CheckpointForeign, JournalDamaged, JournalNewer
from core.ipam import UP, WIRING, Owner
from core.names import DEFAULT_VETH_PREFIX
from core.records import Allocation, Image
from core.recovery import UNPROVEN, Recovered, Recovery, Times, recover
from ext import journal as journals
from ext import netlink

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Left(NamedTuple):
    """What the journal says, and whether it can be relied on for blocks. `problems` are (code, text)."""

    journal: journals.Journal
    image: Image
    other_boot: bool
    doubtful: bool
    problems: list[tuple[str, str]]


def open_journal(folder: str, boot_id: str) -> Left:
    """Open the journal, whatever state it is in. Raises journals.InUse, OSError."""
    raw = bytes.fromhex(boot_id.replace("-", ""))
    problems: list[tuple[str, str]] = []
    try:
        opened = journals.Journal.open(folder, raw)
    except journals.NewerFormat as error:
        problems.append((JournalNewer.code, f"{error}; state is taken from ipam.json and the kernel"))
        opened = journals.Journal.open(folder, raw, discard=True)
        return Left(opened.journal, Image(), False, True, problems)
    bad = opened.damage is not None and opened.damage.kind == journals.BAD
    if opened.damage is not None and bad:
        text = f"{opened.damage.text} at byte {opened.damage.offset}; what is before counts"
        problems.append((JournalDamaged.code, text))
    return Left(opened.journal, records.replay(opened.records), opened.history, bad, problems)


def read_foreign(
    path: str, digests: Sequence[bytes], problems: list[tuple[str, str]]
) -> tuple[list[Allocation] | None, bytes]:
    """The entries of ipam.json if somebody else wrote it (None if it is missing, unreadable or our own), and the
    file's digest if it is our own."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None, b""
    except OSError as error:
        problems.append((CheckpointForeign.code, f"{path} cannot be read: {error}"))
        return None, b""
    try:
        found = records.read_checkpoint(data)
    except CheckpointForeign as error:
        problems.append((error.code, f"{path}: {error.text}"))
        # It is evidence; our own version takes its place in a moment.
        try:
            os.replace(path, f"{path}.unreadable")
        except OSError:
            pass
        return None, b""
    problems += [(CheckpointForeign.code, text) for text in found.problems]
    return (None, found.digest) if found.digest in digests else (found.allocations, b"")


def resync(node: Node, left: Left) -> None:
    """Bring the node to what is true now, and the journal, ipam.json and the kernel with it.

    Raises OSError or journals.JournalError if the journal cannot take the state, NetlinkError if the kernel does not
    answer: without these nothing can be served.
    """
    now = now_ns()
    problems = list(left.problems)
    foreign, node.checkpoint.on_disk = read_foreign(node.settings.checkpoint_path, left.image.digests, problems)
    facts = node.kernel.facts()
    recovery = recover(
        left.image,
        other_boot=left.other_boot,
        foreign=foreign,
        links=facts.links,
        states=facts.states,
        prefixes=(node.settings.veth_prefix, DEFAULT_VETH_PREFIX),
        times=Times(
            now,
            time.time_ns(),
            node.cooldown_ns,
            int((node.settings.add_wait_s + nodes.ADD_GRACE_S) * 1e9),
        ),
    )
    for code, text in problems:
        node.note_error("start", code, text)
    for text in recovery.problems:
        node.count("recovery_problems")
        node.log.warn("start", text)
    node.initialised = left.image.ready and not left.other_boot
    node.digests.extend(left.image.digests)
    away = (now - left.image.last_ns) / 1e9
    if recovery.blocks and (left.doubtful or foreign is not None or away > nodes.ABSENCE_S):
        node.wait_ready = True
        why = f"nobody was here for {away:.0f} s"
        if foreign is not None:
            why = "somebody else wrote ipam.json, and may have changed what EC2 gives us"
        elif left.doubtful:
            why = "the journal is damaged"
        node.log.warn("start", f"{why}: new addresses wait until the manager has confirmed the blocks")
    if left.other_boot:
        node.reboot_rests = set(recovery.cooling)
        node.count("start_after_reboot")
    _adopt(node, recovery, now)
    node.history = History(recovery.history)
    node.compact()
    _repair(node, recovery)
    for owner in node.book.owners.values():
        if owner.host_index:
            owner.entry = records.checkpoint_entry(owner.meta, owner.address)
            node.checkpoint.put(owner.key, owner.entry)
    node.checkpoint.write()
    node.log.info(
        "start",
        f"{len(node.book.owners)} pods, {len(recovery.blocks)} blocks, {len(recovery.held)} held, "
        f"{len(recovery.cooling)} cooling; {len(foreign or ())} entries came from a foreign ipam.json",
    )


def _adopt(node: Node, recovery: Recovery, now: int) -> None:
    """Owners and rests first, so that a block never shows an address free that is not."""
    for found in recovery.owners:
        node.book.adopt(_owner(found, now), found.heir_of)
        if found.expires_ns:
            node.loop.at(found.expires_ns, node.sweep)
    for address, links in recovery.held.items():
        node.book.hold(address, links)
    # In order of their ends: the pool takes those in O(1).
    for address, until in sorted(recovery.cooling.items(), key=lambda item: item[1]):
        node.book.rest(address, until, now)
    for record in recovery.enis.values():
        node.book.set_eni(record, confirmed=False)
    for (base, length), block in recovery.blocks.items():
        try:
            node.book.add_block(block.eni_id, base, length, block.kind, block.state, now)
        except Exception as error:
            node.note_error("start", "block-refused", f"block {addresses.cidr(base, length)} of the journal: {error}")


def _owner(found: Recovered, now: int) -> Owner:
    return Owner(
        key=found.key,
        address=found.address,
        meta=found.meta,
        since_ns=now,
        # Without a carrier its ADD was cut short, or its pod has put the link down itself: nobody can tell from here.
        state=UP if found.carrier else WIRING,
        host_index=found.index,
        host_mac=found.mac,
        complete=found.proof > UNPROVEN,
        expires_ns=found.expires_ns,
    )


def _repair(node: Node, recovery: Recovery) -> None:
    """Put the kernel right where it differs. What it refuses is told, and nothing else suffers."""
    for found in recovery.owners:
        owner = node.book.owners[found.key]
        if not found.missing and not found.surplus:
            continue
        node.count("repaired_at_start")
        node.log.warn(
            "start",
            f"{owner.meta.host_veth}: {', '.join(found.missing) or 'nothing'} missing, "
            f"{len(found.surplus)} rules too many; put right",
        )
        try:
            node.kernel.repair(owner, found.missing, found.surplus)
        except netlink.NetlinkError as error:
            node.note_error("start", "kernel-refused", f"{owner.meta.host_veth} could not be repaired: {error}")
    for address, state in recovery.stale.items():
        node.count("stale_rules_at_start")
        try:
            node.kernel.clear_address(address, state.from_tables)
        except netlink.NetlinkError as error:
            node.note_error("start", "kernel-refused", f"rules of {addresses.text(address)} stay: {error}")
    for index in recovery.reap:
        node.reaper.put(index)


def boot_id() -> str:
    """This boot's id, as the kernel writes it."""
    return BOOT_ID.read_text().strip()
