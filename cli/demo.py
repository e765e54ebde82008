"""`make demo`: the life of sixty pods on three nodes, with every claim checked by a witness that is not ours.

For a newcomer: it must show progress, say what it proves, end with figures, fail if anything is not as claimed, and
leave nothing behind, whatever ends it. All of it lives in namespaces of its own below one folder. What it tells is in
story.py; here is how it starts and, whatever happens, ends.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from cli import traces
from cli.stage import Stage
from cli.story import Narrator, NotAsClaimed, settled, tell
from core.errors import EnidError
from sandbox.base.failures import SandboxFailure
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.limits import Catalogue
from sandbox.face import lifetime
from sandbox.face.client import Sandbox
from sandbox.world import place
from sandbox.world.scenario import Scenario

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def own_folder() -> Path:
    """The demo's folder if none is named: short, as paths of sockets are bounded; ours alone, as it is below /tmp."""
    folder = Path(tempfile.gettempdir()) / f"enid-demo-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid():
            raise click.ClickException(f"{folder} is not a folder of this user; remove it or use --folder") from None
    return folder


def check_capacity(nodes: int, pods: int, instance_type: str) -> None:
    """Refuse what the nodes cannot hold, before anything is made: a full node is no failure of anybody."""
    try:
        kind = Catalogue().get(instance_type)
    except Ec2Error as error:
        raise click.UsageError(f"--instance-type: {error}") from error
    enis, each = kind.cards[kind.default_card], kind.ipv4_per_eni - 1
    if pods > nodes * enis * each:
        raise click.UsageError(
            f"--pods {pods}: {nodes} nodes of {instance_type} hold {nodes * enis * each} pods"
            f" ({enis} ENIs with {each} pod addresses each); take fewer pods, more nodes or another type"
        )


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(2, 20), help="EC2 nodes.")
@click.option("--pods", default=60, show_default=True, type=click.IntRange(2, 500), help="Pods, spread over the nodes.")
@click.option("--instance-type", default="m5.large", show_default=True, help="Type of the nodes.")
@click.option("--folder", default=None, help="An empty folder for the world, left empty.  [default: one below /tmp]")
@click.option("--keep-logs", is_flag=True, help="Leave the daemons' logs behind.")
def demo(nodes: int, pods: int, instance_type: str, folder: str | None, keep_logs: bool) -> None:
    """Nodes and pods in a VPC on this machine, a crash of every daemon, and no trace left.

    Exits with 1 if anything is not as claimed, with 130 after Ctrl-C.
    """
    check_capacity(nodes, pods, instance_type)
    home = Path(folder).absolute() if folder else own_folder()
    for number in ENDING:
        # What we were started with ignored (nohup, a job in the background) stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    run = _Run(home, keep_logs)
    try:
        code = run.perform(Scenario.simple(nodes, instance_type), pods)
    finally:
        run.take_down()
        if not folder:
            with suppress(OSError):  # logs were kept, or it is another demo's
                home.rmdir()
    sys.exit(code)


class _Run:
    """One demo in the folder `home`. Nothing in it is touched unless this process brought its world up."""

    def __init__(self, home: Path, keep: bool) -> None:
        self.home = home
        self.keep = keep
        self.ours = False

    def perform(self, scenario: Scenario, pods: int) -> int:
        """The exit status."""
        narrator, began = Narrator(), time.monotonic()
        try:
            before = traces.machine()
            with narrator.step(f"a VPC with {len(scenario.nodes)} EC2 nodes ({scenario.nodes[0].instance_type})"):
                world = Sandbox.up(self.home, scenario, progress=narrator.note)
                self.ours = True
            spaces = traces.world_namespaces(world.status().pid)
            tell(Stage(world), narrator, pods)
            with narrator.step("the VPC goes down"):
                world.down()
                left = settled(lambda: traces.processes_in(spaces, self.home) + traces.of_machine(before))
                narrator.claim("no process of the world is left, and no link, mount or namespace on the machine", left)
                if not self.keep:
                    place.purge(self.home)
                    narrator.claim("its folder is empty again", [str(entry) for entry in self.home.iterdir()])
            click.secho(f"\n{narrator.claims} claims held, in {time.monotonic() - began:.0f} s.", fg="green", bold=True)
        except NotAsClaimed as error:
            click.secho(f"\nNot as claimed: {error}", fg="red", err=True)
            self.keep = True
            return 1
        except SandboxFailure as error:
            remedy = "wait until it ends, or use --folder" if error.code == "already-running" else error.remedy
            click.secho(f"\nThe demo cannot go on: {error}\n  remedy: {remedy}", fg="red", err=True)
            self.keep = True
            return 1
        except EnidError as error:
            click.secho(f"\nThe demo cannot go on: {error}\n  remedy: {error.remedy}", fg="red", err=True)
            self.keep = True
            return 1
        except (TimeoutError, RuntimeError) as error:
            click.secho(f"\nThe demo cannot go on: {error}", fg="red", err=True)
            self.keep = True
            return 1
        except KeyboardInterrupt:
            self.take_down()
            _say("\nInterrupted; everything is taken down.")
            return 130
        return 0

    def take_down(self) -> None:
        """End the world and empty the folder, if they are ours; whatever else comes now has to wait. Twice is fine."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        # `mine` too, for what ended us in the moment after the start.
        if not (self.ours or lifetime.mine(self.home)):
            return
        self.ours = False
        try:
            Sandbox(self.home).down()
            if self.keep:
                _say(f"Logs of the daemons: {self.home}/nodes/*/log")
            else:
                place.purge(self.home)
        except SandboxFailure as error:
            _say(f"Something stays in {self.home}: {error}")


def _say(text: str) -> None:
    """To a terminal that may be gone, which is no reason to leave anything behind."""
    with suppress(OSError):
        click.echo(text, err=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
