"""Rows on network interfaces, their addresses and attachments, trunks, EFA and instances."""

from __future__ import annotations

from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox.ec2_rows import GONE, NO, rows

DOCS = "API reference, Error codes"
ENIS = "EC2 guide, Elastic network interfaces"
ADDRESSES = "EC2 guide, IP addresses per network interface per instance type"
PREFIXES = "EC2 guide, Prefix delegation for network interfaces"
SIZING = "VPC guide, Subnet CIDR blocks, subnet sizing"
EFA = "EC2 guide, Elastic Fabric Adapter"
TRUNK = "API reference, AssociateTrunkInterface; code unconfirmed"

# --- create -----------------------------------------------------------------------------------------------------

C = "CreateNetworkInterface"
S = {"SubnetId": "{subnet}"}
rows(C, "MissingParameter", DOCS, {}, {"Description": "x"}, {**S, "PrivateIpAddresses": [{"Primary": True}]})
rows(C, "InvalidSubnetID.NotFound", DOCS, {"SubnetId": NO["subnet"]})
rows(C, "InvalidGroup.NotFound", f"{DOCS}; moto invents the group", {**S, "Groups": [NO["sg"]]},
     {**S, "Groups": ["{group}", NO["sg"]]})  # fmt: skip
rows(
    C,
    "InvalidGroup.NotFound",
    "API reference, Error codes: a group of another VPC",
    {**S, "Groups": ["{foreign_group}"]},
)
rows(C, "SecurityGroupsPerInterfaceLimitExceeded", "VPC guide, quotas: 5", {**S, "Groups": ["{six}"]})
rows(C, "InvalidIPAddress.InUse", f"{DOCS}; moto gives it twice", {**S, "PrivateIpAddress": "{taken}"},
     {**S, "PrivateIpAddresses": [{"PrivateIpAddress": "{taken}", "Primary": False}]},
     {**S, "Ipv4Prefixes": [{"Ipv4Prefix": "{taken_block}"}]},
     {**S, "PrivateIpAddress": "{in_prefix}"}, {**S, "Ipv4Prefixes": [{"Ipv4Prefix": "{prefix}"}]})  # fmt: skip
rows(
    C,
    "InvalidParameterValue",
    f"{SIZING}; moto takes any",
    {**S, "PrivateIpAddress": "10.0.0.0"},
    {**S, "PrivateIpAddress": "10.0.0.1"},
    {**S, "PrivateIpAddress": "10.0.0.2"},
    {**S, "PrivateIpAddress": "10.0.0.3"},
    {**S, "PrivateIpAddress": "10.0.15.255"},
    {**S, "PrivateIpAddress": "10.0.16.9"},
    {**S, "PrivateIpAddress": "192.168.0.9"},
    {**S, "PrivateIpAddress": "10.0.0"},
    {**S, "PrivateIpAddress": "fd00::9"},
    {**S, "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.1"}]},
)
rows(C, "InvalidParameterValue", PREFIXES, *({**S, "Ipv4Prefixes": [{"Ipv4Prefix": text}]} for text in
     ("10.0.4.8/28", "10.0.4.0/27", "10.0.4.0/29", "10.0.4.0", "x", "10.0.16.0/28")),
     *({**S, "Ipv6Prefixes": [{"Ipv6Prefix": text}]} for text in
     ("fd00:ec2:0:1:5::/64", "fd00:ec2:0:1:5::1/80", "fd00:ec2:0:2:5::/80")))  # fmt: skip
rows(C, "InvalidParameterCombination", "API reference, CreateNetworkInterface: one way to say it",
     {**S, "SecondaryPrivateIpAddressCount": 1, "Ipv4PrefixCount": 1},
     {**S, "Ipv4PrefixCount": 1, "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.4.0/28"}]},
     {**S, "Ipv6AddressCount": 1, "Ipv6PrefixCount": 1},
     {**S, "PrivateIpAddress": "10.0.9.9", "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.9.8", "Primary": True}]},
     {**S, "PrivateIpAddresses": [{"PrivateIpAddress": f"10.0.9.{n}", "Primary": True} for n in (8, 9)]})  # fmt: skip
rows(C, "InvalidParameterValue", DOCS, {**S, "SecondaryPrivateIpAddressCount": -1}, {**S, "Ipv4PrefixCount": -1},
     {**S, "InterfaceType": "lorry"}, {**S, "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.9.9"}] * 2})  # fmt: skip
rows(C, "InvalidParameterValue", "VPC guide, IPv6 subnets", {"SubnetId": "{small}", "Ipv6AddressCount": 1},
     {"SubnetId": "{small}", "Ipv6Prefixes": [{"Ipv6Prefix": "fd00:ec2:0:1:5::/80"}]})  # fmt: skip
rows(C, "InsufficientFreeAddressesInSubnet", f"{DOCS}; moto counts below zero",
     {"SubnetId": "{small}", "SecondaryPrivateIpAddressCount": 59}, {"SubnetId": "{full}"})  # fmt: skip
rows(C, "InvalidParameterValue", "cilium/cilium#31016", {"SubnetId": "{small}", "Ipv4PrefixCount": 4})
rows(C, "InsufficientCidrBlocks", "cilium/cilium#31016: fragmented", {"SubnetId": "{small}", "Ipv4PrefixCount": 3},
     {"SubnetId": "{fragmented}", "Ipv4PrefixCount": 1})  # fmt: skip
rows(C, "InvalidParameterCombination", EFA, {**S, "InterfaceType": "efa-only", "PrivateIpAddress": "10.0.9.9"},
     {**S, "InterfaceType": "efa-only", "SecondaryPrivateIpAddressCount": 1},
     {**S, "InterfaceType": "efa-only", "Ipv6AddressCount": 1})  # fmt: skip
CT = "API reference, ConnectionTrackingSpecificationRequest"
rows(C, "InvalidParameterValue", CT, *({**S, "ConnectionTrackingSpecification": {name: value}} for name, value in (
     ("TcpEstablishedTimeout", 59), ("TcpEstablishedTimeout", 432_001), ("UdpTimeout", 29), ("UdpTimeout", 61),
     ("UdpStreamTimeout", 59), ("UdpStreamTimeout", 181))))  # fmt: skip
rows(C, "InvalidParameterValue", "EC2 guide, tag restrictions", *({**S, "TagSpecifications": [
     {"ResourceType": kind, "Tags": [{"Key": key, "Value": value}]}]} for kind, key, value in (
     ("instance", "k", "v"), ("network-interface", "aws:x", "v"), ("network-interface", "k" * 129, "v"),
     ("network-interface", "k", "v" * 257), ("network-interface", "", "v"))))  # fmt: skip
rows(C, "TagLimitExceeded", DOCS, {**S, "TagSpecifications": [
     {"ResourceType": "network-interface", "Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]}]})  # fmt: skip

# --- attach, detach, delete, modify ---------------------------------------------------------------------------------

A = "AttachNetworkInterface"
N = {"NetworkInterfaceId": "{eni}", "InstanceId": "{node}", "DeviceIndex": 2}
rows(
    A,
    "MissingParameter",
    DOCS,
    {"InstanceId": "{node}", "DeviceIndex": 2},
    {"NetworkInterfaceId": "{eni}", "InstanceId": "{node}"},
)
rows(A, "InvalidNetworkInterfaceID.NotFound", DOCS, {**N, "NetworkInterfaceId": NO["eni"]})
rows(A, "InvalidInstanceID.NotFound", DOCS, {**N, "InstanceId": NO["i"]})
rows(A, "InvalidNetworkInterface.InUse", f"{DOCS}; moto attaches it twice", {**N, "NetworkInterfaceId": "{held}"},
     {**N, "NetworkInterfaceId": "{primary}"}, {**N, "NetworkInterfaceId": "{branch}"})  # fmt: skip
rows(
    A,
    "InvalidParameterValue",
    "cilium/cilium#42512: device index taken",
    {**N, "DeviceIndex": 1},
    {**N, "DeviceIndex": 0},
)
rows(A, "InvalidParameterValue", DOCS, {**N, "DeviceIndex": -1})
rows(A, "InvalidParameterCombination", f"{ENIS}: same zone", {**N, "InstanceId": "{elsewhere}"})
rows(A, "AttachmentLimitExceeded", "cilium/cilium#8830; moto knows no limit", {**N, "InstanceId": "{crowded}"})
rows(
    A,
    "InvalidParameterValue",
    "EC2 guide, Network cards",
    {**N, "NetworkCardIndex": 1},
    {**N, "NetworkCardIndex": -1},
    {**N, "InstanceId": "{cards}", "NetworkCardIndex": 2},
)
rows(A, "IncorrectState", DOCS, {**N, "InstanceId": "{dead}"})
rows(A, "NotSimulated", "ours: another VPC", {**N, "NetworkInterfaceId": "{foreign_eni}"})
rows(
    A,
    "PrivateIpAddressLimitExceeded",
    ADDRESSES,
    {**N, "NetworkInterfaceId": "{laden}", "InstanceId": "{tight}", "DeviceIndex": 1},
    {**N, "NetworkInterfaceId": "{laden6}", "InstanceId": "{tight}", "DeviceIndex": 1},
)
rows(
    A,
    "InvalidParameterCombination",
    PREFIXES,
    {**N, "NetworkInterfaceId": "{prefixed}", "InstanceId": "{xen}", "DeviceIndex": 1},
)
rows(
    A,
    "InvalidParameterCombination",
    EFA,
    {**N, "NetworkInterfaceId": "{efa}"},
    {**N, "NetworkInterfaceId": "{efa_only}"},
)
rows(
    A,
    "AttachmentLimitExceeded",
    f"{EFA}: one per card",
    {**N, "NetworkInterfaceId": "{efa}", "InstanceId": "{trunk_node}", "DeviceIndex": 3},
    {**N, "NetworkInterfaceId": "{efa_only}", "InstanceId": "{trunk_node}", "DeviceIndex": 3},
)
rows(
    A,
    "UnsupportedOperation",
    "EKS guide, security groups for pods; code unconfirmed",
    {**N, "NetworkInterfaceId": "{spare_trunk}"},
)
rows(A, "AttachmentLimitExceeded", "EKS guide, security groups for pods: one trunk",
     {**N, "NetworkInterfaceId": "{spare_trunk}", "InstanceId": "{trunk_node}", "DeviceIndex": 3})  # fmt: skip
rows(
    A,
    "NotSimulated",
    "ours: branch limit unknown",
    {**N, "NetworkInterfaceId": "{spare_trunk}", "InstanceId": "{unknown_branches}"},
)
rows(A, "OperationNotPermitted", TRUNK, {**N, "NetworkInterfaceId": "{spare_branch}"})

rows("DetachNetworkInterface", "InvalidAttachmentID.NotFound", DOCS, {"AttachmentId": NO["attach"]})
rows("DetachNetworkInterface", "OperationNotPermitted", f"{DOCS}; moto detaches the primary ENI",
     {"AttachmentId": "{primary_attachment}"}, {"AttachmentId": "{primary_attachment}", "Force": True})  # fmt: skip
rows("DetachNetworkInterface", "OperationNotPermitted", TRUNK, {"AttachmentId": "{trunk_attachment}"})
rows("DetachNetworkInterface", "MissingParameter", DOCS, {})
rows("DeleteNetworkInterface", "InvalidNetworkInterfaceID.NotFound", DOCS, {"NetworkInterfaceId": NO["eni"]})
rows(
    "DeleteNetworkInterface",
    "InvalidParameterValue",
    "aws/amazon-vpc-cni-k8s#1399; moto deletes it",
    {"NetworkInterfaceId": "{held}"},
    {"NetworkInterfaceId": "{primary}"},
    {"NetworkInterfaceId": "{branch}"},
)
rows("DeleteNetworkInterface", "MissingParameter", DOCS, {})

M = "ModifyNetworkInterfaceAttribute"
E = {"NetworkInterfaceId": "{eni}"}
rows(M, "MissingParameter", DOCS, {"Groups": ["{group}"]}, E, {**E, "Attachment": {"DeleteOnTermination": True}},
     {**E, "Attachment": {"AttachmentId": "{attachment}"}})  # fmt: skip
rows(M, "InvalidNetworkInterfaceID.NotFound", DOCS, {"NetworkInterfaceId": NO["eni"], "Groups": ["{group}"]})
rows(M, "InvalidParameterCombination", "API reference: one attribute at a time",
     {**E, "Groups": ["{group}"], "Description": {"Value": "x"}})  # fmt: skip
rows(M, "InvalidGroup.NotFound", DOCS, {**E, "Groups": [NO["sg"]]})
rows(
    M,
    "InvalidGroup.NotFound",
    "API reference, Error codes: a group of another VPC",
    {**E, "Groups": ["{foreign_group}"]},
)
rows(M, "SecurityGroupsPerInterfaceLimitExceeded", "VPC guide, quotas: 5", {**E, "Groups": ["{six}"]})
rows(
    M,
    "InvalidAttachmentID.NotFound",
    DOCS,
    {**E, "Attachment": {"AttachmentId": NO["attach"], "DeleteOnTermination": True}},
    {**E, "Attachment": {"AttachmentId": "{attachment}", "DeleteOnTermination": True}},
)
rows(M, "InvalidParameterValue", CT, {**E, "ConnectionTrackingSpecification": {"UdpTimeout": 5}})

# --- addresses ------------------------------------------------------------------------------------------------------

P = "AssignPrivateIpAddresses"
F = {"NetworkInterfaceId": "{primary}"}
COUNT = "SecondaryPrivateIpAddressCount"
rows(P, "MissingParameter", DOCS, F, {COUNT: 1})
rows(P, "InvalidNetworkInterfaceID.NotFound", DOCS, {"NetworkInterfaceId": NO["eni"], COUNT: 1})
rows(
    P,
    "PrivateIpAddressLimitExceeded",
    f"{ADDRESSES}; moto knows no limit",
    {**F, COUNT: 15},
    {**F, "Ipv4PrefixCount": 15},
    {"NetworkInterfaceId": "{tight_eni}", "PrivateIpAddresses": [f"10.0.9.{n}" for n in range(4)]},
)
rows(
    P,
    "InvalidParameterCombination",
    "API reference: one way to say it",
    {**F, COUNT: 1, "Ipv4PrefixCount": 1},
    {**F, COUNT: 1, "PrivateIpAddresses": ["10.0.9.9"]},
    {**F, "Ipv4PrefixCount": 1, "Ipv4Prefixes": ["10.0.4.0/28"]},
)
rows(P, "InvalidParameterCombination", PREFIXES, {"NetworkInterfaceId": "{xen_eni}", "Ipv4PrefixCount": 1})
rows(P, "InvalidIPAddress.InUse", f"{DOCS}; moto gives it", {**F, "PrivateIpAddresses": ["{taken}"]},
     {**F, "PrivateIpAddresses": ["{in_prefix}"]}, {**F, "Ipv4Prefixes": ["{prefix}"]},
     {**F, "PrivateIpAddresses": ["{primary_ip}"], "AllowReassignment": True},
     {**F, "PrivateIpAddresses": ["{in_prefix}"], "AllowReassignment": True})  # fmt: skip
rows(P, "InvalidParameterValue", "API reference: AllowReassignment moves secondary addresses",
     {**F, "PrivateIpAddresses": ["{other_primary_ip}"], "AllowReassignment": True})  # fmt: skip
rows(P, "InvalidParameterValue", f"{SIZING}; moto gives it", *({**F, "PrivateIpAddresses": [text]} for text in
     ("10.0.0.1", "10.0.15.255", "10.1.0.9", "8.8.8.8", "x", "")))  # fmt: skip
rows(P, "InvalidParameterValue", DOCS, {**F, COUNT: -1}, {**F, "PrivateIpAddresses": ["10.0.9.9", "10.0.9.9"]})
rows(
    P,
    "InvalidParameterValue",
    PREFIXES,
    *({**F, "Ipv4Prefixes": [text]} for text in ("10.0.4.8/28", "10.0.4.0/24", "x")),
)
rows(P, "InsufficientFreeAddressesInSubnet", DOCS, {"NetworkInterfaceId": "{full_eni}", COUNT: 1})
rows(
    P, "InsufficientCidrBlocks", "cilium/cilium#31016", {"NetworkInterfaceId": "{fragmented_eni}", "Ipv4PrefixCount": 1}
)
rows(P, "InvalidParameterValue", "cilium/cilium#31016", {"NetworkInterfaceId": "{full_eni}", "Ipv4PrefixCount": 1})
rows(P, "InvalidParameterCombination", EFA, {"NetworkInterfaceId": "{efa_only}", COUNT: 1})

U = "UnassignPrivateIpAddresses"
rows(U, "MissingParameter", DOCS, F, {"PrivateIpAddresses": ["10.0.9.9"]})
rows(
    U, "InvalidNetworkInterfaceID.NotFound", DOCS, {"NetworkInterfaceId": NO["eni"], "PrivateIpAddresses": ["10.0.9.9"]}
)
rows(U, "InvalidParameterValue", "API reference: secondary addresses; moto removes the primary",
     {**F, "PrivateIpAddresses": ["{primary_ip}"]})  # fmt: skip
rows(
    U,
    "InvalidParameterValue",
    "two public controllers; moto says nothing",
    {**F, "PrivateIpAddresses": ["10.0.9.9"]},
    {**F, "PrivateIpAddresses": ["{taken}"]},
    {**F, "Ipv4Prefixes": ["10.0.4.0/28"]},
    {**F, "PrivateIpAddresses": ["x"]},
)

V = "AssignIpv6Addresses"
rows(V, "MissingParameter", DOCS, F, {"Ipv6AddressCount": 1})
rows(V, "InvalidNetworkInterfaceID.NotFound", DOCS, {"NetworkInterfaceId": NO["eni"], "Ipv6AddressCount": 1})
rows(
    V,
    "PrivateIpAddressLimitExceeded",
    f"{ADDRESSES}; code unconfirmed",
    {**F, "Ipv6AddressCount": 16},
    {**F, "Ipv6PrefixCount": 16},
)
rows(
    V,
    "InvalidParameterCombination",
    "API reference: one way to say it",
    {**F, "Ipv6AddressCount": 1, "Ipv6PrefixCount": 1},
)
rows(V, "InvalidParameterCombination", PREFIXES, {"NetworkInterfaceId": "{xen_eni}", "Ipv6PrefixCount": 1})
rows(V, "InvalidParameterValue", "VPC guide, IPv6 subnets", {"NetworkInterfaceId": "{full_eni}", "Ipv6AddressCount": 1})
rows(V, "InvalidParameterValue", DOCS, *({**F, "Ipv6Addresses": [text]} for text in
     ("fd00:ec2:0:1::", "fd00:ec2:0:1::3", "fd00:ec2:0:2::9", "10.0.0.9", "x")))  # fmt: skip
rows(V, "InvalidIPAddress.InUse", DOCS, {**F, "Ipv6Addresses": ["{taken6}"]}, {**F, "Ipv6Prefixes": ["{prefix6}"]})
rows("UnassignIpv6Addresses", "MissingParameter", DOCS, F)
rows("UnassignIpv6Addresses", "InvalidParameterValue", DOCS, {**F, "Ipv6Addresses": ["{taken6}"]},
     {**F, "Ipv6Prefixes": ["{prefix6}"]})  # fmt: skip

# --- trunks and permissions -----------------------------------------------------------------------------------------

T = "AssociateTrunkInterface"
B = {"TrunkInterfaceId": "{trunk}", "BranchInterfaceId": "{eni}", "VlanId": 7}
rows(T, "MissingParameter", DOCS, {**B, "VlanId": None}, {"TrunkInterfaceId": "{trunk}", "VlanId": 7})
rows(
    T,
    "InvalidNetworkInterfaceID.NotFound",
    DOCS,
    {**B, "TrunkInterfaceId": NO["eni"]},
    {**B, "BranchInterfaceId": NO["eni"]},
)
rows(
    T,
    "InvalidParameterValue",
    TRUNK,
    {**B, "TrunkInterfaceId": "{eni}"},
    {**B, "BranchInterfaceId": "{efa}"},
    {**B, "BranchInterfaceId": "{trunk}"},
    {**B, "BranchInterfaceId": "{foreign_eni}"},
    {**B, "VlanId": 5},
)
rows(T, "InvalidParameterValue", "IEEE 802.1Q", {**B, "VlanId": 0}, {**B, "VlanId": 4095}, {**B, "VlanId": -1})
rows(
    T,
    "InvalidNetworkInterface.InUse",
    TRUNK,
    {**B, "BranchInterfaceId": "{held}"},
    {**B, "BranchInterfaceId": "{branch}"},
)
rows(T, "InvalidParameterCombination", TRUNK, {**B, "BranchInterfaceId": "{zone_b_eni}"})
rows(
    T,
    "AttachmentLimitExceeded",
    "aws/amazon-vpc-resource-controller-k8s limits",
    {**B, "TrunkInterfaceId": "{full_trunk}"},
)
rows("DisassociateTrunkInterface", "InvalidAssociationID.NotFound", DOCS, {"AssociationId": f"trunk-assoc-{GONE}"})
rows(
    "DescribeTrunkInterfaceAssociations",
    "InvalidAssociationID.NotFound",
    DOCS,
    {"AssociationIds": [f"trunk-assoc-{GONE}"]},
)
X = "CreateNetworkInterfacePermission"
Y = {"NetworkInterfaceId": "{eni}", "Permission": "INSTANCE-ATTACH", "AwsAccountId": "123456789012"}
rows(X, "InvalidNetworkInterfaceID.NotFound", DOCS, {**Y, "NetworkInterfaceId": NO["eni"]})
rows(
    X,
    "InvalidParameterValue",
    DOCS,
    {**Y, "AwsAccountId": "me"},
    {**Y, "Permission": "ALL"},
    {**Y, "NetworkInterfaceId": "{held}"},
)
rows(X, "MissingParameter", DOCS, {"NetworkInterfaceId": "{eni}", "Permission": "INSTANCE-ATTACH"})
rows("DeleteNetworkInterfacePermission", "InvalidNetworkInterfacePermissionID.NotFound", "unconfirmed",
     {"NetworkInterfacePermissionId": f"eni-perm-{GONE}"})  # fmt: skip
rows("DescribeNetworkInterfacePermissions", "InvalidNetworkInterfacePermissionID.NotFound", "unconfirmed",
     {"NetworkInterfacePermissionIds": [f"eni-perm-{GONE}"]})  # fmt: skip

# --- more than any interface holds ------------------------------------------------------------------------------------

_MANY = f"{ADDRESSES}: no type has room for it"
rows(C, "PrivateIpAddressLimitExceeded", _MANY, {**S, "Ipv6AddressCount": 10**9}, {**S, "Ipv6PrefixCount": 60_000})
rows("AssignIpv6Addresses", "PrivateIpAddressLimitExceeded", _MANY,
     {"NetworkInterfaceId": "{eni}", "Ipv6AddressCount": 10**9})  # fmt: skip

# --- launch -----------------------------------------------------------------------------------------------------------

R = {"ImageId": DEFAULT_IMAGE, "InstanceType": "sandbox.tight", "MinCount": 1, "MaxCount": 1}
rows("RunInstances", "PrivateIpAddressLimitExceeded", f"{ADDRESSES}; moto knows no limit",
     *({**R, "NetworkInterfaces": [{"DeviceIndex": 0, **S, **more}]} for more in
     ({COUNT: 4}, {"Ipv4PrefixCount": 4}, {"Ipv6AddressCount": 3})))  # fmt: skip
rows("RunInstances", "InvalidParameterCombination", DOCS,
     {**R, "SubnetId": "{subnet}", "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "{subnet}"}]})  # fmt: skip
rows("RunInstances", "NotSimulated", "ours", {**R, "NetworkInterfaces": [{"DeviceIndex": 1, "SubnetId": "{subnet}"}]})
rows(
    "RunInstances",
    "InvalidParameterValue",
    DOCS,
    {**R, "SubnetId": "{subnet}", "Placement": {"AvailabilityZone": "us-west-2b"}},
    {**R, "SubnetId": "{subnet}", "MetadataOptions": {"HttpPutResponseHopLimit": 65}},
    {**R, "SubnetId": "{subnet}", "PrivateIpAddress": "10.0.0.1"},
)
rows("RunInstances", "InvalidIPAddress.InUse", DOCS, {**R, "SubnetId": "{subnet}", "PrivateIpAddress": "{taken}"})
rows("RunInstances", "InsufficientFreeAddressesInSubnet", DOCS, {**R, "SubnetId": "{full}"})
