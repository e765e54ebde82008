"""What the instance metadata says: the tree below /latest of one instance, and the list of all its paths.

Names, values and what is absent when are those of the EC2 user guide, "Instance metadata categories", "Instance
identity documents", "Spot Instance interruption notices", "EC2 instance rebalance recommendations" and, for
`autoscaling`, the Auto Scaling guide, "Retrieve the target lifecycle state". `PATHS` says what each path is; a path
that is not in it is answered with 404, as AWS answers for what an instance has none of.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import msgspec

from sandbox.ec2.records import Eni, Instance
from sandbox.ec2.truth import Truth

Tree = dict[str, Any]  # name to text, Tree, or Lazy; None: not there
MAC: Final = "{mac}"
ANY_MAC: Final = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
TargetState = Literal[
    "",
    "Detached",
    "InService",
    "Standby",
    "Terminated",
    "Warmed:Hibernated",
    "Warmed:Running",
    "Warmed:Stopped",
    "Warmed:Terminated",
]
PATHS: Final = {
    "dynamic/instance-identity/document": "the identity document, JSON; not signed",
    "meta-data/ami-id": "",
    "meta-data/ami-launch-index": "always 0",
    "meta-data/ami-manifest-path": "always (unknown), as with images on EBS",
    "meta-data/autoscaling/target-lifecycle-state": "404 until a notice sets it",
    "meta-data/events/maintenance/history": "always an empty list",
    "meta-data/events/maintenance/scheduled": "always an empty list",
    "meta-data/events/recommendations/rebalance": "404 until a notice sets it",
    "meta-data/hibernation/configured": "always false",
    "meta-data/hostname": "",
    "meta-data/instance-action": "always none",
    "meta-data/instance-id": "",
    "meta-data/instance-life-cycle": "on-demand until a notice says otherwise",
    "meta-data/instance-type": "",
    "meta-data/ipv6": "the first IPv6 address of the primary ENI",
    "meta-data/local-hostname": "",
    "meta-data/local-ipv4": "",
    "meta-data/mac": "of the primary ENI",
    f"meta-data/network/interfaces/macs/{MAC}/device-number": "",
    f"meta-data/network/interfaces/macs/{MAC}/interface-id": "",
    f"meta-data/network/interfaces/macs/{MAC}/ipv4-prefix": "/28 prefixes",
    f"meta-data/network/interfaces/macs/{MAC}/ipv6-prefix": "/80 prefixes",
    f"meta-data/network/interfaces/macs/{MAC}/ipv6s": "",
    f"meta-data/network/interfaces/macs/{MAC}/local-hostname": "",
    f"meta-data/network/interfaces/macs/{MAC}/local-ipv4s": "the primary address first",
    f"meta-data/network/interfaces/macs/{MAC}/mac": "",
    f"meta-data/network/interfaces/macs/{MAC}/network-card": "index of the card, on types that have several",
    f"meta-data/network/interfaces/macs/{MAC}/owner-id": "",
    f"meta-data/network/interfaces/macs/{MAC}/security-group-ids": "",
    f"meta-data/network/interfaces/macs/{MAC}/security-groups": "their names",
    f"meta-data/network/interfaces/macs/{MAC}/subnet-id": "",
    f"meta-data/network/interfaces/macs/{MAC}/subnet-ipv4-cidr-block": "",
    f"meta-data/network/interfaces/macs/{MAC}/subnet-ipv6-cidr-blocks": "",
    f"meta-data/network/interfaces/macs/{MAC}/vpc-id": "",
    f"meta-data/network/interfaces/macs/{MAC}/vpc-ipv4-cidr-block": "the primary block",
    f"meta-data/network/interfaces/macs/{MAC}/vpc-ipv4-cidr-blocks": "",
    f"meta-data/network/interfaces/macs/{MAC}/vpc-ipv6-cidr-blocks": "",
    "meta-data/placement/availability-zone": "",
    "meta-data/placement/availability-zone-id": "",
    "meta-data/placement/region": "",
    "meta-data/profile": "always default-hvm",
    "meta-data/public-keys/0/openssh-key": "a made-up key, if the instance has a key pair; listed as 0=NAME",
    "meta-data/reservation-id": "",
    "meta-data/security-groups": "names of the primary ENI's groups",
    "meta-data/services/domain": "amazonaws.com",
    "meta-data/services/partition": "aws",
    "meta-data/spot/instance-action": "404 until a notice sets it",
    "meta-data/spot/termination-time": "404 until a notice of a termination sets it",
    "meta-data/system": "nitro or xen",
    "meta-data/tags/instance/{key}": "404 until a notice allows it",
    "user-data": "404 if the instance has none",
}


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an instance is told of its own life, from now on. `instance`: pattern of its id or Name tag.

    `spot_action`: the interruption that comes `spot_seconds` from now. `rebalance`: a recommendation as of now.
    `target_state`: of its Auto Scaling group. `tags`: whether it may see its tags. `endpoint`: whether the service
    is enabled (if not, every request is answered with 403).
    """

    instance: str = "*"
    life_cycle: Literal["on-demand", "spot", "scheduled", "capacity-block"] = "on-demand"
    spot_action: Literal["", "terminate", "stop", "hibernate"] = ""
    spot_seconds: float = 120.0
    rebalance: bool = False
    target_state: TargetState = ""
    tags: bool = False
    endpoint: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """A notice and when it was given."""

    notice: Notice
    at: float


@dataclass(frozen=True, slots=True)
class Lazy:
    """A folder that is made when somebody looks into it: an ENI may hold thousands of addresses."""

    make: Callable[[], Tree]


def build(truth: Truth, instance: Instance, told: Told | None) -> Tree:
    """The tree of an instance as the metadata shows it now. The caller holds the truth's lock."""
    seen = truth.imds.see(instance.instance_id, instance) or instance
    enis = [eni for eni in truth.enis_of(instance.instance_id, truth.imds) if eni.plugged]
    primary = next((eni for eni in enis if eni.device == 0 and eni.card == 0), None)
    kind = truth.types.get(instance.instance_type)
    several_cards = len(kind.cards) > 1
    macs: Tree = {
        eni.mac: Lazy(partial(_eni, truth, eni, several_cards)) for eni in sorted(enis, key=lambda eni: eni.mac)
    }
    name = _host_name(seen.private_ip, truth.region)
    life = told.notice if told is not None else Notice()
    meta: Tree = {
        "ami-id": seen.image_id,
        "ami-launch-index": "0",
        "ami-manifest-path": "(unknown)",
        "autoscaling": {"target-lifecycle-state": life.target_state} if life.target_state else None,
        "events": _events(told),
        "hibernation": {"configured": "false"},
        "hostname": name,
        "instance-action": "none",
        "instance-id": seen.instance_id,
        "instance-life-cycle": life.life_cycle,
        "instance-type": seen.instance_type,
        "ipv6": primary.ipv6_addresses[0] if primary and primary.ipv6_addresses else None,
        "local-hostname": name,
        "local-ipv4": seen.private_ip,
        "mac": primary.mac if primary else None,
        "network": {"interfaces": {"macs": macs}},
        "placement": {
            "availability-zone": seen.zone,
            "availability-zone-id": truth.imds.named(truth.subnets, seen.subnet_id).zone_id,
            "region": truth.region,
        },
        "profile": "default-hvm",
        "public-keys": _keys(seen) if seen.key_name else None,
        "reservation-id": seen.reservation_id,
        "security-groups": _group_names(truth, primary) if primary else None,
        "services": {"domain": "amazonaws.com", "partition": "aws"},
        "spot": _spot(told),
        "system": "xen" if kind.hypervisor == "xen" else "nitro",
        "tags": {"instance": dict(seen.tags)} if life.tags else None,
    }
    dynamic: Tree = {"instance-identity": Lazy(lambda: {"document": _document(truth, seen)})}
    latest: Tree = {"dynamic": dynamic, "meta-data": meta}
    if seen.user_data:
        latest["user-data"] = seen.user_data.decode("utf-8", "replace")
    return {"latest": latest}


def find(tree: Tree, path: str, hidden: Callable[[str], bool]) -> str | None:
    """The text at a path: a leaf, or a folder's listing; None if there is none. `hidden` takes paths away.

    Listings mark folders with `/`, but not at the top, and keys as `0=NAME`, as AWS does; a slash behind a path
    changes nothing.
    """
    node: Any = tree
    parts = [part for part in path.split("/") if part]
    for number, part in enumerate(parts, 1):
        if not isinstance(node, dict) or node.get(part) is None or hidden("/".join(parts[1:number])):
            return None
        node = node[part]
        if isinstance(node, Lazy):
            node = node.make()
    if not isinstance(node, dict):
        return str(node)
    if parts[-1:] == ["public-keys"]:
        return "\n".join(f"{number}={keys['name']}" for number, keys in node.items())
    mark = "/" if len(parts) > 1 else ""
    return "\n".join(
        f"{name}{mark}" if isinstance(below, dict | Lazy) else name
        for name, below in node.items()
        if below is not None and name != "name" and not hidden("/".join((*parts[1:], name)))
    )


def _eni(truth: Truth, eni: Eni, several_cards: bool) -> Tree:
    """One MAC's folder; what an ENI has none of is not listed."""
    subnet = truth.imds.named(truth.subnets, eni.subnet_id)
    vpc = truth.imds.named(truth.vpcs, eni.vpc_id)
    tree: Tree = {
        "device-number": str(eni.device),
        "interface-id": eni.eni_id,
        "ipv4-prefix": "\n".join(eni.prefixes) or None,
        "ipv6-prefix": "\n".join(eni.ipv6_prefixes) or None,
        "ipv6s": "\n".join(eni.ipv6_addresses) or None,
        "local-hostname": _host_name(eni.primary_ip, truth.region) if eni.addresses else None,
        "local-ipv4s": "\n".join(eni.addresses) or None,
        "mac": eni.mac,
        # The guide's table; the network plugins that look for it know it by this name.
        "network-card": str(eni.card) if several_cards else None,
        "owner-id": truth.account,
        "security-group-ids": "\n".join(eni.groups),
        "security-groups": _group_names(truth, eni),
        "subnet-id": subnet.subnet_id,
        "subnet-ipv4-cidr-block": str(subnet.cidr),
        "subnet-ipv6-cidr-blocks": str(subnet.ipv6_cidr) if subnet.ipv6_cidr else None,
        "vpc-id": vpc.vpc_id,
        "vpc-ipv4-cidr-block": str(vpc.cidrs[0]),
        "vpc-ipv4-cidr-blocks": "\n".join(map(str, vpc.cidrs)),
        "vpc-ipv6-cidr-blocks": "\n".join(map(str, vpc.ipv6_cidrs)) or None,
    }
    return {name: text for name, text in tree.items() if text is not None}


def _group_names(truth: Truth, eni: Eni) -> str:
    return "\n".join(truth.imds.named(truth.groups, group_id).name for group_id in eni.groups)


def _events(told: Told | None) -> Tree:
    events: Tree = {"maintenance": {"history": "[]", "scheduled": "[]"}}
    if told is not None and told.notice.rebalance:
        events["recommendations"] = {"rebalance": json.dumps({"noticeTime": _when(told.at)})}
    return events


def _spot(told: Told | None) -> Tree | None:
    if told is None or not told.notice.spot_action:
        return None
    when = _when(told.at + told.notice.spot_seconds)
    spot: Tree = {"instance-action": json.dumps({"action": told.notice.spot_action, "time": when})}
    if told.notice.spot_action == "terminate":
        spot["termination-time"] = when
    return spot


def _keys(instance: Instance) -> Tree:
    """`name` is for the listing only."""
    return {"0": {"name": instance.key_name, "openssh-key": f"ssh-ed25519 c2FuZGJveA== {instance.key_name}"}}


def _document(truth: Truth, instance: Instance) -> str:
    """The instance identity document; it is not signed here."""
    document = {
        "accountId": truth.account,
        "architecture": truth.types.get(instance.instance_type).architectures[0],
        "availabilityZone": instance.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "imageId": instance.image_id,
        "instanceId": instance.instance_id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "marketplaceProductCodes": None,
        "pendingTime": _when(instance.launched_at),
        "privateIp": instance.private_ip,
        "ramdiskId": None,
        "region": truth.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _host_name(address: str, region: str) -> str:
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"
