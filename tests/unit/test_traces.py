"""The demo's claim that nothing is left: what counts as a trace, and what EC2's word explains.

A check that finds nothing proves nothing unless it finds something that is there, so each kind is left behind once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cli import traces
from cli.traces import Attached

NONE = Attached({})
SECOND = Attached({"ens6": "10.0.0.14"})
BEFORE = {"links": ["lo", "ens5 up"], "rules": ["0: from all lookup local"]}


def test_whatever_is_new_or_gone_counts_and_lines_are_counted_too() -> None:
    after = {"links": ["lo", "lo", "veth0 up"], "rules": ["0: from all lookup local"]}
    assert traces.of_node(BEFORE, after, NONE, NONE) == [
        "new in links: lo",
        "new in links: veth0 up",
        "gone from links: ens5 up",
    ]
    assert traces.of_node(BEFORE, BEFORE, NONE, NONE) == []


def test_an_eni_that_ec2_calls_attached_explains_its_own_lines_only() -> None:
    after = {
        "links": [*BEFORE["links"], "ens6 up", "ens66 up"],
        "rules": [*BEFORE["rules"], "from 10.0.0.14 lookup 2", "from 10.0.0.141 lookup 2"],
    }
    left = ["new in links: ens66 up", "new in rules: from 10.0.0.141 lookup 2"]
    assert traces.of_node(BEFORE, after, NONE, SECOND) == left
    # One that was there before explains nothing that comes later.
    assert len(traces.of_node(BEFORE, after, SECOND, SECOND)) == 4


def test_an_eni_that_went_explains_what_went_with_it_and_nothing_new() -> None:
    with_second = {"links": [*BEFORE["links"], "ens6 up"], "rules": BEFORE["rules"]}
    assert traces.of_node(with_second, BEFORE, SECOND, NONE) == []
    assert traces.of_node(BEFORE, with_second, SECOND, NONE) == ["new in links: ens6 up"]


def test_what_the_machine_has_now_and_had_not_before_is_named() -> None:
    before = traces.machine()
    assert traces.of_machine(before) == []
    before["link"].remove("lo")
    (found,) = traces.of_machine(before)
    assert "link lo" in found


def test_a_process_of_the_world_is_found_by_its_folder_until_it_ends(tmp_path: Path) -> None:
    code = "print(flush=True); input()"
    words = [sys.executable, "-c", code, f"{tmp_path}/nodes/node-1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (found,) = traces.processes_in(set(), tmp_path)
        assert found.startswith(f"process {child.pid}: ")
        child.kill()
    assert traces.processes_in(set(), tmp_path) == []
