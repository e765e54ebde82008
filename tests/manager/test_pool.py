"""The whole manager against the sandbox's EC2 and IMDS over HTTP and an agent in memory: only the kernel is left out.

Compared at the end of each test: what the agent may hand out is what EC2's ledger says, and no limit is broken.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec import structs

from sandbox.ec2.faults import Fault
from tests.manager.bench import NEXT_SWEEP, NEXT_TICK, PER_ENI, Bench, tag_spec, until
from tests.manager.fake_agent import FakeAgent


def test_start_of_a_fresh_node(b: Bench) -> None:
    b.start()
    b.settled(PER_ENI)
    until("ready", lambda: b.agent.ready)
    (eni,) = b.agent.enis.values()
    truth = b.a.truth.eni(b.a.eni)
    assert (eni.eni_id, eni.primary, eni.table, eni.mac) == (b.a.eni, True, 254, truth.mac)
    assert (eni.primary_ip, eni.subnet_gateway, eni.ifname) == (truth.primary_ip, "10.0.0.1", "ens5")
    until("conflist", (b.folder / "conf" / "10-aws.conflist").exists)
    assert (b.folder / "bin" / "aws-cni").exists()
    tags = {tag["Key"] for tag in b.a.describe(b.a.eni)["TagSet"]}
    assert "node.k8s.amazonaws.com/instance_id" in tags
    until("report", lambda: b.agent.report.get("phase") == "running" and b.agent.report.get("steps"))
    assert b.agent.report["limits"] == {"enis": 4, "addresses_per_eni": 14, "max_pods": 58, "max_eni": None}
    assert b.agent.report["errors"] == []
    # At most one call per action, but for what the growth itself needs.
    calls = cast("dict[str, dict[str, int]]", b.agent.report["ec2_calls"])
    assert all(sum(outcomes.values()) == 1 for outcomes in calls.values()), calls


def test_the_conflist_waits_for_the_first_address(b: Bench) -> None:
    for action in ("AssignPrivateIpAddresses", "CreateNetworkInterface"):
        b.fault(action, error="UnauthorizedOperation", status=403)
    b.start(warm_ip_target=2)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert b.agent.outlook.code == "ec2"
    assert "UnauthorizedOperation" in b.agent.outlook.text
    until("ready", lambda: b.agent.ready)
    assert not (b.folder / "conf" / "10-aws.conflist").exists()
    b.a.truth.faults.clear()
    b.clock.ahead += 40
    b.settled(2)
    until("conflist", (b.folder / "conf" / "10-aws.conflist").exists)
    until("outlook", lambda: b.agent.outlook and b.agent.outlook.can_grow)


def test_addresses_come_by_another_way_when_one_is_denied(b: Bench) -> None:
    b.fault("AssignPrivateIpAddresses", error="UnauthorizedOperation", status=403)
    b.start(warm_ip_target=2)
    b.settled(2)
    assert len(b.agent.enis) == 2


def test_a_burst_grows_to_the_limit_and_names_it(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(4 * PER_ENI)
    b.served()
    b.settled(4 * PER_ENI)
    assert len(b.agent.used()) == 4 * PER_ENI
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 1, 2, 3]
    assert {eni.table for eni in b.agent.enis.values()} == {254, 2, 3, 4}
    b.agent.add_pods(1)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert b.agent.outlook.code == "node-full"
    assert "sandbox.room allows 4 ENIs with 14 pod addresses each: 56 in all" in b.agent.outlook.text
    assert b.agent.refused == []


def test_shrinks_when_pods_go(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(20)
    b.served()
    b.settled(22)
    assert b.tools is not None
    b.agent.delete_pods(20, cool=True)
    # What may go goes now, and turns go by: the warm addresses that are ready, and nothing that cools down.
    turns = count_turns(b)
    b.clock.ahead += 100
    until("turns", lambda: turns() >= 5)
    assert len(b.in_ec2()) == 22, "a cooling address was given back"
    with b.agent.lock:
        for address in b.agent.addresses.values():
            address.cooling = False
        b.agent.add_pods(0)

    def small() -> bool:
        b.clock.ahead += 1
        return len(b.in_ec2()) == 2

    until("given back", small)
    b.settled(2)
    assert list(b.agent.enis) == [b.a.eni]
    assert b.agent.refused == []


def count_turns(b: Bench) -> Callable[[], int]:
    """How often the pool has been planned since now."""
    assert b.manager is not None
    pool_manager: Any = b.manager._pool_manager
    turns, real = [0], pool_manager.turn

    def counted(**how: bool) -> None:
        real(**how)
        turns[0] += 1
        # Soon again: nothing else makes a turn due.
        b.manager._turn_at = float("-inf")  # type: ignore[union-attr]  # it is there

    pool_manager.turn = counted
    return lambda: turns[0]


ACTIONS = [
    "AssignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "CreateTags",
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop=True, times=2),
        Fault(when="after", drop=True, times=2),
        Fault(when="after", body=b"\xffnonsense", status=200, times=2),
        Fault(error="InternalError", status=500, times=2),
        Fault(error="RequestLimitExceeded", status=503, times=3),
    ],
    ids=["lost", "lost-after", "nonsense", "internal", "throttled"],
)
def test_every_pod_gets_its_address_whatever_ec2_does(b: Bench, action: str, fault: Fault) -> None:
    b.a.truth.faults.add(structs.replace(fault, action=action))
    b.start(warm_ip_target=1)
    b.agent.add_pods(20)
    b.served(60, pace=0.5)
    assert len(b.agent.used()) == 20
    assert b.agent.used() <= b.in_ec2()
    assert b.agent.refused == []

    def spent() -> bool:
        b.clock.ahead += 1
        return b.a.truth.faults.rules() == []

    # A step whose lost answer was found is not repeated: some actions are needed again only for more pods.
    for _ in range(2):
        if not spent():
            b.agent.add_pods(PER_ENI)
            b.served(30, pace=0.5)
    until("every one of the faults has hit", spent)
    assert b.agent.used() <= b.in_ec2()
    assert b.a.truth.faults.hits == {action: fault.times}
    until("nothing is left undone", lambda: all_kept(b))


def all_kept(b: Bench) -> bool:
    """Every ENI carries its tags, and goes with its instance."""
    b.clock.ahead += 1
    enis = b.a.truth.enis_of(b.a.node.instance_id)
    return all(
        eni.attachment is not None
        and eni.attachment.delete_on_termination
        and "node.k8s.amazonaws.com/instance_id" in eni.tags
        for eni in enis
    )


def test_an_address_that_ec2_no_longer_shows_stays_with_its_pod(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(2)
    b.settled(4)
    victim, idle = sorted(b.agent.used())[0], sorted(b.agent.open() - b.agent.used())[0]
    b.clock.ahead += 61
    b.a.truth.unassign_ipv4(b.a.eni, addresses=[victim, idle])
    thief = b.a.new(
        PrivateIpAddresses=[{"PrivateIpAddress": victim, "Primary": True}, {"PrivateIpAddress": idle, "Primary": False}]
    )
    b.clock.ahead += NEXT_TICK
    until("quarantine", lambda: b.agent.addresses[victim].state == b.agent.addresses[idle].state == "quarantined")
    b.clock.ahead += 70
    until("the idle one goes", lambda: idle not in b.agent.addresses)
    b.clock.ahead += 700
    b.settled(3)
    assert b.agent.addresses[victim].state == "quarantined"
    assert victim in b.agent.used()
    # It comes back: somebody had taken it by mistake.
    b.a.truth.delete_eni(thief)
    b.a.truth.assign_ipv4(b.a.eni, addresses=[victim])
    b.clock.ahead += 70
    until("open again", lambda: b.agent.addresses[victim].state == "open")


def test_addresses_that_others_assign_come_in(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.a.truth.assign_ipv4(b.a.eni, count=2)
    b.clock.ahead += NEXT_TICK
    until("taken in, and given back as surplus", lambda: len(b.agent.open()) == 4 or len(b.in_ec2()) == 2)


def test_an_empty_answer_of_ec2_quarantines_nothing(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    empty = b"<DescribeNetworkInterfacesResponse></DescribeNetworkInterfacesResponse>"
    b.a.truth.faults.add(Fault("DescribeNetworkInterfaces", body=empty, status=200, times=None))
    b.clock.ahead += NEXT_SWEEP
    until("told", lambda: any("primary ENI" in str(line) for line in cast("list[str]", b.agent.report["errors"])))
    assert all(address.state == "open" for address in b.agent.addresses.values())


def test_a_new_agent_is_told_everything_again(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(16)
    b.served()
    b.restart_agent()
    until("ready", lambda: b.agent.ready)
    until("ENIs", lambda: "SetEni" in b.agent.commands)
    b.agent.add_pods(3)
    b.served()
    assert b.agent.used() <= b.in_ec2()
    assert b.agent.refused == []


def test_an_agent_that_lost_its_pool_gets_it_back(b: Bench) -> None:
    b.start(warm_ip_target=5)
    b.settled(5)
    before = b.agent.open()
    b.agent.stop()
    b.agent = FakeAgent(b.folder / "control.sock")
    b.settled(5)
    assert b.agent.open() == before


def test_a_new_manager_changes_nothing(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.agent.add_pods(16)
    b.served()
    b.settled(18)
    b.kill()
    told = len(b.a.told.events)
    b.agent.ready = False
    b.start(warm_ip_target=2)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(2)
    b.served()
    b.settled(20)
    assert [event for event, _ in b.a.told.events[told:]] == ["addresses_changed"]
    assert b.agent.refused == []


def test_what_a_killed_manager_left_half_done_is_finished(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.kill()
    now = datetime.datetime.fromtimestamp(b.clock.unix(), datetime.UTC).isoformat()
    tags = {"node.k8s.amazonaws.com/instance_id": b.a.node.instance_id, "node.k8s.amazonaws.com/createdAt": now}
    made = {"Description": f"aws-K8S-{b.a.node.instance_id}", "TagSpecifications": tag_spec(tags)}
    leaked = b.a.new(**made)
    attached = b.a.new(SecondaryPrivateIpAddressCount=3, **made)
    b.a.attach(attached, 1)
    b.start(warm_ip_target=2)
    until("the attached one serves", lambda: attached in b.agent.enis)
    until("its addresses", lambda: len(b.agent.open()) >= 5)
    until("kept for the instance's life", lambda: b.a.describe(attached)["Attachment"]["DeleteOnTermination"])
    b.clock.ahead += 130
    until("the leaked one goes", lambda: leaked not in b.a.truth.enis)
    assert b.agent.refused == []


def test_an_unmanaged_eni_is_left_alone_and_counts(b: Bench) -> None:
    other = b.a.new(
        TagSpecifications=[
            {
                "ResourceType": "network-interface",
                "Tags": [{"Key": "node.k8s.amazonaws.com/no_manage", "Value": "true"}],
            }
        ],
        SecondaryPrivateIpAddressCount=2,
    )
    b.a.attach(other, 1)
    b.start(warm_eni_target=0)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(3 * PER_ENI)
    b.served()
    assert other not in b.agent.enis
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 2, 3]
    b.agent.add_pods(1)
    until("outlook", lambda: b.agent.outlook and not b.agent.outlook.can_grow)
    assert b.agent.outlook is not None
    assert "4 ENIs (1 of them not managed) with 14 pod addresses each: 42 in all" in b.agent.outlook.text
    until("told", lambda: b.agent.report.get("unmanaged") == [other])
    assert b.a.describe(other)["TagSet"] == [{"Key": "node.k8s.amazonaws.com/no_manage", "Value": "true"}]


def test_a_link_that_does_not_come_is_waited_for(b: Bench) -> None:
    mac = b.a.truth.eni(b.a.new(SecondaryPrivateIpAddressCount=4)).mac
    eni = next(eni for eni in b.a.truth.enis.values() if eni.mac == mac)
    b.a.attach(eni.eni_id, 1)
    b.host.broken.add(mac)
    b.start()
    until("ready all the same", lambda: b.agent.ready)
    b.settled(PER_ENI)
    assert eni.eni_id not in b.agent.enis
    b.host.broken.clear()
    b.clock.ahead += 15
    until("set up", lambda: eni.eni_id in b.agent.enis)
    b.settled(PER_ENI + 4)
    assert b.calls("DescribeNetworkInterfaces") == 1, "EC2 knows nothing of links"


def test_security_groups_of_the_primary_are_followed(b: Bench) -> None:
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(PER_ENI + 1)
    until("two ENIs", lambda: len(b.agent.enis) == 2)
    second = next(eni_id for eni_id in b.agent.enis if eni_id != b.a.eni)
    b.a.truth.set_groups(b.a.eni, b.a.groups[2:4])

    def followed() -> bool:
        b.clock.ahead += 1
        return set(b.a.truth.eni(second).groups) == set(b.a.groups[2:4])

    until("the second ENI has them", followed)


def test_a_full_subnet_is_told_and_tried_again(b: Bench) -> None:
    b.a.truth.faults.add(
        Fault("AssignPrivateIpAddresses", error="InsufficientFreeAddressesInSubnet", status=400, times=None)
    )
    b.a.truth.faults.add(
        Fault("CreateNetworkInterface", error="InsufficientFreeAddressesInSubnet", status=400, times=None)
    )
    b.start(warm_ip_target=1)
    until("outlook", lambda: b.agent.outlook and b.agent.outlook.code == "subnet-full")
    assert b.agent.outlook is not None
    assert b.agent.outlook.retry_at_ns is not None
    assert b.a.subnet.subnet_id in b.agent.outlook.text
    b.a.truth.faults.clear()
    b.clock.ahead += 121
    b.settled(1)
