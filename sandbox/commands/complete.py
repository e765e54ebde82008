"""What the shell may complete: names of nodes, pods, processes, logs and faults.

A shell asks at each press of a key, so an answer must come at once or not at all: failures and a world that does not
answer in half a second give nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.limits import Catalogue
from sandbox.face.client import Sandbox, default_folder
from sandbox.world.switches import HELP

PATIENCE_SECONDS: Final = 0.5
# By fault: the values that are words.
VALUES: Final = {
    **dict.fromkeys(("throttle", "latency", "imds-stuck", "attach-stuck", "detach-stuck"), ("on",)),
    "kube": ("hang", "away", "slow:", "cut", "expire"),
}
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def folder_of(ctx: click.Context) -> Path:
    """`--dir` of the group, which has not run when a shell asks."""
    chosen = ctx.find_root().params.get("folder")
    at: click.Context | None = ctx
    while at is not None:
        chosen = at.params.get("folder", chosen)
        at = at.parent
    return Path(chosen).absolute() if isinstance(chosen, Path | str) else default_folder().absolute()


def _completer(names: Callable[[click.Context], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return [CompletionItem(name) for name in sorted(set(names(ctx))) if name.startswith(incomplete)]
        except (SandboxFailure, OSError):
            return []

    return complete


def _world(ctx: click.Context) -> Sandbox:
    return Sandbox.connect(folder_of(ctx), patience=PATIENCE_SECONDS)


def _nodes(ctx: click.Context) -> list[str]:
    return [node.name for node in _world(ctx).status().nodes]


def _pods(ctx: click.Context) -> list[str]:
    found = _world(ctx).pods(str(ctx.params.get("node") or ""))
    return [f"{pod.namespace}/{pod.name}" for pod in found]


def _places(ctx: click.Context) -> list[str]:
    found = _world(ctx).pods()
    return [*_nodes(ctx), "internet", "router", *(f"{pod.node}/{pod.namespace}/{pod.name}" for pod in found)]


def _spawned(ctx: click.Context) -> list[str]:
    found = _world(ctx).processes(str(ctx.params.get("node") or ""))
    return [process.name for process in found if process.name and process.rc is None]


def _folders(ctx: click.Context) -> list[str]:
    """Nodes whose logs are there, also after the end."""
    return [entry.name for entry in (folder_of(ctx) / "nodes").iterdir()]


def _logs(ctx: click.Context) -> list[str]:
    place = folder_of(ctx) / "nodes" / str(ctx.params.get("node") or "") / "log"
    return [entry.name for entry in place.iterdir()]


def _devices(ctx: click.Context) -> list[str]:
    found = _world(ctx).status().nodes
    return [name for node in found for name in (node.name, *(f"{node.name}/{nic.ifname}" for nic in node.nics))] + [
        nic.eni_id for node in found for nic in node.nics
    ]


def _values(ctx: click.Context) -> Sequence[str]:
    return [*VALUES.get(str(ctx.params.get("name")), ()), "off"]


def _fault_ids(ctx: click.Context) -> list[str]:
    """What can be cleared now. Not `*`, which click's script for bash would expand to the names of files."""
    found = _world(ctx).faults()
    switches = [name for name in found.switches if name in HELP]
    ids = [one.id for one in found.rules] + [one.id for one in found.waiting] + [one.id for one in found.failures]
    return [*switches, *ids]


node = _completer(_nodes)
pod = _completer(_pods)
place = _completer(_places)
spawned = _completer(_spawned)
log_folder = _completer(_folders)
log = _completer(_logs)
fault = _completer(lambda _: HELP)
fault_value = _completer(_values)
fault_id = _completer(_fault_ids)
instance_type = _completer(lambda _: Catalogue().names())
device = _completer(_devices)
