"""The kernel writer on Linux 6.1, which Amazon Linux 2023 runs: no echo of a new link, no renaming of a link that is
up, a veth's queue activated by a worker.

Tests of `tests/kernel` that run here anyway run again, in one guest with that kernel. All that are collected must have
passed there; a selection that has become empty, a skip, or a guest whose kernel has the new features is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.guest import guest

ROOT = Path(__file__).resolve().parents[2]
NEW_WAYS_SINCE = (6, 2)
# On a quiet machine it takes a tenth of it.
LIMIT_S = 600
PODS, RESTART = "tests/kernel/test_agent_pods.py::test_", "tests/kernel/test_agent_restart.py::test_"
SOURCES = "tests/kernel/test_agent_sources.py::test_"
RELAY, SAFETY = "tests/kernel/test_agent_relay.py::test_", "tests/kernel/test_agent_safety.py::test_"
SELECTION = [
    "tests/kernel/test_features.py",
    "tests/kernel/test_netlink_pod.py",
    "tests/kernel/test_netlink_socket.py",
    "tests/kernel/test_rename.py",
    "tests/kernel/test_netlink_counts.py::test_system_calls_and_messages[add-v4-table]",
    # Of the agent's own tests those in which the kernel's answers decide.
    f"{PODS}pods_on_both_enis_differ_in_everything",
    f"{PODS}first_packets_are_not_lost",
    f"{PODS}the_same_add_twice_is_one",
    f"{PODS}a_veth_that_is_gone_is_made_anew_with_the_same_address",
    f"{PODS}a_new_namespace_for_the_same_container_is_wired",
    f"{PODS}a_late_delete_does_not_hit_the_newer_pod",
    f"{PODS}a_living_sandbox_of_the_same_pod_keeps_its_network",
    f"{PODS}a_namespace_is_used_again_at_once",
    f"{PODS}check",
    f"{PODS}a_lost_delete_frees_the_address_after_a_grace",
    f"{PODS}a_name_held_inside_the_pod_is_refused_and_undone",
    f"{PODS}an_add_that_was_half_wired_cools_down",
    f"{RESTART}killed_in_an_add[ext.netlink:pod_add-after]",
    f"{RESTART}what_is_missing_in_the_kernel_is_put_back",
    f"{SOURCES}take_over_of_the_existing_systems_pods",
    f"{SOURCES}a_pod_that_nobody_knows_makes_room_for_its_name_and_keeps_its_route",
    f"{RELAY}the_shim_sends_for_the_agent",
    f"{RELAY}a_shim_that_goes_at_any_message_leaves_nothing",
    f"{SAFETY}a_repeated_add_brings_the_host_side_back_too",
    f"{SAFETY}a_pod_with_another_prefix_that_nobody_knows_keeps_its_address",
]
# Fewer tests than this cannot be all of the above.
LEAST = 60
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]


def skip_reason() -> str:
    """Why there can be no guest with such a kernel here, empty if there can."""
    if lacks := guest.missing():
        return f"needs Debian's {lacks}"
    found = guest.release()
    if found >= NEW_WAYS_SINCE:
        return f"Debian's user-mode-linux is {found[0]}.{found[1]} here; only kernels before 6.2 lack the features"
    return ""


def collected() -> set[tuple[str, str]]:
    """The selection as pytest sees it here: module and name of each test."""
    done = subprocess.run(
        [*PYTEST, "--collect-only", "-q", *SELECTION], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = set()
    for line in done.stdout.splitlines():
        path, separator, name = line.partition("::")
        if separator:
            found.add((path.removesuffix(".py").replace("/", "."), name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 120)
def test_the_kernel_writer_and_the_agent_on_an_old_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := skip_reason():
        pytest.skip(reason)
    expected = collected()
    assert len(expected) >= LEAST
    monkeypatch.chdir(ROOT)
    # Only the plugin that the settings name: each costs a start that is slow there.
    settings = ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "PYTHONDONTWRITEBYTECODE=1"]
    command = [*settings, *PYTEST, "-p", "pytest_timeout", "--junitxml=/mnt/folder/report.xml", "-v", *SELECTION]
    result = guest.run(command, limit_s=LIMIT_S, folder=tmp_path)
    assert result.status == os.EX_OK, f"status {result.status} in the guest:\n{result.output}"

    report = ElementTree.parse(tmp_path / "report.xml")
    cases = list(report.iter("testcase"))
    ends = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in cases}
    assert len(ends) == len(cases)
    assert set(ends) == expected
    assert {end: tags for end, tags in ends.items() if tags} == {}, f"not passed:\n{result.output}"
    found = {prop.get("name"): prop.get("value") for prop in report.iter("property")}
    assert str(found.pop("release")).startswith(".".join(map(str, guest.release())))
    assert found == dict.fromkeys(("echoes_new_links", "renames_links_that_are_up", "activates_when_asked"), "False")
