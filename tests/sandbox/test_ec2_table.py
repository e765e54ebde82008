"""The strictness table: every row is refused with its code, and a refusal changes nothing."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.ec2.actions.registry import ACTIONS
from sandbox.ec2.api import Api
from sandbox.ec2.network import cidr_id
from sandbox.ec2.records import Permission
from sandbox.ec2.truth import Truth, Wanted
from tests.sandbox import ec2_rows
from tests.sandbox.ec2_ask import ask, ask_form, code
from tests.sandbox.ec2_kit import Account, check, make_account, state

ROWS = ec2_rows.every()


class World:
    """The things that rows name, and the account that they are in. No row changes it, so one serves all."""

    def __init__(self) -> None:
        self.account = a = make_account()
        self.api: Api = a.api
        self.truth: Truth = a.truth
        t, subnet = a.truth, a.subnet.subnet_id
        t.types.register("sandbox.trunk", enis=4, ipv4=15, branches=2, efa=True)
        self.names: dict[str, Any] = {
            "vpc": a.vpc.vpc_id,
            "subnet": subnet,
            "small": a.small.subnet_id,
            "group": a.groups[0],
            "named_group": a.groups[1],
            "unused": a.groups[2],
            "six": a.groups,
            "default_group": a.vpc.default_group_id,
            "node": a.node.instance_id,
            "primary": a.eni,
            "primary_ip": a.node.private_ip,
        }
        self._enis(t, subnet)
        self._nodes(t, subnet)
        self._trunks(t, subnet)
        self._network(t, a)

    def _enis(self, t: Truth, subnet: str) -> None:
        held = t.create_eni(subnet, count=2, ipv6=Wanted(count=1))
        attachment = t.attach_eni(held.eni_id, self.names["node"], 1)
        prefixed = t.create_eni(subnet, prefixes=["10.0.8.0/28"], ipv6=Wanted(prefix_count=1))
        self.names |= {
            "eni": t.create_eni(subnet).eni_id,
            "held": held.eni_id,
            "attachment": attachment.attachment_id,
            "primary_attachment": self._attachment(self.names["primary"]),
            "taken": held.addresses[1],
            "taken6": held.ipv6_addresses[0],
            "other_primary_ip": held.addresses[0],
            "taken_block": "10.0.0.0/28",
            "prefixed": prefixed.eni_id,
            "prefix": "10.0.8.0/28",
            "prefix6": prefixed.ipv6_prefixes[0],
            "in_prefix": "10.0.8.5",
            "laden": t.create_eni(subnet, count=4).eni_id,
            "laden6": t.create_eni(subnet, ipv6=Wanted(count=3)).eni_id,
            "efa": t.create_eni(subnet, interface_type="efa").eni_id,
            "efa_only": t.create_eni(subnet, interface_type="efa-only").eni_id,
        }

    def _attachment(self, eni_id: str) -> str:
        found = self.truth.eni(eni_id).attachment
        assert found is not None
        return found.attachment_id

    def _nodes(self, t: Truth, subnet: str) -> None:
        def run(kind: str, where: str = subnet) -> Any:
            return t.run_instance(kind, where)

        crowded, tight, xen, dead, stopped = map(
            run, ("sandbox.tight", "sandbox.tight", "sandbox.xen", "t3.micro", "t3.micro")
        )
        t.attach_eni(t.create_eni(subnet).eni_id, crowded.instance_id, 1)
        t.terminate_instance(dead.instance_id)
        t.stop_instance(stopped.instance_id)
        self.names |= {
            "crowded": crowded.instance_id,
            "tight": tight.instance_id,
            "tight_eni": tight.primary_eni_id,
            "xen": xen.instance_id,
            "xen_eni": xen.primary_eni_id,
            "dead": dead.instance_id,
            "stopped": stopped.instance_id,
            "cards": run("sandbox.cards").instance_id,
            "unknown_branches": run("m6i.large").instance_id,
            "elsewhere": run("sandbox.room", self.account.other_zone.subnet_id).instance_id,
        }

    def _trunks(self, t: Truth, subnet: str) -> None:
        node, full = (t.run_instance("sandbox.trunk", subnet).instance_id for _ in range(2))
        trunk, full_trunk = (t.create_eni(subnet, interface_type="trunk").eni_id for _ in range(2))
        t.attach_eni(trunk, node, 1)
        t.attach_eni(full_trunk, full, 1)
        t.attach_eni(t.create_eni(subnet, interface_type="efa").eni_id, node, 2)
        branch = t.create_eni(subnet).eni_id
        t.associate(trunk, branch, 5)
        for vlan in (1, 2):
            t.associate(full_trunk, t.create_eni(subnet).eni_id, vlan)
        # Device 2 of this node is taken by its EFA: rows that want another say so.
        self.names |= {
            "trunk_node": node,
            "trunk": trunk,
            "trunk_attachment": self._attachment(trunk),
            "full_trunk": full_trunk,
            "branch": branch,
            "spare_trunk": t.create_eni(subnet, interface_type="trunk").eni_id,
            "spare_branch": t.create_eni(subnet, interface_type="branch").eni_id,
            "zone_b_eni": t.create_eni(self.account.other_zone.subnet_id).eni_id,
        }
        t.permit(self.names["held"], "123456789012", "INSTANCE-ATTACH")

    def _network(self, t: Truth, a: Account) -> None:
        full = t.create_subnet(a.vpc.vpc_id, "10.1.1.0/28", "us-west-2a").subnet_id
        full_eni = t.create_eni(full, count=10).eni_id
        broken = t.create_subnet(a.vpc.vpc_id, "10.1.2.0/26", "us-west-2a").subnet_id
        fragments = [t.create_eni(broken, private_ip=f"10.1.2.{base + 8}").eni_id for base in (0, 16, 32, 48)]
        foreign = t.create_vpc(["10.9.0.0/16"])
        foreign_subnet = t.create_subnet(foreign.vpc_id, "10.9.0.0/24", "us-west-2a")
        broad = t.create_vpc([f"10.{number}.0.0/16" for number in range(30, 35)])
        for number in (60, 61):
            t.create_vpc([f"10.{number}.0.0/16"])
        for direction in ("ingress", "egress"):
            t.authorize(a.groups[0], direction, [Permission(cidrs=("9.9.0.0/16",))])  # type: ignore[arg-type]
        t.authorize(a.groups[3], "ingress", [Permission(groups=(a.groups[1],))])
        t.create_reservation(a.subnet.subnet_id, "10.0.6.0/24", "explicit")
        t.create_eni(a.subnet.subnet_id, description="")
        ask(a.api, "CreateNetworkInterface", {"SubnetId": a.subnet.subnet_id, "ClientToken": "used"})
        self.names |= {
            "full": full,
            "full_eni": full_eni,
            "fragmented": broken,
            "fragmented_eni": fragments[0],
            "foreign_group": foreign.default_group_id,
            "foreign_eni": t.create_eni(foreign_subnet.subnet_id).eni_id,
            "broad_vpc": broad.vpc_id,
            "primary_cidr": cidr_id(a.vpc.vpc_id, a.vpc.cidrs[0]),
            "used_cidr": cidr_id(a.vpc.vpc_id, a.vpc.cidrs[1]),
            "reserved": "10.0.6.0/28",
        }

    def filled(self, value: Any) -> Any:
        """A request with things for their names; a name for several things spreads them out in a list."""
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items() if one is not None}
        if isinstance(value, list):
            found = [self.filled(one) for one in value]
            return [part for one in found for part in (one if isinstance(one, list) else [one])]
        if isinstance(value, str) and (name := re.fullmatch(r"\{(\w+)\}", value)):
            return self.names[name[1]]
        return value


@functools.cache
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _own_world() -> Iterator[None]:
    """Other tests share the one endpoint, but not this world, which is asked in process."""
    yield
    check(world().truth)


def _name(row: ec2_rows.Row) -> str:
    return f"{row.action}-{row.code}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_refused(row: ec2_rows.Row) -> None:
    w = world()
    before = state(w.truth)
    request = w.filled(row.request)
    if ec2_rows.FORM in request:
        answer = ask_form(w.api, row.action, request[ec2_rows.FORM])
    else:
        answer = ask(w.api, row.action, request)
    assert code(answer) == row.code, answer
    assert answer["Error"]["Message"]
    assert state(w.truth) == before


def test_the_table_is_large_and_covers_every_action() -> None:
    counts = ec2_rows.counts()
    assert len(ROWS) >= 250
    assert len({(row.action, repr(row.request)) for row in ROWS}) == len(ROWS)
    assert set(ACTIONS) - set(counts) == set()
    assert set(counts) - set(ACTIONS) == {"-"}
    assert all(row.source for row in ROWS)
