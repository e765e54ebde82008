"""`enid explain NAMESPACE/POD`: why a pod has, or lacks, an address.

The agent keeps the living, the waiting and the last 512 that failed or are gone, with the time that each phase
took. For a pod that waits or has failed the pool and the manager's outlook are shown too, because the cause is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from agent.control import Outlook, Pod, Pool, Snapshot
from cli import output as out
from cli.options import connect, default_run_dir, node_options
from cli.status import limit_line, outlook_fields, pool_line
from core.errors import EnidError

# Names of RFC 1123, as Kubernetes allows them: a namespace is one label, a pod may have several.
POD_NAME = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)")


class PodName(click.ParamType[tuple[str, str]]):
    """NAMESPACE/POD as a pair; completes the pods that the agent knows now."""

    name = "namespace/pod"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        match = POD_NAME.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not NAMESPACE/POD, such as kube-system/coredns-5d78c9869d-abcde", param, ctx)
        return match[1], match[3]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            with connect(ctx.params.get("run_dir") or default_run_dir(), 0.5) as client:
                names = sorted({f"{pod.namespace}/{pod.pod}" for pod in client.pods()})
        except EnidError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(short_help="Why a pod has, or lacks, an address.")
@node_options
@click.argument("pod", type=PodName(), metavar="NAMESPACE/POD")
@out.report_errors
def explain(run_dir: Path, output: str, timeout: float, pod: tuple[str, str]) -> None:
    """Why a pod has, or lacks, an address: phases with times, ENI, rules, routes, last error.

    Also for the last 512 pods that failed or are gone.
    """
    namespace, name = pod
    with connect(run_dir, timeout) as client:
        records = client.explain(namespace, name)
        if not records:
            raise out.NotFound(
                f"the agent knows no pod {namespace}/{name} (it keeps the living and the last 512 failed or gone)"
            )
        snapshot = client.snapshot()
    if output == "json":
        out.print_json({"pods": records, "pool": snapshot.pool, "outlook": outlook_fields(snapshot.outlook)})
    else:
        show(records, snapshot, time.time())


def show(records: Sequence[Pod], snapshot: Snapshot, now_unix: float) -> None:
    """All records of one pod, as the agent ordered them."""
    for index, pod in enumerate(records):
        if index:
            click.echo()
        show_record(pod, now_unix)
        if pod.state in ("parked", "failed"):
            click.echo(f"  {pool_line(snapshot.pool)}")
            show_outlook(snapshot.outlook, snapshot.pool)


def show_record(pod: Pod, now_unix: float) -> None:
    """One sandbox of the pod."""
    click.secho(f"{pod.namespace}/{pod.pod}: {meaning(pod)}", bold=True)
    eni = f"{pod.eni_id} (device {pod.device}, table {pod.table})" if pod.eni_id else ""
    began = f"{out.wall_time(pod.since_unix)} ({out.since(pod.since_unix, now_unix)} ago)" if pod.since_unix else ""
    lines = (
        ("sandbox", f"{pod.container_id} {pod.ifname} on {pod.network}"),
        ("address", ", ".join(pod.addresses)),
        ("ENI", eni),
        ("host veth", pod.host_veth),
        ("netns", pod.netns),
        ("since", began),
        ("until", out.wall_time(pod.until_unix) if pod.until_unix else ""),
        ("error", f"{pod.error} [{pod.error_code}]" if pod.error_code else pod.error),
        ("details", pod.details),
    )
    for name, text in lines:
        if text:
            click.echo(f"  {name + ':':<11}{text}")
    show_phases(pod.phases)
    for name, entries in (("rules", pod.rules), ("routes", pod.routes)):
        if entries:
            click.echo(f"  {name}:")
            for entry in entries:
                click.echo(f"    {entry}")


def show_phases(phases: dict[str, int]) -> None:
    """When each phase ended, in ms since the request came, and how long it took."""
    if not phases:
        return
    click.echo("  phases:      ended at   took (ms)")
    before = 0
    for name, at in sorted(phases.items(), key=lambda item: item[1]):
        click.echo(f"    {name:<10}{at / 1000:>10.3f}  {(at - before) / 1000:>10.3f}")
        before = at


def show_outlook(outlook: Outlook | None, pool: Pool) -> None:
    """Whether more addresses can come."""
    if outlook is None:
        click.echo("  outlook: the manager has not said whether more addresses can come")
    elif outlook.can_grow:
        click.echo("  outlook: more addresses are on their way or can be had")
    else:
        click.echo(f"  outlook: {limit_line(outlook, pool)}")


def meaning(pod: Pod) -> str:
    """The state in words."""
    words = {
        "up": "has its address",
        "parked": "waits for an address",
        "deleted": "is gone (deleted by the runtime)",
        "failed": "got no address",
        "lost": "is gone (its veth went without a DEL)",
    }
    return words.get(pod.state, pod.state)
