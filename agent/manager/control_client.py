"""The manager's end of `control.sock`: the agent's state as it is now, and commands that are acknowledged.

The agent holds everything; this is a copy that follows it. On any doubt (a broken frame, a silent agent, a closed
connection) the copy is thrown away and the connection made anew, with a new snapshot.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from agent import control
from core.errors import AgentGone

# The agent answers within milliseconds. One that does not is hung up on, and the main loop goes on.
CALL_TIMEOUT_S = 3.0
# The agent answers in order; this many commands may be under way at once.
PIPELINE = 64
T = TypeVar("T", bound=control.Message)


class ControlClient:
    """One connection as the manager. All methods raise AgentGone, after which only `close` makes sense.

    `news`: updates were taken in that `follow` has not reported yet. They come between a command and its answer as
    well, and the socket is not readable any more then.
    """

    def __init__(self, path: str, timeout: float = CALL_TIMEOUT_S) -> None:
        self._path = path
        self._timeout = timeout
        self._next = 1
        self._buffer = bytearray()
        self.news = False
        self.blocks: dict[tuple[str, int], control.Block] = {}
        self.enis: dict[str, control.Eni] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
            self._expect(control.Hello(role="manager"), control.Done)
            snapshot = self._expect(control.GetSnapshot(watch=True), control.Snapshot)
        except OSError as error:
            self._socket.close()
            raise AgentGone(f"the agent does not answer on {path}", cause=str(error), retry_after=0.5) from error
        except AgentGone:
            self._socket.close()
            raise
        self.snapshot = snapshot
        self.pool = snapshot.pool
        self.blocks |= {(block.base, block.length): block for block in snapshot.blocks}
        self.enis |= {eni.eni_id: eni for eni in snapshot.enis}
        try:
            # What came in one piece with the snapshot wakes nobody any more.
            self._take_in()
        except AgentGone:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when the agent has something to tell."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up; twice is fine."""
        self._socket.close()

    def follow(self) -> bool:
        """Take in all updates that are there without waiting; whether there were any since the last time."""
        self._take_in()
        while self._readable(0.0):
            self._fill()
            self._take_in()
        changed, self.news = self.news, False
        return changed

    def call(self, request: control.Request) -> control.Done | control.Refused:
        """One command and its acknowledgement; the copy follows it at once."""
        return self.calls([request])[0]

    def calls(self, requests: Sequence[control.Request]) -> list[control.Done | control.Refused]:
        """Commands in this order and their acknowledgements."""
        answers: list[control.Done | control.Refused] = []
        for at in range(0, len(requests), PIPELINE):
            batch = requests[at : at + PIPELINE]
            numbers = self._send(*batch)
            for number, request in zip(numbers, batch, strict=True):
                answer = self._answer(number)
                if isinstance(answer, control.Done):
                    self._took_effect(request)
                elif not isinstance(answer, control.Refused):
                    raise AgentGone(f"the agent answered a command with {type(answer).__name__}")
                answers.append(answer)
        self._take_in()
        return answers

    # --- the copy ---------------------------------------------------------------------------------------

    def _took_effect(self, request: control.Request) -> None:
        match request:
            case control.SetEni(eni):
                self.enis[eni.eni_id] = eni
            case control.DropEni(eni_id):
                self.enis.pop(eni_id, None)
            case control.AddBlock(eni_id, base, length, kind, state):
                if (base, length) not in self.blocks:
                    block = control.Block(eni_id, base, length, kind, state, 0, 0, 1)
                    self.blocks[base, length] = block
            case control.SetBlockState(base, length, state):
                if (base, length) in self.blocks:
                    self.blocks[base, length] = msgspec.structs.replace(self.blocks[base, length], state=state)
            case control.DropBlock(base, length):
                self.blocks.pop((base, length), None)
            case _:
                pass

    def _take_in(self) -> None:
        """All whole frames in the buffer."""
        while (frame := self._frame()) is not None:
            self._apply(frame)

    def _apply(self, frame: control.ReplyFrame) -> None:
        if not isinstance(frame.body, control.Update):
            raise AgentGone(f"the agent sent {type(frame.body).__name__} unasked")
        self.news = True
        self.pool = frame.body.pool
        # First what is gone: a block that went and came back within one update is there.
        for name in frame.body.gone:
            base, _, length = name.rpartition("/")
            self.blocks.pop((base, int(length)), None)
        for block in frame.body.blocks:
            self.blocks[block.base, block.length] = block

    # --- frames -----------------------------------------------------------------------------------------

    def _send(self, *requests: control.Request) -> list[int]:
        """All in one write, so that the agent gets all or none of a few, whenever this process dies. Their numbers."""
        numbers = list(range(self._next, self._next + len(requests)))
        self._next += len(requests)
        frames = [control.RequestFrame(*one) for one in zip(numbers, requests, strict=True)]
        try:
            self._socket.sendall(b"".join(map(control.encode, frames)))
        except OSError as error:
            raise AgentGone(f"the agent went away from {self._path}", cause=str(error), retry_after=0.5) from error
        return numbers

    def _expect(self, request: control.Request, kind: type[T]) -> T:
        answer = self._answer(*self._send(request))
        if isinstance(answer, kind):
            return answer
        text = answer.text if isinstance(answer, control.Refused) else type(answer).__name__
        raise AgentGone(f"the agent on {self._path} does not serve a manager", cause=text, retry_after=1.0)

    def _answer(self, number: int) -> control.Reply:
        """The reply to a request; updates that come before it are taken in."""
        deadline = time.monotonic() + self._timeout
        while True:
            while (frame := self._frame()) is not None:
                if frame.id == number:
                    return frame.body
                self._apply(frame)
            if not self._readable(deadline - time.monotonic()):
                raise AgentGone(f"the agent has not answered in {self._timeout:g} s", retry_after=1.0)
            self._fill()

    def _readable(self, wait_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(max(wait_s, 0.0) * 1000))

    def _fill(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise AgentGone(f"the agent went away from {self._path}", cause=str(error), retry_after=0.5) from error
        if not data:
            raise AgentGone(f"the agent closed {self._path}", retry_after=0.1)
        self._buffer += data

    def _frame(self) -> control.ReplyFrame | None:
        head = control.LENGTH.size
        if len(self._buffer) < head:
            return None
        (length,) = control.LENGTH.unpack_from(self._buffer)
        if length > control.MAX_FRAME:
            raise AgentGone(f"the agent sent a frame of {length} bytes")
        if len(self._buffer) < head + length:
            return None
        body = bytes(self._buffer[head : head + length])
        del self._buffer[: head + length]
        try:
            return control.decode_reply(body)
        except (msgspec.DecodeError, ValueError) as error:
            raise AgentGone("the agent sent what is no reply", cause=str(error)) from error
