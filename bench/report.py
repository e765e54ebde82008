"""Table and plot of a result."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results import Figure, Result


def number(value: float) -> str:
    """Three significant digits, without an exponent for what people read."""
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(figure: Figure) -> Text:
    """The limit, and whether it is kept."""
    if figure.limit is None:
        return Text("")
    kept = figure.met
    return Text(f"{'kept' if kept else 'MISSED'} (at most {number(figure.limit)})", style="green" if kept else "red")


def show(result: Result, console: Console) -> None:
    """The figures by group, then what is missing and what the figures do not show."""
    table = Table(title=result.question, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("figure", no_wrap=True)
    table.add_column("unit")
    for name in ("median", "lowest run", "highest run"):
        table.add_column(name, justify="right")
    table.add_column("limit")
    group = ""
    for figure in result.figures:
        if figure.group != group:
            group = figure.group
            table.add_section()
            table.add_row(Text(group, style="bold"))
        values = (number(value) for value in (figure.median, figure.low, figure.high))
        table.add_row(Text(f"  {figure.name}"), figure.unit, *values, verdict(figure))
    console.print(table)
    runs = f"{result.runs} interleaved runs" + (", QUICK: for trying the benchmark, not for quoting" * result.quick)
    console.print(Text(f"{runs}; {', '.join(f'{k} {v}' for k, v in result.machine.items())}", style="dim"))
    for text in result.missing:
        console.print(Text(f"missing: {text}", style="yellow"))
    for text in result.does_not_show:
        console.print(Text(f"does not show: {text}", style="dim"))


def plot(result: Result, path: Path) -> None:
    """A panel per group: bars of the medians, the spread as a line, the limit as a red mark. SVG or PNG by suffix."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.fonttype"] = "none"  # letters as outlines make the file ten times as large
    from matplotlib import pyplot

    groups: dict[str, list[Figure]] = {}
    for figure in result.figures:
        groups.setdefault(f"{figure.group} ({figure.unit})", []).append(figure)
    heights = [len(figures) + 1.5 for figures in groups.values()]
    drawing, panels = pyplot.subplots(
        len(groups), 1, figsize=(9, 0.28 * sum(heights)), gridspec_kw={"height_ratios": heights}, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, (title, figures) in zip(panels[:, 0], groups.items(), strict=True):
        places = range(len(figures))
        medians = [figure.median for figure in figures]
        spread = [[f.median - f.low for f in figures], [f.high - f.median for f in figures]]
        panel.barh(places, medians, xerr=spread, color="#4878a8", ecolor="#222222", height=0.7)
        for place, figure in enumerate(figures):
            if figure.limit is not None:
                panel.plot([figure.limit] * 2, [place - 0.45, place + 0.45], color="#c03030", linewidth=2)
        positive = [value for value in medians if value > 0]
        if positive and max(positive) > 30 * min(positive):
            panel.set_xscale("log")
        panel.set_yticks(places, [figure.name for figure in figures], fontsize=7)
        panel.invert_yaxis()
        panel.tick_params(axis="x", labelsize=7)
        panel.set_title(title, fontsize=8, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    drawing.suptitle(f"{result.question}\nmedian and range of {result.runs} runs", fontsize=9)
    drawing.savefig(path)
    pyplot.close(drawing)
