"""The command `enid`: a table of contents.

Each command is imported when it is called, so that `enid --help` and shell completion stay quick and a command
for the node never loads what only the sandbox or the demo needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

# Name: where the command is, and its line in the list.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "agent": ("cli.agent:agent", "Start the node daemon (supervisor, agent, manager)."),
    "completion": ("cli.completion:completion", "Print the completion script of a shell."),
    "demo": ("cli.demo:demo", "Three nodes and sixty pods in a VPC on this machine."),
    "explain": ("cli.explain:explain", "Why a pod has, or lacks, an address."),
    "lab": ("cli.lab:lab", "Nodes in a VPC on this machine, with enid on each, to look inside."),
    "pods": ("cli.pods:pods", "The pods of this node and their addresses."),
    "sandbox": ("sandbox.commands.main:sandbox", "The VPC in a box."),
    "status": ("cli.status:status", "The address pool of this node, per ENI."),
    "version": ("cli.version:version", "Releases and formats of the parts."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use; `commands` maps name to (module:attribute, short help)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not module_name.startswith(error.name):
                raise
            raise click.ClickException(f"this installation has no `{cmd_name}` ({module_name} is missing)") from error
        command = getattr(module, attribute)
        assert isinstance(command, click.Command), COMMANDS[cmd_name][0]
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(n, help=COMMANDS[n][1]) for n in self.list_commands(ctx) if n.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _print_release(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from cli.version import release

        click.echo(f"enid {release()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 1 failed, 2 bad usage, 3 no agent answers, 4 not found, 78 bad settings.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_release, help="Print the release."
)
def enid() -> None:
    """Amazon VPC pod networking for Kubernetes: the ENI daemon and its commands."""


def main() -> None:
    """Entry point of the distribution."""
    enid(prog_name="enid")


if __name__ == "__main__":
    main()
