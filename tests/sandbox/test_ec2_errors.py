"""Every refusal of EC2 that is modelled: code, text, and that nothing has changed. By boto3 over HTTP."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sandbox.ec2 import errors
from tests.sandbox import ec2_cases_addresses, ec2_cases_enis
from tests.sandbox.ec2_cases import CASES, GONE, Prepare, node_of
from tests.sandbox.ec2_kit import Account, check, make_account, refused

assert all((ec2_cases_addresses, ec2_cases_enis))  # they fill CASES


@pytest.fixture
def a() -> Account:
    return make_account()


@pytest.mark.parametrize(
    ("prepare", "call", "rule", "names"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused(
    a: Account, prepare: Prepare, call: Callable[[Account, Any], Any], rule: errors.Rule, names: dict[str, Any]
) -> None:
    ready = prepare(a)
    told = {
        key: value.format(eni=a.eni, node=a.node.instance_id, small=a.small.subnet_id)
        if isinstance(value, str)
        else value
        for key, value in names.items()
    }
    text = rule(**told).text if names or "{" not in rule.text else ""
    with refused(a, rule.code, text):
        call(a, ready)
    check(a.truth)


def test_limit_holds_per_card(a: Account) -> None:
    """Two cards of two ENIs each, but three in all."""
    node, enis = node_of(a, "sandbox.cards"), [a.new() for _ in range(4)]
    a.attach(enis[0], 1, InstanceId=node)
    with refused(a, "AttachmentLimitExceeded", "Interface count 3 exceeds the limit for sandbox.cards"):
        a.attach(enis[1], 2, InstanceId=node)
    a.attach(enis[1], 1, InstanceId=node, NetworkCardIndex=1)
    with refused(a, "AttachmentLimitExceeded", "Interface count 4 exceeds the limit for sandbox.cards"):
        a.attach(enis[2], 2, InstanceId=node, NetworkCardIndex=1)
    check(a.truth)


def test_second_card(a: Account) -> None:
    node = node_of(a, "sandbox.cards")
    on_second, free = a.new(), a.new()
    answer = a.ec2.attach_network_interface(
        NetworkInterfaceId=on_second, InstanceId=node, DeviceIndex=0, NetworkCardIndex=1
    )
    assert answer["NetworkCardIndex"] == 1
    assert a.describe(on_second)["Attachment"]["NetworkCardIndex"] == 1
    with refused(a, "InvalidParameterValue", "device index '0'"):
        a.attach(free, 0, InstanceId=node, NetworkCardIndex=1)
    a.ec2.detach_network_interface(AttachmentId=answer["AttachmentId"])
    assert not a.truth.eni(on_second).attachment


def test_unauthorized(a: Account) -> None:
    asked: list[tuple[str, str]] = []

    def authorise(action: str, caller: str) -> bool:
        asked.append((action, caller))
        return action != "DeleteNetworkInterface"

    a.api.authorise = authorise
    eni_id = a.new()
    with pytest.raises(ClientError) as caught:
        a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert caught.value.response["Error"]["Code"] == "UnauthorizedOperation"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert eni_id in a.truth.enis
    assert asked == [("CreateNetworkInterface", "127.0.0.1"), ("DeleteNetworkInterface", "127.0.0.1")]


def test_a_describe_call_that_names_what_it_wants_has_the_wide_bucket(a: Account) -> None:
    """Ids, names of types, filters and pages take nothing from the bucket of unfiltered calls."""
    a.api.buckets.on = True
    a.api.buckets.set_rate("DescribeInstanceTypes unfiltered", 1, 0)
    a.ec2.describe_instance_types()
    with refused(a, "RequestLimitExceeded"):
        a.ec2.describe_instance_types()
    a.ec2.describe_instance_types(InstanceTypes=["m5.large"])
    a.ec2.describe_instance_types(MaxResults=5)
    a.ec2.describe_instance_types(Filters=[{"Name": "instance-type", "Values": ["m5.large"]}])
    a.api.buckets.set_rate("DescribeSubnets unfiltered", 1, 0)
    for _ in range(3):
        a.ec2.describe_subnets(SubnetIds=[a.subnet.subnet_id])


def test_throttling_follows_the_buckets(a: Account) -> None:
    a.api.buckets.on = True
    a.api.buckets.set_rate("DeleteNetworkInterface", 2, 0.5)
    codes = []
    for wait in (0, 0, 0, 1, 1, 0):
        a.clock.time += wait
        try:
            a.ec2.delete_network_interface(NetworkInterfaceId=GONE)
        except ClientError as error:
            codes.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
    gone, slow = ("InvalidNetworkInterfaceID.NotFound", 400), ("RequestLimitExceeded", 503)
    assert codes == [gone, gone, slow, slow, gone, slow]
    before = len(a.truth.enis)
    for _ in range(50):
        a.new()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        a.new()
    assert len(a.truth.enis) == before + 50


def test_every_rule_names_its_source() -> None:
    table = errors.table()
    assert len(table) > 50
    for name, rule in table.items():
        assert rule.source, name
        names = [field for _, field, _, _ in string.Formatter().parse(rule.text) if field]
        assert rule(**dict.fromkeys(names, "x")).text
