"""The nftables script: which rules stand in it for which settings. What they do to packets is tested in the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.nat import NatConfig, collapse, removal, script

CONFIG = NatConfig("10.0.0.4", "ens5", "eni", 0x80, ("10.0.0.0/16",))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("node_port", [False, True])
def test_each_part_follows_its_setting(external: bool, node_port: bool) -> None:
    text = script(replace(CONFIG, external_snat=external, node_port_support=node_port))
    assert text.startswith(removal())
    assert ("snat to 10.0.0.4" in text) == (not external)
    assert ("ct state new" in text) == (not external)
    assert ('iifname "ens5"' in text) == node_port
    assert ('iifname "vlan*"' in text) == node_port
    assert ('iifname "eni*" ct mark' in text) == (node_port or not external)
    assert ("table ip enid {" in text) == (node_port or not external)


@pytest.mark.parametrize(
    ("randomize", "end"), [("prng", "10.0.0.4 fully-random"), ("hashrandom", "10.0.0.4 random"), ("none", "10.0.0.4")]
)
def test_randomisation(randomize: str, end: str) -> None:
    assert f"    snat to {end}\n" in script(replace(CONFIG, randomize=randomize))


def test_only_our_own_bits_are_touched() -> None:
    text = script(replace(CONFIG, mark=0x100))
    assert "0x80" not in text
    for line in text.splitlines():
        if "mark set" in line:
            assert "mark set meta mark" in line or "mark set ct mark" in line
    assert f"{0x100 ^ 0xFFFFFFFF:#x}" in text


def test_networks_that_overlap_become_one() -> None:
    assert collapse(["10.0.0.0/16", "10.0.8.0/24", "10.1.0.0/16"]) == ["10.0.0.0/15"]
    text = script(replace(CONFIG, excluded_cidrs=("10.0.4.0/24", "192.168.0.0/16", "0.0.0.0/0")))
    assert "elements = { 0.0.0.0/0 }" in text


def test_the_digest_follows_the_rules() -> None:
    assert CONFIG.digest == replace(CONFIG, vpc_cidrs=("10.0.0.0/17", "10.0.128.0/17")).digest
    assert CONFIG.digest != replace(CONFIG, primary_ip="10.0.0.5").digest
