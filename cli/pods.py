"""`enid pods`: who lives or waits on this node, with address, ENI and host veth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from agent.control import Pod
from cli import output as out
from cli.options import connect, node_options


@click.command(short_help="The pods of this node and their addresses.")
@node_options
@click.option("-n", "--namespace", default="", help="Only pods of this namespace.")
@out.report_errors
def pods(run_dir: Path, output: str, timeout: float, namespace: str) -> None:
    """The pods of this node and their addresses, the waiting ones last."""
    with connect(run_dir, timeout) as client:
        found = client.pods()
    found = sorted((pod for pod in found if namespace in ("", pod.namespace)), key=order)
    if output == "json":
        out.print_json({"pods": found})
    else:
        show(found, time.time())


def order(pod: Pod) -> tuple[bool, str, str, str]:
    """Waiting pods last, then by name."""
    return (pod.state == "parked", pod.namespace, pod.pod, pod.container_id)


def show(found: Sequence[Pod], now_unix: float) -> None:
    """One line per pod."""
    if not found:
        click.echo("no pods")
        return
    rows = [
        (
            f"{pod.namespace}/{pod.pod}",
            pod.state,
            ", ".join(pod.addresses) or "-",
            pod.eni_id or "-",
            str(pod.device) if pod.eni_id else "-",
            pod.host_veth or "-",
            out.since(pod.since_unix, now_unix),
        )
        for pod in found
    ]
    out.table(["pod", "state", "address", "ENI", "device", "host veth", "age"], rows, right=["device"])
