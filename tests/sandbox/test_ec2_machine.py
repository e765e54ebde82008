"""The truth under random calls: whatever is asked in whatever order, its promises hold and refusals change nothing."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.truth import Truth, Wanted
from tests.sandbox.ec2_kit import Told, check, make_truth, state

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
