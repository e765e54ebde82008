"""The benchmark's native programs and workers, with tiny counts: they do what they measure, and say it as JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench import compiled
from bench.build import program

LINE = "{verb}\tc{number}\t/run/netns/{number}\teth0\tIgnoreUnknown=1\n"


def call(plugin: Path, config: Path, at_once: int, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program("caller")), str(plugin), str(config), str(at_once)], input=lines, capture_output=True, text=True,
        check=False, timeout=30, env={"CNI_PATH": "/somewhere"},
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text('{"cniVersion": "1.0.0", "name": "x"}')
    return path


def test_noop_answers_in_the_version_of_its_configuration() -> None:
    environment = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth7", "CNI_NETNS": "/run/x"}
    for given, wanted in (("1.0.0", "1.0.0"), ("0.3.1", "0.3.1"), ("x" * 50, "0.4.0")):
        done = subprocess.run(
            [str(program("noop"))], input=json.dumps({"cniVersion": given}), capture_output=True, text=True, check=True,
            env=environment,
        )  # fmt: skip
        result = json.loads(done.stdout)
        assert (result["cniVersion"], result["interfaces"][0]["name"]) == (wanted, "eth7")
    gone = subprocess.run(
        [str(program("noop"))], input="{}", capture_output=True, check=True, text=True, env={"CNI_COMMAND": "DEL"}
    )
    assert gone.stdout == ""


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_caller_reports_every_call(config: Path, at_once: int) -> None:
    lines = "".join(LINE.format(verb="ADD" if n % 2 else "DEL", number=n) for n in range(9))
    done = call(program("noop"), config, at_once, lines)
    body = json.loads(done.stdout)
    assert len(body["calls"]) == 9
    assert all(wall > 0 and cpu >= 0 and status == 0 for wall, cpu, status, _ in body["calls"])
    # In the order of the input, whichever ended first: an ADD prints a result, a DEL nothing.
    assert [length > 0 for *_, length in body["calls"]] == [bool(n % 2) for n in range(9)]
    assert body["first_failure"] is None
    assert body["wall_ns"] >= max(wall for wall, *_ in body["calls"])


def test_caller_gives_variables_and_configuration(config: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\nread -r line\n"
        'printf \'%s|%s|%s|%s|%s|%s|%s "\\\\\' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" "$CNI_ARGS"'
        ' "$CNI_PATH" "$line"\nexit 3\n'
    )
    plugin.chmod(0o755)
    body = json.loads(call(plugin, config, 1, "CHECK\tc1\t/run/n\teth0\tA=1;B=2\n").stdout)
    assert body["calls"][0][2] == 3
    wanted = 'CHECK|c1|/run/n|eth0|A=1;B=2|/somewhere|{"cniVersion": "1.0.0", "name": "x"} "\\'
    assert body["first_failure"] == wanted


def test_caller_tells_a_killed_plugin_from_a_good_one(config: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\nkill -9 $$\n")
    plugin.chmod(0o755)
    body = json.loads(call(plugin, config, 2, LINE.format(verb="ADD", number=1)).stdout)
    assert body["calls"][0][2] == 128 + 9


@pytest.mark.parametrize(
    ("at_once", "lines", "complaint"),
    [("0", "", "usage"), ("9999", "", "usage"), ("1", "ADD\tc1\n", "2 fields"), ("1", "", "")],
)
def test_caller_refuses_bad_input(config: Path, at_once: str, lines: str, complaint: str) -> None:
    done = call(program("noop"), config, int(at_once), lines)
    assert complaint in done.stderr
    assert done.returncode == (2 if complaint else 0)


def test_caller_names_a_plugin_that_is_not_there(config: Path, tmp_path: Path) -> None:
    done = call(tmp_path / "nothing", config, 1, LINE.format(verb="ADD", number=1))
    assert done.returncode == 1
    assert "nothing: No such file" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["0", "0"], ["x", "0"], ["1", "-1"], ["1", "99999"]])
def test_floor_refuses_bad_counts(arguments: list[str]) -> None:
    done = subprocess.run([str(program("floor")), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr


def test_benchmark_files_are_run_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest-benchmark measures nothing in a process that shares the tests with others.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    source = tmp_path / "pool_bench.py"
    source.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('size', [10, 100_000])\n"
        "@pytest.mark.parametrize('kind', ['compiled', 'twin'])\n"
        "def test_pick(benchmark, kind, size):\n"
        "    benchmark(lambda: None)\n"
    )
    found = compiled.measure("pool", source, tmp_path, quick=True)
    assert {(case.name, case.size) for case in found} == {
        ("pick compiled", 10), ("pick compiled", 100_000), ("pick twin", 10), ("pick twin", 100_000),
    }  # fmt: skip
    assert min(found.values()) > 0
    source.write_text("def test_broken(benchmark):\n    raise ValueError('no')\n")
    with pytest.raises(RuntimeError, match="ValueError"):
        compiled.measure("pool", source, tmp_path, quick=True)
