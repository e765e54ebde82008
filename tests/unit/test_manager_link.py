"""The manager's copy of the agent's pool: nothing that the agent tells is left lying, whenever it comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import control
from agent.manager.control_client import ControlClient
from core.errors import AgentGone

BASE = "10.0.0.9"


def update(used: int, parked: int = 0) -> bytes:
    """What the agent tells unasked."""
    pool = control.Pool(total=1, used=used, cooling=0, free=1 - used, parked=parked)
    block = control.Block("eni-1", BASE, 32, "address", "open", used, 0, 1)
    return control.encode(control.ReplyFrame(0, control.Update(used, pool, [block])))


class Agent:
    """Answers one connection; each command with `before`, its answer and `after` in a single piece.

    `snapshot`: what comes in one piece with the snapshot, behind it. `rest`: what comes before the second answer, once
    `before` and `after` have come with the first.
    """

    def __init__(self, path: Path, before: bytes, after: bytes, snapshot: bytes, rest: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._pieces = before, after
        self._rest = rest
        self._snapshot = snapshot
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        with client, client.makefile("rb") as stream:
            while head := stream.read(control.LENGTH.size):
                frame = control.decode_request(stream.read(control.LENGTH.unpack(head)[0]))
                match frame.body:
                    case control.GetSnapshot():
                        pool = control.Pool(0, 0, 0, 0, 0)
                        body: control.Reply = control.Snapshot(0, "boot", 0.0, False, pool, [], [])
                        before, after = b"", self._snapshot
                    case control.Hello():
                        body, before, after = control.Done(), b"", b""
                    case _:
                        body, (before, after) = control.Done(), self._pieces
                        if self._rest:
                            self._pieces = self._rest, b""
                client.sendall(before + control.encode(control.ReplyFrame(frame.id, body)) + after)

    def close(self) -> None:
        """Once the client has hung up."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., ControlClient]]:
    """Makes a client whose agent answers like this."""
    agents: list[Agent] = []
    clients: list[ControlClient] = []

    def connect_(*, before: bytes = b"", after: bytes = b"", snapshot: bytes = b"", rest: bytes = b"") -> ControlClient:
        agent = Agent(tmp_path / "control.sock", before, after, snapshot, rest)
        agents.append(agent)
        clients.append(ControlClient(str(tmp_path / "control.sock")))
        return clients[-1]

    yield connect_
    for client in clients:
        client.close()
    for agent in agents:
        agent.close()


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_comes_with_an_answer_is_known_and_reported(connect: Callable[..., ControlClient], place: str) -> None:
    """The socket is silent then, so nobody would look again."""
    client = connect(**{place: update(1, parked=3)})
    assert not client.news
    assert client.call(control.Ready()) == control.Done()
    assert client.blocks[BASE, 32].used == 1
    assert client.pool.parked == 3
    assert client.news
    assert client.follow()
    assert not client.news
    assert not client.follow()


def test_what_comes_with_the_snapshot_is_known_and_reported(connect: Callable[..., ControlClient]) -> None:
    client = connect(snapshot=update(1, parked=3))
    assert client.news
    assert client.pool.parked == 3
    assert client.blocks[BASE, 32].used == 1
    assert client.follow()
    assert not client.follow()


def test_nonsense_that_comes_with_the_snapshot_is_an_agent_that_is_gone(connect: Callable[..., ControlClient]) -> None:
    with pytest.raises(AgentGone):
        connect(snapshot=control.encode(control.ReplyFrame(7, control.Done())))


@pytest.mark.parametrize("sent", [1, 3, 4, 5, -3, -1])
def test_half_an_update_waits_for_the_other_half(connect: Callable[..., ControlClient], sent: int) -> None:
    """Cut within its length, behind it, or within its body."""
    whole = update(1, parked=3)
    client = connect(after=whole[:sent], rest=whole[sent:])
    client.call(control.Ready())
    assert not client.news
    assert client.blocks == {}
    # Only when this is asked for does the agent send the rest, with an answer behind it.
    assert client.call(control.Ready()) == control.Done()
    assert client.blocks[BASE, 32].used == 1
    assert client.pool.parked == 3
    assert client.follow()
    assert not client.follow()


def test_an_answer_alone_is_no_news(connect: Callable[..., ControlClient]) -> None:
    client = connect()
    client.call(control.Ready())
    assert not client.news
    assert not client.follow()
