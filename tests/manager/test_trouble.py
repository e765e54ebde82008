"""What the manager does when EC2 refuses, and for how long: pauses, bounds that end, causes that are told to pods.

Counted over hours of the bench's clock: a node that is refused for good must cost its account next to nothing.
"""

from __future__ import annotations

import pytest

from core.limits import Limits
from sandbox.ec2.faults import Fault
from tests.manager.bench import PER_ENI, Bench, tag_spec, until

DENIED = {"error": "UnauthorizedOperation", "status": 403}


def outlook(b: Bench) -> str:
    """What ADDs are told: empty while there is nothing to tell."""
    told = b.agent.outlook
    return f"{'grows' if told.can_grow else 'full'} {told.code}: {told.text}" if told else ""


def retry_after(b: Bench) -> float | None:
    """Seconds from now on, as a pod that comes now is told."""
    return b.agent.outlook.retry_after_s(round(b.clock.now() * 1e9)) if b.agent.outlook else None


# --- limits that EC2 has and we do not know ------------------------------------------------------------------------


def test_an_attachment_limit_is_believed_for_a_while_only(b: Bench) -> None:
    """A stranger's ENI takes a slot that we count on, while three of ours are being made."""
    b.start(warm_ip_target=1)
    b.settled(1)
    waits = b.gate(b.host, "wait_link")
    stranger = b.stranger(9)
    b.agent.add_pods(50)
    until("new ENIs wait for their links", waits.entered.is_set)
    waits.open()

    def told() -> bool:
        b.clock.ahead += 0.2
        return "3 of them" not in outlook(b) and "1 of them not managed" in outlook(b)

    until("the limit is named", told)
    assert len(b.agent.failed) == 8
    assert "4 ENIs (1 of them not managed) with 14 pod addresses each: 42 in all" in outlook(b)
    b.detach(stranger)
    b.tried_again(pace=5)
    assert len(b.agent.used()) == 50
    assert b.agent.used() <= b.in_ec2()


@pytest.mark.parametrize("believed", [21, 16])
def test_an_eni_that_holds_less_than_the_table_says_is_filled_and_then_left_alone(b: Bench, believed: int) -> None:
    limits = Limits("sandbox.room", 1, believed)
    b.start(limits=limits, warm_ip_target=believed - 1)
    b.settled(PER_ENI)
    b.pass_time(500, 10)
    calls = b.calls("AssignPrivateIpAddresses")
    assert calls <= 8
    assert len(b.agent.open()) == PER_ENI
    b.agent.add_pods(PER_ENI + 1)
    until("the limit is named", lambda: f"EC2 allows fewer: {b.a.eni} {PER_ENI}" in outlook(b))
    # It is asked again, now and then: perhaps it was a moment's truth.
    b.pass_time(7200, 30)
    assert 2 <= b.calls("AssignPrivateIpAddresses") - calls <= 24
    assert b.calls("DescribeNetworkInterfaces") <= 60


# --- rights and quotas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AttachmentLimitExceeded"])
def test_attaching_that_is_refused_for_ever_makes_few_enis(b: Bench, code: str) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("AttachNetworkInterface", error=code)
    b.agent.add_pods(20)
    until("the cause is told", lambda: outlook(b).startswith("full ec2: AttachNetworkInterface: " + code))
    b.pass_time(3600, 10)
    assert 2 <= b.calls("CreateNetworkInterface") <= 12
    assert b.calls("DescribeNetworkInterfaces") <= 60
    assert set(b.a.truth.enis) == {b.a.eni}
    # What is right again is found out by itself.
    assert len(b.agent.failed) == 20 - PER_ENI
    b.a.truth.faults.clear()
    b.tried_again(pace=10)


def test_a_quota_is_told_to_pods_at_once(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("CreateNetworkInterface", error="NetworkInterfaceLimitExceeded")
    b.agent.add_pods(20)
    until("the quota is named", lambda: "full ec2: CreateNetworkInterface: NetworkInterfaceLimitExceeded" in outlook(b))
    again = retry_after(b)
    assert again is not None
    assert 0 < again <= 40
    assert len(b.agent.used()) == PER_ENI


def test_pods_are_told_when_to_try_again_as_of_now(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("AssignPrivateIpAddresses", error="InsufficientFreeAddressesInSubnet")
    b.fault("CreateNetworkInterface", error="InsufficientFreeAddressesInSubnet")
    b.agent.add_pods(20)
    until("told", lambda: outlook(b).startswith("full subnet-full"))
    first = b.agent.outlook
    assert first is not None
    assert first.retry_at_ns is not None
    b.pass_time(100, 5)
    again = retry_after(b)
    assert again is not None
    assert again <= 20

    def moved() -> bool:
        b.clock.ahead += 1
        told = b.agent.outlook
        return told is not None and told.retry_at_ns is not None and told.retry_at_ns > first.retry_at_ns + 100e9

    until("the next try has failed, and the new end is told", moved)


def test_trouble_that_may_pass_is_told_with_the_hope(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("CreateNetworkInterface", error="InternalError", status=500)
    b.agent.add_pods(20)
    until("told", lambda: outlook(b).startswith("grows ec2: CreateNetworkInterface: InternalError"))
    b.a.truth.faults.clear()
    b.served(pace=0.5)
    until("no trouble any more", lambda: outlook(b) == "grows : ")


def test_a_refusal_that_goes_on_ends_the_hope(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("CreateNetworkInterface", error="InvalidParameterValue")
    b.agent.add_pods(20)

    def hopeless() -> bool:
        b.clock.ahead += 0.5
        return outlook(b).startswith("full ec2: CreateNetworkInterface: InvalidParameterValue")

    until("told", hopeless)
    assert b.calls("CreateNetworkInterface") >= 3
    b.pass_time(3600, 10)
    assert b.calls("CreateNetworkInterface") <= 14


def test_what_can_neither_be_attached_nor_deleted_stays_the_only_one(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.fault("AttachNetworkInterface", error="AttachmentLimitExceeded")
    b.fault("DeleteNetworkInterface", **DENIED)
    b.agent.add_pods(20)
    until("both causes are told", lambda: "AttachmentLimitExceeded" in " ".join(b.errors()))
    assert "UnauthorizedOperation" in " ".join(b.errors())
    b.pass_time(1800, 5)
    (stranded,) = set(b.a.truth.enis) - {b.a.eni}
    assert b.calls("CreateNetworkInterface") == 1
    assert stranded in outlook(b)
    assert outlook(b).startswith("full ec2")
    assert retry_after(b) is not None
    # Once it can be deleted it is, without waiting for the hourly search, and growth goes on.
    b.a.truth.faults.clear()
    b.pass_time(700, 5, lambda: stranded not in b.a.truth.enis)
    assert stranded not in b.a.truth.enis
    assert len(b.agent.failed) == 20 - PER_ENI
    b.tried_again(pace=5)


def test_a_deletion_that_fails_for_a_while_makes_no_pod_fail(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.a.truth.faults.add(Fault("AttachNetworkInterface", error="IncorrectState", status=400, times=1))
    # The step tries four times, then the searches do.
    b.a.truth.faults.add(Fault("DeleteNetworkInterface", error="InternalError", status=500, times=9))
    b.agent.add_pods(20)
    until("it is told", lambda: "attached nowhere and cannot be deleted" in outlook(b))
    assert len(b.agent.waiting) == 20 - PER_ENI
    b.served(30, pace=0.5)
    assert b.agent.used() <= b.in_ec2()


def test_an_attach_whose_answer_is_lost_is_found_although_ec2_lags(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.a.truth.api.lag = 5
    b.a.truth.faults.add(Fault("AttachNetworkInterface", when="after", drop=True, times=1))
    b.agent.add_pods(20)
    b.served(pace=0.2)
    assert len(b.a.truth.enis) == 2
    assert b.agent.used() <= b.in_ec2()
    # Only that it is in use has saved it otherwise.
    assert b.calls("DeleteNetworkInterface") == 0


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "RequestLimitExceeded"])
def test_what_an_earlier_life_left_behind_stops_no_creation(b: Bench, code: str) -> None:
    tags = {
        "node.k8s.amazonaws.com/instance_id": b.a.node.instance_id,
        "node.k8s.amazonaws.com/createdAt": "2020-01-01T00:00:00Z",
    }
    left = b.a.new(Description=f"aws-K8S-{b.a.node.instance_id}", TagSpecifications=tag_spec(tags))
    b.fault("DeleteNetworkInterface", error=code, status=403)
    b.start(warm_ip_target=1)
    b.settled(1)
    b.pass_time(240, 5, lambda: b.calls("DeleteNetworkInterface") >= 4)
    assert b.calls("DeleteNetworkInterface") >= 4
    b.pass_time(10, 1)
    b.agent.add_pods(20)
    b.served(pace=0.2)
    # The next search tries again.
    b.a.truth.faults.clear()
    b.pass_time(7200, 60, lambda: left not in b.a.truth.enis)
    assert left not in b.a.truth.enis


# --- giving back ---------------------------------------------------------------------------------------------------


def exclude(b: Bench) -> None:
    """The node's subnet is not to be used any more."""
    b.tag(b.a.subnet.subnet_id, {"kubernetes.io/role/cni": "0"})


@pytest.mark.parametrize("closed", [True, False])
def test_an_unassign_that_is_denied_is_not_tried_again_and_again(b: Bench, closed: bool) -> None:
    b.start(warm_ip_target=8)
    b.settled(8)
    b.kill()
    if closed:
        exclude(b)
    b.fault("UnassignPrivateIpAddresses", **DENIED)
    b.agent.ready = False
    b.start(warm_ip_target=1)
    until("ready", lambda: b.agent.ready)
    until("tried", lambda: b.calls("UnassignPrivateIpAddresses"))
    commands = len(b.agent.commands)
    b.pass_time(3600, 10)
    assert 1 <= b.calls("UnassignPrivateIpAddresses") <= 12
    assert b.calls("DescribeNetworkInterfaces") <= 60
    changes = [name for name in b.agent.commands[commands:] if name in ("AddBlock", "DropBlock", "SetBlockState")]
    assert len(changes) <= 12 * 8 * 3
    assert len(b.agent.addresses) == 8


def test_who_waits_is_not_made_to_wait_for_a_step_that_gives_back(b: Bench) -> None:
    """The only ENI is giving addresses back, and EC2 does not answer: the addresses go in again."""
    b.start(warm_ip_target=2, max_eni=1)
    b.settled(2)
    b.agent.add_pods(6)
    b.served()
    b.settled(8)
    b.fault("UnassignPrivateIpAddresses", error="RequestLimitExceeded", status=503)
    b.agent.delete_pods(6)
    b.clock.ahead += 31
    until("an Unassign is refused", lambda: b.calls("UnassignPrivateIpAddresses"))
    b.agent.add_pods(12)
    b.served(10, pace=0.2)
    assert b.agent.used() <= b.in_ec2()


def test_another_eni_serves_who_waits_while_the_first_gives_back(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.agent.add_pods(6)
    b.served()
    b.settled(7)
    gate = b.gate(b.known.ec2, "unassign")
    b.agent.delete_pods(4)
    b.clock.ahead += 31
    until("an Unassign waits", gate.entered.is_set)
    b.agent.add_pods(8)
    b.served()
    assert len(b.agent.enis) == 2
    assert b.agent.used() <= b.in_ec2()


def test_a_node_is_not_full_while_something_is_leaving(b: Bench) -> None:
    second = b.two_enis(max_eni=2)
    gate = b.gate(b.known.steps, "remove")
    b.end_pods_on(second)
    b.agent.delete_pods(2)
    b.pass_time(90, 1, gate.entered.is_set)
    assert gate.entered.is_set()
    b.agent.add_pods(6)
    b.pass_time(5, 0.5)
    assert outlook(b).startswith("grows")
    assert len(b.agent.waiting) == 4
    gate.open()
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()


def test_a_node_is_not_full_while_addresses_are_leaving(b: Bench) -> None:
    b.start(warm_ip_target=1, max_eni=1)
    b.settled(1)
    b.agent.add_pods(PER_ENI - 1)
    b.served()
    b.settled(PER_ENI)
    gate = b.gate(b.known.ec2, "unassign")
    b.agent.delete_pods(4)
    b.clock.ahead += 31
    until("an Unassign waits", gate.entered.is_set)
    b.agent.add_pods(4)
    b.pass_time(5, 0.5)
    assert outlook(b).startswith("grows")
    gate.open()
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()


# --- subnets without addresses -------------------------------------------------------------------------------------


def test_a_full_subnet_is_left_alone_for_two_minutes(b: Bench) -> None:
    b.fault("AssignPrivateIpAddresses", error="InsufficientFreeAddressesInSubnet")
    b.fault("CreateNetworkInterface", error="InsufficientFreeAddressesInSubnet")
    b.start(warm_ip_target=1)
    until("told", lambda: outlook(b).startswith("full subnet-full"))
    calls = b.calls("AssignPrivateIpAddresses") + b.calls("CreateNetworkInterface")
    b.pass_time(110, 5)
    assert b.calls("AssignPrivateIpAddresses") + b.calls("CreateNetworkInterface") == calls
    b.a.truth.faults.clear()
    b.pass_time(20, 5)
    b.settled(1)


def test_what_a_subnet_has_left_is_taken_by_its_count_of_now(b: Bench) -> None:
    """The count dates from the start; others have taken addresses since."""
    b.start(warm_ip_target=1)
    b.settled(1)
    left = b.a.truth.free_addresses(b.a.subnet.subnet_id) - 5
    while left > 0:
        count = min(left - 1, 14)
        b.a.new(**({"SecondaryPrivateIpAddressCount": count} if count else {}))
        left -= count + 1
    assert b.a.truth.free_addresses(b.a.subnet.subnet_id) == 5
    b.agent.add_pods(10)
    until("all that is left is taken", lambda: len(b.agent.used()) == 6)
    until("named", lambda: outlook(b).startswith("full subnet-full"))
    assert len(b.agent.failed) == 4
    assert b.calls("AssignPrivateIpAddresses") <= 4


# --- calls without a cause -----------------------------------------------------------------------------------------


def test_an_idle_node_asks_ec2_a_few_times_a_day(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.pass_time(24 * 3600, 240)
    assert 4 <= b.calls("DescribeNetworkInterfaces") <= 45
    searches = 24
    assert b.calls("DescribeNetworkInterfaces") - searches <= 18


def test_a_question_that_fails_is_repeated_ever_later(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.fault("DescribeNetworkInterfaces", error="UnauthorizedOperation", status=403)
    b.a.truth.assign_ipv4(b.a.eni, count=1)
    b.pass_time(3600, 10)
    assert 3 <= b.calls("DescribeNetworkInterfaces") <= 15
    b.a.truth.faults.clear()
    b.pass_time(700, 10, lambda: len(b.agent.open()) == 3)


def test_metadata_that_never_agrees_is_asked_about_ever_more_seldom(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.a.truth.imds.lag = 1e9
    b.a.truth.assign_ipv4(b.a.eni, count=1)
    b.a.truth.imds.lag = 0.0
    asked = b.calls("DescribeNetworkInterfaces")
    b.pass_time(3600, 10)
    assert b.calls("DescribeNetworkInterfaces") - asked <= 10


def test_a_link_that_never_comes_costs_ec2_nothing(b: Bench) -> None:
    eni_id = b.stranger(1, {}, SecondaryPrivateIpAddressCount=4)
    b.host.broken.add(b.a.truth.eni(eni_id).mac)
    b.start(warm_ip_target=2)
    until("ready", lambda: b.agent.ready)
    b.settled(2)
    b.pass_time(3600, 10)
    assert b.calls("DescribeNetworkInterfaces") <= 4
    assert eni_id not in b.agent.enis
    b.host.broken.clear()
    b.pass_time(700, 10, lambda: eni_id in b.agent.enis)
    assert eni_id in b.agent.enis


def test_a_worker_that_hangs_does_not_stop_the_pool(b: Bench) -> None:
    """As when nothing bounds a call: the job is written off, the ENI may grow again, and nothing is sent late."""
    b.start(warm_ip_target=1)
    b.settled(1)
    b.agent.add_pods(5)
    b.served()
    b.settled(6)
    gate = b.gate(b.known.ec2, "unassign")
    b.agent.delete_pods(4)
    b.clock.ahead += 100
    until("an Unassign hangs", gate.entered.is_set)
    for job in b.known.shrink._running:
        job.lease.end()
    until("written off", lambda: not b.busy())
    gate.open()
    b.agent.add_pods(PER_ENI)
    b.served(pace=0.2)
    b.pass_time(300, 10)
    assert b.agent.used() <= b.agent.open() <= b.in_ec2()


def test_throttling_ends_nothing(b: Bench) -> None:
    b.a.truth.faults.add(Fault("[A-Z]*", error="RequestLimitExceeded", status=503, chance=0.5, times=None))
    b.start(warm_ip_target=1)
    b.agent.add_pods(30)
    b.served(60, pace=0.5)
    assert b.agent.used() <= b.in_ec2()
