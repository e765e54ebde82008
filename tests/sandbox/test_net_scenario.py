"""What a scenario may say of networks, and the data plane in a user namespace, where the kernel keeps things back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.world import scenario
from sandbox.world.scenario import Scenario
from tests.sandbox.net_kit import SCENARIO

GOOD: dict[str, Any] = msgspec.to_builtins(SCENARIO)
PEER = {"name": "peer", "kind": "peering", "cidr": "172.31.0.0/16"}


def parsed(**changes: object) -> Scenario:
    return scenario.parse(json.dumps({**GOOD, **changes}))


def test_a_dual_stack_scenario_survives_its_file() -> None:
    assert parsed() == SCENARIO


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vpc_ipv6_cidr": "10.1.0.0/16"}, "vpc_ipv6_cidr '10.1.0.0/16' is of the wrong family"),
        ({"vpc_ipv6_cidr": "2001:db8:100::1/56"}, "vpc_ipv6_cidr '2001:db8:100::1/56'"),
        ({"vpc_ipv6_cidr": "2001:db8:113::/56"}, "overlaps 2001:db8:113::/64, which the sandbox itself uses"),
        ({"vpc_cidr": "2001:db8::/56"}, "vpc_cidr '2001:db8::/56' is of the wrong family"),
        ({"vpc_cidr": "198.51.0.0/16"}, "overlaps 198.51.100.0/24, which the sandbox itself uses"),
        ({"secondary_cidrs": ["10.0.0.0/8"]}, "secondary_cidrs 10.0.0.0/8 and vpc_cidr 10.0.0.0/16 overlap"),
        ({"subnets": [{"cidr": "10.9.0.0/18"}]}, "subnet 10.9.0.0/18 is not inside 10.0.0.0/16 or 100.64.0.0/16"),
        ({"subnets": [{"cidr": "10.0.0.0/18", "ipv6_cidr": "2001:db8:100::/65"}]}, "2001:db8:100::/65 is no /64"),
        ({"subnets": [{"cidr": "10.0.0.0/18", "ipv6_cidr": "2001:db8:9::/64"}]}, "2001:db8:9::/64 is not inside"),
        ({"outside": [{**PEER, "cidr": "10.0.4.0/24"}]}, "outside peer 10.0.4.0/24 and vpc_cidr 10.0.0.0/16 overlap"),
        ({"outside": [PEER, PEER]}, "outside peer 172.31.0.0/16 and outside peer 172.31.0.0/16 overlap"),
        ({"outside": [{**PEER, "cidr": "172.31.0.0/28"}]}, "172.31.0.0/28 has fewer than 32 addresses"),
        ({"outside": [{**PEER, "name": "internet"}]}, "outside name 'internet'"),
        ({"outside": [{**PEER, "name": "a-name-too-long"}]}, "outside name 'a-name-too-long'"),
        ({"outside": [{**PEER, "name": "node-1"}]}, "two nodes or networks are called 'node-1'"),
        ({"outside": [{**PEER, "kind": "transit-gateway"}]}, "Invalid enum value 'transit-gateway'"),
        ({"route_tables": []}, "unknown field `route_tables`"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SandboxFailure) as refused:
        parsed(**changes)
    assert refused.value.code == "bad-request"
    assert words in refused.value.text


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sandbox.base.shapes import Rule
from tests.sandbox import net_kit as kit
with kit.running(Path(sys.argv[2])) as world:
    one, other = (kit.make_pod(world, node, kit.attach(world, node)) for node in ("node-1", "node-2"))
    told = {"reached": [one.ping(other.address[family]) for family in "46"]}
    told["jumbo"] = one.run("ping", "-c1", "-W20", "-M", "do", "-s", "3000", kit.INTERNET["4"]).text
    group = kit.held(world, one.eni_id).groups[0]
    world.group_rules(group, ingress=[])
    told["denied"] = [one.dark(other.address[family]) for family in "46"]
    told["ids"] = [one.address, other.address]
    told["router"] = json.loads(world.node_exec("node-1", ["ip", "-6", "-j", "route", "show", "default"]).stdout)
    told["drops"] = [[*key, count] for key, count in kit.drops(world).items()]
    with open(Path(sys.argv[2]) / "c.pcap", "wb") as sink:
        with world.capture("node-1", sink.fileno(), seconds=0.2) as running:
            told["captured"] = running.wait()
    print(json.dumps(told))
"""


@pytest.mark.root
def test_the_data_plane_in_a_user_namespace(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", SCRIPT, str(root), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"needs user namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reached"] == [True, True]
    assert "mtu = 1500" in told["jumbo"]
    assert told["denied"] == [True, True]
    assert told["router"][0]["protocol"] == "ra"
    one, _ = told["ids"]
    counts = {(reason, node, address): count for reason, node, address, count in told["drops"]}
    assert [counts[("security-group/ingress", "node-2", one[family])] for family in "46"] == [1, 1]
    assert counts[("mtu", "node-1", one["4"])] == 1
    assert told["captured"] == 0
    assert (tmp_path / "c.pcap").read_bytes()[:4] == bytes.fromhex("4d3cb2a1")
