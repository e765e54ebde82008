"""Host set-up, dumps and notifications of the kernel writer, compared with what iproute2 says."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from ext import netlink
from tests.kernel.box import Pod, descriptors, in_namespace, ip, packed, slots_for

pytestmark = pytest.mark.root


def ip_json(command: str) -> list[dict[str, Any]]:
    """`ip -j`, without the empty entries that some versions print."""
    done = subprocess.run(["ip", "-j", *command.split()], capture_output=True, text=True, check=True)
    return [entry for entry in json.loads(done.stdout or "[]") if entry]


def veth(name: str, mac: str = "", peer: str = "") -> int:
    """A veth pair, this end up; its index."""
    ip(f"link add {name} {'address ' + mac if mac else ''} type veth peer name {peer or name + 'p'}")
    ip(f"link set {name} up")
    return socket.if_nametoindex(name)


@pytest.mark.parametrize(
    ("subnet", "gateway", "primary", "flag"),
    [
        ("10.0.2.0/24", "10.0.2.1", "10.0.2.10/24", "-4"),
        ("2001:db8:2::/64", "fe80:ec2::1", "2001:db8:2::10/64", "-6"),
    ],
)
@in_namespace
def test_a_secondary_interface_is_set_up(subnet: str, gateway: str, primary: str, flag: str) -> None:
    """Data plane specification, section 13, with the ops alone; twice, and away again."""
    index = veth("ens6", "02:00:00:00:00:66")
    sock = netlink.Socket.open()
    address = primary.partition("/")[0]
    found = sock.link_by_mac(bytes.fromhex("020000000066"))
    assert found is not None
    assert (found.ifindex, found.name) == (index, "ens6")
    exists = (errno.EEXIST,)
    ops = [
        netlink.link_set(index, mtu=8000, up=True),
        netlink.address_add(index, primary, nodad=flag == "-6", tolerate=exists),
        netlink.route_replace(gateway, index=index, table=3),
        netlink.route_replace(None, gateway=gateway, index=index, table=3),
        netlink.route_del(subnet, index=index),
        netlink.rule_add(32765, 3, src=address),
    ]

    def shown() -> list[str]:
        """All that the ops may touch. That the link has no carrier shows in its own time."""
        lines = [*ip("-o address"), *ip(f"{flag} rule"), *ip(f"{flag} route show table all")]
        return [line.replace(" linkdown", "") for line in lines]

    assert sock.apply(ops) == 6
    first = shown()
    assert sock.apply(ops) < 6
    assert shown() == first
    [link] = ip_json("link show dev ens6")
    assert link["mtu"] == 8000
    assert any(f"inet{'6' if flag == '-6' else ''} {primary} scope global" in a for a in ip("-o address show dev ens6"))
    routes = {r["dst"]: r for r in ip_json(f"{flag} route show table 3")}
    assert routes["default"]["gateway"] == gateway
    assert gateway in routes
    assert not [r for r in ip_json(f"{flag} route show table main") if r["dst"] == subnet]
    assert f"32765: from {address} lookup 3" in ip(f"{flag} rule")

    back = [
        netlink.rule_del(32765, src=address),
        netlink.route_del(None, table=3, index=index, gateway=gateway),
        netlink.route_del(gateway, table=3),
        netlink.address_del(index, primary),
    ]
    assert sock.apply(back) == 4
    assert sock.apply(back) == 0
    assert ip_json(f"{flag} route show table 3") == []


@in_namespace
def test_the_fwmark_rule() -> None:
    """Rule 1024 of the host: mark and mask, both families, added once."""
    sock = netlink.Socket.open()
    ops = [netlink.rule_add(1024, 254, fwmark=0x80, fwmask=0x80, family=f) for f in (socket.AF_INET, socket.AF_INET6)]
    assert sock.apply(ops) == 2
    assert sock.apply(ops) == 0
    for flag in ("-4", "-6"):
        assert "1024: from all fwmark 0x80/0x80 lookup main" in ip(f"{flag} rule")
    [rule] = [r for r in sock.rules(socket.AF_INET) if r.priority == 1024]
    assert (rule.fwmark, rule.fwmask, rule.table, rule.src, rule.dst) == (0x80, 0x80, 254, b"", b"")


@in_namespace
def test_many_ops_are_cut_into_batches() -> None:
    """300 rules in one apply, and away again."""
    sock = netlink.Socket.open()
    before = ip("rule")
    sources = [f"10.1.{n // 250}.{n % 250}" for n in range(300)]
    assert sock.apply([netlink.rule_add(1535, 254, src=s) for s in sources]) == 300
    assert len([r for r in sock.rules(socket.AF_INET) if r.priority == 1535]) == 300
    assert sock.apply([netlink.rule_del(1535, src=s) for s in sources]) == 300
    assert ip("rule") == before


@in_namespace
def test_dumps_say_what_iproute2_says() -> None:
    """Links, addresses, routes, rules and neighbours of a namespace with some of each."""
    host = netlink.Socket.open()
    for ipv6 in (False, True):
        pod, shape = Pod(lo=False), netlink.pod_shape(ipv6=ipv6, secondary=True)
        netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod, 1 + ipv6))
    veth("ens5")
    ip("address add 10.0.0.5/24 dev ens5")
    ip("address add 2001:db8::5/64 dev ens5 nodad")
    ip("route add default via 10.0.0.1 dev ens5")
    ip("route add unreachable 10.9.0.0/16")
    ip("route add 10.8.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3")
    ip("route add 10.7.0.0/16 via 10.0.0.1 src 10.0.0.5 metric 77 table 10103")
    ip("rule add iif ens5 lookup 7 priority 10")

    links = {(e["ifindex"], e["ifname"], e["mtu"], e["address"], e["operstate"] == "UP") for e in ip_json("-d link")}
    assert {(x.ifindex, x.name, x.mtu, x.mac.hex(":"), x.operstate == 6) for x in host.links()} == links
    assert {x.kind for x in host.links()} == {"", "veth"}
    addresses = {
        (e["ifindex"], a["local"], a["prefixlen"]) for e in ip_json("address") for a in e["addr_info"]
    }  # fmt: skip
    ours = {(a.ifindex, socket.inet_ntop(a.family, a.address), a.length) for a in host.addresses()}
    assert ours == addresses
    index = socket.if_nametoindex("ens5")
    assert {a.ifindex for a in host.addresses(index=index)} == {index}

    for family, flag in ((socket.AF_INET, "-4"), (socket.AF_INET6, "-6")):
        size = 32 if family == socket.AF_INET else 128
        expected = sorted(
            (
                e["dst"] if e["dst"] == "default" or "/" in e["dst"] else f"{e['dst']}/{size}",
                e.get("gateway", ""), e.get("dev", "") , e.get("prefsrc", ""), e.get("metric", 0),
            )
            for e in ip_json(f"{flag} -d route show table all")
            if not e["dst"].startswith("fe80:")
        )  # fmt: skip
        names = dict(socket.if_nameindex()) | {0: ""}
        found = sorted(
            (
                f"{socket.inet_ntop(family, r.dst)}/{r.length}" if r.dst else "default",
                socket.inet_ntop(family, r.gateway) if r.gateway else "", names[r.ifindex] if r.type != 7 else "",
                socket.inet_ntop(family, r.source) if r.source else "", r.priority,
            )
            for r in host.routes(family)
            if not r.dst.startswith(b"\xfe\x80")  # the kernel makes some of them in its own time
        )  # fmt: skip
        assert found == expected
    [route] = host.routes(socket.AF_INET, table=10103)
    assert (route.dst, route.length, route.priority, route.source) == (packed("10.7.0.0"), 16, 77, packed("10.0.0.5"))
    [rule] = [r for r in host.rules(socket.AF_INET) if r.iif]
    assert (rule.iif, rule.table, rule.priority) == ("ens5", 7, 10)
    assert [r.priority for r in host.rules(socket.AF_INET)] == sorted(e["priority"] for e in ip_json("rule"))
    permanent = {(e["dst"], e["lladdr"]) for e in ip_json("neigh show nud permanent")}
    neighbours = {(socket.inet_ntop(n.family, n.address), n.mac.hex(":")) for n in host.neighbours() if n.state == 0x80}
    assert neighbours == permanent
    assert len(permanent) == 2


@in_namespace
def test_a_table_or_link_that_does_not_exist_is_empty() -> None:
    """The kernel calls some of them errors."""
    sock = netlink.Socket.open()
    for family in (0, socket.AF_INET, socket.AF_INET6):
        assert sock.routes(family, table=77) == []
        assert sock.addresses(family, index=4711) == []
        assert sock.neighbours(family, index=4711) == []


@in_namespace
def test_a_long_dump_is_complete() -> None:
    """2,000 routes come in several datagrams."""
    sock = netlink.Socket.open()
    index = veth("ens5")
    sock.apply([netlink.route_replace(f"10.{n >> 8}.{n & 255}.0/24", index=index, table=9) for n in range(2000)])
    assert len({r.dst for r in sock.routes(socket.AF_INET, table=9)}) == 2000


@in_namespace
def test_one_link_by_name_or_index() -> None:
    """Or none; either, not both."""
    index, sock = veth("ens5", "02:00:00:00:00:55"), netlink.Socket.open()
    by_name, by_index = sock.link(name="ens5"), sock.link(index=index)
    assert by_name == by_index
    assert by_name is not None
    assert by_name.mac.hex() == "020000000055"
    assert sock.link(name="nosuch") is None
    assert sock.link(index=4711) is None
    assert sock.link_by_mac(bytes(5) + b"\1") is None
    with pytest.raises(ValueError, match="either"):
        sock.link(name="ens5", index=index)
    with pytest.raises(ValueError, match="either"):
        sock.link()


@in_namespace
def test_a_refusal_carries_the_kernel_s_words() -> None:
    """Extended acknowledgement; the rest of the batch was still carried out."""
    sock = netlink.Socket.open()
    index = veth("ens5")
    ops = [
        netlink.link_set(index, mtu=1400),
        netlink.route_add("10.0.0.0/8", index=index, gateway="10.255.0.1"),
        netlink.link_set(index, mtu=1300),
    ]
    with pytest.raises(netlink.KernelError) as caught:
        sock.apply(ops)
    error = caught.value
    assert (error.index, error.op, error.errno) == (1, "route_add", errno.ENETUNREACH)
    assert "invalid gateway" in error.text
    assert ip_json("link show dev ens5")[0]["mtu"] == 1300


@in_namespace
def test_a_veth_alone_tells_both_indexes() -> None:
    """new_link: for plans that are not an ordinary pod's."""
    host, pod = netlink.Socket.open(), Pod(lo=False)
    pod.ip("link add filler type veth peer name filler2")
    template = netlink.compile_ops(
        [netlink.veth_add("v1", "inner", pod.fd, mtu=1500, mac=b"\2\0\0\0\0\1", peer_mac=b"\2\0\0\0\0\2")]
    )
    index, peer = host.new_link(template)
    assert socket.if_nametoindex("v1") == index
    assert any(line.startswith(f"{peer}: inner@") for line in pod.ip("-o link"))
    with pytest.raises(netlink.NameTaken):
        host.new_link(template)


def until(monitor: netlink.Monitor, wanted: Callable[[list[netlink.Event]], bool]) -> list[netlink.Event]:
    """Events, until enough have come."""
    seen: list[netlink.Event] = []
    end = time.monotonic() + 10
    while not wanted(seen):
        assert time.monotonic() < end, seen
        select.select([monitor], [], [], 0.1)
        seen += monitor.read()
    return seen


@in_namespace
def test_a_link_that_goes_is_told() -> None:
    """What the agent watches for: RTM_DELLINK with index and name."""
    monitor = netlink.Monitor([netlink.LINKS], deletions_only=True)
    index = veth("enigone")
    assert monitor.read() == []
    ip("link del enigone")
    seen = until(monitor, lambda events: len(events) == 2)
    links = {e.thing.name: e.thing.ifindex for e in seen if isinstance(e.thing, netlink.Link)}
    assert links == {"enigone": index, "enigonep": links["enigonep"]}
    assert {e.what for e in seen} == {"del"}


@in_namespace
def test_foreign_changes_are_told_and_own_are_not() -> None:
    """Rules and routes of both families, by another process and by us."""
    own = netlink.Socket.open()
    index = veth("ens5")
    ip("address add 2001:db8::5/64 dev ens5 nodad")
    monitor = netlink.Monitor([netlink.ROUTES, netlink.RULES], [own])
    other = netlink.Socket.open()
    for sock, third in ((own, 1), (other, 2)):
        sock.apply(
            [
                netlink.rule_add(512, 254, dst=f"10.0.{third}.1"),
                netlink.rule_add(512, 254, dst=f"2001:db8:{third}::1"),
                netlink.route_replace(f"10.0.{third}.2", index=index, table=9),
                netlink.route_replace(f"2001:db8:{third}::2", index=index, table=9),
                netlink.rule_del(512, dst=f"10.0.{third}.1"),
            ]
        )
    things = [
        (e.what, socket.inet_ntop(e.thing.family, e.thing.dst))
        for e in until(monitor, lambda events: len([e for e in events if e.what == "del"]) >= 1)
        if isinstance(e.thing, (netlink.Rule, netlink.Route)) and e.thing.table in (9, 254) and e.thing.dst
    ]
    assert set(things) == {
        ("new", "10.0.2.1"),
        ("new", "2001:db8:2::1"),
        ("new", "10.0.2.2"),
        ("new", "2001:db8:2::2"),
        ("del", "10.0.2.1"),
    }


@in_namespace
def test_lost_notifications_are_told_as_resync() -> None:
    """More than the queue holds: RESYNC, and later events come again."""
    monitor, sock = netlink.Monitor([netlink.RULES]), netlink.Socket.open()
    ops = [netlink.rule_add(1535, 254, src=f"10.{n >> 8}.{n & 255}.1") for n in range(4000)]
    sock.apply(ops)
    events = monitor.read()
    assert netlink.RESYNC in events
    assert len(events) < 4001
    sock.apply([netlink.rule_add(1534, 254, src="10.200.0.1")])
    seen = until(monitor, lambda e: len(e) >= 1)
    assert [e.thing.priority for e in seen if isinstance(e.thing, netlink.Rule)] == [1534]


@in_namespace
def test_a_thousand_sockets_leave_no_descriptor() -> None:
    """Opened, adopted, refused and dropped without close()."""

    before = descriptors()
    for _ in range(1000):
        netlink.Socket.open().close()
        netlink.Socket.open()
        plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        netlink.Socket(plain.detach())
        netlink.Monitor([netlink.LINKS])
        fd = os.open("/", os.O_RDONLY)
        with pytest.raises(netlink.WrongSocket):
            netlink.Socket(fd)
        os.close(fd)
    assert descriptors() == before
