"""Cases on addresses, prefixes, tags and what else a call may get wrong."""

from __future__ import annotations

from sandbox.ec2 import errors
from tests.sandbox.ec2_cases import assign, case, fill, fragment, node_of, nothing, run, taken
from tests.sandbox.ec2_kit import Account

# addresses
case("too many addresses", nothing, lambda a, _: assign(a, SecondaryPrivateIpAddressCount=15), errors.LIMIT_ADDRESSES)
case("too many prefixes", nothing, lambda a, _: assign(a, Ipv4PrefixCount=15), errors.LIMIT_ADDRESSES)
case(
    "too many at launch",
    nothing,
    lambda a, _: run(
        a,
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": a.subnet.subnet_id, "SecondaryPrivateIpAddressCount": 15}],
    ),
    errors.LIMIT_ADDRESSES,
)
case(
    "prefix on xen",
    lambda a: a.truth.instance(node_of(a, "sandbox.xen")).primary_eni_id,
    lambda a, e: assign(a, NetworkInterfaceId=e, Ipv4PrefixCount=1),
    errors.PREFIX_NEEDS_NITRO,
)
case("address in use", taken, lambda a, ip: assign(a, PrivateIpAddresses=["10.0.3.3", ip]), errors.ADDRESS_IN_USE)
case("address in use at create", taken, lambda a, ip: a.new(PrivateIpAddress=ip), errors.ADDRESS_IN_USE)
case(
    "address in a prefix",
    lambda a: assign(a, Ipv4Prefixes=["10.0.3.0/28"]),
    lambda a, _: a.new(PrivateIpAddress="10.0.3.7"),
    errors.ADDRESS_IN_USE,
    address="10.0.3.7",
)
case("prefix over an address", nothing, lambda a, _: assign(a, Ipv4Prefixes=["10.0.0.0/28"]), errors.ADDRESS_IN_USE)
case(
    "prefix twice",
    lambda a: assign(a, Ipv4Prefixes=["10.0.3.0/28"]),
    lambda a, _: a.new(Ipv4Prefixes=[{"Ipv4Prefix": "10.0.3.0/28"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "move to where it is",
    lambda a: assign(a, PrivateIpAddresses=["10.0.3.3"]),
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3"], AllowReassignment=True),
    errors.ADDRESS_IN_USE,
    address="10.0.3.3",
)
case(
    "move a primary",
    Account.new,
    lambda a, e: a.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=e, PrivateIpAddresses=[a.node.private_ip], AllowReassignment=True
    ),
    errors.PRIMARY_NOT_MOVABLE,
)
for offset in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.15.255"):
    case(f"reserved {offset}", nothing, lambda a, _, ip=offset: a.new(PrivateIpAddress=ip), errors.RESERVED)
    case(
        f"assign reserved {offset}",
        nothing,
        lambda a, _, ip=offset: assign(a, PrivateIpAddresses=[ip]),
        errors.RESERVED,
    )
case("outside the subnet", nothing, lambda a, _: a.new(PrivateIpAddress="10.0.16.5"), errors.NOT_IN_SUBNET)
case(
    "assign outside the subnet",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.1.1", "10.1.0.9"]),
    errors.NOT_IN_SUBNET,
)
case("prefix outside the subnet", nothing, lambda a, _: assign(a, Ipv4Prefixes=["10.1.0.16/28"]), errors.NOT_IN_SUBNET)
case("no address", nothing, lambda a, _: a.new(PrivateIpAddress="10.0.0.999"), errors.BAD_ADDRESS, address="10.0.0.999")
for prefix in ("10.0.1.8/28", "10.0.1.0/27", "10.0.1.0", "x"):
    case(
        f"no prefix {prefix}",
        nothing,
        lambda a, _, p=prefix: assign(a, Ipv4Prefixes=[p]),
        errors.BAD_PREFIX,
        prefix=prefix,
    )
case("subnet full at create", fill, lambda a, _: a.new(SubnetId=a.small.subnet_id), errors.SUBNET_FULL)
case(
    "subnet too small",
    nothing,
    lambda a, _: a.new(SubnetId=a.small.subnet_id, SecondaryPrivateIpAddressCount=59),
    errors.SUBNET_FULL,
)
case(
    "subnet too small for prefixes",
    nothing,
    lambda a, _: a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=4),
    errors.NO_ROOM_FOR_PREFIX,
)
case(
    "fragmented", fragment, lambda a, _: a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=1), errors.SUBNET_FRAGMENTED
)
case(
    "unassign foreign",
    taken,
    lambda a, ip: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, PrivateIpAddresses=[ip]),
    errors.NOT_ASSIGNED,
    eni="{eni}",
)
case(
    "unassign partly foreign",
    lambda a: assign(a, PrivateIpAddresses=["10.0.3.3"]),
    lambda a, _: a.ec2.unassign_private_ip_addresses(
        NetworkInterfaceId=a.eni, PrivateIpAddresses=["10.0.3.3", "10.0.3.4"]
    ),
    errors.NOT_ASSIGNED,
)
case(
    "unassign foreign prefix",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, Ipv4Prefixes=["10.0.3.0/28"]),
    errors.NOT_ASSIGNED,
)
case(
    "unassign primary",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, PrivateIpAddresses=[a.node.private_ip]),
    errors.PRIMARY_STAYS,
)
case(
    "unassign nothing",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni),
    errors.MISSING_PARAMETER,
)
case("assign nothing", nothing, lambda a, _: assign(a), errors.MISSING_PARAMETER)
case(
    "count and list",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3"], SecondaryPrivateIpAddressCount=1),
    errors.BAD_COMBINATION,
)
case(
    "addresses and prefixes",
    nothing,
    lambda a, _: a.new(Ipv4PrefixCount=1, SecondaryPrivateIpAddressCount=1),
    errors.BAD_COMBINATION,
)
case(
    "negative count",
    nothing,
    lambda a, _: assign(a, SecondaryPrivateIpAddressCount=-1),
    errors.INVALID_VALUE,
    value=-1,
    name="count",
    why="Must not be negative.",
)
case(
    "named twice",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3", "10.0.3.3"]),
    errors.INVALID_VALUE,
    value="10.0.3.3, 10.0.3.3",
    name="address",
    why="Named twice.",
)
case(
    "two primaries",
    nothing,
    lambda a, _: a.new(
        PrivateIpAddress="10.0.3.3", PrivateIpAddresses=[{"PrivateIpAddress": "10.0.3.4", "Primary": True}]
    ),
    errors.BAD_COMBINATION,
)

# IPv6
case(
    "no IPv6 subnet",
    lambda a: a.new(SubnetId=a.small.subnet_id),
    lambda a, e: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=e, Ipv6AddressCount=1),
    errors.NO_IPV6_SUBNET,
    subnet="{small}",
)
case(
    "too many IPv6",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6AddressCount=16),
    errors.LIMIT_IPV6,
)
case(
    "IPv6 elsewhere",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:2::5"]),
    errors.NOT_IN_SUBNET,
)
case(
    "IPv6 reserved",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:1::3"]),
    errors.RESERVED,
)
case(
    "IPv6 in use",
    lambda a: a.truth.assign_ipv6(a.eni, addresses=["fd00:ec2:0:1::5"]),
    lambda a, _: a.new(Ipv6Addresses=[{"Ipv6Address": "fd00:ec2:0:1::5"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 in a prefix",
    lambda a: a.truth.assign_ipv6(a.eni, prefixes=["fd00:ec2:0:1:7::/80"]),
    lambda a, _: a.new(Ipv6Addresses=[{"Ipv6Address": "fd00:ec2:0:1:7::5"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 prefix over an address",
    lambda a: a.truth.assign_ipv6(a.eni, addresses=["fd00:ec2:0:1:7::5"]),
    lambda a, _: a.new(Ipv6Prefixes=[{"Ipv6Prefix": "fd00:ec2:0:1:7::/80"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 prefix length",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Prefixes=["fd00:ec2:0:1:7::/96"]),
    errors.BAD_PREFIX,
)
case(
    "unassign foreign IPv6",
    nothing,
    lambda a, _: a.ec2.unassign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:1::5"]),
    errors.NOT_ASSIGNED,
)

# tags and launches
case(
    "too many tags",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": str(n), "Value": ""} for n in range(51)]),
    errors.LIMIT_TAGS,
)
case(
    "tag of AWS",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "aws:x", "Value": ""}]),
    errors.BAD_TAG,
    why="Tag keys starting with 'aws:' are reserved for internal use: 'aws:x'",
)
case(
    "long tag",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "k" * 129, "Value": ""}]),
    errors.BAD_TAG,
    why="Tag key must be between 1 and 128 characters: 'kkk",
)
case(
    "tag twice",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "k", "Value": ""}] * 2),
    errors.INVALID_VALUE,
    value="k",
    name="Tag.Key",
    why="Given twice.",
)
case(
    "hop limit",
    nothing,
    lambda a, _: run(a, MetadataOptions={"HttpPutResponseHopLimit": 65}),
    errors.INVALID_VALUE,
    value=65,
    name="HttpPutResponseHopLimit",
    why="From 1 to 64.",
)
case(
    "launch zone",
    nothing,
    lambda a, _: run(a, Placement={"AvailabilityZone": "us-west-2b"}),
    errors.INVALID_VALUE,
    value="us-west-2b",
    name="availabilityZone",
    why="The subnet is in another zone.",
)
case(
    "dry run",
    nothing,
    lambda a, _: a.ec2.delete_network_interface(NetworkInterfaceId=a.eni, DryRun=True),
    errors.DRY_RUN,
)
