"""Options that more than one command takes, worded once."""

from __future__ import annotations

import click

from sandbox.commands import complete

type_option = click.option(
    "--type",
    "instance_type",
    default="m5.large",
    show_default=True,
    shell_complete=complete.instance_type,
    help="Instance type of the nodes.",
)
seed_option = click.option("--seed", type=int, default=1, show_default=True, help="All ids and MACs follow from it.")
