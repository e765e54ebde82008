"""The host network on a real kernel: set-up, a second run that changes nothing, repair, and what packets meet.

Everything happens in a thread with a network namespace of its own, which goes when the thread does.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agent.manager.host_monitor import GATHER_S
from agent.manager.host_network import HostNetwork, Place
from clients.clock import SystemClock
from core.errors import HostNetworkError
from core.hostnet import NodeRules
from core.nat import NatConfig
from tests.unit.hand_clock import HandClock

CLONE_NEWNET = 0x40000000
PRIMARY = "02:00:00:00:00:05"
SECOND = "02:00:00:00:00:06"
THIRD = "02:00:00:00:00:07"
NAT = NatConfig("10.0.0.4", "ens5", "eni", 0x80, ("10.0.0.0/16",))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def in_namespace(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test in a thread with a new network namespace that holds two NICs."""

    def wrapped() -> None:
        failures: list[BaseException] = []

        def body() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.unshare(CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                # What IPv6 does by itself comes late, and none of it is ours.
                run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
                for name, mac in (("ens5", PRIMARY), ("ens6", SECOND)):
                    run("ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", f"{name}p")
                    run("ip", "link", "set", f"{name}p", "up")
                run("ip", "link", "set", "ens5", "up")
                run("ip", "address", "add", "10.0.0.4/18", "dev", "ens5")
                test()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    # Not functools.wraps, which would show pytest the inner signature.
    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


def state() -> str:
    """All that we set up, as the kernel's own tools show it."""
    commands = (
        ("ip", "rule"),
        ("ip", "-d", "route", "show", "table", "all"),
        ("ip", "-4", "-o", "address"),
        ("nft", "-s", "list", "ruleset"),
    )
    return "\n".join(run(*command) for command in commands)


def await_carriers(*names: str) -> None:
    """The kernel tells of a link's carrier up to a second after the link was set up."""
    deadline = time.monotonic() + 10
    while any("state UP" not in run("ip", "-o", "link", "show", name) for name in names):
        assert time.monotonic() < deadline, "no carrier"
        time.sleep(0.02)


def second(host: HostNetwork) -> list[str]:
    return host.set_eni(SECOND, 1400, 2, "10.0.64.9", "10.0.64.0/18")[1]


def third(host: HostNetwork) -> list[str]:
    return host.set_eni(THIRD, 1400, 3, "10.0.64.10", "10.0.64.0/18")[1]


@in_namespace
def test_set_up_twice_and_repair() -> None:
    host = HostNetwork(SystemClock())
    link = host.primary(PRIMARY, 1400)
    assert link.name == "ens5"
    assert second(host)
    assert host.set_rules(NodeRules(0x80, True, False, ("172.20.0.0/16",)))
    assert host.set_nat(NAT)
    done = state()
    assert "1024:\tfrom all fwmark 0x80/0x80 lookup main" in done
    assert "1535:\tfrom all to 172.20.0.0/16 lookup main" in done
    assert "32765:\tfrom 10.0.64.9 lookup 2" in done
    assert "default via 10.0.64.1 dev ens6 table 2 proto kernel" in done
    assert "10.0.64.1 dev ens6 table 2 proto kernel scope link" in done
    assert "10.0.64.0/18 dev ens6" not in done
    assert "mtu 1400" in run("ip", "link", "show", "ens6")
    assert "mtu 1400" in run("ip", "link", "show", "ens5")

    assert second(host) == []
    assert host.set_rules(NodeRules(0x80, True, False, ("172.20.0.0/16",))) == []
    assert host.set_nat(NAT) is False
    assert state() == done

    run("ip", "rule", "del", "priority", "1024")
    run("ip", "route", "del", "default", "table", "2")
    run("ip", "address", "add", "10.0.64.77/18", "dev", "ens6")
    run("nft", "flush", "chain", "ip", "enid", "leave_vpc")
    assert len(host.set_rules(NodeRules(0x80, True, False, ("172.20.0.0/16",)))) == 1
    assert second(host)
    assert host.set_nat(NAT)
    assert sorted(state().splitlines()) == sorted(done.splitlines())

    run("nft", "delete", "table", "ip", "enid")
    assert host.set_nat(NAT)
    assert sorted(state().splitlines()) == sorted(done.splitlines())
    host.close()


@in_namespace
def test_every_disturbance_is_heard_of_and_what_pods_do_is_none() -> None:
    clock = HandClock()
    host = HostNetwork(clock)
    host.primary(PRIMARY, 1500)
    second(host)
    host.set_rules(NodeRules(0x80, True, False))
    host.set_nat(NAT)

    def heard() -> bool:
        clock.sleep(1.0)
        return host.monitor.disturbed()

    def all_in_order() -> str:
        host.primary(PRIMARY, 1500)
        second(host)
        host.set_rules(NodeRules(0x80, True, False))
        host.set_nat(NAT)
        await_carriers("ens5", "ens6")
        # Our own program is a stranger to the kernel: one look more, which finds nothing.
        heard()
        return state()

    before = all_in_order()
    assert not heard()
    run("ip", "link", "add", "enipod", "type", "veth", "peer", "name", "inside")
    run("ip", "link", "set", "enipod", "up")
    run("ip", "route", "add", "10.0.0.9/32", "dev", "enipod")
    run("ip", "rule", "add", "to", "10.0.0.9", "lookup", "main", "priority", "512")
    run("ip", "rule", "add", "from", "10.0.0.9", "lookup", "2", "priority", "1536")
    run("ip", "rule", "del", "priority", "512")
    run("ip", "rule", "del", "priority", "1536")
    run("ip", "link", "del", "enipod")
    run("nft", "add", "table", "ip", "kube-proxy")
    run("nft", "delete", "table", "ip", "kube-proxy")
    assert not heard()
    for command in (
        "ip rule del priority 1024",
        "ip rule del priority 32765",
        "ip route del default table 2",
        "ip link set ens6 down",
        "ip link set ens5 mtu 1300",
        "ip address del 10.0.64.9/18 dev ens6",
        "nft flush chain ip enid leave_vpc",
        "nft delete table ip enid",
        "nft flush ruleset",
    ):
        run(*command.split())
        assert heard(), command
        assert sorted(all_in_order().splitlines()) == sorted(before.splitlines()), command
        assert not heard(), command
    host.close()


@in_namespace
def test_what_is_told_is_gathered_and_a_flood_is_no_alarm_without_end() -> None:
    clock = HandClock()
    host = HostNetwork(clock)
    host.set_rules(NodeRules(0x80, True, False))
    assert not host.monitor.disturbed()
    run("ip", "rule", "del", "priority", "1024")
    # The last look was a moment ago.
    assert not host.monitor.disturbed()
    assert host.monitor.listens_at > clock.now()
    clock.sleep(GATHER_S)
    assert host.monitor.disturbed()
    host.close()


@in_namespace
def test_rules_that_an_eni_has_left_behind_go_and_others_stay() -> None:
    """The address may belong to a pod on another ENI by now: its packets would leave by the wrong one."""
    host = HostNetwork(SystemClock())
    host.primary(PRIMARY, 1500)
    second(host)
    run("ip", "address", "add", "10.0.5.5/32", "dev", "ens5")
    kept = run("ip", "rule")
    for stays in (
        ("from", "10.0.5.5", "lookup", "3"),  # somebody's ENI that is here
        ("from", "10.0.64.40", "lookup", "3000"),  # no table of an ENI
        ("from", "192.168.7.7", "lookup", "3"),  # not of the VPC
        ("from", "10.0.64.0/24", "lookup", "3"),  # not an address
    ):
        run("ip", "rule", "add", *stays, "priority", "32765")
        kept = run("ip", "rule")
    run("ip", "rule", "add", "from", "10.0.64.41", "lookup", "3", "priority", "1536")
    kept = run("ip", "rule")
    run("ip", "rule", "add", "from", "10.0.64.30", "lookup", "3", "priority", "32765")
    found = host.check_enis(["10.0.0.0/16"])
    assert found.repaired == ["no rule 32765 from 10.0.64.30/32 lookup 3"]
    assert run("ip", "rule") == kept
    assert host.check_enis(["10.0.0.0/16"]).repaired == []

    # A check that meets a removal does not bring back what the removal has taken.
    host.drop_eni(SECOND, "10.0.64.9")
    assert host.check_enis(["10.0.0.0/16"]).links == {}
    assert "10.0.64.9" not in run("ip", "rule")
    # An ENI that has gone without us leaves its rule, until its address is on no link any more.
    second(host)
    host.forget_eni(SECOND)
    assert host.check_enis(["10.0.0.0/16"]).repaired == []
    run("ip", "link", "del", "ens6")
    assert host.check_enis(["10.0.0.0/16"]).repaired == ["no rule 32765 from 10.0.64.9/32 lookup 2"]
    host.close()


@in_namespace
def test_an_eni_whose_link_has_gone_is_missing_until_it_is_back() -> None:
    host = HostNetwork(SystemClock())
    host.primary(PRIMARY, 1500)
    second(host)
    rules = run("ip", "rule")
    run("ip", "link", "del", "ens6")
    found = host.check_enis(["10.0.0.0/16"])
    assert (found.links, found.missing) == ({}, {SECOND})
    run("ip", "link", "add", "ens6b", "address", SECOND, "type", "veth", "peer", "name", "ens6p")
    found = host.check_enis(["10.0.0.0/16"])
    assert found.links[SECOND].name == "ens6b"
    assert "default via 10.0.64.1 dev ens6b" in run("ip", "route", "show", "table", "2")
    assert run("ip", "rule") == rules
    host.close()


class Barging:
    """A lock before which, once, another thread gets its turn."""

    def __init__(self, inner: threading.Lock, other: Callable[[], object]) -> None:
        self._inner, self._others = inner, [other]

    def __enter__(self) -> None:
        if self._others:
            self._others.pop()()
        self._inner.acquire()

    def __exit__(self, *_: object) -> None:
        self._inner.release()


@in_namespace
def test_an_eni_that_is_set_up_during_a_check_is_looked_after() -> None:
    clock = HandClock()
    host = HostNetwork(clock)
    host.primary(PRIMARY, 1500)
    run("ip", "link", "add", "ens7", "address", THIRD, "type", "veth", "peer", "name", "ens7p")
    run("ip", "link", "set", "ens7p", "up")
    second(host)
    inner = host._change
    host._change = cast(Any, Barging(inner, lambda: third(host)))
    host.check_enis(["10.0.0.0/16"])
    host._change = inner
    await_carriers("ens5", "ens6", "ens7")
    clock.sleep(1.0)
    host.monitor.disturbed()
    run("ip", "route", "del", "default", "table", "3")
    clock.sleep(1.0)
    assert host.monitor.disturbed()

    # And one that went is not, whether it was dropped or only forgotten.
    host.forget_eni(THIRD)
    host.check_enis(["10.0.0.0/16"])
    clock.sleep(1.0)
    host.monitor.disturbed()
    run("ip", "link", "set", "ens7", "down")
    clock.sleep(1.0)
    assert not host.monitor.disturbed()
    host.close()


@in_namespace
def test_places_may_go_while_they_are_looked_at() -> None:
    """The main loop forgets an ENI without waiting for a check that is under way."""
    host = HostNetwork(SystemClock())
    host.primary(PRIMARY, 1500)
    second(host)
    leaving = [f"02:00:00:00:01:{number:02}" for number in range(9)]

    class Busy(Place):
        @property
        def primary_ip(self) -> str:  # type: ignore[override]  # a field
            host.forget_eni(leaving.pop())
            return "10.0.64.9"

    host._places[SECOND] = Busy(*host._places[SECOND])
    for mac in leaving:
        host._places[mac] = Place(mac, 1400, 9, "10.0.64.99", "10.0.64.0/18")
    assert host.check_enis(["10.0.0.0/16"]).repaired == []
    host.close()


@in_namespace
def test_removal_leaves_nothing() -> None:
    host = HostNetwork(SystemClock())
    before = run("ip", "rule")
    second(host)
    run("ip", "rule", "add", "from", "10.0.64.9", "lookup", "77", "priority", "1536")
    assert len(host.drop_eni(SECOND, "10.0.64.9")) == 2
    assert run("ip", "rule") == before
    host.close()


@in_namespace
def test_external_snat_takes_the_rules_away() -> None:
    host = HostNetwork(SystemClock())
    assert host.set_nat(NAT)
    assert "snat to 10.0.0.4 fully-random" in state()
    external = NatConfig("10.0.0.4", "ens5", "eni", 0x80, ("10.0.0.0/16",), external_snat=True)
    assert host.set_nat(external)
    assert "snat" not in state()
    nothing = NatConfig("10.0.0.4", "ens5", "eni", 0x80, (), external_snat=True, node_port_support=False)
    assert host.set_nat(nothing)
    assert "enid" not in run("nft", "list", "ruleset")
    assert host.set_nat(nothing) is False
    host.close()


@in_namespace
def test_sysctls_and_a_link_that_is_not_there() -> None:
    Path("/proc/sys/net/ipv4/conf/ens5/rp_filter").write_text("1")
    host = HostNetwork(SystemClock())
    changed = host.set_sysctls("ens5", tcp_early_demux=True)
    assert "net/ipv4/conf/ens5/rp_filter=2" in changed
    assert Path("/proc/sys/net/ipv4/conf/ens5/rp_filter").read_text().strip() == "2"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    assert host.set_sysctls("ens5", tcp_early_demux=True) == []
    with pytest.raises(HostNetworkError, match="02:00:00:00:00:77"):
        host.wait_link("02:00:00:00:00:77", 0.0)
    host.close()


@in_namespace
def test_a_pod_that_leaves_the_vpc_shows_the_primary_address_and_uses_the_primary_link() -> None:
    """A pod on the second ENI talks to the outside: marked, routed by main, and source-translated."""
    host = HostNetwork(SystemClock())
    link = host.primary(PRIMARY, 1500)
    host.set_sysctls(link.name, tcp_early_demux=True)
    second(host)
    host.set_rules(NodeRules(0x80, True, False))
    host.set_nat(NAT)
    run("ip", "route", "add", "default", "via", "10.0.0.1", "dev", "ens5", "onlink")
    run("ip", "neigh", "add", "10.0.0.1", "lladdr", "02:00:00:00:00:99", "dev", "ens5")
    run("ip", "neigh", "add", "10.0.64.1", "lladdr", "02:00:00:00:00:98", "dev", "ens6")
    # A pod: its veth, its rules, and what stands for its namespace.
    run("ip", "link", "add", "enipod", "type", "veth", "peer", "name", "inside")
    for name in ("enipod", "inside"):
        run("ip", "link", "set", name, "up")
    run("ip", "rule", "add", "from", "10.0.64.40", "lookup", "2", "priority", "1536")
    run("ip", "route", "add", "10.0.64.40/32", "dev", "enipod")
    with wire("ens5p") as primary, wire("ens6p") as other:
        send_from_pod("203.0.113.9")
        assert next_packet(primary) == ("10.0.0.4", "203.0.113.9")
        send_from_pod("10.0.99.9")
        assert next_packet(other) == ("10.0.64.40", "10.0.99.9")
    host.close()


def wire(link: str) -> socket.socket:
    """What arrives at a link, as IPv4 packets."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    raw.bind((link, 0x0800))
    raw.settimeout(5)
    return raw


def next_packet(raw: socket.socket) -> tuple[str, str]:
    """Source and destination of the next UDP packet."""
    while True:
        packet = raw.recv(2048)
        if packet[9] == socket.IPPROTO_UDP:
            return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])


def send_from_pod(destination: str) -> None:
    """One UDP packet from 10.0.64.40, as it comes out of the pod's end of the veth."""
    shown = run("ip", "-o", "link", "show", "enipod").split("link/ether ")[1].split()[0]
    udp = struct.pack("!HHHH", 5000, 53, 8, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0)
    head += socket.inet_aton("10.0.64.40") + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as raw:
        raw.bind(("inside", 0))
        raw.send(bytes.fromhex(shown.replace(":", "")) + bytes.fromhex("020000000042") + b"\x08\x00" + head + udp)
