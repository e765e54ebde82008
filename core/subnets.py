"""Which subnets may hold ENIs of this node, by their tags (IPAM specification, 14).

Pure, on tags alone, so that the same rule serves the choice for a new ENI and the exclusion of an existing one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ROLE: Final = "kubernetes.io/role/cni"
CLUSTER_PREFIX: Final = "cni.networking.k8s.aws/cluster/"


def for_cluster(tags: Mapping[str, str], cluster_name: str) -> bool:
    """Whether the cluster tags let this cluster use the subnet."""
    clusters = {key.removeprefix(CLUSTER_PREFIX) for key in tags if key.startswith(CLUSTER_PREFIX)}
    return not cluster_name or not clusters or cluster_name in clusters


def usable(tags: Mapping[str, str], cluster_name: str, *, primary: bool) -> bool:
    """Whether a new ENI may be made in a subnet. `primary`: it is the node's own."""
    role = tags.get(ROLE, "")
    if role == "0":
        return False
    if not role:
        return primary
    return for_cluster(tags, cluster_name)


def excluded(tags: Mapping[str, str], cluster_name: str) -> bool:
    """Whether an ENI in this subnet is to be emptied: its pods stay, new ones go elsewhere."""
    role = tags.get(ROLE, "")
    if role == "0":
        return True
    return bool(role) and not for_cluster(tags, cluster_name)
