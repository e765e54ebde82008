"""What the daemon says on the control socket, read: one JSON line with the answer, or with a failure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sandbox.base.failures import SandboxFailure

T = TypeVar("T")


class ReplyError(msgspec.Struct):
    """A failure on the wire; an empty `remedy` is the code's own."""

    code: str
    text: str
    remedy: str = ""


class Reply(msgspec.Struct):
    """One line of the daemon: `ok` with the answer, or `error`."""

    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: ReplyError | None = None


def raw(line: bytes) -> msgspec.Raw:
    """The answer, not yet decoded. Raises the SandboxFailure that the daemon answered with."""
    reply = msgspec.json.decode(line, type=Reply)
    if reply.error is not None:
        raise SandboxFailure(reply.error.code, reply.error.text, remedy=reply.error.remedy)
    return reply.ok


def decode(line: bytes, kind: type[T]) -> T:
    """The answer as `kind`. Raises SandboxFailure."""
    return msgspec.json.decode(raw(line), type=kind)
