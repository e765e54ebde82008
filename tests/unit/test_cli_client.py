"""The blocking client of the control socket: replies to their requests, time limits, and typed failures."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import control
from cli.control_client import ControlBroken, ControlClient, ControlDenied, ControlRefused
from core.errors import AgentGone
from tests.unit.fake_control import FakeAgent, Fault, a_pod


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(tmp_path)
    yield fake
    fake.close()


def test_hello_comes_first_and_answers_go_to_their_questions(agent: FakeAgent, tmp_path: Path) -> None:
    agent.pods = [a_pod("web")]
    with ControlClient(tmp_path / "control.sock", role="manager") as client:
        assert client.snapshot() == agent.snapshot
        assert client.pods() == agent.pods
        assert client.explain("default", "web") == agent.pods
        assert client.explain("default", "other") == []
        client.do(control.Ready())
    assert agent.received[0] == control.Hello(role="manager")
    assert agent.received[-1] == control.Ready()


def test_an_update_in_between_is_no_answer(agent: FakeAgent, tmp_path: Path) -> None:
    agent.fault = "update-first"
    with ControlClient(tmp_path / "control.sock") as client:
        assert client.snapshot() == agent.snapshot


def test_a_refusal_is_an_error_with_its_reason(agent: FakeAgent, tmp_path: Path) -> None:
    with ControlClient(tmp_path / "control.sock") as client, pytest.raises(ControlRefused, match="2 blocks") as caught:
        client.do(control.DropEni("eni-0a"))
    assert caught.value.reason == "busy"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("hang", AgentGone),
        ("hang-up", AgentGone),
        ("rubbish", ControlBroken),
        ("huge", ControlBroken),
        ("wrong-type", ControlBroken),
    ],
)
def test_a_broken_agent_is_told_apart(agent: FakeAgent, tmp_path: Path, fault: Fault, error: type[Exception]) -> None:
    with ControlClient(tmp_path / "control.sock", timeout_s=0.2) as client:
        agent.fault = fault
        with pytest.raises(error):
            client.snapshot()


def test_no_socket_and_nobody_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(AgentGone, match=str(path)) as caught:
        ControlClient(path)
    assert "No such file" in caught.value.cause
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with pytest.raises(AgentGone) as caught:
        ControlClient(path)
    assert "refused" in caught.value.cause


def test_a_path_beyond_what_a_socket_address_holds(tmp_path: Path) -> None:
    with pytest.raises(AgentGone, match="x" * 200):
        ControlClient(tmp_path / ("x" * 200))


def test_no_permission_is_not_no_agent(agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may open everything, so the kernel's answer is given by hand.
    def connect(self: socket.socket, address: str) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ControlDenied) as caught:
        ControlClient(tmp_path / "control.sock")
    assert "root" in caught.value.remedy
