"""The benchmark suite itself: its arithmetic, its files, and what it makes of measured runs. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench import __main__ as bench_main
from bench import add_del, busy, compiled, contenders, netlink, report, results, stats
from bench.contender import Level, Outcome
from bench.contenders import Floor
from bench.results import Figure, Result


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.505, 51), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert stats.percentile(list(range(100, 0, -1)), share) == value


def test_percentile_of_few_and_none() -> None:
    assert stats.percentile([7], 0.99) == 7
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 0.5)


def test_a_percentile_of_a_sum_is_below_the_sum_of_percentiles() -> None:
    rare = [1.0] * 98 + [100.0] * 2
    assert stats.sum_percentile(rare, rare, 0.5) == 2.0
    assert stats.sum_percentile(rare, rare, 0.99) == 101.0
    assert 2 * stats.percentile(rare, 0.99) == 200.0


def test_spread() -> None:
    assert stats.Spread.of([3.0, 1.0, 2.0]) == stats.Spread(2.0, 1.0, 3.0)
    assert stats.Spread(2.0, 1.0, 3.0).show(1) == "2.0 (1.0 to 3.0)"


def a_result() -> Result:
    figures = [
        Figure("ratios", "ADD p50", "times", 1.2, 1.1, 1.3, 1.5),
        Figure("ratios", "ADD p99", "times", 3.5, 3.0, 4.0, 3.0),
        Figure("times", "no-op", "ms", 0.4, 0.4, 0.5),
        Figure("times", "ptp", "ms", 123.4, 100.0, 150.0),
    ]
    return Result(
        "example", "What does it cost?", 1.0, True, 5, {"cpu": "x"}, {"python": "3"}, figures, ["ptp is not installed"],
        ["anything else"], raw={"values": [1, 2, 3]},
    )  # fmt: skip


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    path = results.save(a_result(), tmp_path / "new")
    assert path == tmp_path / "new" / "example.json"
    assert results.load(path) == a_result()
    assert msgspec.json.decode(path.read_bytes())["raw"] == {"values": [1, 2, 3]}
    assert '"raw": {"values":[1,2,3]}' in path.read_text()


def test_the_table_says_what_was_missed_and_what_is_missing() -> None:
    console = Console(width=200, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        report.show(a_result(), console)
    lines = capture.get().splitlines()
    assert [line for line in lines if "ADD p50" in line and "kept (at most 1.5)" in line and "1.2" in line]
    assert [line for line in lines if "ADD p99" in line and "MISSED (at most 3)" in line]
    assert [line for line in lines if "no-op" in line and "kept" not in line and "MISSED" not in line]
    assert [line for line in lines if "QUICK" in line]
    assert "missing: ptp is not installed" in lines
    assert "does not show: anything else" in lines


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    report.plot(a_result(), path)
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_machine_and_versions_are_known() -> None:
    assert {"cpu", "processors", "kernel"} <= set(results.machine(0.1))
    assert results.versions()["msgspec"] != "missing"
    assert not [value for value in results.machine(0.1).values() if "/" in value]


@pytest.mark.parametrize(("load", "complaints"), [(0.1, 0), (3.0, 1)])
def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, load: float, complaints: int) -> None:
    monkeypatch.setattr(results.os, "getloadavg", lambda: (load, load, load))
    question = results.Question("Why?", ("nothing",), lambda options: results.Answer([]))
    result = results.ask("example", question, results.Options(folder="unused"))
    assert len(result.missing) == complaints
    assert result.machine["load average"] == f"{load:.2f} before, {load:.2f} after"


def test_every_question_is_there() -> None:
    for name in bench_main.QUESTIONS:
        question = bench_main.question(name)
        assert question.question.endswith("?")
        assert question.does_not_show


# --- what is made of measured runs ----------------------------------------------------------------------


def a_run(factor: int, *, noop: int = 400, floor: int = 600) -> dict[str, list[object]]:
    """One run whose enid takes `factor` times (no-op + floor), in all respects; times are constant."""
    ours = factor * (noop + floor)

    def outcome(name: str, present: int, wall: int, cpu: int) -> Outcome:
        daemon = 100 if name == "enid" else 0
        levels = [
            Level(verb, at_once, wall * at_once, [wall] * at_once, [cpu] * at_once, daemon * at_once, 1)
            for at_once in (1, add_del.BURST)
            for verb in ("ADD", "DEL")
        ]  # fmt: skip
        return Outcome(name, present, levels)

    found: dict[str, list[object]] = {name: [outcome(name, 0, noop, noop)] for name in ("noop", "noop-musl")}
    for present in (0, 250):
        times = [floor] * 4
        found[f"floor {present}"] = [Floor(4, present, 10, 4, 0, 0, times, times, times, times)]
        found[f"enid {present}"] = [outcome("enid", present, ours, ours - 100)]
    return found


def test_ratios_are_against_no_op_and_floor() -> None:
    runs = [add_del.to_run(a_run(factor), 0) for factor in (1, 2, 3)]
    found = add_del.figures(runs, ["enid"], (0, 250), [1, add_del.BURST])
    ratios = [figure for figure in found if "against no-op" in figure.group]
    assert {figure.name for figure in ratios} >= {"ADD p50", "ADD p99", "ADD CPU", "ADD, 110 at once", "DEL p50"}
    for figure in ratios:
        assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0), figure
    limits = {figure.name: figure.limit for figure in ratios}
    assert limits["ADD p50"] == limits["DEL p50"] == limits["ADD CPU"] == limits["ADD, 110 at once"] == 1.5
    assert limits["ADD p99"] == 3.0
    grown = [figure for figure in found if "beside 250" in figure.group]
    assert [figure.median for figure in grown] == [1.0] * 6
    times = {figure.name: figure.median for figure in found if figure.group == "ADD, one at a time"}
    assert times["enid, 0 present, p50"] == pytest.approx(2000 / 1e6)
    assert times["enid, 0 present, CPU"] == pytest.approx(2000 / 1e6)
    assert times["no-op, p50"] == pytest.approx(400 / 1e6)


def test_without_enid_the_yardsticks_are_told_all_the_same() -> None:
    measured = {name: values for name, values in a_run(1).items() if not name.startswith("enid")}
    found = add_del.figures([add_del.to_run(measured, 0)], [], (0, 250), [1])
    assert {figure.group for figure in found} == {f"{verb}, one at a time" for verb in ("ADD", "DEL")} | {
        f"{verb}{what}, {beside} present"
        for verb in ("ADD", "DEL")
        for what in (" per second", ", several at once")
        for beside in (0, 250)
    }


def test_a_load_is_judged_by_the_change_of_the_ratio() -> None:
    alone, loaded = add_del.to_run(a_run(1), 0), add_del.to_run(a_run(2, noop=1000, floor=5000), 0)
    found = {(figure.group, figure.name): figure for figure in busy.figures([(alone, loaded)])}
    change = found["enid against no-op + floor, p50", "ADD p50, under load against alone"]
    assert (change.median, change.limit) == (2.0, 1.2)
    assert found["ADD, one at a time", "noop, under load, p50"].median == pytest.approx(0.001)


def test_turns_rotate_and_all_results_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders.world, "settle", lambda: None)
    order: list[str] = []

    def turn(name: str) -> str:
        order.append(name)
        return f"{name}{order.count(name)}"

    turns = [(name, lambda name=name: turn(name)) for name in "abc"]
    assert contenders.interleave(turns, 3, lambda text: None) == {
        "a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"], "c": ["c1", "c2", "c3"],
    }  # fmt: skip
    assert "".join(order) == "abcbcacab"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("test_pick[100000]", ("pick", 100_000)),
        ("test_pick[compiled-1000]", ("pick compiled", 1000)),
        ("test_pick[n10-twin]", ("pick twin", 10)),
        ("bench_append[100,000]", ("append", 100_000)),
        ("test_encode", ("encode", 0)),
        ("test_add_ipv6[secondary]", ("add_ipv6 secondary", 0)),
    ],
)
def test_names_of_benchmarks_are_taken_apart(name: str, wanted: tuple[str, int]) -> None:
    case = compiled.case("pool", name)
    assert (case.name, case.size) == wanted


def test_growth_is_held_for_the_compiled_and_told_for_the_twin() -> None:
    def run(large: float) -> dict[compiled.Case, float]:
        case = compiled.Case
        return {
            case("pool", "pick", 10): 1e-6, case("pool", "pick", 1000): 1e-6, case("pool", "pick", 100_000): large,
            case("pool", "pick twin", 10): 1e-6, case("pool", "pick twin", 100_000): 1.0,
            case("journal", "encode", 0): 2e-6,
        }  # fmt: skip

    found = {figure.name: figure for figure in compiled.figures([run(1.5e-6), run(3e-6), run(3e-6)])}
    assert (found["pool: pick"].median, found["pool: pick"].met) == (pytest.approx(3.0), False)
    assert found["pool: pick twin"].limit is None
    assert found["pick, 1,000"].median == pytest.approx(1.0)
    assert found["encode"].median == pytest.approx(2.0)


def test_the_kernel_writers_lines_are_merged() -> None:
    text = '{"machine": "x", "microseconds": {"fill": {"p50": 1.5, "p99": 2}}}\n{"ADD, v4": {"p50": 600, "p99": 900}}\n'
    found = netlink.figures([netlink.parse(text)])
    assert [(figure.group, figure.name, figure.median) for figure in found] == [
        ("p50 of a call", "fill", 1.5), ("p50 of a call", "ADD, v4", 600),
        ("p99 of a call", "fill", 2), ("p99 of a call", "ADD, v4", 900),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no figures"):
        netlink.parse("\n")
