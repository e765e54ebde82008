"""`enid sandbox exec`, `spawn`, `pod add` and their like: what runs inside the nodes, from the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import PodAnswer
from sandbox.commands import complete
from sandbox.commands import output as out
from sandbox.face import attach
from sandbox.face.attach import Execution
from sandbox.face.client import Sandbox

# As timeout(1) and shells say it, so that a script need not read the text.
EXIT_TIMEOUT: Final = 124
EXITS: Final = {"timeout": EXIT_TIMEOUT, "not-executable": 126, "no-program": 127}
# Names of RFC 1123, as Kubernetes has them: a namespace is one label, a pod may have several.
POD_NAME: Final = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)")
# The first argument ends our options: what follows belongs to the command that is run.
PASSED_ON: Final = {"allow_interspersed_args": False}


class _PodName(click.ParamType[tuple[str, str]]):
    """NAMESPACE/NAME as a pair."""

    name = "NAMESPACE/NAME"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        match = POD_NAME.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not NAMESPACE/NAME, such as default/web", param, ctx)
        return match[1], match[3]


class _Setting(click.ParamType[tuple[str, str]]):
    """KEY=VALUE as a pair."""

    name = "KEY=VALUE"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, sign, rest = value.partition("=")
        if not key or not sign:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, rest


_env = click.option("-e", "--env", "env", type=_Setting(), multiple=True, help="One more variable; may be repeated.")


@click.command(
    "exec",
    cls=out.Command,
    context_settings=PASSED_ON,
    examples=(
        "enid sandbox exec node-1                          # a shell",
        "enid sandbox exec node-1/default/web ip addr      # in a pod",
        "enid sandbox exec node-1 -- ping -c 1 10.0.64.4",
    ),
)
@click.argument(
    "where",
    shell_complete=complete.place,
    help="A node, NODE/NAMESPACE/POD, `internet`, `router`, or a network outside that the scenario names.",
)
@click.argument("command", nargs=-1, help="What to run, with its arguments.  [default: a shell]")
@_env
@click.option("--timeout", type=out.Seconds(), default=None, help="Seconds, then it is killed.  [default: none]")
@click.option(
    "--no-tty", is_flag=True, help="Hand over input and output as they are; no terminal of its own for the command."
)
@click.pass_obj
def execute(
    folder: Path,
    where: str,
    command: Sequence[str],
    env: Sequence[tuple[str, str]],
    timeout: float | None,
    no_tty: bool,
) -> None:
    """Run a command, or a shell, in a node or pod.

    It has this command's own input and output, and its terminal if it has one; signals reach it. It begins in the
    current folder (in / if the sandbox has none such), and finds programs as the caller does. The exit status is its
    own, 128 and the signal's number if a signal ended it, 124 after --timeout, and 126 or 127
    if the command cannot be executed or is not there.
    """
    world = Sandbox.connect(folder)
    words = list(command[1:] if command[:1] == ("--",) else command)
    variables = {"PATH": attach.search_path(), **dict(env)}
    if not words:
        words, variables = ["bash", "--norc"], {"PS1": f"{where}:\\w\\$ ", **variables}
    cwd = attach.folder()

    def start(files: tuple[int, int, int], terminal: bool) -> Execution:
        given = {**attach.same_terminal(), **variables} if terminal else variables
        return world.exec(where, words, files=files, env=given, cwd=cwd, terminal=terminal, timeout=timeout)

    try:
        status = attach.run(start, terminal=not no_tty)
    except SandboxFailure as failure:
        out.fail(failure, status=EXITS.get(failure.code))
        return
    sys.exit(attach.status_for_shell(status))


@click.command(
    cls=out.Command,
    context_settings=PASSED_ON,
    examples=("enid sandbox spawn node-1 web python -m http.server", "enid sandbox logs node-1 web --follow"),
)
@click.argument("node", shell_complete=complete.node, help="Where.")
@click.argument("name", help="What to call it in `stop`, `ps` and `logs`.")
@click.argument("command", nargs=-1, required=True, help="What to run, with its arguments.")
@_env
@click.pass_obj
def spawn(folder: Path, node: str, name: str, command: Sequence[str], env: Sequence[tuple[str, str]]) -> None:
    """Start a command on a node and leave it running."""
    world = Sandbox.connect(folder)
    words = command[1:] if command[0] == "--" else command
    made = world.node_spawn(node, name, words, env=dict(env))
    click.echo(f"{name} runs on {node} (pid {made.pid}); output: enid sandbox logs {node} {name}")


@click.command(cls=out.Command)
@click.argument("node", shell_complete=complete.node, help="Where it runs.")
@click.argument("name", shell_complete=complete.spawned, help="What it was called in `spawn`.")
@click.option(
    "--timeout", type=out.Seconds(), default=10.0, show_default=True, help="Seconds after SIGTERM, then SIGKILL."
)
@click.pass_obj
def stop(folder: Path, node: str, name: str, timeout: float) -> None:
    """End what was spawned on a node."""
    status = Sandbox.connect(folder).node_stop(node, name, timeout=timeout)
    click.echo(f"{name} on {node} ended " + (f"with {status}" if status >= 0 else f"by signal {-status}"))


@click.command(cls=out.Command)
@click.argument("node", default="", shell_complete=complete.node, help="A node.  [default: all]")
@out.output_option
@click.pass_obj
def ps(folder: Path, node: str, output: str) -> None:
    """List the processes of the nodes."""
    found = Sandbox.connect(folder).processes(node)
    if output == "json":
        out.print_json(found)
        return
    rows = [
        (p.node, str(p.pid), p.name or "-", p.comm if p.rc is None else f"ended: {p.rc}", " ".join(p.argv))
        for p in found
    ]
    out.table(["node", "pid", "name", "process", "command"], rows, right=["pid"], empty="no processes")


@click.group(cls=out.Group)
def pod() -> None:
    """Make and delete pods, by the node's own CNI configuration."""


@pod.command("add")
@click.argument("node", shell_complete=complete.node, help="Where.")
@click.argument("name", type=_PodName(), metavar="NAMESPACE/NAME", help="Its namespace and name: default/web.")
@click.option("--annotation", "annotations", type=_Setting(), multiple=True, help="Of the pod; may be repeated.")
@out.output_option
@click.pass_obj
def pod_add(
    folder: Path, node: str, name: tuple[str, str], annotations: Sequence[tuple[str, str]], output: str
) -> None:
    """Make a pod on a node.

    Its object, its network namespace, and the ADD of the node's plugins.
    """
    answer = Sandbox.connect(folder).pod_create(node, *name, annotations=dict(annotations))
    _tell(answer, output, f"has {' '.join(answer.pod.ips)}; ADD took {answer.took_us / 1000:.1f} ms")


@pod.command("del")
@click.argument("node", shell_complete=complete.node, help="Where it is.")
@click.argument(
    "name",
    type=_PodName(),
    metavar="NAMESPACE/NAME",
    shell_complete=complete.pod,
    help="Its namespace and name: default/web.",
)
@out.output_option
@click.pass_obj
def pod_del(folder: Path, node: str, name: tuple[str, str], output: str) -> None:
    """Delete a pod of a node.

    The DEL of the node's plugins, then its network namespace and its object go.
    """
    answer = Sandbox.connect(folder).pod_delete(node, *name)
    _tell(answer, output, f"is gone; DEL took {answer.took_us / 1000:.1f} ms")


def _tell(answer: PodAnswer, output: str, done: str) -> None:
    where = f"{answer.pod.namespace}/{answer.pod.name} on {answer.pod.node}"
    if answer.error is not None:
        error = answer.error
        details = f"; {error.details}" if error.details else ""
        raise SandboxFailure(
            "cni",
            f"{where}: plugin {error.plugin} failed with {error.code}: {error.msg}{details}",
            remedy=f"see the plugin's own log; `enid sandbox logs {answer.pod.node}` shows those of the node",
        )
    if output == "json":
        out.print_json(answer)
    else:
        click.echo(f"{where} {done}")


@click.command(cls=out.Command)
@click.argument("node", default="", shell_complete=complete.node, help="A node.  [default: all]")
@out.output_option
@click.pass_obj
def pods(folder: Path, node: str, output: str) -> None:
    """List the pods that the small runtime has made."""
    found = Sandbox.connect(folder).pods(node)
    if output == "json":
        out.print_json(found)
        return
    rows = [(p.node, f"{p.namespace}/{p.name}", p.state, " ".join(p.ips) or "-") for p in found]
    out.table(["node", "pod", "state", "addresses"], rows, empty="no pods")


@click.command(cls=out.Command)
@click.option("--timeout", type=out.Seconds(), default=20.0, show_default=True, help="Seconds for all pairs.")
@out.output_option
@click.pass_obj
def probe(folder: Path, timeout: float, output: str) -> None:
    """Echo random payloads between all pairs of pods.

    Exit status 1 if a pair fails, or if there is none.
    """
    report = Sandbox.connect(folder).probe(timeout=timeout)
    if not report.sent:
        count = len(report.seen_source)
        raise SandboxFailure(
            "too-few", f"nothing was tried: a probe needs two pods at least, there is {count or 'none'}"
        )
    if output == "json":
        out.print_json(report)
    else:
        lost = f"{report.first_lost} lost their first packet"
        click.echo(f"{report.ok} of {report.sent} pairs talk, {lost}, {report.took_ms:.0f} ms")
        for failure in report.failures[:20]:
            click.echo(f"  {failure.source} to {failure.target}: {failure.why} {failure.seen}".rstrip())
        if len(report.failures) > 20:
            click.echo(f"  … and {len(report.failures) - 20} more")
    if report.failures:
        sys.exit(out.EXIT_FAILED)


COMMANDS: Final[Sequence[click.Command]] = (execute, spawn, stop, ps, pod, pods, probe)
