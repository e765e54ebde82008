"""`enid lab`: nodes in a VPC on this machine, with enid on each, to look inside and to break.

The sandbox knows nothing of enid, and somebody who has just seen the demo should not have to know both to put one
into the other. What comes after is `enid sandbox ...`, which works on the same folder.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
from click.core import ParameterSource

from cli.stage import Stage
from sandbox.commands import output
from sandbox.face.client import Sandbox, default_folder
from sandbox.world import place
from sandbox.world.scenario import Scenario


@click.command(cls=output.Command, short_help="Nodes with enid on each, to look inside.")
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 20), help="How many nodes.")
@click.option("--type", "instance_type", default="m5.large", show_default=True, help="Instance type of the nodes.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_folder,
    help="Folder of the sandbox.  [default: as `enid sandbox` has it]",
)
@click.pass_context
def lab(ctx: click.Context, nodes: int, instance_type: str, folder: Path) -> None:
    """Bring up a sandbox, unless one runs, and start enid on each node that has none. It stays until it is taken down.

    \b
    enid sandbox pod add node-1 default/web     a pod by the node's CNI configuration
    enid sandbox exec node-1                    a shell on the node; `enid status` works there
    enid sandbox down --purge                   all of it goes
    """
    folder = folder.absolute()
    begun = time.monotonic()
    brought = not place.running(folder)
    if brought:
        world = Sandbox.up(folder, Scenario.simple(nodes, instance_type), attached=False, progress=_say)
    else:
        given = [n for n in ("nodes", "instance_type") if ctx.get_parameter_source(n) == ParameterSource.COMMANDLINE]
        if given:
            options = ", ".join(p.opts[0] for p in ctx.command.params if p.name in given)
            raise click.UsageError(f"{options}: a sandbox runs in {folder} already, with nodes of its own", ctx)
        world = Sandbox.connect(folder)
    try:
        names = _start(Stage(world))
    except BaseException as error:
        if brought:
            world.down()
        if isinstance(error, TimeoutError | RuntimeError):
            raise click.ClickException(f"{error}\nlogs: {folder}/nodes/*/log") from error
        raise
    click.echo(f"{', '.join(names)}: enid is ready, after {time.monotonic() - begun:.1f} s", err=True)


def _start(stage: Stage) -> list[str]:
    """enid on each node that has none, ready; the names of all nodes. Raises TimeoutError, RuntimeError."""
    names = [node.name for node in stage.world.nodes()]
    for name in names:
        if not stage.daemons(name):
            stage.start_daemon(name)
    for name in names:
        stage.wait_ready(name)
        _say(f"enid on {name}")
    return names


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)
