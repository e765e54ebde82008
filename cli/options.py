"""Options that the commands for a running node share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.control_client import DEFAULT_TIMEOUT_S, ControlClient

DEFAULT_RUN_DIR = "/var/run/aws-node"
F = TypeVar("F", bound=Callable[..., Any])


def default_run_dir() -> Path:
    """ENID_RUN_DIR, or where the daemon runs on a real node."""
    return Path(os.environ.get("ENID_RUN_DIR") or DEFAULT_RUN_DIR)


def node_options(command: F) -> F:
    """`--run-dir`, `--output` and `--timeout`."""
    command = click.option(
        "--timeout", type=click.FloatRange(min=0.01), default=DEFAULT_TIMEOUT_S, show_default=True, metavar="SECONDS",
        help="How long to wait for the agent.",
    )(command)  # fmt: skip
    command = output_option(command)
    return click.option(
        "--run-dir", type=click.Path(path_type=Path), default=default_run_dir, metavar="DIR",
        help=f"Where the agent keeps its sockets.  [default: $ENID_RUN_DIR, else {DEFAULT_RUN_DIR}]",
    )(command)  # fmt: skip


def output_option(command: F) -> F:
    """`--output table|json`."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="Tables for people, JSON for programs.",
    )(command)  # fmt: skip


def connect(run_dir: Path, timeout: float) -> ControlClient:
    """The agent of `run_dir`. Raises AgentGone."""
    return ControlClient(run_dir / "control.sock", timeout_s=timeout)
