"""The manager and the subnets of its ENIs: which may have new ones, and what becomes of pods in an excluded one."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.ec2.faults import Fault
from tests.manager.bench import PER_ENI, ROLE, Bench, known, on_eni, until
from tests.manager.fake_agent import FakeAgent


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
    assert len(b.agent.failed) == 3


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
        assert len(b.agent.failed) == 1
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
