"""The EC2 actions on the addresses and prefixes of network interfaces."""

from __future__ import annotations

from sandbox.ec2.actions.registry import Call, Result, action, wanted6


@action(
    "AssignPrivateIpAddresses",
    "NetworkInterfaceId PrivateIpAddresses SecondaryPrivateIpAddressCount Ipv4PrefixCount Ipv4Prefixes",
    "AllowReassignment",
)
def assign_private_ip_addresses(call: Call) -> Result:
    """Answers with what is new, not with all that the ENI holds (API reference, response elements)."""
    members = call.members
    addresses, prefixes = call.truth.assign_ipv4(
        members["NetworkInterfaceId"],
        addresses=members.get("PrivateIpAddresses", ()),
        count=members.get("SecondaryPrivateIpAddressCount", 0),
        prefixes=members.get("Ipv4Prefixes", ()),
        prefix_count=members.get("Ipv4PrefixCount", 0),
        allow_reassignment=members.get("AllowReassignment", False),
    )
    return {
        "NetworkInterfaceId": members["NetworkInterfaceId"],
        "AssignedPrivateIpAddresses": [{"PrivateIpAddress": address} for address in addresses],
        "AssignedIpv4Prefixes": [{"Ipv4Prefix": prefix} for prefix in prefixes],
    }


@action("UnassignPrivateIpAddresses", "NetworkInterfaceId PrivateIpAddresses Ipv4Prefixes")
def unassign_private_ip_addresses(call: Call) -> Result:
    members = call.members
    call.truth.unassign_ipv4(
        members["NetworkInterfaceId"],
        addresses=members.get("PrivateIpAddresses", ()),
        prefixes=members.get("Ipv4Prefixes", ()),
    )
    return {}


@action("AssignIpv6Addresses", "NetworkInterfaceId Ipv6AddressCount Ipv6Addresses Ipv6PrefixCount Ipv6Prefixes")
def assign_ipv6_addresses(call: Call) -> Result:
    wanted = wanted6(call.members, flat=True)
    addresses, prefixes = call.truth.assign_ipv6(
        call.members["NetworkInterfaceId"],
        addresses=wanted.addresses,
        count=wanted.count,
        prefixes=wanted.prefixes,
        prefix_count=wanted.prefix_count,
    )
    return {
        "NetworkInterfaceId": call.members["NetworkInterfaceId"],
        "AssignedIpv6Addresses": addresses,
        "AssignedIpv6Prefixes": prefixes,
    }


@action("UnassignIpv6Addresses", "NetworkInterfaceId Ipv6Addresses Ipv6Prefixes")
def unassign_ipv6_addresses(call: Call) -> Result:
    members = call.members
    addresses, prefixes = call.truth.unassign_ipv6(
        members["NetworkInterfaceId"],
        addresses=members.get("Ipv6Addresses", ()),
        prefixes=members.get("Ipv6Prefixes", ()),
    )
    return {
        "NetworkInterfaceId": members["NetworkInterfaceId"],
        "UnassignedIpv6Addresses": addresses,
        "UnassignedIpv6Prefixes": prefixes,
    }
