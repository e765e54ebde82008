"""How calls on addresses, network interfaces and instances are refused."""

from __future__ import annotations

from typing import Final

from sandbox.ec2.refusal import Rule

# --- addresses

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

# --- attachments and the ENI as a whole

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
    "InvalidGroup.NotFound",
    "You have specified two resources that belong to different networks.",
    "docs, InvalidGroup.NotFound: a group of another VPC; quoted in public logs of terraform",
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

# --- kinds of ENIs, instances

LIMIT_REGION_ENIS: Final = Rule(
    "NetworkInterfaceLimitExceeded",
    "The maximum number of network interfaces has been reached.",
    "docs, NetworkInterfaceLimitExceeded; quota page: 5,000 per Region; wording unconfirmed",
)
CONNTRACK_RANGE: Final = Rule(
    "InvalidParameterValue",
    "Value ({value}) for parameter {name} is invalid. It must be between {least} and {most}.",
    "API reference, ConnectionTrackingSpecificationRequest: ranges; wording unconfirmed",
)
EFA_ONLY_ADDRESSES: Final = Rule(
    "InvalidParameterCombination",
    "IP addresses cannot be assigned to an EFA-only network interface.",
    "API reference, CreateNetworkInterface, InterfaceType: no addresses with efa-only; wording unconfirmed",
)
EFA_ONLY_PRIMARY: Final = Rule(
    "InvalidParameterValue",
    "An EFA-only network interface cannot be the primary network interface.",
    "EC2 guide, Elastic Fabric Adapter; wording unconfirmed",
)
EFA_TYPE: Final = Rule(
    "InvalidParameterCombination",
    "The instance type {type} does not support EFA interfaces.",
    "EC2 guide, Elastic Fabric Adapter: supported types; wording unconfirmed",
)
LIMIT_EFA: Final = Rule(
    "AttachmentLimitExceeded",
    "Only one EFA interface can be attached to network card {card}.",
    "EC2 guide, Elastic Fabric Adapter: one per network card; code and wording unconfirmed",
)
TRUNK_TYPE: Final = Rule(
    "UnsupportedOperation",
    "The instance type {type} does not support trunk interfaces.",
    "EKS guide, security groups for pods: Nitro only; code and wording unconfirmed",
)
LIMIT_TRUNKS: Final = Rule(
    "AttachmentLimitExceeded",
    "The instance {instance} has a trunk interface already.",
    "EKS guide, security groups for pods: one trunk; code and wording unconfirmed",
)
NO_TRUNK: Final = Rule(
    "InvalidParameterValue",
    "The network interface {eni} is not a trunk interface.",
    "API reference, AssociateTrunkInterface; wording unconfirmed",
)
BRANCH_TYPE: Final = Rule(
    "InvalidParameterValue",
    "The network interface {eni} of type {type} cannot be a branch interface.",
    "API reference, AssociateTrunkInterface; wording unconfirmed",
)
BRANCH_ATTACH: Final = Rule(
    "OperationNotPermitted",
    "The branch interface {eni} cannot be attached to an instance.",
    "API reference, AssociateTrunkInterface; code and wording unconfirmed",
)
TRUNK_BUSY: Final = Rule(
    "OperationNotPermitted",
    "The trunk interface {eni} has branch interfaces associated.",
    "API reference, DisassociateTrunkInterface; code and wording unconfirmed",
)
VLAN_RANGE: Final = Rule(
    "InvalidParameterValue",
    "Value ({vlan}) for parameter vlanId is invalid.",
    "IEEE 802.1Q: 1 to 4094; wording unconfirmed",
)
VLAN_TAKEN: Final = Rule(
    "InvalidParameterValue",
    "The VLAN ID {vlan} is in use on the trunk interface {trunk}.",
    "API reference, AssociateTrunkInterface; wording unconfirmed",
)
LIMIT_BRANCHES: Final = Rule(
    "AttachmentLimitExceeded",
    "Branch interface count exceeds the limit for {type}",
    "limits of aws/amazon-vpc-resource-controller-k8s; code and wording unconfirmed",
)
NO_ASSOCIATION: Final = Rule(
    "InvalidAssociationID.NotFound",
    "The association ID '{id}' does not exist",
    "docs, InvalidAssociationID.NotFound; told apart by aws/amazon-vpc-resource-controller-k8s",
)
NO_PERMISSION: Final = Rule(
    "InvalidNetworkInterfacePermissionID.NotFound",
    "The network interface permission ID '{id}' does not exist",
    "code as in hashicorp/terraform-provider-aws; wording unconfirmed",
)
PERMISSION_EXISTS: Final = Rule(
    "InvalidParameterValue",
    "Account {account} has this permission on {eni} already.",
    "API reference, CreateNetworkInterfacePermission; code and wording unconfirmed",
)
PERMISSION_USED: Final = Rule(
    "OperationNotPermitted",
    "The network interface permission {id} is in use; use force.",
    "API reference, DeleteNetworkInterfacePermission, Force; code and wording unconfirmed",
)
BAD_ACCOUNT: Final = Rule(
    "InvalidParameterValue",
    "Value ({account}) for parameter awsAccountId is invalid.",
    "docs; wording unconfirmed",
)
NO_IMAGE: Final = Rule(
    "InvalidAMIID.NotFound",
    "The image id '[{id}]' does not exist",
    "docs; quoted in public logs of terraform",
)
NO_KEY: Final = Rule(
    "InvalidKeyPair.NotFound",
    "The key pair '{name}' does not exist",
    "docs; quoted in public logs of terraform",
)
BAD_USER_DATA: Final = Rule("InvalidParameterValue", "Invalid BASE64 encoding of user data", "aws-cli#19")
LONG_USER_DATA: Final = Rule(
    "InvalidParameterValue", "User data is limited to {most} bytes", "dask/dask-cloudprovider#249"
)
NOT_STOPPABLE: Final = Rule(
    "IncorrectInstanceState",
    "The instance '{instance}' is not in a state from which it can be stopped.",
    "docs; quoted in public logs of cost tools",
)
NOT_STARTABLE: Final = Rule(
    "IncorrectInstanceState",
    "The instance '{instance}' is not in a state from which it can be started.",
    "docs; quoted in public logs of cost tools",
)
NOT_REBOOTABLE: Final = Rule(
    "IncorrectInstanceState",
    "The instance '{instance}' is not in a state from which it can be rebooted.",
    "docs, IncorrectInstanceState; wording unconfirmed",
)

BRANCH_VPC: Final = Rule(
    "InvalidParameterValue",
    "The trunk interface {trunk} and the branch interface {branch} are in different VPCs.",
    "API reference, AssociateTrunkInterface; code and wording unconfirmed",
)
TOKEN_OF_THE_DEAD: Final = Rule(
    "IdempotentInstanceTerminated",
    "The request uses the same client token as a previous request for which the instance has been terminated.",
    "docs, IdempotentInstanceTerminated",
)
