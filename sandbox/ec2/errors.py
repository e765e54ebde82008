"""EC2's error codes and texts as one table, each with its source.

A simulator that invents its errors makes green tests lie: programs look at codes, and some cut ids out of texts.
So each row says where code and wording were seen. `docs` is the error code page of the EC2 API reference,
`name#n` an issue or pull request of a public repository that quotes AWS (CNI: aws/amazon-vpc-cni-k8s, CIL:
cilium/cilium). "wording from memory" and "wording ours" mean that the code is documented but that AWS's sentence
was not seen by whoever wrote the row: programs should not rely on it, and a recorded answer should replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


class Ec2Error(Exception):
    """A call refused as EC2 would: `code`, `text` and the HTTP `status`. `source` names who says so."""

    def __init__(self, code: str, text: str, status: int = 400, source: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status
        self.source = source


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which EC2 refuses; called with the names of its text it makes the error."""

    code: str
    text: str
    source: str
    status: int = 400

    def __call__(self, **names: object) -> Ec2Error:
        return Ec2Error(self.code, self.text.format(**names), self.status, self.source)


# --- the call itself ------------------------------------------------------------------------------------

INVALID_ACTION: Final = Rule(
    "InvalidAction",
    "The action {action} is not valid for this web service.",
    "docs; quoted by terraform-provider-aws",
)
MISSING_ACTION: Final = Rule("MissingAction", "The request must contain the parameter Action", "docs; wording ours")
NOT_SIMULATED: Final = Rule("NotSimulated", "{what}", "ours: this simulator refuses what it does not model")
UNKNOWN_PARAMETER: Final = Rule(
    "UnknownParameter", "The parameter {name} is not recognized", "docs, UnknownParameter; wording ours"
)
MISSING_PARAMETER: Final = Rule(
    "MissingParameter", "The request must contain the parameter {name}", "docs, MissingParameter; wording from memory"
)
INVALID_VALUE: Final = Rule(
    "InvalidParameterValue", "Value ({value}) for parameter {name} is invalid. {why}", "docs; wording from memory"
)
BAD_COMBINATION: Final = Rule("InvalidParameterCombination", "{why}", "docs; wording ours")
DRY_RUN: Final = Rule(
    "DryRunOperation",
    "Request would have succeeded, but DryRun flag is set.",
    "docs, DryRunOperation; wording from memory",
    412,
)
UNAUTHORIZED: Final = Rule(
    "UnauthorizedOperation", "You are not authorized to perform this operation.", "docs; wording from memory", 403
)
THROTTLED: Final = Rule("RequestLimitExceeded", "Request limit exceeded.", "docs, request throttling", 503)
INTERNAL: Final = Rule("InternalError", "An internal error has occurred", "docs, server error codes", 500)
BAD_TOKEN: Final = Rule("InvalidPaginationToken", "The pagination token is not valid", "docs; wording ours")
CLIENT_TOKEN: Final = Rule(
    "IdempotentParameterMismatch",
    "The request uses the same client token as a previous, but non-identical request. Do not reuse a client token"
    " with different requests, unless the requests are identical.",
    "docs, IdempotentParameterMismatch",
)

# --- things that are not there ---------------------------------------------------------------------------

NO_ENI: Final = Rule(
    "InvalidNetworkInterfaceID.NotFound",
    "The networkInterface ID '{id}' does not exist",
    "docs; aws/aws-sdk-go-v2 users' logs; the id between quotes is cut out by CNI awsutils.go",
)
NO_INSTANCE: Final = Rule(
    "InvalidInstanceID.NotFound", "The instance ID '{id}' does not exist", "docs; wording from memory"
)
NO_SUBNET: Final = Rule("InvalidSubnetID.NotFound", "The subnet ID '{id}' does not exist", "docs; wording from memory")
NO_VPC: Final = Rule("InvalidVpcID.NotFound", "The vpc ID '{id}' does not exist", "docs; wording from memory")
NO_GROUP: Final = Rule(
    "InvalidGroup.NotFound", "The security group '{id}' does not exist", "docs; quoted in public logs"
)
NO_ATTACHMENT: Final = Rule(
    "InvalidAttachmentID.NotFound", "The attachment ID '{id}' does not exist", "docs; wording ours"
)
NO_RESOURCE: Final = Rule("InvalidID", "The ID '{id}' is not valid", "docs, InvalidID; CreateTags of an unknown kind")
NO_TYPE: Final = Rule(
    "InvalidInstanceType", "The following supplied instance types do not exist: [{type}]", "docs; moto has the same"
)

# --- addresses ----------------------------------------------------------------------------------------------

ADDRESS_IN_USE: Final = Rule("InvalidIPAddress.InUse", "Address {address} is in use.", "docs; aws-cli#7178")
BAD_ADDRESS: Final = Rule(
    "InvalidParameterValue", "invalid value for parameter address: {address}", "terraform-provider-aws#23114"
)
NOT_IN_SUBNET: Final = Rule(
    "InvalidParameterValue",
    "Address does not fall within the subnet's address range",
    "quoted by ansible-collections/amazon.aws",
)
RESERVED: Final = Rule(
    "InvalidParameterValue",
    "Address is in subnet's reserved address range",
    "VPC guide, subnet sizing: first four and last; wording as in eucalyptus, which mirrors it",
)
NOT_ASSIGNED: Final = Rule(
    "InvalidParameterValue",
    "Some of the specified addresses are not assigned to interface {eni}",
    "quoted by two controllers that treat it as success",
)
PRIMARY_STAYS: Final = Rule(
    "InvalidParameterValue",
    "The primary private IP address {address} of the interface {eni} cannot be unassigned",
    "API reference of UnassignPrivateIpAddresses: secondary addresses only; wording ours",
)
PRIMARY_NOT_MOVABLE: Final = Rule(
    "InvalidParameterValue",
    "Address {address} is the primary address of another interface and cannot be reassigned",
    "API reference of AssignPrivateIpAddresses: AllowReassignment moves secondary addresses; wording ours",
)
BAD_PREFIX: Final = Rule(
    "InvalidParameterValue",
    "invalid value for parameter prefix: {prefix}",
    "EC2 guide, prefixes: /28 and /80, aligned; wording ours",
)
LIMIT_ADDRESSES: Final = Rule(
    "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.", "CIL#36428"
)
LIMIT_IPV6: Final = Rule(
    "PrivateIpAddressLimitExceeded",
    "Number of IPv6 addresses will exceed limit.",
    "EC2 guide: addresses per ENI and type hold for IPv6 too; code taken over from IPv4, wording ours",
)
SUBNET_FULL: Final = Rule(
    "InsufficientFreeAddressesInSubnet",
    "The specified subnet does not have enough free addresses to satisfy the request.",
    "docs; CNI#40, CNI#1773",
)
SUBNET_FRAGMENTED: Final = Rule(
    "InsufficientCidrBlocks",
    "The specified subnet does not have enough free cidr blocks to satisfy the request",
    "CNI#1773; CIL#31016: free addresses would do, but no aligned block is whole",
)
NO_ROOM_FOR_PREFIX: Final = Rule(
    "InvalidParameterValue",
    "There aren't sufficient free Ipv4 addresses or prefixes",
    "CIL#31016 with AWS support's word, CNI#3105: more asked for than is free in the subnet",
)
PREFIX_NEEDS_NITRO: Final = Rule(
    "InvalidParameterCombination",
    "The instance type {type} does not support prefixes on its network interfaces",
    "EC2 guide, prefixes: instances built on Nitro only; wording ours",
)
NO_IPV6_SUBNET: Final = Rule(
    "InvalidParameterValue", "The subnet {subnet} does not have an IPv6 CIDR block", "VPC guide; wording ours"
)

# --- attachments and the ENI as a whole ---------------------------------------------------------------------

LIMIT_ENIS: Final = Rule("AttachmentLimitExceeded", "Interface count {count} exceeds the limit for {type}", "CIL#8830")
DEVICE_TAKEN: Final = Rule(
    "InvalidParameterValue",
    "Instance '{instance}' already has an interface attached at device index '{device}'.",
    "CIL#42512 and older: quoted in public logs",
)
NO_CARD: Final = Rule(
    "InvalidParameterValue",
    "Network card index {card} is not valid for the instance type {type}",
    "EC2 guide, network cards; wording ours",
)
ENI_IN_USE: Final = Rule("InvalidNetworkInterface.InUse", "Interface: [{eni}] in use.", "docs; quoted in public logs")
ENI_BUSY: Final = Rule("InvalidParameterValue", "Network interface '{eni}' is currently in use.", "CNI#1399")
OTHER_ZONE: Final = Rule(
    "InvalidParameterCombination",
    "You may not attach a network interface to an instance if they are not in the same availability zone",
    "EC2 guide, ENIs: same zone; wording ours",
)
OTHER_VPC: Final = Rule(
    "InvalidParameterValue",
    "You have specified two resources that belong to different networks.",
    "docs, InvalidParameter; wording from memory",
)
PRIMARY_ATTACHED: Final = Rule(
    "OperationNotPermitted",
    "The network interface at device index 0 and networkCard index 0 cannot be detached.",
    "quoted in public logs; moto has the same",
)
WRONG_STATE: Final = Rule(
    "IncorrectState", "Instance '{instance}' is not in a state from which it can be used: {state}", "docs; wording ours"
)
ATTACHMENT_GONE: Final = Rule(
    "IncorrectState", "The attachment '{id}' is being detached already", "docs, IncorrectState; wording ours"
)
WRONG_ATTACHMENT: Final = Rule(
    "InvalidAttachmentID.NotFound",
    "The attachment '{id}' does not belong to the interface '{eni}'",
    "docs; wording ours",
)
LIMIT_GROUPS: Final = Rule(
    "SecurityGroupsPerInterfaceLimitExceeded",
    "The maximum number of security groups per interface has been reached.",
    "docs; quota page: 5 per ENI",
)
LIMIT_TAGS: Final = Rule(
    "TagLimitExceeded", "More than 50 tags specified", "docs, TagLimitExceeded; EC2 guide: 50 per resource"
)
BAD_TAG: Final = Rule("InvalidParameterValue", "{why}", "EC2 guide, tag restrictions; wording ours")
CIDR_CONFLICT: Final = Rule(
    "InvalidSubnet.Conflict", "The CIDR '{cidr}' conflicts with another subnet", "docs; wording from memory"
)
CIDR_RANGE: Final = Rule("InvalidSubnet.Range", "The CIDR '{cidr}' is invalid.", "docs: /28 to /16, within the VPC")
VPC_RANGE: Final = Rule("InvalidVpc.Range", "The CIDR '{cidr}' is invalid.", "docs: /28 to /16")
GROUP_EXISTS: Final = Rule(
    "InvalidGroup.Duplicate", "The security group '{name}' already exists for VPC '{vpc}'", "docs; wording from memory"
)


def table() -> dict[str, Rule]:
    """All rules by their name here, for the page of what is simulated."""
    return {name: value for name, value in globals().items() if isinstance(value, Rule)}
