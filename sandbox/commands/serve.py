"""`enid sandbox serve`: EC2 and the metadata behind HTTP, without a network, root or namespaces."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.commands import options
from sandbox.commands import output as out
from sandbox.world import endpoint, furnish, scenario, script
from sandbox.world.scenario import Scenario


@click.command(cls=out.Command, examples=("enid sandbox --dir ./api serve --nodes 2 --port 8080",))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of EC2.  [default: a free one]")
@click.option("--nodes", type=click.IntRange(0, 1000), default=1, show_default=True, help="How many nodes.")
@options.type_option
@options.seed_option
@click.option(
    "--scenario",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Scenario file (JSON) instead of nodes, type and seed.",
)
@click.option(
    "--faults", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Script of faults to begin with."
)
@out.output_option
@click.pass_context
def serve(
    ctx: click.Context,
    host: str,
    port: int,
    nodes: int,
    instance_type: str,
    seed: int,
    file: Path | None,
    faults: Path | None,
    output: str,
) -> None:
    """Serve EC2 and the metadata on ports of this machine.

    Prints what an SDK needs in its environment, and stays until Ctrl-C or `down`. It needs no root and has no data
    plane. One port is EC2's, and each node has one for its metadata, by which it is known who asks.
    """
    if file is None:
        wanted = Scenario.simple(nodes, instance_type, seed=seed)
    else:
        out.refuse_beside_scenario(ctx, "nodes", "instance_type", "seed")
        wanted = scenario.parse(file.read_bytes())
    steps = script.parse(faults.read_bytes()) if faults else []
    served = endpoint.Endpoint(ctx.obj, wanted, host=host, port=port)
    try:
        served.script.load(steps)
    except SandboxFailure:
        served.close()
        raise
    environment = {
        "AWS_ENDPOINT_URL_EC2": served.url,
        "AWS_ACCESS_KEY_ID": furnish.KEY.access_key,
        "AWS_SECRET_ACCESS_KEY": furnish.KEY.secret,
        "AWS_REGION": wanted.region,
        "AWS_DEFAULT_REGION": wanted.region,
    }
    if output == "json":
        said = {"ec2": served.url, "metadata": served.metadata, "environment": environment}
        click.echo(msgspec.json.encode(said))
    else:
        for name, value in environment.items():
            click.echo(f"{name}={value}")
        for name, url in served.metadata.items():
            click.echo(f"AWS_EC2_METADATA_SERVICE_ENDPOINT={url}  # {name}")
    endpoint.wait(served)


COMMANDS = (serve,)
