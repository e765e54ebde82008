"""Faults that need a network: late devices, devices without routes, nodes that reboot, processes that die in a call."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from sandbox.base.shapes import Nic
from sandbox.face.client import Sandbox
from tests.sandbox.conftest import ec2, until

pytestmark = pytest.mark.root
_numbers = itertools.count(1)


@pytest.fixture
def calm(world: Sandbox) -> Iterator[Sandbox]:
    """The shared world, its clock stopped, and afterwards as it was."""
    world.time(rate=0)
    yield world
    world.clear_fault("*")
    world.time(rate=1)


@pytest.fixture
def node(calm: Sandbox) -> str:
    name = f"faulty-{next(_numbers)}"
    calm.node_add(name, "m5.large")
    return name


def devices(world: Sandbox, node: str) -> set[str]:
    return {link["ifname"] for link in json.loads(world.node_exec(node, ["ip", "-j", "link"]).text)}


def attach(world: Sandbox, node: str) -> tuple[str, str]:
    """A second ENI of the node: its id and address."""
    shown = world.node(node)
    made = ec2(world, "CreateNetworkInterface", SubnetId=shown.subnet_id)
    eni = made.findtext(".//networkInterfaceId") or ""
    ec2(world, "AttachNetworkInterface", NetworkInterfaceId=eni, InstanceId=shown.instance_id, DeviceIndex=1)
    return eni, made.findtext(".//privateIpAddress") or ""


def second(world: Sandbox, node: str) -> Nic | None:
    return next((nic for nic in world.node(node).nics if nic.device == 1), None)


def configure(world: Sandbox, node: str, address: str) -> None:
    """The second device as a node's software sets it up."""
    for words in (
        f"link set ens6 address {second(world, node).mac} up",  # type: ignore[union-attr]  # it is there
        f"address add {address}/32 dev ens6",
        "route add 10.0.0.1 dev ens6 table 6 scope link",
        "route add default via 10.0.0.1 dev ens6 table 6",
        f"rule add from {address} table 6",
    ):
        done = world.node_exec(node, ["ip", *words.split()])
        assert done.rc == 0, done.error_text


def reached(world: Sandbox, address: str) -> bool:
    return world.node_exec("node-3", ["ping", "-c1", "-W1", address]).rc == 0


def test_a_device_that_is_late(calm: Sandbox, node: str) -> None:
    calm.fault("nic-lag", "100")
    eni, _ = attach(calm, node)
    attached = ec2(calm, "DescribeNetworkInterfaces", NetworkInterfaceId_1=eni).findtext(".//attachment/status")
    assert attached == "attached"
    assert devices(calm, node) == {"lo", "ens5"}
    calm.time(advance=99)
    assert devices(calm, node) == {"lo", "ens5"}
    calm.fault("nic-lag", "")
    until(lambda: devices(calm, node) == {"lo", "ens5", "ens6"}, "the device is there")


def test_a_device_that_is_there_but_not_routed(calm: Sandbox, node: str) -> None:
    calm.fault("route-lag", "100")
    _, address = attach(calm, node)
    assert devices(calm, node) == {"lo", "ens5", "ens6"}
    configure(calm, node, address)
    assert not reached(calm, address)
    calm.time(advance=100)
    until(lambda: reached(calm, address), "it is routed")


def test_a_reboot_keeps_what_is_ec2s_and_nothing_else(calm: Sandbox, node: str) -> None:
    eni, address = attach(calm, node)
    configure(calm, node, address)
    calm.node_spawn(node, "daemon", ["sleep", "1000"])
    calm.node_folder(node).joinpath("run", "kept").write_text("x")
    before = [entry for entry in calm.ledger() if entry.node == node]
    place = calm.node(node).netns
    calm.load_faults([{"at": 50, "reboot": node}])
    assert calm.processes(node)
    calm.time(advance=50)
    assert calm.processes(node) == []
    assert [entry for entry in calm.ledger() if entry.node == node] == before
    assert [(nic.eni_id, nic.ifname) for nic in calm.node(node).nics][1] == (eni, "ens6")
    assert calm.node(node).netns == place
    links = {link["ifname"]: link for link in json.loads(calm.node_exec(node, ["ip", "-j", "addr"]).text)}
    assert (links["ens6"]["addr_info"], "UP" in links["ens6"]["flags"]) == ([], False)
    assert links["ens5"]["addr_info"][0]["local"] == before[0].primary_ip
    assert calm.node_folder(node).joinpath("run", "kept").read_text() == "x"
    until(lambda: reached(calm, before[0].primary_ip), "it is reached again")


def test_a_process_that_dies_in_the_middle_of_a_call(calm: Sandbox, node: str) -> None:
    """After the change, before the answer: the ENI is there, and nobody knows of it."""
    calm.load_faults(
        [{"rule": {"action": "CreateNetworkInterface", "when": "after", "caller": node, "crash": "agent"}}]
    )
    subnet = calm.node(node).subnet_id
    code = f"import boto3; boto3.client('ec2').create_network_interface(SubnetId={subnet!r})"
    before = {entry.eni_id for entry in calm.ledger()}
    calm.node_spawn(node, "agent", [sys.executable, "-c", code])
    ended: Callable[[], list[int | None]] = lambda: [  # noqa: E731  # a question to poll
        process.rc for process in calm.processes(node) if process.name == "agent" and process.rc is not None
    ]
    assert until(ended, "the process is dead") == [-signal.SIGKILL]
    assert len({entry.eni_id for entry in calm.ledger()} - before) == 1
