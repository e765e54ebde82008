"""The manager's steps on ENIs against the sandbox's EC2 over HTTP: creation, removal, leaks, faults, lost answers."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from agent.manager.eni_errors import NotAttached, PerhapsAttached, StillAttached, SubnetsFull
from agent.manager.enis import EniSteps
from agent.manager.leaks import LEAK_AGE_S, sweep
from agent.manager.owner import Owner
from clients.ec2 import TAG_CREATED, Ec2
from clients.ec2_answers import NewEni
from core.errors import Ec2Error
from sandbox.ec2.faults import Fault
from tests.manager.steps_kit import NOW, create, held
from tests.sandbox.ec2_kit import Account
from tests.unit.hand_clock import HandClock

# --- creation -----------------------------------------------------------------------------------------------


def test_a_created_eni_has_the_documented_fields(a: Account, ec2: Ec2, steps: EniSteps) -> None:
    made = create(steps, ec2, a)
    described = a.describe(made.eni.eni_id)
    assert described["Description"] == f"aws-K8S-{a.node.instance_id}"
    assert {group["GroupId"] for group in described["Groups"]} == set(a.groups[:2])
    assert described["Attachment"]["DeviceIndex"] == 1
    assert described["Attachment"]["DeleteOnTermination"] is True
    assert len(described["PrivateIpAddresses"]) == 4
    assert not made.shortage
    tags = {tag["Key"]: tag["Value"] for tag in described["TagSet"]}
    created = tags.pop(TAG_CREATED)
    assert created.endswith("Z")
    assert tags == {
        "node.k8s.amazonaws.com/instance_id": a.node.instance_id,
        "cluster.k8s.amazonaws.com/name": "prod",
        "eks:eni:owner": "amazon-vpc-cni",
        "team": "net",
    }
    assert set(made.eni.addresses) == held(a, made.eni.eni_id)


@pytest.mark.parametrize(
    "lost", [Fault("CreateNetworkInterface", when="after", drop=True), Fault("CreateNetworkInterface", drop=True)]
)
def test_a_lost_answer_of_create_makes_one_eni(a: Account, ec2: Ec2, steps: EniSteps, lost: Fault) -> None:
    a.truth.faults.add(lost)
    made = create(steps, ec2, a)
    assert set(a.truth.enis) == {a.eni, made.eni.eni_id}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_of_attach_attaches_once(a: Account, ec2: Ec2, steps: EniSteps, when: Any) -> None:
    a.truth.faults.add(Fault("AttachNetworkInterface", when=when, drop=True))
    made = create(steps, ec2, a)
    assert a.truth.eni(made.eni.eni_id).device == 1


def test_what_cannot_be_attached_is_deleted(a: Account, ec2: Ec2, steps: EniSteps) -> None:
    for device in (1, 2, 3):
        create(steps, ec2, a, device=device)
    before = set(a.truth.enis)
    with pytest.raises(Ec2Error) as caught:
        create(steps, ec2, a, device=4)
    assert caught.value.api_code == "AttachmentLimitExceeded"
    assert set(a.truth.enis) == before


def test_a_full_subnet_gives_fewer_and_then_the_next_one_serves(a: Account, ec2: Ec2, steps: EniSteps) -> None:
    filler = a.new(SubnetId=a.small.subnet_id, SecondaryPrivateIpAddressCount=14)
    while a.truth.free_addresses(a.small.subnet_id) > 3:
        left = a.truth.free_addresses(a.small.subnet_id) - 3
        a.new(SubnetId=a.small.subnet_id, **({"SecondaryPrivateIpAddressCount": min(left, 14) - 1} if left > 1 else {}))
    assert filler
    found = ec2.subnets(a.vpc.vpc_id, "us-west-2a")
    small = [subnet for subnet in found if subnet.subnet_id == a.small.subnet_id]
    made = steps.create(9, 1, small, tuple(a.groups[:1]), {}, NOW)
    assert (len(made.eni.addresses), made.shortage) == (2, True)
    with pytest.raises(SubnetsFull) as caught:
        steps.create(9, 2, small, tuple(a.groups[:1]), {}, NOW)
    assert caught.value.subnets == (a.small.subnet_id,)
    again = steps.create(9, 2, [*small, *found], tuple(a.groups[:1]), {}, NOW)
    assert again.eni.subnet_id == a.subnet.subnet_id
    assert not again.shortage


# --- removal and leaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["", "DetachNetworkInterface", "DeleteNetworkInterface"])
def test_remove_gets_there_in_spite_of_a_lost_answer(a: Account, ec2: Ec2, steps: EniSteps, action: str) -> None:
    made = create(steps, ec2, a)
    if action:
        a.truth.faults.add(Fault(action, when="after", drop=True))
    steps.remove(made.eni.eni_id)
    assert set(a.truth.enis) == {a.eni}
    steps.remove(made.eni.eni_id)


@pytest.mark.parametrize(
    ("fault", "begun"),
    [
        (Fault("DescribeNetworkInterfaces", error="RequestLimitExceeded", status=503, times=99), False),
        (Fault("DetachNetworkInterface", error="UnauthorizedOperation", status=403), False),
        (Fault("DeleteNetworkInterface", error="UnauthorizedOperation", status=403, times=99), True),
    ],
)
def test_a_removal_says_whether_it_has_begun(a: Account, ec2: Ec2, steps: EniSteps, fault: Fault, begun: bool) -> None:
    made = create(steps, ec2, a)
    a.truth.faults.add(fault)
    with pytest.raises(Ec2Error) as caught:
        steps.remove(made.eni.eni_id)
    assert isinstance(caught.value, StillAttached) == (not begun)
    assert (a.truth.eni(made.eni.eni_id).attachment is None) == begun


def test_an_eni_that_somebody_has_taken_over_is_not_removed(a: Account, ec2: Ec2, steps: EniSteps) -> None:
    made = create(steps, ec2, a)
    ec2.tag(made.eni.eni_id, {"node.k8s.amazonaws.com/no_manage": "true"})
    with pytest.raises(StillAttached):
        steps.remove(made.eni.eni_id)
    assert a.truth.eni(made.eni.eni_id).device == 1


def test_what_can_neither_be_attached_nor_deleted_says_first_why_not_attached(
    a: Account, ec2: Ec2, steps: EniSteps
) -> None:
    a.truth.faults.add(Fault("AttachNetworkInterface", error="AttachmentLimitExceeded", status=400, times=None))
    a.truth.faults.add(Fault("DeleteNetworkInterface", error="UnauthorizedOperation", status=403, times=None))
    with pytest.raises(NotAttached) as caught:
        create(steps, ec2, a)
    assert (caught.value.action, caught.value.api_code) == ("AttachNetworkInterface", "AttachmentLimitExceeded")
    (stranded,) = set(a.truth.enis) - {a.eni}
    assert caught.value.stranded == stranded
    assert "UnauthorizedOperation" in caught.value.cause
    # Once it can be deleted, the next search does so at once: it is known to be nobody's.
    a.truth.faults.clear()
    assert sweep(steps, frozenset(), frozenset({stranded})) == ([stranded], {})
    assert set(a.truth.enis) == {a.eni}


def test_an_attach_without_an_answer_is_not_undone(a: Account, ec2: Ec2, steps: EniSteps) -> None:
    """EC2 does not show it for longer than anybody waits."""
    a.truth.faults.add(Fault("AttachNetworkInterface", when="after", drop=True, times=1))
    a.truth.api.lag = 1000
    with pytest.raises(PerhapsAttached) as caught:
        create(steps, ec2, a)
    assert caught.value.hopeful
    (made,) = set(a.truth.enis) - {a.eni}
    assert caught.value.stranded == made
    assert a.truth.eni(made).device == 1
    assert "DeleteNetworkInterface" not in ec2.counts()


def test_leaks_of_an_earlier_life_are_swept_and_nothing_else(
    a: Account, ec2: Ec2, steps: EniSteps, owner: Owner, clock: HandClock
) -> None:
    attached = create(steps, ec2, a)

    def unattached(stamp: str, description: str = owner.description, instance: str = owner.instance_id) -> str:
        tags = {"node.k8s.amazonaws.com/instance_id": instance, TAG_CREATED: stamp}
        new = NewEni(a.subnet.subnet_id, 1, tuple(a.groups[:1]), description, tags, f"token-{len(a.truth.enis)}")
        return ec2.create_eni(new, NOW).eni_id

    def stamp(age: float) -> str:
        when = datetime.datetime.fromtimestamp(clock.unix() - age, datetime.UTC)
        return when.isoformat().replace("+00:00", "Z")

    # The wall clock says nothing: it may have been set back since.
    leaked, ahead, spared = unattached(stamp(11)), unattached(stamp(-3600)), unattached(stamp(400))
    mine = steps._create(NewEni(a.subnet.subnet_id, 1, (), owner.description, {}, ""), NOW).eni_id
    strange = unattached("yesterday")
    others = unattached(stamp(900), instance="i-0999"), unattached(stamp(900), description="somebody's")
    assert sweep(steps, frozenset({spared}), frozenset(), only_stranded=True) == ([], {})
    deleted, kept = sweep(steps, frozenset({spared}), frozenset())
    assert (set(deleted), kept) == ({leaked, ahead}, {})
    assert set(a.truth.enis) == {a.eni, attached.eni.eni_id, spared, mine, strange, *others}
    clock.sleep(LEAK_AGE_S)
    assert sweep(steps, frozenset({spared}), frozenset()) == ([mine], {})


def test_adoption_sends_only_what_differs(a: Account, ec2: Ec2, steps: EniSteps, owner: Owner) -> None:
    (eni,) = ec2.instance_enis(a.node.instance_id)
    assert eni.attachment is not None
    assert steps.lacks(eni, eni.attachment)
    steps.adopt(eni, eni.attachment)
    assert steps.adopted(eni) == ec2.instance_enis(a.node.instance_id)[0]
    (eni,) = ec2.instance_enis(a.node.instance_id)
    assert owner.tags().items() <= eni.tags.items()
    assert eni.attachment is not None
    assert not steps.lacks(eni, eni.attachment)
    calls = ec2.counts()["CreateTags"]
    steps.adopt(eni, eni.attachment)
    assert ec2.counts()["CreateTags"] == calls


def test_an_unassign_that_would_wait_for_its_turn_is_not_sent(
    a: Account, steps: EniSteps, ec2: Ec2, clock: HandClock
) -> None:
    """The addresses are still there for certain, and the ENI is not kept from growing."""
    added = a.truth.assign_ipv4(a.eni, count=4)[0]
    a.truth.faults.add(Fault("UnassignPrivateIpAddresses", error="RequestLimitExceeded", status=503, times=3))
    begun = clock.now()
    result = steps.unassign(a.eni, added[:2])
    assert (set(result.left), result.certain) == (set(added[:2]), True)
    assert clock.now() - begun <= 5
    assert held(a, a.eni) == set(added)
    # What was not sent has not used the rate up: after a while it goes.
    clock.sleep(60)
    a.truth.faults.clear()
    assert steps.unassign(a.eni, added[:2]).error is None
