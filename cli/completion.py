"""`enid completion SHELL`: the script that teaches a shell to complete `enid`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cli.main import enid


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash:  source <(enid completion bash)
    zsh:   source <(enid completion zsh)
    fish:  enid completion fish | source
    """
    script = get_completion_class(shell)
    assert script is not None, shell
    # The name of the variable is click's own scheme, which the started command looks for.
    click.echo(script(enid, {}, "enid", "_ENID_COMPLETE").source())
