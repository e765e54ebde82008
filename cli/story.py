"""What the demo tells: the life of pods on nodes that crash, every claim checked by a witness that is not ours."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click

from cli import traces
from cli.stage import Place, Stage, cni_addresses, failed, wait_for
from sandbox.base import shapes

Addresses = Mapping[str, tuple[str, str]]
# Pods that are made one at a time before the others, for a figure without any waiting in it.
ALONE = 9
AT_ONCE = 30


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

    def claim(self, text: str, problems: Sequence[str]) -> None:
        """Say that it holds, or end the demo with the first problems."""
        if problems:
            click.secho(f"    ✗ {text}", fg="red")
            more = f"\n      … and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise NotAsClaimed(text + ":\n      " + "\n      ".join(problems[:8]) + more)
        self.claims += 1
        click.secho(f"    ✓ {text}", fg="green")


def tell(stage: Stage, narrator: Narrator, pods: int) -> None:
    """Start, talk, crash, recover, go away. Raises NotAsClaimed."""
    nodes = [node.name for node in stage.world.nodes()]
    places = [Place(nodes[i % len(nodes)], "demo", f"pod-{i:02}") for i in range(pods)]

    with narrator.step("enid on each node: supervisor, agent, manager"):
        stage.start(nodes)
        narrator.note("each node gave its kubelet the CNI configuration once its first addresses were there")
        first = places[: min(ALONE, pods // 2)]
        wanted = Counter(place.node for place in first)
        wait_for("free addresses", lambda: all(stage.free_addresses(node) >= wanted[node] for node in nodes))
        before, had = {node: stage.host_state(node) for node in nodes}, attached(stage)

    with narrator.step(f"{pods} pods: {len(first)} one after the other, then {AT_ONCE} at a time"):
        alone = stage.create(first, at_once=1)
        crowd = stage.create(places[len(first) :], AT_ONCE)
        narrator.claim(f"all {pods} pods have an address", failed(alone + crowd))
        addresses = cni_addresses(alone + crowd)
        show_enis(stage, narrator, addresses)

    check_pods(stage, narrator, addresses, "")

    with narrator.step("kill -9 of every daemon on every node"):
        killed = sum(stage.kill_daemons(node) for node in nodes)
        narrator.note(f"{killed} processes killed")
        report, problems = stage.probe_problems(addresses)
        narrator.claim(f"the pods do not notice: {report.ok} of {report.sent} pairs still talk", problems)
        gone, places = places[: len(nodes)], places[len(nodes) :]
        narrator.claim(
            "pods that end now are deleted all the same (written down for later)", failed(stage.delete(gone))
        )
        for place in gone:
            addresses.pop(place.label)

    with narrator.step("the daemons start again"):
        stage.start(nodes)
        more = [Place(place.node, "demo", f"late-{i:02}") for i, place in enumerate(gone)]
        late = stage.create(more)
        narrator.claim("new pods start", failed(late))
        addresses.update(cni_addresses(late))
        places += more
    check_pods(stage, narrator, addresses, " after the crash")

    with narrator.step("all pods go"):
        narrator.claim("every DEL succeeds", failed(stage.delete(places)))

        def left() -> list[str]:
            has = attached(stage)
            return [
                f"{node}: {line}"
                for node in nodes
                for line in traces.of_node(before[node], stage.host_state(node), had[node], has[node])
            ]

        narrator.claim(
            "links, addresses, routes, rules, neighbours, nft rules and mounts are as before the first pod,"
            " but for the ENIs that EC2 says are attached",
            settled(left),
        )
        figures(narrator, alone, crowd + late)


def settled(problems: Callable[[], list[str]], seconds: float = 10.0) -> list[str]:
    """Ask until there are none, for at most so many seconds: what goes in the background needs a moment."""
    end = time.monotonic() + seconds
    while (found := problems()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def attached(stage: Stage) -> dict[str, traces.Attached]:
    """The ENIs of each node."""
    ledger = stage.world.ledger()
    return {node.name: traces.Attached.of(node, ledger) for node in stage.world.nodes()}


def show_enis(stage: Stage, narrator: Narrator, addresses: Addresses) -> None:
    """Pods per ENI, as EC2 has them."""
    for node, used in stage.enis_used(addresses).items():
        narrator.note(f"{node}: " + ", ".join(f"{n} pods on ENI {device}" for device, n in used.items()))


def check_pods(stage: Stage, narrator: Narrator, addresses: Addresses, when: str) -> None:
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


def figures(narrator: Narrator, alone: Sequence[shapes.PodAnswer], crowd: Sequence[shapes.PodAnswer]) -> None:
    """What the ADDs took, as the runtime saw them; for figures that can be compared there is `make bench`."""
    narrator.note("ADD as the runtime saw it (`make bench` measures it properly):")
    took = sorted(answer.took_us / 1000 for answer in alone if answer.ok)
    if took:
        narrator.note(f"  one at a time, addresses at hand: p50 {statistics.median(took):.1f} ms ({len(took)} pods)")
    took = sorted(answer.took_us / 1000 for answer in crowd if answer.ok)
    if took:
        worst = took[min(len(took) - 1, int(len(took) * 0.99))]
        narrator.note(
            f"  {AT_ONCE} at a time, the wait for new ENIs from EC2 included: p50 {statistics.median(took):.1f} ms,"
            f" p99 {worst:.1f} ms ({len(took)} pods)"
        )
