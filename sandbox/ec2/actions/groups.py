"""The EC2 actions on security groups and their rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.registry import (
    FILTERS,
    PAGING,
    TAG_SPECS,
    Call,
    Getter,
    Result,
    action,
    arn,
    listed,
    page,
    select,
    tag_set,
    tags_for,
)
from sandbox.ec2.groups import Direction
from sandbox.ec2.records import NO_TAGS, Group, Permission

SIMPLE: Final = "IpProtocol FromPort ToPort CidrIp"
PERMISSIONS: Final = (
    "IpPermissions.IpProtocol IpPermissions.FromPort IpPermissions.ToPort",
    "IpPermissions.IpRanges.CidrIp IpPermissions.IpRanges.Description",
    "IpPermissions.Ipv6Ranges.CidrIpv6 IpPermissions.Ipv6Ranges.Description",
    "IpPermissions.UserIdGroupPairs.GroupId IpPermissions.UserIdGroupPairs.UserId",
    "IpPermissions.UserIdGroupPairs.Description",
)

GROUP_FILTERS: Final[dict[str, Getter[Group]]] = {
    "description": lambda _c, g: (g.description,),
    "group-id": lambda _c, g: (g.group_id,),
    "group-name": lambda _c, g: (g.name,),
    "owner-id": lambda c, _g: (c.truth.account,),
    "vpc-id": lambda _c, g: (g.vpc_id,),
}


def _permissions(call: Call, rules: Iterable[Permission]) -> list[Result]:
    """Rules as DescribeSecurityGroups shows them: those of one protocol and one range of ports together."""
    together: dict[tuple[str, int | None, int | None], list[Permission]] = {}
    for rule in rules:
        together.setdefault((rule.protocol, rule.from_port, rule.to_port), []).append(rule)
    return [
        {
            "IpProtocol": protocol,
            "FromPort": first,
            "ToPort": last,
            "IpRanges": [
                {"CidrIp": cidr, "Description": rule.description or None}
                for rule in some
                for cidr in rule.cidrs
                if ":" not in cidr
            ],
            "Ipv6Ranges": [
                {"CidrIpv6": cidr, "Description": rule.description or None}
                for rule in some
                for cidr in rule.cidrs
                if ":" in cidr
            ],
            "UserIdGroupPairs": [
                {"GroupId": group_id, "UserId": call.truth.account, "Description": rule.description or None}
                for rule in some
                for group_id in rule.groups
            ],
            "PrefixListIds": [],
        }
        for (protocol, first, last), some in together.items()
    ]


def _group(call: Call, group: Group) -> Result:
    return {
        "Description": group.description,
        "GroupId": group.group_id,
        "GroupName": group.name,
        "IpPermissions": _permissions(call, group.ingress),
        "IpPermissionsEgress": _permissions(call, group.egress),
        "OwnerId": call.truth.account,
        "SecurityGroupArn": arn(call, "security-group", group.group_id),
        "Tags": tag_set(group.tags),
        "VpcId": group.vpc_id,
    }


@action("DescribeSecurityGroups", "GroupIds", *FILTERS, *PAGING, filters=GROUP_FILTERS)
def describe_security_groups(call: Call) -> Result:
    with call.truth.lock:
        shown, token = listed(call, "GroupIds", call.truth.groups, "sg-", errors.NO_GROUP, GROUP_FILTERS)
        return {"SecurityGroups": [_group(call, group) for group in shown], "NextToken": token}


@action("CreateSecurityGroup", "GroupName Description VpcId", *TAG_SPECS)
def create_security_group(call: Call) -> Result:
    members, truth = call.members, call.truth
    if "VpcId" not in members:
        raise errors.NOT_SIMULATED(what="CreateSecurityGroup without VpcId (default VPCs)")
    if not members["Description"]:
        raise errors.MISSING_PARAMETER(name="GroupDescription")
    tags = tags_for(call, "security-group")
    group = truth.create_group(members["VpcId"], members["GroupName"], members["Description"], tags=tags)
    return {
        "GroupId": group.group_id,
        "Tags": tag_set(group.tags),
        "SecurityGroupArn": arn(call, "security-group", group.group_id),
    }


@action("DeleteSecurityGroup", "GroupId")
def delete_security_group(call: Call) -> Result:
    group_id = _group_id(call)
    call.truth.delete_group(group_id)
    return {"Return": True, "GroupId": group_id}


def _group_id(call: Call) -> str:
    if "GroupId" not in call.members:
        raise errors.MISSING_PARAMETER(name="GroupId")
    return str(call.members["GroupId"])


# --- rules ------------------------------------------------------------------------------------------------------


def _asked_rules(call: Call) -> list[Permission]:
    """The rules that a request names, in either of the two forms. Raises BAD_COMBINATION, MISSING_PARAMETER."""
    members = call.members
    listed: list[dict[str, Any]] = members.get("IpPermissions", [])
    simple = {name for name in SIMPLE.split() if name in members}
    if listed and simple:
        raise errors.BAD_COMBINATION(
            why="The parameter 'ipPermissions' may not be used in combination with 'ipProtocol'"
        )
    if simple:
        for name in ("IpProtocol", "CidrIp"):
            if name not in members:
                raise errors.MISSING_PARAMETER(name=name)
        return [Permission(members["IpProtocol"], members.get("FromPort"), members.get("ToPort"), (members["CidrIp"],))]
    return [rule for one in listed for rule in _of_permission(call, one)]


def _of_permission(call: Call, one: dict[str, Any]) -> Iterator[Permission]:
    if "IpProtocol" not in one:
        raise errors.MISSING_PARAMETER(name="IpPermissions.IpProtocol")
    head = (one["IpProtocol"], one.get("FromPort"), one.get("ToPort"))
    sides = 0
    for member, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"), ("UserIdGroupPairs", "GroupId")):
        for side in one.get(member, ()):
            if key not in side:
                raise errors.MISSING_PARAMETER(name=f"IpPermissions.{member}.{key}")
            if side.get("UserId", call.truth.account) != call.truth.account:
                raise errors.NOT_SIMULATED(what="security groups of other accounts")
            if member != "UserIdGroupPairs" and (":" in side[key]) != (key == "CidrIpv6"):
                raise errors.BAD_CIDR(cidr=side[key])
            sides += 1
            text = side.get("Description", "")
            if member == "UserIdGroupPairs":
                yield Permission(*head, groups=(side[key],), description=text)
            else:
                yield Permission(*head, cidrs=(side[key],), description=text)
    if not sides:
        raise errors.MISSING_PARAMETER(name="IpPermissions: source or destination")


def _authorize(call: Call, direction: Direction) -> Result:
    group_id = _group_id(call)
    if not (rules := _asked_rules(call)):
        call.truth.group(group_id)
        raise errors.MISSING_PARAMETER(name="ipPermissions")
    made = call.truth.authorize(group_id, direction, rules)
    return {"Return": True, "SecurityGroupRules": [_rule(call, group_id, direction, rule) for rule in made]}


def _revoke(call: Call, direction: Direction) -> Result:
    group_id, ids = _group_id(call), call.members.get("SecurityGroupRuleIds", [])
    rules = _asked_rules(call)
    if bool(rules) == bool(ids):
        call.truth.group(group_id)
        if rules:
            raise errors.BAD_COMBINATION(why="Rules are named either by id or by what they are.")
        raise errors.MISSING_PARAMETER(name="ipPermissions or securityGroupRuleIds")
    gone = call.truth.revoke(group_id, direction, rules, ids)
    shown = []
    for rule in gone:
        result = _rule(call, group_id, direction, rule)
        info = result.pop("ReferencedGroupInfo")
        for name in ("GroupOwnerId", "Tags", "SecurityGroupRuleArn"):
            del result[name]
        shown.append({**result, "ReferencedGroupId": info["GroupId"] if info else None})
    return {"Return": True, "RevokedSecurityGroupRules": shown}


@action("AuthorizeSecurityGroupIngress", "GroupId", SIMPLE, *PERMISSIONS)
def authorize_security_group_ingress(call: Call) -> Result:
    return _authorize(call, "ingress")


@action("AuthorizeSecurityGroupEgress", "GroupId", *PERMISSIONS)
def authorize_security_group_egress(call: Call) -> Result:
    return _authorize(call, "egress")


@action("RevokeSecurityGroupIngress", "GroupId SecurityGroupRuleIds", SIMPLE, *PERMISSIONS)
def revoke_security_group_ingress(call: Call) -> Result:
    """One rule that is not there refuses all (API reference: in a VPC)."""
    return _revoke(call, "ingress")


@action("RevokeSecurityGroupEgress", "GroupId SecurityGroupRuleIds", *PERMISSIONS)
def revoke_security_group_egress(call: Call) -> Result:
    return _revoke(call, "egress")


Held = tuple[str, Direction, Permission]
RULE_FILTERS: Final[dict[str, Getter[Held]]] = {
    "group-id": lambda _c, held: (held[0],),
    "security-group-rule-id": lambda _c, held: (held[2].rule_id,),
}


def _rule(call: Call, group_id: str, direction: Direction, rule: Permission) -> Result:
    truth = call.truth
    cidr = rule.cidrs[0] if rule.cidrs else ""
    info = {"GroupId": rule.groups[0], "UserId": truth.account} if rule.groups else None
    return {
        "SecurityGroupRuleId": rule.rule_id,
        "GroupId": group_id,
        "GroupOwnerId": truth.account,
        "IsEgress": direction == "egress",
        "IpProtocol": rule.protocol,
        "FromPort": -1 if rule.from_port is None else rule.from_port,
        "ToPort": -1 if rule.to_port is None else rule.to_port,
        "CidrIpv4": cidr if cidr and ":" not in cidr else None,
        "CidrIpv6": cidr if ":" in cidr else None,
        "ReferencedGroupInfo": info,
        "Description": rule.description or None,
        "Tags": [],
        "SecurityGroupRuleArn": arn(call, "security-group-rule", rule.rule_id),
    }


@action("DescribeSecurityGroupRules", "SecurityGroupRuleIds", *FILTERS, *PAGING, filters=RULE_FILTERS)
def describe_security_group_rules(call: Call) -> Result:
    with call.truth.lock:
        held: list[Held] = []
        for group in call.reader.scan(call.truth.groups, "sg-"):
            held += [(group.group_id, "ingress", rule) for rule in group.ingress]
            held += [(group.group_id, "egress", rule) for rule in group.egress]
        if wanted := call.members.get("SecurityGroupRuleIds"):
            known = {rule.rule_id for _, _, rule in held}
            for rule_id in wanted:
                if rule_id not in known:
                    raise errors.NO_RULE_ID(id=rule_id)
            held = [one for one in held if one[2].rule_id in wanted]
        found = select(call, held, RULE_FILTERS, lambda _held: NO_TAGS)
        shown, token = page(call, found, lambda one: one[2].rule_id, ids="SecurityGroupRuleIds")
        return {"SecurityGroupRules": [_rule(call, *one) for one in shown], "NextToken": token}
