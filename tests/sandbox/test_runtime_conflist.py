"""Rules of the CNI specification about configurations, without a process."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.runtime import conflist


def text(**change: Any) -> bytes:
    data = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "a"}]}
    return json.dumps({**data, **change}).encode()


def test_first_file_by_name_wins(tmp_path: Path) -> None:
    (tmp_path / "20-b.conflist").write_bytes(text(name="second"))
    (tmp_path / "10-a.conflist").write_bytes(text(name="first"))
    (tmp_path / "00-c.conf").write_bytes(text(name="not-a-list"))
    assert conflist.load(tmp_path).name == "first"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"{", "Expecting"),
        (b"[]", "not a JSON object"),
        (text(name="-x"), "name '-x'"),
        (text(name=None), "name None"),
        (text(cniVersion="9.9.9"), "cniVersion '9.9.9'"),
        (text(plugins=[]), "at least one"),
        (text(plugins=[{"type": "../x"}]), r"plugins\[0\].type '../x'"),
        (text(plugins=["x"]), r"plugins\[0\].type None"),
    ],
)
def test_wrong_lists_are_refused_by_name(tmp_path: Path, data: bytes, rule: str) -> None:
    (tmp_path / "x.conflist").write_bytes(data)
    with pytest.raises(SandboxFailure, match=rule) as caught:
        conflist.load(tmp_path)
    assert caught.value.code == "cni"
    assert "x.conflist" in caught.value.text


def test_highest_version_that_both_know_is_used() -> None:
    assert conflist.parse(text(cniVersion="0.4.0", cniVersions=["1.1.0", "7.0.0"])).version == "1.1.0"


def test_execution_configuration() -> None:
    network = conflist.parse(
        text(plugins=[{"type": "a", "capabilities": {"x": True, "y": True, "z": False}, "keep": 1}])
    )
    made = json.loads(conflist.execution_config(network, network.plugins[0], {"r": 1}, {"x": [1], "y": [], "z": 3}))
    assert made == {
        "type": "a",
        "keep": 1,
        "name": "net",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"x": [1]},
        "prevResult": {"r": 1},
    }
    assert network.plugins[0].config["capabilities"], "the list itself is as it was"


def test_verbs_by_version_and_switch() -> None:
    knows = {
        version: {verb for verb in ("CHECK", "STATUS", "GC") if conflist.parse(text(cniVersion=version)).knows(verb)}
        for version in conflist.SUPPORTED
    }
    assert knows == {
        "0.3.0": set(),
        "0.3.1": set(),
        "0.4.0": {"CHECK"},
        "1.0.0": {"CHECK"},
        "1.1.0": {"CHECK", "STATUS", "GC"},
    }
    off = conflist.parse(text(cniVersion="1.1.0", disableCheck=True, disableGC=True))
    assert not off.knows("CHECK")
    assert not off.knows("GC")


def test_arguments_hold_the_same_pairs_in_any_order() -> None:
    made = {conflist.cni_args("n", "p", "c", "u", random.Random(seed)) for seed in range(20)}
    assert len(made) > 1
    assert len({frozenset(args.split(";")) for args in made}) == 1


def test_addresses_of_the_containers_interface() -> None:
    result = {
        "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "dummy", "sandbox": "/x"}],
        "ips": [{"address": "10.0.0.1/32", "interface": 1}, {"address": "10.0.0.2/32", "interface": 0}],
    }
    assert conflist.addresses(result, "eth0") == ["10.0.0.1"]
    assert conflist.addresses({"ips": [{"address": "10.0.0.3/32"}]}, "eth0") == ["10.0.0.3"]
    assert conflist.addresses({}, "eth0") == []
