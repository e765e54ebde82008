"""`enid status`: what the node's pool holds, where, what is planned, and what went wrong last."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from agent.control import Block, Eni, Outlook, Pool, Snapshot
from cli import output as out
from cli.options import connect, node_options
from core.errors import NodeFull


@dataclass
class EniTotals:
    """What the blocks of one ENI add up to, in addresses. `free` counts open blocks of an open ENI only."""

    blocks: int = 0
    size: int = 0
    used: int = 0
    cooling: int = 0
    free: int = 0
    held: int = 0  # free addresses that are not handed out: draining or quarantined


def totals(enis: Iterable[Eni], blocks: Iterable[Block]) -> dict[str, EniTotals]:
    """Sums per ENI id; a block whose ENI is not known (unconfirmed since a restart) makes an entry of its own."""
    by_eni = {eni.eni_id: EniTotals() for eni in enis}
    state = {eni.eni_id: eni.state for eni in enis}
    for block in blocks:
        sums = by_eni.setdefault(block.eni_id, EniTotals())
        sums.blocks += 1
        sums.size += block.size
        sums.used += block.used
        sums.cooling += block.cooling
        left = block.size - block.used - block.cooling
        if block.state == "open" and state.get(block.eni_id) == "open":
            sums.free += left
        else:
            sums.held += left
    return by_eni


def count(number: int) -> str:
    """A number for people; an IPv6 prefix holds 2^48 addresses, which nobody wants to read."""
    return str(number) if number < 10**7 else f"{number:.1e}"


@click.command(short_help="The address pool of this node, per ENI.")
@node_options
@out.report_errors
def status(run_dir: Path, output: str, timeout: float) -> None:
    """The address pool of this node, per ENI; targets, outlook and the last errors."""
    with connect(run_dir, timeout) as client:
        snapshot = client.snapshot()
    if output == "json":
        out.print_json(as_json(snapshot))
    else:
        show(snapshot, time.time())


def as_json(snapshot: Snapshot) -> dict[str, object]:
    """The snapshot with the sums per ENI."""
    sums = totals(snapshot.enis, snapshot.blocks)
    body = {name: getattr(snapshot, name) for name in snapshot.__struct_fields__}
    body["enis"] = [
        {**_fields(eni), "addresses": vars(sums[eni.eni_id])} for eni in sorted(snapshot.enis, key=_eni_order)
    ]
    body["outlook"] = outlook_fields(snapshot.outlook)
    return body


def outlook_fields(outlook: Outlook | None) -> dict[str, object] | None:
    """The outlook for programs: with the time that is left, since nobody else's clock counts from the boot."""
    if outlook is None:
        return None
    fields = {name: getattr(outlook, name) for name in outlook.__struct_fields__ if name != "retry_at_ns"}
    return {**fields, "retry_after_s": outlook.retry_after_s(now_ns())}


def now_ns() -> int:
    """CLOCK_BOOTTIME, which the agent's times are on."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def show(snapshot: Snapshot, now_unix: float) -> None:
    """The tables; `now_unix` dates the ages."""
    pool = snapshot.pool
    phase = (snapshot.report or {}).get("phase") or "the manager has not said anything yet"
    ready = "ready" if snapshot.ready else f"not ready: {phase}"
    click.echo(f"agent up {out.since(snapshot.started_unix, now_unix)}, {ready}")
    click.echo(pool_line(pool))
    if snapshot.outlook is not None and not snapshot.outlook.can_grow:
        click.echo(limit_line(snapshot.outlook, pool))
    show_enis(snapshot)
    show_special_blocks(snapshot.blocks)
    if snapshot.report:
        show_report(snapshot.report)
    if snapshot.counters:
        out.heading("counters")
        out.table(["counter", "value"], ((n, str(v)) for n, v in sorted(snapshot.counters.items())), right=["value"])
    if snapshot.last_errors:
        out.heading("agent: last errors")
        for line in snapshot.last_errors:
            click.echo(f"  {line}")


def pool_line(pool: Pool) -> str:
    """The totals in one line."""
    text = f"pool: {count(pool.total)} addresses, {pool.used} used, {pool.cooling} cooling, {count(pool.free)} free"
    if pool.parked:
        text += f"; {pool.parked} pods wait for an address"
    if not pool.free and pool.next_free_in_s is not None:
        text += f"; the next cool-down ends in {pool.next_free_in_s:.1f} s"
    return text


def limit_line(outlook: Outlook, pool: Pool) -> str:
    """Why no more addresses can come, and whether that matters: a node at its limit may have plenty that are free."""
    after = outlook.retry_after_s(now_ns())
    again = f" (next try in {after:.0f} s)" if after is not None else ""
    why = f"{outlook.text} [{outlook.code}]{again}"
    if not pool.free:
        return f"no more addresses can come: {why}"
    held = f"{count(pool.total)} addresses held, {count(pool.free)} free"
    full = outlook.code == NodeFull.code
    return f"at its limit: {held}; {why}" if full else f"cannot grow for now: {held}; {why}"


def show_enis(snapshot: Snapshot) -> None:
    """One line per ENI, the primary first."""
    out.heading("ENIs")
    if not snapshot.enis:
        click.echo("  none known yet")
        return
    sums = totals(snapshot.enis, snapshot.blocks)
    columns = ["ENI", "card", "device", "link", "table", "state", "primary IP", "blocks", "used", "cooling", "free"]
    rows = []
    for eni in sorted(snapshot.enis, key=_eni_order):
        total = sums[eni.eni_id]
        numbers = (total.blocks, total.used, total.cooling, total.free)
        name = eni.eni_id + (" (primary)" if eni.primary else "")
        place = (str(eni.card), str(eni.device), eni.ifname, str(eni.table), eni.state, eni.primary_ip)
        rows.append((name, *place, *(count(n) for n in numbers)))
    out.table(columns, rows, right=["card", "device", "table", "blocks", "used", "cooling", "free"])


def show_special_blocks(blocks: Iterable[Block]) -> None:
    """Blocks that hand out nothing, each by name: somebody will ask why."""
    special = [block for block in blocks if block.state != "open"]
    if special:
        out.heading("blocks that hand out nothing")
        rows = [(f"{b.base}/{b.length}", b.eni_id, b.state, str(b.used), str(b.cooling)) for b in special]
        out.table(["block", "ENI", "state", "used", "cooling"], rows, right=["used", "cooling"])


def show_report(report: dict[str, object]) -> None:
    """The manager's account: its lists of lines (steps, errors) as such, the rest as a table."""
    lists = {key: value for key, value in report.items() if isinstance(value, list) and not _nested(value)}
    out.heading("manager")
    out.table(["what", "value"], flat({key: value for key, value in report.items() if key not in lists}))
    for key, lines in lists.items():
        if lines:
            out.heading(f"manager: {key}")
            for line in lines:
                click.echo(f"  {line}")


def _nested(items: list[object]) -> bool:
    return any(isinstance(item, dict | list) for item in items)


def flat(report: object, prefix: str = "") -> list[tuple[str, str]]:
    """The manager's report as lines: nested names joined by dots, lists of scalars in one line."""
    if isinstance(report, dict):
        return [line for key, value in report.items() for line in flat(value, f"{prefix}.{key}" if prefix else key)]
    if isinstance(report, list) and _nested(report):
        return [line for index, item in enumerate(report) for line in flat(item, f"{prefix}.{index}")]
    if isinstance(report, list):
        return [(prefix, ", ".join(str(item) for item in report) or "none")]
    return [(prefix, "-" if report is None else str(report))]


def _eni_order(eni: Eni) -> tuple[bool, int, int]:
    return (not eni.primary, eni.card, eni.device)


def _fields(eni: Eni) -> dict[str, object]:
    return {name: getattr(eni, name) for name in eni.__struct_fields__}
