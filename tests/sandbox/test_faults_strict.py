"""A rule, switch or script that cannot do what it says is refused by name, and nothing of it is taken in."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.face.inprocess import Account
from tests.sandbox.ec2_kit import model


@pytest.fixture(scope="module")
def a() -> Account:
    return Account(model=model())


GOOD: dict[str, Any] = {"rule": {"action": "DescribeVpcs", "delay": 1}}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"rule": {"action": "DescribeVpcs", "delay": 1, "wehn": "after"}}, "unknown field `wehn`"),
        ({"rule": {"action": "DescribeVpc", "delay": 1}}, "fits no simulated action; near: DescribeVpcs"),
        ({"rule": {"action": "imds:GET /latest/meta-data/nothing", "delay": 1}}, "fits no metadata request"),
        ({"rule": {"action": "imds:POST *", "delay": 1}}, "fits no metadata request"),
        ({"rule": {"error": "RequestLimitExceded"}}, "needs a text; near: RequestLimitExceeded"),
        ({"rule": {"action": "DescribeVpcs"}}, "one of delay, change, drop, hang, crash, body, error must be set"),
        ({"rule": {"delay": "soon"}}, "Expected `float`"),
        ({"rule": {"delay": 1, "when": "during"}}, "Invalid enum value 'during'"),
        ({"rule": {"delay": 1, "times": 0}}, "times=0"),
        ({"rule": {"delay": 1, "skip": -1}}, "skip=-1"),
        ({"rule": {"delay": 1, "last": 0}}, "last=0"),
        ({"rule": {"drop": True, "status": 42}}, "status=42 is no HTTP status"),
        ({"rule": {"change": {"do": "explode"}}}, "Invalid enum value 'explode'"),
        ({"rule": {"change": {"do": "assign", "many": 2}}}, "unknown field `many`"),
        ({"change": {"do": "tag"}}, "tag needs key"),
        ({"change": {"do": "assign", "count": 0}}, "count=0"),
        ({"change": {"do": "detach", "device": "primary"}}, "which EC2 refuses"),
        ({"set": "imds-lagg", "to": "1"}, "fault 'imds-lagg' is not known; there are: api-lag"),
        ({"set": "net-lag", "to": "1"}, "fault 'net-lag' is not known"),
        ({"at": 1, "set": "net-lag", "to": "1"}, "fault 'net-lag' is not known"),
        ({"at": 1}, "exactly one of rule, set, change, stop, start, reboot, clear, not none"),
        ({**GOOD, "set": "throttle"}, "not rule, set"),
        ({**GOOD, "at": -1}, "at=-1"),
        ({**GOOD, "at": 1, "after": "DescribeVpcs"}, "not together with 'after'"),
        ({**GOOD, "after": "DescribeVpc"}, "fits no simulated action"),
        ({**GOOD, "calls": 3}, "only with 'after'"),
        ({**GOOD, "to": "x"}, "goes with 'set' only"),
        ({**GOOD, "then": 1}, "unknown field `then`"),
        (7, "step 2: Expected `object`"),
    ],
)
def test_a_bad_step(a: Account, step: Any, words: str) -> None:
    with pytest.raises(SandboxFailure) as caught:
        a.load([GOOD, step])
    assert caught.value.code == "bad-request"
    assert words in caught.value.text
    assert (a.faults().rules, a.faults().waiting, a.faults().switches) == ([], [], {})


@pytest.mark.parametrize("text", ["", "{}", "[", "\xff", '{"steps": []}'])
def test_no_script_at_all(a: Account, text: str) -> None:
    with pytest.raises(SandboxFailure, match="JSON list of steps"):
        a.load(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ec2", '{"action": "DescribeVpcs", "delay": 1, "timse": 2}', "unknown field `timse`"),
        ("ec2", '[{"action": "Nothing", "delay": 1}]', "fits no simulated action"),
        ("throttle", "off", "neither 'on' nor empty"),
        ("api-lag", "-1", "within 0 to 3600"),
        ("api-lag", "enis=2", "'enis' is not [eni|instance"),
        ("api-lag", "eni:old=2", "'eni:old' is not"),
        ("imds-lag", "eni=soon", "could not convert"),
        ("imds-stuck", "off", "neither 'on' nor a number"),
        ("imds-hide", "meta-data/*/ipv5", "'meta-data/*/ipv5' fits none"),
        ("imds-notice", '{"spot_action": "explode"}', "Invalid enum value"),
        ("imds-notice", '{"spot": true}', "unknown field `spot`"),
        ("attach-stuck", "0", "neither 'on' nor a number"),
        ("detach-delay", "long", "could not convert"),
        ("nothing", "1", "there are: api-lag, attach-delay"),
    ],
)
def test_a_bad_switch(a: Account, name: str, value: str, words: str) -> None:
    with pytest.raises(SandboxFailure) as caught:
        a.switch(name, value)
    assert caught.value.code == "bad-request"
    assert words in caught.value.text
    assert (a.faults().rules, a.faults().switches) == ([], {})


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "Describe*",
        "imds:*",
        "imds:PUT /latest/api/token",
        "imds:GET */macs/*",
        "imds:GET /latest/meta-data/network/interfaces/macs/06:01:02:03:04:05/ipv4-prefix",
        "imds:GET /latest/meta-data/network/interfaces/macs/",
        "imds:GET /latest/meta-data/tags/instance/team",
    ],
)
def test_good_patterns(a: Account, pattern: str) -> None:
    a.load([{"rule": {"action": pattern, "error": "OfMyOwn", "text": "in my words"}}])
    assert [one.rule.action for one in a.faults().rules] == [pattern]
    a.clear()
