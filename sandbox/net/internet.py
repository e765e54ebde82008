"""A host outside the VPC, on a link of its own with the internet's MTU.

It answers whoever reaches it and sees the source address that left the VPC. AWS would translate a node's
primary address to its public one at the internet gateway; here the primary private address itself is seen,
which tells the same thing: whether the node's own translation was done.
"""

from __future__ import annotations

from typing import Final

from pyroute2 import IPRoute

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.net.router import ip_batch

NAME: Final = "internet"
HOST: Final = "203.0.113.10"
GATEWAY: Final = "203.0.113.1"
PREFIX: Final = 24
MTU: Final = 1500
PORT: Final = "internet0"


def set_up() -> str:
    """Make host and link; called in the router's namespace. The host's namespace path. Raises SandboxFailure kernel."""
    target = netns.create(NAME)
    with IPRoute() as netlink:
        try:
            netlink.link(
                "add",
                kind="veth",
                ifname=PORT,
                index=9_999,
                mtu=MTU,
                peer={"ifname": "eth0", "mtu": MTU, "net_ns_fd": target},
            )
        except Exception as error:
            raise SandboxFailure("kernel", f"link to the internet host: {error}") from error
    ip_batch([f"address add {GATEWAY}/{PREFIX} dev {PORT}", f"link set {PORT} up"])
    netns.call(
        target,
        lambda: ip_batch(
            [f"address add {HOST}/{PREFIX} dev eth0", "link set eth0 up", f"route add default via {GATEWAY}"]
        ),
    )
    return target
