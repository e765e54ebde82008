"""Views that are late, stuck or partial, by switch: EC2's own answers, the network, metadata, states that last."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.views import Delayed
from sandbox.world.switches import HELP, Switches
from tests.sandbox.ec2_kit import Told
from tests.sandbox.faults_kit import Kit, make_kit


@pytest.fixture
def a() -> Kit:
    return make_kit()


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
