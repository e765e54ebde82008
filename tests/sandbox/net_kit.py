"""A world for the tests of the data plane: dual stack, pods by hand, a peered VPC and an on-premises network.

The pods are namespaces that the tests wire themselves, so that nothing but the sandbox is under test: an address of an
ENI, IPv4 and IPv6, routed to a veth, and rules by which its packets leave by that ENI. What is claimed is seen inside
namespaces and in the router's counters.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sandbox.base.shapes import Completed, LedgerEni
from sandbox.face.client import Sandbox
from sandbox.world.scenario import NodeSpec, OutsideSpec, Scenario, SubnetSpec, TypeSpec
from tests.sandbox.conftest import ec2, until

INTERNET = {"4": "203.0.113.10", "6": "2001:db8:113::10"}
PEER = {"4": "172.31.0.10", "6": "2001:db8:200::10"}
PREMISES = {"4": "192.168.0.10", "6": "2001:db8:300::10"}
METADATA = {"4": "169.254.169.254", "6": "fd00:ec2::254"}
SCENARIO = Scenario(
    nodes=(
        NodeSpec("node-1", "room", 0),
        NodeSpec("node-2", "room", 1),
        NodeSpec("node-3", "room", 2, hop_limit=1),
        NodeSpec("node-4", "room", 0),
    ),
    secondary_cidrs=("100.64.0.0/16",),
    vpc_ipv6_cidr="2001:db8:100::/56",
    subnets=(
        SubnetSpec("10.0.0.0/18", "a", "2001:db8:100::/64"),
        SubnetSpec("10.0.64.0/18", "b", "2001:db8:100:1::/64"),
        SubnetSpec("100.64.0.0/18", "a", "2001:db8:100:2::/64"),
        SubnetSpec("10.0.128.0/18", "a"),
    ),
    types=(TypeSpec("room", 4, 30),),
    outside=(
        OutsideSpec("peer", "peering", "172.31.0.0/16", "2001:db8:200::/64"),
        OutsideSpec("premises", "on-premises", "192.168.0.0/16", "2001:db8:300::/64"),
    ),
    imds_ipv6=True,
)
_numbers = itertools.count(1)

WIRE = """
set -e
ip netns add {name}
ip link add {name} mtu 9001 type veth peer name eth0 mtu 9001 netns {name}
echo 0 >/proc/sys/net/ipv6/conf/{name}/accept_dad; ip link set {name} up
ip -n {name} link set lo up; ip -n {name} link set eth0 up
ip -n {name} addr add {four}/32 dev eth0; ip -n {name} addr add {six}/128 dev eth0 nodad
mac=$(ip -o link show {name} | sed 's/.*ether \\([^ ]*\\).*/\\1/')
for gateway in 169.254.1.1 fe80::1; do
  ip -n {name} neigh add $gateway lladdr $mac dev eth0 nud permanent
  ip -n {name} route add $gateway dev eth0; ip -n {name} route add default via $gateway dev eth0
done
ip route add {four}/32 dev {name}; ip -6 route add {six}/128 dev {name}
{rules}
"""


@dataclass
class Pod:
    """A namespace with one IPv4 and one IPv6 address of an ENI."""

    world: Sandbox
    name: str
    node: str
    eni_id: str
    address: dict[str, str]

    def run(self, *argv: str, timeout: float = 60.0) -> Completed:
        return self.world.router_exec(["nsenter", f"--net=/run/netns/{self.name}", *argv], timeout=timeout)

    def ping(self, target: str, *options: str) -> bool:
        """Whether an answer comes; the limit is for a machine that stands still."""
        return self.run("ping", "-c1", "-W20", *options, target).rc == 0

    def dark(self, target: str, *options: str) -> bool:
        """Whether no answer comes within a second; what became of the packet is asserted by a counter too."""
        return self.run("ping", "-c1", "-W1", *options, target).rc != 0


@contextmanager
def running(folder: Path) -> Iterator[Sandbox]:
    """The world of SCENARIO, its nodes forwarding both families as a CNI sets them up."""
    with Sandbox.up(folder / "s", SCENARIO) as world:
        for node in SCENARIO.nodes:
            if SCENARIO.subnets[node.subnet].ipv6_cidr:
                until(partial(_default6, world, node.name), f"router of {node.name}", 30.0)
            text = "cd /proc/sys/net/ipv6/conf; echo 2 >ens5/accept_ra; echo 1 >all/forwarding"
            done = world.node_exec(node.name, ["sh", "-c", text])
            assert done.rc == 0, done.error_text
        yield world


def _default6(world: Sandbox, node: str) -> str:
    return world.node_exec(node, ["ip", "-6", "route", "show", "default"]).text


def held(world: Sandbox, eni_id: str) -> LedgerEni:
    return next(entry for entry in world.ledger() if entry.eni_id == eni_id)


def attach(world: Sandbox, node: str, *groups: str) -> str:
    """A second ENI, up in the node, with a route table of its own for both families. Its id."""
    found = world.node(node)
    members = {f"SecurityGroupId_{number}": group for number, group in enumerate(groups, 1)}
    made = ec2(world, "CreateNetworkInterface", SubnetId=found.subnet_id, **members)
    eni_id = made.findtext(".//networkInterfaceId") or ""
    device = len(found.nics)
    ec2(world, "AttachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=found.instance_id, DeviceIndex=device)
    name, table = f"ens{5 + device}", 100 + device
    gateway = gateway_of(world, node)
    text = (
        f"ip link set {name} up; ip route add {gateway} dev {name} table {table};"
        f" ip route add default via {gateway} dev {name} table {table};"
        f" ip -6 route add default via fe80:ec2::1 dev {name} table {table}"
    )
    done = world.node_exec(node, ["sh", "-c", text])
    assert done.rc == 0, done.error_text
    # An interface asks for no IPv6 neighbour before its own link-local address is proved unique (RFC 4862).
    until(partial(_proved, world, node, name), f"link-local address of {name} on {node}", 30.0)
    return eni_id


def _proved(world: Sandbox, node: str, name: str) -> bool:
    links = json.loads(world.node_exec(node, ["ip", "-j", "-6", "addr", "show", "dev", name, "scope", "link"]).stdout)
    found = [address for link in links for address in link.get("addr_info", ())]
    return bool(found) and not any(address.get("tentative") for address in found)


def gateway_of(world: Sandbox, node: str) -> str:
    routes = json.loads(world.node_exec(node, ["ip", "-j", "route", "show", "default"]).stdout)
    return str(routes[0]["gateway"])


def make_pod(world: Sandbox, node: str, eni_id: str = "") -> Pod:
    """A pod on an ENI of a node (the primary one if none is named), with addresses that EC2 assigns for it."""
    nics = world.node(node).nics
    nic = next(nic for nic in nics if nic.eni_id == (eni_id or nics[0].eni_id))
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=nic.eni_id, SecondaryPrivateIpAddressCount=1)
    ec2(world, "AssignIpv6Addresses", NetworkInterfaceId=nic.eni_id, Ipv6AddressCount=1)
    entry = held(world, nic.eni_id)
    return wire(world, node, nic.eni_id, entry.addresses[-1], entry.ipv6_addresses[-1], nic.device)


def wire(world: Sandbox, node: str, eni_id: str, four: str, six: str, device: int) -> Pod:
    """A pod with these addresses whose packets leave by the ENI at this device index."""
    name = f"pod{next(_numbers)}"
    rules = "".join(
        f"ip -{family} rule add to {address} table main prio 512\n"
        + (f"ip -{family} rule add from {address} table {100 + device} prio 1536\n" if device else "")
        for family, address in (("4", four), ("6", six))
    )
    done = world.node_exec(node, ["sh", "-c", WIRE.format(name=name, four=four, six=six, rules=rules)])
    assert done.rc == 0, done.error_text
    return Pod(world, name, node, eni_id, {"4": four, "6": six})


def drops(world: Sandbox) -> Counter[tuple[str, str, str]]:
    """Packets by reason (with direction), node and address."""
    found: Counter[tuple[str, str, str]] = Counter()
    for drop in world.counters():
        reason = f"{drop.reason}/{drop.direction}" if drop.direction else drop.reason
        found[(reason, drop.node or drop.port, drop.address)] += drop.packets
    return found


LISTEN = """
import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("::", int(sys.argv[1]))); server.listen(); print("ready", flush=True)
link, peer = server.accept(); print(peer[0].removeprefix("::ffff:"), flush=True)
while data := link.recv(4096): link.sendall(data)
"""
TALK = """
import socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
print("connected", flush=True)
for line in sys.stdin:
    link.sendall(line.encode())
    try: print(link.recv(4096).decode(), end="", flush=True)
    except TimeoutError: print("silence", flush=True)
"""


class Talk:
    """A program in a namespace with pipes to it: one line in, one line out."""

    def __init__(self, world: Sandbox, place: str, script: str, *arguments: str) -> None:
        """`place`: the name of a namespace in the world."""
        argv = ["nsenter", f"--net=/run/netns/{place}", sys.executable, "-I", "-c", script, *arguments]
        inside, self._into = os.pipe()
        out, outside = os.pipe()
        self._from = os.fdopen(out)
        self._execution = world.exec("router", argv, files=(inside, outside, outside))
        os.close(inside)
        os.close(outside)

    def hear(self) -> str:
        return self._from.readline().strip()

    def say(self, text: str) -> str:
        os.write(self._into, text.encode() + b"\n")
        return self.hear()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._into)
        self._execution.close()
        self._from.close()


@contextmanager
def connection(world: Sandbox, client: str, server: str, address: str, port: int, seconds: float) -> Iterator[Talk]:
    """An open TCP connection between two namespaces; echoes that do not come in `seconds` are `silence`."""
    with Talk(world, server, LISTEN, str(port)) as there:
        assert there.hear() == "ready"
        with Talk(world, client, TALK, address, str(port), str(seconds)) as here:
            heard = here.hear()
            assert heard == "connected", heard
            yield here


def has_vlans() -> bool:
    """Whether this kernel makes VLAN devices, tried in a namespace of its own."""
    text = "ip link add vt type veth peer name vp && ip link add link vt name vt.2 type vlan id 2"
    return subprocess.run(["unshare", "-rn", "sh", "-c", text], capture_output=True, check=False).returncode == 0
