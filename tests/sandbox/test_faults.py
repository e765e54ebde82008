"""Faults by rule, by switch and by script, in process: what each kind does, what is refused, and how it is undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox.ec2_kit import Told
from tests.sandbox.faults_kit import Kit, make_kit, rule


@pytest.fixture
def a() -> Kit:
    return make_kit()


# --- around calls ------------------------------------------------------------------------------------------------


def test_a_throttling_storm_in_a_window_of_time(a: Kit) -> None:
    a.load(rule(action="Assign*", error="RequestLimitExceeded", times=None, begin=10, last=5))
    seen = []
    for _ in range(20):
        seen.append(
            a.code(a.ec2.assign_private_ip_addresses, NetworkInterfaceId=a.eni, SecondaryPrivateIpAddressCount=1)
        )
        a.advance(1)
    assert seen == ["ok"] * 10 + ["RequestLimitExceeded"] * 5 + ["ok"] * 5
    assert a.faults().rules == []
    assert len(a.truth.eni(a.eni).addresses) == 4 + 15


def test_failure_before_and_after_the_change(a: Kit) -> None:
    a.load([*rule(action="Assign*", error="InternalError", skip=1), *rule(action="Assign*", when="after", drop=True)])
    assign = {"NetworkInterfaceId": a.eni, "SecondaryPrivateIpAddressCount": 1}
    with pytest.raises(ConnectionClosedError):
        a.ec2.assign_private_ip_addresses(**assign)
    assert len(a.truth.eni(a.eni).addresses) == 5
    assert a.code(a.ec2.assign_private_ip_addresses, **assign) == "InternalError"
    assert len(a.truth.eni(a.eni).addresses) == 5
    assert a.code(a.ec2.assign_private_ip_addresses, **assign) == "ok"


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("InsufficientInstanceCapacity", 500, "not enough capacity"),
        ("InsufficientHostCapacity", 500, "Dedicated Host"),
        ("ServiceUnavailable", 503, "temporary failure"),
        ("Unavailable", 503, "overloaded"),
        ("InternalFailure", 500, "unknown error"),
        ("Unsupported", 400, "not supported"),
        ("VcpuLimitExceeded", 400, "vCPU limit"),
        ("MaxSpotInstanceCountExceeded", 400, "Max spot instance count exceeded"),
        ("InvalidLaunchTemplateName.NotFoundException", 400, "does not exist"),
    ],
)
def test_a_rule_gives_codes_that_the_truth_never_raises(a: Kit, code: str, status: int, words: str) -> None:
    a.load(rule(action="RunInstances", error=code))
    run = {
        "ImageId": DEFAULT_IMAGE,
        "InstanceType": "m5.large",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": a.subnet.subnet_id,
    }
    before = list(a.truth.instances)
    with pytest.raises(ClientError, match=words) as caught:
        a.ec2.run_instances(**run)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert list(a.truth.instances) == before


def test_delay_and_hang_take_time_of_the_virtual_clock(a: Kit) -> None:
    a.load([*rule(action="DescribeSubnets", delay=7.5), *rule(action="DescribeSubnets", hang=True)])
    begun = a.now()
    a.ec2.describe_subnets()
    assert a.now() - begun == 7.5
    with pytest.raises(ReadTimeoutError):
        a.ec2.describe_subnets()
    assert a.now() - begun == 67.5
    a.ec2.describe_subnets()


def test_a_crash_names_the_process_of_the_calling_node(a: Kit) -> None:
    killed = []
    a.api.interference.kill = lambda instance, process: killed.append((instance, process))
    a.load(rule(action="CreateNetworkInterface", when="after", crash="agent", caller="node-1"))
    before = len(a.truth.enis)
    client = a.client(peer=a.node.private_ip)
    a.ec2.create_network_interface(SubnetId=a.subnet.subnet_id)
    with pytest.raises(ConnectionClosedError):
        client.create_network_interface(SubnetId=a.subnet.subnet_id)
    assert killed == [(a.node.instance_id, "agent")]
    assert len(a.truth.enis) == before + 2


# --- somebody else ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "addresses", "tags"),
    [
        ({"do": "assign", "count": 2}, 6, {}),
        ({"do": "unassign", "count": 2}, 2, {}),
        ({"do": "tag", "key": "by", "value": "somebody"}, 4, {"by": "somebody"}),
    ],
)
def test_somebody_else_at_a_call(a: Kit, change: dict[str, Any], addresses: int, tags: dict[str, str]) -> None:
    """On the ENI that the call names, after it."""
    a.load(rule(action="ModifyNetworkInterfaceAttribute", when="after", change=change))
    a.ec2.modify_network_interface_attribute(NetworkInterfaceId=a.eni, Description={"Value": "mine"})
    found = a.truth.eni(a.eni)
    assert (len(found.addresses), dict(found.tags), found.description) == (addresses, tags, "mine")


@pytest.mark.parametrize("act", ["detach", "delete"])
def test_somebody_else_at_a_time(a: Kit, act: str) -> None:
    a.truth.attach_eni(a.eni, a.node.instance_id, 1)
    a.load([{"at": 30, "change": {"do": act, "instance": "node-1"}}])
    a.advance(29.9)
    assert a.status(a.eni) == "attached"
    a.advance(0.1)
    assert (a.eni in a.truth.enis) == (act == "detach")
    assert a.node.primary_eni_id in a.truth.enis
    assert [eni.eni_id for eni in a.truth.enis_of(a.node.instance_id)] == [a.node.primary_eni_id]


def test_an_act_that_the_rules_refuse_does_nothing(a: Kit) -> None:
    a.record()
    a.load([{"change": {"do": "assign", "eni": a.eni, "count": 5000}}, {"change": {"do": "delete", "eni": "eni-0"}}])
    said = [json.loads(line)["done"] for line in a.trace.splitlines()]
    assert said == [f"{a.eni}: PrivateIpAddressLimitExceeded", "nothing to act on"]
    assert len(a.truth.eni(a.eni).addresses) == 4


def test_stop_and_start_by_somebody_else(a: Kit) -> None:
    """What cannot be done when it is due is told, and does not keep the rest from being done."""
    a.truth.delays.stop = 3
    a.load([{"at": 10, "stop": "node-1"}, {"at": 11, "start": "node-1"}, {"at": 20, "start": a.node.instance_id}])
    states = []
    for seconds in (9, 1, 1, 5, 5):
        a.advance(seconds)
        states.append(a.truth.instance(a.node.instance_id).state)
    assert states == ["running", "stopping", "stopping", "stopped", "running"]
    assert [(one.id, one.step.start) for one in a.faults().failures] == [("s2", "node-1")]
    a.clear("s2")
    assert a.faults().failures == []


def test_steps_that_failed_are_told_with_the_reason(a: Kit) -> None:
    """Those that are due at once too; names may be right when a script is loaded and wrong when a step is due."""
    a.load(
        [
            {"change": {"do": "detach", "eni": a.eni}},
            {"at": 5, "change": {"do": "assign", "eni": a.eni, "count": 5000}},
            {"at": 6, "reboot": "node-1"},
            {"at": 7, "clear": "f9"},
        ]
    )
    a.truth.terminate_instance(a.node.instance_id)
    a.advance(10)
    failed = a.faults().failures
    assert [one.id for one in failed] == ["s1", "s2", "s3", "s4"]
    words = ["detach: nothing to act on", "PrivateIpAddressLimitExceeded", "no instance 'node-1'", "no fault 'f9'"]
    assert [word in one.why for word, one in zip(words, failed, strict=True)] == [True] * 4
    assert a.script.summary() == {"failed": "4"}
    a.clear()
    assert a.script.summary() == {}


def test_a_step_during_which_a_view_fails_is_told_and_stops_no_other(a: Kit) -> None:
    class Broken(Told):
        def source_check_changed(self, eni_id: str) -> None:
            raise OSError("the network is gone")

    a.truth.subscribe(Broken())
    broken = {"change": {"do": "source-check-off", "eni": a.eni}}
    a.load([broken, {"set": "api-lag", "to": "3"}, {"after": "DescribeVpcs", **broken}, {"at": 5, **broken}])
    assert a.truth.api.lag == 3
    assert a.client().describe_vpcs()["Vpcs"]
    a.advance(5)
    assert ["the network is gone" in one.why for one in a.faults().failures] == [True] * 3


# --- scripts ------------------------------------------------------------------------------------------------------


def test_a_script_is_listed_and_cleared_one_by_one(a: Kit) -> None:
    waiting = a.load(
        [
            {"rule": {"action": "DescribeVpcs", "error": "InternalError", "times": 4}},
            {"rule": {"action": "DescribeSubnets", "error": "InternalError"}},
            {"set": "imds-lag", "to": "9"},
            {"at": 5, "set": "throttle", "to": "on"},
            {"after": "DescribeVpcs", "calls": 3, "set": "attach-delay", "to": "2"},
        ]
    )
    assert waiting == ["s1", "s2"]
    for _ in range(2):
        assert a.code(a.ec2.describe_vpcs) == "InternalError"
    a.advance(2)
    found = a.faults()
    assert [(one.id, one.hits, one.left) for one in found.rules] == [("f1", 2, 2), ("f2", 0, 1)]
    assert [(one.id, one.left) for one in found.waiting] == [("s1", 3), ("s2", 1)]
    assert found.switches == {"imds-lag": "9", "hits:DescribeVpcs": "2"}
    a.clear("f2")
    assert a.code(a.ec2.describe_subnets) == "ok"
    a.clear("s1")
    a.clear("imds-lag")
    assert a.code(a.ec2.describe_vpcs) == "InternalError"
    assert a.faults().switches == {"attach-delay": "2", "hits:DescribeVpcs": "3"}
    assert a.faults().waiting == []
    a.clear()
    assert (a.faults().rules, a.faults().switches) == ([], {"hits:DescribeVpcs": "3"})
    with pytest.raises(SandboxFailure, match="there is no fault 'f9'"):
        a.clear("f9")
