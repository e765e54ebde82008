"""The control protocol: every message survives the wire, and what is no message is refused as such."""

from __future__ import annotations

import msgspec
import pytest

from agent import control

ENI = control.Eni("eni-1", "0a:00:00:00:00:01", "ens6", 7, 0, 1, 2, "10.0.0.5", subnet_gateway="10.0.0.1")
POOL = control.Pool(total=9, used=1, cooling=1, free=7, parked=0)
BLOCK = control.Block("eni-1", "10.0.0.9", 32, "address", "open", used=1, cooling=0, size=1)
REQUESTS = [
    control.Hello("manager"),
    control.SetEni(ENI),
    control.DropEni("eni-1"),
    control.AddBlock("eni-1", "10.0.0.9", 32, "address"),
    control.SetBlockState("10.0.0.9", 32, "quarantined"),
    control.DropBlock("10.0.0.9", 32),
    control.Outlook(False, "node-full", "m5.large holds 27 pod addresses", retry_at_ns=2_500_000_000),
    control.Report({"targets": {"warm": 1}, "errors": ["x"]}),
    control.Ready(),
    control.GetSnapshot(watch=True),
    control.GetPods(),
    control.Explain("web", "p0"),
]
REPLIES = [
    control.Done(),
    control.Refused("busy", "10.0.0.9/32 is used by web/p0"),
    control.Snapshot(4, "boot", 1.5, True, POOL, [ENI], [BLOCK], outlook=control.Outlook(True), report={"a": 1}),
    control.Update(5, POOL, [BLOCK], ["10.0.0.8/32"]),
    control.Pods([control.Pod("web", "p0", "c1", "eth0", "aws-cni", "up", ["10.0.0.9"], phases={"wired": 700})]),
]


@pytest.mark.parametrize("body", REQUESTS, ids=lambda body: type(body).__name__)
def test_requests_survive_the_wire(body: control.Request) -> None:
    frame = control.encode(control.RequestFrame(3, body))
    (size,) = control.LENGTH.unpack(frame[:4])
    assert size == len(frame) - 4
    assert control.decode_request(frame[4:]) == control.RequestFrame(3, body)


@pytest.mark.parametrize("body", REPLIES, ids=lambda body: type(body).__name__)
def test_replies_survive_the_wire(body: control.Reply) -> None:
    frame = control.encode(control.ReplyFrame(9, body))
    assert control.decode_reply(memoryview(frame)[4:]) == control.ReplyFrame(9, body)


@pytest.mark.parametrize("body", REPLIES, ids=lambda body: type(body).__name__)
def test_a_reply_is_no_request(body: control.Reply) -> None:
    frame = control.encode(control.ReplyFrame(1, body))
    with pytest.raises(msgspec.ValidationError):
        control.decode_request(frame[4:])


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_cut_frame_is_refused(cut: int) -> None:
    body = control.encode(control.RequestFrame(1, control.GetPods()))[4:]
    with pytest.raises(msgspec.DecodeError):
        control.decode_request(body[:cut])


def test_unknown_kinds_are_refused_by_name() -> None:
    body = msgspec.msgpack.encode({"id": 1, "body": {"do": "explode"}})
    with pytest.raises(msgspec.ValidationError, match="explode"):
        control.decode_request(body)
