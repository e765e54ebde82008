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


@click.command(
    cls=out.Command,
    legends={"Names, and what they take": switches.HELP},
    examples=(
        "enid sandbox fault api-lag 5              # Describe calls show what was true 5 s ago",
        "enid sandbox fault api-lag                # its value",
        "enid sandbox fault api-lag off            # as on a good day",
        """enid sandbox fault ec2 '{"action": "Assign*", "error": "RequestLimitExceeded", "times": 20}'""",
        "enid sandbox fault --file faults.json     # a script; docs/sandbox.md has its fields",
        "enid sandbox fault --clear '*'            # all is well again",
    ),
)
@click.argument("name", required=False, shell_complete=complete.fault, help="One of those below.")
@click.argument(
    "value",
    required=False,
    shell_complete=complete.fault_value,
    help="What it is set to; off clears it; none shows it.",
)
@click.option(
    "--file",
    "-f",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Load a script: a JSON list of steps, wholly or not at all.",
)
@click.option(
    "--clear",
    "-c",
    metavar="ID",
    shell_complete=complete.fault_id,
    help="Clear a rule or step by its id, a fault by its name, or all (*).",
)
@out.output_option
@click.pass_context
def fault(
    ctx: click.Context, name: str | None, value: str | None, file: Path | None, clear: str | None, output: str
) -> None:
    """List, show, set and clear what goes wrong.

    Lists everything that is set, waits or failed, also after setting, loading or clearing; NAME alone shows its value.
    """
    if sum((name is not None, file is not None, clear is not None)) > 1:
        raise click.UsageError("one of NAME, --file and --clear at a time", ctx)
    world = Sandbox.connect(ctx.obj)
    if clear is not None:
        world.clear_fault(clear)
    elif file is not None:
        world.load_faults(file.read_bytes().decode(errors="replace"))
    elif name is not None:
        world.fault(name, value)
    found = world.faults()
    if output == "json":
        out.print_json(found)
    elif name is not None and value is None:
        click.echo(f"{name}={found.switches.get(name, 'off')}")
    else:
        _print(found)


def _print(found: FaultList) -> None:
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
    rows += [(one.id, "failed", "", f"{one.why}: {_brief(one.step)}") for one in found.failures]
    if rows or not found.switches:
        out.table(["id", "state", "count", "what"], rows, empty="no faults")


def _brief(record: msgspec.Struct) -> str:
    """A record as JSON, without what is at its default."""
    return msgspec.json.encode(record).decode()


@click.command(
    cls=out.Command,
    examples=(
        "enid sandbox time --rate 0         # stop it",
        "enid sandbox time --advance 600    # ten minutes later",
        "enid sandbox time --rate 1         # real time again",
    ),
)
@click.option("--rate", type=float, help="Seconds of the world per second: 0 stops it, 1 is real time, at most 1000.")
@click.option("--advance", type=float, default=0.0, metavar="SECONDS", help="Jump ahead, by ten years at most.")
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
    click.echo(f"{when}, {now.rate:g} s per second, {round(ahead, 1) + 0.0:+.1f} s against this machine")


@click.command(cls=out.Command)
@click.argument("state", type=click.Choice(["on", "off"]), help="Begin a new file, or end it.")
@click.pass_obj
def trace(folder: Path, state: str) -> None:
    """Write each call and fault to a file, or stop; prints the file.

    One JSON line for each EC2 and metadata call, fault, change that a view is told of, and step of the clock.
    """
    click.echo(Sandbox.connect(folder).trace(state == "on"))


@click.command(cls=out.Command)
@click.argument("node", shell_complete=complete.node, help="Its name.")
@click.pass_obj
def reboot(folder: Path, node: str) -> None:
    """Reboot a node.

    Its processes, pods and network namespace are gone; its ENIs, addresses and files stay.
    """
    Sandbox.connect(folder).reboot(node)


COMMANDS = (fault, time, trace, reboot)
