"""boto3 reads the answer of every action: one walk through all of them over HTTP, from a VPC to nothing."""

from __future__ import annotations

from sandbox.ec2.actions.registry import ACTIONS
from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox.ec2_kit import check, make_account


def test_every_action_is_answered() -> None:
    a = make_account()
    a.truth.types.register("sandbox.trunk", enis=4, ipv4=15, branches=2)
    ec2 = a.ec2
    # a network
    vpc = ec2.create_vpc(CidrBlock="10.50.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    extra = ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.51.0.0/16")["CidrBlockAssociation"]["AssociationId"]
    [shown] = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
    block6 = shown["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].replace("/56", "/64")
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.50.1.0/24", Ipv6CidrBlock=block6)["Subnet"]["SubnetId"]
    kept = ec2.create_subnet_cidr_reservation(SubnetId=subnet, Cidr="10.50.1.64/26", ReservationType="prefix")
    scr = kept["SubnetCidrReservation"]["SubnetCidrReservationId"]
    assert len(ec2.get_subnet_cidr_reservations(SubnetId=subnet)["SubnetIpv4CidrReservations"]) == 1
    assert ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"] == 251
    group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
    rule = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "IpRanges": [{"CidrIp": "9.0.0.0/8"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=rule)
    assert len(ec2.describe_security_group_rules()["SecurityGroupRules"]) > 4
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    # instances
    assert ec2.describe_instance_types(InstanceTypes=["m5.large"])["InstanceTypes"]
    ec2.modify_instance_metadata_defaults(HttpPutResponseHopLimit=2)
    assert ec2.get_instance_metadata_defaults()["AccountLevel"]["HttpPutResponseHopLimit"] == 2
    run = {"ImageId": DEFAULT_IMAGE, "InstanceType": "sandbox.trunk", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    node = ec2.run_instances(**run, SecurityGroupIds=[group])["Instances"][0]["InstanceId"]
    ec2.modify_instance_metadata_options(InstanceId=node, HttpTokens="optional")
    ec2.reboot_instances(InstanceIds=[node])
    ec2.stop_instances(InstanceIds=[node])
    ec2.start_instances(InstanceIds=[node])
    [reservation] = ec2.describe_instances(InstanceIds=[node])["Reservations"]
    assert reservation["Instances"][0]["State"] == {"Code": 16, "Name": "running"}
    # network interfaces and their addresses
    trunk = a.new(SubnetId=subnet, InterfaceType="trunk", Ipv6AddressCount=1)
    branch = a.new(SubnetId=subnet)
    prefixes = ec2.assign_private_ip_addresses(NetworkInterfaceId=trunk, Ipv4PrefixCount=1)["AssignedIpv4Prefixes"]
    assert [one["Ipv4Prefix"] for one in prefixes] == ["10.50.1.64/28"]
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=trunk, Ipv4Prefixes=["10.50.1.64/28"])
    given = ec2.assign_ipv6_addresses(NetworkInterfaceId=branch, Ipv6AddressCount=1)["AssignedIpv6Addresses"]
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=branch, Ipv6Addresses=given)
    ec2.create_tags(Resources=[trunk], Tags=[{"Key": "k", "Value": "v"}])
    assert ec2.describe_tags(Filters=[{"Name": "key", "Values": ["k"]}])["Tags"]
    ec2.delete_tags(Resources=[trunk])
    ec2.modify_network_interface_attribute(NetworkInterfaceId=trunk, SourceDestCheck={"Value": False})
    attachment = a.attach(trunk, 1, InstanceId=node)
    permitted = ec2.create_network_interface_permission(
        NetworkInterfaceId=branch, Permission="INSTANCE-ATTACH", AwsAccountId=a.truth.account
    )["InterfacePermission"]["NetworkInterfacePermissionId"]
    assert len(ec2.describe_network_interface_permissions()["NetworkInterfacePermissions"]) == 1
    made = ec2.associate_trunk_interface(TrunkInterfaceId=trunk, BranchInterfaceId=branch, VlanId=1)
    assert len(ec2.describe_trunk_interface_associations()["InterfaceAssociations"]) == 1
    assert {one["InterfaceType"] for one in ec2.describe_network_interfaces()["NetworkInterfaces"]} == {
        "interface", "trunk", "branch",
    }  # fmt: skip
    # and everything away
    ec2.disassociate_trunk_interface(AssociationId=made["InterfaceAssociation"]["AssociationId"])
    ec2.delete_network_interface_permission(NetworkInterfacePermissionId=permitted)
    ec2.detach_network_interface(AttachmentId=attachment)
    for eni in (trunk, branch):
        ec2.delete_network_interface(NetworkInterfaceId=eni)
    ec2.terminate_instances(InstanceIds=[node])
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rule)
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=rule)
    ec2.delete_security_group(GroupId=group)
    ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=scr)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.disassociate_vpc_cidr_block(AssociationId=extra)
    ec2.delete_vpc(VpcId=vpc)
    assert vpc not in a.truth.vpcs
    assert {action for action, outcome in a.api.calls if outcome == "ok"} == set(ACTIONS)
    assert {outcome for _, outcome in a.api.calls} == {"ok"}
    check(a.truth)
