"""Whether this node's state needs something that this release does not serve.

A node that is taken over from the existing system may carry pods with security groups of their own, or network
policies in force. To go on without them would cut those pods off, or open them; so the start is refused, by name,
before anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from clients.files import exists_below
from core.errors import BadSetting

# Names by contract: data plane specification, 4; network policy specification, pins of the policy agent.
BRANCH_LINK: Final = re.compile(r"vlan\.eth\.[0-9]+")
POLICY_PINS: Final = "/sys/fs/bpf/globals/aws/programs"


class TakeoverRefused(BadSetting):
    """The node's state needs what this release does not serve."""

    code = "takeover-refused"
    remedy = "drain the node and end what is named, or keep the existing system on it"


def check(link_names: Iterable[str], holds: Callable[[str], bool] = exists_below) -> None:
    """Raises TakeoverRefused, naming everything that stands in the way."""
    found = []
    branch = sorted(name for name in link_names if BRANCH_LINK.fullmatch(name))
    if branch:
        found.append(f"pods with security groups of their own (links {', '.join(branch)})")
    if holds(POLICY_PINS):
        found.append(f"network policies in force (programs in {POLICY_PINS})")
    if found:
        raise TakeoverRefused(f"this node has {' and '.join(found)}, which this release does not serve")
