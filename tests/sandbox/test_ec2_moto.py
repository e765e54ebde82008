"""The same calls on moto and here: what moto does right must come out alike, code for code and field for field.

Each step names the fields that are compared. Ids differ, so an answer's ids get names when they are first seen and
are compared by these. What moto does wrong stands in the strictness table (`moto` in a row's source) and in
`test_ec2_strict.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import jmespath
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from sandbox.ec2.api import Api
from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox import ec2_rows
from tests.sandbox.ec2_ask import ask, code
from tests.sandbox.ec2_kit import make_truth, model

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


class Side:
    """One of the two: asks, and gives ids names."""

    def __init__(self, ask_it: Ask) -> None:
        self._ask = ask_it
        self.names: dict[str, str] = {}

    def step(self, action: str, request: dict[str, Any], learn: dict[str, str], fields: tuple[str, ...]) -> Any:
        filled = json.loads(self._filled(json.dumps(request)))
        answer = self._ask(action, filled)
        outcome = code(answer)
        for name, path in learn.items():
            found = jmespath.search(path, answer)
            assert isinstance(found, str), f"{action}: {path} is {found!r} in {answer}"
            self.names[name] = found
        return outcome, [self._named(jmespath.search(field, answer)) for field in fields]

    def _filled(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace(f"<{name}>", value)
        return text

    def _named(self, value: Any) -> Any:
        text = json.dumps(value, default=str)
        for name, one in self.names.items():
            text = text.replace(one, f"<{name}>")
        return json.loads(text)


def _moto_ask(client: Any) -> Ask:
    def call(action: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = client._make_api_call(action, request)
        except ClientError as error:
            return dict(error.response)
        return answer

    return call


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Side, Side]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    truth, _ = make_truth()
    api = Api(truth, model=model(), sleep=lambda _seconds: None)
    with mock_aws():
        client = boto3.client("ec2", region_name="us-west-2")
        image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        moto, ours = Side(_moto_ask(client)), Side(lambda action, request: ask(api, action, request))
        moto.names["image"], ours.names["image"] = image, DEFAULT_IMAGE
        yield moto, ours
        client.close()


ENI = "NetworkInterfaces[0]"
TYPES = "sort_by(InstanceTypes, &InstanceType)"
ONE_ENI = {"NetworkInterfaceIds": ["<eni>"]}
TAGGED = [{"ResourceType": "network-interface", "Tags": [{"Key": "team", "Value": "net"}]}]
WEB = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}
Step = tuple[str, dict[str, Any], dict[str, str], tuple[str, ...]]

STEPS: tuple[Step, ...] = (
    # VPCs and subnets
    (
        "CreateVpc",
        {"CidrBlock": "10.0.0.0/16"},
        {"vpc": "Vpc.VpcId"},
        ("Vpc.CidrBlock", "Vpc.InstanceTenancy", "Vpc.IsDefault"),
    ),
    (
        "DescribeVpcs",
        {"VpcIds": ["<vpc>"]},
        {},
        ("Vpcs[].[VpcId, CidrBlock, State]", "length(Vpcs[0].CidrBlockAssociationSet)"),
    ),
    (
        "AssociateVpcCidrBlock",
        {"VpcId": "<vpc>", "CidrBlock": "10.1.0.0/16"},
        {},
        ("VpcId", "CidrBlockAssociation.CidrBlock"),
    ),
    (
        "DescribeVpcs",
        {"VpcIds": ["<vpc>"]},
        {},
        ("Vpcs[0].CidrBlockAssociationSet[].[CidrBlock, CidrBlockState.State]",),
    ),
    (
        "CreateSubnet",
        {"VpcId": "<vpc>", "CidrBlock": "10.0.1.0/24", "AvailabilityZone": "us-west-2a"},
        {"subnet": "Subnet.SubnetId"},
        (
            "Subnet.CidrBlock",
            "Subnet.AvailableIpAddressCount",
            "Subnet.VpcId",
            "Subnet.AvailabilityZone",
            "Subnet.DefaultForAz",
        ),
    ),
    (
        "CreateSubnet",
        {"VpcId": "<vpc>", "CidrBlock": "10.1.1.0/28", "AvailabilityZone": "us-west-2b"},
        {"other": "Subnet.SubnetId"},
        ("Subnet.AvailableIpAddressCount",),
    ),
    ("CreateSubnet", {"VpcId": "<vpc>", "CidrBlock": "10.0.1.128/25"}, {}, ("Error.Message",)),
    ("CreateSubnet", {"VpcId": "<vpc>", "CidrBlock": "10.9.1.0/24"}, {}, ("Error.Message",)),
    ("CreateSubnet", {"VpcId": ec2_rows.NO["vpc"], "CidrBlock": "10.0.2.0/24"}, {}, ()),
    (
        "DescribeSubnets",
        {"SubnetIds": ["<subnet>"]},
        {},
        ("Subnets[].[SubnetId, VpcId, CidrBlock, State, AvailableIpAddressCount]",),
    ),
    (
        "DescribeSubnets",
        {"Filters": [{"Name": "vpc-id", "Values": ["<vpc>"]}, {"Name": "availability-zone", "Values": ["us-west-2b"]}]},
        {},
        ("Subnets[].SubnetId",),
    ),
    ("DescribeSubnets", {"Filters": [{"Name": "cidr-block", "Values": ["10.0.1.0/24"]}]}, {}, ("Subnets[].SubnetId",)),
    ("DescribeSubnets", {"SubnetIds": [ec2_rows.NO["subnet"]]}, {}, ("Error.Message",)),
    ("DescribeVpcs", {"VpcIds": [ec2_rows.NO["vpc"]]}, {}, ()),
    # security groups
    ("CreateSecurityGroup", {"GroupName": "web", "Description": "d", "VpcId": "<vpc>"}, {"group": "GroupId"}, ()),
    ("CreateSecurityGroup", {"GroupName": "web", "Description": "d", "VpcId": "<vpc>"}, {}, ()),
    ("CreateSecurityGroup", {"GroupName": "db", "Description": "d", "VpcId": "<vpc>"}, {"db": "GroupId"}, ()),
    (
        "DescribeSecurityGroups",
        {"GroupIds": ["<group>"]},
        {},
        ("SecurityGroups[].[GroupId, GroupName, Description, VpcId, IpPermissions]",),
    ),
    (
        "AuthorizeSecurityGroupIngress",
        {"GroupId": "<group>", "IpPermissions": [{**WEB, "IpRanges": [{"CidrIp": "9.0.0.0/8"}]}]},
        {},
        ("Return", "SecurityGroupRules[].[GroupId, IsEgress, IpProtocol, FromPort, ToPort, CidrIpv4]"),
    ),
    (
        "AuthorizeSecurityGroupIngress",
        {"GroupId": "<group>", "IpPermissions": [{**WEB, "IpRanges": [{"CidrIp": "9.0.0.0/8"}]}]},
        {},
        (),
    ),
    (
        "AuthorizeSecurityGroupIngress",
        {"GroupId": "<db>", "IpPermissions": [{**WEB, "UserIdGroupPairs": [{"GroupId": "<group>"}]}]},
        {},
        ("Return",),
    ),
    (
        "DescribeSecurityGroups",
        {"GroupIds": ["<db>"]},
        {},
        ("SecurityGroups[0].IpPermissions[].[IpProtocol, FromPort, ToPort, UserIdGroupPairs[].GroupId]",),
    ),
    (
        "RevokeSecurityGroupIngress",
        {"GroupId": "<group>", "IpPermissions": [{**WEB, "IpRanges": [{"CidrIp": "8.0.0.0/8"}]}]},
        {},
        (),
    ),
    (
        "RevokeSecurityGroupIngress",
        {"GroupId": "<group>", "IpPermissions": [{**WEB, "IpRanges": [{"CidrIp": "9.0.0.0/8"}]}]},
        {},
        ("Return",),
    ),
    ("DescribeSecurityGroups", {"GroupIds": ["<group>"]}, {}, ("SecurityGroups[0].IpPermissions",)),
    (
        "DescribeSecurityGroups",
        {"Filters": [{"Name": "group-name", "Values": ["d?", "w*"]}]},
        {},
        ("sort(SecurityGroups[].GroupName)",),
    ),
    ("DescribeSecurityGroups", {"GroupIds": [ec2_rows.NO["sg"]]}, {}, ()),
    # network interfaces
    (
        "CreateNetworkInterface",
        {
            "SubnetId": "<subnet>",
            "PrivateIpAddress": "10.0.1.9",
            "Groups": ["<group>"],
            "Description": "x",
            "TagSpecifications": TAGGED,
        },
        {"eni": "NetworkInterface.NetworkInterfaceId"},
        tuple(
            f"NetworkInterface.{name}"
            for name in (
                "PrivateIpAddress",
                "SubnetId",
                "VpcId",
                "Description",
                "Groups[].GroupId",
                "SourceDestCheck",
                "TagSet",
                "AvailabilityZone",
            )
        ),
    ),
    ("CreateNetworkInterface", {"SubnetId": ec2_rows.NO["subnet"]}, {}, ("Error.Message",)),
    (
        "DescribeNetworkInterfaces",
        ONE_ENI,
        {},
        (
            f"{ENI}.[Status, InterfaceType, PrivateIpAddress, Attachment]",
            f"{ENI}.PrivateIpAddresses[].[Primary, PrivateIpAddress]",
        ),
    ),
    (
        "DescribeNetworkInterfaces",
        {"Filters": [{"Name": "tag:team", "Values": ["net"]}]},
        {},
        ("NetworkInterfaces[].NetworkInterfaceId",),
    ),
    (
        "DescribeNetworkInterfaces",
        {"Filters": [{"Name": "private-ip-address", "Values": ["10.0.1.9"]}]},
        {},
        ("NetworkInterfaces[].NetworkInterfaceId",),
    ),
    (
        "DescribeNetworkInterfaces",
        {"Filters": [{"Name": "subnet-id", "Values": ["<subnet>"]}]},
        {},
        ("NetworkInterfaces[].NetworkInterfaceId",),
    ),
    (
        "DescribeNetworkInterfaces",
        {"Filters": [{"Name": "group-id", "Values": ["<group>"]}]},
        {},
        ("NetworkInterfaces[].NetworkInterfaceId",),
    ),
    ("DescribeNetworkInterfaces", {"NetworkInterfaceIds": [ec2_rows.NO["eni"]]}, {}, ()),
    (
        "AssignPrivateIpAddresses",
        {"NetworkInterfaceId": "<eni>", "PrivateIpAddresses": ["10.0.1.20"]},
        {},
        ("NetworkInterfaceId",),
    ),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"sort({ENI}.PrivateIpAddresses[].PrivateIpAddress)",)),
    ("AssignPrivateIpAddresses", {"NetworkInterfaceId": "<eni>", "SecondaryPrivateIpAddressCount": 3}, {}, ()),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"length({ENI}.PrivateIpAddresses)",)),
    ("UnassignPrivateIpAddresses", {"NetworkInterfaceId": "<eni>", "PrivateIpAddresses": ["10.0.1.20"]}, {}, ()),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"length({ENI}.PrivateIpAddresses)",)),
    (
        "AssignPrivateIpAddresses",
        {"NetworkInterfaceId": ec2_rows.NO["eni"], "SecondaryPrivateIpAddressCount": 1},
        {},
        (),
    ),
    ("ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": "<eni>", "SourceDestCheck": {"Value": False}}, {}, ()),
    ("ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": "<eni>", "Description": {"Value": "y"}}, {}, ()),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"{ENI}.[SourceDestCheck, Description]",)),
    ("CreateTags", {"Resources": ["<eni>"], "Tags": [{"Key": "k", "Value": "v"}]}, {}, ()),
    (
        "DescribeTags",
        {"Filters": [{"Name": "resource-id", "Values": ["<eni>"]}]},
        {},
        ("sort_by(Tags, &Key)[].[Key, Value, ResourceType]",),
    ),
    ("DeleteTags", {"Resources": ["<eni>"], "Tags": [{"Key": "k"}]}, {}, ()),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"{ENI}.TagSet",)),
    # instances and attachments
    (
        "RunInstances",
        {
            "ImageId": "<image>",
            "InstanceType": "m5.large",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": "<subnet>",
            "SecurityGroupIds": ["<group>"],
        },
        {"node": "Instances[0].InstanceId"},
        ("Instances[0].[InstanceType, SubnetId, VpcId]", "Instances[0].SecurityGroups[].GroupId"),
    ),
    (
        "DescribeInstances",
        {"InstanceIds": ["<node>"]},
        {},
        ("Reservations[].Instances[].[InstanceId, State.Name, State.Code]",),
    ),
    ("DescribeInstances", {"InstanceIds": [ec2_rows.NO["i"]]}, {}, ("Error.Message",)),
    (
        "AttachNetworkInterface",
        {"NetworkInterfaceId": "<eni>", "InstanceId": "<node>", "DeviceIndex": 1},
        {"attachment": "AttachmentId"},
        (),
    ),
    (
        "DescribeNetworkInterfaces",
        ONE_ENI,
        {},
        (f"{ENI}.[Status, Attachment.InstanceId, Attachment.DeviceIndex, Attachment.Status, Attachment.AttachmentId]",),
    ),
    (
        "DescribeNetworkInterfaces",
        {"Filters": [{"Name": "attachment.instance-id", "Values": ["<node>"]}]},
        {},
        ("length(NetworkInterfaces)",),
    ),
    (
        "DescribeInstances",
        {"Filters": [{"Name": "instance-state-name", "Values": ["running"]}]},
        {},
        ("length(Reservations[].Instances[].NetworkInterfaces[])",),
    ),
    (
        "AttachNetworkInterface",
        {"NetworkInterfaceId": ec2_rows.NO["eni"], "InstanceId": "<node>", "DeviceIndex": 2},
        {},
        (),
    ),
    ("DetachNetworkInterface", {"AttachmentId": "<attachment>"}, {}, ()),
    ("DescribeNetworkInterfaces", ONE_ENI, {}, (f"{ENI}.[Status, Attachment]",)),
    ("DetachNetworkInterface", {"AttachmentId": "eni-attach-00000000000000000"}, {}, ()),
    (
        "ModifyInstanceMetadataOptions",
        {"InstanceId": "<node>", "HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        {},
        ("InstanceMetadataOptions.[HttpTokens, HttpPutResponseHopLimit]",),
    ),
    (
        "StopInstances",
        {"InstanceIds": ["<node>"]},
        {},
        ("StoppingInstances[].[InstanceId, CurrentState.Name, PreviousState.Name]",),
    ),
    ("DescribeInstances", {"InstanceIds": ["<node>"]}, {}, ("Reservations[].Instances[].State.Name",)),
    (
        "StartInstances",
        {"InstanceIds": ["<node>"]},
        {},
        ("StartingInstances[].[InstanceId, CurrentState.Name, PreviousState.Name]",),
    ),
    ("RebootInstances", {"InstanceIds": ["<node>"]}, {}, ()),
    (
        "TerminateInstances",
        {"InstanceIds": ["<node>"]},
        {},
        ("TerminatingInstances[].[InstanceId, CurrentState.Name, PreviousState.Name]",),
    ),
    ("DescribeInstances", {"InstanceIds": ["<node>"]}, {}, ("Reservations[].Instances[].State.Name",)),
    (
        "DescribeInstanceTypes",
        {"InstanceTypes": ["m5.large", "p5.48xlarge", "t2.micro"]},
        {},
        (
            f"{TYPES}[].[InstanceType, NetworkInfo.MaximumNetworkInterfaces, NetworkInfo.Ipv4AddressesPerInterface]",
            f"{TYPES}[].[Hypervisor, BareMetal, NetworkInfo.MaximumNetworkCards, VCpuInfo.DefaultVCpus]",
            f"{TYPES}[].MemoryInfo.SizeInMiB",
        ),
    ),
    ("DescribeInstanceTypes", {"InstanceTypes": ["m5.nope"]}, {}, ()),
    # and away again
    ("DeleteNetworkInterface", {"NetworkInterfaceId": "<eni>"}, {}, ()),
    ("DeleteNetworkInterface", {"NetworkInterfaceId": "<eni>"}, {}, ()),
    ("DeleteSecurityGroup", {"GroupId": "<db>"}, {}, ()),
    ("DeleteSecurityGroup", {"GroupId": "<group>"}, {}, ()),
    ("DeleteSubnet", {"SubnetId": "<other>"}, {}, ()),
    ("DeleteSubnet", {"SubnetId": "<subnet>"}, {}, ()),
    ("DeleteVpc", {"VpcId": "<vpc>"}, {}, ()),
    ("DeleteVpc", {"VpcId": "<vpc>"}, {}, ()),
)


def test_what_moto_does_right_is_the_same_here(sides: tuple[Side, Side]) -> None:
    moto, ours = sides
    differences = []
    for number, (action, request, learn, fields) in enumerate(STEPS):
        theirs, mine = moto.step(action, request, learn, fields), ours.step(action, request, learn, fields)
        if theirs != mine:
            differences.append(f"step {number}, {action} {request}: moto {theirs}, here {mine}")
    assert not differences, "\n".join(differences)
    assert len(STEPS) > 70
