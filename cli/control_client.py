"""A small blocking client of the agent's control socket, for the commands and the benchmarks.

The agent and the manager talk over the same socket from their event loops; a command asks one question and ends,
so it wants plain calls with a time limit and errors that say what to do. The frames are those of `agent.control`.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import msgspec

from agent import control
from core.errors import AgentGone, EnidError

DEFAULT_TIMEOUT_S = 5.0
T = TypeVar("T", bound=control.Message)


class NobodyAnswers(AgentGone):
    """No agent listens here; whoever asks may be on no node at all."""

    remedy = "on a node, start it with `enid agent`; on a machine that is none, `enid lab` makes some to look at"


class ControlDenied(AgentGone):
    """The control socket is there, but this user may not open it."""

    code = "control-denied"
    remedy = "run the command as root"


class ControlRefused(EnidError):
    """The agent answered a command with `Refused`. `reason` is the code of the refusal."""

    code = "control-refused"
    remedy = "see the agent's log"

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class ControlBroken(EnidError):
    """What came over the control socket is no reply of the protocol."""

    code = "control-broken"
    remedy = "use the `enid` of the same release as the agent"


class ControlClient:
    """One connection to `path` (control.sock). Every call takes at most `timeout_s` seconds.

    `role` is sent as the first frame: with `manager` the agent drops its previous manager.
    Raises AgentGone (nobody answers, or not in time), ControlDenied (no permission).
    """

    def __init__(
        self, path: Path, *, role: Literal["manager", "command"] = "command", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._last_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            self._connect()
            self.do(control.Hello(role=role))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; twice is fine."""
        self._socket.close()

    def snapshot(self) -> control.Snapshot:
        """Pool, ENIs, blocks, outlook, the manager's report, last errors."""
        return self._expect(control.GetSnapshot(), control.Snapshot)

    def pods(self) -> list[control.Pod]:
        """The living and the parked."""
        return self._expect(control.GetPods(), control.Pods).pods

    def explain(self, namespace: str, pod: str) -> list[control.Pod]:
        """All records of this pod, the living first, then gone and failed, newest first; empty if unknown."""
        return self._expect(control.Explain(namespace=namespace, pod=pod), control.Pods).pods

    def do(self, command: control.Request) -> None:
        """Carry out a command. Raises ControlRefused with the agent's reason."""
        self._expect(command, control.Done)

    def ask(self, body: control.Request) -> control.Reply:
        """One request, its reply. Updates that come in between (id 0) are dropped."""
        self._last_id += 1
        deadline = time.monotonic() + self._timeout_s
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(control.encode(control.RequestFrame(id=self._last_id, body=body)))
            while True:
                frame = self._read_frame(deadline)
                if frame.id == self._last_id:
                    return frame.body
        except TimeoutError as error:
            raise AgentGone(
                f"the agent at {self._path} did not answer within {self._timeout_s:g} s", cause=str(error)
            ) from error
        except OSError as error:
            raise AgentGone(f"the agent at {self._path} hung up", cause=str(error)) from error

    def _connect(self) -> None:
        try:
            self._socket.connect(str(self._path))
        except PermissionError as error:
            raise ControlDenied(f"no permission to open {self._path}", cause=str(error)) from error
        except OSError as error:
            # A path beyond sun_path's 107 bytes has no errno, only a message.
            raise NobodyAnswers(f"no agent answers at {self._path}", cause=error.strerror or str(error)) from error

    def _expect(self, body: control.Request, wanted: type[T]) -> T:
        reply = self.ask(body)
        if isinstance(reply, control.Refused):
            raise ControlRefused(reply.text, reason=reply.code)
        if not isinstance(reply, wanted):
            raise ControlBroken(f"{type(body).__name__} was answered with {type(reply).__name__}")
        return reply

    def _read_frame(self, deadline: float) -> control.ReplyFrame:
        (length,) = control.LENGTH.unpack(self._read(control.LENGTH.size, deadline))
        if length > control.MAX_FRAME:
            raise ControlBroken(f"a frame of {length} bytes is longer than the {control.MAX_FRAME} that are allowed")
        try:
            return control.decode_reply(self._read(length, deadline))
        except msgspec.MsgspecError as error:
            raise ControlBroken("the agent's reply cannot be decoded", cause=str(error)) from error

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("time limit reached")
            self._socket.settimeout(left)
            part = self._socket.recv(min(size - len(data), 1 << 16))
            if not part:
                raise ConnectionResetError("end of stream")
            data += part
        return bytes(data)
