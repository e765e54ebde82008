"""`enid version`: the release, and the versions of what it speaks."""

from __future__ import annotations

import importlib.metadata
import platform
import tomllib
from pathlib import Path

import click

from agent.control import PROTOCOL
from cli import output as out
from cli.options import output_option


def release() -> str:
    """Of the installed distribution, or of the checkout that this runs from."""
    try:
        return importlib.metadata.version("enid")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parent.parent / "pyproject.toml"
        if not project.exists():
            return "unknown"
        return f"{tomllib.loads(project.read_text())['project']['version']} (checkout)"


@click.command(short_help="Releases and formats of the parts.")
@output_option
def version(output: str) -> None:
    """Releases and formats of the parts."""
    parts = {
        "enid": release(),
        "control protocol": str(PROTOCOL),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if output == "json":
        out.print_json(parts)
    else:
        for name, value in parts.items():
            click.echo(f"{name} {value}")
