"""Who may call: the account's keys, the roles behind them, and what their policies allow.

A door (`Iam`) knows key pairs. Each belongs to a role; a role without policies may do everything, like the root user
of an account, so that a world works before anybody thinks of permissions. One key pair is always there (`ROOT`).
A refusal carries the text that AWS sends, with the reason also as an encoded message, which `decode` reads.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sandbox.base.http import Request
from sandbox.ec2 import errors
from sandbox.ec2.account import policy, signature
from sandbox.ec2.account.policy import Policy, Target
from sandbox.ec2.account.signature import Credential
from sandbox.ec2.records import Eni, Instance
from sandbox.ec2.truth import Truth

ROOT: Final = Credential("key", "secret")
NAMING: Final = ("Id", "Ids", "Groups", "Resources", "NetworkInterfaces", "Attachment")
KINDS: Final = {
    "eni": "network-interface",
    "i": "instance",
    "subnet": "subnet",
    "vpc": "vpc",
    "sg": "security-group",
    "scr": "subnet-cidr-reservation",
}


@dataclass(frozen=True, slots=True)
class Role:
    """A role and the policies that it has; None: everything is allowed."""

    name: str
    policies: tuple[Policy, ...] | None = None


class Iam:
    """The keys and roles of one account. `wall` tells the time by which clients sign."""

    def __init__(self, truth: Truth, wall: Callable[[], float] = time.time) -> None:
        self._truth = truth
        self._wall = wall
        root = Role("root")
        self._roles: dict[str, Role] = {"root": root}
        self._keys: dict[str, Credential] = {ROOT.access_key: ROOT}
        self._role_of: dict[str, str] = {ROOT.access_key: "root"}

    def add_role(self, name: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make or change a role. Raises ValueError naming what of a policy document is not simulated."""
        self._roles[name] = Role(name, tuple(Policy(document) for document in documents))

    def add_key(self, credential: Credential, role: str) -> None:
        """Make a key pair of a role. Raises ValueError for a role that is not there."""
        if role not in self._roles:
            raise ValueError(f"key {credential.access_key!r}: there is no role {role!r}")
        self._keys[credential.access_key] = credential
        self._role_of[credential.access_key] = role

    def remove_key(self, access_key: str) -> None:
        """Raises KeyError."""
        del self._keys[access_key], self._role_of[access_key]

    def authenticate(self, request: Request) -> Role:
        """The role of who signed a request. Raises what `signature.checked` raises."""
        key = signature.checked(request, self._keys, self._truth.region, self._wall)
        return self._roles[self._role_of[key.access_key]]

    def authorise(self, role: Role, action: str, members: Mapping[str, Any]) -> None:
        """Raises UNAUTHORIZED unless the role's policies allow the action on every resource that the call is about."""
        if role.policies is None:
            return
        name = f"ec2:{action}"
        for target in self._targets(action, members):
            found = policy.verdict(role.policies, name, target)
            if found != "allow":
                raise errors.UNAUTHORIZED(detail=self._detail(role, name, target, found))

    def _detail(self, role: Role, name: str, target: Target, found: str) -> str:
        why = (
            "with an explicit deny in an identity-based policy"
            if found == "deny"
            else f"because no identity-based policy allows the {name} action"
        )
        user = f"arn:aws:sts::{self._truth.account}:assumed-role/{role.name}/session"
        told = {
            "allowed": False,
            "explicitDeny": found == "deny",
            "context": {"principal": {"arn": user}, "action": name, "resource": target.arn},
        }
        encoded = base64.urlsafe_b64encode(zlib.compress(json.dumps(told).encode())).decode().rstrip("=")
        return (
            f" User: {user} is not authorized to perform: {name} on resource: {target.arn} {why}."
            f" Encoded authorization failure message: {encoded}"
        )

    # --- resources ------------------------------------------------------------------------------------------------

    def _targets(self, action: str, members: Mapping[str, Any]) -> Iterable[Target]:
        """What a call is about (Service Authorization Reference, "Actions, resources, and condition keys for EC2").

        Describe and Get calls know no resources: they are about `*`.
        """
        if action.startswith(("Describe", "Get")):
            return [Target("*", self._facts())]
        requested = {
            f"aws:RequestTag/{tag.get('Key')}": tag.get("Value", "")
            for holder in (*members.get("TagSpecifications", ()), members)
            for tag in holder.get("Tags", ())
        }
        ids = dict.fromkeys(part for one in _ids(members) for part in self._parts(one))
        targets = [Target(self._arn(one), {**self._facts(one), **requested}) for one in ids if self._kind(one)]
        made = {"RunInstances": ("instance", "network-interface")}.get(action, (_made(action),))
        targets += [Target(self._arn_of(kind, "*"), {**self._facts(), **requested}) for kind in made if kind]
        return targets or [Target("*", {**self._facts(), **requested})]

    def _parts(self, resource_id: str) -> Iterable[str]:
        """An attachment or association stands for the resources that it joins."""
        truth = self._truth
        if resource_id in truth.associations:
            found = truth.associations[resource_id]
            return (found.trunk_id, found.branch_id)
        eni = next((eni for eni in truth.enis.values() if _attached_by(eni, resource_id)), None)
        return (eni.eni_id, eni.instance_id) if eni is not None else (resource_id,)

    def _kind(self, resource_id: str) -> str:
        return KINDS.get(resource_id.rpartition("-")[0], "")

    def _arn(self, resource_id: str) -> str:
        return self._arn_of(self._kind(resource_id), resource_id)

    def _arn_of(self, kind: str, name: str) -> str:
        return f"arn:aws:ec2:{self._truth.region}:{self._truth.account}:{kind}/{name}"

    def _facts(self, resource_id: str = "") -> dict[str, str]:
        facts = {"ec2:Region": self._truth.region}
        truth = self._truth
        tables: tuple[Mapping[str, Any], ...] = (truth.enis, truth.instances, truth.subnets, truth.groups, truth.vpcs)
        record = next((table[resource_id] for table in tables if resource_id in table), None)
        if record is None:
            return facts
        for key, value in record.tags.items():
            facts[f"aws:ResourceTag/{key}"] = facts[f"ec2:ResourceTag/{key}"] = value
        if not isinstance(record, Eni | Instance) or record.vpc_id:
            facts["ec2:Vpc"] = self._arn_of("vpc", record.vpc_id)
        return facts


def decode(message: str) -> Any:
    """What an encoded authorization message says, as a JSON value (STS API, DecodeAuthorizationMessage)."""
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(message + "=" * (-len(message) % 4))))


def _attached_by(eni: Eni, attachment_id: str) -> bool:
    return eni.attachment is not None and eni.attachment.attachment_id == attachment_id


def _made(action: str) -> str:
    """The kind of resource that an action makes, if it makes one."""
    return {
        "CreateNetworkInterface": "network-interface",
        "CreateSecurityGroup": "security-group",
        "CreateSubnet": "subnet",
        "CreateVpc": "vpc",
        "CreateSubnetCidrReservation": "subnet-cidr-reservation",
    }.get(action, "")


def _ids(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if name.endswith(NAMING):
                yield from _ids(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _ids(one)
