"""The EC2 actions on instances and instance types."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.enis import (
    attachment_result,
    dns_name,
    group_list,
    groups_of,
    interface_result,
    named_addresses,
)
from sandbox.ec2.actions.registry import (
    FILTERS,
    PAGING,
    TAG_SPECS,
    Call,
    Getter,
    Result,
    action,
    listed,
    lower,
    page,
    select,
    tag_set,
    tags_for,
    wanted6,
    within,
)
from sandbox.ec2.limits import InstanceType
from sandbox.ec2.records import NO_TAGS, Eni, Instance
from sandbox.ec2.views import Reader

MOST_USER_DATA: Final = 16_384  # bytes; EC2 guide, "Run commands when you launch an EC2 instance with user data input"
# What AWS makes at a launch and tags, and what is not made here.
NOT_MADE: Final = {"elastic-gpu", "spot-instances-request", "volume"}
STATE_CODES: Final = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


def state_result(name: str) -> Result:
    """A state with its code."""
    return {"Code": STATE_CODES[name], "Name": name}


def state_changes(before: Iterable[Instance], becomes: Mapping[str, str]) -> list[Result]:
    """What a change of the states of instances answers; `becomes`: the states that change."""
    return [
        {
            "InstanceId": instance.instance_id,
            "CurrentState": state_result(becomes.get(instance.state, instance.state)),
            "PreviousState": state_result(instance.state),
        }
        for instance in before
    ]


def _interface(call: Call, eni: Eni) -> Result:
    """An ENI as an instance shows it; its groups are its own."""
    attachment = eni.attachment
    if attachment is None:
        raise AssertionError(f"{eni.eni_id} is not attached")
    return {
        **interface_result(call, eni, groups_of(call, eni)),
        "Attachment": attachment_result(attachment),
    }


def _instance(call: Call, instance: Instance, reader: Reader | None) -> Result:
    """An instance; a terminated one has lost its network (EC2 guide, "Terminate instances")."""
    gone = instance.state == "terminated"
    enis = () if gone else call.truth.enis_of(instance.instance_id, reader)
    primary = next((eni for eni in enis if eni.card == 0 and eni.device == 0), None)
    kind = call.truth.types.get(instance.instance_type)
    return {
        "AmiLaunchIndex": 0,
        "Architecture": kind.architectures[0],
        "EnaSupport": True,
        "Hypervisor": "xen",  # what AWS says whatever the hypervisor
        "ImageId": instance.image_id,
        "InstanceId": instance.instance_id,
        "InstanceType": instance.instance_type,
        "Ipv6Address": next(iter(primary.ipv6_addresses), None) if primary else None,
        "KeyName": instance.key_name or None,
        "LaunchTime": instance.launched_at,
        "MetadataOptions": metadata_options(call, instance),
        "Monitoring": {"State": "disabled"},
        "NetworkInterfaces": [_interface(call, eni) for eni in enis],
        "Placement": {"AvailabilityZone": instance.zone, "GroupName": "", "Tenancy": "default"},
        "PrivateDnsName": "" if gone else dns_name(call, instance.private_ip),
        "PrivateIpAddress": None if gone else instance.private_ip,
        "PublicDnsName": "",
        "SecurityGroups": group_list(groups_of(call, primary)) if primary else [],
        "SourceDestCheck": primary.source_dest_check if primary else None,
        "State": state_result(instance.state),
        "StateReason": _state_reason(instance),
        "StateTransitionReason": _transition_reason(instance),
        "SubnetId": None if gone else instance.subnet_id,
        "Tags": tag_set(instance.tags),
        "VirtualizationType": "hvm",
        "VpcId": None if gone else instance.vpc_id,
    }


def _state_reason(instance: Instance) -> Result | None:
    """API reference, StateReason: codes and their messages; an instance that runs has none."""
    if instance.state == "pending":
        return {"Code": "pending", "Message": "pending"}
    if instance.ended_at is None:
        return None
    code = "Client.UserInitiatedShutdown"
    return {"Code": code, "Message": f"{code}: User initiated shutdown"}


def _transition_reason(instance: Instance) -> str:
    """As in the EC2 guide, "Troubleshoot instance termination": why and when; empty of one that runs."""
    if instance.ended_at is None:
        return ""
    at = datetime.fromtimestamp(instance.ended_at, UTC)
    return f"User initiated ({at:%Y-%m-%d %H:%M:%S} GMT)"


def metadata_options(call: Call, instance: Instance) -> Result:
    """The options of the metadata service as answers show them."""
    return {
        "State": "applied",
        "HttpTokens": "required" if instance.tokens_required else "optional",
        "HttpPutResponseHopLimit": instance.hop_limit,
        "HttpEndpoint": "enabled" if instance.metadata_on else "disabled",
        "HttpProtocolIpv6": "enabled" if call.truth.metadata_ipv6 else "disabled",
        "InstanceMetadataTags": "disabled",
    }


def _reservation(call: Call, instance: Instance, reader: Reader | None = None) -> Result:
    """`reader`: the view whose ENIs it has; without one, those that it has in truth. The caller holds the lock."""
    return {
        "Groups": [],
        "Instances": [_instance(call, instance, reader)],
        "OwnerId": call.truth.account,
        "ReservationId": instance.reservation_id,
    }


def _while_wired(get: Getter[Instance]) -> Getter[Instance]:
    """Filters see what answers show: of a terminated instance nothing of its network."""
    return lambda call, instance: () if instance.state == "terminated" else get(call, instance)


INSTANCE_FILTERS: Final[dict[str, Getter[Instance]]] = {
    "availability-zone": lambda _c, i: (i.zone,),
    "image-id": lambda _c, i: (i.image_id,),
    "instance-id": lambda _c, i: (i.instance_id,),
    "instance-state-code": lambda _c, i: (str(STATE_CODES[i.state]),),
    "instance-state-name": lambda _c, i: (i.state,),
    "instance-type": lambda _c, i: (i.instance_type,),
    "network-interface.network-interface-id": lambda c, i: [
        eni.eni_id for eni in c.truth.enis_of(i.instance_id, c.reader)
    ],
    "private-dns-name": _while_wired(lambda c, i: (dns_name(c, i.private_ip),)),
    "private-ip-address": _while_wired(lambda _c, i: (i.private_ip,)),
    "reservation-id": lambda _c, i: (i.reservation_id,),
    "subnet-id": _while_wired(lambda _c, i: (i.subnet_id,)),
    "vpc-id": _while_wired(lambda _c, i: (i.vpc_id,)),
}


@action("DescribeInstances", "InstanceIds", *FILTERS, *PAGING, filters=INSTANCE_FILTERS)
def describe_instances(call: Call) -> Result:
    with call.truth.lock:
        table = call.truth.instances
        shown, token = listed(call, "InstanceIds", table, "i-", errors.NO_INSTANCE, INSTANCE_FILTERS)
        return {"Reservations": [_reservation(call, instance, call.reader) for instance in shown], "NextToken": token}


@action(
    "RunInstances",
    "ImageId InstanceType MinCount MaxCount SubnetId SecurityGroupIds PrivateIpAddress KeyName UserData ClientToken",
    "Ipv6AddressCount Ipv6Addresses.Ipv6Address",
    "MetadataOptions.HttpTokens MetadataOptions.HttpPutResponseHopLimit MetadataOptions.HttpEndpoint",
    "Placement.AvailabilityZone",
    "NetworkInterfaces.DeviceIndex NetworkInterfaces.NetworkCardIndex NetworkInterfaces.SubnetId",
    "NetworkInterfaces.Groups NetworkInterfaces.Description NetworkInterfaces.DeleteOnTermination",
    "NetworkInterfaces.PrivateIpAddress NetworkInterfaces.SecondaryPrivateIpAddressCount",
    "NetworkInterfaces.PrivateIpAddresses.PrivateIpAddress NetworkInterfaces.PrivateIpAddresses.Primary",
    "NetworkInterfaces.Ipv4PrefixCount NetworkInterfaces.Ipv4Prefixes.Ipv4Prefix",
    "NetworkInterfaces.Ipv6AddressCount NetworkInterfaces.Ipv6Addresses.Ipv6Address",
    "NetworkInterfaces.Ipv6PrefixCount NetworkInterfaces.Ipv6Prefixes.Ipv6Prefix",
    *TAG_SPECS,
)
def run_instances(call: Call) -> Result:
    """Without launch templates an image must be named. User data is shown in the metadata and not run."""
    members = call.members
    if "ImageId" not in members:
        raise errors.MISSING_PARAMETER(name="ImageId")
    if members["MinCount"] != 1 or members["MaxCount"] != 1:
        raise errors.NOT_SIMULATED(what="MinCount and MaxCount other than 1 of action RunInstances")
    if "InstanceType" not in members:
        raise errors.NOT_SIMULATED(what="RunInstances without InstanceType")
    network = _launch_network(call)
    if "SubnetId" not in network:
        raise errors.NOT_SIMULATED(what="RunInstances without a subnet (default VPCs)")
    zone = members.get("Placement", {}).get("AvailabilityZone")
    if zone is not None and call.truth.subnet(network["SubnetId"]).zone != zone:
        raise errors.INVALID_VALUE(value=zone, name="availabilityZone", why="The subnet is in another zone.")
    options, defaults = members.get("MetadataOptions", {}), call.truth.metadata_defaults
    primary, secondary = named_addresses(network)
    user_data = _user_data(members.get("UserData", ""))
    if unmade := {spec.get("ResourceType", "") for spec in members.get("TagSpecifications", ())} & NOT_MADE:
        raise errors.NOT_SIMULATED(what=f"tags for {min(unmade)} of action RunInstances")

    def make() -> Instance:
        return call.truth.run_instance(
            members["InstanceType"],
            network["SubnetId"],
            groups=network.get("Groups", ()),
            private_ip=primary,
            addresses=secondary,
            count=network.get("SecondaryPrivateIpAddressCount", 0),
            prefixes=within(network, "Ipv4Prefixes", "Ipv4Prefix"),
            prefix_count=network.get("Ipv4PrefixCount", 0),
            ipv6=wanted6(network),
            delete_on_termination=network.get("DeleteOnTermination", True),
            description=network.get("Description", ""),
            hop_limit=options.get("HttpPutResponseHopLimit", defaults.hop_limit or 1),
            tokens_required=options.get("HttpTokens", defaults.tokens or "required") == "required",
            metadata_on=options.get("HttpEndpoint", defaults.endpoint or "enabled") == "enabled",
            image_id=members["ImageId"],
            key_name=members.get("KeyName", ""),
            user_data=user_data,
            tags=tags_for(call, "instance", "network-interface"),
            eni_tags=tags_for(call, "network-interface", "instance"),
        )

    def find(instance_id: str) -> Instance:
        found = call.truth.instances.get(instance_id)
        if found is None or found.state in ("shutting-down", "terminated"):
            raise errors.TOKEN_OF_THE_DEAD()
        # As the first answer to the token, given while the instance was on its way to `running`.
        return replace(found, state="pending") if found.state == "running" else found

    instance = call.once(make, find)
    with call.truth.lock:
        return _reservation(call, instance)


def _user_data(text: str) -> bytes:
    """API reference, RunInstances: the text is base64, and the instance sees what it says.

    Raises BAD_USER_DATA, LONG_USER_DATA.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise errors.BAD_USER_DATA() from None
    if len(data) > MOST_USER_DATA:
        raise errors.LONG_USER_DATA(most=MOST_USER_DATA)
    return data


def _launch_network(call: Call) -> dict[str, Any]:
    """The members that describe the primary ENI, wherever the request puts them."""
    members = call.members
    top = {
        name: members[member]
        for name, member in (
            ("SubnetId", "SubnetId"),
            ("Groups", "SecurityGroupIds"),
            ("PrivateIpAddress", "PrivateIpAddress"),
            ("Ipv6AddressCount", "Ipv6AddressCount"),
            ("Ipv6Addresses", "Ipv6Addresses"),
        )
        if member in members
    }
    interfaces: list[dict[str, Any]] = members.get("NetworkInterfaces", [])
    if not interfaces:
        return top
    if top:
        raise errors.BAD_COMBINATION(
            why="Network interfaces and an instance-level subnet ID may not be specified on the same request"
        )
    if len(interfaces) > 1 or interfaces[0].get("DeviceIndex") != 0 or interfaces[0].get("NetworkCardIndex", 0) != 0:
        raise errors.NOT_SIMULATED(what="NetworkInterfaces other than one at device index 0 of action RunInstances")
    return interfaces[0]


@action("TerminateInstances", "InstanceIds")
def terminate_instances(call: Call) -> Result:
    found = call.truth.terminate_instances(call.members["InstanceIds"])
    becomes = {state: "shutting-down" for state in STATE_CODES if state != "terminated"}
    return {"TerminatingInstances": state_changes(found, becomes)}


# --- types ------------------------------------------------------------------------------------------------------

TYPE_FILTERS: Final[dict[str, Getter[InstanceType]]] = {
    "bare-metal": lambda _c, t: (lower(t.bare_metal),),
    "hypervisor": lambda _c, t: (t.hypervisor,) if t.hypervisor else (),
    "instance-type": lambda _c, t: (t.name,),
    "network-info.efa-supported": lambda _c, t: (lower(t.efa),),
    "network-info.maximum-network-interfaces": lambda _c, t: (str(t.enis),),
    "processor-info.supported-architecture": lambda _c, t: t.architectures,
}


def _type(kind: InstanceType) -> Result:
    return {
        "BareMetal": kind.bare_metal,
        "Hypervisor": kind.hypervisor or None,
        "InstanceType": kind.name,
        "MemoryInfo": {"SizeInMiB": kind.memory_mib},
        "NetworkInfo": {
            "DefaultNetworkCardIndex": kind.default_card,
            "EfaSupported": kind.efa,
            "Ipv4AddressesPerInterface": kind.ipv4_per_eni,
            "Ipv6AddressesPerInterface": kind.ipv6_per_eni,
            "Ipv6Supported": kind.ipv6_per_eni > 0,
            "MaximumNetworkCards": len(kind.cards),
            "MaximumNetworkInterfaces": kind.enis,
            "NetworkCards": [
                {"NetworkCardIndex": index, "MaximumNetworkInterfaces": most} for index, most in enumerate(kind.cards)
            ],
        },
        "ProcessorInfo": {"SupportedArchitectures": kind.architectures},
        "VCpuInfo": {"DefaultVCpus": kind.vcpus},
    }


@action("DescribeInstanceTypes", "InstanceTypes", *FILTERS, *PAGING, filters=TYPE_FILTERS)
def describe_instance_types(call: Call) -> Result:
    """Pages of 100 even if not asked for (API reference: MaxResults from 5 to 100). `CurrentGeneration` is not told."""
    types = call.truth.types
    names = call.members.get("InstanceTypes")
    if names and len(names) > 100:
        raise errors.INVALID_VALUE(value=len(names), name="InstanceType", why="At most 100 can be named.")
    with call.truth.lock:
        every = [types.get(name) for name in dict.fromkeys(names)] if names else list(types)
        found = select(call, every, TYPE_FILTERS, lambda _kind: NO_TAGS)
        shown, token = page(call, found, lambda kind: kind.name, ids="InstanceTypes", most=100, default=100)
        return {"InstanceTypes": [_type(kind) for kind in shown], "NextToken": token}
