"""The manager's steps on addresses against the sandbox's EC2 over HTTP: what was given, lost, refused, given again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.manager.enis import Added, EniSteps
from clients.ec2_codes import outcome_unknown
from core.errors import Ec2Error
from sandbox.base.http import Request, Response
from sandbox.ec2.faults import Fault
from tests.manager.steps_kit import NOW, held, room
from tests.sandbox.ec2_kit import Account, switch_to

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
    added = steps.assign(a.eni, 1, frozenset(most), room(100), NOW, resting=frozenset((last,)))
    assert added == Added(confirmed=False, resting=(last,))


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
