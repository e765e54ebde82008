"""Branch ENIs on the wire: a port, an address and security groups of their own, tagged on the trunk or ready made.

And an instance that stops and starts. The fabric runs here in a process of its own, in new namespaces, below EC2's API,
which is called by boto3 as a controller of trunks would.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.net_kit import has_vlans

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, random, subprocess, sys
sys.path.insert(0, sys.argv[1])
from sandbox.base import http
from sandbox.ec2.addresses import Wanted
from sandbox.ec2.api import Api
from sandbox.ec2.records import Permission
from sandbox.ec2.truth import Truth
from sandbox.net import netns
from sandbox.net.fabric import Fabric
from sandbox.net.router import Router, port_name
from tests.sandbox.conftest import until
from tests.sandbox.ec2_kit import HandClock, loopback, make_client

netns.mount("none", "/", flags=netns.MS_REC | netns.MS_PRIVATE)
netns.mount("tmpfs", "/run", "tmpfs")
os.makedirs(netns.ROOT)

stopped = []

class Host:
    def name_of(self, instance): return "n" + instance.instance_id[-6:]
    def instance_gone(self, instance): pass
    def instance_stopped(self, instance): stopped.append((instance.instance_id, instance.state))

truth = Truth(HandClock(), random.Random(3))
router = Router()
router.set_up()
fabric = Fabric(truth, router, Host())
fabric.set_up()
if sys.argv[2] == "ready":
    fabric.tagged = False
truth.subscribe(fabric)
server = http.serve(loopback(), Api(truth))
ec2 = make_client("http://%s:%d" % server.address)
vpc = truth.create_vpc(["10.0.0.0/16"], ipv6_cidrs=["2001:db8:100::/56"])
subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a", ipv6_cidr="2001:db8:100::/64")
one = truth.run_instance("m5.large", subnet.subnet_id, ipv6=Wanted(count=1))
other = truth.run_instance("m5.large", subnet.subnet_id, ipv6=Wanted(count=1))
trunk = ec2.create_network_interface(SubnetId=subnet.subnet_id, InterfaceType="trunk")["NetworkInterface"]
trunk = trunk["NetworkInterfaceId"]
ec2.attach_network_interface(NetworkInterfaceId=trunk, InstanceId=one.instance_id, DeviceIndex=1)
members = (vpc.default_group_id,)
icmp = [Permission("icmp", -1, -1, groups=members), Permission("icmpv6", -1, -1, groups=members)]
group = truth.create_group(vpc.vpc_id, "branch", ingress=icmp)
branch = truth.create_eni(subnet.subnet_id, groups=[group.group_id], ipv6=Wanted(count=1))

def associate(vlan):
    made = ec2.associate_trunk_interface(TrunkInterfaceId=trunk, BranchInterfaceId=branch.eni_id, VlanId=vlan)
    return made["InterfaceAssociation"]["AssociationId"]

def has_port():
    return os.path.exists(f"/proc/sys/net/ipv4/conf/{port_name(branch.eni_id)}")

def inside(instance, *argv):
    where = netns.path(Host().name_of(instance))
    made = subprocess.run(["nsenter", f"--net={where}", *argv], capture_output=True, text=True)
    return made.returncode == 0, made.stdout + made.stderr

def shell(text):
    ok, said = inside(one, "sh", "-c", text)
    if not ok:
        sys.exit(said)

def answers(wait):
    return {
        family: inside(other, "ping", "-c1", f"-W{wait}", address)[0]
        for family, address in (("4", branch.primary_ip), ("6", branch.ipv6_addresses[0]))
    }

def drops():
    return {f"{d.reason} {fabric.origin_of(d.port)[0]} {d.address} {d.direction}": d.packets for d in router.drops()}

told = {"ids": {"branch": branch.eni_id, "trunk": trunk, "address": branch.primary_ip}}
told["ids"]["other"] = other.private_ip
association = associate(5)
shell("ip link set ens6 up")
if fabric.tagged:
    shell(f"ip link add link ens6 name vlan.eth.5 address {branch.mac} type vlan id 5")
told["tagged"] = fabric.tagged
told["said"] = fabric.branches()
told["link"] = json.loads(inside(one, "ip", "-d", "-j", "link", "show", "dev", "vlan.eth.5")[1])[0]
told["mac"] = branch.mac
shell("for i in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$i; done")
shell(
    f"ip link set vlan.eth.5 up; ip addr add {branch.primary_ip}/32 dev vlan.eth.5;"
    f"ip addr add {branch.ipv6_addresses[0]}/128 dev vlan.eth.5 nodad;"
    f"ip route add {subnet.gateway} dev vlan.eth.5 table 105;"
    f"ip route add default via {subnet.gateway} dev vlan.eth.5 table 105;"
    f"ip -6 route add default via fe80:ec2::1 dev vlan.eth.5 table 105;"
    f"ip rule add from {branch.primary_ip} table 105; ip -6 rule add from {branch.ipv6_addresses[0]} table 105"
)
# A node knows no IPv6 router before an advertisement, and an interface asks for no neighbour before its own link-local
# address is proved unique (RFC 4862).
until(lambda: inside(other, "ip", "-6", "route", "show", "default")[1], "router of the other node", 30)
proved = ("ip", "-6", "addr", "show", "dev", "vlan.eth.5", "scope", "link", "-tentative")
until(lambda: inside(one, *proved)[1], "link-local address", 30)
told["allowed"] = answers(20)
truth.set_rules(group.group_id, ingress=[])
told["denied"] = answers(1)
truth.set_rules(group.group_id, ingress=icmp)
told["allowed again"] = answers(20)
# By the trunk's own device and not by the branch's: the branch's address is not the trunk's.
shell(
    f"ip route replace {subnet.gateway} dev ens6 table 105;"
    f"ip route replace default via {subnet.gateway} dev ens6 table 105"
)
told["wrong device"] = inside(one, "ping", "-c1", "-W1", "-I", branch.primary_ip, other.private_ip)[0]
told["drops"] = drops()
ec2.disassociate_trunk_interface(AssociationId=association)
told["after"] = {
    "link": inside(one, "ip", "link", "show", "dev", "vlan.eth.5")[0],
    "port": has_port(),
    "answers": answers(1),
}

def stop(instance):
    ec2.stop_instances(InstanceIds=[instance.instance_id])
    return os.path.exists(netns.path(Host().name_of(instance)))

def start(instance):
    ec2.start_instances(InstanceIds=[instance.instance_id])
    return os.path.exists(netns.path(Host().name_of(instance)))

told["stopped"] = [stop(other), len(fabric.nics(other.instance_id)), stopped == [(other.instance_id, "stopped")]]
told["started"] = [start(other), inside(one, "ping", "-c1", "-W20", other.private_ip)[0]]
# A trunk that goes takes its branches' ports along, and brings them back.
associate(6)
told["ports"] = [has_port()]
for turn in (stop, start):
    turn(one)
    told["ports"].append(has_port())
ec2.terminate_instances(InstanceIds=[one.instance_id])
told["ports"].append(has_port())
server.close()
json.dump(told, sys.stdout)
"""


def life(way: str) -> dict[str, Any]:
    """A branch's life on a node, seen from inside the namespaces."""
    argv = ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", sys.executable, "-c", SCRIPT, str(ROOT), way]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = {"log": done.stderr, **json.loads(done.stdout)}
    return found


def check(told: dict[str, Any]) -> None:
    """What holds whichever way the branch came."""
    ids = told["ids"]
    both = {"4": True, "6": True}
    assert told["link"]["address"] == told["mac"]
    assert told["allowed"] == both
    assert told["denied"] == {"4": False, "6": False}
    assert told["allowed again"] == both
    assert not told["wrong device"]
    drops = told["drops"]
    assert drops[f"security-group {ids['branch']} {ids['other']} ingress"] == 1
    assert drops[f"spoof {ids['trunk']} {ids['address']} "] == 1
    assert not told["after"]["port"]
    assert told["after"]["answers"] == {"4": False, "6": False}
    assert told["ports"] == [True, False, True, False], "associated, stopped, started, terminated"


def test_branch_comes_ready_made_where_the_kernel_has_no_vlans() -> None:
    told = life("ready")
    check(told)
    assert "ready made" in told["said"]
    assert "no 8021q" in told["said"]
    assert f"branch {told['ids']['branch']}, VLAN 5: ready made" in told["log"]
    assert told["link"]["linkinfo"]["info_kind"] == "veth"
    assert not told["after"]["link"], "the device goes with the association"


def test_instance_that_stops_loses_its_devices_and_gets_them_again() -> None:
    told = life("ready")
    assert told["stopped"] == [False, 0, True], "namespace and devices are gone, and its runner was told"
    assert told["started"] == [True, True], "it boots anew, with its address"


def test_branch_is_tagged_on_its_trunk() -> None:
    if not has_vlans():
        pytest.skip("needs VLAN devices: this kernel has no 8021q")
    told = life("probed")
    assert told["tagged"]
    check(told)
    assert told["link"]["linkinfo"]["info_data"]["id"] == 5


def test_the_probe_tells_the_truth() -> None:
    """A branch's device is put into the node if and only if the kernel makes none."""
    told = life("probed")
    assert told["tagged"] == has_vlans()
    assert told["said"].startswith("tagged" if has_vlans() else "ready made")
