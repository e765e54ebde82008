"""The truth under random calls: whatever is asked in whatever order, its promises hold and refusals change nothing."""

from __future__ import annotations

import random
import threading
from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.records import Permission
from sandbox.ec2.space import BLOCK, Space4
from sandbox.ec2.truth import Truth, Wanted
from sandbox.ec2.views import Delayed
from tests.sandbox.ec2_kit import START, Told, check, make_account, make_truth, state

COUNTS = st.integers(0, 4)
HOSTS = st.sampled_from([*range(3, 12), 16, 17, 31, 32, 62, 63, 70])
PICK = st.integers(0, 9)


class Machine(RuleBasedStateMachine):
    """Random calls on a small subnet, where everything collides."""

    truth: Truth

    @initialize(policy=st.sampled_from(["dense", "random"]), seed=st.integers(0, 2**32))
    def begin(self, policy: Any, seed: int) -> None:
        self.truth, self.clock = make_truth(seed, policy)
        vpc = self.truth.create_vpc(["10.0.0.0/24"], ipv6_cidrs=["fd00::/56"])
        self.subnets = [
            self.truth.create_subnet(vpc.vpc_id, "10.0.0.0/26", "us-west-2a", ipv6_cidr="fd00::/64").subnet_id,
            self.truth.create_subnet(vpc.vpc_id, "10.0.0.64/27", "us-west-2b").subnet_id,
        ]
        self.groups = [vpc.default_group_id, *(self.truth.create_group(vpc.vpc_id, f"g{n}").group_id for n in range(5))]
        self.primaries: dict[str, str] = {}
        self.told = Told()
        self.truth.subscribe(self.told)
        near, far = self.subnets
        self.truth.create_eni(near, prefixes=["10.0.0.16/28"], ipv6=Wanted(prefix_count=1))
        self.truth.run_instance("sandbox.tight", near, count=1)
        self.truth.run_instance("sandbox.cards", near)
        self.truth.create_eni(near, count=1)
        self.truth.create_eni(far)

    def attempt(self, call: Any, *args: Any, **kw: Any) -> None:
        """A call that may be refused, and then must change nothing."""
        before = state(self.truth)
        events = len(self.told.events)
        try:
            call(*args, **kw)
            return
        except Ec2Error as error:
            refusal = error
        assert state(self.truth) == before
        assert len(self.told.events) == events
        assert refusal.source

    def some_eni(self, pick: int) -> str:
        enis = list(self.truth.enis)
        return enis[pick % len(enis)] if enis else "eni-0"

    def some_instance(self, pick: int) -> str:
        instances = list(self.truth.instances)
        return instances[pick % len(instances)] if instances else "i-0"

    @rule(
        kind=st.sampled_from(["sandbox.tight", "sandbox.xen", "sandbox.cards"]), where=st.integers(0, 1), count=COUNTS
    )
    def run(self, kind: str, where: int, count: int) -> None:
        self.attempt(self.truth.run_instance, kind, self.subnets[where], count=count)

    @rule(
        where=st.integers(0, 1),
        count=COUNTS,
        prefix_count=st.integers(0, 2),
        block=st.none() | st.integers(0, 3),
        primary=st.none() | HOSTS,
        named=st.lists(HOSTS, max_size=2),
        count6=st.integers(0, 2),
        groups=st.lists(st.integers(0, 5), max_size=6),
    )
    def create(
        self,
        where: int,
        count: int,
        prefix_count: int,
        block: int | None,
        primary: int | None,
        named: list[int],
        count6: int,
        groups: list[int],
    ) -> None:
        self.attempt(
            self.truth.create_eni,
            self.subnets[where],
            private_ip=None if primary is None else f"10.0.0.{primary}",
            addresses=[f"10.0.0.{host}" for host in named] if block is None else (),
            count=0 if named or block is not None else count,
            prefixes=[] if block is None else [f"10.0.0.{16 * block}/28"],
            prefix_count=0 if named or count or block is not None else prefix_count,
            ipv6=Wanted(count=count6),
            groups=[self.groups[number] for number in groups],
        )

    @rule(pick=PICK, count=COUNTS, prefix_count=st.integers(0, 2))
    def assign(self, pick: int, count: int, prefix_count: int) -> None:
        wanted = {"count": count} if count else {"prefix_count": prefix_count}
        self.attempt(self.truth.assign_ipv4, self.some_eni(pick), **wanted)

    @rule(pick=PICK, hosts=st.lists(HOSTS, max_size=3), move=st.booleans())
    def assign_named(self, pick: int, hosts: list[int], move: bool) -> None:
        named = [f"10.0.0.{host}" for host in hosts]
        self.attempt(self.truth.assign_ipv4, self.some_eni(pick), addresses=named, allow_reassignment=move)

    @rule(pick=PICK, block=st.integers(0, 5))
    def assign_prefix(self, pick: int, block: int) -> None:
        self.attempt(self.truth.assign_ipv4, self.some_eni(pick), prefixes=[f"10.0.0.{16 * block}/28"])

    @rule(pick=PICK, first=st.integers(0, 3), foreign=st.booleans())
    def unassign(self, pick: int, first: int, foreign: bool) -> None:
        eni = self.truth.enis.get(self.some_eni(pick))
        if eni:
            gone = [*eni.addresses[first:], *(["10.0.0.9"] if foreign else [])]
            self.attempt(self.truth.unassign_ipv4, eni.eni_id, addresses=gone)

    @rule(pick=PICK)
    def unassign_prefixes(self, pick: int) -> None:
        eni = self.truth.enis.get(self.some_eni(pick))
        if eni:
            self.attempt(self.truth.unassign_ipv4, eni.eni_id, prefixes=eni.prefixes[:1])

    @rule(pick=PICK, count=st.integers(0, 2), block=st.none() | st.integers(0, 4))
    def assign6(self, pick: int, count: int, block: int | None) -> None:
        wanted: dict[str, Any] = {"count": count} if block is None else {"prefixes": [f"fd00:0:0:0:{block}::/80"]}
        self.attempt(self.truth.assign_ipv6, self.some_eni(pick), **wanted)

    @rule(pick=PICK, tail=st.sampled_from(["::5", ":1::5", ":2::6", ":3::7"]))
    def assign6_named(self, pick: int, tail: str) -> None:
        self.attempt(self.truth.assign_ipv6, self.some_eni(pick), addresses=[f"fd00:0:0:0{tail}"])

    @rule(pick=PICK)
    def unassign6(self, pick: int) -> None:
        eni = self.truth.enis.get(self.some_eni(pick))
        if eni:
            self.attempt(
                self.truth.unassign_ipv6, eni.eni_id, addresses=eni.ipv6_addresses[:1], prefixes=eni.ipv6_prefixes[:1]
            )

    @rule(pick=PICK, node=st.integers(0, 9), device=st.integers(0, 4), card=st.integers(0, 2))
    def attach(self, pick: int, node: int, device: int, card: int) -> None:
        self.attempt(self.truth.attach_eni, self.some_eni(pick), self.some_instance(node), device, card)

    @rule(pick=PICK, node=st.integers(0, 9), device=st.integers(1, 3))
    def attach_what_is_loose(self, pick: int, node: int, device: int) -> None:
        loose = [eni for eni in self.truth.enis.values() if not eni.attachment]
        if loose:
            eni = loose[pick % len(loose)]
            nodes = [one.instance_id for one in self.truth.instances.values() if one.zone == eni.zone]
            if nodes:
                self.attempt(self.truth.attach_eni, eni.eni_id, nodes[node % len(nodes)], device, node % 2)

    @rule(pick=PICK, force=st.booleans())
    def detach(self, pick: int, force: bool) -> None:
        eni = self.truth.enis.get(self.some_eni(pick))
        attachment_id = eni.attachment.attachment_id if eni and eni.attachment else "eni-attach-0"
        self.attempt(self.truth.detach_eni, attachment_id, force=force)

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        self.attempt(self.truth.delete_eni, self.some_eni(pick))

    @rule(pick=PICK, groups=st.lists(st.integers(0, 5), max_size=6, unique=True))
    def set_groups(self, pick: int, groups: list[int]) -> None:
        self.attempt(self.truth.set_groups, self.some_eni(pick), [self.groups[number] for number in groups])

    @rule(pick=PICK, on=st.booleans())
    def delete_on_termination(self, pick: int, on: bool) -> None:
        eni = self.truth.enis.get(self.some_eni(pick))
        if eni and eni.attachment:
            self.attempt(self.truth.set_delete_on_termination, eni.eni_id, eni.attachment.attachment_id, on)

    @rule(node=st.integers(0, 9))
    def terminate(self, node: int) -> None:
        self.attempt(self.truth.terminate_instance, self.some_instance(node))

    @rule(attach=st.sampled_from([0, 5]), detach=st.sampled_from([0, 7]), terminate=st.sampled_from([0, 9]))
    def set_delays(self, attach: float, detach: float, terminate: float) -> None:
        self.truth.delays.attach, self.truth.delays.detach, self.truth.delays.terminate = attach, detach, terminate

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.clock.time += seconds
        self.truth.tick()

    @rule(lag=st.sampled_from([0, 3]))
    def set_lag(self, lag: float) -> None:
        self.truth.api.lag = lag

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "truth"):
            check(self.truth)
            for eni in self.truth.enis.values():
                assert self.primaries.setdefault(eni.eni_id, eni.primary_ip) == eni.primary_ip
            held = {text: eni for eni in self.truth.enis.values() for text in eni.addresses}
            held |= {str(ip): eni for eni in self.truth.enis.values() for p in eni.prefixes for ip in ip_network(p)}
            for host in range(96):
                assert self.truth.holder(f"10.0.0.{host}") == held.get(f"10.0.0.{host}")

    @invariant()
    def views_know_who_is_plugged(self) -> None:
        """A view that only listens can tell which ENIs the instances see."""
        if hasattr(self, "truth"):
            plugged = set()
            for event, eni_id in self.told.events:
                if event == "eni_attached":
                    assert eni_id not in plugged
                    plugged.add(eni_id)
                elif event == "eni_detached":
                    plugged.remove(eni_id)
            seen = {eni.eni_id for eni in self.truth.enis.values() if eni.attachment}
            leaving = {eni.eni_id for eni in self.truth.enis.values() if eni.attachment and not eni.plugged}
            assert plugged | leaving == seen

    def teardown(self) -> None:
        """Everything can be given back: then the subnets are as new."""
        if hasattr(self, "truth"):
            self.truth.delays.terminate = 0
            for instance_id in self.truth.instances:
                self.truth.terminate_instance(instance_id)
            self.clock.time += 100
            self.truth.tick()
            for eni_id in list(self.truth.enis):
                self.truth.delete_eni(eni_id)
            assert [self.truth.free_addresses(subnet_id) for subnet_id in self.subnets] == [59, 27]


TestMachine = pytest.mark.timeout(120)(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


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
