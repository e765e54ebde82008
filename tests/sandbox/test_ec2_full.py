"""What is chosen where little is left, and how much may be asked for: neither takes long, with the lock held."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.records import Eni
from sandbox.ec2.truth import Truth, Wanted
from tests.sandbox.ec2_kit import check, make_truth

WHOLE = ipaddress.IPv6Network("fd00:ec2:0:1::/64")


def make() -> tuple[Truth, Eni]:
    truth, _ = make_truth(1)
    vpc = truth.create_vpc(["10.0.0.0/16"], ipv6_cidrs=["fd00:ec2::/56"])
    subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/24", "us-west-2a", ipv6_cidr=str(WHOLE))
    return truth, truth.create_eni(subnet.subnet_id)


def reserve_but(truth: Truth, left: str) -> None:
    """Reserve all of the /64 but this block."""
    for block in WHOLE.address_exclude(ipaddress.IPv6Network(left)):
        truth.create_reservation(next(iter(truth.subnets)), str(block), "explicit")


@pytest.mark.parametrize("what", ["count", "prefix_count"])
def test_a_wholly_reserved_subnet_is_full(what: str) -> None:
    truth, eni = make()
    truth.create_reservation(eni.subnet_id, str(WHOLE), "explicit")
    with pytest.raises(Ec2Error, match="free"):
        truth.assign_ipv6(eni.eni_id, **{what: 1})


def test_the_last_addresses_between_reservations_are_found() -> None:
    truth, eni = make()
    left = "fd00:ec2:0:1:7::8/125"
    reserve_but(truth, left)
    truth.assign_ipv6(eni.eni_id, addresses=["fd00:ec2:0:1:7::9"])
    got, _ = truth.assign_ipv6(eni.eni_id, count=5)
    rest, _ = truth.assign_ipv6(eni.eni_id, count=2)
    inside = {str(address) for address in ipaddress.IPv6Network(left)}
    assert {*got, *rest, "fd00:ec2:0:1:7::9"} == inside
    for wanted in ({"count": 1}, {"prefix_count": 1}):
        with pytest.raises(Ec2Error, match="InsufficientFreeAddressesInSubnet"):
            truth.assign_ipv6(eni.eni_id, **wanted)
    check(truth)


def test_the_last_block_between_reservations_is_found() -> None:
    truth, eni = make()
    reserve_but(truth, "fd00:ec2:0:1:7::/80")
    assert truth.assign_ipv6(eni.eni_id, prefix_count=1)[1] == ("fd00:ec2:0:1:7::/80",)
    for wanted in ({"count": 1}, {"prefix_count": 1}):
        with pytest.raises(Ec2Error, match="InsufficientFreeAddressesInSubnet"):
            truth.assign_ipv6(eni.eni_id, **wanted)


def test_both_ends_of_the_subnet_are_not_for_enis() -> None:
    """Four addresses at the beginning and one at the end, also where reservations leave nothing else."""
    truth, eni = make()
    reserve_but(truth, "fd00:ec2:0:1::/125")
    assert set(truth.assign_ipv6(eni.eni_id, count=4)[0]) == {f"fd00:ec2:0:1::{last}" for last in (4, 5, 6, 7)}
    truth, eni = make()
    reserve_but(truth, "fd00:ec2:0:1:ffff:ffff:ffff:fffe/127")
    assert truth.assign_ipv6(eni.eni_id, count=1)[0] == ("fd00:ec2:0:1:ffff:ffff:ffff:fffe",)
    with pytest.raises(Ec2Error, match="InsufficientFreeAddressesInSubnet"):
        truth.assign_ipv6(eni.eni_id, count=1)


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("assign_ipv4", "Number of private addresses", {"count": 4000}),
    ("assign_ipv6", "Number of IPv6 addresses", {"count": 4001}),
    ("assign_ipv6", "Number of IPv6 addresses", {"prefix_count": 10**15}),
    ("create_eni", "Number of private addresses", {"count": 10**15}),
    ("create_eni", "Number of IPv6 addresses", {"ipv6": Wanted(count=4001)}),
]


@pytest.mark.parametrize(("call", "text", "wanted"), ASKED)
def test_an_eni_without_an_instance_holds_what_the_roomiest_type_allows(
    call: str, text: str, wanted: dict[str, Any]
) -> None:
    """That of these tests is sandbox.4000."""
    truth, eni = make()
    of = eni.subnet_id if call == "create_eni" else eni.eni_id
    with pytest.raises(Ec2Error, match=f"PrivateIpAddressLimitExceeded: {text} will exceed limit"):
        getattr(truth, call)(of, **wanted)
    assert list(truth.enis.values()) == [eni]
    assert len(truth.assign_ipv6(eni.eni_id, count=4000)[0]) == 4000


def test_the_roomiest_type_is_one_of_the_public_ones_unless_one_is_made_up() -> None:
    truth, _ = make_truth()
    assert truth.types.roomiest() == (4000, 4000)
    truth.types.register("sandbox.more", enis=1, ipv4=5000, ipv6=1)
    assert truth.types.roomiest() == (5000, 4000)
    public = type(truth.types)()
    assert public.roomiest() == (64, 64)
