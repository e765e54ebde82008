"""How the commands print: tables for people, JSON for programs, and one place that turns errors into exit statuses.

JSON has every field of a record, also those at their default, so that a program need not know the defaults; the
tag of the wire format is left out.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec

import click
import msgspec

from core.errors import AgentGone, BadSetting, EnidError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_AGENT_GONE = 3
EXIT_NOT_FOUND = 4
EXIT_CONFIG = 78

P = ParamSpec("P")


class NotFound(EnidError):
    """The thing that the command was asked about is not known to the agent."""

    code = "not-found"
    remedy = "check the name; `enid pods` lists the living"


def exit_status(error: EnidError) -> int:
    """3: no agent; 4: not found; 78: bad settings (EX_CONFIG of sysexits.h); else 1."""
    if isinstance(error, AgentGone):
        return EXIT_AGENT_GONE
    if isinstance(error, NotFound):
        return EXIT_NOT_FOUND
    return EXIT_CONFIG if isinstance(error, BadSetting) else EXIT_FAILED


def plain(value: object) -> object:
    """A record as dicts, lists and scalars, with all fields."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return value
    return [plain(item) for item in value]


def print_json(value: object) -> None:
    """One JSON document, indented, on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(plain(value)), indent=2).decode())


def report_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print an EnidError on standard error, in the form that `--output` asks for, and end with its exit status."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except EnidError as error:
            if kwargs.get("output") == "json":
                body = {
                    "code": error.code, "text": error.text, "cause": error.cause, "remedy": error.remedy,
                    "retry_after_s": error.retry_after,
                }  # fmt: skip
                click.echo(msgspec.json.encode({"error": body}).decode(), err=True)
            else:
                print_error(error)
            sys.exit(exit_status(error))

    return wrapped


def print_error(error: EnidError) -> None:
    """What happened, why, and what to do, on standard error."""
    click.echo(f"enid: {error.text}", err=True)
    if error.cause:
        click.echo(f"  cause:  {error.cause}", err=True)
    click.echo(f"  remedy: {error.remedy}", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """A table without frame; `right` names the columns of numbers. Never cut when it goes to a file or pipe."""
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
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=500, no_color=True)
    console.print(grid)


def heading(text: str) -> None:
    """The title of a part of the output."""
    click.echo()
    click.secho(text, bold=True)


def wall_time(unix: float) -> str:
    """Local time with its offset to UTC, to the second; a dash for 0 (unknown)."""
    if not unix:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(unix))


def since(unix: float, now_unix: float) -> str:
    """An age in the largest two units, such as `3 h 12 min`; a dash for 0 (unknown)."""
    if not unix:
        return "-"
    seconds = max(0, int(now_unix - unix))
    for size, unit, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // below
            return f"{seconds // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{seconds} s"
