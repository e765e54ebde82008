"""Rows on VPCs, subnets, reservations, security groups, their rules, and tags."""

from __future__ import annotations

from tests.sandbox.ec2_rows import GONE, NO, rows

DOCS = "API reference, Error codes"
SIZING = "VPC guide, VPC and subnet CIDR blocks"
QUOTAS = "VPC guide, quotas"

rows("CreateVpc", "MissingParameter", DOCS, {})
rows(
    "CreateVpc",
    "InvalidVpc.Range",
    SIZING,
    *({"CidrBlock": text} for text in ("10.0.0.0/15", "10.0.0.0/29", "10.0.0.1/16", "x")),
)
rows("CreateVpc", "VpcLimitExceeded", f"{QUOTAS}: 5", {"CidrBlock": "10.70.0.0/16"})
rows("DeleteVpc", "InvalidVpcID.NotFound", DOCS, {"VpcId": NO["vpc"]})
rows("DeleteVpc", "DependencyViolation", DOCS, {"VpcId": "{vpc}"})
V = {"VpcId": "{vpc}"}
rows("AssociateVpcCidrBlock", "InvalidVpcID.NotFound", DOCS, {"VpcId": NO["vpc"], "CidrBlock": "10.5.0.0/16"})
rows("AssociateVpcCidrBlock", "InvalidVpc.Range", SIZING, *({**V, "CidrBlock": text} for text in
     ("10.0.0.0/15", "10.0.0.0/16", "10.1.128.0/17", "x")))  # fmt: skip
rows("AssociateVpcCidrBlock", "InvalidParameterCombination", "API reference: one of them", V,
     {**V, "CidrBlock": "10.5.0.0/16", "AmazonProvidedIpv6CidrBlock": True})  # fmt: skip
rows(
    "AssociateVpcCidrBlock",
    "CidrBlockLimitExceeded",
    f"{QUOTAS}: 5; code unconfirmed",
    {"VpcId": "{broad_vpc}", "CidrBlock": "10.5.0.0/16"},
)
rows(
    "DisassociateVpcCidrBlock",
    "InvalidVpcCidrBlockAssociationID.NotFound",
    "unconfirmed",
    {"AssociationId": f"vpc-cidr-assoc-{GONE}"},
)
rows(
    "DisassociateVpcCidrBlock",
    "OperationNotPermitted",
    "API reference: not the primary one; code unconfirmed",
    {"AssociationId": "{primary_cidr}"},
)
rows(
    "DisassociateVpcCidrBlock",
    "InvalidCidrBlock.InUse",
    "API reference; code unconfirmed",
    {"AssociationId": "{used_cidr}"},
)

C = "CreateSubnet"
rows(C, "MissingParameter", DOCS, V, {"CidrBlock": "10.0.99.0/24"})
rows(C, "InvalidVpcID.NotFound", DOCS, {"VpcId": NO["vpc"], "CidrBlock": "10.0.99.0/24"})
rows(C, "InvalidSubnet.Range", SIZING, *({**V, "CidrBlock": text} for text in
     ("10.0.0.0/15", "10.0.99.0/29", "10.9.0.0/24", "10.0.99.1/24", "x")))  # fmt: skip
rows(
    C,
    "InvalidSubnet.Conflict",
    DOCS,
    *({**V, "CidrBlock": text} for text in ("10.0.0.0/20", "10.0.4.0/24", "10.0.0.0/16")),
    {**V, "CidrBlock": "10.0.99.0/24", "Ipv6CidrBlock": "fd00:ec2:0:1::/64"},
)
rows(C, "InvalidParameterValue", DOCS, {**V, "CidrBlock": "10.0.99.0/24", "AvailabilityZone": "eu-west-1a"},
     {**V, "CidrBlock": "10.0.99.0/24", "Ipv6CidrBlock": "fd00:ec2:0:9::/80"},
     {**V, "CidrBlock": "10.0.99.0/24", "Ipv6CidrBlock": "fd01::/64"},
     {**V, "CidrBlock": "10.0.99.0/24", "Ipv6CidrBlock": "x"})  # fmt: skip
rows("DeleteSubnet", "InvalidSubnetID.NotFound", DOCS, {"SubnetId": NO["subnet"]})
rows("DeleteSubnet", "DependencyViolation", DOCS, {"SubnetId": "{subnet}"}, {"SubnetId": "{full}"})

R = "CreateSubnetCidrReservation"
K = {"SubnetId": "{subnet}", "ReservationType": "prefix"}
rows(R, "InvalidSubnetID.NotFound", DOCS, {**K, "SubnetId": NO["subnet"], "Cidr": "10.0.5.0/28"})
rows(R, "MissingParameter", DOCS, {"SubnetId": "{subnet}", "Cidr": "10.0.5.0/28"}, K)
rows(
    R,
    "InvalidParameterValue",
    DOCS,
    {**K, "Cidr": "x"},
    {**K, "Cidr": "10.0.5.1/28"},
    {**K, "Cidr": "10.0.5.0/28", "ReservationType": "all"},
)
rows(
    R,
    "InvalidSubnetCidrReservation.Range",
    "VPC guide, Subnet CIDR reservations; code unconfirmed",
    {**K, "Cidr": "10.0.16.0/28"},
    {**K, "Cidr": "10.0.0.0/19"},
    {**K, "Cidr": "fd00:ec2:0:2::/80"},
    {**K, "SubnetId": "{small}", "Cidr": "fd00:ec2:0:1:7::/80"},
)
rows(
    R,
    "InvalidSubnetCidrReservation.Conflict",
    "VPC guide, Subnet CIDR reservations; code unconfirmed",
    {**K, "Cidr": "{reserved}"},
)
rows(
    "DeleteSubnetCidrReservation",
    "InvalidSubnetCidrReservationID.NotFound",
    "unconfirmed",
    {"SubnetCidrReservationId": f"scr-{GONE}"},
)
rows("GetSubnetCidrReservations", "InvalidSubnetID.NotFound", DOCS, {"SubnetId": NO["subnet"]})

# --- security groups ----------------------------------------------------------------------------------------------

G = "CreateSecurityGroup"
D = {"GroupName": "new", "Description": "d", "VpcId": "{vpc}"}
rows(G, "MissingParameter", DOCS, {"GroupName": "n", "VpcId": "{vpc}"}, {"Description": "d", "VpcId": "{vpc}"})
rows(G, "InvalidVpcID.NotFound", DOCS, {**D, "VpcId": NO["vpc"]})
rows(G, "InvalidGroup.Duplicate", DOCS, {**D, "GroupName": "group-1"})
rows(G, "InvalidGroup.Reserved", DOCS, {**D, "GroupName": "default"})
rows(
    G,
    "InvalidParameterValue",
    "API reference, CreateSecurityGroup: constraints",
    {**D, "GroupName": "sg-x"},
    {**D, "GroupName": "x" * 256},
    {**D, "GroupName": "ü"},
    {**D, "Description": "<x>"},
    {**D, "GroupName": ""},
)
rows("DeleteSecurityGroup", "InvalidGroup.NotFound", DOCS, {"GroupId": NO["sg"]})
rows("DeleteSecurityGroup", "CannotDelete", DOCS, {"GroupId": "{default_group}"})
rows("DeleteSecurityGroup", "DependencyViolation", DOCS, {"GroupId": "{group}"}, {"GroupId": "{named_group}"})
rows("DeleteSecurityGroup", "MissingParameter", DOCS, {})

NET = {"IpRanges": [{"CidrIp": "9.9.9.0/24"}]}
for way in ("Ingress", "Egress"):
    A, W = f"AuthorizeSecurityGroup{way}", f"RevokeSecurityGroup{way}"

    def permissions(*some: dict[str, object]) -> dict[str, object]:
        return {"GroupId": "{group}", "IpPermissions": list(some)}

    for action in (A, W):
        rows(
            action,
            "MissingParameter",
            DOCS,
            {"GroupId": "{group}"},
            permissions({**NET}),
            permissions({"IpProtocol": "-1"}),
            permissions({"IpProtocol": "-1", "IpRanges": [{"Description": "x"}]}),
        )
        rows(action, "InvalidGroup.NotFound", DOCS, {**permissions({"IpProtocol": "-1", **NET}), "GroupId": NO["sg"]})
        rows(action, "InvalidParameterValue", "API reference, IpPermission", *(permissions(one) for one in (
            {"IpProtocol": "tcp", **NET}, {"IpProtocol": "tcp", "FromPort": 80, **NET},
            {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 65_536, **NET},
            {"IpProtocol": "udp", "FromPort": 81, "ToPort": 80, **NET},
            {"IpProtocol": "tcp", "FromPort": -1, "ToPort": 80, **NET},
            {"IpProtocol": "quic", **NET}, {"IpProtocol": "256", **NET},
            {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.9.9.9/33"}]},
            {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.9.9.9"}]},
            {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "fd00::/8"}]},
            {"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "9.9.9.0/24"}]})))  # fmt: skip
    rows(
        A,
        "InvalidPermission.Duplicate",
        DOCS,
        permissions({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.9.0.0/16"}]}),
        permissions(
            {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, **NET},
            {"IpProtocol": "6", "FromPort": 1, "ToPort": 2, **NET},
        ),
    )
    rows(
        A, "InvalidGroup.NotFound", DOCS, permissions({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": NO["sg"]}]})
    )
    rows(
        A,
        "InvalidGroup.NotFound",
        "API reference, Error codes: a group of another VPC",
        permissions({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "{foreign_group}"}]}),
    )
    rows(A, "RulesPerSecurityGroupLimitExceeded", f"{QUOTAS}: 60", permissions(
        {"IpProtocol": "-1", "IpRanges": [{"CidrIp": f"9.8.{n}.0/24"} for n in range(60)]}))  # fmt: skip
    rows(
        W,
        "InvalidPermission.NotFound",
        f"{DOCS}; one that is not there refuses all",
        permissions({"IpProtocol": "-1", **NET}),
        permissions({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.9.0.0/16"}, {"CidrIp": "9.7.0.0/16"}]}),
    )
    rows(
        W,
        "InvalidSecurityGroupRuleId.NotFound",
        "API reference; code unconfirmed",
        {"GroupId": "{group}", "SecurityGroupRuleIds": [f"sgr-{GONE}"]},
    )
    rows(
        W,
        "InvalidParameterCombination",
        "API reference: by id or by content",
        {
            **permissions({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.9.0.0/16"}]}),
            "SecurityGroupRuleIds": [f"sgr-{GONE}"],
        },
    )
rows(
    "DescribeSecurityGroupRules",
    "InvalidSecurityGroupRuleId.NotFound",
    "API reference; code unconfirmed",
    {"SecurityGroupRuleIds": [f"sgr-{GONE}"]},
)
rows(
    "AuthorizeSecurityGroupIngress",
    "InvalidParameterCombination",
    "API reference: one of the two forms",
    {"GroupId": "{group}", "IpProtocol": "-1", "CidrIp": "9.9.9.0/24", "IpPermissions": [{"IpProtocol": "-1", **NET}]},
)
rows(
    "AuthorizeSecurityGroupIngress",
    "MissingParameter",
    DOCS,
    {"GroupId": "{group}", "IpProtocol": "-1"},
    {"GroupId": "{group}", "CidrIp": "9.9.9.0/24"},
)

# --- tags -----------------------------------------------------------------------------------------------------------

TAG = {"Tags": [{"Key": "k", "Value": "v"}]}
for action in ("CreateTags", "DeleteTags"):
    rows(
        action,
        "InvalidNetworkInterfaceID.NotFound",
        f"{DOCS}; moto tags what is not there",
        {**TAG, "Resources": [NO["eni"]]},
        {**TAG, "Resources": ["{eni}", NO["eni"]]},
    )
    rows(action, "InvalidInstanceID.NotFound", DOCS, {**TAG, "Resources": [NO["i"]]})
    rows(action, "InvalidSubnetID.NotFound", DOCS, {**TAG, "Resources": [NO["subnet"]]})
    rows(action, "InvalidVpcID.NotFound", DOCS, {**TAG, "Resources": [NO["vpc"]]})
    rows(action, "InvalidGroup.NotFound", DOCS, {**TAG, "Resources": [NO["sg"]]})
    rows(action, "InvalidID", DOCS, {**TAG, "Resources": ["vol-1"]}, {**TAG, "Resources": ["x"]})
    rows(action, "MissingParameter", DOCS, TAG)
rows("CreateTags", "MissingParameter", DOCS, {"Resources": ["{eni}"]})
T = "EC2 guide, tag restrictions"
rows(
    "CreateTags",
    "InvalidParameterValue",
    T,
    *(
        {"Resources": ["{eni}"], "Tags": [{"Key": key, "Value": value}]}
        for key, value in (("aws:x", ""), ("", "v"), ("k" * 129, "v"), ("k", "v" * 257))
    ),
    {"Resources": ["{eni}"], "Tags": [{"Key": "k"}, {"Key": "k"}]},
)
rows(
    "CreateTags",
    "TagLimitExceeded",
    DOCS,
    {"Resources": ["{eni}"], "Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]},
)
