"""Trunk and branch ENIs, and leave for others to attach an ENI.

A trunk carries branches as VLANs, so that a pod can have an ENI of its own on an instance that has no device left.
A branch is not attached: it is associated with a trunk, which in turn is attached. Where AWS publishes no rule (it
documents these actions sparsely), the errors say `unconfirmed`. The views hear `eni_attached` and `eni_detached` of a
branch when its association begins and ends; `Eni.trunk_id` and `Eni.vlan` tell what it is associated with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sandbox.ec2 import errors
from sandbox.ec2.enis import Enis
from sandbox.ec2.records import Association, Eni, EniPermission

VLANS: Final = range(1, 4095)  # IEEE 802.1Q: 0 and 4095 are reserved


class Trunks(Enis):
    """Adds associations and permissions."""

    def associate(self, trunk_id: str, branch_id: str, vlan: int) -> Association:
        """Put a branch on a trunk.

        Raises NO_ENI, NO_TRUNK, ENI_IN_USE, BRANCH_TYPE, BRANCH_VPC, OTHER_ZONE, VLAN_RANGE, VLAN_TAKEN,
        LIMIT_BRANCHES.
        """
        with self._change():
            trunk, branch = self.eni(trunk_id), self.eni(branch_id)
            if trunk.interface_type != "trunk":
                raise errors.NO_TRUNK(eni=trunk_id)
            if branch.interface_type not in ("interface", "branch"):
                raise errors.BRANCH_TYPE(eni=branch_id, type=branch.interface_type)
            if branch.attachment is not None or branch.trunk_id:
                raise errors.ENI_IN_USE(eni=branch_id)
            if branch.vpc_id != trunk.vpc_id:
                raise errors.BRANCH_VPC(trunk=trunk_id, branch=branch_id)
            if branch.zone != trunk.zone:
                raise errors.OTHER_ZONE()
            if vlan not in VLANS:
                raise errors.VLAN_RANGE(vlan=vlan)
            present = self.branches_of(trunk_id)
            if any(one.vlan == vlan for one in present):
                raise errors.VLAN_TAKEN(vlan=vlan, trunk=trunk_id)
            kind = self._type_of(trunk)
            if kind is not None and kind.branches is not None and len(present) >= kind.branches:
                raise errors.LIMIT_BRANCHES(type=kind.name)
            made = Association(self._new_id("trunk-assoc"), trunk_id, branch_id, vlan, branch.interface_type)
            self._note(None, made.association_id, made)
            self._associations[made.association_id] = made
            self._put_eni(replace(branch, interface_type="branch", trunk_id=trunk_id, vlan=vlan))
            self._tell("eni_attached", branch_id)
            return made

    def disassociate(self, association_id: str) -> Association:
        """Take a branch off its trunk; returns what was. Raises NO_ASSOCIATION."""
        with self._change():
            found = self._associations.get(association_id)
            if found is None:
                raise errors.NO_ASSOCIATION(id=association_id)
            self._part(found)
            return found

    def _part(self, association: Association) -> None:
        self._note(association, association.association_id)
        del self._associations[association.association_id]
        branch = self._enis[association.branch_id]
        self._put_eni(replace(branch, interface_type=association.was, trunk_id="", vlan=0))
        self._tell("eni_detached", branch.eni_id)

    def branches_of(self, trunk_id: str) -> list[Eni]:
        """The branches on a trunk, by VLAN id."""
        with self.lock:
            found = [self._enis[one.branch_id] for one in self._associations.values() if one.trunk_id == trunk_id]
        return sorted(found, key=lambda eni: eni.vlan)

    def _check_detach(self, eni: Eni) -> None:
        if eni.interface_type == "trunk" and self.branches_of(eni.eni_id):
            raise errors.TRUNK_BUSY(eni=eni.eni_id)

    def _part_branches(self, eni: Eni) -> None:
        for association in [one for one in self._associations.values() if one.trunk_id == eni.eni_id]:
            self._part(association)

    def _forget_eni(self, eni: Eni) -> None:
        """What hangs on an ENI that is deleted: branches lose their trunk, permissions their subject."""
        self._part_branches(eni)
        for permission in [one for one in self._permissions.values() if one.eni_id == eni.eni_id]:
            self._note(permission, permission.permission_id)
            del self._permissions[permission.permission_id]

    # --- permissions ----------------------------------------------------------------------------------------------

    def permit(self, eni_id: str, account: str, kind: str) -> EniPermission:
        """Let another account use an ENI. Raises NO_ENI, BAD_ACCOUNT, PERMISSION_EXISTS."""
        with self._change():
            self.eni(eni_id)
            if len(account) != 12 or not account.isascii() or not account.isdigit():
                raise errors.BAD_ACCOUNT(account=account)
            made = EniPermission(self._new_id("eni-perm"), eni_id, account, kind)
            if any(
                replace(one, permission_id="") == replace(made, permission_id="") for one in self._permissions.values()
            ):
                raise errors.PERMISSION_EXISTS(eni=eni_id, account=account)
            self._note(None, made.permission_id, made)
            self._permissions[made.permission_id] = made
            return made

    def forbid(self, permission_id: str, *, force: bool = False) -> None:
        """Take a permission back, with `force` also while it is used. Raises NO_PERMISSION, PERMISSION_USED."""
        with self._change():
            found = self._permissions.get(permission_id)
            if found is None:
                raise errors.NO_PERMISSION(id=permission_id)
            if self._enis[found.eni_id].attachment is not None and found.account != self.account and not force:
                raise errors.PERMISSION_USED(id=permission_id)
            self._note(found, permission_id)
            del self._permissions[permission_id]
