"""`python -m bench [NAME ...]`: run benchmarks, print a table each, and leave JSON and a plot behind.

The whole run happens in pid, mount and network namespaces of its own: the machine's links, rules and sysctls are
never touched, and nothing outlives the command.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from bench import report, results, world
from bench.build import HERE, ROOT

QUESTIONS = ("add_del", "busy", "memory", "node_memory", "compiled", "netlink", "sandbox_calls", "world_size")


def question(name: str) -> results.Question:
    """The benchmark of that name."""
    found = importlib.import_module(f"bench.{name}").QUESTION
    assert isinstance(found, results.Question), name
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(QUESTIONS), metavar="[NAME]...")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Interleaved runs.")
@click.option("--quick", is_flag=True, help="Tiny counts, one run: to try the benchmark, not to quote it.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Where JSON and plots go.  [default: bench/results]"
)
@click.option("--plot/--no-plot", default=True, show_default=True)
@click.option("--tables", is_flag=True, help="Only print the tables (and make the plots) of results that are there.")
def main(names: tuple[str, ...], runs: int, quick: bool, out: Path | None, plot: bool, tables: bool) -> None:
    """Measure one, several or (without a NAME) all of: add_del, busy, memory, node_memory, compiled, netlink,
    sandbox_calls, world_size.

    Exit status 0 also if a limit is missed: the table says so, and a noisy machine is no fault of the code.
    """
    chosen = names or QUESTIONS
    # A pipe has no width; its reader wants whole lines.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    # Quick figures must not pass for the real ones.
    folder = out or (ROOT / ".cache" / "bench" / "quick" if quick else HERE / "results")
    if not tables:
        try:
            world.reexec_isolated(sys.argv[1:])
        except (OSError, subprocess.CalledProcessError) as error:
            raise click.ClickException(f"no namespaces can be made here (root is needed): {error}") from error
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name in chosen:
        path = folder / f"{name}.json"
        if tables:
            if not path.exists():
                raise click.ClickException(f"no result {path}; run `python -m bench {name}` first")
            result = results.load(path)
        else:
            result = measure(name, 1 if quick else runs, quick, console)
            results.save(result, folder)
        report.show(result, console)
        if plot and result.figures:
            report.plot(result, path.with_suffix(".svg"))
        console.print(f"[dim]{os.path.relpath(path)}[/dim]\n")


def measure(name: str, runs: int, quick: bool, console: Console) -> results.Result:
    """One benchmark, with its progress shown while it runs."""
    with world.memory_folder() as scratch, console.status(name) as status:

        def progress(text: str) -> None:
            status.update(f"{name}: {text}")

        options = results.Options(folder=str(scratch), runs=runs, quick=quick, progress=progress)
        return results.ask(name, question(name), options)


if __name__ == "__main__":
    main(prog_name="python -m bench")
