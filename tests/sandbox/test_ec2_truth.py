"""The truth of EC2 by example: one seed one history, who hears of changes, lag, address space, threads."""

from __future__ import annotations

import random
import threading
from ipaddress import IPv4Network
from typing import Any

import pytest

from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.records import Permission
from sandbox.ec2.space import BLOCK, Space4
from sandbox.ec2.views import Delayed
from tests.sandbox.ec2_kit import START, Told, check, make_account, make_truth, state


def test_one_seed_one_history() -> None:
    """Ids, MACs and choices follow from the seed alone."""

    def history(seed: int) -> dict[str, Any]:
        truth, _clock = make_truth(seed, "random")
        vpc = truth.create_vpc(["10.0.0.0/16"])
        subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
        for _ in range(5):
            node = truth.run_instance("sandbox.room", subnet.subnet_id, count=3)
            truth.attach_eni(truth.create_eni(subnet.subnet_id, prefix_count=2).eni_id, node.instance_id, 1)
        return state(truth)

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_events_come_after_the_change_and_outside_the_lock() -> None:
    a = make_account()
    seen: list[tuple[int, bool]] = []

    class Fabric(Told):
        def addresses_changed(self, eni_id: str) -> None:
            free: list[bool] = []
            other = threading.Thread(target=lambda: free.append(a.truth.lock.acquire(timeout=5)))
            other.start()
            other.join()
            seen.append((len(a.truth.eni(eni_id).addresses), free == [True]))

    a.truth.subscribe(Fabric())
    a.truth.assign_ipv4(a.eni, count=2)
    assert seen == [(3, True)]


def test_views_hear_of_no_end_of_what_they_heard_no_beginning() -> None:
    """A device that left before it had come, and one that is no network device."""
    a = make_account()
    a.truth.types.register("sandbox.efa", enis=4, ipv4=4, efa=True)
    node = a.truth.run_instance("sandbox.efa", a.subnet.subnet_id)
    early = a.truth.create_eni(a.subnet.subnet_id).eni_id
    rdma = a.truth.create_eni(a.subnet.subnet_id, interface_type="efa-only").eni_id
    a.told.events.clear()
    a.truth.delays.attach, a.truth.delays.detach = 10, 20
    a.truth.detach_eni(a.truth.attach_eni(early, node.instance_id, 1).attachment_id)
    a.truth.delays.attach = a.truth.delays.detach = 0
    a.truth.detach_eni(a.truth.attach_eni(rdma, node.instance_id, 2).attachment_id)
    a.truth.terminate_instance(node.instance_id)
    assert a.told.events == [("eni_detached", node.primary_eni_id)]
    assert a.truth.eni(early).attachment is None


def test_a_view_may_change_the_truth() -> None:
    a = make_account()

    class Meddler(Told):
        def eni_attached(self, eni_id: str) -> None:
            a.truth.set_source_dest_check(eni_id, False)

    a.truth.subscribe(Meddler())
    eni_id = a.new()
    a.attach(eni_id, 1)
    assert a.told.events == [("eni_attached", eni_id), ("source_check_changed", eni_id)]


def test_a_failing_view_is_heard_of_and_stops_nobody_else() -> None:
    a = make_account()

    class Broken(Told):
        def addresses_changed(self, eni_id: str) -> None:
            raise OSError("no such device")

    a.truth.subscribe(Broken())
    late = Told()
    a.truth.subscribe(late)
    with pytest.raises(ExceptionGroup, match="views failed") as caught:
        a.truth.assign_ipv4(a.eni, count=1)
    assert caught.group_contains(OSError)
    assert late.events == [("addresses_changed", a.eni)]


def test_rules_of_a_group_reach_its_enis() -> None:
    a = make_account()
    a.truth.set_rules(a.groups[0], ingress=[Permission("tcp", 80, 80, ("0.0.0.0/0",))])
    assert a.told.events == [("groups_changed", a.eni)]
    [group] = a.ec2.describe_security_groups(GroupIds=a.groups[:1])["SecurityGroups"]
    assert group["IpPermissions"][0]["FromPort"] == 80
    assert len(group["IpPermissionsEgress"]) == 1


def test_describe_lags_behind() -> None:
    a = make_account()
    a.truth.api.lag = 2.0
    eni_id = a.truth.create_eni(a.subnet.subnet_id, description="new").eni_id
    a.truth.attach_eni(eni_id, a.node.instance_id, 1)
    a.truth.assign_ipv4(a.eni, addresses=["10.0.4.4"])

    def shown(**kw: Any) -> set[str]:
        return {one["NetworkInterfaceId"] for one in a.ec2.describe_network_interfaces(**kw)["NetworkInterfaces"]}

    by_node = {"Filters": [{"Name": "attachment.instance-id", "Values": [a.node.instance_id]}]}
    by_address = {"Filters": [{"Name": "addresses.private-ip-address", "Values": ["10.0.4.4"]}]}
    before = [shown(), shown(**by_node), shown(**by_address), len(a.describe(a.eni)["PrivateIpAddresses"])]
    assert before == [{a.eni}, {a.eni}, set(), 1]
    with pytest.raises(Exception, match=r"InvalidNetworkInterfaceID\.NotFound"):
        a.describe(eni_id)
    a.clock.time += 1
    a.truth.set_description(eni_id, "newer")
    a.clock.time += 1
    after = [shown(), shown(**by_node), shown(**by_address), len(a.describe(a.eni)["PrivateIpAddresses"])]
    assert after == [{a.eni, eni_id}, {a.eni, eni_id}, {a.eni}, 2]
    assert a.describe(eni_id)["Description"] == "new"
    a.clock.time += 1
    assert a.describe(eni_id)["Description"] == "newer"
    a.truth.detach_eni(a.describe(eni_id)["Attachment"]["AttachmentId"])
    a.truth.delete_eni(eni_id)
    assert a.describe(eni_id)["Attachment"]["Status"] == "attached"
    a.clock.time += 2
    assert shown() == {a.eni}


def test_the_network_may_lag_behind() -> None:
    a = make_account()
    fabric = Told()
    delayed = Delayed(fabric, a.clock, lag=1.5)
    a.truth.subscribe(delayed)
    eni_id = a.new()
    a.attach(eni_id, 1)
    a.truth.assign_ipv4(eni_id, count=1)
    assert fabric.events == []
    assert delayed.tick() == START + 1.5
    a.clock.time += 1.5
    assert delayed.tick() is None
    assert fabric.events == [("eni_attached", eni_id), ("addresses_changed", eni_id)]


def test_holder_and_caller() -> None:
    a = make_account()
    a.truth.assign_ipv4(a.eni, prefixes=["10.0.2.16/28"])
    a.truth.assign_ipv4(a.eni, addresses=["10.0.4.4"])
    a.truth.assign_ipv6(a.eni, prefixes=["fd00:ec2:0:1:9::/80"])
    loose = a.new(PrivateIpAddress="10.0.6.6")
    for address in (a.node.private_ip, "10.0.2.16", "10.0.2.31", "10.0.4.4", "fd00:ec2:0:1:9::77"):
        holder, caller = a.truth.holder(address), a.truth.caller(address, a.vpc.vpc_id)
        assert (holder and holder.eni_id, caller and caller.instance_id) == (a.eni, a.node.instance_id)
    holder = a.truth.holder("10.0.6.6")
    assert holder is not None
    assert holder.eni_id == loose
    for address in ("10.0.6.6", "10.0.2.32", "10.0.2.15", "192.0.2.1", "::1", "unix", ""):
        assert a.truth.caller(address) is None
    assert a.truth.caller(a.node.private_ip, "vpc-other") is None


@pytest.mark.parametrize("policy", ["dense", "random"])
def test_space_uses_every_block_once(policy: Any) -> None:
    space = Space4(IPv4Network("10.0.0.0/22"), random.Random(3), policy)
    taken: set[int] = set()
    for _ in range(62):
        [block] = space.choose_blocks(1)
        assert block not in taken
        space.take(blocks=[block])
        taken.add(block)
    assert taken == set(range(1, 63))
    with pytest.raises(Ec2Error, match=r"InvalidParameterValue|InsufficientCidrBlocks"):
        space.choose_blocks(1)
    rest = space.choose(space.free)
    assert len(set(rest)) == space.free == 1024 - 5 - 62 * BLOCK
    space.take(rest)
    with pytest.raises(Ec2Error, match="InsufficientFreeAddressesInSubnet"):
        space.choose(1)
    space.give(rest, taken)
    assert space.free == 1024 - 5


@pytest.mark.parametrize(
    ("cidr", "zone", "code"),
    [
        ("10.2.0.0/24", "us-west-2a", "InvalidSubnet.Range"),
        ("10.0.32.0/29", "us-west-2a", "InvalidSubnet.Range"),
        ("10.0.32.1/24", "us-west-2a", "InvalidSubnet.Range"),
        ("10.0.8.0/24", "us-west-2a", "InvalidSubnet.Conflict"),
        ("10.0.32.0/24", "eu-west-1a", "InvalidParameterValue"),
        ("10.0.32.0/24", "us-west-2", "InvalidParameterValue"),
    ],
)
def test_subnets_that_cannot_be(cidr: str, zone: str, code: str) -> None:
    a = make_account()
    before = state(a.truth)
    with pytest.raises(Ec2Error) as caught:
        a.truth.create_subnet(a.vpc.vpc_id, cidr, zone)
    assert caught.value.code == code
    assert state(a.truth) == before


def test_many_threads_take_each_address_once() -> None:
    a = make_account()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(40):
                eni = a.truth.create_eni(a.subnet.subnet_id, count=3)
                a.truth.assign_ipv4(eni.eni_id, prefix_count=1)
                a.truth.unassign_ipv4(eni.eni_id, addresses=eni.addresses[1:])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(a.truth.enis) == 161
    check(a.truth)


def test_one_text_is_no_list_of_blocks() -> None:
    a = make_account()
    before = dict(a.truth.vpcs)
    with pytest.raises(TypeError, match=r"cidrs='10.7.0.0/16': a list of CIDR blocks is needed"):
        a.truth.create_vpc("10.7.0.0/16")
    with pytest.raises(TypeError, match="ipv6_cidrs='2001:db8::/56': a list"):
        a.truth.create_vpc(["10.7.0.0/16"], ipv6_cidrs="2001:db8::/56")
    assert dict(a.truth.vpcs) == before
