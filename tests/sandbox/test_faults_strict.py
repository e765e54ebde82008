"""A rule, switch or script that cannot do what it says is refused by name, and nothing of it is taken in."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.face.inprocess import Account
from sandbox.kube.faults import Call
from sandbox.kube.server import Server
from sandbox.kube.store import Store
from sandbox.world.scenario import Scenario
from sandbox.world.switches import Switches
from tests.sandbox.ec2_kit import model


@pytest.fixture(scope="module")
def a() -> Account:
    """With two nodes, so that a name can be wrong."""
    return Account.of(Scenario.simple(2), model=model())


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
        ({"rule": {"body": "", "status": 42}}, "status=42 is no HTTP status"),
        ({"rule": {"delay": 1, "status": 503}}, "status=503 goes with error or body only"),
        ({"rule": {"drop": True, "text": "gone"}}, "text='gone' goes with error only"),
        ({"rule": {"drop": True, "error": "InternalError"}}, "drop and error: a call has one answer"),
        ({"rule": {"error": "RequestLimitExceeded", "status": 200}}, "an error has a status from 400 to 599"),
        ({"rule": {"delay": 1, "chance": 50}}, "chance=50.0: above 0, up to 1"),
        ({"rule": {"delay": 1, "chance": 0}}, "chance=0.0: above 0, up to 1"),
        ({"rule": {"delay": 1, "hang": True}}, "hang and delay=1.0: a call that hangs is never answered"),
        ({"rule": {"change": {"do": "detach", "eni": "node-1"}}}, "eni='node-1' is no ENI's id"),
        ({"rule": {"delay": -2}}, "delay=-2.0: seconds, from 0 to 3600"),
        ({"rule": {"delay": 1e300}}, "delay=1e+300: seconds, from 0 to 3600"),
        ({"rule": {"delay": 1, "caller": "node-9"}}, "there is no instance 'node-9'; there are: node-1, node-2"),
        ({"rule": {"change": {"do": "detach", "instance": "node-9"}}}, "there is no instance 'node-9'"),
        ({"rule": {"change": {"do": "explode"}}}, "Invalid enum value 'explode'"),
        ({"rule": {"change": {"do": "assign", "many": 2}}}, "unknown field `many`"),
        ({"change": {"do": "tag"}}, "tag needs key"),
        ({"change": {"do": "assign", "count": 0}}, "count=0"),
        ({"change": {"do": "detach", "count": 2}}, "count=2: detach takes none"),
        ({"change": {"do": "untag", "key": "k", "value": "v"}}, "untag takes no value"),
        ({"at": 5, "change": {"do": "detach", "instance": "node-9"}}, "there is no instance 'node-9'"),
        ({"reboot": "node-9"}, "there is no instance 'node-9'; there are: node-1, node-2"),
        ({"at": 5, "stop": "node-9"}, "there is no instance 'node-9'"),
        ({"at": 5, "reboot": "node-*"}, "reboot: 'node-*': the id or Name tag of one instance, no pattern"),
        ({"change": {"do": "detach", "device": "primary"}}, "which EC2 refuses"),
        (
            {"set": "imds-lagg", "to": "1"},
            "fault 'imds-lagg' is not known here; near: imds-lag, api-lag; there are: api-lag",
        ),
        ({"set": "imds-lag", "to": "abc"}, "fault imds-lag='abc': 'abc' is no number of seconds from 0 to 3600"),
        ({"at": 5, "set": "imds-lag", "to": "abc"}, "fault imds-lag='abc'"),
        ({"set": "ec2", "to": '{"action": "DescribeVpc", "delay": 1}'}, "fits no simulated action"),
        ({"set": "throttle"}, "set='throttle', to='': both or none; 'off' clears a switch"),
        ({"at": 5, "clear": "api-lagg"}, "fault 'api-lagg' is not known here; near: api-lag"),
        (
            {"set": "net-lag", "to": "1"},
            "fault 'net-lag' is not known here; it needs a world of `enid sandbox up`; there",
        ),
        ({"at": 1, "set": "net-lag", "to": "1"}, "fault 'net-lag' is not known"),
        ({"at": 1}, "exactly one of rule, set, change, stop, start, reboot, clear, not none"),
        ({**GOOD, "set": "throttle"}, "not rule, set"),
        ({**GOOD, "at": -1}, "at=-1"),
        ({**GOOD, "at": 1, "after": "DescribeVpcs"}, "not together with 'after'"),
        ({**GOOD, "after": "DescribeVpc"}, "fits no simulated action"),
        ({**GOOD, "calls": 3}, "only with 'after'"),
        ({**GOOD, "to": "x"}, "set='', to='x': both or none"),
        ({**GOOD, "then": 1}, "unknown field `then`"),
        (7, "step 3: Expected `object`"),
    ],
)
def test_a_bad_step(a: Account, step: Any, words: str) -> None:
    with pytest.raises(SandboxFailure) as caught:
        a.load([GOOD, {"set": "api-lag", "to": "5"}, step])
    assert caught.value.code == "bad-request"
    assert words in caught.value.text
    assert caught.value.text.startswith("script, step 3: ")
    assert a.truth.api.lag == 0
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
        ("ec2", "[]", "an empty list of rules does nothing"),
        ("throttle", "yes", "neither on nor off"),
        ("api-lag", "-1", "no number of seconds from 0 to 3600"),
        ("api-lag", "nan", "no number of seconds from 0 to 3600"),
        ("api-lag", "1h", "'1h' is no number of seconds from 0 to 3600; it takes seconds by which Describe"),
        ("api-lag", "eni:new=2,eni:new=9", "'eni:new=9': that lag is there twice"),
        ("api-lag", "new=2, :new=9", "':new=9': that lag is there twice"),
        ("api-lag", "3,5", "'5': that lag is there twice"),
        ("api-lag", ",", "'' is neither SECONDS nor KIND"),
        ("api-lag", "eni=", "'eni=' is neither SECONDS nor KIND"),
        ("api-lag", "=5", "'=5' is neither SECONDS nor KIND"),
        ("api-lag", "enis=2", "'enis' is not [eni|instance"),
        ("api-lag", "eni:old=2", "'eni:old' is not"),
        ("imds-lag", "eni=soon", "'soon' is no number of seconds"),
        ("imds-stuck", "some", "neither on nor off nor a number"),
        ("imds-hide", "meta-data/*/ipv5", "'meta-data/*/ipv5' fits none"),
        ("imds-notice", '{"spot_action": "explode"}', "Invalid enum value"),
        ("imds-notice", '{"spot": true}', "unknown field `spot`"),
        ("imds-notice", '{"instance": "node-9", "rebalance": true}', "there is no instance 'node-9'"),
        ("imds-notice", '{"spot_action": "stop", "spot_seconds": -1}', "spot_seconds=-1.0: from 0"),
        ("imds-notice", '{"spot_seconds": 30}', "spot_seconds=30.0 goes with spot_action only"),
        ("attach-stuck", "-1", "neither on nor off nor a number"),
        (
            "imds-notice",
            '{"life_cycle": "brief"}',
            "'brief' - at `$.life_cycle`; there are: 'capacity-block', 'on-demand'",
        ),
        ("ec2", '[{"when": "during"}]', "'during' - at `$[0].when`; there are: 'after', 'before'"),
        ("detach-delay", "long", "'long' is no number of seconds"),
        ("attach-stuk", "1", "fault 'attach-stuk' is not known here; near: attach-stuck"),
        ("nothing", "1", "there are: api-lag, attach-delay"),
    ],
)
def test_a_bad_switch(a: Account, name: str, value: str, words: str) -> None:
    with pytest.raises(SandboxFailure) as caught:
        a.switch(name, value)
    assert caught.value.code == "bad-request"
    assert words in caught.value.text
    assert (a.faults().rules, a.faults().switches) == ([], {})


@pytest.mark.parametrize("caller", ["node-1", "node-*", "asg-*", "-", "10.0.0.9", "fd00::1"])
def test_good_callers(a: Account, caller: str) -> None:
    """A pattern may be of nodes to come, and a call may come from an address that is no instance's."""
    a.load([{"rule": {"delay": 1, "caller": caller}}])
    assert [one.rule.caller for one in a.faults().rules] == [caller]
    a.clear()


def test_off_clears_each_switch(a: Account) -> None:
    values = {"throttle": "on", "api-lag": "3,eni:new=5,gone=1", "imds-stuck": "2", "attach-delay": "4"}
    for name, value in values.items():
        a.switch(name, value)
    assert a.faults().switches == values
    assert (a.api.buckets.on, a.truth.api.lag, a.truth.delays.attach) == (True, 3, 4)
    for name in values:
        a.switch(name, "off")
    assert a.faults().switches == {}
    assert (a.api.buckets.on, a.truth.api.lag, a.truth.delays.attach) == (False, 0, 0)


def test_what_is_over_is_not_shown_as_set(a: Account) -> None:
    server = Server(Store(a.clock, random.Random(1)))
    switches = Switches(a.truth, a.api, a.imds, server=server)
    switches.set("kube", "slow:5")
    assert switches.current() == {"kube": "slow:5"}
    switches.set("kube", "cut")
    assert (switches.current(), server.faults.slow) == ({}, 0)
    ec2, kube = '{"action": "DescribeVpcs", "error": "InternalError"}', '{"verb": "list", "status": 500}'
    switches.set("ec2", ec2)
    switches.set("kube-rule", kube)
    assert switches.current() == {"ec2": ec2, "kube-rule": kube}
    a.call("DescribeVpcs")
    server.faults.take(Call("list", "pods", "", "me"), "before")
    assert switches.current() == {"hits:DescribeVpcs": "1"}
    a.truth.faults.hits.clear()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kube", "slow", "it is none of these"),
        ("kube", "slow:", "by how many seconds"),
        ("kube", "slow:long", "'long' is no number of seconds"),
        ("kube", "hang:5", "it is none of these"),
        ("kube-rule", '{"verb": "get", "status": 503, "nmae": "x"}', "unknown field `nmae`"),
        ("kube-rule", '{"verb": "fetch", "status": 503}', "verb='fetch' fits none of get, list"),
        ("kube-rule", '{"drop": true, "status": 503}', "drop and status: a call has one answer"),
        ("kube-rule", '{"verb": "watch", "drop": true, "events": 3}', "drop and events: a call has one answer"),
        ("kube-rule", '{"verb": "watch", "status": 500, "when": "after"}', "a watch has no effect"),
        ("kube-rule", '{"delay": 1, "text": "later"}', "text='later' goes with status only"),
        ("kube-rule", '{"drop": true, "retry_after": 3}', "retry_after=3: seconds, from 0, with status only"),
        ("kube-rule", '{"drop": true, "chance": 50}', "chance=50.0: above 0, up to 1"),
        ("kube-rule", "[]", "an empty list of rules does nothing"),
    ],
)
def test_a_bad_switch_of_kubernetes(a: Account, name: str, value: str, words: str) -> None:
    server = Server(Store(a.clock, random.Random(1)))
    switches = Switches(a.truth, a.api, a.imds, server=server)
    with pytest.raises(SandboxFailure) as caught:
        switches.set(name, value)
    assert words in caught.value.text
    assert (switches.current(), server.faults.rules()) == ({}, [])


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


def test_a_wrong_word_in_a_script_is_refused_with_those_that_there_are(a: Account) -> None:
    with pytest.raises(SandboxFailure, match=r"script, step 1: .*'explode'.*; there are: 'assign', .*'unassign'"):
        a.load([{"change": {"do": "explode"}}])
    with pytest.raises(SandboxFailure, match=r"'during'.*; there are: 'after', 'before'"):
        a.load([{"rule": {"when": "during"}}])
