"""`enid sandbox fault`, `time`, `trace` and `reboot`: what goes wrong, and when."""

from __future__ import annotations

import time as clocks
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from sandbox.commands import complete
from sandbox.commands import output as out
from sandbox.face.client import Sandbox
from sandbox.world import switches
from sandbox.world.script import FaultList

_HELP = "Names: " + "; ".join(f"{name}: {text}" for name, text in switches.HELP.items())


@click.command(cls=out.Command, epilog=_HELP)
@click.argument("name", default="", shell_complete=complete.fault)
@click.argument("value", default="", shell_complete=complete.fault_value)
@click.option(
    "--file",
    "-f",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Load a script: a JSON list of steps.",
)
@click.option("--clear", "-c", metavar="ID", help="Clear a rule or step by its id, a name, or all (*).")
@out.output_option
@click.pass_context
def fault(ctx: click.Context, name: str, value: str, file: Path | None, clear: str | None, output: str) -> None:
    """Set fault NAME to VALUE (none clears it), load a script, or clear one; without any of these list all."""
    if sum((bool(name), file is not None, clear is not None)) > 1:
        raise click.UsageError("one of NAME, --file and --clear at a time", ctx)
    world = Sandbox.connect(ctx.obj)
    if clear is not None:
        world.clear_fault(clear)
    elif file is not None:
        world.load_faults(file.read_bytes().decode(errors="replace"))
    elif name:
        now = world.fault(name, value)
        if output == "json":
            out.print_json(now)
        for key, text in now.items() if output != "json" else ():
            click.echo(f"{key}={text}")
        return
    _print(world.faults(), output)


def _print(found: FaultList, output: str) -> None:
    if output == "json":
        out.print_json(found)
        return
    for key, text in found.switches.items():
        click.echo(f"{key}={text}")
    rows = [
        (
            one.id,
            "in force",
            f"{one.hits} hit, {'no end' if one.left is None else f'{one.left} left'}",
            _brief(one.rule),
        )
        for one in found.rules
    ]
    rows += [
        (one.id, "waits", f"{one.left:g} {'calls' if one.step.after else 's'}", _brief(one.step))
        for one in found.waiting
    ]
    if rows:
        out.table(["id", "state", "count", "what"], rows, empty="")


def _brief(record: msgspec.Struct) -> str:
    """A record as JSON, without what is at its default."""
    return msgspec.json.encode(record).decode()


@click.command(cls=out.Command)
@click.option("--rate", type=float, help="Seconds of the world per second: 0.1 slows it, 0 stops it, 1 is real time.")
@click.option("--advance", type=float, default=0.0, metavar="SECONDS", help="Jump ahead.")
@out.output_option
@click.pass_obj
def time(folder: Path, rate: float | None, advance: float, output: str) -> None:
    """Show the world's clock; slow, stop or advance it.

    It moves EC2's lags and delays, steps of fault scripts, metadata tokens, request buckets and rules with a window.
    It does not move packets, processes, the kernel's timers or the Kubernetes stand-in.
    """
    now = Sandbox.connect(folder).time(rate=rate, advance=advance)
    if output == "json":
        out.print_json(now)
        return
    ahead = now.now - clocks.time()
    when = datetime.fromtimestamp(now.now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    click.echo(f"{when}, {now.rate:g} s per second, {ahead:+.1f} s against this machine")


@click.command(cls=out.Command)
@click.argument("state", type=click.Choice(["on", "off"]))
@click.pass_obj
def trace(folder: Path, state: str) -> None:
    """Write every call, fault, view's change and clock step to a file of JSON lines, or stop; prints the file."""
    click.echo(Sandbox.connect(folder).trace(state == "on"))


@click.command(cls=out.Command)
@click.argument("node", shell_complete=complete.node)
@click.pass_obj
def reboot(folder: Path, node: str) -> None:
    """Reboot NODE: its processes, pods and network namespace are gone; its ENIs, addresses and files stay."""
    Sandbox.connect(folder).reboot(node)


COMMANDS = (fault, time, trace, reboot)
