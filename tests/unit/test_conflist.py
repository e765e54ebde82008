"""The conflist: what ours says, and that the entries of others survive ours."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import conflist
from core.settings import Settings

DEFAULT = Settings()
ISTIO = {"type": "istio-cni", "name": "istio-cni", "log_level": "info", "kubernetes": {"cni_bin_dir": "/opt/cni/bin"}}
LINKERD = {"type": "linkerd-cni", "policy": {"type": "k8s"}}
# What the existing system leaves on a node (data plane specification, 3.1), place-holders filled.
EXISTING: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "name": "aws-cni",
    "disableCheck": True,
    "plugins": [
        {"name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001", "podSGEnforcingMode": "strict"},
        {"name": "egress-cni", "type": "egress-cni", "mtu": "9001", "enabled": "false", "ipam": {"type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}


def merged(existing: Any, settings: Settings = DEFAULT) -> Any:
    content = conflist.merge(json.dumps(existing).encode(), settings)
    return None if content is None else json.loads(content)


def types(document: Any) -> list[str]:
    return [entry["type"] for entry in document["plugins"]]


def test_the_default_list() -> None:
    assert json.loads(conflist.render(DEFAULT)) == {
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "disableCheck": True,
        "plugins": [
            {
                "name": "aws-cni",
                "type": "aws-cni",
                "vethPrefix": "eni",
                "mtu": "9001",
                "podSGEnforcingMode": "strict",
                "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
                "pluginLogLevel": "Debug",
                "capabilities": {"io.kubernetes.cri.pod-annotations": True, "portMappings": True},
            }
        ],
    }


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (Settings(veth_prefix="pod"), "vethPrefix", "pod"),
        (Settings(pod_mtu=1500), "mtu", "1500"),
        (Settings(plugin_log_file="stderr"), "pluginLogFile", "stderr"),
        (Settings(plugin_log_level='"quoted"'), "pluginLogLevel", '"quoted"'),
        (Settings(run_dir="/run/other"), "agentSocket", "/run/other/cni.sock"),
        (Settings(add_wait_s=120.0), "addWait", 120),
        (Settings(ipv6=True), "ipv6", True),
    ],
)
def test_settings_reach_their_field(settings: Settings, field: str, value: object) -> None:
    entry = json.loads(conflist.render(settings))["plugins"][0]
    assert entry[field] == value
    base = json.loads(conflist.render(DEFAULT))["plugins"][0]
    assert {key for key in entry if entry[key] != base.get(key)} == {field}


def test_a_shorter_wait_needs_no_patience() -> None:
    assert "addWait" not in conflist.plugin(Settings(add_wait_s=5.0))


def test_no_file_and_what_is_no_list_are_written_anew() -> None:
    assert conflist.merge(None, DEFAULT) == conflist.render(DEFAULT)
    broken = (b"", b"\xff", b"{", b"[]", b"{}", b'{"plugins":3}', b"[" * 200000, b"1" * 10000, b"null")
    for existing in broken:
        assert conflist.merge(existing, DEFAULT) == conflist.render(DEFAULT), existing[:20]


def test_nothing_is_written_when_nothing_of_ours_has_changed() -> None:
    assert conflist.merge(conflist.render(DEFAULT), DEFAULT) is None
    # Another writer's spelling of the same list is as good.
    assert merged(json.loads(conflist.render(DEFAULT))) is None
    with_istio = json.loads(conflist.render(DEFAULT))
    with_istio["plugins"].append(ISTIO)
    assert merged(with_istio) is None


def test_the_existing_systems_list_becomes_ours() -> None:
    assert merged(EXISTING) == json.loads(conflist.render(DEFAULT))


def test_foreign_plugins_stay_where_they_are() -> None:
    chain = [LINKERD, *EXISTING["plugins"], ISTIO]
    result = merged({**EXISTING, "plugins": chain, "foreign": 1})
    assert types(result) == ["linkerd-cni", "aws-cni", "istio-cni"]
    assert result["plugins"][0] == LINKERD
    assert result["plugins"][2] == ISTIO
    assert result["plugins"][1] == conflist.plugin(DEFAULT)
    assert result["foreign"] == 1


def test_a_change_of_ours_is_written_and_keeps_the_others() -> None:
    before = {**conflist.document(DEFAULT), "plugins": [conflist.plugin(DEFAULT), ISTIO]}
    settings = dataclasses.replace(DEFAULT, pod_mtu=1400)
    assert merged(before, settings)["plugins"] == [conflist.plugin(settings), ISTIO]


def test_a_list_without_ours_gets_it_first() -> None:
    assert types(merged({**EXISTING, "plugins": [ISTIO]})) == ["aws-cni", "istio-cni"]


def test_two_entries_of_ours_become_one() -> None:
    assert types(merged({**EXISTING, "plugins": [EXISTING["plugins"][0], ISTIO, EXISTING["plugins"][0]]})) == [
        "aws-cni",
        "istio-cni",
    ]


def test_appended_plugins_follow_their_variables_and_own_ones_stay() -> None:
    own = {"type": "bandwidth", "capabilities": {"bandwidth": True}, "ingressRate": 1000}
    chain = [*EXISTING["plugins"], *conflist._APPENDED, own]
    assert merged({**EXISTING, "plugins": chain})["plugins"] == [conflist.plugin(DEFAULT), own]


@pytest.mark.parametrize("entry", [None, 3, "x", [], {}])
def test_odd_entries_do_no_harm(entry: object) -> None:
    result = merged({**EXISTING, "plugins": [entry, *EXISTING["plugins"]]})
    assert [plugin for plugin in result["plugins"] if plugin] == [conflist.plugin(DEFAULT)]


entries = st.one_of(
    st.sampled_from([ISTIO, LINKERD, *EXISTING["plugins"], *conflist._APPENDED, {}, {"type": 3}, {"type": ["x"]}, 7]),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=3),
)


@given(st.lists(entries, max_size=6), st.dictionaries(st.text(max_size=6), st.integers(), max_size=2))
def test_a_second_merge_changes_nothing(chain: list[Any], extra: dict[str, int]) -> None:
    first = conflist.merge(json.dumps({**extra, "plugins": chain}).encode(), DEFAULT)
    if first is not None:
        assert conflist.merge(first, DEFAULT) is None
        assert types_of_ours(json.loads(first)) == ["aws-cni"]


def types_of_ours(document: Any) -> list[str]:
    return [entry["type"] for entry in document["plugins"] if entry.get("type") in ("aws-cni", "portmap", "egress-cni")]
