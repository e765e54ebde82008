"""ENIs, blocks and totals in the words of the control protocol, and its ENI in the journal's."""

from __future__ import annotations

from typing import Final

from agent import control
from agent.fastpath.loop import now_ns
from core import addresses
from core.ipam import Book, EniEntry
from core.records import EniRecord
from ext import pool

KINDS: Final[tuple[control.BlockKind, ...]] = ("address", "prefix", "prefix6")
STATES: Final[tuple[control.State, ...]] = ("open", "draining", "quarantined")


def block_message(book: Book, info: pool.BlockInfo) -> control.Block:
    """A block; what is held counts as used."""
    entry = book.by_number[info.eni]
    return control.Block(
        eni_id=entry.record.eni_id,
        base=addresses.text(info.base),
        length=info.length,
        kind=KINDS[info.kind],
        state=STATES[info.state],
        used=info.used + info.held,
        cooling=info.cooling,
        size=info.size,
        unready=not entry.confirmed,
    )


def pool_message(stats: pool.Stats, parked: int) -> control.Pool:
    """The totals."""
    next_free = None if stats.next_free_ns is None else max(0.0, (stats.next_free_ns - now_ns()) / 1e9)
    return control.Pool(stats.total, stats.used + stats.held, stats.cooling, stats.free, parked, next_free)


def eni_message(entry: EniEntry) -> control.Eni:
    """An ENI."""
    record = entry.record
    state = next((s for s in STATES if s == record.state), STATES[0])
    return control.Eni(
        record.eni_id, record.mac, record.ifname, record.ifindex, record.card, record.device, record.table,
        record.primary_ip, record.subnet_gateway, record.primary, state,
    )  # fmt: skip


def eni_record(eni: control.Eni) -> EniRecord:
    """The journal's form of an ENI."""
    return EniRecord(
        eni.eni_id, eni.mac, eni.ifname, eni.ifindex, eni.card, eni.device, eni.table, eni.primary_ip,
        eni.subnet_gateway, eni.primary, eni.state,
    )  # fmt: skip
