"""A world built by boto3 alone: VPCs, blocks, subnets, reservations, tags; and instances that stop and start."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest

from sandbox.ec2.truth import Truth
from tests.sandbox.ec2_cases import run
from tests.sandbox.ec2_kit import Account, HandClock, check, make_account, refused


@pytest.fixture
def a() -> Account:
    return make_account()


def test_a_vpc_from_nothing_and_back(a: Account) -> None:
    made = a.ec2.create_vpc(CidrBlock="10.50.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
    vpc = made["VpcId"]
    assert made["State"] == "pending"
    block6 = ipaddress.IPv6Network(made["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"])
    assert block6.prefixlen == 56
    second = a.ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="100.64.0.0/16")["CidrBlockAssociation"]
    assert second["CidrBlockState"]["State"] == "associating"
    subnet6 = str(next(block6.subnets(new_prefix=64)))
    subnet = a.ec2.create_subnet(
        VpcId=vpc, CidrBlock="100.64.8.0/24", AvailabilityZone="us-west-2c", Ipv6CidrBlock=subnet6,
        TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "pods"}]}],
    )["Subnet"]  # fmt: skip
    assert (subnet["AvailableIpAddressCount"], subnet["AvailabilityZone"]) == (251, "us-west-2c")
    eni = a.new(SubnetId=subnet["SubnetId"], Ipv6PrefixCount=1)
    with refused(a, "DependencyViolation"):
        a.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    with refused(a, "InvalidCidrBlock.InUse"):
        a.ec2.disassociate_vpc_cidr_block(AssociationId=second["AssociationId"])
    a.ec2.delete_network_interface(NetworkInterfaceId=eni)
    a.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    a.ec2.disassociate_vpc_cidr_block(AssociationId=second["AssociationId"])
    [left] = a.ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
    assert [one["CidrBlock"] for one in left["CidrBlockAssociationSet"]] == ["10.50.0.0/16"]
    a.ec2.delete_vpc(VpcId=vpc)
    with refused(a, "InvalidVpcID.NotFound"):
        a.ec2.describe_vpcs(VpcIds=[vpc])
    check(a.truth)


def test_tags_are_listed_with_their_resources(a: Account) -> None:
    eni = a.new()
    a.ec2.create_tags(Resources=[eni, a.subnet.subnet_id], Tags=[{"Key": "team", "Value": "net"}])
    found = a.ec2.describe_tags(Filters=[{"Name": "key", "Values": ["team"]}])["Tags"]
    assert {(tag["ResourceId"], tag["ResourceType"]) for tag in found} == {
        (eni, "network-interface"), (a.subnet.subnet_id, "subnet"),
    }  # fmt: skip
    mine = a.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [a.node.instance_id]}])["Tags"]
    assert mine == [{"Key": "Name", "ResourceId": a.node.instance_id, "ResourceType": "instance", "Value": "node"}]


# --- reservations -----------------------------------------------------------------------------------------------------


def reserve(a: Account, cidr: str, kind: str) -> str:
    made = a.ec2.create_subnet_cidr_reservation(
        SubnetId=a.small.subnet_id, Cidr=cidr, ReservationType=kind, Description="d"
    )["SubnetCidrReservation"]
    return str(made["SubnetCidrReservationId"])


def blocks(a: Account, **kw: Any) -> list[str]:
    eni = a.truth.eni(a.new(SubnetId=a.small.subnet_id, **kw))
    return [*eni.prefixes, *eni.addresses]


@pytest.mark.parametrize("policy", ["dense", "random"])
def test_a_reservation_for_prefixes(policy: Any) -> None:
    """Of 10.1.0.0/26 the upper half but one block: single addresses stay out, prefixes go in first."""
    a = make_account(policy)
    made = reserve(a, "10.1.0.32/28", "prefix")
    inside = ipaddress.IPv4Network("10.1.0.32/28")
    singles = [a.truth.eni(a.new(SubnetId=a.small.subnet_id)).primary_ip for _ in range(20)]
    assert not any(ipaddress.IPv4Address(one) in inside for one in singles)
    assert "10.1.0.32/28" in blocks(a, Ipv4PrefixCount=1)
    [listed] = a.ec2.get_subnet_cidr_reservations(SubnetId=a.small.subnet_id)["SubnetIpv4CidrReservations"]
    assert (listed["SubnetCidrReservationId"], listed["ReservationType"]) == (made, "prefix")
    a.ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=made)
    assert a.ec2.get_subnet_cidr_reservations(SubnetId=a.small.subnet_id)["SubnetIpv4CidrReservations"] == []
    check(a.truth)


def test_a_reservation_for_named_addresses(a: Account) -> None:
    reserve(a, "10.1.0.16/28", "explicit")
    reserve(a, "10.1.0.32/28", "explicit")
    with refused(a, "InsufficientCidrBlocks"):
        a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=1)
    for _ in range(27):
        a.new(SubnetId=a.small.subnet_id)
    with refused(a, "InsufficientFreeAddressesInSubnet"):
        a.new(SubnetId=a.small.subnet_id)
    assert a.free(a.small) == 32
    assert "10.1.0.20" in blocks(a, PrivateIpAddress="10.1.0.20")
    a.ec2.delete_network_interface(NetworkInterfaceId=a.truth.holders("10.1.0.20")[0])
    check(a.truth)


def test_a_reservation_in_ipv6(a: Account) -> None:
    a.ec2.create_subnet_cidr_reservation(
        SubnetId=a.subnet.subnet_id, Cidr="fd00:ec2:0:1:7::/80", ReservationType="prefix"
    )
    eni = a.truth.eni(a.new(Ipv6PrefixCount=2))
    assert "fd00:ec2:0:1:7::/80" in eni.ipv6_prefixes
    [listed] = a.ec2.get_subnet_cidr_reservations(SubnetId=a.subnet.subnet_id)["SubnetIpv6CidrReservations"]
    assert listed["Cidr"] == "fd00:ec2:0:1:7::/80"
    check(a.truth)


# --- instances --------------------------------------------------------------------------------------------------------


def test_a_stopped_instance_keeps_its_enis_and_addresses(a: Account) -> None:
    eni = a.new(SecondaryPrivateIpAddressCount=2, Ipv6PrefixCount=1)
    a.attach(eni, 1)
    a.truth.delays.stop = a.truth.delays.start = 10
    held, ids = a.describe(eni), [a.node.instance_id]
    [change] = a.ec2.stop_instances(InstanceIds=ids)["StoppingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "stopping")
    with refused(a, "IncorrectInstanceState", "from which it can be started"):
        a.ec2.start_instances(InstanceIds=ids)
    a.told.events.clear()
    a.clock.time += 10
    a.truth.tick()
    assert {("eni_detached", eni), ("eni_detached", a.eni)} <= set(a.told.events)
    assert a.truth.instance(a.node.instance_id).state == "stopped"
    assert a.describe(eni) == held
    [change] = a.ec2.start_instances(InstanceIds=ids)["StartingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("stopped", "pending")
    a.told.events.clear()
    a.clock.time += 10
    a.truth.tick()
    assert {("eni_attached", eni), ("eni_attached", a.eni)} == set(a.told.events)
    assert a.describe(eni) == held
    before = dict(a.truth.instances)
    a.ec2.reboot_instances(InstanceIds=ids)
    assert dict(a.truth.instances) == before
    check(a.truth)


def test_a_launched_instance_is_pending_first(a: Account) -> None:
    [made] = run(a)["Instances"]
    assert made["State"] == {"Code": 0, "Name": "pending"}
    assert shown_state(a, made["InstanceId"]) == {"Code": 16, "Name": "running"}
    a.truth.delays.launch = 10
    a.told.events.clear()
    [made] = run(a)["Instances"]
    instance_id, eni = made["InstanceId"], made["NetworkInterfaces"][0]["NetworkInterfaceId"]
    assert a.told.events == [("eni_attached", eni)]
    a.clock.time += 9
    assert made["State"] == shown_state(a, instance_id) == {"Code": 0, "Name": "pending"}
    a.clock.time += 1
    assert shown_state(a, instance_id) == {"Code": 16, "Name": "running"}
    assert a.told.events == [("eni_attached", eni)]
    check(a.truth)


def test_a_launch_that_was_stopped_does_not_hasten_the_next_start(a: Account) -> None:
    a.truth.delays.launch = a.truth.delays.start = 10
    node = a.truth.run_instance("m5.large", a.subnet.subnet_id).instance_id
    a.clock.time += 4
    a.ec2.stop_instances(InstanceIds=[node])
    a.ec2.start_instances(InstanceIds=[node])
    a.clock.time += 6
    assert shown_state(a, node)["Name"] == "pending"
    a.clock.time += 4
    assert shown_state(a, node)["Name"] == "running"


def test_user_data_is_base64_on_the_wire_only(a: Account) -> None:
    """boto3 encodes it as the protocol asks; the instance finds what was given."""
    [made] = run(a, UserData="#!/bin/sh\necho é")["Instances"]
    assert a.truth.instance(made["InstanceId"]).user_data == "#!/bin/sh\necho é".encode()


def test_the_first_ipv6_address_is_shown_by_itself_too(a: Account) -> None:
    """Controllers read NetworkInterface.Ipv6Address of a branch that they make."""
    eni = a.new(Ipv6AddressCount=2)
    shown = a.describe(eni)
    assert shown["Ipv6Address"] == a.truth.eni(eni).ipv6_addresses[0]
    assert "Ipv6Address" not in a.describe(a.eni)
    a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6AddressCount=1)
    [reservation] = a.ec2.describe_instances(InstanceIds=[a.node.instance_id])["Reservations"]
    assert reservation["Instances"][0]["Ipv6Address"] == a.truth.eni(a.eni).ipv6_addresses[0]


def shown_state(a: Account, instance_id: str) -> dict[str, Any]:
    [reservation] = a.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    state: dict[str, Any] = reservation["Instances"][0]["State"]
    return state


@pytest.mark.parametrize("verb", ["stop", "start", "reboot", "terminate"])
@pytest.mark.parametrize("worse", ["dead", "unknown"])
def test_several_instances_change_together_or_not_at_all(a: Account, verb: str, worse: str) -> None:
    dead = a.truth.run_instance("m5.large", a.subnet.subnet_id).instance_id
    a.truth.terminate_instance(dead)
    if worse == "unknown":
        a.truth.forget_instance(dead)
    if verb == "start":
        a.truth.stop_instance(a.node.instance_id)
    rebooted: list[str] = []
    a.truth.rebooted = rebooted.append
    ask = getattr(a.ec2, f"{verb}_instances")
    if (verb, worse) == ("terminate", "dead"):  # twice is once
        assert len(ask(InstanceIds=[a.node.instance_id, dead])["TerminatingInstances"]) == 2
        return
    with refused(a, "InvalidInstanceID.NotFound" if worse == "unknown" else "IncorrectInstanceState"):
        ask(InstanceIds=[a.node.instance_id, dead])
    assert rebooted == []
    ask(InstanceIds=[a.node.instance_id])
    states = {"stop": "stopped", "start": "running", "reboot": "running", "terminate": "terminated"}
    assert a.truth.instance(a.node.instance_id).state == states[verb]


def test_a_vpc_with_ipv6_is_made_whole_or_not_at_all(a: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_truth: Truth) -> ipaddress.IPv6Network:
        raise OSError("no block")

    monkeypatch.setattr(Truth, "_new_cidr6", fail)
    with refused(a, "InternalError", "no block"):
        a.ec2.create_vpc(CidrBlock="10.50.0.0/16", AmazonProvidedIpv6CidrBlock=True)


def test_metadata_options_and_defaults(a: Account) -> None:
    ids = a.node.instance_id
    changed = a.ec2.modify_instance_metadata_options(
        InstanceId=ids, HttpTokens="optional", HttpPutResponseHopLimit=3, HttpEndpoint="disabled"
    )["InstanceMetadataOptions"]
    assert (changed["HttpTokens"], changed["HttpPutResponseHopLimit"], changed["HttpEndpoint"]) == (
        "optional", 3, "disabled",
    )  # fmt: skip
    assert changed["HttpProtocolIpv6"] == "disabled"
    a.truth.metadata_ipv6 = True
    [shown] = a.ec2.describe_instances(InstanceIds=[ids])["Reservations"][0]["Instances"]
    assert shown["MetadataOptions"] == {**changed, "State": "applied", "HttpProtocolIpv6": "enabled"}
    assert a.ec2.get_instance_metadata_defaults()["AccountLevel"] == {"ManagedBy": "account"}
    a.ec2.modify_instance_metadata_defaults(HttpTokens="optional", HttpPutResponseHopLimit=2)
    level = a.ec2.get_instance_metadata_defaults()["AccountLevel"]
    assert (level["HttpTokens"], level["HttpPutResponseHopLimit"]) == ("optional", 2)
    [made] = run(a)["Instances"]
    assert (made["MetadataOptions"]["HttpTokens"], made["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "optional",
        2,
    )
    a.ec2.modify_instance_metadata_defaults(HttpTokens="no-preference", HttpPutResponseHopLimit=-1)
    [made] = run(a)["Instances"]
    assert (made["MetadataOptions"]["HttpTokens"], made["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "required",
        1,
    )


def test_a_token_of_a_terminated_instance_launches_nothing(a: Account) -> None:
    [made] = run(a, ClientToken="t")["Instances"]
    a.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
    with refused(a, "IdempotentInstanceTerminated"):
        run(a, ClientToken="t")
    a.truth.forget_instance(made["InstanceId"])
    with refused(a, "IdempotentInstanceTerminated"):
        run(a, ClientToken="t")
    assert run(a, ClientToken="u")["Instances"]


def test_a_standing_clock_is_enough() -> None:
    clock = HandClock()
    truth = Truth(clock, random.Random(0), region="us-east-1")
    vpc = truth.create_vpc(["10.0.0.0/16"])
    assert truth.create_subnet(vpc.vpc_id, "10.0.0.0/24", "us-east-1c").zone_id == "use1-az3"
    assert truth.tick() is None


def test_an_instance_shows_its_interfaces_as_they_show_themselves(a: Account) -> None:
    a.truth.types.register("sandbox.efa", enis=4, ipv4=15, efa=True)
    node = a.truth.run_instance("sandbox.efa", a.subnet.subnet_id).instance_id
    for device, kw in enumerate(
        (
            {"Ipv4PrefixCount": 1, "Ipv6AddressCount": 2, "Groups": a.groups[:2], "Description": "d"},
            {"Ipv6PrefixCount": 1, "ConnectionTrackingSpecification": {"UdpTimeout": 45}},
            {"InterfaceType": "efa-only"},
        ),
        1,
    ):
        a.attach(a.new(**kw), device, InstanceId=node)
    [reservation] = a.ec2.describe_instances(InstanceIds=[node])["Reservations"]
    shown = reservation["Instances"][0]["NetworkInterfaces"]
    assert [one["Attachment"]["DeviceIndex"] for one in shown] == [0, 1, 2, 3]
    for one in shown:
        itself = a.describe(one["NetworkInterfaceId"])
        assert one.pop("Attachment").items() <= itself.pop("Attachment").items()
        assert one.items() <= itself.items()
        assert itself.keys() - one.keys() <= {
            "AvailabilityZone", "Ipv6Address", "RequesterId", "RequesterManaged", "TagSet",
        }  # fmt: skip


@pytest.mark.parametrize("name", ["private-dns-name", "private-ip-address", "subnet-id", "vpc-id"])
def test_filters_find_no_terminated_instance_by_the_network_that_it_lost(a: Account, name: str) -> None:
    values = {
        "private-dns-name": f"ip-{a.node.private_ip.replace('.', '-')}.us-west-2.compute.internal",
        "private-ip-address": a.node.private_ip,
        "subnet-id": a.node.subnet_id,
        "vpc-id": a.node.vpc_id,
    }
    wanted = [{"Name": name, "Values": [values[name]]}]
    assert len(a.ec2.describe_instances(Filters=wanted)["Reservations"]) == 1
    a.ec2.terminate_instances(InstanceIds=[a.node.instance_id])
    assert a.ec2.describe_instances(Filters=wanted)["Reservations"] == []
    assert len(a.ec2.describe_instances()["Reservations"]) == 1


def test_why_an_instance_stopped_or_ended() -> None:
    a = make_account()
    node = a.node.instance_id

    def reasons() -> tuple[Any, str]:
        [shown] = a.ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"]
        return shown.get("StateReason", {}).get("Code"), shown["StateTransitionReason"]

    by_user = "Client.UserInitiatedShutdown"
    assert reasons() == (None, "")
    a.truth.delays.stop = a.truth.delays.start = 10
    a.ec2.stop_instances(InstanceIds=[node])
    stopped = by_user, "User initiated (2025-06-15 15:06:40 GMT)"
    assert reasons() == stopped
    a.clock.time += 10
    a.truth.tick()
    assert reasons() == stopped
    a.ec2.start_instances(InstanceIds=[node])
    assert reasons() == ("pending", "")
    a.clock.time += 10
    a.truth.tick()
    assert reasons() == (None, "")
    a.ec2.terminate_instances(InstanceIds=[node])
    a.truth.tick()
    ended = by_user, "User initiated (2025-06-15 15:07:00 GMT)"
    assert reasons() == ended
    a.clock.time += 60
    a.ec2.terminate_instances(InstanceIds=[node])
    assert reasons() == ended
