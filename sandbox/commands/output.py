"""How the commands print: plain tables for people, JSON for programs, and failures with a cause and a remedy.

The same rules as those of a node's commands, so that nobody learns two: `-o json` on everything that answers, a table
without a frame that is never folded in a file or pipe, so that `grep` finds whole ids, and one exit status per kind
of failure, also for programs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec
from click.core import ParameterSource

from sandbox.base.failures import SandboxFailure

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_RUNNING: Final = 3
EXIT_NOT_FOUND: Final = 4
EXITS: Final = {
    "bad-request": EXIT_USAGE,
    "not-running": EXIT_NOT_RUNNING,
    "stale": EXIT_NOT_RUNNING,
    "unknown": EXIT_NOT_FOUND,
    "no-program": EXIT_NOT_FOUND,
    "not-executable": EXIT_USAGE,
}
EXIT_HELP: Final = "Exit status: 1 failed, 2 bad usage, 3 no sandbox runs, 4 not found; `exec` passes its command's on."
# Wider than any row, and no wider than what a terminal emulator takes when somebody looks at the file later.
PIPE_WIDTH: Final = 4000
F = TypeVar("F", bound=Callable[..., Any])


def exit_status(failure: SandboxFailure) -> int:
    """3: no sandbox runs; 4: not found; 2: bad usage; else 1."""
    return EXITS.get(failure.code, EXIT_FAILED)


class Command(click.Command):
    """Turns a failure of the sandbox into words on standard error, or JSON if that is asked for, and exit status.

    `legends`: by title, names and what they mean; `examples`: command lines. Both end the help.
    """

    def __init__(
        self,
        *args: Any,
        legends: Mapping[str, Mapping[str, str]] | None = None,
        examples: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._legends = legends or {}
        self._examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self._legends.items():
            with formatter.section(title):
                formatter.write_dl(list(names.items()))
        if self._examples:
            with formatter.section("Examples"):
                for line in self._examples:
                    formatter.write(f"  {line}\n")
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SandboxFailure as failure:
            fail(failure, json=ctx.params.get("output") == "json")


class Seconds(click.FloatRange):
    """A time from 0; no infinity and no NaN, which pass click's own comparison."""

    name = "seconds"

    def __init__(self, *, min_open: bool = False) -> None:
        super().__init__(0, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return found


class Group(click.Group):
    """Commands that report failures."""

    command_class = Command


def fail(failure: SandboxFailure, *, json: bool = False, status: int | None = None) -> None:
    """Tell it and end; `status` instead of the failure's own exit status."""
    if json:
        body = {"code": failure.code, "text": failure.text, "remedy": failure.remedy}
        click.echo(msgspec.json.encode({"error": body}).decode(), err=True)
    else:
        click.echo(f"enid: {failure.text}\n  remedy: {failure.remedy}", err=True)
    sys.exit(exit_status(failure) if status is None else status)


def refuse_beside_scenario(ctx: click.Context, *names: str) -> None:
    """Raises UsageError if one of these parameters was given: the scenario file says it all."""
    given = [name for name in names if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if given:
        options = ", ".join(p.opts[0] for p in ctx.command.params if p.name in given)
        raise click.UsageError(f"{options}: not together with --scenario, where the file says it", ctx)


def output_option(command: F) -> F:
    """`--output table|json`."""
    choice = click.Choice(["table", "json"])
    text = "Tables for people, JSON for programs."
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help=text)(command)


def print_json(value: object) -> None:
    """One JSON document, indented, with every field."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[str] = (), empty: str) -> None:
    """A table without frame, or `empty` if there are no rows; `right` names the columns of numbers.

    Folded only where a terminal is too narrow.
    """
    if not rows:
        click.echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numbers = set(right)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        grid.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=PIPE_WIDTH, no_color=True)
    console.print(grid)


def count(number: int, noun: str) -> str:
    """A number of things: `1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def facts(lines: Iterable[tuple[str, str]]) -> None:
    """Names and values, one line each, however long."""
    for name, value in lines:
        click.echo(f"{name + ':':<10}{value}")
