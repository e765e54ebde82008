"""A living veth makes room: two sandboxes of one pod want the same name, and the older one must stay reachable.

Kernels from 6.2 on rename a link that is up. Before, it must go down, and the kernel then drops its routes and
neighbours; the agent puts them back. That way is also taken here on kernels that do not need it.
"""

from __future__ import annotations

import errno
import json
import socket

import pytest

from agent.fastpath.kernel import Kernel
from ext import netlink
from tests.kernel import features
from tests.kernel.box import HOST_MAC, NAME, TEXT, Pod, in_namespace, ip, slots_for, state, udp
from tests.kernel.namespaces import until

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("ipv6", [False, True], ids=["v4", "v6"])
WAYS = pytest.mark.parametrize("down", [False, True], ids=["as-the-kernel-can", "by-way-of-down"])
SPARE = "enixold"
TRIES = 10


class OldSocket(netlink.Socket):
    """A socket of a kernel before 6.2, as far as names are concerned."""

    def rename(self, index: int, name: str, deadline_ns: int = 0) -> None:
        """Refused as by such a kernel."""
        raise netlink.KernelError(0, "link_set", errno.EBUSY, "")


def network(name: str) -> dict[str, list[str]]:
    """The state, with another word for this link."""
    return {
        kind: sorted(json.dumps(thing, sort_keys=True).replace(f'"{name}"', '"?"') for thing in things)
        for kind, things in state().items()
    }


def reachable(ipv6: bool, pod: Pod, node: str, port: int) -> None:
    """Datagrams between the node and the pod arrive both ways; the very first ones may be lost."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    here, there = udp(family, node, port), pod.udp(family, "::" if ipv6 else "0.0.0.0", 6000)
    for sender, receiver, target in ((here, there, (TEXT[ipv6], 6000)), (there, here, (node, port))):
        for left in reversed(range(TRIES)):
            sender.sendto(b"hello", target)
            try:
                assert receiver.recv(16) == b"hello"
                break
            except TimeoutError:
                assert left, f"nothing arrives at {target}"
    here.close()
    there.close()


@in_namespace
def test_the_kernel_renames_a_link_that_is_up_or_refuses_to() -> None:
    """Old kernels say EBUSY and change nothing."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape()
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    before = state()
    if features.renames_links_that_are_up():
        host.rename(index, SPARE)
        found = host.link(name=SPARE)
        assert found is not None
        assert (found.ifindex, found.up) == (index, True)
    else:
        with pytest.raises(netlink.KernelError) as caught:
            host.rename(index, SPARE)
        assert caught.value.errno == errno.EBUSY
        assert state() == before


@BOTH
@WAYS
@in_namespace
def test_a_living_veth_is_renamed_and_its_pod_stays_reachable(ipv6: bool, down: bool) -> None:
    """Routes of all kinds, neighbour, rules, sysctls: as before, under the new name. The name can be used again."""
    flag = "-6" if ipv6 else "-4"
    node, other = ("2001:db8:1::1", "2001:db8:2::1") if ipv6 else ("192.0.2.1", "198.51.100.1")
    ip(f"address add {node}/128 dev lo nodad" if ipv6 else f"address add {node}/32 dev lo")
    host = OldSocket.open() if down else netlink.Socket.open()
    old, new, shape = Pod(), Pod(), netlink.pod_shape(ipv6=ipv6, secondary=True)
    index = netlink.pod_add(host, old.socket(), shape, slots_for(shape, old))
    ip(f"{flag} route add {other} dev {NAME} src {node} metric 77 table 10103")
    before = network(NAME)
    assert len([text for text in before["routes6" if ipv6 else "routes"] if '"?"' in text]) == 2
    Kernel(host).rename(index, SPARE)
    until(lambda: network(SPARE) == before, f"all is as before: {before}, {network(SPARE)}")
    for leaf, value in (("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")):
        with open(f"/proc/sys/net/ipv6/conf/{SPARE}/{leaf}") as file:
            assert file.read().strip() == value, leaf
    reachable(ipv6, old, node, 5000)

    second = netlink.pod_add(host, new.socket(), shape, slots_for(shape, new, 1, NAME))
    reachable(ipv6, old, node, 5001)
    found = host.link(name=SPARE)
    assert found is not None
    assert (found.ifindex, found.up, found.mac) == (index, True, HOST_MAC)
    # A DEL of the old sandbox by name must not take the new one's link down.
    assert netlink.pod_del(host, shape, slots_for(shape, old)) == 0
    after = host.link(index=second)
    assert after is not None
    assert after.up


@WAYS
@in_namespace
def test_a_name_that_is_taken_changes_nothing_and_a_link_that_is_gone_is_fine(down: bool) -> None:
    """Neither may cost a pod its network."""
    host = OldSocket.open() if down else netlink.Socket.open()
    pods, shape = [Pod(), Pod()], netlink.pod_shape()
    first, _ = (netlink.pod_add(host, p.socket(), shape, slots_for(shape, p, n)) for n, p in enumerate(pods))
    before = network(NAME)
    with pytest.raises(netlink.KernelError) as caught:
        Kernel(host).rename(first, f"eni{1:011x}")
    assert caught.value.errno == errno.EEXIST
    until(lambda: network(NAME) == before, "all is as before")
    Kernel(host).rename(4711, SPARE)
    assert network(NAME) == before
