"""Requests by chance for every EC2 action there is, as somebody makes them who cares for nothing.

Most of them could be granted, since ids and addresses are taken from what is there; some name what is gone, what is
taken, or too much. They depend on the truth and the generator alone, so a run can be repeated.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from typing import Final

from sandbox.ec2.actions.registry import ACTIONS
from sandbox.ec2.api import actions
from sandbox.ec2.truth import DEFAULT_IMAGE, Truth
from tests.sandbox.ec2_anybody_parts import NOWHERE, TABLES, Parts, Request

TYPES: Final = (
    "sandbox.room",
    "sandbox.tight",
    "sandbox.xen",
    "sandbox.cards",
    "sandbox.trunk",
    "m5.large",
    "none.none",
)
READING: Final = [name for name in actions() if name.startswith(("Describe", "Get"))]
CHANGING: Final = [name for name in actions() if name not in READING]
# How often an action is asked for, if not once in a turn: so that an account fills.
OFTEN: Final = {
    "CreateNetworkInterface": 16, "AssignPrivateIpAddresses": 14, "UnassignPrivateIpAddresses": 6,
    "AttachNetworkInterface": 10, "AssignIpv6Addresses": 8, "UnassignIpv6Addresses": 4, "RunInstances": 6,
    "DetachNetworkInterface": 3, "DeleteNetworkInterface": 3, "ModifyNetworkInterfaceAttribute": 6,
    "AssociateTrunkInterface": 4, "CreateTags": 2, "CreateSecurityGroup": 2, "AuthorizeSecurityGroupIngress": 2,
    "StartInstances": 3, "DeleteVpc": 2, "DeleteSecurityGroup": 2, "CreateSubnet": 2,
    "CreateNetworkInterfacePermission": 2,
}  # fmt: skip


class Anybody(Parts):
    """`changing` and `reading` make requests."""

    def __init__(self, truth: Truth, rng: random.Random) -> None:
        super().__init__(truth, rng)
        self._actions = [name for name in CHANGING for _ in range(OFTEN.get(name, 1))]
        self._makers: dict[str, Callable[[], Request]] = {name: getattr(self, f"_{_snake(name)}") for name in CHANGING}

    def changing(self) -> tuple[str, Request]:
        """An action that changes something, and its request."""
        action = self.rng.choice(self._actions)
        return action, self._makers[action]()

    def reading(self) -> tuple[str, Request]:
        """An action that only looks, and its request: everything, ids, or a filter, some in pages."""
        action = self.rng.choice(READING)
        if action == "GetSubnetCidrReservations":
            return action, {"SubnetId": self.one(self.truth.subnets, "subnet")}
        if action == "GetInstanceMetadataDefaults":
            return action, {}
        request: Request = {}
        known = ACTIONS[action]
        ids = sorted(known.members - {"DryRun", "MaxResults", "NextToken", "Filters.Name", "Filters.Values"})
        way = self.rng.randrange(4)
        if way == 0 and ids and ids[0] in TABLES:
            request[ids[0]] = [self.known(ids[0]) for _ in range(self.rng.randrange(1, 3))]
        elif way == 1 and known.filters:
            name = self.rng.choice(known.filters)
            request["Filters"] = [{"Name": name, "Values": [self.rng.choice(("*", "?*", "in-use", "0", "i-*"))]}]
        elif way == 2:
            request["MaxResults"] = self.rng.randrange(5, 20)
        return action, request

    # --- VPCs, subnets, tags ------------------------------------------------------------------------------------

    def _create_vpc(self) -> Request:
        six = {"AmazonProvidedIpv6CidrBlock": True} if self.rng.random() < 0.5 else {}
        return {"CidrBlock": f"10.{self.rng.randrange(8)}.0.0/{self.rng.randrange(15, 18)}", **six, **self.tags("vpc")}

    def _delete_vpc(self) -> Request:
        defaults = {vpc.default_group_id for vpc in self.truth.vpcs.values()}
        own = [group for group in self.truth.groups.values() if group.group_id not in defaults]
        used = {one.vpc_id for one in [*self.truth.subnets.values(), *own]}
        empty = [vpc_id for vpc_id in self.truth.vpcs if vpc_id not in used]
        return {"VpcId": self.one(empty or self.truth.vpcs, "vpc")}

    def _associate_vpc_cidr_block(self) -> Request:
        if self.rng.random() < 0.3:
            return {"VpcId": self.one(self.truth.vpcs, "vpc"), "AmazonProvidedIpv6CidrBlock": True}
        return {"VpcId": self.one(self.truth.vpcs, "vpc"), "CidrBlock": f"10.{self.rng.randrange(8)}.0.0/16"}

    def _disassociate_vpc_cidr_block(self) -> Request:
        from sandbox.ec2.network import cidr_id

        every = [cidr_id(v.vpc_id, cidr) for v in self.truth.vpcs.values() for cidr in (*v.cidrs, *v.ipv6_cidrs)]
        return {"AssociationId": self.rng.choice(every) if every else "vpc-cidr-assoc-0"}

    def _create_subnet(self) -> Request:
        vpc = self.truth.vpcs.get(self.vpc())
        block = self.rng.choice(vpc.cidrs) if vpc else ipaddress.IPv4Network("10.0.0.0/16")
        cidr = f"{block[self.rng.randrange(8) * 256]}/{self.rng.choice((24, 25, 26, 28, 29))}"
        six = self.rng.choice(vpc.ipv6_cidrs) if vpc and vpc.ipv6_cidrs and self.rng.random() < 0.5 else None
        return {
            "VpcId": vpc.vpc_id if vpc else f"vpc-{NOWHERE}",
            "CidrBlock": cidr,
            "AvailabilityZone": self.rng.choice(("us-west-2a", "us-west-2a", "us-west-2b", "nowhere")),
            **({"Ipv6CidrBlock": f"{six[self.rng.randrange(16) << 64]}/64"} if six else {}),
            **self.tags("subnet"),
        }

    def _delete_subnet(self) -> Request:
        used = {eni.subnet_id for eni in self.truth.enis.values()}
        empty = [subnet_id for subnet_id in self.truth.subnets if subnet_id not in used]
        return {"SubnetId": self.one(empty or self.truth.subnets, "subnet")}

    def _create_subnet_cidr_reservation(self) -> Request:
        subnet = self.truth.subnets.get(self.one(self.truth.subnets, "subnet"))
        blocks = [block for block in (subnet.cidr, subnet.ipv6_cidr) if block] if subnet else []
        cidr = "10.0.0.0/28"
        if blocks:
            block = self.rng.choice(blocks)
            longer = self.rng.choice((0, 1, 2, 3, 4) if block.version == 6 else (2, 3, 4))
            length = min(block.prefixlen + longer, 28 if block.version == 4 else 80)
            size = 1 << (block.max_prefixlen - length)
            cidr = f"{block[self.rng.randrange(block.num_addresses // size) * size]}/{length}"
        return {
            "SubnetId": subnet.subnet_id if subnet else f"subnet-{NOWHERE}",
            "Cidr": cidr,
            "ReservationType": self.rng.choice(("prefix", "explicit")),
            **self.tags("subnet-cidr-reservation"),
        }

    def _delete_subnet_cidr_reservation(self) -> Request:
        return {"SubnetCidrReservationId": self.one(self.truth.reservations, "scr")}

    def _create_tags(self) -> Request:
        return {**self._tagged(), "Tags": [{"Key": f"k{self.rng.randrange(60)}", "Value": "v"}]}

    def _delete_tags(self) -> Request:
        return {**self._tagged(), **self.rng.choice(({}, {"Tags": [{"Key": f"k{self.rng.randrange(60)}"}]}))}

    def _tagged(self) -> Request:
        t = self.truth
        tables = (t.enis, t.enis, t.instances, t.subnets, t.vpcs, t.groups, t.reservations)
        return {"Resources": [self.one(self.rng.choice(tables), "eni") for _ in range(self.rng.randrange(1, 4))]}

    # --- network interfaces -------------------------------------------------------------------------------------

    def _create_network_interface(self) -> Request:
        kind = self.rng.choice(("", "", "", "trunk", "trunk", "branch", "efa", "efa-only"))
        return {
            **self.place(),
            **({"InterfaceType": kind} if kind else {}),
            **({"PrivateIpAddress": self.address()} if self.rng.random() < 0.2 else {}),
            **self.wanted(),
            **self.wanted6(),
            **self.token(),
            **self.tags("network-interface"),
        }

    def _attach_network_interface(self) -> Request:
        eni = self.eni_with(lambda one: one.status == "available" and one.interface_type != "branch")
        near = [i.instance_id for i in self.truth.instances.values() if eni and i.vpc_id == eni.vpc_id]
        return {
            "NetworkInterfaceId": eni.eni_id if eni else f"eni-{NOWHERE}",
            "InstanceId": self.one(near, "i"),
            "DeviceIndex": self.rng.randrange(4),
            "NetworkCardIndex": self.rng.choice((0, 0, 0, 1)),
        }

    def _detach_network_interface(self) -> Request:
        eni = self.eni_with(lambda one: one.attachment is not None and one.device)
        attachment = eni.attachment.attachment_id if eni and eni.attachment else f"eni-attach-{NOWHERE}"
        return {"AttachmentId": attachment, "Force": self.rng.random() < 0.3}

    def _delete_network_interface(self) -> Request:
        return {"NetworkInterfaceId": self.eni()}

    def _modify_network_interface_attribute(self) -> Request:
        eni = self.eni_with(lambda one: one.attachment is not None)
        attachment = eni.attachment.attachment_id if eni and eni.attachment else f"eni-attach-{NOWHERE}"
        way: Request = self.rng.choice(
            (
                {"Groups": self.place()["Groups"] or self.some(self.truth.groups, 6) or [f"sg-{NOWHERE}"]},
                {"Description": {"Value": f"d{self.rng.randrange(9)}"}},
                {"SourceDestCheck": {"Value": self.rng.random() < 0.5}},
                {"Attachment": {"AttachmentId": attachment, "DeleteOnTermination": self.rng.random() < 0.5}},
                {"ConnectionTrackingSpecification": {"UdpTimeout": self.rng.choice((30, 45, 61))}},
            )
        )
        return {"NetworkInterfaceId": eni.eni_id if eni and "Attachment" in way else self.eni(), **way}

    def _assign_private_ip_addresses(self) -> Request:
        wanted = self.wanted()
        for name, key in (("PrivateIpAddresses", "PrivateIpAddress"), ("Ipv4Prefixes", "Ipv4Prefix")):
            if name in wanted:
                wanted[name] = [one[key] for one in wanted[name]]
        if self.rng.random() < 0.2 and (other := self.eni_with(lambda one: len(one.addresses) > 1)):
            wanted = {"PrivateIpAddresses": self.some(other.addresses[1:], 2)}
        return {"NetworkInterfaceId": self.eni(), **wanted, "AllowReassignment": self.rng.random() < 0.4}

    def _unassign_private_ip_addresses(self) -> Request:
        eni = self.eni_with(lambda one: one.slots > 1)
        held = self.some([*eni.addresses[self.rng.random() > 0.05 :], *eni.prefixes], 3) if eni else [self.address()]
        return {
            "NetworkInterfaceId": eni.eni_id if eni else f"eni-{NOWHERE}",
            "PrivateIpAddresses": [one for one in held if "/" not in one],
            "Ipv4Prefixes": [one for one in held if "/" in one],
        }

    def _assign_ipv6_addresses(self) -> Request:
        wanted = self.wanted6()
        for name, key in (("Ipv6Addresses", "Ipv6Address"), ("Ipv6Prefixes", "Ipv6Prefix")):
            if name in wanted:
                wanted[name] = [one[key] for one in wanted[name]]
        eni = self.eni_with(lambda one: self.truth.subnets[one.subnet_id].ipv6_cidr)
        return {"NetworkInterfaceId": eni.eni_id if eni else f"eni-{NOWHERE}", **wanted}

    def _unassign_ipv6_addresses(self) -> Request:
        eni = self.eni_with(lambda one: one.ipv6_addresses or one.ipv6_prefixes)
        held = self.some([*eni.ipv6_addresses, *eni.ipv6_prefixes], 3) if eni else []
        return {
            "NetworkInterfaceId": eni.eni_id if eni else f"eni-{NOWHERE}",
            "Ipv6Addresses": [one for one in held if "/" not in one],
            "Ipv6Prefixes": [one for one in held if "/" in one],
        }

    def _associate_trunk_interface(self) -> Request:
        trunk = self.eni_with(lambda one: one.interface_type == "trunk")
        branch = self.eni_with(lambda one: one.status == "available" and one.interface_type in ("branch", "interface"))
        return {
            "TrunkInterfaceId": trunk.eni_id if trunk else f"eni-{NOWHERE}",
            "BranchInterfaceId": branch.eni_id if branch else f"eni-{NOWHERE}",
            "VlanId": self.rng.randrange(6),
            **self.token(),
        }

    def _disassociate_trunk_interface(self) -> Request:
        return {"AssociationId": self.one(self.truth.associations, "trunk-assoc"), **self.token()}

    def _create_network_interface_permission(self) -> Request:
        return {
            "NetworkInterfaceId": self.eni(),
            "AwsAccountId": self.rng.choice(("123456789012", "210987654321", "12")),
            "Permission": self.rng.choice(("INSTANCE-ATTACH", "EIP-ASSOCIATE")),
        }

    def _delete_network_interface_permission(self) -> Request:
        forced = {"Force": True} if self.rng.random() < 0.5 else {}
        return {"NetworkInterfacePermissionId": self.one(self.truth.permissions, "eni-perm"), **forced}

    # --- instances ----------------------------------------------------------------------------------------------

    def _run_instances(self) -> Request:
        return {
            "ImageId": DEFAULT_IMAGE,
            "InstanceType": self.rng.choice(TYPES),
            "MinCount": 1,
            "MaxCount": 1 if self.rng.random() < 0.95 else 2,
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    **self.place(),
                    "DeleteOnTermination": self.rng.random() < 0.7,
                    **({"PrivateIpAddress": self.address()} if self.rng.random() < 0.2 else {}),
                    **self.wanted(),
                    **self.wanted6(),
                }
            ],
            **self.token(),
            **self.tags("instance"),
        }

    def instances(self) -> Request:
        """Some that there are, and now and then one behind them that there is not."""
        few = self.some(self.truth.instances, 3)
        return {"InstanceIds": few if few and self.rng.random() < 0.9 else [*few, f"i-{NOWHERE}"]}

    def _terminate_instances(self) -> Request:
        """Not too many, or there would never be a full one."""
        return self.instances() if len(self.truth.instances) > 6 else {"InstanceIds": [f"i-{NOWHERE}"]}

    _stop_instances = _start_instances = _reboot_instances = instances

    def _modify_instance_metadata_options(self) -> Request:
        return {"InstanceId": self.one(self.truth.instances, "i"), "HttpPutResponseHopLimit": self.rng.randrange(66)}

    def _modify_instance_metadata_defaults(self) -> Request:
        return self.rng.choice(({}, {"HttpTokens": "required"}, {"HttpPutResponseHopLimit": self.rng.randrange(66)}))

    # --- security groups ----------------------------------------------------------------------------------------

    def _create_security_group(self) -> Request:
        return {"VpcId": self.vpc(), "GroupName": f"g{self.rng.randrange(9)}", "Description": "d"}

    def _delete_security_group(self) -> Request:
        used = {group_id for eni in self.truth.enis.values() for group_id in eni.groups}
        unused = [group_id for group_id in self.truth.groups if group_id not in used]
        return {"GroupId": self.one(unused or self.truth.groups, "sg")}

    def _rules(self) -> Request:
        group = self.truth.groups.get(self.one(self.truth.groups, "sg"))
        siblings = [one.group_id for one in self.truth.groups.values() if group and one.vpc_id == group.vpc_id]
        permissions = [
            {
                "IpProtocol": "tcp",
                "FromPort": 1,
                "ToPort": self.rng.randrange(1, 4),
                **self.rng.choice(
                    (
                        {"IpRanges": [{"CidrIp": f"9.{self.rng.randrange(9)}.0.0/16"}]},
                        {"Ipv6Ranges": [{"CidrIpv6": f"fd00:{self.rng.randrange(9)}::/32"}]},
                        {"UserIdGroupPairs": [{"GroupId": self.one(siblings, "sg")}]},
                    )
                ),
            }
            for _ in range(self.rng.randrange(1, 3))
        ]
        return {"GroupId": group.group_id if group else f"sg-{NOWHERE}", "IpPermissions": permissions}

    _authorize_security_group_ingress = _authorize_security_group_egress = _rules

    def _revoke(self, direction: str) -> Request:
        groups = list(self.truth.groups.values())
        with_rules = [one for one in groups if getattr(one, direction)]
        if not with_rules or self.rng.random() < 0.2:
            return self._rules()
        group = self.rng.choice(with_rules)
        some = self.some([rule.rule_id for rule in getattr(group, direction)], 2)
        return {"GroupId": group.group_id, "SecurityGroupRuleIds": [*some, *self.rng.choice(((), (f"sgr-{NOWHERE}",)))]}

    def _revoke_security_group_ingress(self) -> Request:
        return self._revoke("ingress")

    def _revoke_security_group_egress(self) -> Request:
        return self._revoke("egress")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
