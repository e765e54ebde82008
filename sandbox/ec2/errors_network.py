"""How calls on VPCs, subnets, security groups and tags are refused."""

from __future__ import annotations

from typing import Final

from sandbox.ec2.refusal import Rule

DEFAULT_GROUP: Final = Rule(
    "CannotDelete",
    'the specified group: "{group}" name: "default" cannot be deleted by a user',
    "docs, CannotDelete; quoted in the EC2 guide, default security groups",
)
GROUP_IN_USE: Final = Rule(
    "DependencyViolation",
    "resource {group} has a dependent object",
    "docs, DependencyViolation; quoted in public logs of terraform",
)
GROUP_NAME: Final = Rule(
    "InvalidParameterValue",
    "{why}",
    "API reference, CreateSecurityGroup: constraints; wording unconfirmed",
)
LIMIT_VPC_GROUPS: Final = Rule(
    "SecurityGroupLimitExceeded",
    "The maximum number of security groups has been reached.",
    "docs, SecurityGroupLimitExceeded; wording unconfirmed",
)
LIMIT_RULES: Final = Rule(
    "RulesPerSecurityGroupLimitExceeded",
    "The maximum number of rules per security group has been reached.",
    "docs; quoted in public logs (RulesPerSecurityGroupLimitExceeded); quota page: 60",
)
RULE_EXISTS: Final = Rule(
    "InvalidPermission.Duplicate",
    'the specified rule "{what}" already exists',
    'docs; quoted in public logs, e.g. "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW"',
)
NO_RULE: Final = Rule(
    "InvalidPermission.NotFound",
    "The specified rule does not exist in this security group.",
    "docs, InvalidPermission.NotFound; quoted in public logs; API reference: error in a VPC",
)
NO_RULE_ID: Final = Rule(
    "InvalidSecurityGroupRuleId.NotFound",
    "The security group rule ID '{id}' does not exist",
    "code as in turbot/steampipe-plugin-aws; wording unconfirmed",
)
BAD_PROTOCOL: Final = Rule(
    "InvalidParameterValue",
    "Invalid value '{protocol}' for IP protocol. Unknown protocol.",
    "docs; wording unconfirmed",
)
BAD_PORTS: Final = Rule(
    "InvalidParameterValue",
    "{why}",
    "docs; the sentence on both ports quoted in public logs of the AWS CDK, the others unconfirmed",
)
BAD_CIDR: Final = Rule(
    "InvalidParameterValue",
    "CIDR block {cidr} is malformed",
    "docs; quoted in public logs of terraform",
)
VPC_USED: Final = Rule(
    "DependencyViolation",
    "The vpc '{id}' has dependencies and cannot be deleted.",
    "docs, DependencyViolation; quoted in public logs of terraform",
)
SUBNET_USED: Final = Rule(
    "DependencyViolation",
    "The subnet '{id}' has dependencies and cannot be deleted.",
    "docs, DependencyViolation; quoted in public logs of terraform",
)
VPC_CONFLICT: Final = Rule(
    "InvalidVpc.Range",
    "The CIDR '{cidr}' overlaps with another CIDR block of this VPC.",
    "code as of CreateVpc; VPC guide, IPv4 CIDR block association; wording unconfirmed",
)
NO_CIDR: Final = Rule(
    "InvalidVpcCidrBlockAssociationID.NotFound",
    "The vpc CIDR block association ID '{id}' does not exist",
    "code as in hashicorp/terraform-provider-aws; wording unconfirmed",
)
PRIMARY_CIDR: Final = Rule(
    "OperationNotPermitted",
    "The primary CIDR block of a VPC cannot be disassociated.",
    "API reference, DisassociateVpcCidrBlock; code and wording unconfirmed",
)
CIDR_USED: Final = Rule(
    "InvalidCidrBlock.InUse",
    "The CIDR block {cidr} is used by a subnet.",
    "API reference, DisassociateVpcCidrBlock; code and wording unconfirmed",
)
LIMIT_VPCS: Final = Rule(
    "VpcLimitExceeded",
    "The maximum number of VPCs has been reached.",
    "docs, VpcLimitExceeded; quoted in public logs of terraform",
)
LIMIT_SUBNETS: Final = Rule(
    "SubnetLimitExceeded",
    "The maximum number of subnets for this VPC has been reached.",
    "docs, SubnetLimitExceeded; wording unconfirmed",
)
LIMIT_CIDRS: Final = Rule(
    "CidrBlockLimitExceeded",
    "The maximum number of CIDR blocks of VPC {vpc} has been reached.",
    "quota page: 5; code and wording unconfirmed",
)
RESERVATION_RANGE: Final = Rule(
    "InvalidSubnetCidrReservation.Range",
    "The CIDR {cidr} is not within the subnet.",
    "VPC guide, subnet CIDR reservations; code and wording unconfirmed",
)
RESERVATION_CONFLICT: Final = Rule(
    "InvalidSubnetCidrReservation.Conflict",
    "The CIDR {cidr} overlaps with another reservation.",
    "VPC guide, subnet CIDR reservations; code and wording unconfirmed",
)
NO_RESERVATION: Final = Rule(
    "InvalidSubnetCidrReservationID.NotFound",
    "The subnet CIDR reservation ID '{id}' does not exist",
    "code as in hashicorp/terraform-provider-aws; wording unconfirmed",
)

LIMIT_TAGS: Final = Rule(
    "TagLimitExceeded", "More than 50 tags specified", "docs, TagLimitExceeded; EC2 guide: 50 per resource"
)
BAD_TAG: Final = Rule("InvalidParameterValue", "{why}", "EC2 guide, tag restrictions; wording ours")
CIDR_CONFLICT: Final = Rule(
    "InvalidSubnet.Conflict",
    "The CIDR '{cidr}' conflicts with another subnet",
    "docs; quoted in public logs of terraform",
)
CIDR_RANGE: Final = Rule("InvalidSubnet.Range", "The CIDR '{cidr}' is invalid.", "docs: /28 to /16, within the VPC")
VPC_RANGE: Final = Rule("InvalidVpc.Range", "The CIDR '{cidr}' is invalid.", "docs: /28 to /16")
RESERVED_NAME: Final = Rule(
    "InvalidGroup.Reserved",
    "Cannot use reserved security group name: {name}",
    "docs, InvalidGroup.Reserved; wording unconfirmed",
)
GROUP_EXISTS: Final = Rule(
    "InvalidGroup.Duplicate",
    "The security group '{name}' already exists for VPC '{vpc}'",
    "docs; quoted in public logs of terraform",
)
