"""The cells of the data plane in real packets, IPv4 and IPv6: who reaches whom, and what is dropped and counted."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from itertools import permutations

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import Rule
from sandbox.face.client import Sandbox
from tests.sandbox import net_kit as kit
from tests.sandbox.conftest import ec2, until
from tests.sandbox.net_kit import Pod

pytestmark = pytest.mark.root
FAMILIES = ["4", "6"]
# Node and device of the pods between which every pair is tried: two ENIs on two nodes, one in the secondary CIDR.
PLACES = [("node-1", 0), ("node-1", 1), ("node-2", 0), ("node-2", 1), ("node-3", 0)]
both = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with kit.running(tmp_path_factory.mktemp("cells")) as running:
        # Outsiders may come in, so that what does not come through has another reason than the groups.
        group = running.ledger()[0].groups[0]
        everybody = Rule(cidrs=["0.0.0.0/0", "::/0"])
        running.group_rules(group, ingress=[everybody, Rule(groups=[group])], egress=[everybody])
        yield running


@pytest.fixture(scope="module")
def pods(world: Sandbox) -> dict[tuple[str, int], Pod]:
    enis = {(node, 0): "" for node, device in PLACES if device == 0}
    enis |= {(node, 1): kit.attach(world, node) for node, device in PLACES if device == 1}
    return {place: kit.make_pod(world, place[0], enis[place]) for place in PLACES}


@both
@pytest.mark.parametrize(("one", "other"), list(permutations(PLACES, 2)))
def test_pod_reaches_pod(
    pods: dict[tuple[str, int], Pod], one: tuple[str, int], other: tuple[str, int], family: str
) -> None:
    assert pods[one].ping(pods[other].address[family])


@both
def test_pods_source_is_seen_unchanged(world: Sandbox, pods: dict[tuple[str, int], Pod], family: str) -> None:
    one, other = pods[("node-1", 1)], pods[("node-2", 0)]
    with kit.Talk(world, other.name, kit.LISTEN, "7000") as server:
        assert server.hear() == "ready"
        with kit.Talk(world, one.name, kit.TALK, other.address[family], "7000", "20") as client:
            assert client.hear() == "connected"
            assert server.hear() == one.address[family]
            assert client.say("hello") == "hello"


@both
def test_wrong_eni_is_dropped_and_counted(world: Sandbox, pods: dict[tuple[str, int], Pod], family: str) -> None:
    """The pod's address is of the second ENI, its packets leave by the first."""
    pod, target = pods[("node-1", 1)], pods[("node-2", 0)].address[family]
    rule = ["ip", f"-{family}", "rule"]
    match = ["from", pod.address[family], "to", target, "table", "main", "prio", "100"]
    key = ("spoof", "node-1", pod.address[family])
    before = kit.drops(world)[key]
    assert world.node_exec("node-1", [*rule, "add", *match]).rc == 0
    try:
        assert pod.dark(target)
        assert kit.drops(world)[key] == before + 1
    finally:
        assert world.node_exec("node-1", [*rule, "del", *match]).rc == 0
    assert pod.ping(target)


@both
def test_unassigned_address_is_dark_and_counted(world: Sandbox, family: str) -> None:
    """In a namespace that answers for it: before EC2 assigns it, while it is assigned, and after."""
    eni_id = world.node("node-2").nics[0].eni_id
    four, six = {"4": ("10.0.99.4", "2001:db8:100:1::44"), "6": ("10.0.99.6", "2001:db8:100:1::66")}[family]
    target = {"4": four, "6": six}[family]
    kit.wire(world, "node-2", eni_id, four, six, 0)
    ask = ["ping", "-c1", "-W1", target]
    assert world.node_exec("node-1", ask).rc != 0
    assert kit.drops(world)[("unknown", "node-1", target)] == 1
    member = {"4": "PrivateIpAddress_1", "6": "Ipv6Addresses_1"}[family]
    actions = {"4": "PrivateIpAddresses", "6": "Ipv6Addresses"}[family]
    ec2(world, f"Assign{actions}", NetworkInterfaceId=eni_id, **{member: target})
    assert world.node_exec("node-1", ["ping", "-c1", "-W20", target]).rc == 0
    ec2(world, f"Unassign{actions}", NetworkInterfaceId=eni_id, **{member: target})
    assert world.node_exec("node-1", ask).rc != 0
    assert kit.drops(world)[("unknown", "node-1", target)] == 2


def test_ipv6_prefix_is_routed_as_a_whole(world: Sandbox) -> None:
    eni_id = world.node("node-2").nics[0].eni_id
    ec2(world, "AssignIpv6Addresses", NetworkInterfaceId=eni_id, Ipv6PrefixCount=1)
    prefix = kit.held(world, eni_id).ipv6_prefixes[0]
    inside = str(ipaddress.IPv6Network(prefix)[0x1_0002_0003])
    kit.wire(world, "node-2", eni_id, "10.0.99.80", inside, 0)
    assert world.node_exec("node-1", ["ping", "-c1", "-W20", inside]).rc == 0
    ec2(world, "UnassignIpv6Addresses", NetworkInterfaceId=eni_id, Ipv6Prefix_1=prefix)
    assert world.node_exec("node-1", ["ping", "-c1", "-W1", inside]).rc != 0
    assert kit.drops(world)[("unknown", "node-1", inside)] == 1


def test_router_is_advertised_and_the_address_configured(world: Sandbox) -> None:
    node = world.node("node-1")
    address = kit.held(world, node.nics[0].eni_id).ipv6_addresses[0]
    shown = json.loads(world.node_exec("node-1", ["ip", "-6", "-j", "address", "show", "dev", "ens5"]).stdout)[0]
    assert (address, 128) in [(one["local"], one["prefixlen"]) for one in shown["addr_info"]]
    default = until(
        lambda: json.loads(world.node_exec("node-1", ["ip", "-6", "-j", "route", "show", "default"]).stdout),
        "a default route by router advertisement",
        30.0,
    )
    assert default[0]["protocol"] == "ra"
    assert default[0]["gateway"].startswith("fe80:")
    subnet = json.loads(world.node_exec("node-1", ["ip", "-6", "-j", "route", "show", "2001:db8:100::/64"]).stdout)
    assert subnet[0]["dev"] == "ens5", "the subnet is on the link"
    own = [one["local"] for one in shown["addr_info"] if one["scope"] == "global"]
    assert own == [address], "and gives no address of its own accord"


def test_neighbours_of_one_subnet_are_answered_for_and_nobody_else(world: Sandbox) -> None:
    held = [kit.held(world, world.node(name).nics[0].eni_id).ipv6_addresses[0] for name in ("node-1", "node-4")]
    assert world.node_exec("node-1", ["ping", "-c1", "-W20", held[1]]).rc == 0
    near = world.node_exec("node-1", ["ip", "-6", "neigh", "show", held[1]]).text
    assert "0a:ff:ff:ff:ff:01" in near
    missing = "2001:db8:100::dead"
    assert world.node_exec("node-1", ["ping", "-c1", "-W1", missing]).rc != 0
    assert "lladdr" not in world.node_exec("node-1", ["ip", "-6", "neigh", "show", missing]).text


def test_a_subnet_without_ipv6_hears_no_router(world: Sandbox) -> None:
    node = world.node_add("plain", "room", 3)
    assert kit.held(world, node.nics[0].eni_id).ipv6_addresses == []
    port = node.nics[0].port
    assert world.router_exec(["cat", f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6"]).text == "1\n"
    assert world.node_exec("plain", ["ip", "-6", "route", "show", "default"]).text == ""


@both
@pytest.mark.parametrize(("name", "reachable"), [("node-1", True), ("node-3", False)])
def test_metadata_hop_limit(
    world: Sandbox, pods: dict[tuple[str, int], Pod], name: str, reachable: bool, family: str
) -> None:
    """From the node always; from a pod with a limit of 2 and not with 1, where the node says that the answer died."""
    host = kit.METADATA[family] if family == "4" else f"[{kit.METADATA[family]}]"
    ask = ["curl", "-sf", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"]
    url = f"http://{host}/latest/api/token"
    assert world.node_exec(name, [*ask, "-m", "20", url]).rc == 0
    pod = pods[(name, 0)]
    before = sum(count for key, count in kit.drops(world).items() if key[:2] == ("hop-limit", name))
    done = pod.run(*ask, "-m", "20" if reachable else "2", url)
    assert (done.rc == 0) == reachable
    after = sum(count for key, count in kit.drops(world).items() if key[:2] == ("hop-limit", name))
    assert (after > before) == (not reachable)


def test_ec2_says_that_the_metadata_answers_over_ipv6(world: Sandbox) -> None:
    shown = [one.text for one in ec2(world, "DescribeInstances").findall(".//httpProtocolIpv6")]
    assert len(shown) >= len(kit.SCENARIO.nodes)
    assert set(shown) == {"enabled"}


OUTSIDE = {"internet": kit.INTERNET, "peer": kit.PEER, "premises": kit.PREMISES}


@both
@pytest.mark.parametrize("where", OUTSIDE)
def test_out_of_the_vpc_with_the_source_unchanged(
    world: Sandbox, pods: dict[tuple[str, int], Pod], where: str, family: str
) -> None:
    pod = pods[("node-1", 1)]
    with kit.Talk(world, where, kit.LISTEN, "7001") as server:
        assert server.hear() == "ready"
        with kit.Talk(world, pod.name, kit.TALK, OUTSIDE[where][family], "7001", "20") as client:
            assert client.hear() == "connected"
            assert server.hear() == pod.address[family]
            assert client.say("out") == "out"


@both
@pytest.mark.parametrize("where", ["peer", "premises"])
def test_into_the_vpc_from_routed_networks(
    world: Sandbox, pods: dict[tuple[str, int], Pod], where: str, family: str
) -> None:
    pod = pods[("node-2", 1)]
    with kit.Talk(world, pod.name, kit.LISTEN, "7002") as server:
        assert server.hear() == "ready"
        with kit.Talk(world, where, kit.TALK, pod.address[family], "7002", "20") as client:
            assert client.hear() == "connected"
            assert server.hear() == OUTSIDE[where][family]
    assert world.outside_exec(where, ["ping", "-c1", "-W20", pod.address[family]]).rc == 0


def test_internet_comes_in_by_a_public_address_only(world: Sandbox, pods: dict[tuple[str, int], Pod]) -> None:
    pod = pods[("node-2", 0)]
    private = pod.address["4"]
    assert world.internet_exec(["ping", "-c1", "-W1", private]).rc != 0
    assert kit.drops(world)[("unknown", "internet0", private)] == 1
    public = world.public_address(private)
    assert world.public_address(private) == public
    assert world.internet_exec(["ping", "-c1", "-W20", public]).rc == 0
    with kit.Talk(world, pod.name, kit.LISTEN, "7003") as server:
        assert server.hear() == "ready"
        with kit.Talk(world, "internet", kit.TALK, public, "7003", "20") as client:
            assert client.hear() == "connected"
            assert server.hear() == kit.INTERNET["4"], "the client's address is not translated"
    with kit.Talk(world, "internet", kit.LISTEN, "7004") as server:
        assert server.hear() == "ready"
        with kit.Talk(world, pod.name, kit.TALK, kit.INTERNET["4"], "7004", "20") as client:
            assert client.hear() == "connected"
            assert server.hear() == public, "and outwards the public address is seen"
    world.public_address(private, on=False)
    assert world.internet_exec(["ping", "-c1", "-W1", public]).rc != 0
    with pytest.raises(SandboxFailure, match="has no public address"):
        world.public_address(private, on=False)
    with pytest.raises(SandboxFailure, match="public address of 'x'"):
        world.public_address("x")


def test_internet_comes_in_over_ipv6(world: Sandbox, pods: dict[tuple[str, int], Pod]) -> None:
    pod = pods[("node-2", 1)]
    assert world.internet_exec(["ping", "-c1", "-W20", pod.address["6"]]).rc == 0


@both
def test_mtu_is_9001_inside_and_1500_outside(world: Sandbox, pods: dict[tuple[str, int], Pod], family: str) -> None:
    one, other = pods[("node-1", 0)], pods[("node-2", 1)]
    head = {"4": 28, "6": 48}[family]
    assert one.ping(other.address[family], "-M", "do", "-s", str(9001 - head))
    assert one.dark(other.address[family], "-M", "do", "-s", str(9002 - head))
    assert one.ping(kit.PEER[family], "-M", "do", "-s", str(9001 - head))
    key = ("mtu", "node-1", one.address[family])
    before = kit.drops(world)[key]
    for number, target in enumerate((kit.INTERNET[family], kit.PREMISES[family]), 1):
        assert one.ping(target, "-M", "do", "-s", str(1500 - head))
        told = one.run("ping", "-c1", "-W20", "-M", "do", "-s", "3000", target).text
        assert ("mtu = 1500" in told) or ("mtu=1500" in told), told
        assert kit.drops(world)[key] == before + number
        learned = one.run("ip", "route", "get", target).text
        assert "mtu 1500" in learned


@both
def test_hop_limit_of_one_ends_at_the_router(world: Sandbox, family: str) -> None:
    """From the node, whose next hop is the router, which tells and counts."""
    target = world.node("node-2").primary_ip
    if family == "6":
        target = kit.held(world, world.node("node-2").nics[0].eni_id).ipv6_addresses[0]
    key = ("hop-limit", "node-1")
    before = sum(count for k, count in kit.drops(world).items() if k[:2] == key)
    said = world.node_exec("node-1", ["ping", "-c1", "-W20", "-t", "1", target]).text
    assert "exceeded" in said
    assert sum(count for k, count in kit.drops(world).items() if k[:2] == key) == before + 1


def test_ipv6_multicast_is_dropped_and_counted(world: Sandbox) -> None:
    world.node_exec("node-1", ["ping", "-6", "-c1", "-W1", "-I", "ens5", "ff02::fb"])
    assert kit.drops(world)[("broadcast", "node-1", "ff02::fb")] == 1
