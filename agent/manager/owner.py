"""Whose an ENI is, by its tags, its description and its kind: ours to use, ours to change, made by us, or a stranger's.

The tags are a contract with other daemons on the node and with administrators (IPAM specification, 13.6 and 17), and
they may be changed at any time, so the question is asked anew at each answer of EC2 and before an ENI is removed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from clients.ec2 import TAG_INSTANCE
from clients.ec2_answers import Ec2Eni

DESCRIPTION: Final = "aws-K8S-"
TAG_CLUSTER: Final = "cluster.k8s.amazonaws.com/name"
TAG_OWNER: Final = "eks:eni:owner"
OWNER: Final = "amazon-vpc-cni"
TAG_UNMANAGED: Final = "node.k8s.amazonaws.com/no_manage"
USED_KINDS: Final = frozenset(("interface", "efa"))


@dataclass(frozen=True, slots=True)
class Owner:
    """This node, as it signs its ENIs."""

    instance_id: str
    cluster_name: str
    extra_tags: Mapping[str, str]

    def tags(self) -> dict[str, str]:
        """Tags of every managed ENI (IPAM specification, 13.6)."""
        tags = {TAG_INSTANCE: self.instance_id}
        if self.cluster_name:
            tags |= {TAG_CLUSTER: self.cluster_name, TAG_OWNER: OWNER}
        return tags | dict(self.extra_tags)

    @property
    def description(self) -> str:
        """What is written into each ENI that we make; the search for leaks knows it again."""
        return f"{DESCRIPTION}{self.instance_id}"

    def manages(self, eni: Ec2Eni, manage_untagged: bool) -> bool:
        """Whether an ENI of this instance, other than the primary, is ours to use (IPAM specification, 17).

        One without an IPv4 address (EFA-only, IPv6-only) never is.
        """
        if eni.kind not in USED_KINDS or not eni.primary_ip:
            return False
        if TAG_UNMANAGED in eni.tags:
            return eni.tags[TAG_UNMANAGED] != "true"
        return eni.tags.get(TAG_INSTANCE) == self.instance_id or manage_untagged

    def created(self, eni: Ec2Eni) -> bool:
        """Whether an ENI was made by this node's daemon."""
        return eni.tags.get(TAG_INSTANCE) == self.instance_id and eni.description == self.description


def unix_time(stamp: str) -> float | None:
    """Seconds since 1970 of a createdAt tag; None for what is none."""
    try:
        when = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return when.timestamp() if when.tzinfo else None
