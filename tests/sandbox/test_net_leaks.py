"""What the router keeps: no descriptors, no sets of groups that nobody names, and every change the kernel refused once.

The fabric runs here in a process of its own, in new namespaces; each change comes by a thread of its own, as each
connection of the daemon has one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, random, sys, threading
sys.path.insert(0, sys.argv[1])
from sandbox.ec2.records import Permission
from sandbox.ec2.truth import Truth
from sandbox.net import netns
from sandbox.net.fabric import Fabric
from sandbox.net.router import Router, port_name
from sandbox.net.rules import TABLE
from tests.sandbox.ec2_kit import HandClock

netns.mount("none", "/", flags=netns.MS_REC | netns.MS_PRIVATE)
netns.mount("tmpfs", "/run", "tmpfs")
os.makedirs(netns.ROOT)

class Host:
    def name_of(self, instance): return "n" + instance.instance_id[-6:]
    def instance_gone(self, instance): pass
    def instance_stopped(self, instance): pass

def apart(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

truth = Truth(HandClock(), random.Random(3))
router = Router()
router.set_up()
fabric = Fabric(truth, router, Host())
truth.subscribe(fabric)
vpc = truth.create_vpc(["10.0.0.0/16"])
subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
node = truth.run_instance("m5.large", subnet.subnet_id)
eni = truth.create_eni(subnet.subnet_id)
port = port_name(eni.eni_id)
told = {}

def attach():
    truth.attach_eni(eni.eni_id, node.instance_id, 1)

def detach():
    truth.detach_eni(truth.eni(eni.eni_id).attachment.attachment_id)

def state():
    there = os.path.exists(f"/proc/sys/net/ipv4/conf/{port}")
    return [there, len(fabric.nics(node.instance_id)), bool(fabric.port_of(eni.eni_id))]

def cycle():
    apart(attach)
    apart(detach)
    apart(lambda: fabric.restart(node.instance_id))

def descriptors():
    return len(os.listdir("/proc/self/fd"))

cycle()
before = descriptors()
for _ in range(10):
    cycle()
told["descriptors"] = descriptors() - before

def sets():
    found = json.loads(router.nft.run(f"list table {TABLE}"))["nftables"]
    return sorted(one["set"]["name"] for one in found if "set" in one)

told["sets"] = [sets()]
other = truth.create_group(vpc.vpc_id, "other")
named = truth.create_group(vpc.vpc_id, "named", ingress=[Permission("icmp", -1, -1, groups=(other.group_id,))])
for way in ("rule", "membership"):
    truth.set_groups(eni.eni_id, [named.group_id])
    attach()
    told["sets"].append(sets())
    if way == "rule":
        truth.set_rules(named.group_id, ingress=[])
        told["sets"].append(sets())
        truth.set_rules(named.group_id, ingress=[Permission("icmp", -1, -1, groups=(other.group_id,))])
        told["sets"].append(sets())
    detach()
    told["sets"].append(sets())

def refuse(where, name, number):
    \"\"\"Let call `number` of a method fail, once.\"\"\"
    real, calls = getattr(where, name), []
    def failing(*arguments, **fields):
        calls.append(name)
        if len(calls) == number:
            setattr(where, name, real)
            raise OSError(24, "Too many open files")
        return real(*arguments, **fields)
    setattr(where, name, failing)

def failed(change):
    try:
        change()
    except ExceptionGroup:
        return True
    return False

told["trouble"] = {}
for where, name, change in (
    (router._netlink, "link", attach),
    (router, "sync_port", attach),
    (fabric.groups, "put", attach),
    (router._reaper, "link", detach),
    (fabric.groups, "remove", detach),
):
    if change is detach:
        attach()
    refuse(where, name, 1)
    seen = [failed(change)]
    fabric.tick()
    told["trouble"][f"{change.__name__} {name}"] = [*seen, *state()]
    if change is attach:
        detach()
# Attached again before the removal was tried again: the device of now, not the one that was to go.
attach()
refuse(router._reaper, "link", 1)
failed(detach)
truth.attach_eni(eni.eni_id, node.instance_id, 2)
told["again"] = [nic.ifname for nic in fabric.nics(node.instance_id)]
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    argv = ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", sys.executable, "-c", SCRIPT, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_changes_by_threads_of_their_own_leave_no_descriptors(told: dict[str, Any]) -> None:
    assert told["descriptors"] == 0


def test_sets_of_groups_go_with_the_last_rule_that_names_them(told: dict[str, Any]) -> None:
    before, named, without, again, *after = told["sets"]
    assert len(named) == len(before) + 4
    assert again == named
    assert without == before
    assert after == [before, named, before]


def test_change_that_the_kernel_refused_is_tried_again(told: dict[str, Any]) -> None:
    there, gone = [True, True, 2, True], [True, False, 1, False]
    assert told["trouble"] == {
        "attach link": there,
        "attach sync_port": there,
        "attach put": there,
        "detach link": gone,
        "detach remove": gone,
    }
    assert told["again"] == ["ens5", "ens7"]
