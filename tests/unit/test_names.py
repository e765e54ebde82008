"""Names that other programs compute for themselves: fixed vectors, and the rules behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names


@pytest.mark.parametrize(
    ("namespace", "pod", "index", "suffix"),
    [
        ("default", "sample-pod", 0, "cc21c2d7785"),
        ("default", "sample-pod", 1, "a0b7655f3c9"),
        ("kube-system", "coredns-57ff979f67-qqbdh", 0, "b5faff8a083"),
    ],
)
def test_veth_suffix_vectors(namespace: str, pod: str, index: int, suffix: str) -> None:
    assert names.veth_suffix(namespace, pod, index) == suffix
    assert names.host_veth(namespace, pod, "eni", index) == "eni" + suffix


@pytest.mark.parametrize(
    ("card", "device", "table"), [(0, 0, 254), (0, 1, 2), (0, 2, 3), (1, 0, 10100), (2, 3, 10203), (0, 99, 100)]
)
def test_route_tables(card: int, device: int, table: int) -> None:
    assert names.route_table(card, device) == table


@pytest.mark.parametrize("device", [-1, 100])
def test_route_table_refuses_device(device: int) -> None:
    with pytest.raises(ValueError, match=rf"device number {device} is not within"):
        names.route_table(0, device)


@given(st.text(max_size=80), st.text(max_size=15), st.sampled_from(["host", "pod"]))
def test_macs_are_local_unicast_and_repeatable(container: str, ifname: str, end: str) -> None:
    mac = names.derived_mac(container, ifname, end)
    assert len(mac) == 6
    assert mac[0] & 0x03 == 0x02
    assert mac == names.derived_mac(container, ifname, end)


def test_the_two_ends_and_two_containers_differ() -> None:
    macs = {names.derived_mac(c, "eth0", e) for c in ("a", "b") for e in ("host", "pod")}
    assert len(macs) == 4


def test_owner_key_separates_its_fields() -> None:
    keys = {names.owner_key("ab", "c", "d"), names.owner_key("a", "bc", "d"), names.owner_key("a", "b", "cd")}
    assert len(keys) == 3
    assert all(len(key) == 20 for key in keys)
