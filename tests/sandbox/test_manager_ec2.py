"""The manager's EC2 client and its steps against the sandbox's EC2 over HTTP: fields, errors, faults, lost answers."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.manager.eni_errors import NotAttached, PerhapsAttached, StillAttached, SubnetsFull
from agent.manager.enis import Added, Created, EniSteps
from agent.manager.leaks import LEAK_AGE_S, sweep
from agent.manager.owner import Owner
from clients.budget import Priority
from clients.ec2 import IDLE_S, TAG_CREATED, Ec2
from clients.ec2_answers import NewEni
from clients.ec2_codes import outcome_unknown
from core.errors import Ec2Error
from sandbox.base.http import Request, Response
from sandbox.ec2.faults import Fault
from tests.sandbox.ec2_kit import Account, check, make_account, switch_to
from tests.unit.hand_clock import HandClock

NOW = Priority.WAITING


@pytest.fixture
def a(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    account = make_account()
    account.truth.delays.attach = account.truth.delays.detach = 0.0
    yield account
    check(account.truth)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ec2(a: Account, clock: HandClock) -> Ec2:
    return Ec2("us-west-2", endpoint=a.url, timeout=5, user_agent="test/1", clock=clock, rng=random.Random(1))


@pytest.fixture
def owner(a: Account) -> Owner:
    return Owner(a.node.instance_id, "prod", {"team": "net"})


@pytest.fixture
def steps(ec2: Ec2, owner: Owner, clock: HandClock) -> EniSteps:
    return EniSteps(ec2, owner, clock, random.Random(2))


def create(steps: EniSteps, ec2: Ec2, a: Account, count: int = 3, device: int = 1) -> Created:
    subnets = [subnet for subnet in ec2.subnets(a.vpc.vpc_id, "us-west-2a") if subnet.subnet_id == a.subnet.subnet_id]
    return steps.create(count, device, subnets, tuple(a.groups[:2]), {}, NOW)


def held(a: Account, eni_id: str) -> set[str]:
    eni = a.truth.eni(eni_id)
    return set(eni.addresses) - {eni.primary_ip}


# --- questions ----------------------------------------------------------------------------------------------


def connections(a: Account) -> int:
    """Established connections to the endpoint, from the kernel (proc(5), /proc/net/tcp)."""
    port = f":{int(a.url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(port) and line.split()[3] == "01" for line in lines)


def test_connections_that_nobody_uses_are_given_back(a: Account, ec2: Ec2, clock: HandClock) -> None:
    """A server closes an idle connection as it likes, and the next call on it would have an unknown outcome."""
    others = connections(a)
    ec2.instance_enis(a.node.instance_id)
    assert connections(a) == others + 1
    clock.sleep(IDLE_S / 2)
    ec2.close_idle()
    assert connections(a) == others + 1
    clock.sleep(IDLE_S / 2)
    ec2.close_idle()
    assert connections(a) == others
    assert ec2.instance_enis(a.node.instance_id)
    clock.sleep(IDLE_S)
    # The next call does not use what is stale, even if nobody has looked meanwhile.
    assert ec2.instance_enis(a.node.instance_id)
    assert connections(a) == others + 1


def test_enis_of_the_instance(a: Account, ec2: Ec2) -> None:
    a.truth.assign_ipv4(a.eni, count=3)
    a.truth.assign_ipv4(a.eni, prefix_count=1)
    (eni,) = ec2.instance_enis(a.node.instance_id)
    truth = a.truth.eni(a.eni)
    assert (eni.eni_id, eni.mac, eni.primary_ip, eni.subnet_id) == (a.eni, truth.mac, truth.primary_ip, truth.subnet_id)
    assert set(eni.addresses) == held(a, a.eni)
    assert len(eni.prefixes) == 1
    assert eni.groups == tuple(a.groups[:1])
    assert eni.attachment is not None
    assert (eni.attachment.device, eni.attachment.status, eni.attachment.delete_on_termination) == (0, "attached", True)
    assert eni.kind == "interface"


def test_subnets_with_most_room_first(a: Account, ec2: Ec2) -> None:
    found = ec2.subnets(a.vpc.vpc_id, "us-west-2a")
    assert [subnet.subnet_id for subnet in found] == [a.subnet.subnet_id, a.small.subnet_id]
    assert found[0].tags == {"kubernetes.io/role/cni": "1"}
    assert found[1].free == a.truth.free_addresses(a.small.subnet_id)


def test_limits_of_a_type_that_no_table_knows(a: Account, ec2: Ec2) -> None:
    found = ec2.limits("sandbox.room")
    assert (found.enis, found.ipv4_per_eni, found.cards, found.max_pods) == (4, 15, 1, 58)
    # The bound of the default card, not the sum over the cards.
    assert ec2.limits("sandbox.cards").enis == 2
    with pytest.raises(Ec2Error) as caught:
        ec2.limits("no.such")
    assert caught.value.api_code == "InvalidInstanceType"


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


def room(addresses: int) -> Callable[[], int]:
    """What the subnet has left, by EC2's count."""
    return lambda: addresses


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault("AssignPrivateIpAddresses", when="after", drop=True),
        Fault("AssignPrivateIpAddresses", when="after", body=b"<html>", status=200),
        Fault("AssignPrivateIpAddresses", when="after", body=b"<html>", status=500),
        Fault("AssignPrivateIpAddresses", when="after", error="InternalError", status=500),
        Fault("AssignPrivateIpAddresses", error="RequestLimitExceeded", status=503, times=2),
    ],
)
def test_assign_takes_effect_once_whatever_happens_to_its_answer(
    a: Account, steps: EniSteps, fault: Fault | None
) -> None:
    before = frozenset(held(a, a.eni))
    if fault:
        a.truth.faults.add(fault)
    added = steps.assign(a.eni, 4, before, room(100), NOW)
    assert len(added.addresses) == 4
    assert set(added.addresses) == held(a, a.eni)
    # What only a Describe shows is no answer.
    assert added.confirmed == (fault is None or fault.error == "RequestLimitExceeded")


def test_assign_that_never_got_there_is_not_repeated(a: Account, steps: EniSteps) -> None:
    a.truth.faults.add(Fault("AssignPrivateIpAddresses", drop=True))
    with pytest.raises(Ec2Error) as caught:
        steps.assign(a.eni, 4, frozenset(), room(100), NOW)
    assert outcome_unknown(caught.value)
    assert held(a, a.eni) == set()


def test_assign_beyond_the_limit_finds_what_is_there(a: Account, steps: EniSteps) -> None:
    a.truth.assign_ipv4(a.eni, count=12)
    found = steps.assign(a.eni, 9, frozenset(), room(100), NOW)
    assert set(found.addresses) == held(a, a.eni)
    assert (found.confirmed, found.refused) == (False, False)
    a.truth.assign_ipv4(a.eni, count=2)
    assert steps.assign(a.eni, 1, frozenset(held(a, a.eni)), room(100), NOW) == Added((), False, True)


def test_assign_takes_what_ec2_gives_again(a: Account, steps: EniSteps) -> None:
    """Even if nobody knows whether it had gone: its Unassign has lost its answer."""
    first = held(a, a.eni)
    gone = steps.assign(a.eni, 3, frozenset(first), room(100), NOW).addresses
    a.truth.unassign_ipv4(a.eni, addresses=list(gone))
    uncertain = frozenset(first) | frozenset(gone)
    added = steps.assign(a.eni, 3, uncertain, room(100), NOW, resting=frozenset(gone))
    assert added == Added(gone)


def test_assign_at_a_service_that_lists_all_takes_nothing_that_may_be_leaving(a: Account, steps: EniSteps) -> None:
    old, leaving = a.truth.assign_ipv4(a.eni, count=2)[0]
    real = a.api.__call__

    def lists_all(request: Request) -> Response:
        answer = real(request)
        item = "".join(f"<item><privateIpAddress>{ip}</privateIpAddress></item>" for ip in (old, leaving)).encode()
        tag = b"<assignedPrivateIpAddressesSet>"
        return replace(answer, body=answer.body.replace(tag, tag + item))

    switch_to(lists_all)
    added = steps.assign(a.eni, 2, frozenset((old, leaving)), room(100), NOW, resting=frozenset((leaving,)))
    assert set(added.addresses) == held(a, a.eni) - {old, leaving}
    assert (added.confirmed, added.shortage) == (True, False)


def test_an_address_limit_teaches_nothing_while_an_address_may_be_gone_or_ours(a: Account, steps: EniSteps) -> None:
    *most, last = a.truth.assign_ipv4(a.eni, count=14)[0]
    with pytest.raises(Ec2Error) as caught:
        steps.assign(a.eni, 1, frozenset(most), room(100), NOW, resting=frozenset((last,)))
    assert caught.value.api_code == "PrivateIpAddressLimitExceeded"


def test_assign_takes_what_the_subnet_has_left(a: Account, steps: EniSteps) -> None:
    eni = a.new(SubnetId=a.small.subnet_id)
    fillers = []
    while a.truth.free_addresses(a.small.subnet_id) > 2:
        left = a.truth.free_addresses(a.small.subnet_id) - 2
        fillers.append(
            a.new(
                SubnetId=a.small.subnet_id,
                **({"SecondaryPrivateIpAddressCount": min(left, 14) - 1} if left > 1 else {}),
            )
        )
    added = steps.assign(eni, 9, frozenset(), room(2), NOW)
    assert (len(added.addresses), added.shortage) == (2, True)
    with pytest.raises(Ec2Error) as caught:
        steps.assign(eni, 9, frozenset(held(a, eni)), room(2), NOW)
    assert caught.value.api_code == "InsufficientFreeAddressesInSubnet"


def test_unassign(a: Account, steps: EniSteps) -> None:
    added = a.truth.assign_ipv4(a.eni, count=4)[0]
    assert steps.unassign(a.eni, added[:2]).error is None
    assert held(a, a.eni) == set(added[2:])
    # Refused because one of them is not there: EC2 takes none, and a Describe says which are left.
    result = steps.unassign(a.eni, added[1:3])
    assert result.error is not None
    assert (result.left, result.certain) == ((added[2],), True)
    a.truth.faults.add(Fault("UnassignPrivateIpAddresses", error="RequestLimitExceeded", status=503, times=99))
    result = steps.unassign(a.eni, added[2:])
    assert (set(result.left), result.certain) == (set(added[2:]), True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_lost_answer_of_unassign_nothing_is_certain(a: Account, steps: EniSteps, when: Any) -> None:
    added = a.truth.assign_ipv4(a.eni, count=4)[0]
    a.truth.faults.add(Fault("UnassignPrivateIpAddresses", when=when, drop=True))
    result = steps.unassign(a.eni, added[:2])
    assert (result.left, result.certain) == ((), False)


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


# --- failures of all kinds --------------------------------------------------------------------------------------


def test_throttled_calls_wait_and_give_up_with_their_code(a: Account, ec2: Ec2, clock: HandClock) -> None:
    a.truth.faults.add(Fault("DescribeSubnets", error="RequestLimitExceeded", status=503, times=None))
    with pytest.raises(Ec2Error) as caught:
        ec2.subnets(a.vpc.vpc_id, "us-west-2a")
    assert (caught.value.api_code, caught.value.action) == ("RequestLimitExceeded", "DescribeSubnets")
    assert ec2.counts()["DescribeSubnets"] == {"RequestLimitExceeded": 5}
    assert sum(clock.slept) > 3


def listing(item: str) -> bytes:
    """An answer of DescribeNetworkInterfaces with one ENI."""
    what = "DescribeNetworkInterfacesResponse"
    return f"<{what}><networkInterfaceSet><item>{item}</item></networkInterfaceSet></{what}>".encode()


NONSENSE = [
    b"",
    b"\xff\xfe",
    b"{}",
    b"<html><body>no</body></html>",
    listing(""),
    listing("<networkInterfaceId>eni-1</networkInterfaceId><macAddress>nonsense</macAddress>"),
    b"<a>" * 500,
]


@pytest.mark.parametrize("body", NONSENSE)
@pytest.mark.parametrize("status", [200, 500])
def test_nonsense_is_an_error_never_a_value(a: Account, ec2: Ec2, body: bytes, status: int) -> None:
    a.truth.faults.add(Fault("DescribeNetworkInterfaces", body=body, status=status))
    try:
        found = ec2.instance_enis(a.node.instance_id)
    except Ec2Error as error:
        unknown = outcome_unknown(error)
    else:
        # An answer without any content is an empty one.
        unknown = found == ()
    assert unknown
    assert len(ec2.instance_enis(a.node.instance_id)) == 1


def test_no_credentials_is_an_error_of_its_own(a: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    nobody = Ec2("us-west-2", endpoint=a.url, clock=HandClock())
    with pytest.raises(Ec2Error) as caught:
        nobody.instance_enis(a.node.instance_id)
    assert caught.value.api_code == "NoCredentials"
    assert not outcome_unknown(caught.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    away = Ec2("us-west-2", endpoint="http://127.0.0.1:1", timeout=1, clock=HandClock())
    with pytest.raises(Ec2Error) as caught:
        away.subnets("vpc-1", "us-west-2a")
    assert outcome_unknown(caught.value)
