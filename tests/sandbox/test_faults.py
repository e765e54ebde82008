"""Faults by rule, by switch and by script, in process: what each kind does, what is refused, and how it is undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.records import Instance, Subnet
from sandbox.ec2.truth import DEFAULT_IMAGE
from sandbox.ec2.views import Delayed
from sandbox.face.inprocess import Account
from sandbox.world.switches import HELP, Switches
from tests.sandbox.ec2_kit import Told, model


class Kit(Account):
    """An account with a subnet, a node and one unattached ENI."""

    subnet: Subnet
    node: Instance
    eni: str
    ec2: Any

    def shown(self, eni: str) -> dict[str, Any] | None:
        """An ENI as Describe shows it, None if it does not."""
        filters = [{"Name": "network-interface-id", "Values": [eni]}]
        found: list[dict[str, Any]] = self.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return found[0] if found else None

    def code(self, call: Any, **members: Any) -> str:
        """`ok`, or the error that boto3 raises."""
        try:
            call(**members)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "ok"

    def status(self, eni: str) -> str:
        attachment = self.truth.eni(eni).attachment
        return attachment.status if attachment else ""


@pytest.fixture
def a() -> Kit:
    kit = Kit(model=model())
    vpc = kit.truth.create_vpc(["10.0.0.0/16"])
    kit.subnet = kit.truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
    kit.node = kit.truth.run_instance("m5.large", kit.subnet.subnet_id, tags={"Name": "node-1"})
    kit.eni = kit.truth.create_eni(kit.subnet.subnet_id, count=3).eni_id
    kit.ec2 = kit.client()
    return kit


def rule(**fields: Any) -> list[dict[str, Any]]:
    return [{"rule": fields}]


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


# --- views -------------------------------------------------------------------------------------------------------


def test_not_found_after_create_by_kind(a: Kit) -> None:
    """New ENIs are late, changes of known ones are not, and other kinds neither."""
    a.switch("api-lag", "eni:new=4")
    new = a.ec2.create_network_interface(SubnetId=a.subnet.subnet_id)["NetworkInterface"]["NetworkInterfaceId"]
    subnet = a.truth.create_subnet(a.subnet.vpc_id, "10.0.16.0/24", "us-west-2b").subnet_id
    assert a.code(a.ec2.describe_network_interfaces, NetworkInterfaceIds=[new]) == "InvalidNetworkInterfaceID.NotFound"
    assert a.code(a.ec2.describe_subnets, SubnetIds=[subnet]) == "ok"
    a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, PrivateIpAddresses=["10.0.0.6"])
    shown = a.shown(a.eni)
    assert shown is not None
    assert len(shown["PrivateIpAddresses"]) == 3
    a.advance(4)
    assert a.code(a.ec2.describe_network_interfaces, NetworkInterfaceIds=[new]) == "ok"


def test_still_listing_what_is_gone(a: Kit) -> None:
    a.switch("api-lag", "gone=10")
    a.ec2.delete_network_interface(NetworkInterfaceId=a.eni)
    a.advance(9.5)
    assert a.shown(a.eni) is not None
    assert a.code(a.ec2.delete_network_interface, NetworkInterfaceId=a.eni) == "InvalidNetworkInterfaceID.NotFound"
    a.advance(0.5)
    assert a.shown(a.eni) is None


@pytest.mark.parametrize(("lowered", "waits"), [("2", 2), ("", 0), ("100", 50)])
def test_a_lag_that_is_lowered_holds_for_what_is_queued(a: Kit, lowered: str, waits: float) -> None:
    """Raised, it does not: a view never takes back what it was about to show."""
    a.switch("api-lag", "50")
    a.truth.delete_eni(a.eni)
    a.advance(1)
    a.switch("api-lag", lowered)
    assert (a.shown(a.eni) is not None) == (waits > 1)
    if waits > 1:
        a.advance(waits - 1.5)
        assert a.shown(a.eni) is not None
        a.advance(0.5)
    assert a.shown(a.eni) is None


def test_a_pushed_view_is_late_in_three_ways(a: Kit) -> None:
    """All events, devices on top of that, and the routes of a device that is there; lowering shortens each."""
    heard: list[tuple[float, str]] = []

    class Network:
        def hold_routes(self, eni_id: str, held: bool) -> None:
            heard.append((a.now() - begun, "held" if held else "routed"))

        def __getattr__(self, name: str) -> Any:
            return lambda eni_id: heard.append((a.now() - begun, name))

    net = a.watch(Network())  # type: ignore[arg-type]  # answers to every name
    net.lag, net.nic_lag, net.route_lag = 1, 2, 4
    begun = a.now()
    attachment = a.truth.attach_eni(a.eni, a.node.instance_id, 1)
    a.advance(20)
    assert heard == [(3, "held"), (3, "eni_attached"), (7, "routed")]
    heard.clear()
    begun = a.now()
    a.truth.detach_eni(attachment.attachment_id)
    a.truth.attach_eni(a.eni, a.node.instance_id, 1)
    net.lag, net.nic_lag = 0, 0.5
    a.advance(1)
    net.route_lag = 1
    a.advance(10)
    assert heard == [(0, "eni_detached"), (0.5, "held"), (0.5, "eni_attached"), (1.5, "routed")]


def test_a_late_device_does_not_hold_up_others(a: Kit) -> None:
    """Events keep their order by ENI, and no other."""
    heard: list[tuple[float, str, str]] = []

    class Network:
        def __getattr__(self, name: str) -> Any:
            return lambda eni_id: heard.append((a.now() - begun, name, eni_id))

    net = a.watch(Network())  # type: ignore[arg-type]  # answers to every name
    net.nic_lag = 10
    begun = a.now()
    primary = a.node.primary_eni_id
    a.truth.attach_eni(a.eni, a.node.instance_id, 1)
    a.truth.assign_ipv4(a.eni, count=1)
    a.truth.assign_ipv4(primary, count=1)
    a.advance(60)
    changed = [one for one in heard if one[1] in ("eni_attached", "addresses_changed")]
    assert changed == [
        (0, "addresses_changed", primary),
        (10, "eni_attached", a.eni),
        (10, "addresses_changed", a.eni),
    ]


@pytest.mark.parametrize("kind", ["attach", "detach"])
def test_attach_and_detach_stuck(a: Kit, kind: str) -> None:
    attachment = a.truth.attach_eni(a.eni, a.node.instance_id, 1) if kind == "detach" else None
    a.switch(f"{kind}-stuck", "1")
    if attachment is None:
        a.ec2.attach_network_interface(NetworkInterfaceId=a.eni, InstanceId=a.node.instance_id, DeviceIndex=1)
    else:
        a.ec2.detach_network_interface(AttachmentId=attachment.attachment_id)
    a.advance(100_000)
    assert a.status(a.eni) == f"{kind}ing"
    assert a.code(a.ec2.delete_network_interface, NetworkInterfaceId=a.eni) == "InvalidParameterValue"
    a.switch(f"{kind}-stuck", "")
    assert a.status(a.eni) == ("attached" if kind == "attach" else "")


def test_an_attach_delay_that_is_lowered(a: Kit) -> None:
    a.switch("attach-delay", "100")
    a.truth.attach_eni(a.eni, a.node.instance_id, 1)
    a.advance(3)
    assert a.status(a.eni) == "attaching"
    a.switch("attach-delay", "5")
    a.advance(1.5)
    assert a.status(a.eni) == "attaching"
    a.advance(0.5)
    assert a.status(a.eni) == "attached"


def test_a_launch_delay_that_is_lowered(a: Kit) -> None:
    a.record()
    a.switch("launch-delay", "100")
    node = a.truth.run_instance("m5.large", a.subnet.subnet_id).instance_id
    assert a.metadata(node).get("instance-id") == node
    a.advance(3)
    assert a.truth.instance(node).state == "pending"
    a.switch("launch-delay", "5")
    a.advance(2)
    assert a.truth.instance(node).state == "running"
    traced = [json.loads(line) for line in a.trace.splitlines()]
    assert [one["due"] for one in traced if one["kind"] == "clock"] == ["launch"]


@pytest.mark.parametrize(
    ("name", "act", "between", "then"),
    [
        ("stop-delay", "stop_instance", "stopping", "stopped"),
        ("start-delay", "start_instance", "pending", "running"),
        ("terminate-delay", "terminate_instance", "shutting-down", "terminated"),
    ],
)
def test_states_that_last(a: Kit, name: str, act: str, between: str, then: str) -> None:
    node = a.node.instance_id
    if act == "start_instance":
        a.truth.stop_instance(node)
    a.switch(name, "10")
    getattr(a.truth, act)(node)
    a.advance(9)
    assert a.truth.instance(node).state == between
    a.switch(name, "off")
    a.advance(0)
    assert a.truth.instance(node).state == then


@pytest.mark.parametrize("name", [name for name in HELP if name.endswith(("-lag", "-delay", "-stuck"))])
def test_a_switch_at_nothing_is_cleared(a: Kit, name: str) -> None:
    """`0`, an empty value and `off` alike; numbers are as good as words."""
    if name in ("net-lag", "nic-lag", "route-lag"):
        switches = Switches(a.truth, a.api, a.imds, Delayed(Told(), a.clock))
    else:
        switches = a.switches
    for nothing in ("0", "", "off"):
        switches.set(name, "3")
        assert switches.current() == {name: "3"}
        switches.set(name, nothing)
        assert switches.current() == {}


def test_a_lag_of_nothing_by_kind_is_cleared(a: Kit) -> None:
    a.switch("api-lag", "eni:new=5")
    a.switch("api-lag", "eni:new=0,gone=0")
    assert a.faults().switches == {}


def test_numbers_are_as_good_as_words(a: Kit) -> None:
    a.switch("api-lag", 5)
    a.load([{"set": "imds-lag", "to": 0.5}, {"at": 10, "set": "imds-lag", "to": 0}])
    assert a.faults().switches == {"api-lag": "5", "imds-lag": "0.5"}
    a.advance(10)
    assert a.faults().switches == {"api-lag": "5"}
    with pytest.raises(SandboxFailure, match=r"api-lag=.True.*: 'True' is no number of seconds"):
        a.switch("api-lag", True)


def test_metadata_stuck_until_the_next_change(a: Kit) -> None:
    imds = a.metadata(a.node.instance_id)
    path = f"network/interfaces/macs/{imds.get('mac')}/local-ipv4s"
    primary = a.node.primary_eni_id
    a.switch("imds-stuck", "1")
    new = a.truth.assign_ipv4(primary, count=1)[0][0]
    a.advance(1e6)
    assert imds.get(path) == a.node.private_ip
    more = a.truth.assign_ipv4(primary, count=1)[0][0]
    assert imds.get(path) == f"{a.node.private_ip}\n{new}\n{more}"


def test_metadata_in_part(a: Kit) -> None:
    a.truth.assign_ipv4(a.node.primary_eni_id, prefix_count=1)
    imds = a.metadata(a.node.instance_id)
    folder = f"network/interfaces/macs/{imds.get('mac')}"
    whole = (imds.get(folder) or "").split()
    assert "ipv4-prefix" in whole
    a.switch("imds-hide", "meta-data/*/ipv4-prefix, meta-data/*/subnet-id")
    assert imds.get(f"{folder}/ipv4-prefix") is None
    assert (imds.get(folder) or "").split() == [name for name in whole if name not in ("ipv4-prefix", "subnet-id")]
    a.switch("imds-hide", "")
    assert (imds.get(folder) or "").split() == whole


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
