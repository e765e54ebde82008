"""Every failing of moto that was found, line by line, is right here; each line is a check of the strictness table.

A line names the action, what moto does, and asks for what AWS does. Where moto's failing is an error that it lacks,
the row of the table says `moto` in its source, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.base.http import Request
from sandbox.ec2.imds import Imds
from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox import ec2_rows
from tests.sandbox.ec2_ask import ask, code
from tests.sandbox.ec2_kit import Account, check, make_account

RUN = {"ImageId": DEFAULT_IMAGE, "InstanceType": "sandbox.room", "MinCount": 1, "MaxCount": 1}
LINES: list[tuple[str, str, Callable[[Asker], None]]] = []


class Asker:
    """An account and shorthands for calls of it."""

    def __init__(self) -> None:
        self.a: Account = make_account()
        self.truth = self.a.truth
        self.subnet = self.a.subnet.subnet_id

    def __call__(self, action: str, /, **request: Any) -> dict[str, Any]:
        return ask(self.a.api, action, request)

    def code(self, action: str, /, **request: Any) -> str:
        return code(self(action, **request))

    def new(self, **request: Any) -> str:
        made = self("CreateNetworkInterface", **{"SubnetId": self.subnet, **request})
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def run(self, **network: Any) -> dict[str, Any]:
        """A launched instance's primary ENI."""
        interface = {"DeviceIndex": 0, "SubnetId": self.subnet, **network}
        [made] = self("RunInstances", **RUN, NetworkInterfaces=[interface])["Instances"]
        return self.eni(made["NetworkInterfaces"][0]["NetworkInterfaceId"])

    def eni(self, eni_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self("DescribeNetworkInterfaces", NetworkInterfaceIds=[eni_id])["NetworkInterfaces"][0]
        return found

    def attach(self, eni_id: str, device: int, **more: Any) -> dict[str, Any]:
        request = {"NetworkInterfaceId": eni_id, "InstanceId": self.a.node.instance_id, "DeviceIndex": device, **more}
        return self("AttachNetworkInterface", **request)

    def free(self) -> int:
        return int(self("DescribeSubnets", SubnetIds=[self.subnet])["Subnets"][0]["AvailableIpAddressCount"])


def line(action: str, failing: str) -> Callable[[Callable[[Asker], None]], Callable[[Asker], None]]:
    def register(function: Callable[[Asker], None]) -> Callable[[Asker], None]:
        LINES.append((action, failing, function))
        return function

    return register


@line("RunInstances", "the primary ENI has DeleteOnTermination=false")
def _(it: Asker) -> None:
    assert it.run()["Attachment"]["DeleteOnTermination"] is True


@line("RunInstances", "tags for network interfaces are not put on the ENI")
def _(it: Asker) -> None:
    tags = [{"Key": "k", "Value": "v"}]
    spec = [{"ResourceType": "network-interface", "Tags": tags}]
    [made] = it("RunInstances", **RUN, SubnetId=it.subnet, TagSpecifications=spec)["Instances"]
    assert it.eni(made["NetworkInterfaces"][0]["NetworkInterfaceId"])["TagSet"] == tags
    assert made["Tags"] == []


@line("RunInstances", "Ipv4PrefixCount is ignored")
def _(it: Asker) -> None:
    assert len(it.run(Ipv4PrefixCount=2)["Ipv4Prefixes"]) == 2


@line("RunInstances", "SecondaryPrivateIpAddressCount is ignored")
def _(it: Asker) -> None:
    assert len(it.run(SecondaryPrivateIpAddressCount=2)["PrivateIpAddresses"]) == 3


@line("RunInstances", "no limits per type")
def _(it: Asker) -> None:
    network = [{"DeviceIndex": 0, "SubnetId": it.subnet, "SecondaryPrivateIpAddressCount": 15}]
    assert it.code("RunInstances", **RUN, NetworkInterfaces=network) == "PrivateIpAddressLimitExceeded"


@line("DescribeInstances", "a secondary ENI's groups are joined with the instance's")
def _(it: Asker) -> None:
    it.attach(it.new(Groups=it.a.groups[2:3]), 1)
    [reservation] = it("DescribeInstances", InstanceIds=[it.a.node.instance_id])["Reservations"]
    groups = [[one["GroupId"] for one in eni["Groups"]] for eni in reservation["Instances"][0]["NetworkInterfaces"]]
    assert groups == [it.a.groups[:1], it.a.groups[2:3]]


@line("DescribeInstanceTypes", "no pages: all types at once")
def _(it: Asker) -> None:
    assert len(it("DescribeInstanceTypes")["InstanceTypes"]) == 100
    assert it("DescribeInstanceTypes", MaxResults=5)["NextToken"]


@line("CreateNetworkInterface", "Ipv4PrefixCount is ignored")
def _(it: Asker) -> None:
    assert len(it.eni(it.new(Ipv4PrefixCount=2))["Ipv4Prefixes"]) == 2


@line("CreateNetworkInterface", "Ipv6PrefixCount is ignored")
def _(it: Asker) -> None:
    assert len(it.eni(it.new(Ipv6PrefixCount=2))["Ipv6Prefixes"]) == 2


@line("CreateNetworkInterface", "InterfaceType trunk, branch and efa become `interface`")
def _(it: Asker) -> None:
    for kind in ("trunk", "branch", "efa", "efa-only"):
        assert it.eni(it.new(InterfaceType=kind))["InterfaceType"] == kind


@line("CreateNetworkInterface", "ClientToken is ignored")
def _(it: Asker) -> None:
    assert it.new(ClientToken="t") == it.new(ClientToken="t") != it.new(ClientToken="u")


@line("CreateNetworkInterface", "an unknown security group is invented")
def _(it: Asker) -> None:
    assert it.code("CreateNetworkInterface", SubnetId=it.subnet, Groups=[ec2_rows.NO["sg"]]) == "InvalidGroup.NotFound"
    assert ec2_rows.NO["sg"] not in it.truth.groups


@line("CreateNetworkInterface", "an address in use or outside the subnet is accepted")
def _(it: Asker) -> None:
    for address, expected in ((it.a.node.private_ip, "InvalidIPAddress.InUse"), ("8.8.8.8", "InvalidParameterValue")):
        assert it.code("CreateNetworkInterface", SubnetId=it.subnet, PrivateIpAddress=address) == expected


@line("CreateNetworkInterface", "picks .0 to .3 and the broadcast address, and one address for two ENIs")
def _(it: Asker) -> None:
    small = it.a.small.subnet_id
    found = [it.eni(it.new(SubnetId=small))["PrivateIpAddress"] for _ in range(59)]
    assert sorted(found, key=lambda one: int(one.rpartition(".")[2])) == [f"10.1.0.{n}" for n in range(4, 63)]
    assert it.code("CreateNetworkInterface", SubnetId=small) == "InsufficientFreeAddressesInSubnet"


@line("AttachNetworkInterface", "NetworkCardIndex is ignored")
def _(it: Asker) -> None:
    node = it.truth.run_instance("sandbox.cards", it.subnet).instance_id
    eni = it.new()
    assert it.attach(eni, 0, InstanceId=node, NetworkCardIndex=1)["NetworkCardIndex"] == 1
    assert it.eni(eni)["Attachment"]["NetworkCardIndex"] == 1


@line("AttachNetworkInterface", "always `attached` at once")
def _(it: Asker) -> None:
    it.truth.delays.attach = 3
    eni = it.new()
    it.attach(eni, 1)
    assert it.eni(eni)["Attachment"]["Status"] == "attaching"
    it.a.clock.time += 3
    assert it.eni(eni)["Attachment"]["Status"] == "attached"


@line("AttachNetworkInterface", "an attached ENI can be attached again")
def _(it: Asker) -> None:
    eni = it.new()
    it.attach(eni, 1)
    assert code(it.attach(eni, 2)) == "InvalidNetworkInterface.InUse"


@line("AttachNetworkInterface", "one device index twice")
def _(it: Asker) -> None:
    it.attach(it.new(), 1)
    assert code(it.attach(it.new(), 1)) == "InvalidParameterValue"


@line("AttachNetworkInterface", "an ENI of another zone")
def _(it: Asker) -> None:
    assert code(it.attach(it.new(SubnetId=it.a.other_zone.subnet_id), 1)) == "InvalidParameterCombination"


@line("AttachNetworkInterface", "ten ENIs on an m5.large, whose limit is three")
def _(it: Asker) -> None:
    node = it.truth.run_instance("m5.large", it.subnet).instance_id
    outcomes = [code(it.attach(it.new(), device, InstanceId=node)) for device in range(1, 4)]
    assert outcomes == ["ok", "ok", "AttachmentLimitExceeded"]


@line("DetachNetworkInterface", "the primary ENI can be detached")
def _(it: Asker) -> None:
    attachment = it.eni(it.a.eni)["Attachment"]["AttachmentId"]
    assert it.code("DetachNetworkInterface", AttachmentId=attachment) == "OperationNotPermitted"


@line("DetachNetworkInterface", "no `detaching`")
def _(it: Asker) -> None:
    it.truth.delays.detach = 3
    eni = it.new()
    it("DetachNetworkInterface", AttachmentId=it.attach(eni, 1)["AttachmentId"])
    assert it.eni(eni)["Attachment"]["Status"] == "detaching"
    assert it.code("DeleteNetworkInterface", NetworkInterfaceId=eni) == "InvalidParameterValue"
    it.a.clock.time += 3
    assert it.code("DeleteNetworkInterface", NetworkInterfaceId=eni) == "ok"


@line("DeleteNetworkInterface", "an attached ENI is deleted")
def _(it: Asker) -> None:
    assert it.code("DeleteNetworkInterface", NetworkInterfaceId=it.a.eni) == "InvalidParameterValue"


@line("ModifyNetworkInterfaceAttribute", "Attachment.DeleteOnTermination is ignored")
def _(it: Asker) -> None:
    eni = it.new()
    change = {"AttachmentId": it.attach(eni, 1)["AttachmentId"], "DeleteOnTermination": True}
    it("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=eni, Attachment=change)
    assert it.eni(eni)["Attachment"]["DeleteOnTermination"] is True


@line("ModifyNetworkInterfaceAttribute", "Groups are joined with the instance's, not replaced")
def _(it: Asker) -> None:
    it("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=it.a.eni, Groups=it.a.groups[4:5])
    assert [one["GroupId"] for one in it.eni(it.a.eni)["Groups"]] == it.a.groups[4:5]


@line("ModifyNetworkInterfaceAttribute", "ConnectionTrackingSpecification is ignored")
def _(it: Asker) -> None:
    wanted = {"TcpEstablishedTimeout": 350}
    it("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=it.a.eni, ConnectionTrackingSpecification=wanted)
    assert it.eni(it.a.eni)["ConnectionTrackingConfiguration"] == wanted


@line("AssignPrivateIpAddresses", "members for prefixes are ignored")
def _(it: Asker) -> None:
    given = it("AssignPrivateIpAddresses", NetworkInterfaceId=it.a.eni, Ipv4Prefixes=["10.0.3.0/28"])
    assert given["AssignedIpv4Prefixes"] == [{"Ipv4Prefix": "10.0.3.0/28"}]
    assert it("AssignPrivateIpAddresses", NetworkInterfaceId=it.a.eni, Ipv4PrefixCount=2)["AssignedIpv4Prefixes"]
    assert len(it.eni(it.a.eni)["Ipv4Prefixes"]) == 3


@line("AssignPrivateIpAddresses", "the answer lists all addresses, not the new ones")
def _(it: Asker) -> None:
    for count in (2, 1):
        asked = {"NetworkInterfaceId": it.a.eni, "SecondaryPrivateIpAddressCount": count}
        assert len(it("AssignPrivateIpAddresses", **asked)["AssignedPrivateIpAddresses"]) == count


@line("AssignPrivateIpAddresses", "AllowReassignment is ignored")
def _(it: Asker) -> None:
    other = it.new(SecondaryPrivateIpAddressCount=1)
    asked = {"NetworkInterfaceId": it.a.eni, "PrivateIpAddresses": [it.truth.eni(other).addresses[1]]}
    assert it.code("AssignPrivateIpAddresses", **asked) == "InvalidIPAddress.InUse"
    assert it.code("AssignPrivateIpAddresses", **asked, AllowReassignment=True) == "ok"
    assert len(it.truth.eni(other).addresses) == 1


@line("AssignPrivateIpAddresses", "an explicit address in use or outside the subnet is given; no limits")
def _(it: Asker) -> None:
    eni, held = it.a.eni, it.truth.eni(it.new()).primary_ip
    asked = {"NetworkInterfaceId": eni}
    assert it.code("AssignPrivateIpAddresses", **asked, PrivateIpAddresses=[held]) == "InvalidIPAddress.InUse"
    assert it.code("AssignPrivateIpAddresses", **asked, PrivateIpAddresses=["8.8.8.8"]) == "InvalidParameterValue"
    many = it.code("AssignPrivateIpAddresses", **asked, SecondaryPrivateIpAddressCount=15)
    assert many == "PrivateIpAddressLimitExceeded"


@line("UnassignPrivateIpAddresses", "Ipv4Prefixes: silently nothing")
def _(it: Asker) -> None:
    eni = it.new(Ipv4PrefixCount=1)
    prefixes = list(it.truth.eni(eni).prefixes)
    assert it.code("UnassignPrivateIpAddresses", NetworkInterfaceId=eni, Ipv4Prefixes=prefixes) == "ok"
    assert it.truth.eni(eni).prefixes == ()


@line("UnassignPrivateIpAddresses", "removes the primary address; an unknown one is fine")
def _(it: Asker) -> None:
    for address in (it.a.node.private_ip, "10.0.7.7"):
        asked = {"NetworkInterfaceId": it.a.eni, "PrivateIpAddresses": [address]}
        assert it.code("UnassignPrivateIpAddresses", **asked) == "InvalidParameterValue"


@line("AssignIpv6Addresses", "prefixes: silently nothing; no limits")
def _(it: Asker) -> None:
    given = it("AssignIpv6Addresses", NetworkInterfaceId=it.a.eni, Ipv6PrefixCount=1)["AssignedIpv6Prefixes"]
    assert list(it.truth.eni(it.a.eni).ipv6_prefixes) == given
    many = it.code("AssignIpv6Addresses", NetworkInterfaceId=it.a.eni, Ipv6AddressCount=15)
    assert many == "PrivateIpAddressLimitExceeded"


@line("UnassignIpv6Addresses", "prefixes: silently nothing")
def _(it: Asker) -> None:
    given = it("AssignIpv6Addresses", NetworkInterfaceId=it.a.eni, Ipv6PrefixCount=1)["AssignedIpv6Prefixes"]
    gone = it("UnassignIpv6Addresses", NetworkInterfaceId=it.a.eni, Ipv6Prefixes=given)
    assert gone["UnassignedIpv6Prefixes"] == given
    assert it.truth.eni(it.a.eni).ipv6_prefixes == ()


@line("DescribeNetworkInterfaces", "no pages at all")
def _(it: Asker) -> None:
    for _ in range(6):
        it.new()
    first = it("DescribeNetworkInterfaces", MaxResults=5)
    rest = it("DescribeNetworkInterfaces", MaxResults=5, NextToken=first["NextToken"])
    assert (len(first["NetworkInterfaces"]), len(rest["NetworkInterfaces"])) == (5, 2)


@line("DescribeNetworkInterfaces", "filters on attachment.device-index, attachment.status, operator.managed raise")
def _(it: Asker) -> None:
    for name, value in (
        ("attachment.device-index", "0"),
        ("attachment.status", "attached"),
        ("operator.managed", "false"),
    ):
        found = it("DescribeNetworkInterfaces", Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert [one["NetworkInterfaceId"] for one in found] == [it.a.eni]


@line("DescribeNetworkInterfaces", "addresses.private-ip-address looks at the primary address only")
def _(it: Asker) -> None:
    eni = it.new(SecondaryPrivateIpAddressCount=1)
    values = [it.truth.eni(eni).addresses[1]]
    found = it("DescribeNetworkInterfaces", Filters=[{"Name": "addresses.private-ip-address", "Values": values}])
    assert [one["NetworkInterfaceId"] for one in found["NetworkInterfaces"]] == [eni]


@line("DescribeSubnets", "AvailableIpAddressCount does not count prefixes and goes below zero")
def _(it: Asker) -> None:
    before = it.free()
    it.new(Ipv4PrefixCount=2)
    assert it.free() == before - 33


@line("CreateTags", "an unknown ENI can be tagged")
def _(it: Asker) -> None:
    asked = {"Resources": [ec2_rows.NO["eni"]], "Tags": [{"Key": "k", "Value": "v"}]}
    assert it.code("CreateTags", **asked) == "InvalidNetworkInterfaceID.NotFound"


@line("AssociateTrunkInterface", "trunks and permissions do not exist")
def _(it: Asker) -> None:
    trunk, branch = it.new(InterfaceType="trunk"), it.new()
    asked = {"TrunkInterfaceId": trunk, "BranchInterfaceId": branch, "VlanId": 1}
    made = it("AssociateTrunkInterface", **asked)["InterfaceAssociation"]
    assert it("DescribeTrunkInterfaceAssociations")["InterfaceAssociations"] == [made]
    permission = {"NetworkInterfaceId": branch, "Permission": "INSTANCE-ATTACH", "AwsAccountId": it.truth.account}
    assert it.code("CreateNetworkInterfacePermission", **permission) == "ok"
    assert it.code("DisassociateTrunkInterface", AssociationId=made["AssociationId"]) == "ok"


@line("GetInstanceMetadataDefaults", "does not exist")
def _(it: Asker) -> None:
    assert it("ModifyInstanceMetadataDefaults", HttpTokens="required")["Return"] is True
    assert it("GetInstanceMetadataDefaults")["AccountLevel"]["HttpTokens"] == "required"


@line("ModifyInstanceMetadataOptions", "is stored, but the metadata service does not look at it")
def _(it: Asker) -> None:
    imds = Imds(it.truth)
    request = Request("GET", "/latest/meta-data/instance-id", {}, b"", it.a.node.private_ip)
    assert imds(request).status == 401
    it("ModifyInstanceMetadataOptions", InstanceId=it.a.node.instance_id, HttpTokens="optional")
    assert imds(request).body.decode() == it.a.node.instance_id
    it("ModifyInstanceMetadataOptions", InstanceId=it.a.node.instance_id, HttpEndpoint="disabled")
    assert imds(request).status == 403


@line("TerminateInstances", "ENIs without DeleteOnTermination stay `in-use` on the dead instance")
def _(it: Asker) -> None:
    eni = it.new()
    it.attach(eni, 1)
    it("TerminateInstances", InstanceIds=[it.a.node.instance_id])
    assert it.eni(eni)["Status"] == "available"
    assert it.a.eni not in it.truth.enis


@line("-", "no throttling")
def _(it: Asker) -> None:
    it.a.api.buckets.on = True
    outcomes = [it.code("DeleteNetworkInterface", NetworkInterfaceId=ec2_rows.NO["eni"]) for _ in range(51)]
    assert outcomes[49:] == ["InvalidNetworkInterfaceID.NotFound", "RequestLimitExceeded"]


@line("-", "no eventual consistency")
def _(it: Asker) -> None:
    it.truth.api.lag = 2
    eni = it.new()
    unknown = it.code("DescribeNetworkInterfaces", NetworkInterfaceIds=[eni])
    it.a.clock.time += 2
    assert (unknown, it.eni(eni)["Status"]) == ("InvalidNetworkInterfaceID.NotFound", "available")


@line("-", "an unknown action or filter is HTTP 500 with a page of HTML")
def _(it: Asker) -> None:
    assert it.code("DescribeVolumes") == "NotSimulated"
    assert it.code("DescribeVpcs", Filters=[{"Name": "no-such", "Values": ["x"]}]) == "NotSimulated"


@pytest.mark.parametrize(("action", "failing", "right"), LINES, ids=[f"{one[0]}-{one[1]}" for one in LINES])
def test_right_here(action: str, failing: str, right: Callable[[Asker], None]) -> None:
    it = Asker()
    right(it)
    check(it.truth)
