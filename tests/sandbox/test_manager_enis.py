"""Which ENIs the manager uses and changes: strangers' ENIs, excluded subnets, ENIs that come, go and change hands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox.faults import Fault
from sandbox.http import Request, Response
from tests.sandbox.fake_agent import FakeAgent
from tests.sandbox.manager_bench import NEXT_SWEEP, NO_MANAGE, PER_ENI, Bench, until

ROLE = "kubernetes.io/role/cni"
OWN = "node.k8s.amazonaws.com/instance_id"


def on_eni(b: Bench, eni_id: str) -> set[str]:
    """Addresses of an ENI that pods use."""
    return {base for base in b.agent.used() if b.agent.addresses[base].eni_id == eni_id}


def states(b: Bench, eni_id: str) -> set[str]:
    """States of an ENI's blocks, and its own."""
    with b.agent.lock:
        blocks = {address.state for address in b.agent.addresses.values() if address.eni_id == eni_id}
        return blocks | {b.agent.enis[eni_id].state}


def known(b: Bench) -> None:
    """Wait for the end of the start."""
    until("known", lambda: b.manager is not None and b.manager._audit.settled and b.agent.ready)


# --- ENIs of kinds that we do not use ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["efa-only", "interface"])
def test_an_eni_without_ipv4_addresses_stands_beside_ours(b: Bench, kind: str) -> None:
    """EFA-only, or IPv6-only: the sandbox has neither, so an ENI's addresses are cut out of EC2's answer."""
    eni_id = b.stranger(1, {})
    real = b.a.api.__call__

    def without(request: Request) -> Response:
        answer = real(request)
        body = answer.body
        at = body.find(eni_id.encode())
        if b"DescribeNetworkInterfacesResponse" not in body or at < 0:
            return answer
        begin, end = body.rfind(b"<item>", 0, at), body.find(b"<tagSet", at)
        item = body[begin:end] if end > 0 else body[begin:]
        cut = _cut(_cut(item, b"privateIpAddress"), b"privateIpAddressesSet")
        cut = cut.replace(b"<interfaceType>interface<", b"<interfaceType>" + kind.encode() + b"<")
        return replace(answer, body=body.replace(item, cut))

    b.serve(without)
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    known(b)
    b.agent.add_pods(3 * PER_ENI)
    b.served()
    assert eni_id not in b.agent.enis
    b.agent.add_pods(1)
    until("it counts", lambda: b.agent.outlook and "1 of them not managed" in b.agent.outlook.text)


def _cut(xml: bytes, name: bytes) -> bytes:
    """Without the first element of this name."""
    begin, end = xml.find(b"<" + name + b">"), xml.find(b"</" + name + b">")
    assert begin >= 0
    assert end > begin
    return xml[:begin] + xml[end + len(name) + 3 :]


def test_an_efa_eni_serves_pods_and_is_never_removed(b: Bench) -> None:
    eni_id = b.stranger(1, {}, SecondaryPrivateIpAddressCount=3)
    eni = b.a.truth.eni(eni_id)
    with b.a.truth._change():
        b.a.truth._put_eni(replace(eni, interface_type="efa"))
    b.start(warm_ip_target=1)
    until("it serves", lambda: eni_id in b.agent.enis)
    b.pass_time(600, 5)
    assert eni_id in b.a.truth.enis
    assert eni_id in b.agent.enis


# --- whose ENI it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "untagged", "used"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"team": "x"}, False, False),
        (NO_MANAGE, True, False),
        ({"node.k8s.amazonaws.com/no_manage": "false"}, False, True),
        ({"node.k8s.amazonaws.com/no_manage": "anything"}, False, True),
        ({OWN: "me"}, False, True),
        ({OWN: "i-0123456789abcdef0"}, False, False),
        ({OWN: "me", **NO_MANAGE}, True, False),
    ],
)
def test_tags_say_whose_an_eni_is(b: Bench, tags: dict[str, str], untagged: bool, used: bool) -> None:
    mine = {key: b.a.node.instance_id if value == "me" else value for key, value in tags.items()}
    eni_id = b.stranger(1, mine, SecondaryPrivateIpAddressCount=2)
    b.start(warm_ip_target=4, manage_untagged_eni=untagged)
    known(b)
    until("it comes, or is shown", lambda: eni_id in b.agent.enis or b.agent.report.get("unmanaged") == [eni_id])
    assert (eni_id in b.agent.enis) == used
    b.pass_time(120)
    shown = b.a.describe(eni_id)["TagSet"]
    assert (OWN in {tag["Key"] for tag in shown}) == (used or OWN in tags)
    assert used or {tag["Key"]: tag["Value"] for tag in shown} == mine


def test_an_eni_of_another_network_card_is_left_alone(b: Bench) -> None:
    found = b.a.truth.eni(b.stranger(1, {}))
    assert found.attachment is not None
    with b.a.truth._change():
        b.a.truth._put_eni(replace(found, attachment=replace(found.attachment, card=1)))
    b.start(warm_eni_target=0)
    known(b)
    assert set(b.agent.enis) == {b.a.eni}
    # Its card's slots are not ours.
    b.agent.add_pods(3 * PER_ENI + 1)
    until("told", lambda: b.agent.outlook is not None)
    assert b.agent.outlook is not None
    assert "not managed" not in b.agent.outlook.text
    with b.a.truth._change():
        b.a.truth._put_eni(found)


def test_an_eni_that_is_taken_from_us_while_we_run_keeps_its_pods_and_gets_no_others(b: Bench) -> None:
    second = b.two_enis()
    b.tag(second, NO_MANAGE)
    addresses = set(b.a.truth.eni(second).addresses)
    b.clock.ahead += NEXT_SWEEP
    until("drained", lambda: states(b, second) == {"draining"})
    before = on_eni(b, second)
    b.agent.add_pods(4)
    b.served(pace=0.5)
    assert on_eni(b, second) == before
    assert len(before) == 2
    # Its pods go: it leaves the pool, and nothing happens to it in EC2.
    b.end_pods_on(second)
    until("out of the pool", lambda: second not in b.agent.enis)
    b.agent.delete_pods(10)
    b.pass_time(600, 5)
    assert set(b.a.truth.eni(second).addresses) == addresses
    assert b.a.truth.eni(second).attachment is not None
    assert {tag["Key"] for tag in b.a.describe(second)["TagSet"]} >= set(NO_MANAGE)
    # It is given back to us.
    b.a.ec2.delete_tags(Resources=[second], Tags=[{"Key": key} for key in NO_MANAGE])
    b.clock.ahead += NEXT_SWEEP
    until("it serves again", lambda: second in b.agent.enis and b.agent.enis[second].state == "open")


def test_an_eni_that_was_taken_from_us_while_we_were_away_gets_no_new_pods(b: Bench) -> None:
    second = b.two_enis()
    b.kill()
    b.tag(second, NO_MANAGE)
    b.agent.ready = False
    b.start(warm_eni_target=0)
    known(b)
    before = on_eni(b, second)
    b.agent.add_pods(4)
    b.served(pace=0.5)
    assert on_eni(b, second) == before
    b.end_pods_on(second)
    until("out of the pool", lambda: second not in b.agent.enis)
    b.pass_time(600, 5)
    assert b.a.truth.eni(second).attachment is not None


def test_a_tag_that_is_set_a_moment_before_a_removal_counts(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    b.tag(second, NO_MANAGE)
    b.end_pods_on(second)
    b.agent.delete_pods(2)
    b.pass_time(300, 2)
    assert second in b.a.truth.enis
    assert b.a.truth.eni(second).attachment is not None
    assert second not in b.agent.enis


# --- excluded subnets ------------------------------------------------------------------------------------------------


def other_subnet(b: Bench) -> str:
    """A second subnet of the zone, for pods."""
    b.tag(b.a.small.subnet_id, {ROLE: "1"})
    return b.a.small.subnet_id


def subnets_of_new_enis(b: Bench) -> set[str]:
    return {b.a.truth.eni(eni_id).subnet_id for eni_id in b.agent.enis if eni_id != b.a.eni}


@pytest.mark.parametrize(
    ("own", "other", "cluster", "used"),
    [
        ({}, {}, "", "own"),
        ({}, {}, "prod", "own"),
        ({ROLE: "0"}, {}, "prod", ""),
        ({ROLE: "0"}, {ROLE: "1"}, "prod", "other"),
        ({ROLE: "1"}, {ROLE: "0"}, "prod", "own"),
        ({ROLE: "1", "cni.networking.k8s.aws/cluster/prod": ""}, {}, "prod", "own"),
        ({ROLE: "1", "cni.networking.k8s.aws/cluster/test": ""}, {ROLE: "1"}, "prod", "other"),
        ({ROLE: "1", "cni.networking.k8s.aws/cluster/test": ""}, {}, "", "own"),
        # Without a role the cluster keys of the node's own subnet are not looked at.
        ({"cni.networking.k8s.aws/cluster/test": ""}, {}, "prod", "own"),
        ({ROLE: "1"}, {ROLE: "1", "cni.networking.k8s.aws/cluster/test": ""}, "prod", "own"),
        ({ROLE: "0"}, {ROLE: "1", "cni.networking.k8s.aws/cluster/prod": ""}, "prod", "other"),
    ],
)
def test_new_enis_are_made_where_the_tags_allow(
    b: Bench, own: dict[str, str], other: dict[str, str], cluster: str, used: str
) -> None:
    b.a.ec2.delete_tags(Resources=[b.a.subnet.subnet_id], Tags=[{"Key": ROLE}])
    for subnet, tags in ((b.a.subnet, own), (b.a.small, other)):
        if tags:
            b.tag(subnet.subnet_id, tags)
    b.start(warm_eni_target=2, cluster_name=cluster)
    known(b)
    if not used:
        until("told", lambda: b.agent.outlook and b.agent.outlook.code == "subnet-full")
        assert len(b.agent.enis) == 1
        return
    until("a second ENI", lambda: len(b.agent.enis) >= 2)
    assert subnets_of_new_enis(b) == {b.a.subnet.subnet_id if used == "own" else b.a.small.subnet_id}


def test_the_subnet_with_most_room_comes_first(b: Bench) -> None:
    """With two that may be used, the larger one; the smaller one when the larger has no more."""
    other_subnet(b)
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(PER_ENI + 1)
    b.served()
    assert subnets_of_new_enis(b) == {b.a.subnet.subnet_id}
    b.a.truth.faults.add(
        Fault("CreateNetworkInterface", error="InsufficientFreeAddressesInSubnet", status=400, times=1)
    )
    b.agent.add_pods(PER_ENI)
    b.served(pace=0.5)
    assert subnets_of_new_enis(b) == {b.a.subnet.subnet_id, b.a.small.subnet_id}


def test_pods_of_an_excluded_eni_stay_and_new_ones_go_elsewhere(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(5)
    b.served()
    b.kill()
    other_subnet(b)
    b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.agent.ready = False
    before = b.agent.used()
    b.start(warm_eni_target=0)
    known(b)
    b.agent.add_pods(3)
    b.served(pace=0.5)
    assert before <= b.agent.used()
    assert on_eni(b, b.a.eni) == before
    # What nobody uses is given back, and the rest with the last pod.
    until("given back", lambda: held(b, b.a.eni) == before)
    b.end_pods_on(b.a.eni)
    b.pass_time(120, 5, lambda: not held(b, b.a.eni))
    assert held(b, b.a.eni) == set()
    assert b.agent.used() <= b.agent.open() <= b.in_ec2()


def held(b: Bench, eni_id: str) -> set[str]:
    eni = b.a.truth.eni(eni_id)
    return set(eni.addresses) - {eni.primary_ip}


def test_waiting_pods_get_no_address_of_an_excluded_eni(b: Bench) -> None:
    """Not even for the moment between its coming into the pool and its draining."""
    b.a.truth.assign_ipv4(b.a.eni, count=5)
    b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.agent.add_pods(3)
    b.start(warm_eni_target=0)
    known(b)
    b.pass_time(60)
    assert b.agent.used() == set()
    assert len(b.agent.waiting) == 3


def test_tags_of_subnets_are_waited_for_when_ec2_is_busy(b: Bench) -> None:
    """One throttled answer must not make an excluded subnet a good one."""
    other_subnet(b)
    b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.a.truth.faults.add(Fault("DescribeSubnets", error="RequestLimitExceeded", status=503, times=7))
    b.agent.add_pods(3)
    b.start(warm_eni_target=0)
    b.served(pace=0.5)
    assert on_eni(b, b.a.eni) == set()
    assert subnets_of_new_enis(b) == {b.a.small.subnet_id}


def test_without_the_right_to_describe_subnets_the_own_one_serves(b: Bench) -> None:
    b.fault("DescribeSubnets", error="UnauthorizedOperation", status=403)
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(PER_ENI + 1)
    b.served()
    assert subnets_of_new_enis(b) == {b.a.subnet.subnet_id}


def test_tags_that_change_between_plan_and_creation_count(b: Bench) -> None:
    other_subnet(b)
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.clock.ahead += 60
    b.agent.add_pods(PER_ENI + 1)
    b.served(pace=0.5)
    assert subnets_of_new_enis(b) == {b.a.small.subnet_id}


@pytest.mark.parametrize("excluded", [False, True])
def test_without_discovery_only_the_own_subnet_is_used_unless_it_is_excluded(b: Bench, excluded: bool) -> None:
    other_subnet(b)
    if excluded:
        b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.start(warm_eni_target=0, subnet_discovery=False)
    # The ENI that is there is used either way.
    b.settled(PER_ENI)
    b.agent.add_pods(PER_ENI + 1)
    if excluded:
        until("told", lambda: b.agent.outlook and b.agent.outlook.code == "subnet-full")
        assert len(b.agent.waiting) == 1
    else:
        b.served()
        assert subnets_of_new_enis(b) == {b.a.subnet.subnet_id}


def test_an_eni_of_another_vpc_is_not_excluded(b: Bench) -> None:
    eni_id = b.stranger(1, {}, SecondaryPrivateIpAddressCount=2, SubnetId=b.a.small.subnet_id)
    b.start(warm_ip_target=5)
    known(b)
    until("it serves", lambda: eni_id in b.agent.enis and b.agent.enis[eni_id].state == "open")
    # As a subnet that is none of the zone's.
    assert b.manager is not None
    pool: Any = b.manager._pool_manager._shrink._pool
    assert pool.allowed("subnet-0123456789abcdef0")


# --- ENIs that come and go -----------------------------------------------------------------------------------------


def test_an_eni_that_is_detached_keeps_its_pods_until_they_go_and_leaves_nothing(b: Bench) -> None:
    second = b.two_enis()
    pods = on_eni(b, second)
    b.clock.ahead += 100
    b.detach(second)
    b.pass_time(200, 5)
    assert on_eni(b, second) == pods
    assert {b.agent.addresses[base].state for base in pods} == {"quarantined"}
    b.agent.add_pods(4)
    b.served(pace=0.5)
    assert b.agent.used() - pods <= b.in_ec2()
    b.end_pods_on(second)
    b.pass_time(1200, 10, lambda: second not in b.agent.enis)
    assert second not in b.agent.enis
    assert b.agent.open() <= b.in_ec2()
    b.pass_time(60, 5)
    assert set(b.host.rules) == {eni.primary_ip for eni in b.agent.enis.values() if not eni.primary}


def test_an_eni_that_ec2_did_not_show_twice_serves_again_when_it_does(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    pods = on_eni(b, second)
    truth = b.a.truth.eni(second)
    assert truth.attachment is not None
    with b.a.truth._change():
        b.a.truth._put_eni(replace(truth, attachment=replace(truth.attachment, status="detached")))
    # Not shown: EC2's filter by instance no longer finds it.
    real = b.known.ec2.instance_enis

    def without(*arguments: Any) -> Any:
        return tuple(eni for eni in real(*arguments) if eni.eni_id != second)

    b.known.ec2.instance_enis = without  # type: ignore[method-assign]
    b.manager._audit.wanted()  # type: ignore[union-attr]  # it runs
    b.pass_time(300, 5)
    assert b.agent.enis[second].state == "draining"
    assert on_eni(b, second) == pods
    with b.a.truth._change():
        b.a.truth._put_eni(truth)
    b.known.ec2.instance_enis = real  # type: ignore[method-assign]
    b.pass_time(1800, 10, lambda: b.agent.enis[second].state == "open")
    assert b.agent.enis[second].state == "open"
    until("all of it serves", lambda: {a.state for a in b.agent.addresses.values()} == {"open"})
    b.pass_time(600, 10)
    assert second in b.a.truth.enis


def test_metadata_that_loses_an_eni_for_a_while_changes_nothing(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    commands = len(b.agent.commands)
    real = b.known.imds.enis
    b.known.imds.enis = lambda: tuple(eni for eni in real() if eni.eni_id != second)  # type: ignore[method-assign]
    asked = b.calls("DescribeNetworkInterfaces")
    b.pass_time(150, 10)
    assert b.calls("DescribeNetworkInterfaces") > asked
    b.known.imds.enis = real  # type: ignore[method-assign]
    b.pass_time(150, 10)
    assert {address.state for address in b.agent.addresses.values()} == {"open"}
    assert not {"SetBlockState", "DropBlock", "DropEni"} & set(b.agent.commands[commands:])


def test_an_unassigned_address_that_metadata_shows_for_minutes_stays_out(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.agent.add_pods(5)
    b.served()
    b.settled(6)
    b.clock.ahead += 100
    b.a.truth.imds.lag = 120
    b.agent.delete_pods(4)
    until("unassigned", lambda: len(b.in_ec2()) == 2)
    b.pass_time(300, 5, lambda: not b.agent.open() <= b.in_ec2())
    assert b.agent.open() == b.in_ec2()


def test_a_free_device_index_is_not_offered_twice(b: Bench) -> None:
    """The first ENI is attached at index 1, its link does not come; the next one must take another index."""
    b.start(warm_ip_target=1)
    b.settled(1)
    real = b.host.wait_link
    broken: set[str] = set()

    def first_never(mac: str, wait_s: float = 0.0) -> Any:
        if mac not in b.host.links and not broken:
            broken.add(mac)
            b.host.broken.add(mac)
        return real(mac, wait_s)

    b.host.wait_link = first_never  # type: ignore[method-assign]
    b.a.truth.faults.add(Fault("DescribeNetworkInterfaces", drop=True, times=3))
    b.agent.add_pods(20)
    b.served(30, pace=0.5)
    assert sorted(eni.device or 0 for eni in b.a.truth.enis_of(b.a.node.instance_id)) == [0, 1, 2]
    assert b.calls("AttachNetworkInterface") == 2


def test_a_link_that_is_made_anew_is_told_to_the_agent(b: Bench) -> None:
    second = b.two_enis()
    old = b.agent.enis[second].ifindex
    b.host.links = ["x", "y", *[mac for mac in b.host.links if mac != b.a.truth.eni(second).mac]]
    b.pass_time(90, 5, lambda: b.agent.enis[second].ifindex != old)
    assert b.agent.enis[second].ifindex != old


# --- what ENIs carry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["", "prod"])
def test_new_enis_carry_the_documented_fields(b: Bench, cluster: str) -> None:
    b.start(warm_eni_target=2, cluster_name=cluster, additional_eni_tags={"team": "net", OWN: "mine"})
    until("a second ENI", lambda: len(b.agent.enis) == 2)
    eni = b.a.describe(b.second())
    tags = {tag["Key"]: tag["Value"] for tag in eni["TagSet"]}
    assert tags.pop("node.k8s.amazonaws.com/createdAt").endswith("Z")
    wanted = {OWN: "mine", "team": "net"}
    if cluster:
        wanted |= {"cluster.k8s.amazonaws.com/name": cluster, "eks:eni:owner": "amazon-vpc-cni"}
    assert tags == wanted
    assert [group["GroupId"] for group in eni["Groups"]] == sorted(b.a.groups[:1])
    assert eni["Description"] == f"aws-K8S-{b.a.node.instance_id}"


def test_groups_follow_ec2_and_not_metadata(b: Bench) -> None:
    second = b.two_enis()
    b.known.imds.security_groups = lambda mac: (b.a.groups[5],)  # type: ignore[method-assign]
    b.pass_time(3600, 10)
    assert set(b.a.truth.eni(second).groups) == set(b.a.groups[:1])
    assert b.calls("ModifyNetworkInterfaceAttribute") == 1


def test_one_change_of_groups_at_a_time_and_few_when_it_is_denied(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(3 * PER_ENI)
    b.served()
    gate = b.gate(b.known.ec2, "set_groups")
    b.a.truth.set_groups(b.a.eni, b.a.groups[2:4])
    b.pass_time(600, 10)
    assert gate.entered.is_set()
    # One for each of the two ENIs, and each other duty once, whatever happens meanwhile; steps of the pool go on.
    assert b.known.chores._todo.qsize() + len(b.known.chores._running) <= 5
    b.agent.add_pods(PER_ENI)
    b.served()
    b.fault("ModifyNetworkInterfaceAttribute", error="UnauthorizedOperation", status=403)
    gate.open()
    before = b.calls("ModifyNetworkInterfaceAttribute")
    b.pass_time(3600, 10)
    assert 3 <= b.calls("ModifyNetworkInterfaceAttribute") - before <= 36
    b.a.truth.faults.clear()
    b.pass_time(700, 10)
    for eni_id in b.agent.enis:
        assert set(b.a.truth.eni(eni_id).groups) == set(b.a.groups[2:4])
    # Nothing is sent again once it is so.
    calls = b.calls("ModifyNetworkInterfaceAttribute")
    b.pass_time(1200, 10)
    assert b.calls("ModifyNetworkInterfaceAttribute") == calls


def test_a_lost_agent_keeps_the_excluded_eni_excluded(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.kill()
    b.tag(b.a.subnet.subnet_id, {ROLE: "0"})
    b.agent.stop()
    b.agent = FakeAgent(b.folder / "control.sock")
    b.agent.add_pods(3)
    b.start(warm_eni_target=0)
    known(b)

    assert b.agent.used() == set()
