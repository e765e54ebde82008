"""Whose habits the runtime has, as data.

`spec` does what the CNI specification requires and no more. The others add what those versions were seen to do, or what
their source says (github.com/containerd/containerd, internal/cri/server, and github.com/containerd/go-cni).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.base.failures import SandboxFailure


@dataclass(frozen=True)
class Profile:
    """`loopback`: the plugin of that name is called for `lo` beside the network, at the same time. `second_del`:
    removing a stopped sandbox is one more DEL, without namespace and prevResult. `versions`: of results that are
    understood. `negotiates`: `cniVersions` of a list counts. `polls_status`: STATUS at each poll of the kubelet, and a
    failure makes the node NotReady."""

    name: str
    versions: tuple[str, ...]
    loopback: bool = False
    second_del: bool = False
    negotiates: bool = True
    polls_status: bool = False


_UP_TO_1_0: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0")
PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("spec", (*_UP_TO_1_0, "1.1.0")),
        Profile("containerd-1.6", _UP_TO_1_0, loopback=True, second_del=True, negotiates=False),
        Profile("containerd-2", (*_UP_TO_1_0, "1.1.0"), loopback=True, second_del=True, polls_status=True),
    )
}


def named(name: str) -> Profile:
    """Raises SandboxFailure bad-request."""
    found = PROFILES.get(name)
    if found is None:
        raise SandboxFailure("bad-request", f"profile {name!r} is none of {', '.join(PROFILES)}")
    return found
