"""The promises of the truth under calls that nobody would think of: by chance in great number, and by Hypothesis.

The calls go to the Python face, where Hypothesis can shrink what breaks a promise; `test_ec2_whole` asks through the
API while everything goes wrong. Every refusal must leave the state as it was.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.ec2.api import Api
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.faults import Fault
from sandbox.ec2.records import Permission
from sandbox.ec2.truth import Truth, Wanted
from tests.sandbox.ec2_ask import ask, code
from tests.sandbox.ec2_kit import check, make_truth, model, state

CALLS = 30_000


class Life:
    """One account and somebody who does anything to it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.truth, self.clock = make_truth(seed, policy="random" if seed % 2 else "dense")
        t = self.truth
        t.types.register("sandbox.trunk", enis=3, ipv4=10, branches=3, efa=True)
        t.quotas["enis-per-region"] = 60
        vpc = t.create_vpc(["10.0.0.0/16"], ipv6_cidrs=["fd00:ec2::/56"])
        self.vpc = vpc.vpc_id
        t.create_subnet(self.vpc, "10.0.0.0/24", "us-west-2a", ipv6_cidr="fd00:ec2:0:1::/64")
        t.create_subnet(self.vpc, "10.0.1.0/26", "us-west-2a")
        t.create_subnet(self.vpc, "10.0.2.0/25", "us-west-2b", ipv6_cidr="fd00:ec2:0:2::/64")
        for number in range(4):
            t.create_group(self.vpc, f"g{number}")
        t.delays.attach, t.delays.detach, t.delays.terminate = (rng.choice((0.0, 2.0)) for _ in range(3))
        t.delays.launch, t.delays.stop, t.delays.start = (rng.choice((0.0, 2.0)) for _ in range(3))
        self.acts: list[Callable[[], Any]] = [
            self.create, self.create, self.attach, self.attach, self.detach, self.delete, self.assign, self.assign,
            self.assign, self.unassign, self.unassign, self.assign6, self.unassign6, self.run, self.terminate,
            self.states, self.groups, self.rules, self.reserve, self.unreserve, self.associate, self.part, self.tags,
            self.wait,
        ]  # fmt: skip

    def one_of(self, table: Any) -> str:
        """An id from a table, or one that is not there."""
        if not table or self.rng.random() < 0.02:
            return "eni-0"
        return self.rng.choice(list(table))

    def address(self) -> str:
        return f"10.0.{self.rng.randrange(3)}.{self.rng.randrange(256)}"

    def block(self) -> str:
        return f"10.0.{self.rng.randrange(3)}.{self.rng.randrange(16) * 16}/28"

    def wanted(self) -> dict[str, Any]:
        ways: tuple[dict[str, Any], ...] = (
            {"count": self.rng.randrange(6)},
            {"prefix_count": self.rng.randrange(4)},
            {"addresses": [self.address() for _ in range(self.rng.randrange(3))]},
            {"prefixes": [self.block()]},
            {},
        )
        return self.rng.choice(ways)

    def wanted6(self) -> Wanted:
        way = self.rng.randrange(5)
        host, subnet = self.rng.randrange(40), self.rng.choice((1, 2))
        return (
            Wanted(count=self.rng.randrange(4)),
            Wanted(prefix_count=self.rng.randrange(3)),
            Wanted(addresses=(f"fd00:ec2:0:{subnet}::{host:x}",)),
            Wanted(prefixes=(f"fd00:ec2:0:{subnet}:{host:x}::/80",)),
            Wanted(),
        )[way]

    # --- what is done -------------------------------------------------------------------------------------------

    def create(self) -> None:
        kind = self.rng.choice(("interface", "interface", "interface", "trunk", "branch", "efa", "efa-only"))
        self.truth.create_eni(
            self.one_of(self.truth.subnets),
            private_ip=self.address() if self.rng.random() < 0.2 else None,
            ipv6=self.wanted6(),
            groups=self.rng.sample(list(self.truth.groups), self.rng.randrange(3)),
            interface_type=kind,
            **self.wanted(),
        )

    def attach(self) -> None:
        device, card = self.rng.randrange(4), self.rng.choice((0, 0, 0, 1))
        self.truth.attach_eni(self.one_of(self.truth.enis), self.one_of(self.truth.instances), device, card)

    def detach(self) -> None:
        eni = self.truth.eni(self.one_of(self.truth.enis))
        if eni.attachment is not None:
            self.truth.detach_eni(eni.attachment.attachment_id, force=self.rng.random() < 0.3)

    def delete(self) -> None:
        self.truth.delete_eni(self.one_of(self.truth.enis))

    def assign(self) -> None:
        self.truth.assign_ipv4(
            self.one_of(self.truth.enis), allow_reassignment=self.rng.random() < 0.3, **self.wanted()
        )

    def unassign(self) -> None:
        eni = self.truth.eni(self.one_of(self.truth.enis))
        held = eni.addresses + eni.prefixes
        some = self.rng.sample(held, min(len(held), self.rng.randrange(4)))
        self.truth.unassign_ipv4(
            eni.eni_id,
            addresses=[one for one in some if "/" not in one],
            prefixes=[one for one in some if "/" in one],
        )

    def assign6(self) -> None:
        wanted = self.wanted6()
        self.truth.assign_ipv6(
            self.one_of(self.truth.enis),
            addresses=wanted.addresses,
            count=wanted.count,
            prefixes=wanted.prefixes,
            prefix_count=wanted.prefix_count,
        )

    def unassign6(self) -> None:
        eni = self.truth.eni(self.one_of(self.truth.enis))
        self.truth.unassign_ipv6(eni.eni_id, addresses=eni.ipv6_addresses[:2], prefixes=eni.ipv6_prefixes[:1])

    def run(self) -> None:
        kind = self.rng.choice(("sandbox.room", "sandbox.tight", "sandbox.xen", "sandbox.cards", "sandbox.trunk"))
        self.truth.run_instance(kind, self.one_of(self.truth.subnets), ipv6=self.wanted6(), **self.wanted())

    def terminate(self) -> None:
        if len(self.truth.instances) > 6 or self.rng.random() < 0.1:
            instance = self.truth.terminate_instance(self.one_of(self.truth.instances))
            if instance.state == "terminated":
                self.truth.forget_instance(instance.instance_id)

    def states(self) -> None:
        instance_id = self.one_of(self.truth.instances)
        self.rng.choice((self.truth.stop_instance, self.truth.start_instance, self.truth.reboot_instance))(instance_id)

    def groups(self) -> None:
        self.truth.set_groups(self.one_of(self.truth.enis), self.rng.sample(list(self.truth.groups), 2))

    def rules(self) -> None:
        rule = Permission("tcp", 1, self.rng.randrange(1, 5), (f"9.{self.rng.randrange(9)}.0.0/16",))
        change = self.rng.choice((self.truth.authorize, self.truth.revoke))
        change(self.one_of(self.truth.groups), self.rng.choice(("ingress", "egress")), [rule])

    def reserve(self) -> None:
        if len(self.truth.reservations) < 4:
            self.truth.create_reservation(
                self.one_of(self.truth.subnets), self.block(), self.rng.choice(("prefix", "explicit"))
            )

    def unreserve(self) -> None:
        self.truth.delete_reservation(self.one_of(self.truth.reservations))

    def associate(self) -> None:
        self.truth.associate(self.one_of(self.truth.enis), self.one_of(self.truth.enis), self.rng.randrange(5))

    def part(self) -> None:
        self.truth.disassociate(self.one_of(self.truth.associations))

    def tags(self) -> None:
        ids = [self.one_of(self.truth.enis), self.one_of(self.truth.subnets)]
        if self.rng.random() < 0.5:
            self.truth.create_tags(ids, {f"k{self.rng.randrange(60)}": "v"})
        else:
            self.truth.delete_tags(ids)

    def wait(self) -> None:
        self.clock.time += self.rng.random() * 3
        self.truth.tick()


def indexes(truth: Truth) -> None:
    """What is looked up is what the records say."""
    enis = truth.enis.values()
    places = [(eni.attachment, eni.eni_id) for eni in enis if eni.attachment is not None]
    assert truth._by_attachment == {place.attachment_id: eni_id for place, eni_id in places}
    held = ((instance_id, eni_id) for instance_id, ids in truth._enis_of.items() for eni_id in ids)
    assert sorted(held) == sorted((place.instance_id, eni_id) for place, eni_id in places)
    found = {(vpc_id, key): eni_id for vpc_id, keys in truth._by_address.items() for key, eni_id in keys.items()}
    kinds = ("addresses", "prefixes", "ipv6_addresses", "ipv6_prefixes")
    assert found == {(eni.vpc_id, key): eni.eni_id for eni in enis for kind in kinds for key in getattr(eni, kind)}
    assert truth._macs == {eni.mac for eni in enis}


def promises(truth: Truth) -> None:
    """Those of `check`, and those on indexes, trunks, EFA and quotas."""
    check(truth)
    indexes(truth)
    assert len(truth.enis) <= truth.quotas["enis-per-region"]
    assert len(truth.vpcs) <= truth.quotas["vpcs-per-region"]
    for vpc in truth.vpcs.values():
        assert len(vpc.cidrs) <= truth.quotas["cidrs-per-vpc"]
        assert sum(one.vpc_id == vpc.vpc_id for one in truth.subnets.values()) <= truth.quotas["subnets-per-vpc"]
    for association in truth.associations.values():
        trunk, branch = truth.eni(association.trunk_id), truth.eni(association.branch_id)
        assert trunk.interface_type == "trunk"
        assert (branch.interface_type, branch.trunk_id, branch.vlan) == ("branch", trunk.eni_id, association.vlan)
        assert branch.attachment is None
    for eni in truth.enis.values():
        branches = truth.branches_of(eni.eni_id)
        assert len({branch.vlan for branch in branches}) == len(branches)
        assert bool(eni.addresses) == (eni.interface_type != "efa-only")
        assert bool(eni.trunk_id) == any(one.branch_id == eni.eni_id for one in truth.associations.values())
        if branches and eni.attachment is not None:
            most = truth.types.get(truth.instance(eni.instance_id).instance_type).branches
            assert most is not None
            assert len(branches) <= most
    for group in truth.groups.values():
        for rules in (group.ingress, group.egress):
            assert len(rules) == len(set(rules))
            for other in ".", ":":  # the other family's blocks do not count
                counted = [rule for rule in rules if not any(other in cidr for cidr in rule.cidrs)]
                assert len(counted) <= truth.quotas["rules-per-group"]


@pytest.mark.slow
def test_many_calls() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    life = Life(seed)
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    for number in range(CALLS):
        act = life.rng.choice(life.acts)
        life.truth.tick()
        before = state(life.truth)
        try:
            act()
            outcomes["ok"] += 1
        except Ec2Error as error:
            outcomes[error.code] += 1
            assert state(life.truth) == before, f"seed {seed}, call {number}: {act.__name__} was refused by halves"
        if number % 500 == 0:
            promises(life.truth)
    promises(life.truth)
    print(f"{CALLS / (time.monotonic() - begun):.0f} calls a second; {dict(outcomes.most_common())}")
    assert outcomes["ok"] > CALLS / 10
    assert len(outcomes) > 15


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), acts=st.lists(st.integers(0, 23), max_size=60))
def test_any_order_of_calls(seed: int, acts: list[int]) -> None:
    life = Life(seed)
    for number in acts:
        life.truth.tick()
        before = state(life.truth)
        try:
            life.acts[number]()
        except Ec2Error:
            assert state(life.truth) == before
        promises(life.truth)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 20),
    when=st.sampled_from(["before", "after"]),
    how=st.sampled_from([{"drop": True}, {"error": "InternalError"}, {"body": b"nonsense"}]),
)
def test_a_fault_leaves_a_change_whole_or_undone(seed: int, count: int, when: Any, how: Any) -> None:
    """A lost answer hides a change that is wholly there; a failure before it leaves none."""
    life = Life(seed)
    truth = life.truth
    eni = truth.create_eni(next(iter(truth.subnets)))
    api = Api(truth, model=model(), sleep=lambda _seconds: None)
    before = state(truth)
    request = {"NetworkInterfaceId": eni.eni_id, "SecondaryPrivateIpAddressCount": count}
    truth.faults.add(Fault("AssignPrivateIpAddresses", when=when, **how))
    form = f"Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={eni.eni_id}"
    api.handle(f"{form}&SecondaryPrivateIpAddressCount={count}".encode())
    held = len(truth.eni(eni.eni_id).addresses) - 1
    assert held in ((0,) if when == "before" or not count else (count,))
    if when == "before":
        assert state(truth) == before
    promises(truth)
    assert code(ask(api, "AssignPrivateIpAddresses", request)) == ("ok" if count else "MissingParameter")
    promises(truth)
