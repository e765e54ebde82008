"""Security groups: rules by API, how answers show them, and which ENIs the views are told of."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.ec2.records import Permission
from tests.sandbox.ec2_kit import Account, make_account, refused

WEB = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}


@pytest.fixture
def a() -> Account:
    return make_account()


def told(a: Account) -> set[str]:
    """ENIs whose groups the views were told of since the last time."""
    found = {eni_id for event, eni_id in a.told.events if event == "groups_changed"}
    a.told.events.clear()
    return found


def shown(a: Account, group: str) -> dict[str, Any]:
    found: dict[str, Any] = a.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    return found


def test_life_of_a_group(a: Account) -> None:
    made = a.ec2.create_security_group(
        GroupName="web", Description="servers", VpcId=a.vpc.vpc_id,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "k", "Value": "v"}]}],
    )  # fmt: skip
    group = made["GroupId"]
    assert made["Tags"] == [{"Key": "k", "Value": "v"}]
    assert shown(a, group)["IpPermissions"] == []
    [out] = shown(a, group)["IpPermissionsEgress"]
    assert (out["IpProtocol"], out["IpRanges"], out["Ipv6Ranges"]) == (
        "-1", [{"CidrIp": "0.0.0.0/0"}], [{"CidrIpv6": "::/0"}],
    )  # fmt: skip
    rules = a.ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {
                **WEB,
                "IpRanges": [{"CidrIp": "9.0.0.7/8", "Description": "out"}],
                "Ipv6Ranges": [{"CidrIpv6": "fd00::/8"}],
            },
            {**WEB, "UserIdGroupPairs": [{"GroupId": group}]},
        ],
    )["SecurityGroupRules"]
    assert len({rule["SecurityGroupRuleId"] for rule in rules}) == 3
    assert [rule.get("CidrIpv4") for rule in rules] == ["9.0.0.0/8", None, None]
    assert rules[2]["ReferencedGroupInfo"]["GroupId"] == group
    [together] = shown(a, group)["IpPermissions"]
    assert together["IpRanges"] == [{"CidrIp": "9.0.0.0/8", "Description": "out"}]
    assert [pair["GroupId"] for pair in together["UserIdGroupPairs"]] == [group]
    listed = a.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
    assert {rule["SecurityGroupRuleId"] for rule in listed["SecurityGroupRules"] if not rule["IsEgress"]} == {
        rule["SecurityGroupRuleId"] for rule in rules
    }
    gone = a.ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rules[0]["SecurityGroupRuleId"]])
    assert [rule["CidrIpv4"] for rule in gone["RevokedSecurityGroupRules"]] == ["9.0.0.0/8"]
    a.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[
        {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}])  # fmt: skip
    assert shown(a, group)["IpPermissionsEgress"] == []
    assert a.ec2.delete_security_group(GroupId=group)["GroupId"] == group
    with refused(a, "InvalidGroup.NotFound"):
        shown(a, group)


def test_a_rule_that_names_its_own_group_does_not_keep_it(a: Account) -> None:
    a.truth.authorize(a.groups[4], "ingress", [Permission(groups=(a.groups[4],))])
    a.truth.authorize(a.groups[5], "ingress", [Permission(groups=(a.groups[4],))])
    with refused(a, "DependencyViolation", "has a dependent object"):
        a.ec2.delete_security_group(GroupId=a.groups[4])
    a.ec2.delete_security_group(GroupId=a.groups[5])
    a.ec2.delete_security_group(GroupId=a.groups[4])


def test_a_list_of_rules_goes_in_wholly_or_not_at_all(a: Account) -> None:
    some = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": f"9.{number}.0.0/16"}]} for number in range(3)]
    with refused(a, "InvalidPermission.Duplicate", '"peer: 9.2.0.0/16, ALL, ALLOW" already exists'):
        a.ec2.authorize_security_group_ingress(GroupId=a.groups[0], IpPermissions=[*some, some[2]])
    with refused(a, "InvalidParameterValue", "malformed"):
        a.ec2.authorize_security_group_ingress(
            GroupId=a.groups[0], IpPermissions=[*some, {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "x"}]}]
        )
    a.ec2.authorize_security_group_ingress(GroupId=a.groups[0], IpPermissions=some)
    with refused(a, "InvalidPermission.NotFound"):
        a.ec2.revoke_security_group_ingress(GroupId=a.groups[0], IpPermissions=[
            some[0], {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "8.8.8.8/32"}]}])  # fmt: skip


def test_protocols_have_one_form(a: Account) -> None:
    a.truth.authorize(
        a.groups[0], "ingress", [Permission("6", 1, 2, ("9.0.0.0/8",)), Permission("47", 5, 6, ("::/0",))]
    )
    kept = a.truth.group(a.groups[0]).ingress
    assert [(rule.protocol, rule.from_port, rule.to_port) for rule in kept] == [("tcp", 1, 2), ("47", None, None)]
    with refused(a, "InvalidPermission.Duplicate", "TCP, from port: 1, to port: 2"):
        a.ec2.authorize_security_group_ingress(
            GroupId=a.groups[0], IpProtocol="tcp", FromPort=1, ToPort=2, CidrIp="9.0.0.0/8"
        )


def test_the_views_hear_of_members_and_of_those_that_name_them(a: Account) -> None:
    """Rules of `behind` let in members of `front`: they mean other addresses whenever those of `front` change."""
    a.truth.tell_referring = True
    front, behind, other = a.groups[1:4]
    server, client, stranger = a.new(Groups=[behind]), a.new(Groups=[front]), a.new(Groups=[other])
    told(a)
    a.ec2.authorize_security_group_ingress(GroupId=behind, IpPermissions=[
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": front}]}])  # fmt: skip
    assert told(a) == {server}
    a.ec2.assign_private_ip_addresses(NetworkInterfaceId=client, SecondaryPrivateIpAddressCount=1)
    assert told(a) == {server}
    a.ec2.modify_network_interface_attribute(NetworkInterfaceId=stranger, Groups=[front])
    assert told(a) == {stranger, server}
    a.ec2.assign_ipv6_addresses(NetworkInterfaceId=stranger, Ipv6PrefixCount=1)
    assert told(a) == {server}
    newcomer = a.new(Groups=[front])
    assert told(a) == {server}
    a.ec2.delete_network_interface(NetworkInterfaceId=newcomer)
    assert told(a) == {server}
    a.ec2.modify_network_interface_attribute(NetworkInterfaceId=client, Description={"Value": "x"})
    a.ec2.create_tags(Resources=[client], Tags=[{"Key": "k", "Value": "v"}])
    assert told(a) == set()
    a.ec2.revoke_security_group_ingress(GroupId=behind, IpPermissions=[
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": front}]}])  # fmt: skip
    assert told(a) == {server}
    a.ec2.assign_private_ip_addresses(NetworkInterfaceId=client, SecondaryPrivateIpAddressCount=1)
    assert told(a) == set()


def test_a_view_with_sets_hears_only_of_what_changed_itself(a: Account) -> None:
    front, behind = a.groups[1:3]
    server, client = a.new(Groups=[behind]), a.new(Groups=[front])
    a.truth.authorize(behind, "ingress", [Permission(groups=(front,))])
    assert told(a) == {server}
    a.ec2.assign_private_ip_addresses(NetworkInterfaceId=client, SecondaryPrivateIpAddressCount=1)
    a.ec2.modify_network_interface_attribute(NetworkInterfaceId=client, Groups=[front, behind])
    assert told(a) == {client}
    a.truth.set_rules(front, ingress=[])
    assert told(a) == {client}
