"""The frames between the shim and the agent, as values: the Python twin of `wire.h`.

The agent must not trust what it reads, and its loop must not block, so this file opens no socket: bytes in,
dataclasses out, typed errors for everything else. Descriptors (SCM_RIGHTS) are the caller's: they come with
the first byte of a request whose flags hold `HAS_DESCRIPTORS`. Format: docs/seams.md, section 1.

The bounds are part of the format. Both sides refuse what is beyond them by name, before anything is allocated.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from core.errors import BadRequest

MAGIC: Final = b"ENID"
VERSION: Final = 1
LOWEST_VERSION: Final = 1
HEADER: Final = struct.Struct("<4sHBBII")
_U32: Final = struct.Struct("<I")
_VERSIONS: Final = struct.Struct("<HH")

MAX_CONFIG: Final = 1 << 20
MAX_FIELD: Final = 64 << 10
MAX_BODY: Final = 2 << 20
MAX_FRAME: Final = HEADER.size + MAX_BODY

HAS_DESCRIPTORS: Final = 1 << 0
REPLAYED: Final = 1 << 1
NETNS_GONE: Final = 1 << 2
KNOWN_FLAGS: Final = HAS_DESCRIPTORS | REPLAYED | NETNS_GONE
# The pod's network namespace, then a NETLINK_ROUTE socket opened inside it.
DESCRIPTORS: Final = 2

SPOOL_NAME: Final = re.compile(r"[0-9]{20}-[0-9]+\.del")
SPOOL_TEMPORARY: Final = ".tmp"


class Kind(IntEnum):
    """What a frame is."""

    ADD = 1
    DEL = 2
    CHECK = 3
    STATUS = 4
    GC = 5
    REPLY = 128
    UNSUPPORTED = 129
    RELAY = 130


# The first byte of a RELAY's body: the socket in question, or the question for the number of the pod's namespace.
RELAY_HOST, RELAY_POD, RELAY_NETNS = 0, 1, 2
REQUESTS: Final = frozenset((Kind.ADD, Kind.DEL, Kind.CHECK, Kind.STATUS, Kind.GC))
FIELDS: Final = ("container_id", "netns", "ifname", "args", "path", "config")
# What the runtime calls them, for messages.
FIELD_NAMES: Final = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "standard input")


class WireError(BadRequest):
    """The bytes are no frame of this format: wrong magic, unknown kind or flag, sizes that do not add up."""

    remedy = "install the shim of this release; see the conflist's agentSocket"


class TooLarge(WireError):
    """A field or a body is beyond its bound."""

    remedy = "check the runtime's CNI input"


class VersionNotSpoken(WireError):
    """The frame's version is none of ours. Answer with `encode_unsupported()`; `version` is what was asked."""

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame whose sizes are right and whose body is not looked at yet."""

    kind: Kind
    flags: int
    body: bytes
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the runtime. All fields are as they came: bytes, UTF-8 not checked, at most their bounds.

    The first five are the CNI_* variables (empty if not set, never with a NUL), `config` is standard input.
    """

    kind: Kind
    container_id: bytes = b""
    netns: bytes = b""
    ifname: bytes = b""
    args: bytes = b""
    path: bytes = b""
    config: bytes = b""
    flags: int = 0
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Reply:
    """What the shim prints and its exit status (0 or 1). `text` is a CNI result, a CNI error object, or empty."""

    status: int
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The agent speaks `lowest` to `highest` only. This frame's layout is the same in all versions."""

    lowest: int
    highest: int


# --- encoding ---------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The whole frame. Raises TooLarge or WireError, as `parse_request` would at the other end."""
    if request.kind not in REQUESTS:
        raise WireError(f"kind {request.kind} is no request")
    parts: list[bytes] = []
    for number, field in enumerate(FIELDS):
        value: bytes = getattr(request, field)
        _check_field(number, value)
        parts += (_U32.pack(len(value)), value)
    return _frame(request.kind, request.flags, b"".join(parts), request.version)


def encode_reply(status: int, text: bytes | str = b"", version: int = VERSION) -> bytes:
    """The answer to a request of `version`. `status` is the shim's exit status.

    Never raises for a text of any size, since a caller waits: one beyond MAX_FIELD is replaced by a CNI error
    that names its size, with status 1. So an error text is best cut by whoever writes it.
    """
    raw = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    if len(raw) > MAX_FIELD:
        message = f"the agent's answer of {len(raw)} bytes is above the bound of {MAX_FIELD}"
        raw = json.dumps({"cniVersion": "0.4.0", "code": 999, "msg": message}).encode()
        status = 1
    return _frame(Kind.REPLY, 0, _U32.pack(status) + _U32.pack(len(raw)) + raw, version)


def encode_unsupported() -> bytes:
    """The answer to a frame whose version is not spoken."""
    return _frame(Kind.UNSUPPORTED, 0, _VERSIONS.pack(LOWEST_VERSION, VERSION), VERSION)


def encode_relay(which: int, data: bytes) -> bytes:
    """A netlink datagram on its way through the shim, or an answer to one; an empty one ends the answers."""
    return _frame(Kind.RELAY, 0, bytes((which,)) + data, VERSION)


def parse_relay(frame: Frame, which: int) -> bytes:
    """The datagram in a frame that answers for this socket. Raises WireError."""
    if frame.kind is not Kind.RELAY or frame.body[:1] != bytes((which,)):
        raise WireError(f"a {frame.kind.name} frame of {len(frame.body)} bytes is no answer to a relayed message")
    return frame.body[1:]


def spool_name(boottime_ns: int, pid: int) -> str:
    """The name of a spooled DEL; names sort by time. `boottime_ns` is CLOCK_BOOTTIME."""
    return f"{boottime_ns:020d}-{pid}.del"


# --- decoding ---------------------------------------------------------------------------------------


class Decoder:
    """Collects one frame from a stream, in pieces of any size, without trusting its length.

    One connection carries one request and one reply, so a decoder is good for one frame: bytes after its end
    are an error. After an error it stays at fault.
    """

    __slots__ = ("_data", "_header", "_wanted")

    def __init__(self) -> None:
        self._data = bytearray()
        self._wanted = HEADER.size
        self._header: tuple[Kind, int, int] | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> Frame | None:
        """The frame once its last byte is there, None before.

        Raises WireError, TooLarge or VersionNotSpoken as soon as the header tells (nothing of the body is
        waited for), and WireError for bytes beyond the end.
        """
        self._data += data
        if self._header is None:
            if len(self._data) < HEADER.size:
                _check_magic(self._data)
                return None
            kind, flags, length, version = _parse_header(self._data)
            self._header = kind, flags, version
            self._wanted = HEADER.size + length
        if len(self._data) < self._wanted:
            return None
        if len(self._data) > self._wanted:
            raise WireError(
                f"{len(self._data) - self._wanted} bytes follow the frame; one connection carries one request"
            )
        kind, flags, version = self._header
        return Frame(kind, flags, bytes(memoryview(self._data)[HEADER.size :]), version)

    @property
    def missing(self) -> int:
        """Bytes until the header, then until the frame, is complete; a size for the next recv."""
        return max(self._wanted - len(self._data), 0)

    @property
    def started(self) -> bool:
        """Whether anything came: a connection that ends before that asked for nothing."""
        return bool(self._data)


def decode_frame(data: bytes | bytearray | memoryview) -> Frame:
    """The one frame that `data` is, as a spool file is. Raises as `Decoder.feed`, and WireError if it is cut."""
    decoder = Decoder()
    frame = decoder.feed(data)
    if frame is None:
        raise WireError(f"the frame is cut: {len(data)} bytes are there, {decoder.missing} more are needed")
    return frame


def parse_request(frame: Frame) -> Request:
    """The request in a frame. Raises WireError or TooLarge, naming the field and its size."""
    if frame.kind not in REQUESTS:
        raise WireError(f"a frame of kind {frame.kind.name} is no request")
    body, at, values = frame.body, 0, []
    for number, name in enumerate(FIELD_NAMES):
        value, at = _take_field(body, at, number, name)
        _check_field(number, value)
        values.append(value)
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes follow the last field of the {frame.kind.name} request")
    container_id, netns, ifname, args, path, config = values
    return Request(frame.kind, container_id, netns, ifname, args, path, config, frame.flags, frame.version)


def decode_request(data: bytes | bytearray | memoryview) -> Request:
    """`decode_frame` and `parse_request` in one: what is in a spool file."""
    return parse_request(decode_frame(data))


def parse_reply(frame: Frame) -> Reply | Unsupported:
    """The answer in a frame, as the shim reads it. Raises WireError or TooLarge."""
    body = frame.body
    if frame.kind is Kind.UNSUPPORTED:
        if len(body) != _VERSIONS.size:
            raise WireError(f"an UNSUPPORTED frame has 4 bytes, this one {len(body)}")
        return Unsupported(*_VERSIONS.unpack(body))
    if frame.kind is not Kind.REPLY:
        raise WireError(f"a frame of kind {frame.kind.name} is no reply")
    if len(body) < _U32.size:
        raise WireError(f"a REPLY of {len(body)} bytes has no exit status")
    (status,) = _U32.unpack_from(body)
    text, at = _take_field(body, _U32.size, 0, "the text")
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes follow the text of the reply")
    return Reply(status, text)


# --- pieces -----------------------------------------------------------------------------------------


def _frame(kind: Kind, flags: int, body: bytes, version: int) -> bytes:
    if flags & ~KNOWN_FLAGS:
        raise WireError(f"flags {flags:#x}: only {KNOWN_FLAGS:#x} are known")
    if len(body) > MAX_BODY:
        raise TooLarge(f"a body of {len(body)} bytes is above the bound of {MAX_BODY}")
    return HEADER.pack(MAGIC, version, kind, flags, len(body), 0) + body


def _check_magic(data: bytearray) -> None:
    start = bytes(data[: len(MAGIC)])
    if not MAGIC.startswith(start):
        raise WireError(f"a frame begins with {MAGIC!r}, this one with {start!r}")


def _parse_header(data: bytearray) -> tuple[Kind, int, int, int]:
    """Kind, flags, length of the body and version."""
    _check_magic(data)
    _, version, number, flags, length, zero = HEADER.unpack_from(data)
    # UNSUPPORTED comes from an agent of any version, so it is read before the version is.
    if number != Kind.UNSUPPORTED and not LOWEST_VERSION <= version <= VERSION:
        raise VersionNotSpoken(f"version {version} is not spoken, only {LOWEST_VERSION} to {VERSION} are", version)
    try:
        kind = Kind(number)
    except ValueError:
        raise WireError(f"kind {number} is not known") from None
    if flags & ~KNOWN_FLAGS:
        raise WireError(f"flags {flags:#x}: only {KNOWN_FLAGS:#x} are known")
    if zero:
        raise WireError(f"the last word of the header is {zero:#x}, it must be 0")
    if length > MAX_BODY:
        raise TooLarge(f"a body of {length} bytes is above the bound of {MAX_BODY}")
    return kind, flags, length, version


def _take_field(body: bytes, at: int, number: int, name: str) -> tuple[bytes, int]:
    """The field at `at` and where the next begins. The bound is looked at before the size is used."""
    if len(body) - at < _U32.size:
        raise WireError(f"the frame ends before the size of {name}")
    (size,) = _U32.unpack_from(body, at)
    bound = MAX_CONFIG if number == len(FIELDS) - 1 else MAX_FIELD
    if size > bound:
        raise TooLarge(f"{name} of {size} bytes is above the bound of {bound}")
    at += _U32.size
    if len(body) - at < size:
        raise WireError(f"{name} of {size} bytes is cut: {len(body) - at} are there")
    return body[at : at + size], at + size


def _check_field(number: int, value: bytes) -> None:
    name = FIELD_NAMES[number]
    last = number == len(FIELDS) - 1
    bound = MAX_CONFIG if last else MAX_FIELD
    if len(value) > bound:
        raise TooLarge(f"{name} of {len(value)} bytes is above the bound of {bound}")
    if not last and b"\0" in value:
        raise WireError(f"{name} holds a NUL byte, which no variable of the environment can")
