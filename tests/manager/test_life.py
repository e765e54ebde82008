"""The life of an address at the manager: what is on its way out, or has just gone, gets no pod, whatever happens.

EC2's Describe and the metadata lag here as AWS's do: they show what was true seconds ago.
"""

from __future__ import annotations

import pytest

from agent import control
from sandbox.ec2.faults import Fault
from tests.manager.bench import PER_ENI, Bench, tag_spec, until
from tests.manager.fake_agent import Address, FakeAgent

LAG = 30.0
# A minute, and the time to ask EC2 then; less than two looks at the metadata.
REST = 90.0


def grown(b: Bench, pods: int) -> None:
    """A node with one warm address beside its pods, and a shrink that is due as soon as pods go."""
    b.start(warm_ip_target=1)
    b.settled(1)
    b.agent.add_pods(pods)
    b.served()
    b.settled(pods + 1)
    b.clock.ahead += 100


def lagging(b: Bench) -> None:
    b.a.truth.api.lag = b.a.truth.imds.lag = LAG


def shrink_slowly(b: Bench, seconds: float) -> set[str]:
    """Four pods go; the Unassign of their addresses waits for so long and is carried out then. What left the pool."""
    gate = b.gate(b.known.ec2, "unassign")
    before = b.agent.open()
    b.agent.delete_pods(4)
    until("an Unassign waits", gate.entered.is_set)
    out = before - b.agent.open()
    assert len(out) == 4
    b.pass_time(seconds, 20)
    gate.open()
    return out


def test_a_new_agent_does_not_get_what_is_on_its_way_out(b: Bench) -> None:
    grown(b, 5)
    gate = b.gate(b.known.ec2, "unassign")
    b.agent.delete_pods(4)
    until("an Unassign waits", gate.entered.is_set)
    b.clock.ahead += 65
    b.restart_agent()
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(4)
    b.served()
    gate.open()
    until("the step ends", lambda: not b.busy())
    assert b.agent.used() <= b.in_ec2()
    b.pass_time(300, 20)
    assert b.agent.used() <= b.agent.open() <= b.in_ec2()


def test_the_rest_begins_when_the_step_ends(b: Bench) -> None:
    lagging(b)
    grown(b, 5)
    out = shrink_slowly(b, 65)
    until("the step ends", lambda: not b.busy())
    # EC2 still shows them.
    assert out <= set(b.a.describe(b.a.eni) and seen(b))
    b.agent.add_pods(6)
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()
    b.pass_time(200, 10, lambda: not b.agent.open() <= b.in_ec2())
    assert b.agent.open() <= b.in_ec2()


def seen(b: Bench) -> list[str]:
    """The primary ENI's secondary addresses as EC2 shows them now."""
    shown = b.a.describe(b.a.eni)["PrivateIpAddresses"]
    return [entry["PrivateIpAddress"] for entry in shown if not entry["Primary"]]


@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_lost_answer_they_rest_too(b: Bench, when: str) -> None:
    lagging(b)
    grown(b, 5)
    b.a.truth.faults.add(Fault("UnassignPrivateIpAddresses", when=when, drop=True))  # type: ignore[arg-type]
    out = shrink_slowly(b, 65)
    until("the step ends", lambda: not b.busy())
    b.agent.add_pods(6)
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()
    b.pass_time(300, 10, lambda: not b.agent.open() <= b.in_ec2())
    assert b.agent.open() <= b.in_ec2()
    # Those that EC2 has kept come back after their rest, and are given back by another step.
    assert not out & b.in_ec2() or out & b.in_ec2() <= b.agent.open()


def test_a_lost_answer_of_assign_brings_nothing_back_that_has_just_left(b: Bench) -> None:
    lagging(b)
    grown(b, 5)
    held = b.in_ec2()
    b.agent.delete_pods(4)
    until("unassigned", lambda: len(b.in_ec2()) == len(held) - 4)
    until("the step ends", lambda: not b.busy())
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", drop=True, times=1))
    b.agent.add_pods(3)
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()
    b.pass_time(200, 10, lambda: not b.agent.open() <= b.in_ec2())
    assert b.agent.open() <= b.in_ec2()


def test_an_address_limit_brings_nothing_back_that_has_just_left(b: Bench) -> None:
    lagging(b)
    grown(b, 5)
    held = b.in_ec2()
    b.agent.delete_pods(4)
    until("unassigned", lambda: len(b.in_ec2()) == len(held) - 4)
    until("the step ends", lambda: not b.busy())
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", error="PrivateIpAddressLimitExceeded", status=400))
    b.agent.add_pods(3)
    b.served(pace=0.5)
    assert b.agent.used() <= b.in_ec2()


def test_pods_wait_for_what_ec2_has_given_again_behind_a_lost_answer(b: Bench) -> None:
    """The ENI is full of what has just left it: gone or ours again, which is known when it has rested."""
    b.start(warm_ip_target=1, max_eni=1)
    b.agent.add_pods(PER_ENI - 1)
    b.served()
    b.settled(PER_ENI)
    b.clock.ahead += 60
    b.agent.delete_pods(5)
    until("unassigned", lambda: len(b.in_ec2()) == PER_ENI - 5)
    until("the step ends", lambda: not b.busy())
    calls = b.calls("AssignPrivateIpAddresses")
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", when="after", drop=True, times=1))
    b.agent.add_pods(6)
    b.pass_time(REST, 1, lambda: not b.agent.waiting)
    assert (b.agent.waiting, b.agent.failed) == ([], [])
    assert b.agent.used() <= b.agent.open() == b.in_ec2()
    assert b.calls("AssignPrivateIpAddresses") <= calls + 5


def test_what_ec2_does_not_settle_is_not_hoped_for_without_end(b: Bench) -> None:
    """The right to describe is gone when the ENI is full of what has just left it: pods hear of that."""
    b.start(warm_ip_target=1, max_eni=1)
    b.agent.add_pods(PER_ENI - 1)
    b.served()
    b.settled(PER_ENI)
    b.clock.ahead += 60
    b.agent.delete_pods(5)
    until("unassigned", lambda: len(b.in_ec2()) == PER_ENI - 5)
    until("the step ends", lambda: not b.busy())
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", when="after", drop=True, times=1))
    b.agent.add_pods(6)
    assert b.pass_time(30, 0.5, lambda: len(b.state.managed[b.a.eni].held) == PER_ENI)
    b.fault("DescribeNetworkInterfaces", error="UnauthorizedOperation", status=403)
    b.pass_time(400, 2, lambda: not b.agent.waiting)
    assert b.agent.waiting == []
    assert b.agent.failed
    assert all("ec2: DescribeNetworkInterfaces: UnauthorizedOperation" in text for text in b.agent.failed)
    b.a.truth.faults.clear()
    b.pass_time(900, 10, lambda: b.agent.open() == b.in_ec2())
    assert b.agent.open() == b.in_ec2()


@pytest.mark.parametrize("later", [0, 65, 1800])
def test_what_ec2_gives_again_serves_at_once(b: Bench, later: int) -> None:
    """The sandbox gives the lowest free address: after an Unassign the same again."""
    grown(b, 5)
    first = b.in_ec2()
    b.agent.delete_pods(4)
    until("unassigned", lambda: len(b.in_ec2()) == 2)
    until("the step ends", lambda: not b.busy())
    b.pass_time(later, 30)
    calls = b.calls("AssignPrivateIpAddresses")
    b.agent.add_pods(5)
    b.served(pace=0.0)
    b.settled(7)
    assert len(b.in_ec2() & first) == 6
    assert b.agent.open() == b.in_ec2()
    assert b.calls("AssignPrivateIpAddresses") == calls + 1
    assert b.state.blocked == {}


def test_what_was_assigned_behind_a_lost_answer_is_found(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.a.truth.faults.add(Fault("AssignPrivateIpAddresses", when="after", drop=True, times=1))
    b.agent.add_pods(3)
    b.served(pace=0.0)
    assert b.calls("AssignPrivateIpAddresses") == 2
    assert b.agent.used() <= b.in_ec2()


# --- a new agent -------------------------------------------------------------------------------------------------


def test_an_agent_that_waits_for_a_comparison_is_told_ready_after_one(b: Bench) -> None:
    """Its journal is damaged and has brought back a block that EC2 has given to somebody else."""
    b.start(warm_ip_target=2)
    b.settled(2)
    until("ready", lambda: b.agent.ready)
    b.agent.stop()
    gate = b.gate(b.known.ec2, "instance_enis")
    foreign = b.a.truth.eni(b.a.new()).primary_ip
    addresses = {foreign: Address(b.a.eni), **b.agent.addresses}
    b.agent = FakeAgent(b.folder / "control.sock", enis=dict(b.agent.enis), addresses=addresses, wait_ready=True)
    b.agent.add_pods(2)
    until("EC2 is asked", gate.entered.is_set)
    turns = len(b.agent.commands)
    b.pass_time(30)
    assert len(b.agent.commands) > turns
    assert not b.agent.ready
    assert b.agent.used() == set()
    gate.open()
    b.served()
    assert b.agent.ready
    assert foreign not in b.agent.used()
    assert b.agent.used() <= b.in_ec2()


def test_who_waits_gets_new_addresses_although_a_new_agent_is_not_compared_yet(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    gate = b.gate(b.known.ec2, "instance_enis")
    b.restart_agent()
    b.agent.add_pods(6)
    until("EC2 is asked", gate.entered.is_set)
    b.served()
    assert b.agent.used() <= b.in_ec2()


def test_nothing_is_given_back_before_a_new_agent_is_compared(b: Bench) -> None:
    grown(b, 5)
    gate = b.gate(b.known.ec2, "instance_enis")
    b.restart_agent()
    until("EC2 is asked", gate.entered.is_set)
    held = b.in_ec2()
    b.agent.delete_pods(5)
    b.pass_time(60)
    assert b.in_ec2() == held
    gate.open()
    until("given back", lambda: len(b.in_ec2()) == 1)


def test_a_journal_that_brings_back_what_was_given_back_gives_it_to_no_pod(b: Bench) -> None:
    lagging(b)
    grown(b, 5)
    old = dict(b.agent.addresses)
    b.agent.delete_pods(4)
    until("unassigned", lambda: len(b.in_ec2()) == 2)
    until("the step ends", lambda: not b.busy())
    b.agent.stop()
    gone = set(old) - b.in_ec2()
    addresses = {base: Address(b.a.eni) for base in old}
    b.agent = FakeAgent(b.folder / "control.sock", enis=dict(b.agent.enis), addresses=addresses, wait_ready=True)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(3)
    b.served(pace=0.5)
    assert not b.agent.used() & gone
    assert b.agent.used() <= b.in_ec2()


# --- a new life of the manager -------------------------------------------------------------------------------------


def test_what_an_earlier_life_gave_back_a_moment_ago_is_given_to_nobody(b: Bench) -> None:
    """The agent knows the ENI, but has no block on it any more; Describe still shows the address."""
    b.a.truth.assign_ipv4(b.a.eni, addresses=["10.0.4.4"])
    b.start(warm_ip_target=1)
    b.settled(1)
    b.kill()
    b.agent.addresses.clear()
    lagging(b)
    b.a.truth.unassign_ipv4(b.a.eni, addresses=["10.0.4.4"])
    b.agent.ready = False
    b.start(warm_ip_target=1)
    until("ready", lambda: b.agent.ready)
    b.agent.add_pods(1)
    b.served()
    assert b.agent.used() <= b.in_ec2()
    assert "10.0.4.4" not in b.agent.addresses


def test_an_address_beside_the_pool_comes_in_when_ec2_shows_it_later_too(b: Bench) -> None:
    b.start(warm_ip_target=2)
    b.settled(2)
    b.kill()
    (assigned,) = b.a.truth.assign_ipv4(b.a.eni, count=1)[0]
    b.fault("UnassignPrivateIpAddresses", error="UnauthorizedOperation", status=403)
    b.start(warm_ip_target=3)
    until("known", lambda: b.manager is not None and b.manager._audit.settled)
    assert assigned not in b.agent.addresses
    b.pass_time(240, 10, lambda: assigned in b.agent.open())
    assert assigned in b.agent.open()


def test_what_an_earlier_life_has_not_told_the_agent_is_waited_for_and_not_called_full(b: Bench) -> None:
    """It died between EC2's answer and its word to the agent. Every ENI is full by EC2, of addresses that rest."""
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(3 * PER_ENI + 1)
    b.served()
    b.settled(4 * PER_ENI)
    b.kill()
    for base in b.agent.open() - b.agent.used():
        del b.agent.addresses[base]
    b.agent.add_pods(3)
    b.start(warm_eni_target=0)
    until("known", lambda: b.manager is not None and b.manager._audit.settled)
    b.pass_time(REST, 1, lambda: not b.agent.waiting)
    assert (b.agent.waiting, b.agent.failed) == ([], [])
    assert len(b.agent.used()) == 3 * PER_ENI + 4
    assert b.agent.used() <= b.in_ec2()


def test_an_eni_and_its_addresses_are_told_in_one_write(b: Bench) -> None:
    """A manager that dies when it has told of the ENI has told of all of its addresses."""
    b.agent.deaf_after = lambda request: isinstance(request, control.SetEni) and not request.eni.primary
    b.start(warm_eni_target=2)
    until("told of a second ENI", lambda: len(b.agent.enis) == 2)
    b.kill()
    assert len([a for a in b.agent.addresses.values() if a.eni_id == b.second()]) == PER_ENI


def test_an_eni_that_an_earlier_life_may_have_been_removing_is_waited_for(b: Bench) -> None:
    """The agent does not know it, and it is old enough: what EC2 shows may be the past. No pod fails for that."""
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    b.agent.add_pods(3 * PER_ENI + 1)
    b.served()
    b.settled(4 * PER_ENI)
    b.kill()
    (pod,) = [base for base in b.agent.used() if b.agent.addresses[base].pod == 3 * PER_ENI + 1]
    fourth = b.agent.addresses[pod].eni_id
    with b.agent.lock:
        for base in [base for base, address in b.agent.addresses.items() if address.eni_id == fourth]:
            del b.agent.addresses[base]
        del b.agent.enis[fourth]
    b.clock.ahead += 100
    b.start(warm_eni_target=0)
    until("known", lambda: b.manager is not None and b.manager._audit.settled)
    assert fourth not in b.agent.enis
    b.agent.add_pods(3)
    b.pass_time(REST, 1, lambda: not b.agent.waiting)
    assert (b.agent.waiting, b.agent.failed) == ([], [])
    assert fourth in b.agent.enis
    assert b.agent.used() <= b.in_ec2()


def test_an_eni_that_an_earlier_life_was_removing_does_not_come_back(b: Bench) -> None:
    second = b.two_enis()
    b.kill()
    # As the last life left it: out of the agent's pool, detached and deleted; EC2 still shows it attached.
    b.agent.delete_pods(2)
    with b.agent.lock:
        for base in [base for base, address in b.agent.addresses.items() if address.eni_id == second]:
            del b.agent.addresses[base]
        del b.agent.enis[second]
    b.clock.ahead += 100
    lagging(b)
    b.detach(second)
    b.start(warm_eni_target=0)
    until("known", lambda: b.manager is not None and b.manager._audit.settled)
    b.agent.add_pods(3)
    b.served(pace=0.2)
    b.pass_time(200, 10)
    assert second not in b.agent.enis
    assert b.agent.used() <= b.agent.open() <= b.in_ec2()


def test_an_old_eni_of_ours_that_the_agent_does_not_know_comes_in_later(b: Bench) -> None:
    b.start(warm_ip_target=1)
    b.settled(1)
    b.kill()
    tags = {
        "node.k8s.amazonaws.com/instance_id": b.a.node.instance_id,
        "node.k8s.amazonaws.com/createdAt": "2020-01-01T00:00:00Z",
    }
    old = b.a.new(
        Description=f"aws-K8S-{b.a.node.instance_id}", TagSpecifications=tag_spec(tags),
        SecondaryPrivateIpAddressCount=3,
    )  # fmt: skip
    b.a.attach(old, 1)
    b.start(warm_ip_target=5)
    until("known", lambda: b.manager is not None and b.manager._audit.settled)
    assert old not in b.agent.enis
    b.pass_time(240, 10, lambda: old in b.agent.enis)
    assert old in b.agent.enis


# --- ENIs ----------------------------------------------------------------------------------------------------------


def test_an_eni_that_has_just_been_removed_does_not_come_back(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    lagging(b)
    b.end_pods_on(second)
    b.agent.delete_pods(2)
    b.pass_time(60, 1, lambda: second not in b.a.truth.enis)
    assert second not in b.a.truth.enis
    b.manager._audit.wanted()  # type: ignore[union-attr]  # it runs
    b.pass_time(60, 1)
    assert second not in b.agent.enis
    b.agent.add_pods(PER_ENI)
    b.served(pace=0.2)
    assert b.agent.used() <= b.in_ec2()


def test_an_eni_that_cannot_be_detached_is_taken_in_again(b: Bench) -> None:
    second = b.two_enis()
    b.fault("DetachNetworkInterface", error="UnauthorizedOperation", status=403)
    b.clock.ahead += 100
    b.end_pods_on(second)
    b.agent.delete_pods(2)
    b.pass_time(60, 1, lambda: second not in b.agent.enis)
    assert second not in b.agent.enis
    b.pass_time(30, 0.5, lambda: second in b.agent.enis)
    assert second in b.agent.enis
    # It serves again, and is not tried again each minute.
    b.agent.add_pods(PER_ENI + 2)
    b.served()
    assert b.agent.used() <= b.in_ec2()
    b.end_pods_on(second)
    tries = b.calls("DetachNetworkInterface")
    b.pass_time(3600, 20)
    # Each at most a dozen times in this hour: pauses of 30 s and more, up to 10 minutes, a quarter less by chance.
    others = len(b.a.truth.enis_of(b.a.node.instance_id)) - 1
    assert b.calls("DetachNetworkInterface") - tries <= 12 * others


def test_a_removal_that_meets_a_pod_leaves_the_eni_in_the_pool(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    real = b.known.link.calls
    arrived: list[int] = []

    def pod_first(requests: list[object]) -> object:
        # A pod gets an address of the ENI between the plan and the command.
        if len(requests) == PER_ENI and not arrived and type(requests[0]).__name__ == "DropBlock":
            arrived.append(1)
            with b.agent.lock:
                next(a for a in b.agent.addresses.values() if a.eni_id == second).pod = 999
        return real(requests)  # type: ignore[arg-type]  # as it came

    b.known.link.calls = pod_first  # type: ignore[assignment, method-assign]
    b.end_pods_on(second)
    b.agent.delete_pods(1)
    b.pass_time(60, 1, lambda: bool(arrived))
    assert arrived
    b.pass_time(30, 1)
    assert second in b.a.truth.enis
    assert b.agent.used() <= b.in_ec2()
    until("the others are back", lambda: b.agent.open() == b.in_ec2())
