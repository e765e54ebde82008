"""ADD and DEL of the kernel writer against the running kernel: the state that results, and that nothing else does."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from ext import netlink
from tests.kernel import features
from tests.kernel.box import (
    HOST_MAC,
    NAME,
    POD_MAC,
    TEXT,
    Pod,
    descriptors,
    in_namespace,
    inside,
    ip,
    packed,
    slots_for,
    state,
    udp,
)

pytestmark = pytest.mark.root
# A busy machine may be late with a datagram; one that the kernel has dropped never comes.
PATIENCE_S = 10
NEVER_ASKED = 0x80 | 0x40  # NUD_PERMANENT, NUD_NOARP
BOTH = pytest.mark.parametrize("ipv6", [False, True], ids=["v4", "v6"])


def mac_text(mac: bytes) -> str:
    """As `ip` prints it."""
    return mac.hex(":")


@BOTH
@pytest.mark.parametrize("secondary", [False, True], ids=["main", "table"])
@in_namespace
def test_the_state_of_an_add_is_the_contract(ipv6: bool, secondary: bool) -> None:
    """Data plane specification 7.1 and 7.3, everything that `ip` shows on both sides."""
    address, bits, family = TEXT[ipv6], 128 if ipv6 else 32, "-6" if ipv6 else "-4"
    routes_before, rules_before = set(ip(f"{family} route show table all")), set(ip(f"{family} rule"))
    host, pod = netlink.Socket.open(), Pod()
    shape, took = netlink.pod_shape(ipv6=ipv6, secondary=secondary), bytearray(netlink.TOOK.size)
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod, mtu=1400), took)

    assert socket.if_nametoindex(NAME) == index
    [link] = [line for line in ip("-d -o link") if NAME in line]
    assert "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400 qdisc noqueue state UP" in link
    assert f"link/ether {mac_text(HOST_MAC)} " in link
    assert ip(f"{family} address show dev {NAME} scope global") == []
    metric = " metric 1024 pref medium" if ipv6 else " scope link"
    routes = {r for r in ip(f"{family} route show table all") if "fe80:" not in r and "ff00:" not in r}
    assert routes - routes_before == {f"{address} dev {NAME} proto kernel{metric}"}
    wanted = {f"512: from all to {address} lookup main"}
    if secondary:
        wanted.add(f"1536: from {address} lookup 2")
    assert set(ip(f"{family} rule")) - rules_before == wanted
    assert all("proto kernel" in r for r in ip(f"{family} -d rule") if r.startswith(("512", "1536")))
    assert f"{address} dev {NAME} lladdr {mac_text(POD_MAC)} PERMANENT" in ip(f"{family} neigh")
    for leaf, value in (("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")):
        with open(f"/proc/sys/net/ipv6/conf/{NAME}/{leaf}") as file:
            assert file.read().strip() == value, leaf

    gateway = "fe80::1" if ipv6 else "169.254.1.1"
    [link] = [line for line in pod.ip("-o link") if "eth0" in line]
    assert "mtu 1400" in link
    assert "BROADCAST,MULTICAST,UP" in link
    assert mac_text(POD_MAC) in link
    [line] = pod.ip(f"{family} -o address show dev eth0 scope global")
    assert f"{address}/{bits} scope global" in line
    assert not ipv6 or ("nodad" in line and "tentative" not in line)
    routes = {r for r in pod.ip(f"{family} route") if not r.startswith(("fe80::/64", address))}
    tail = " metric 1024 pref medium" if ipv6 else ""
    link_tail = tail if ipv6 else " scope link"
    assert routes == {f"default via {gateway} dev eth0{tail}", f"{gateway} dev eth0{link_tail}"}
    assert f"{gateway} dev eth0 lladdr {mac_text(HOST_MAC)} PERMANENT" in pod.ip(f"{family} neigh")
    messages = netlink.TOOK.unpack(took)[6]
    least = 11 + secondary + ipv6 + (not features.echoes_new_links())
    # Before 6.8 the host end may have to be asked for more than once.
    assert messages == least or (messages > least and not features.activates_when_asked())


@in_namespace
def test_sysctls_are_set_whatever_a_link_is_born_with() -> None:
    """A node that forwards IPv6 gives birth to links that do."""
    wrong = {"accept_ra": "2", "accept_redirects": "0", "forwarding": "1"}
    for leaf, value in wrong.items():
        with open(f"/proc/sys/net/ipv6/conf/default/{leaf}", "w") as file:
            file.write(value)
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape()
    netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    for leaf, value in {"accept_ra": "0", "accept_redirects": "1", "forwarding": "0"}.items():
        with open(f"/proc/sys/net/ipv6/conf/{NAME}/{leaf}") as file:
            assert file.read().strip() == value, leaf


@BOTH
@in_namespace
def test_no_first_packet_is_lost(ipv6: bool) -> None:
    """200 pods: one datagram each way right after each ADD; none may be missing. One that is lost never comes, and one
    that had to ask for its neighbour's address would be late: so nobody asks."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    node = "2001:db8:1::1" if ipv6 else "192.0.2.1"
    ip(f"address add {node}/128 dev lo nodad" if ipv6 else f"address add {node}/32 dev lo")
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        with open("/proc/sys/" + name.replace(".", "/"), "w") as file:
            file.write("1")
    host, shape = netlink.Socket.open(), netlink.pod_shape(ipv6=ipv6)
    here = udp(family, node, 5000)
    here.settimeout(PATIENCE_S)
    for number in range(1, 201):
        pod = Pod(lo=False)
        slots = slots_for(shape, pod, number)
        address = socket.inet_ntop(family, bytes(slots[-16 if ipv6 else -4 :]))
        with inside(pod.fd):
            there = socket.socket(family, socket.SOCK_DGRAM)
            there.settimeout(PATIENCE_S)
            there.bind(("::" if ipv6 else "0.0.0.0", 6000))
        with pod.socket() as sock:
            netlink.pod_add(host, sock, shape, slots)
        try:
            if number % 2:  # either side speaks first
                here.sendto(b"in", (address, 6000))
                there.sendto(b"out", (node, 5000))
            else:
                there.sendto(b"out", (node, 5000))
                here.sendto(b"in", (address, 6000))
        except OSError as error:
            raise AssertionError(f"pod {number}: {error}") from error
        for name, end in (("to the pod", there), ("from the pod", here)):
            try:
                assert end.recv(16)
            except TimeoutError:
                raise AssertionError(f"pod {number}: nothing came {name}") from None
        with pod.socket() as sock:
            asked = [n for n in (*host.neighbours(family), *sock.neighbours(family)) if not n.state & NEVER_ASKED]
        assert asked == [], f"pod {number}"
        there.close()
        pod.close()


def add_bad_name_in_pod(pod: Pod) -> None:
    """eth0 exists in the pod."""
    pod.ip("link add eth0 type veth peer name other")


def add_default_route_in_pod(pod: Pod) -> None:
    """A default route exists in the pod."""
    pod.ip("route add default dev lo")


@pytest.mark.parametrize(
    ("prepare", "phase", "op", "number"),
    [
        (add_bad_name_in_pod, "link", "veth_add", errno.EEXIST),
        (add_default_route_in_pod, "pod", "route_add", errno.EEXIST),
    ],
)
@in_namespace
def test_state_that_is_in_the_way_is_named_and_all_is_undone(prepare: object, phase: str, op: str, number: int) -> None:
    """The kernel's own refusals; the host is as before."""
    assert callable(prepare)
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(secondary=True)
    prepare(pod)
    before, inside_before = state(), pod.ip("-o link")
    with pytest.raises(netlink.KernelError) as caught:
        netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    error = caught.value
    assert (error.phase, error.op, error.errno, error.undone) == (phase, op, number, True)
    assert state() == before
    assert pod.ip("-o link") == inside_before


@in_namespace
def test_a_bad_namespace_descriptor_and_a_bad_mac_are_refused() -> None:
    """EBADF or EINVAL from the kernel before anything exists; nothing stays."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape()
    before = state()
    slots = slots_for(shape, pod)
    plain = os.open("/proc/self/status", os.O_RDONLY)
    for netns, mac in ((9999, HOST_MAC), (plain, HOST_MAC), (pod.fd, b"\xff" * 6), (pod.fd, bytes(6))):
        slots = shape.slots(address=bytes(slots[-4:]), host_name=NAME, host_mac=mac, pod_mac=POD_MAC, netns=netns)
        with pytest.raises(netlink.KernelError) as caught:
            netlink.pod_add(host, pod.socket(), shape, slots)
        assert caught.value.phase == "link"
        assert state() == before


@in_namespace
def test_the_host_s_own_namespace_is_refused() -> None:
    """A shim that sent the wrong socket must not rewire the node."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape()
    before = state()
    if host.namespace == 0:
        pytest.skip("the kernel has no SO_NETNS_COOKIE (before 5.14)")
    with pytest.raises(netlink.WrongSocket, match="host's namespace"):
        netlink.pod_add(host, netlink.Socket.open(), shape, slots_for(shape, pod))
    assert state() == before


@BOTH
@in_namespace
def test_a_taken_name_is_told_with_its_holder(ipv6: bool) -> None:
    """The same sandbox again, a link that waits for the reaper, a living pod: the caller can tell them apart."""
    host, pod, other, shape = netlink.Socket.open(), Pod(), Pod(), netlink.pod_shape(ipv6=ipv6)
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    before = state()
    for up in (True, False):
        with pytest.raises(netlink.NameTaken) as caught:
            netlink.pod_add(host, other.socket(), shape, slots_for(shape, other, 5, NAME))
        taken = caught.value
        assert (taken.name, taken.ifindex, taken.mac, taken.up) == (NAME, index, HOST_MAC, up)
        if up:
            assert state() == before
            host.apply([netlink.link_set(index, up=False)])


@BOTH
@pytest.mark.parametrize("secondary", [False, True], ids=["main", "table"])
@in_namespace
def test_a_del_leaves_nothing_once_or_twice(ipv6: bool, secondary: bool) -> None:
    """After DEL only the link is left, down; after the reaper the state is as before the ADD."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(ipv6=ipv6, secondary=secondary)
    before = state()
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    for table in (0, 2):
        assert netlink.pod_del(host, shape, slots_for(shape, pod, table=table)) == index
        after = state()
        assert {(link["ifname"], link.get("link_index")) for link in after.pop("links")} == {(NAME, 2), ("lo", None)}
        assert after == {k: v for k, v in before.items() if k != "links"}
    link = host.link(index=index)
    assert link is not None
    assert not link.up
    assert netlink.set_group_and_delete(host, [index]) == 1
    assert state() == before
    assert netlink.pod_del(host, shape, slots_for(shape, pod)) == 0
    assert state() == before


@BOTH
@pytest.mark.parametrize("secondary", [False, True], ids=["main", "table"])
@in_namespace
def test_a_drop_leaves_what_a_del_leaves(ipv6: bool, secondary: bool) -> None:
    """One batch, once or twice, with the link there or gone."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(ipv6=ipv6, secondary=secondary)
    address, before = packed(TEXT[ipv6]), state()
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    for _ in range(2):
        netlink.pod_drop(host, shape, address, index)
        after = state()
        assert {(link["ifname"], link.get("link_index")) for link in after.pop("links")} == {(NAME, 2), ("lo", None)}
        assert after == {k: v for k, v in before.items() if k != "links"}
    link = host.link(index=index)
    assert link is not None
    assert not link.up
    assert netlink.set_group_and_delete(host, [index]) == 1
    netlink.pod_drop(host, shape, address, index)
    assert state() == before
    with pytest.raises(ValueError, match="host_index 0"):
        netlink.pod_drop(host, shape, address, 0)


@BOTH
@in_namespace
def test_a_del_of_what_never_was(ipv6: bool) -> None:
    """Unknown pod, by name and by index: success, nothing changed."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(ipv6=ipv6)
    before = state()
    assert netlink.pod_del(host, shape, slots_for(shape, pod)) == 0
    assert netlink.pod_del(host, shape, slots_for(shape, pod, host_index=4711)) == 0
    assert state() == before


@in_namespace
def test_a_del_takes_every_from_rule_of_the_address_and_no_other() -> None:
    """Several tables (weak point 2 of the specification); a rule of another priority or address stays."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(secondary=True)
    before = ip("rule")
    foreign = [
        "1536: from 10.0.1.24 lookup 5",
        "1537: from 10.0.1.23 lookup 5",
        "512: from all to 10.0.1.24 lookup main",
    ]
    for table in (2, 3, 10103):
        host.apply([netlink.rule_add(1536, table, src="10.0.1.23")])
    host.apply([netlink.rule_add(1536, 5, src="10.0.1.24"), netlink.rule_add(1537, 5, src="10.0.1.23")])
    host.apply([netlink.rule_add(512, 254, dst="10.0.1.23"), netlink.rule_add(512, 254, dst="10.0.1.24")])
    assert netlink.pod_del(host, shape, slots_for(shape, pod, table=3)) == 0
    assert "1536: from 10.0.1.23 lookup 3" not in ip("rule")
    assert "1536: from 10.0.1.23 lookup 10103" in ip("rule")
    assert netlink.pod_del(host, shape, slots_for(shape, pod, table=0)) == 0
    assert ip("rule") == sorted(before + foreign)


@in_namespace
def test_rules_of_another_writer_are_accepted_and_removed() -> None:
    """The existing system's rules carry another protocol, so they are not equal; a DEL removes all."""
    host, pod, shape = netlink.Socket.open(), Pod(), netlink.pod_shape(secondary=True)
    before = ip("rule")
    ip("rule add priority 512 to 10.0.1.23 lookup main protocol boot")
    ip("rule add priority 1536 from 10.0.1.23 lookup 2 protocol boot")
    netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    assert len(ip("rule")) == len(before) + 4
    netlink.pod_del(host, shape, slots_for(shape, pod))
    assert ip("rule") == before


@in_namespace
def test_a_thousand_cycles_leak_nothing() -> None:
    """Links, rules, routes, neighbours, descriptors: as before the first."""
    host = netlink.Socket.open()
    shapes = [netlink.pod_shape(ipv6=v6, secondary=s) for v6 in (False, True) for s in (False, True)]
    pods = [Pod(lo=False) for _ in range(20)]
    before, inside_before = state(), pods[0].ip("-o address")
    open_before = descriptors()
    for cycle in range(50):
        waiting = []
        for number, pod in enumerate(pods):
            shape = shapes[(cycle + number) % 4]
            with pod.socket() as sock:
                netlink.pod_add(host, sock, shape, slots_for(shape, pod, number))
            waiting.append(netlink.pod_del(host, shape, slots_for(shape, pod, number, table=0)))
        assert netlink.set_group_and_delete(host, waiting) == len(pods)
    assert descriptors() == open_before
    assert state() == before
    assert pods[0].ip("-o address") == inside_before


@in_namespace
def test_links_go_in_a_group_and_others_stay() -> None:
    """The reaper's call: gone ones are fine, links outside the list stay, group 0 stays whole."""
    host = netlink.Socket.open()
    for number in range(6):
        ip(f"link add a{number} type veth peer name b{number}")
    indexes = [socket.if_nametoindex(f"a{number}") for number in range(4)]
    assert netlink.set_group_and_delete(host, [*indexes, 99999]) == 4
    assert {n for _, n in socket.if_nameindex()} == {"lo", "a4", "a5", "b4", "b5"}
    assert netlink.set_group_and_delete(host, []) == 0
    assert netlink.set_group_and_delete(host, indexes) == 0
    ip("link add many type bridge")
    assert netlink.set_group_and_delete(host, [socket.if_nametoindex("many"), *[7] * 300]) >= 1


@in_namespace
def test_an_add_again_after_its_del_and_reaping() -> None:
    """The same pod comes back with another address and table; old state has no say."""
    host, shape = netlink.Socket.open(), netlink.pod_shape(secondary=True)
    for number in range(3):
        pod = Pod(lo=False)
        slots = slots_for(shape, pod, number, NAME, table=2 + number)
        with pod.socket() as sock:
            index = netlink.pod_add(host, sock, shape, slots)
        assert len([r for r in ip("rule") if r.startswith("1536")]) == 1
        assert netlink.pod_del(host, shape, slots) == index
        netlink.set_group_and_delete(host, [index])
        pod.close()
