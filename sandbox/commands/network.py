"""`enid sandbox pcap` and `counters`: what goes over the wire, and what does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import DROPS
from sandbox.commands import complete
from sandbox.commands import output as out
from sandbox.face import attach
from sandbox.face.client import Sandbox


@click.command(
    cls=out.Command,
    examples=("enid sandbox pcap node-1 | tcpdump -n -r -", "enid sandbox pcap node-1/ens6 --seconds 10 -w ens6.pcap"),
)
@click.argument(
    "where",
    metavar="NODE[/DEVICE]|ENI",
    shell_complete=complete.device,
    help="A node (its primary ENI), one of its devices, or the id of an ENI.",
)
@click.option("--count", type=click.IntRange(1), help="End after this many frames.")
@click.option("--seconds", type=out.Seconds(min_open=True), help="End after this time.")
@click.option(
    "--write",
    "-w",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: standard output, for a pipe into tcpdump or Wireshark]",
)
@click.pass_obj
def pcap(folder: Path, where: str, count: int | None, seconds: float | None, file: Path | None) -> None:
    """Write each frame of an ENI, both ways, as pcap.

    Without a bound, Ctrl-C ends it.
    """
    if file is None and sys.stdout.isatty():
        raise SandboxFailure("bad-request", "pcap: frames are not for a terminal; give --write FILE, or pipe them on")
    world = Sandbox.connect(folder)
    try:
        target = 1 if file is None else os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SandboxFailure("bad-request", f"pcap: {file}: {error.strerror}") from error
    try:
        status = attach.run(
            lambda _files, _terminal: world.capture(where, target, count=count, seconds=seconds), terminal=False
        )
    finally:
        if file is not None:
            os.close(target)
    sys.exit(attach.status_for_shell(status))


@click.command(cls=out.Command, legends={"Reasons": DROPS})
@out.output_option
@click.pass_obj
def counters(folder: Path, output: str) -> None:
    """Show what the VPC router dropped since the start, and why."""
    found = Sandbox.connect(folder).counters()
    if output == "json":
        out.print_json(found)
        return
    rows = [(d.reason, d.direction, d.node, d.eni_id or d.port, d.address, str(d.packets), str(d.bytes)) for d in found]
    columns = ["reason", "rules", "node", "ENI", "address", "packets", "bytes"]
    out.table(columns, rows, right=["packets", "bytes"], empty="no drops")
    reasons = [reason for reason in DROPS if any(drop.reason == reason for drop in found)]
    if reasons:
        click.echo()
    for reason in reasons:
        click.echo(f"{reason}: {DROPS[reason]}")


COMMANDS: Final = (pcap, counters)
