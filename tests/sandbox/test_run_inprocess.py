"""The account in process: boto3 without a socket, time that moves by hand, and one scenario for all ways to run."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from sandbox.base.clocks import SteeredClock, VirtualClock
from sandbox.base.failures import SandboxFailure
from sandbox.ec2.faults import Fault
from sandbox.face.inprocess import Account
from sandbox.world.scenario import NodeSpec, Scenario, SubnetSpec, TypeSpec
from tests.sandbox.ec2_kit import check, model

ROOT = Path(__file__).parents[2]
WANTED = Scenario(
    nodes=(NodeSpec("one", "tiny", hop_limit=1), NodeSpec("two", subnet=1)),
    vpc_cidr="10.9.0.0/16",
    subnets=(SubnetSpec("10.9.0.0/24", "a"), SubnetSpec("10.9.1.0/24", "c")),
    types=(TypeSpec("tiny", 2, 4),),
    region="eu-central-1",
    seed=5,
)


@pytest.fixture
def a() -> Account:
    return Account.of(WANTED, model=model())


def test_a_scenario_in_process(a: Account) -> None:
    found = [r["Instances"][0] for r in a.client().describe_instances()["Reservations"]]
    assert {i["Tags"][0]["Value"] for i in found} >= {"one", "two"}
    one, two = a.node("one"), a.node("two")
    assert (one.private_ip, one.hop_limit, one.instance_type, one.zone) == ("10.9.0.4", 1, "tiny", "eu-central-1a")
    assert (two.private_ip, two.hop_limit, two.zone) == ("10.9.1.4", 2, "eu-central-1c")
    again = Account.of(WANTED, model=model())
    assert again.node("one") == one
    with pytest.raises(SandboxFailure, match="no instance with the Name tag 'three'"):
        a.node("three")


def test_a_client_of_ones_own_opens_no_socket(a: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its endpoint and keys are; other clients of the process are left alone."""
    mine = boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    before = threading.active_count()
    a.hook(mine)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(mine.describe_subnets()["Subnets"]) == 2
    assert threading.active_count() == before


def test_the_callers_own_settings_of_aws_are_not_read(tmp_path: Path) -> None:
    """In a process of its own, as botocore reads them once: profile, files, endpoint, retries, all of them wrong."""
    broken = tmp_path / "config"
    broken.write_text("[default\n")
    wrong = {
        **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE"), str(broken)),
        **dict.fromkeys(("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_RETRY_MODE", "AWS_DEFAULTS_MODE"), "nobody"),
        **dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"), "http://127.0.0.1:1"),
        "AWS_MAX_ATTEMPTS": "many",
    }
    code = """
from sandbox.face.inprocess import Account
from sandbox.world.scenario import Scenario
client = Account.of(Scenario.simple(2)).client()
print(len(client.describe_instances()["Reservations"]), client.meta.endpoint_url)
"""
    argv = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **wrong}, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "2 https://ec2.us-west-2.amazonaws.com\n")


def test_who_calls_is_known_by_the_address(a: Account) -> None:
    a.load([{"rule": {"action": "DescribeVpcs", "error": "InternalError", "caller": "two", "times": None}}])
    a.client(peer=a.node("one").private_ip).describe_vpcs()
    with pytest.raises(ClientError, match="InternalError"):
        a.client(peer=a.node("two").private_ip).describe_vpcs()


def test_metadata_of_overlapping_vpcs_is_each_instances_own(a: Account) -> None:
    one = a.node("one")
    vpc = a.truth.create_vpc(["10.9.0.0/16"])
    subnet = a.truth.create_subnet(vpc.vpc_id, "10.9.0.0/24", "eu-central-1a")
    twin = a.truth.run_instance("tiny", subnet.subnet_id)
    assert twin.private_ip == one.private_ip
    for instance in (one, twin):
        assert a.metadata(instance.instance_id).get("instance-id") == instance.instance_id


def test_another_service_is_refused_and_never_called(a: Account) -> None:
    with pytest.raises(SandboxFailure, match="service 'sts' is not simulated; there is: ec2"):
        a.client("sts")


def test_retries_of_the_client_are_its_own(a: Account) -> None:
    """With botocore's standard retries a storm of two is not seen by the caller."""
    a.load([{"rule": {"action": "DescribeVpcs", "error": "RequestLimitExceeded", "times": 2}}])
    patient: Any = a.client(config=Config(retries={"mode": "standard", "total_max_attempts": 3}))
    assert patient.describe_vpcs()["Vpcs"]
    assert a.truth.faults.hits == {"DescribeVpcs": 2}


def test_what_falls_due_is_done_at_its_time_and_in_order(a: Account) -> None:
    """A jump of a minute goes by all that happens in it: each sees the clock at its own time."""
    seen: list[tuple[str, float]] = []
    begun = a.now()

    class View:
        def __getattr__(self, name: str) -> Any:
            return lambda eni_id: seen.append((name, a.now() - begun))

    a.watch(View(), lag=5)  # type: ignore[arg-type]  # answers to every name
    a.truth.delays.attach = 10
    eni = a.truth.create_eni(a.node("one").subnet_id)
    a.truth.attach_eni(eni.eni_id, a.node("one").instance_id, 1)
    a.load([{"at": 20, "change": {"do": "detach", "eni": eni.eni_id}}, {"at": 30, "set": "throttle", "to": "on"}])
    a.advance(60)
    assert [one for one in seen if one[0] in ("eni_attached", "eni_detached")] == [
        ("eni_attached", 15),
        ("eni_detached", 25),
    ]
    assert a.now() - begun == 60
    assert a.api.buckets.on


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_go_back(a: Account, seconds: float) -> None:
    with pytest.raises(ValueError, match="time does not go back"):
        a.advance(seconds)
    clock = VirtualClock()
    with pytest.raises(ValueError, match="cannot go back"):
        clock.move_to(clock.now() - 1)


def test_a_clock_that_is_steered() -> None:
    clock = SteeredClock()
    clock.run_at(0)
    begun = clock.now()
    assert clock.now() == begun
    clock.advance(100)
    assert clock.now() == begun + 100
    sleeping = threading.Thread(target=clock.sleep, args=(50,))
    sleeping.start()
    assert sleeping.is_alive()
    clock.advance(50)
    sleeping.join(10)
    assert not sleeping.is_alive()
    for wrong in (lambda: clock.run_at(-1), lambda: clock.run_at(1001), lambda: clock.advance(-1)):
        with pytest.raises(ValueError, match="to"):
            wrong()


def test_the_promises_hold_through_ten_thousand_calls_under_faults() -> None:
    """No address on two ENIs, counts right, limits kept, whatever is lost, late or done by somebody else."""
    a = Account.of(WANTED, model=model())
    a.truth.faults.add(Fault("Assign*", when="after", drop=True, times=None, chance=0.2))
    a.truth.faults.add(Fault("*", error="InternalError", times=None, chance=0.1))
    dice = random.Random(3)
    subnets = sorted(a.truth.subnets)
    for number in range(10_000):
        enis = sorted(a.truth.enis)
        eni = {"NetworkInterfaceId": dice.choice(enis)}
        record = a.truth.enis[eni["NetworkInterfaceId"]]
        attachment = record.attachment.attachment_id if record.attachment else "eni-attach-0123456789abcdef0"
        call = dice.choice(
            [
                ("CreateNetworkInterface", {"SubnetId": dice.choice(subnets)}),
                ("AssignPrivateIpAddresses", {**eni, "SecondaryPrivateIpAddressCount": str(dice.randrange(1, 9))}),
                ("AssignPrivateIpAddresses", {**eni, "Ipv4PrefixCount": "1"}),
                ("UnassignPrivateIpAddresses", {**eni, "PrivateIpAddress.1": record.addresses[-1]}),
                ("DeleteNetworkInterface", eni),
                ("AttachNetworkInterface", {**eni, "InstanceId": a.node("one").instance_id, "DeviceIndex": "1"}),
                ("DetachNetworkInterface", {"AttachmentId": attachment}),
            ]
        )
        a.call(*call)
        if number % 1000 == 0:
            check(a.truth)
    check(a.truth)
    assert sum(a.truth.faults.hits.values()) > 1000
