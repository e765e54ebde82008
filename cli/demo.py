"""`make demo`: the life of sixty pods on three nodes, with every claim checked by a witness that is not ours.

For a newcomer: it must show progress, say what it proves, end with figures, fail if anything is not as claimed, and
leave nothing behind, whatever ends it. All of it lives in namespaces of its own below one folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from cli.stage import Place, Stage, cni_addresses, failed, wait_for
from sandbox import shapes
from sandbox.client import Sandbox
from sandbox.failures import SandboxFailure
from sandbox.scenario import Scenario


class NotAsClaimed(Exception):
    """A claim of the demo did not hold."""


class Narrator:
    """Numbered steps with their time, and the claims that were checked."""

    def __init__(self) -> None:
        self.number = 0
        self.claims = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        click.secho(f"{self.number:2}  {title}", bold=True)
        began = time.monotonic()
        yield
        click.secho(f"      {time.monotonic() - began:.1f} s", dim=True)

    def note(self, text: str) -> None:
        click.echo(f"      {text}")

    def claim(self, text: str, problems: list[str]) -> None:
        """Say that it holds, or end the demo with the first problems."""
        if problems:
            click.secho(f"    ✗ {text}", fg="red")
            more = f"\n      … and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise NotAsClaimed(text + ":\n      " + "\n      ".join(problems[:8]) + more)
        self.claims += 1
        click.secho(f"    ✓ {text}", fg="green")


def own_folder(chosen: str | None) -> Path:
    """The demo's folder: short, since paths of sockets are bounded; ours alone, since it may be below /tmp."""
    if chosen:
        folder = Path(chosen).absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / "nodes").exists():
            raise click.ClickException(f"{folder} holds other things; name an empty folder")
        return folder
    folder = Path(tempfile.gettempdir()) / f"enid-demo-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid():
            raise click.ClickException(f"{folder} is not a folder of this user; remove it or use --folder") from None
    return folder


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(2, 20), help="EC2 nodes.")
@click.option("--pods", default=60, show_default=True, type=click.IntRange(2, 500), help="Pods, spread over the nodes.")
@click.option("--instance-type", default="m5.large", show_default=True, help="Type of the nodes.")
@click.option("--folder", default=None, help="Where the world lives (default: a folder of this user below /tmp).")
@click.option("--keep-logs", is_flag=True, help="Leave the folder with the daemons' logs behind.")
def demo(nodes: int, pods: int, instance_type: str, folder: str | None, keep_logs: bool) -> None:
    """Nodes and pods in a VPC on this machine, a crash of every daemon, and no trace left.

    Exits with 1 if anything is not as claimed, with 130 after Ctrl-C.
    """
    home = own_folder(folder)
    signal.signal(signal.SIGTERM, _interrupt)
    narrator, began, code = Narrator(), time.monotonic(), 0
    try:
        with narrator.step(f"a VPC with {nodes} EC2 nodes ({instance_type})"):
            world = Sandbox.up(home, Scenario.simple(nodes, instance_type), progress=lambda text: narrator.note(text))
        try:
            story(Stage(world), narrator, pods)
            with narrator.step("the VPC goes down"):
                world.down()
                narrator.claim("no process of the world is left", leftovers(home))
        finally:
            world.down()
        click.secho(f"\n{narrator.claims} claims held, in {time.monotonic() - began:.0f} s.", fg="green", bold=True)
    except NotAsClaimed as error:
        click.secho(f"\nNot as claimed: {error}", fg="red", err=True)
        keep_logs, code = True, 1
    except (SandboxFailure, TimeoutError, RuntimeError) as error:
        click.secho(f"\nThe demo cannot go on: {error}", fg="red", err=True)
        keep_logs, code = not isinstance(error, SandboxFailure) or error.code not in ("privilege", "already-running"), 1
    except KeyboardInterrupt:
        click.echo("\nInterrupted; everything is taken down.", err=True)
        code = 130
    if keep_logs:
        click.echo(f"Logs of the daemons: {home}/nodes/*/log", err=True)
    else:
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def story(stage: Stage, narrator: Narrator, pods: int) -> None:
    """Start, talk, crash, recover, go away. Raises NotAsClaimed."""
    node_names = [node.name for node in stage.world.nodes()]
    places = [Place(node_names[i % len(node_names)], "demo", f"pod-{i:02}") for i in range(pods)]

    with narrator.step("enid on each node: supervisor, agent, manager"):
        stage.start(node_names)
        before = {node: stage.host_state(node)["nft"] for node in node_names}
        narrator.note("each node gave its kubelet the CNI configuration once its first addresses were there")

    with narrator.step(f"{pods} pods, 30 at a time"):
        answers = stage.create(places)
        narrator.claim(f"all {pods} pods have an address", failed(answers))
        addresses = cni_addresses(answers)
        show_enis(stage, narrator, addresses)

    check_pods(stage, narrator, addresses, "")

    with narrator.step("kill -9 of every daemon on every node"):
        killed = sum(stage.kill_daemons(node) for node in node_names)
        narrator.note(f"{killed} processes killed")
        report, problems = stage.probe_problems(addresses)
        narrator.claim(f"the pods do not notice: {report.ok} of {report.sent} pairs still talk", problems)
        gone, places = places[: len(node_names)], places[len(node_names) :]
        narrator.claim(
            "pods that end now are deleted all the same (written down for later)", failed(stage.delete(gone))
        )
        for place in gone:
            addresses.pop(place.label)

    with narrator.step("the daemons start again"):
        stage.start(node_names)
        more = [Place(place.node, "demo", f"late-{i:02}") for i, place in enumerate(gone)]
        late = stage.create(more)
        narrator.claim("new pods start", failed(late))
        addresses.update(cni_addresses(late))
        places += more
    check_pods(stage, narrator, addresses, " after the crash")

    with narrator.step("all pods go"):
        narrator.claim("every DEL succeeds", failed(stage.delete(places)))
        wait_for("links of deleted pods", lambda: not any(stage.pod_traces(node) for node in node_names), 10)
        traces = [f"{node}: {line}" for node in node_names for line in stage.pod_traces(node)]
        traces += [f"{node}: nft state differs" for node in node_names if stage.host_state(node)["nft"] != before[node]]
        narrator.claim("no link, route, rule, neighbour or nft state of a pod is left", traces)
        figures(narrator, answers + late)


def show_enis(stage: Stage, narrator: Narrator, addresses: dict[str, tuple[str, str]]) -> None:
    """Pods per ENI, as EC2 has them."""
    for node, used in stage.enis_used(addresses).items():
        narrator.note(f"{node}: " + ", ".join(f"{n} pods on ENI {device}" for device, n in used.items()))


def check_pods(stage: Stage, narrator: Narrator, addresses: dict[str, tuple[str, str]], when: str) -> None:
    """The three witnesses: ledger, peers, router; and the internet host."""
    with narrator.step(f"who has which address{when}? ask EC2, the pods and the router"):
        narrator.claim(
            "each address is EC2's, on an ENI of the pod's own node, and in one pod only",
            stage.ledger_problems(addresses),
        )
        report, problems = stage.probe_problems(addresses)
        narrator.claim(f"all {report.sent} pairs talk, and each peer sees the pod's own address", problems)
        lost = [] if report.first_lost == 0 else [f"{report.first_lost} first packets were lost"]
        narrator.claim("no first packet was lost", lost)
        narrator.claim(
            "outside the VPC each pod is seen with its node's primary address", stage.internet_problems(addresses)
        )
        spoofed = stage.spoofed()
        narrator.claim("the router dropped no spoofed packet", [f"{spoofed} packets"] if spoofed else [])


def figures(narrator: Narrator, answers: list[shapes.PodAnswer]) -> None:
    """What the ADDs took, as the runtime saw them; for figures that can be compared there is `make bench`."""
    took = sorted(answer.took_us / 1000 for answer in answers if answer.ok)
    worst = took[min(len(took) - 1, int(len(took) * 0.99))]
    narrator.note(
        f"ADD as the runtime saw it, {len(took)} pods, 30 at a time, refills and EC2 calls included:"
        f" p50 {statistics.median(took):.1f} ms, p99 {worst:.1f} ms"
    )


def leftovers(home: Path) -> list[str]:
    """Processes that still work in the demo's folder."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{home}/nodes" in command or ("sandbox.daemon" in command and str(home) in command):
                left.append(f"process {entry.name}: {command[:120]}")
    return left
