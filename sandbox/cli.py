"""`enid sandbox ...`: the world from the command line.

A thin layer over client.py: tables for people, `--output json` for programs, failures as one line with exit
status 1 (what a command inside a node returns is passed on by `exec`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from sandbox import lifetime, scenario, switches
from sandbox.client import Sandbox, default_folder
from sandbox.failures import SandboxFailure
from sandbox.scenario import Scenario, TypeSpec


class _Group(click.Group):
    """Turns failures of the sandbox into one line on standard error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SandboxFailure as failure:
            raise click.ClickException(failure.text) from failure


@click.group(cls=_Group)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_folder,
    help="Folder of the sandbox; all its state is there.  [default: $ENID_SANDBOX_DIR or ~/.local/state/enid/sandbox]",
)
@click.pass_context
def sandbox(ctx: click.Context, folder: Path) -> None:
    """A VPC in a box: EC2, metadata, Kubernetes and a real data plane, in namespaces of this machine."""
    ctx.obj = folder.absolute()


_output = click.option(
    "--output", type=click.Choice(["table", "json"]), default="table", help="Tables for people, JSON for programs."
)


@sandbox.command()
@click.option("--nodes", type=click.IntRange(0, 200), default=3, show_default=True, help="How many nodes.")
@click.option("--type", "instance_type", default="m5.large", show_default=True, help="Instance type of the nodes.")
@click.option(
    "--make-type",
    multiple=True,
    metavar="NAME:ENIS:ADDRESSES",
    help="A made-up instance type: ENIs, IPv4 addresses per ENI.",
)
@click.option(
    "--scenario",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Scenario file (JSON) instead.",
)
@click.option(
    "--hop-limit", type=click.IntRange(1, 64), default=2, show_default=True, help="Hop limit of metadata answers."
)
@click.option("--seed", type=int, default=1, show_default=True, help="All ids and MACs follow from it.")
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, and take the sandbox down then.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds until it must be up.")
@click.pass_obj
def up(
    folder: Path,
    nodes: int,
    instance_type: str,
    make_type: Sequence[str],
    file: Path | None,
    hop_limit: int,
    seed: int,
    foreground: bool,
    timeout: float,
) -> None:
    """Start a sandbox; returns when its nodes are up."""
    if file is not None:
        wanted = scenario.parse(file.read_bytes())
    else:
        types = tuple(_made_up(text) for text in make_type)
        wanted = Scenario.simple(nodes, instance_type, types=types, seed=seed, hop_limit=hop_limit)
    begun = time.monotonic()
    world = Sandbox.up(
        folder, wanted, attached=foreground, timeout=timeout, progress=lambda text: click.echo(f"  {text}", err=True)
    )
    click.echo(f"up in {time.monotonic() - begun:.1f} s: {len(wanted.nodes)} nodes, folder {folder}", err=True)
    if foreground:
        click.echo("Ctrl-C ends it", err=True)
        try:
            while lifetime.running(folder):
                time.sleep(0.2)
        except KeyboardInterrupt:
            click.echo("going down", err=True)
        finally:
            world.down()


@sandbox.command()
@_output
@click.pass_obj
def status(folder: Path, output: str) -> None:
    """Nodes, ENIs, pods, drops and faults."""
    now = Sandbox.connect(folder).status()

    def show(console: Console) -> None:
        how = "user namespace" if now.user_namespace else "root"
        console.print(f"{now.folder}: VPC {now.vpc_cidr} in {now.region}, {now.enis} ENIs, {now.pods} pods, {how}")
        table = _table("node", "instance", "type", "zone", "address", "devices")
        for node in now.nodes:
            devices = ", ".join(f"{nic.ifname} ({nic.eni_id})" for nic in node.nics)
            table.add_row(node.name, node.instance_id, node.instance_type, node.zone, node.primary_ip, devices)
        console.print(table)
        console.print("drops: " + (", ".join(f"{why} {count}" for why, count in now.drops.items()) or "none"))
        if now.faults:
            console.print("faults: " + ", ".join(f"{name}={value}" for name, value in now.faults.items()))

    _print(now, output, show)


@sandbox.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("where")
@click.argument("command", nargs=-1, required=True)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds, then it is killed.")
@click.pass_obj
def execute(folder: Path, where: str, command: Sequence[str], timeout: float) -> None:
    """Run COMMAND in WHERE: a node, NODE/NAMESPACE/POD, `internet` or `router`."""
    world = Sandbox.connect(folder)
    command = command[1:] if command[0] == "--" else command
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    if where == "internet":
        done = world.internet_exec(command, stdin=stdin, timeout=timeout)
    elif where == "router":
        done = world.router_exec(command, stdin=stdin, timeout=timeout)
    elif where.count("/") == 2:
        node, namespace, name = where.split("/")
        done = world.pod_exec(node, namespace, name, command, stdin=stdin, timeout=timeout)
    else:
        done = world.node_exec(where, command, stdin=stdin, timeout=timeout)
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(done.stderr)
    sys.exit(done.rc if done.rc >= 0 else 128 - done.rc)


@sandbox.command()
@click.argument("node", default="")
@click.argument("name", default="")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.pass_obj
def logs(folder: Path, node: str, name: str, follow: bool) -> None:
    """The daemon's log, or NODE's logs, or one of them by NAME. Works after the end too."""
    if not node:
        files = [folder / lifetime.LOG]
    else:
        place = folder / "nodes" / node / "log"
        if not place.is_dir():
            raise SandboxFailure("unknown", f"there is no node {node!r} in {folder}")
        files = [place / name] if (place / name).is_file() else sorted(place.glob(f"{name or '*'}.*"))
        if name and not files:
            known = ", ".join(sorted(entry.name for entry in place.iterdir())) or "none"
            raise SandboxFailure("unknown", f"{node} has no log {name!r}; there are: {known}")
    places = dict.fromkeys(files, 0)
    try:
        while True:
            for file in files:
                _print_from(file, places, len(files) > 1)
            if not follow:
                return
            time.sleep(0.3)
    except KeyboardInterrupt:
        return


@sandbox.command()
@click.option("--purge", is_flag=True, help="Remove the folder's contents too (logs, node folders).")
@click.pass_obj
def down(folder: Path, purge: bool) -> None:
    """End the sandbox and everything in it; also clears what a killed one left. Fine if there is none."""
    if not folder.is_dir():
        click.echo(f"nothing in {folder}", err=True)
        return
    was = lifetime.running(folder)
    Sandbox(folder).down()
    if purge:
        lifetime.clear(folder)
    click.echo("down" if was else f"no sandbox ran in {folder}", err=True)


@sandbox.command()
@click.argument("node", default="")
@_output
@click.pass_obj
def pods(folder: Path, node: str, output: str) -> None:
    """Sandboxes of the small runtime."""
    rows = Sandbox.connect(folder).pods(node)
    cells = [(pod.node, f"{pod.namespace}/{pod.name}", pod.state, " ".join(pod.ips), pod.netns) for pod in rows]
    _print(rows, output, _rows(("node", "pod", "state", "addresses", "namespace"), cells))


@sandbox.command()
@click.argument("node", default="")
@_output
@click.pass_obj
def ps(folder: Path, node: str, output: str) -> None:
    """Processes in the nodes."""
    rows = Sandbox.connect(folder).processes(node)
    cells = [
        (p.node, str(p.pid), p.name, p.comm if p.rc is None else f"ended: {p.rc}", " ".join(p.argv)[:100]) for p in rows
    ]
    _print(rows, output, _rows(("node", "pid", "name", "process", "command"), cells))


@sandbox.command()
@_output
@click.pass_obj
def ledger(folder: Path, output: str) -> None:
    """EC2's truth: every ENI with its addresses."""
    rows = Sandbox.connect(folder).ledger()
    cells = [
        (
            e.eni_id,
            e.node or e.instance_id or e.status,
            "" if e.device is None else str(e.device),
            e.mac,
            str(len(e.addresses)),
            " ".join(e.addresses[:4]),
        )
        for e in rows
    ]
    _print(rows, output, _rows(("ENI", "at", "device", "MAC", "addresses", "first of them"), cells))


@sandbox.command()
@_output
@click.pass_obj
def counters(folder: Path, output: str) -> None:
    """What the VPC router dropped, with the reason."""
    rows = Sandbox.connect(folder).counters()
    cells = [(d.reason, d.node, d.eni_id, d.address, str(d.packets), str(d.bytes)) for d in rows]
    _print(rows, output, _rows(("reason", "node", "ENI", "address", "packets", "bytes"), cells))


@sandbox.command()
@click.option("--timeout", type=float, default=20.0, show_default=True)
@_output
@click.pass_obj
def probe(folder: Path, timeout: float, output: str) -> None:
    """Echo random payloads between all pairs of pods; exit status 1 if a pair fails."""
    report = Sandbox.connect(folder).probe(timeout=timeout)

    def show(console: Console) -> None:
        console.print(
            f"{report.ok} of {report.sent} pairs, {report.first_lost} lost their first packet, {report.took_ms:.0f} ms"
        )
        for failure in report.failures[:20]:
            console.print(f"  {failure.source} to {failure.target}: {failure.why} {failure.seen}")

    _print(report, output, show)
    if report.failures:
        sys.exit(1)


@sandbox.command(epilog="Faults: " + "; ".join(f"{name}: {text}" for name, text in switches.HELP.items()))
@click.argument("name", default="")
@click.argument("value", default="")
@click.pass_obj
def fault(folder: Path, name: str, value: str) -> None:
    """Set fault NAME to VALUE (none clears it); without NAME show what is set."""
    for key, text in Sandbox.connect(folder).fault(name, value).items():
        click.echo(f"{key}={text}")


def _made_up(text: str) -> TypeSpec:
    try:
        name, enis, addresses = text.split(":")
        return TypeSpec(name, int(enis), int(addresses))
    except ValueError:
        raise SandboxFailure("bad-request", f"--make-type {text!r} is not NAME:ENIS:ADDRESSES") from None


def _table(*heads: str) -> Table:
    """Ids are for copying, so they are folded rather than cut."""
    return Table(*(Column(head, overflow="fold") for head in heads))


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Callable[[Console], None]:
    table = _table(*heads)
    for row in rows:
        table.add_row(*row)
    return lambda console: console.print(table)


def _print(thing: object, output: str, show: Callable[[Console], None]) -> None:
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(thing)).decode())
    else:
        show(Console(highlight=False))


def _print_from(file: Path, places: dict[Path, int], named: bool) -> None:
    try:
        with open(file, "rb") as stream:
            stream.seek(places[file])
            data = stream.read()
    except FileNotFoundError:
        if places[file] == 0 and not named:
            raise SandboxFailure("unknown", f"there is no log {file}") from None
        return
    if data:
        if named:
            click.echo(f"==> {file.name}")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    places[file] += len(data)
