"""The EC2 actions on trunk and branch ENIs and on permissions for ENIs."""

from __future__ import annotations

from typing import Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.registry import FILTERS, PAGING, Call, Getter, Result, action, listed
from sandbox.ec2.records import Association, EniPermission

ASSOCIATION_FILTERS: Final[dict[str, Getter[Association]]] = {
    "interface-protocol": lambda _c, _a: ("VLAN",),
    "trunk-interface-association.association-id": lambda _c, a: (a.association_id,),
    "trunk-interface-association.branch-interface-id": lambda _c, a: (a.branch_id,),
    "trunk-interface-association.trunk-interface-id": lambda _c, a: (a.trunk_id,),
}


def _association(one: Association) -> Result:
    return {
        "AssociationId": one.association_id,
        "BranchInterfaceId": one.branch_id,
        "TrunkInterfaceId": one.trunk_id,
        "InterfaceProtocol": "VLAN",
        "VlanId": one.vlan,
        "Tags": [],
    }


@action("AssociateTrunkInterface", "TrunkInterfaceId BranchInterfaceId VlanId ClientToken")
def associate_trunk_interface(call: Call) -> Result:
    members, truth = call.members, call.truth
    if "VlanId" not in members:
        raise errors.MISSING_PARAMETER(name="vlanId")

    def find(association_id: str) -> Association:
        found = truth.associations.get(association_id)
        if found is None:
            raise errors.NO_ASSOCIATION(id=association_id)
        return found

    found = call.once(
        lambda: truth.associate(members["TrunkInterfaceId"], members["BranchInterfaceId"], members["VlanId"]), find
    )
    return {"InterfaceAssociation": _association(found), "ClientToken": members.get("ClientToken")}


@action("DisassociateTrunkInterface", "AssociationId ClientToken")
def disassociate_trunk_interface(call: Call) -> Result:
    call.once(lambda: call.truth.disassociate(call.members["AssociationId"]), lambda _id: None)
    return {"Return": True, "ClientToken": call.members.get("ClientToken")}


@action("DescribeTrunkInterfaceAssociations", "AssociationIds", *FILTERS, *PAGING, filters=ASSOCIATION_FILTERS)
def describe_trunk_interface_associations(call: Call) -> Result:
    with call.truth.lock:
        table, missing = call.truth.associations, errors.NO_ASSOCIATION
        shown, token = listed(call, "AssociationIds", table, "trunk-assoc-", missing, ASSOCIATION_FILTERS, most=255)
        return {"InterfaceAssociations": [_association(one) for one in shown], "NextToken": token}


# --- permissions ------------------------------------------------------------------------------------------------

PERMISSION_FILTERS: Final[dict[str, Getter[EniPermission]]] = {
    "network-interface-permission.aws-account-id": lambda _c, p: (p.account,),
    "network-interface-permission.network-interface-id": lambda _c, p: (p.eni_id,),
    "network-interface-permission.network-interface-permission-id": lambda _c, p: (p.permission_id,),
    "network-interface-permission.permission": lambda _c, p: (p.kind,),
}


def _permission(one: EniPermission) -> Result:
    return {
        "NetworkInterfacePermissionId": one.permission_id,
        "NetworkInterfaceId": one.eni_id,
        "AwsAccountId": one.account,
        "Permission": one.kind,
        "PermissionState": {"State": "granted"},
    }


@action("CreateNetworkInterfacePermission", "NetworkInterfaceId AwsAccountId Permission")
def create_network_interface_permission(call: Call) -> Result:
    members = call.members
    if "AwsAccountId" not in members:
        raise errors.MISSING_PARAMETER(name="awsAccountId")
    made = call.truth.permit(members["NetworkInterfaceId"], members["AwsAccountId"], members["Permission"])
    return {"InterfacePermission": _permission(made)}


@action("DeleteNetworkInterfacePermission", "NetworkInterfacePermissionId Force")
def delete_network_interface_permission(call: Call) -> Result:
    call.truth.forbid(call.members["NetworkInterfacePermissionId"], force=call.members.get("Force", False))
    return {"Return": True}


@action(
    "DescribeNetworkInterfacePermissions",
    "NetworkInterfacePermissionIds",
    *FILTERS,
    *PAGING,
    filters=PERMISSION_FILTERS,
)
def describe_network_interface_permissions(call: Call) -> Result:
    with call.truth.lock:
        member, table, missing = "NetworkInterfacePermissionIds", call.truth.permissions, errors.NO_PERMISSION
        shown, token = listed(call, member, table, "eni-perm-", missing, PERMISSION_FILTERS, most=255)
        return {"NetworkInterfacePermissions": [_permission(one) for one in shown], "NextToken": token}
