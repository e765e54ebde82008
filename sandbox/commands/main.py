"""`enid sandbox ...`: the world from the command line.

A thin layer over client.py: what it prints and how it fails is in output.py, what a shell completes in complete.py.
Here is the world as a whole; commands inside nodes and pods are in nodes.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from sandbox.base.failures import SandboxFailure
from sandbox.commands import complete, faults, options, serve
from sandbox.commands import network as cli_network
from sandbox.commands import nodes as cli_nodes
from sandbox.commands import output as out
from sandbox.face.client import Sandbox, default_folder
from sandbox.world import place, scenario
from sandbox.world.scenario import Scenario, TypeSpec


class _Folder(click.Path):
    """A folder, there or not. Click would take an empty name, such as of a variable that is not set, for `.`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if not os.fspath(value):
            self.fail("an empty name is no folder; the current one is `.`", param, ctx)
        return super().convert(value, param, ctx)


@click.group(cls=out.Group, epilog=out.EXIT_HELP)
@click.option(
    "--dir",
    "folder",
    type=_Folder(),
    default=default_folder,
    help="Folder of the sandbox; all its state is there.  [default: $ENID_SANDBOX_DIR or ~/.local/state/enid/sandbox]",
)
@click.pass_context
def sandbox(ctx: click.Context, folder: Path) -> None:
    """A VPC in a box: EC2, metadata, Kubernetes and a real data plane, in namespaces of this machine."""
    ctx.obj = folder.absolute()


class _MadeUp(click.ParamType[TypeSpec]):
    """NAME:ENIS:ADDRESSES."""

    name = "NAME:ENIS:ADDRESSES"

    def convert(self, value: str | TypeSpec, param: click.Parameter | None, ctx: click.Context | None) -> TypeSpec:
        if isinstance(value, TypeSpec):
            return value
        try:
            name, enis, addresses = value.split(":")
            return TypeSpec(name, int(enis), int(addresses))
        except ValueError:
            self.fail(f"{value!r} is not NAME:ENIS:ADDRESSES, such as tiny:2:5", param, ctx)


@sandbox.command(
    examples=(
        "enid sandbox up --nodes 2                     # two nodes in the background, until `down`",
        "enid sandbox up --make-type tiny:2:5 --type tiny",
        "enid sandbox up --scenario scenario.json      # docs/sandbox.md has the fields",
    )
)
@click.option("--nodes", type=click.IntRange(0, 200), default=3, show_default=True, help="How many nodes.")
@options.type_option
@click.option(
    "--make-type",
    "types",
    type=_MadeUp(),
    multiple=True,
    help="A made-up instance type: ENIs, IPv4 addresses per ENI; may be repeated.",
)
@click.option(
    "--scenario",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Scenario file (JSON) instead of all of the options that describe one.",
)
@click.option(
    "--hop-limit", type=click.IntRange(1, 64), default=2, show_default=True, help="Hop limit of metadata answers."
)
@options.seed_option
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, and take the sandbox down then.")
@click.option("--timeout", type=out.Seconds(), default=120.0, show_default=True, help="Seconds until it must be up.")
@click.pass_context
def up(
    ctx: click.Context,
    nodes: int,
    instance_type: str,
    types: Sequence[TypeSpec],
    file: Path | None,
    hop_limit: int,
    seed: int,
    foreground: bool,
    timeout: float,
) -> None:
    """Start a sandbox; returns when its nodes are up."""
    if file is None:
        wanted = Scenario.simple(nodes, instance_type, types=tuple(types), seed=seed, hop_limit=hop_limit)
    else:
        out.refuse_beside_scenario(ctx, "nodes", "instance_type", "types", "hop_limit", "seed")
        wanted = scenario.parse(file.read_bytes())
    folder: Path = ctx.obj
    begun = time.monotonic()
    try:
        world = Sandbox.up(
            folder,
            wanted,
            attached=foreground,
            timeout=timeout,
            progress=lambda text: click.echo(f"  {text}", err=True),
        )
    except KeyboardInterrupt:
        click.echo("\nnot up yet; what was made of the sandbox was taken down", err=True)
        raise
    click.echo(
        f"up in {time.monotonic() - begun:.1f} s: {out.count(len(wanted.nodes), 'node')}, folder {folder}", err=True
    )
    if foreground:
        click.echo("Ctrl-C ends it", err=True)
        try:
            while place.running(folder):
                time.sleep(0.2)
        except KeyboardInterrupt:
            click.echo("going down", err=True)
        finally:
            world.down()


@sandbox.command()
@out.output_option
@click.pass_obj
def status(folder: Path, output: str) -> None:
    """Show nodes, ENIs, pods, drops and faults."""
    now = Sandbox.connect(folder).status()
    if output == "json":
        out.print_json(now)
        return
    out.facts(
        (
            ("folder", now.folder),
            ("VPC", f"{now.vpc_cidr} in {now.region}"),
            (
                "holds",
                ", ".join(out.count(*one) for one in ((len(now.nodes), "node"), (now.enis, "ENI"), (now.pods, "pod"))),
            ),
            ("runs as", "root of a user namespace" if now.user_namespace else "root"),
            ("drops", ", ".join(f"{why} {count}" for why, count in now.drops.items()) or "none"),
            ("branches", now.branches),
            ("faults", ", ".join(f"{name}={value}" for name, value in now.faults.items()) or "none"),
        )
    )
    click.echo()
    rows = [
        (n.name, n.instance_id, n.instance_type, n.state, n.zone, n.primary_ip, " ".join(nic.ifname for nic in n.nics))
        for n in now.nodes
    ]
    out.table(["node", "instance", "type", "state", "zone", "address", "devices"], rows, empty="no nodes")


@sandbox.command()
@click.argument("node", default="", shell_complete=complete.log_folder, help="A node.  [default: the daemon itself]")
@click.argument("name", default="", shell_complete=complete.log, help="One of its logs, as of `spawn`.  [default: all]")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.pass_obj
def logs(folder: Path, node: str, name: str, follow: bool) -> None:
    """Show the daemon's log, or a node's logs.

    Works after the end too.
    """
    files = _log_files(folder, node, name)
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


def _log_files(folder: Path, node: str, name: str) -> list[Path]:
    if place.running(folder) and not (folder / place.LOG).exists():
        raise SandboxFailure(
            "unknown",
            f"the sandbox in {folder} keeps no logs: `enid sandbox serve` writes to its own standard error",
            remedy="look where it was started; a world of `enid sandbox up` keeps logs",
        )
    if not node:
        return [folder / place.LOG]
    logs = folder / "nodes" / node / "log"
    if not logs.is_dir():
        raise SandboxFailure("unknown", f"there is no node {node!r} in {folder}")
    files = [logs / name] if (logs / name).is_file() else sorted(logs.glob(f"{name or '*'}.*"))
    if name and not files:
        known = ", ".join(sorted(entry.name for entry in logs.iterdir())) or "none"
        raise SandboxFailure("unknown", f"{node} has no log {name!r}; there are: {known}")
    return files


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


@sandbox.command()
@click.option("--purge", is_flag=True, help="Empty the folder too (logs, node folders). The folder itself stays.")
@click.pass_obj
def down(folder: Path, purge: bool) -> None:
    """End the sandbox and everything in it.

    Also clears what a killed one left; fine if there is none. A folder that is not a sandbox's is never touched.
    """
    was, killed = place.running(folder), place.ours(folder) and (folder / place.PID).exists()
    Sandbox(folder).down()
    if purge:
        place.purge(folder)
    if was:
        text = "down"
    elif killed:
        text = f"the sandbox in {folder} had been killed; what it left is cleared"
    else:
        text = f"no sandbox ran in {folder}"
    click.echo(text, err=True)


@sandbox.command()
@out.output_option
@click.pass_obj
def ledger(folder: Path, output: str) -> None:
    """Every ENI with its addresses, by EC2's truth.

    Whatever any view shows of it yet; the primary address first.
    """
    enis = Sandbox.connect(folder).ledger()
    if output == "json":
        out.print_json(enis)
        return
    rows = [
        (
            e.eni_id,
            e.node or e.instance_id or e.status,
            "-" if e.device is None else str(e.device),
            e.mac,
            str(len(e.addresses)),
            " ".join(e.addresses[:4]) + (" …" if len(e.addresses) > 4 else ""),
        )
        for e in enis
    ]
    out.table(
        ["ENI", "at", "device", "MAC", "addresses", "first of them"],
        rows,
        right=["device", "addresses"],
        empty="no ENIs",
    )


for _command in (*cli_nodes.COMMANDS, *cli_network.COMMANDS, *faults.COMMANDS, *serve.COMMANDS):
    sandbox.add_command(_command)
