"""Which ENIs the manager uses and changes: strangers' ENIs, excluded subnets, ENIs that come, go and change hands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox.base.http import Request, Response
from sandbox.ec2.faults import Fault
from tests.manager.bench import NEXT_SWEEP, NO_MANAGE, PER_ENI, Bench, known, on_eni, states, until

OWN = "node.k8s.amazonaws.com/instance_id"


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


def begin_detaching(b: Bench, eni_id: str) -> None:
    """Somebody detaches an ENI, and that takes for ever."""
    b.a.truth.delays.detach = 1e6
    attachment = b.a.truth.eni(eni_id).attachment
    assert attachment is not None
    b.a.truth.detach_eni(attachment.attachment_id)
    b.manager._audit.wanted()  # type: ignore[union-attr]  # it runs


def test_an_eni_that_is_being_detached_gets_no_new_pods(b: Bench) -> None:
    second = b.two_enis()
    b.clock.ahead += 100
    pods = on_eni(b, second)
    begin_detaching(b, second)
    b.pass_time(10, 1, lambda: "open" not in states(b, second))
    assert states(b, second) == {"draining", "quarantined"}
    b.agent.add_pods(3)
    b.served(pace=0.5)
    assert on_eni(b, second) == pods
    # Its index is not given to the new one.
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 1, 2]


def test_the_slot_of_an_eni_that_is_being_detached_is_not_free(b: Bench) -> None:
    stranger = b.stranger(1)
    b.start(warm_eni_target=0)
    b.settled(PER_ENI)
    begin_detaching(b, stranger)
    b.pass_time(20, 2)
    b.agent.add_pods(3 * PER_ENI)
    b.served(pace=0.5)
    assert sorted(eni.device for eni in b.agent.enis.values()) == [0, 2, 3]
    assert b.calls("AttachNetworkInterface") == 2


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


def test_a_device_index_that_an_unseen_eni_has_is_left_alone(b: Bench) -> None:
    """Somebody attaches ENIs, and EC2 does not show them yet: another index serves."""
    b.start(warm_ip_target=1)
    b.settled(1)
    b.a.truth.api.lag = 1000
    b.stranger(1)
    b.agent.add_pods(20)
    b.served(30, pace=0.5)
    assert sorted(eni.device or 0 for eni in b.a.truth.enis_of(b.a.node.instance_id)) == [0, 1, 2]
    assert b.calls("AttachNetworkInterface") == 2
    assert len(b.a.truth.enis) == 3


def test_an_unseen_eni_counts_for_max_eni(b: Bench) -> None:
    b.start(warm_ip_target=1, max_eni=2)
    b.settled(1)
    b.a.truth.api.lag = 30
    b.stranger(1)
    b.agent.add_pods(20)
    b.pass_time(200, 0.5, lambda: not b.agent.waiting)
    assert [eni.device for eni in b.a.truth.enis_of(b.a.node.instance_id)] == [0, 1]
    assert len(b.agent.used()) == PER_ENI
    assert all(text.startswith("node-full: MAX_ENI=2") for text in b.agent.failed)
    assert b.calls("AttachNetworkInterface") == 1


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
