"""Instances of a world as nodes: where they may be, and what is left of one that is there no longer or not yet."""

from __future__ import annotations

import os
import signal

import pytest

from sandbox.base.failures import REMEDIES, SandboxFailure
from sandbox.face.client import Sandbox
from sandbox.world import place
from tests.sandbox.conftest import Node, ec2, until

pytestmark = pytest.mark.root


def test_an_instance_outside_the_scenarios_vpc_is_refused_by_name(world: Sandbox) -> None:
    """The router has one table of routes: this node would take the address of another."""
    vpc = ec2(world, "CreateVpc", CidrBlock="10.0.0.0/16").findtext(".//vpcId") or ""
    made = ec2(world, "CreateSubnet", VpcId=vpc, CidrBlock="10.0.0.0/20", AvailabilityZone="us-west-2a")
    subnet = made.findtext(".//subnetId") or ""
    before = world.ledger()
    with pytest.raises(AssertionError, match=r"NotSimulated.*launching outside vpc-"):
        ec2(
            world,
            "RunInstances",
            ImageId="ami-0123456789abcdef0",
            InstanceType="m5.large",
            SubnetId=subnet,
            MinCount=1,
            MaxCount=1,
        )
    assert world.ledger() == before
    ec2(world, "DeleteSubnet", SubnetId=subnet)
    ec2(world, "DeleteVpc", VpcId=vpc)


@pytest.mark.parametrize("action", ["StopInstances", "TerminateInstances"])
def test_what_runs_in_a_node_ends_with_it(world: Sandbox, fresh: Node, action: str) -> None:
    """Whoever started it: `exec`, also of what leaves its namespace; a daemon that left its parent; in a pod too."""
    instance = world.node(fresh.name).instance_id
    assert world.pod_create(fresh.name, "end", "pod").ok
    null = os.open(os.devnull, os.O_RDWR)
    reader, writer = os.pipe()
    script = "setsid sleep 1000 & echo $! $$; exec unshare -n sleep 1000"
    where = (fresh.name, f"{fresh.name}/end/pod")
    with (
        world.exec(where[0], ["sh", "-c", script], files=(null, writer, null), timeout=60) as attended,
        world.exec(where[1], ["sh", "-c", script], files=(null, writer, null), timeout=60) as in_pod,
        open(reader) as told,
    ):
        pids = [*told.readline().split(), *told.readline().split()]
        assert all(world.router_exec(["test", "-e", f"/proc/{pid}"]).rc == 0 for pid in pids)
        ec2(world, action, InstanceId_1=instance)
        assert (attended.wait(), in_pod.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
        until(lambda: not [pid for pid in pids if world.router_exec(["test", "-e", f"/proc/{pid}"]).rc == 0], "dead")
    os.close(writer)
    os.close(null)
    ec2(world, "TerminateInstances", InstanceId_1=instance)


def test_a_stopped_node_is_said_to_be_stopped_and_is_in_nobodys_way(world: Sandbox, fresh: Node) -> None:
    instance = world.node(fresh.name).instance_id
    world.node_spawn("node-1", "beside", ["sleep", "1000"])
    ec2(world, "StopInstances", InstanceId_1=instance)
    try:
        assert "beside" in [process.name for process in world.processes()]
        assert world.processes(fresh.name) == []
        with world.exec(fresh.name, ["true"]) as running, pytest.raises(SandboxFailure) as attended:
            running.wait()
        for refuse in (
            lambda: world.node_exec(fresh.name, ["true"]),
            lambda: world.node_spawn(fresh.name, "late", ["true"]),
            lambda: world.pod_create(fresh.name, "late", "pod"),
        ):
            with pytest.raises(SandboxFailure) as caught:
                refuse()
            for failure in (attended.value, caught.value):
                assert (failure.code, failure.text) == (
                    "stopped",
                    f"node {fresh.name} is stopped; nothing runs in it",
                )
                assert failure.remedy == REMEDIES["stopped"]
        ec2(world, "StartInstances", InstanceId_1=instance)
        assert world.node_exec(fresh.name, ["true"]).rc == 0
        ec2(world, "StopInstances", InstanceId_1=instance)
    finally:
        world.node_stop("node-1", "beside")
        ec2(world, "TerminateInstances", InstanceId_1=instance)
    assert fresh.name not in [node.name for node in world.nodes()], "it ended without any device"


def test_an_eni_that_no_packets_pass_is_told_with_the_reason(world: Sandbox, fresh: Node) -> None:
    node = world.node(fresh.name)
    made = ec2(world, "CreateNetworkInterface", SubnetId=node.subnet_id).findtext(".//networkInterfaceId") or ""
    ec2(world, "StopInstances", InstanceId_1=node.instance_id)
    stopped = ("stopped", f"node {fresh.name} is stopped; nothing runs in it")
    for where, told in (
        ("eni-0000", ("unknown", "there is no ENI eni-0000")),
        (made, ("unknown", f"ENI {made} is attached to no instance")),
        (fresh.name, stopped),
        (f"{fresh.name}/ens5", stopped),
        (node.nics[0].eni_id, stopped),
    ):
        with pytest.raises(SandboxFailure) as caught:
            world.capture(where, 1)
        assert (caught.value.code, caught.value.text) == told
    ec2(world, "DeleteNetworkInterface", NetworkInterfaceId=made)
    ec2(world, "TerminateInstances", InstanceId_1=node.instance_id)


def test_what_ec2_refuses_is_told_as_the_callers_mistake(world: Sandbox, fresh: Node) -> None:
    """With EC2's words and a remedy, and nothing in the log."""
    instance = world.node(fresh.name).instance_id
    log = world.folder / place.LOG
    before = log.read_bytes()
    ec2(world, "StopInstances", InstanceId_1=instance)
    with pytest.raises(SandboxFailure, match=f"node {fresh.name} is stopped.*IncorrectInstanceState") as caught:
        world.reboot(fresh.name)
    assert (caught.value.code, caught.value.remedy) == ("stopped", REMEDIES["stopped"])
    assert log.read_bytes() == before
    ec2(world, "TerminateInstances", InstanceId_1=instance)


def test_a_node_is_known_by_its_name_before_the_network_knows_of_it(world: Sandbox) -> None:
    world.time(rate=0)
    world.fault("net-lag", "60")
    try:
        added = [world.node_add(name, "m5.large") for name in ("early", "short-lived")]
        assert [(node.name, node.nics) for node in added] == [("early", []), ("short-lived", [])]
        with pytest.raises(SandboxFailure, match="node early is running; it has no device yet") as caught:
            world.node_exec("early", ["true"])
        assert caught.value.remedy == "wait, or clear net-lag=60 with `enid sandbox fault`"
        ec2(world, "TerminateInstances", InstanceId_1=added[1].instance_id)
        world.time(advance=60)
        assert len(world.node("early").nics) == 1
        assert world.node_exec("early", ["true"]).rc == 0
        assert "short-lived" not in [node.name for node in world.nodes()]
    finally:
        world.clear_fault("*")
        world.time(rate=1)
        ec2(world, "TerminateInstances", InstanceId_1=added[0].instance_id)
