"""`enid agent`: becomes the supervisor, which starts and watches agent and manager; or takes away what they left.

Settings are checked before anything runs, so that a bad variable is told at once and by name, all of them together,
and not by two children in a restart loop.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

import agent as agent_package
from cli import output as out
from core.errors import BadSetting, EnidError
from core.settings import Settings, load

# The settings join what is wrong with `; `; one line for each variable reads better.
SEPARATOR = re.compile(r"; (?=[A-Za-z0-9_]+=['\"])")


class NotBuilt(EnidError):
    """The supervisor's program is not in this installation."""

    code = "not-built"
    remedy = "run `make build` in the checkout, or install a wheel of enid"


def supervisor_path() -> Path:
    """Where the build puts the supervisor. Raises NotBuilt."""
    path = Path(agent_package.__file__).parent / "bin" / "enid-supervisor"
    if not os.access(path, os.X_OK):
        raise NotBuilt(f"the supervisor {path} is missing or not executable")
    return path


def take_away(settings: Settings) -> None:
    """Take away what the daemon left, and say what it was. Raises EnidError."""
    from agent.manager import removal

    for what in removal.remove(settings) or ["nothing of ours is on this host"]:
        click.echo(what)


@click.command(short_help="Start the node daemon (supervisor, agent, manager).")
@click.option(
    "--remove", is_flag=True,
    help="Start nothing: take away what the daemon left on this host. Refused while it runs or pods of it live.",
)  # fmt: skip
@out.report_errors
def agent(remove: bool) -> None:
    """Start the node daemon: supervisor, agent and manager, configured by environment variables alone.

    They are those of the Amazon VPC CNI plugin. ENABLE_IPv4=true is the only one that must be set (its chart sets it,
    and so does `enid sandbox` on its nodes); MY_NODE_NAME names the Kubernetes node.

    Ends with 78 if a variable is bad or not served by this release; each one is named.
    """
    try:
        settings = load(os.environ)
    except BadSetting as error:
        for fault in SEPARATOR.split(error.text):
            click.echo(f"enid: {fault}", err=True)
        click.echo(f"  remedy: {error.remedy}", err=True)
        sys.exit(out.EXIT_CONFIG)
    for warning in settings.warnings:
        click.echo(f"enid: warning: {warning}", err=True)
    if remove:
        take_away(settings)
        return
    supervisor = supervisor_path()
    arguments = [str(supervisor), str(settings.run_dir), sys.executable]
    sys.stdout.flush()
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        raise NotBuilt(f"the supervisor {supervisor} cannot be run", cause=str(error)) from error
