"""Rows on the form of requests: ids, names, numbers, filters, pages, dry runs, tokens, and what is not simulated."""

from __future__ import annotations

from typing import Any

from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox.ec2_rows import FORM, GONE, NO, rows

DOCS = "API reference, Error codes"

# --- ids that cannot be ids ------------------------------------------------------------------------------------

MALFORMED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "InvalidNetworkInterfaceId.Malformed": [
        ("DescribeNetworkInterfaces", {"NetworkInterfaceIds": ["to-set"]}),
        ("DescribeNetworkInterfaces", {"NetworkInterfaceIds": ["{eni}", "eni-1"]}),
        ("DescribeNetworkInterfaces", {"NetworkInterfaceIds": ["eni-0123456789ABCDEF0"]}),
        ("AttachNetworkInterface", {"NetworkInterfaceId": "eni", "InstanceId": "{node}", "DeviceIndex": 1}),
        ("DeleteNetworkInterface", {"NetworkInterfaceId": "{node}"}),
        ("AssignPrivateIpAddresses", {"NetworkInterfaceId": "eni-xyz", "SecondaryPrivateIpAddressCount": 1}),
        ("UnassignPrivateIpAddresses", {"NetworkInterfaceId": "eni-0", "PrivateIpAddresses": ["10.0.0.9"]}),
        ("AssignIpv6Addresses", {"NetworkInterfaceId": "eni-0", "Ipv6AddressCount": 1}),
        ("UnassignIpv6Addresses", {"NetworkInterfaceId": "eni-0", "Ipv6Addresses": ["fd00::1"]}),
        ("ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": "eni-0", "Groups": ["{group}"]}),
        (
            "CreateNetworkInterfacePermission",
            {"NetworkInterfaceId": "x", "Permission": "INSTANCE-ATTACH", "AwsAccountId": "123456789012"},
        ),
        ("AssociateTrunkInterface", {"TrunkInterfaceId": "x", "BranchInterfaceId": "{eni}", "VlanId": 1}),
        ("AssociateTrunkInterface", {"TrunkInterfaceId": "{trunk}", "BranchInterfaceId": "x", "VlanId": 1}),
    ],
    "InvalidInstanceID.Malformed": [
        ("DescribeInstances", {"InstanceIds": ["node-1"]}),
        ("TerminateInstances", {"InstanceIds": ["{node}", "i-xyz"]}),
        ("StopInstances", {"InstanceIds": ["i-1"]}),
        ("StartInstances", {"InstanceIds": ["i-"]}),
        ("RebootInstances", {"InstanceIds": ["{eni}"]}),
        ("ModifyInstanceMetadataOptions", {"InstanceId": "i-1", "HttpTokens": "required"}),
        ("AttachNetworkInterface", {"NetworkInterfaceId": "{eni}", "InstanceId": "i-1", "DeviceIndex": 1}),
    ],
    "InvalidSubnetID.Malformed": [
        ("DescribeSubnets", {"SubnetIds": ["subnet-1"]}),
        ("CreateNetworkInterface", {"SubnetId": "subnet"}),
        ("DeleteSubnet", {"SubnetId": "{vpc}"}),
        ("CreateSubnetCidrReservation", {"SubnetId": "x", "Cidr": "10.0.1.0/28", "ReservationType": "prefix"}),
        ("GetSubnetCidrReservations", {"SubnetId": "x"}),
        (
            "RunInstances",
            {"ImageId": DEFAULT_IMAGE, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, "SubnetId": "x"},
        ),
    ],
    "InvalidVpcID.Malformed": [
        ("DescribeVpcs", {"VpcIds": ["vpc-1"]}),
        ("DeleteVpc", {"VpcId": "vpc"}),
        ("CreateSubnet", {"VpcId": "x", "CidrBlock": "10.0.99.0/24"}),
        ("AssociateVpcCidrBlock", {"VpcId": "x", "CidrBlock": "10.5.0.0/16"}),
        ("CreateSecurityGroup", {"GroupName": "n", "Description": "d", "VpcId": "x"}),
    ],
    "InvalidGroupId.Malformed": [
        ("DescribeSecurityGroups", {"GroupIds": ["sg-1"]}),
        ("DeleteSecurityGroup", {"GroupId": "default"}),
        ("CreateNetworkInterface", {"SubnetId": "{subnet}", "Groups": ["default"]}),
        ("ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": "{eni}", "Groups": ["{group}", "x"]}),
        ("AuthorizeSecurityGroupIngress", {"GroupId": "x", "IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}),
        ("RevokeSecurityGroupIngress", {"GroupId": "x", "IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}),
    ],
    "InvalidNetworkInterfaceAttachmentId.Malformed": [
        ("DetachNetworkInterface", {"AttachmentId": "{held}"}),
        ("DetachNetworkInterface", {"AttachmentId": "eni-attach-1"}),
        (
            "ModifyNetworkInterfaceAttribute",
            {"NetworkInterfaceId": "{held}", "Attachment": {"AttachmentId": "x", "DeleteOnTermination": True}},
        ),
    ],
    "InvalidAMIID.Malformed": [
        (
            "RunInstances",
            {"ImageId": "debian", "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, "SubnetId": "{subnet}"},
        ),
    ],
}
for _code, _calls in MALFORMED.items():
    for _action, _request in _calls:
        rows(_action, _code, DOCS, _request)

# --- what is not there --------------------------------------------------------------------------------------------

RUN = {"ImageId": DEFAULT_IMAGE, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, "SubnetId": "{subnet}"}
rows("RunInstances", "InvalidAMIID.NotFound", DOCS, {**RUN, "ImageId": f"ami-{GONE}"})
rows("RunInstances", "InvalidKeyPair.NotFound", DOCS, {**RUN, "KeyName": "nobody"})
rows("RunInstances", "InvalidInstanceType", DOCS, {**RUN, "InstanceType": "m5.nope"})
rows("RunInstances", "InvalidSubnetID.NotFound", DOCS, {**RUN, "SubnetId": NO["subnet"]})
rows("RunInstances", "InvalidGroup.NotFound", DOCS, {**RUN, "SecurityGroupIds": [NO["sg"]]})
rows("DescribeInstanceTypes", "InvalidInstanceType", DOCS, {"InstanceTypes": ["m5.nope"]})
for _action, _member in (
    ("DescribeNetworkInterfaces", "NetworkInterfaceIds"),
    ("DescribeInstances", "InstanceIds"),
    ("DescribeSubnets", "SubnetIds"),
    ("DescribeVpcs", "VpcIds"),
    ("DescribeSecurityGroups", "GroupIds"),
):
    _prefix = {"NetworkInterfaceIds": "eni", "InstanceIds": "i", "SubnetIds": "subnet", "VpcIds": "vpc"}.get(
        _member, "sg"
    )
    _code = {
        "eni": "InvalidNetworkInterfaceID.NotFound",
        "i": "InvalidInstanceID.NotFound",
        "subnet": "InvalidSubnetID.NotFound",
        "vpc": "InvalidVpcID.NotFound",
        "sg": "InvalidGroup.NotFound",
    }[_prefix]
    rows(_action, _code, DOCS, {_member: [NO[_prefix]]})
for _action in ("TerminateInstances", "StopInstances", "StartInstances", "RebootInstances"):
    rows(
        _action,
        "InvalidInstanceID.NotFound",
        f"{DOCS}; one unknown id refuses all",
        {"InstanceIds": [NO["i"]]},
        {"InstanceIds": ["{node}", NO["i"]]},
    )
rows("ModifyInstanceMetadataOptions", "InvalidInstanceID.NotFound", DOCS, {"InstanceId": NO["i"]})
rows(
    "ModifyInstanceMetadataOptions",
    "InvalidParameterValue",
    "API reference: 1 to 64",
    {"InstanceId": "{node}", "HttpPutResponseHopLimit": 0},
    {"InstanceId": "{node}", "HttpPutResponseHopLimit": 65},
    {"InstanceId": "{node}", "HttpTokens": "maybe"},
)
rows(
    "ModifyInstanceMetadataDefaults", "InvalidParameterValue", "API reference: 1 to 64", {"HttpPutResponseHopLimit": 99}
)
rows("ModifyInstanceMetadataDefaults", "MissingParameter", DOCS, {})
rows("ModifyInstanceMetadataOptions", "IncorrectState", DOCS, {"InstanceId": "{dead}", "HttpTokens": "optional"})
rows("StartInstances", "IncorrectInstanceState", DOCS, {"InstanceIds": ["{dead}"]})
rows("StopInstances", "IncorrectInstanceState", DOCS, {"InstanceIds": ["{dead}"]})
rows("RebootInstances", "IncorrectInstanceState", DOCS, {"InstanceIds": ["{dead}"]}, {"InstanceIds": ["{stopped}"]})

# --- requests ---------------------------------------------------------------------------------------------------

rows("-", "InvalidAction", DOCS, {FORM: {"Action": "MakeCoffee"}}, {FORM: {"Action": "describeVpcs"}})
rows("-", "MissingAction", DOCS, {FORM: {}})
rows("-", "NotSimulated", "ours", {FORM: {"Action": "DescribeVolumes"}}, {FORM: {"Action": "CreateRoute"}})
rows(
    "DescribeVpcs",
    "UnknownParameter",
    DOCS,
    {FORM: {"Action": "DescribeVpcs", "Nonsense": "1"}},
    {FORM: {"Action": "DescribeVpcs", "VpcId": "{vpc}"}},
    {FORM: {"Action": "DescribeVpcs", "VpcId.0": "{vpc}"}},
    {FORM: {"Action": "DescribeVpcs", "VpcId.x": "{vpc}"}},
    {FORM: {"Action": "DescribeVpcs", "vpcId.1": "{vpc}"}},
)
rows(
    "DescribeVpcs",
    "InvalidParameterValue",
    DOCS,
    {FORM: {"Action": "DescribeVpcs", "MaxResults": "many"}},
    {FORM: {"Action": "DescribeVpcs", "DryRun": "maybe"}},
)
rows("DescribeVpcs", "NotSimulated", "ours", {FORM: {"Action": "DescribeVpcs", "Version": "2014-10-01"}})
_EMPTY = "ours: an empty member that is not modelled is refused, too"
rows(
    "RunInstances",
    "NotSimulated",
    _EMPTY,
    {FORM: {"Action": "RunInstances", "MinCount": "1", "MaxCount": "1", "BlockDeviceMapping": ""}},
    {FORM: {"Action": "RunInstances", "MinCount": "1", "MaxCount": "1", "IamInstanceProfile": ""}},
    {**RUN, "EbsOptimized": False},
    {**RUN, "MaxCount": 2},
    {**RUN, "IamInstanceProfile": {"Name": "r"}},
    {"ImageId": DEFAULT_IMAGE, "MinCount": 1, "MaxCount": 1, "SubnetId": "{subnet}"},
    {"ImageId": DEFAULT_IMAGE, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1},
)
rows("RunInstances", "NotSimulated", "ours: the tags of what is not made", *(
    {**RUN, "TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": "k", "Value": "v"}]}]}
    for kind in ("volume", "spot-instances-request", "elastic-gpu")))  # fmt: skip
_FORM = {
    "Action": "RunInstances",
    "MinCount": "1",
    "MaxCount": "1",
    "InstanceType": "m5.large",
    "ImageId": DEFAULT_IMAGE,
}
_NETWORK = {"NetworkInterface.1.DeviceIndex": "0", "NetworkInterface.1.SubnetId": "{subnet}"}
rows(
    "RunInstances",
    "InvalidParameterValue",
    "aws-cli#19: user data that is not base64; dask/dask-cloudprovider#249: or longer than 16,384 bytes",
    {FORM: {**_FORM, "SubnetId": "{subnet}", "UserData": "#!/bin/sh"}},
    {**RUN, "UserData": "x" * 16_385},
)
_HOLLOW = "API reference: the one member of the structure is required"
rows(
    "RunInstances",
    "MissingParameter",
    _HOLLOW,
    {FORM: {**_FORM, "SubnetId": "{subnet}", "Ipv6Address.1": ""}},
    {FORM: {**_FORM, **_NETWORK, "NetworkInterface.1.Ipv4Prefix.1": ""}},
    {FORM: {**_FORM, **_NETWORK, "NetworkInterface.1.Ipv6Addresses.1": ""}},
    {FORM: {**_FORM, **_NETWORK, "NetworkInterface.1.Ipv6Prefix.1": ""}},
)
rows("CreateNetworkInterface", "MissingParameter", _HOLLOW, *(
    {FORM: {"Action": "CreateNetworkInterface", "SubnetId": "{subnet}", member: ""}}
    for member in ("Ipv4Prefix.1", "Ipv6Addresses.1", "Ipv6Prefix.1")))  # fmt: skip
rows(
    "CreateNetworkInterface",
    "NotSimulated",
    _EMPTY,
    {FORM: {"Action": "CreateNetworkInterface", "SubnetId": "{subnet}", "Operator": ""}},
    {"SubnetId": "{subnet}", "EnablePrimaryIpv6": True},
)
rows(
    "ModifyNetworkInterfaceAttribute",
    "NotSimulated",
    _EMPTY,
    {FORM: {"Action": "ModifyNetworkInterfaceAttribute", "NetworkInterfaceId": "{eni}", "EnaSrdSpecification": ""}},
    {"NetworkInterfaceId": "{eni}", "AssociatePublicIpAddress": True},
)
rows("AuthorizeSecurityGroupIngress", "NotSimulated", "ours", {"GroupId": "{group}", "IpPermissions": [
    {"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": "pl-1"}]}]})  # fmt: skip
rows(
    "CreateVpc",
    "NotSimulated",
    "ours",
    {"CidrBlock": "10.77.0.0/16", "Ipv6Pool": "p"},
    {"InstanceTenancy": "host", "CidrBlock": "10.77.0.0/16"},
)
rows("CreateSubnet", "NotSimulated", "ours", {"VpcId": "{vpc}", "CidrBlock": "10.0.99.0/24", "Ipv6Native": True})
rows("CreateSecurityGroup", "MissingParameter", DOCS, {"GroupName": "n", "Description": "", "VpcId": "{vpc}"})
rows("CreateSecurityGroup", "NotSimulated", "ours", {"GroupName": "n", "Description": "d"})
rows(
    "AssociateTrunkInterface",
    "NotSimulated",
    "ours",
    {"TrunkInterfaceId": "{trunk}", "BranchInterfaceId": "{eni}", "GreKey": 1},
)

# --- filters and pages ----------------------------------------------------------------------------------------------

DESCRIBES = (
    "DescribeNetworkInterfaces",
    "DescribeInstances",
    "DescribeSubnets",
    "DescribeVpcs",
    "DescribeSecurityGroups",
    "DescribeSecurityGroupRules",
    "DescribeTags",
    "DescribeInstanceTypes",
    "DescribeTrunkInterfaceAssociations",
    "DescribeNetworkInterfacePermissions",
)
for _action in DESCRIBES:
    _filter = {"Name": "no-such", "Values": ["x"]}
    rows(_action, "NotSimulated", "ours: a filter that is not modelled", {"Filters": [_filter]})
    rows(_action, "MissingParameter", DOCS, {"Filters": [{"Name": "vpc-id"}]}, {"Filters": [{"Values": ["x"]}]})
    rows(_action, "InvalidParameterValue", "API reference: MaxResults from 5", {"MaxResults": 4}, {"MaxResults": 5000})
    rows(_action, "InvalidPaginationToken", DOCS, {"NextToken": "nonsense"})
rows(
    "DescribeNetworkInterfaces",
    "FilterLimitExceeded",
    DOCS,
    {"Filters": [{"Name": "vpc-id", "Values": [f"vpc-{number}" for number in range(201)]}]},
)
for _action, _member, _value in (
    ("DescribeNetworkInterfaces", "NetworkInterfaceIds", "{eni}"),
    ("DescribeInstances", "InstanceIds", "{node}"),
    ("DescribeSubnets", "SubnetIds", "{subnet}"),
    ("DescribeVpcs", "VpcIds", "{vpc}"),
    ("DescribeSecurityGroups", "GroupIds", "{group}"),
    ("DescribeInstanceTypes", "InstanceTypes", "m5.large"),
):
    rows(_action, "InvalidParameterCombination", "API reference: MaxResults and ids exclude each other",
         {_member: [_value], "MaxResults": 10})  # fmt: skip

# --- dry runs and tokens --------------------------------------------------------------------------------------------

for _action, _request in (
    ("CreateNetworkInterface", {"SubnetId": "{subnet}"}),
    ("DeleteNetworkInterface", {"NetworkInterfaceId": "{eni}"}),
    ("AttachNetworkInterface", {"NetworkInterfaceId": "{eni}", "InstanceId": "{node}", "DeviceIndex": 3}),
    ("DetachNetworkInterface", {"AttachmentId": "{attachment}"}),
    ("ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": "{eni}", "Groups": ["{group}"]}),
    ("RunInstances", RUN),
    ("TerminateInstances", {"InstanceIds": ["{node}"]}),
    ("StopInstances", {"InstanceIds": ["{node}"]}),
    ("StartInstances", {"InstanceIds": ["{node}"]}),
    ("RebootInstances", {"InstanceIds": ["{node}"]}),
    ("CreateTags", {"Resources": ["{eni}"], "Tags": [{"Key": "k", "Value": "v"}]}),
    ("DeleteTags", {"Resources": ["{eni}"]}),
    ("CreateVpc", {"CidrBlock": "10.70.0.0/16"}),
    ("DeleteVpc", {"VpcId": "{vpc}"}),
    ("CreateSubnet", {"VpcId": "{vpc}", "CidrBlock": "10.0.99.0/24"}),
    ("DeleteSubnet", {"SubnetId": "{subnet}"}),
    ("CreateSecurityGroup", {"GroupName": "n", "Description": "d", "VpcId": "{vpc}"}),
    ("DeleteSecurityGroup", {"GroupId": "{unused}"}),
    ("AuthorizeSecurityGroupIngress", {"GroupId": "{group}", "IpProtocol": "-1", "CidrIp": "9.9.9.9/32"}),
    ("CreateSubnetCidrReservation", {"SubnetId": "{subnet}", "Cidr": "10.0.5.0/28", "ReservationType": "prefix"}),
    ("AssociateTrunkInterface", {"TrunkInterfaceId": "{trunk}", "BranchInterfaceId": "{eni}", "VlanId": 77}),
    ("DescribeVpcs", {}),
    ("DescribeInstances", {}),
    ("GetInstanceMetadataDefaults", {}),
):
    rows(_action, "DryRunOperation", DOCS, {**_request, "DryRun": True})

for _action, _request in (
    ("CreateNetworkInterface", {"SubnetId": "{subnet}"}),
    ("RunInstances", RUN),
    ("AssociateTrunkInterface", {"TrunkInterfaceId": "{trunk}", "BranchInterfaceId": "{eni}", "VlanId": 78}),
):
    rows(_action, "InvalidClientToken", "API reference, ensuring idempotency: 64 characters",
         {**_request, "ClientToken": "x" * 65}, {**_request, "ClientToken": "é"})  # fmt: skip
rows(
    "CreateNetworkInterface",
    "IdempotentParameterMismatch",
    DOCS,
    {"SubnetId": "{subnet}", "ClientToken": "used", "Description": "other"},
)
