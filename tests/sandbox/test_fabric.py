"""The VPC's behaviour in real packets: who reaches whom, from which address, and what is dropped and counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sandbox.face.client import Sandbox
from sandbox.net import fabric, router
from sandbox.world.scenario import Scenario
from tests.sandbox.conftest import SIGNED, Node, ec2, until

pytestmark = pytest.mark.root


def drops(world: Sandbox, node: str) -> Counter[tuple[str, str]]:
    """Packets by reason and address."""
    return Counter({(drop.reason, drop.address): drop.packets for drop in world.counters() if drop.node == node})


def ping(world: Sandbox, node: str, target: str, *options: str) -> bool:
    """Whether an answer comes; for one that must. The limit is for a machine that stands still, not for the VPC."""
    return world.node_exec(node, ["ping", "-c1", "-W20", *options, target]).rc == 0


def dark(world: Sandbox, node: str, target: str, *options: str) -> bool:
    """Whether no answer comes within a second; for what must not answer. What becomes of the packet is asserted too."""
    return world.node_exec(node, ["ping", "-c1", "-W1", *options, target]).rc != 0


def attach(world: Sandbox, name: str) -> tuple[str, str, str]:
    """A second ENI: its id, attachment and address."""
    node = world.node(name)
    made = ec2(world, "CreateNetworkInterface", SubnetId=node.subnet_id)
    eni_id = made.findtext(".//networkInterfaceId") or ""
    done = ec2(world, "AttachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=node.instance_id, DeviceIndex=1)
    return eni_id, done.findtext(".//attachmentId") or "", made.findtext(".//privateIpAddress") or ""


def test_node_reaches_node_by_private_address(world: Sandbox) -> None:
    first, second = world.node("node-1"), world.node("node-2")
    assert first.subnet_id != second.subnet_id
    assert ping(world, "node-1", second.primary_ip)
    assert ping(world, "node-2", first.primary_ip)


def test_nodes_of_one_subnet_find_each_other_on_the_link(world: Sandbox) -> None:
    first, third = world.node("node-1"), world.node("node-3")
    assert first.subnet_id == third.subnet_id
    assert ping(world, "node-1", third.primary_ip)
    near = world.node_exec("node-1", ["ip", "neigh", "show", third.primary_ip]).text
    assert router.PORT_MAC in near, "the router answers ARP in the neighbour's place"


def test_jumbo_frames_pass_inside_and_not_to_the_internet(world: Sandbox) -> None:
    target = world.node("node-2").primary_ip
    assert ping(world, "node-1", target, "-M", "do", "-s", str(9001 - 28))
    assert dark(world, "node-1", target, "-M", "do", "-s", str(9001 - 27))
    assert ping(world, "node-1", "203.0.113.10", "-M", "do", "-s", str(1500 - 28))
    large = world.node_exec("node-1", ["ping", "-c1", "-W20", "-M", "do", "-s", "2000", "203.0.113.10"])
    assert "mtu = 1500" in large.text


def test_internet_host_sees_the_source_address(world: Sandbox) -> None:
    node = world.node("node-1")
    assert world.to_internet({"it": node.netns}, ifname="ens5") == {"it": node.primary_ip}


def test_attached_eni_appears_with_the_api_mac_down_and_goes_on_detach(world: Sandbox, fresh: Node) -> None:
    before = world.node_exec(fresh.name, ["ip", "-j", "link"]).stdout
    eni_id, attachment, address = attach(world, fresh.name)
    entry = next(entry for entry in world.ledger() if entry.eni_id == eni_id)
    link = json.loads(world.node_exec(fresh.name, ["ip", "-j", "address", "show", "dev", "ens6"]).stdout)[0]
    assert link["address"] == entry.mac
    assert link["mtu"] == 9001
    assert "UP" not in link["flags"]
    assert link["addr_info"] == []
    assert entry.primary_ip == address
    assert [nic.ifname for nic in world.node(fresh.name).nics] == ["ens5", "ens6"]
    ec2(world, "DetachNetworkInterface", AttachmentId=attachment)
    until(lambda: len(world.node(fresh.name).nics) == 1, "detached")
    assert world.node_exec(fresh.name, ["ip", "-j", "link"]).stdout == before
    assert entry.primary_ip not in world.router_exec(["ip", "route"]).text.split()


def test_wrong_eni_is_dropped_and_counted_unless_the_check_is_off(world: Sandbox, fresh: Node) -> None:
    eni_id, _, address = attach(world, fresh.name)
    target = world.node("node-2").primary_ip
    setup = f"ip link set ens6 up; ip addr add {address}/32 dev lo; ip route add {target} dev ens5 via 10.0.0.1"
    assert world.node_exec(fresh.name, ["sh", "-c", setup]).rc == 0
    assert dark(world, fresh.name, target, "-I", address)
    assert drops(world, fresh.name)[("spoof", address)] == 1
    primary = world.node(fresh.name).nics[0].eni_id
    ec2(world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=primary, SourceDestCheck_Value="false")
    assert world.node_exec(fresh.name, ["sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/ens6/rp_filter"]).rc == 0
    assert ping(world, fresh.name, target, "-I", address)
    ec2(world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=primary, SourceDestCheck_Value="true")
    assert dark(world, fresh.name, target, "-I", address)
    assert drops(world, fresh.name)[("spoof", address)] == 2
    ec2(world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=primary, SourceDestCheck_Value="false")
    assert eni_id != primary


def test_right_eni_passes_with_its_own_address(world: Sandbox, fresh: Node) -> None:
    _, _, address = attach(world, fresh.name)
    setup = (
        f"ip link set ens6 up; ip addr add {address}/32 dev ens6; ip route add 10.0.0.1 dev ens6 table 7;"
        f" ip route add default via 10.0.0.1 dev ens6 table 7; ip rule add from {address} table 7"
    )
    assert world.node_exec(fresh.name, ["sh", "-c", setup]).rc == 0
    assert ping(world, fresh.name, world.node("node-2").primary_ip, "-I", address)
    assert not drops(world, fresh.name)


def test_address_is_dark_before_assignment_and_after(world: Sandbox, fresh: Node) -> None:
    eni = world.node(fresh.name).nics[0].eni_id
    address = "10.0.40.40"
    assert world.node_exec(fresh.name, ["ip", "addr", "add", f"{address}/32", "dev", "lo"]).rc == 0
    assert dark(world, "node-2", address)
    before = drops(world, "node-2")[("unknown", address)]
    assert before >= 1
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress_1=address)
    assert ping(world, "node-2", address)
    ec2(world, "UnassignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress_1=address)
    assert dark(world, "node-2", address)
    assert drops(world, "node-2")[("unknown", address)] == before + 1


def test_prefix_is_routed_as_a_whole(world: Sandbox, fresh: Node) -> None:
    eni = world.node(fresh.name).nics[0].eni_id
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, Ipv4Prefix_1="10.0.48.16/28")
    assert world.node_exec(fresh.name, ["ip", "addr", "add", "10.0.48.31/32", "dev", "lo"]).rc == 0
    assert ping(world, "node-2", "10.0.48.31")
    assert dark(world, "node-2", "10.0.48.32")


def test_reassigned_address_moves_to_the_other_eni(world: Sandbox, fresh: Node) -> None:
    eni = world.node(fresh.name).nics[0].eni_id
    other = attach(world, fresh.name)[0]
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress_1="10.0.41.41")
    ec2(
        world,
        "AssignPrivateIpAddresses",
        NetworkInterfaceId=other,
        PrivateIpAddress_1="10.0.41.41",
        AllowReassignment="true",
    )
    routes = world.router_exec(["ip", "route", "show", "10.0.41.41"]).text
    assert router.port_name(other) in routes
    assert len(routes.splitlines()) == 1
    ec2(world, "UnassignPrivateIpAddresses", NetworkInterfaceId=other, PrivateIpAddress_1="10.0.41.41")
    assert not world.router_exec(["ip", "route", "show", "10.0.41.41"]).text


def test_broadcast_and_multicast_are_dropped_and_counted(world: Sandbox, fresh: Node) -> None:
    world.node_exec(fresh.name, ["ping", "-b", "-c1", "-W1", "10.0.63.255"])
    world.node_exec(fresh.name, ["ping", "-c1", "-W1", "-I", "ens5", "224.0.0.251"])
    seen = drops(world, fresh.name)
    assert seen[("broadcast", "10.0.63.255")] == 1
    assert seen[("broadcast", "224.0.0.251")] == 1


def test_four_thousand_addresses_on_one_eni(world: Sandbox, fresh: Node) -> None:
    world.node_add(f"{fresh.name}-big", "big")
    node = world.node(f"{fresh.name}-big")
    eni = node.nics[0].eni_id
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3999)
    held = next(entry for entry in world.ledger() if entry.eni_id == eni).addresses
    routes = world.router_exec(["ip", "route", "show", "dev", node.nics[0].port]).text
    routed = {line.split()[0] for line in routes.splitlines()}
    assert len(held) == 4000
    assert routed == set(held)
    ec2(world, "TerminateInstances", InstanceId_1=node.instance_id)
    until(lambda: all(node.name != other.name for other in world.nodes()), "node gone")


def test_terminated_instance_takes_its_namespace_routes_and_processes_along(world: Sandbox, fresh: Node) -> None:
    node = world.node(fresh.name)
    process = world.node_spawn(fresh.name, "stay", ["sleep", "1000"])
    ec2(world, "TerminateInstances", InstanceId_1=node.instance_id)
    until(lambda: fresh.name not in [other.name for other in world.nodes()], "node gone")
    assert fresh.name not in world.router_exec(["ls", "/run/netns"]).text.split()
    assert world.router_exec(["test", "-e", f"/proc/{process.pid}"]).rc != 0
    assert node.nics[0].port not in world.router_exec(["ip", "-br", "link"]).text


@pytest.mark.parametrize(("name", "reachable"), [("node-1", True), ("node-3", False)])
def test_metadata_hop_limit_decides_whether_a_pod_gets_a_token(
    world: Sandbox, nodes: list[Node], name: str, reachable: bool
) -> None:
    def ask(patience: str) -> list[str]:
        lifetime = ("-H", "X-aws-ec2-metadata-token-ttl-seconds: 60")
        return ["curl", "-sf", "-m", patience, "-X", "PUT", *lifetime, "http://169.254.169.254/latest/api/token"]

    assert world.node_exec(name, ask("20")).rc == 0
    answer = world.pod_create(name, "hop", f"pod-{name}")
    assert answer.ok, answer
    try:
        done = world.pod_exec(name, "hop", f"pod-{name}", ask("20" if reachable else "2"))
        assert (done.rc == 0) == reachable
    finally:
        assert world.pod_delete(name, "hop", f"pod-{name}").ok


def test_services_answer_inside_the_nodes(world: Sandbox) -> None:
    node = world.node_exec("node-2", ["curl", "-sf", "http://198.18.0.3/api/v1/nodes/node-2"]).text
    assert json.loads(node)["metadata"]["name"] == "node-2"
    query = "http://198.18.0.2/?Action=DescribeVpcs&Version=2016-11-15"
    assert "10.0.0.0/16" in world.node_exec("node-2", ["curl", "-sf", *SIGNED, query]).text


def test_interface_names_follow_device_and_card() -> None:
    names = {fabric.interface_name(device, card) for device in range(60) for card in range(4)}
    assert fabric.interface_name(0, 0) == "ens5"
    assert len(names) == 240
    assert all(len(name) <= 15 for name in names)
    assert len(router.port_name("eni-0123456789abcdef0")) == 15


def test_instance_launched_through_the_api_is_a_node_too(world: Sandbox) -> None:
    subnet = world.node("node-1").subnet_id
    made = ec2(
        world,
        "RunInstances",
        ImageId="ami-0123456789abcdef0",
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        TagSpecification_1_ResourceType="instance",
        TagSpecification_1_Tag_1_Key="Name",
        TagSpecification_1_Tag_1_Value="by-hand",
    )
    assert world.node("by-hand").instance_id == made.findtext(".//instanceId")
    assert ping(world, "by-hand", world.node("node-2").primary_ip)
    ec2(world, "TerminateInstances", InstanceId_1=world.node("by-hand").instance_id)
    until(lambda: "by-hand" not in [node.name for node in world.nodes()], "node gone")


def test_late_network_is_dark_though_ec2_has_assigned(tmp_path: Path) -> None:
    with Sandbox.up(tmp_path / "s", Scenario.simple(2)) as world:
        eni = world.node("node-1").nics[0].eni_id
        assert world.node_exec("node-1", ["ip", "addr", "add", "10.0.42.42/32", "dev", "lo"]).rc == 0
        world.fault("net-lag", "3600")
        ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress_1="10.0.42.42")
        assert "10.0.42.42" in next(entry for entry in world.ledger() if entry.eni_id == eni).addresses
        assert dark(world, "node-2", "10.0.42.42")
        assert drops(world, "node-2")[("unknown", "10.0.42.42")] == 1
