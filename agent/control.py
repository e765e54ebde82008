"""What the agent, the manager and the commands say to each other over `control.sock`.

State, not events: a client reads a snapshot, then what has changed since. The agent is the server; it holds
everything that pods depend on, so it may be restarted, or outlive the manager, without losing a word.

Framing: a 4-byte little-endian length, then that many bytes of one msgpack map. Each request carries an `id`
and gets exactly one reply with that id; updates for a watching client carry id 0. Every command is idempotent
and is acknowledged after the journal write. Neither side ever blocks on a send: beyond `MAX_UNSENT` bytes the
connection is closed and the client resyncs with a new snapshot.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec

LENGTH: Final = struct.Struct("<I")
PROTOCOL: Final = 1
MAX_FRAME: Final = 8 << 20
MAX_UNSENT: Final = 4 << 20

BlockKind = Literal["address", "prefix", "prefix6"]
State = Literal["open", "draining", "quarantined"]


class Message(msgspec.Struct, tag_field="do", omit_defaults=True):
    """Base of all frames. Times are CLOCK_BOOTTIME nanoseconds unless a name ends in `_unix`."""


# --- manager to agent ---------------------------------------------------------------------------------


class Hello(Message, tag="hello"):
    """First frame of a connection. `role`: manager or command. At most one manager at a time: the newer wins."""

    role: Literal["manager", "command"]
    protocol: int = PROTOCOL


class Eni(msgspec.Struct, omit_defaults=True):
    """One ENI whose link, table and rules are up on this host."""

    eni_id: str
    mac: str
    ifname: str
    ifindex: int
    card: int
    device: int
    table: int
    primary_ip: str
    subnet_gateway: str = ""
    primary: bool = False
    state: State = "open"


class SetEni(Message, tag="set_eni"):
    """Make an ENI known, or change its attributes. Must precede its blocks."""

    eni: Eni


class DropEni(Message, tag="drop_eni"):
    """Forget an ENI that has no blocks left. Refused with `busy` while it has."""

    eni_id: str


class AddBlock(Message, tag="add_block"):
    """Give the pool a block that EC2 has confirmed on a known ENI. `base` is text, `length` its prefix length.

    `state` is that of a new block; one that is there already keeps its own.
    """

    eni_id: str
    base: str
    length: int
    kind: BlockKind
    state: State = "open"


class SetBlockState(Message, tag="set_block_state"):
    """Draining and quarantined blocks keep their pods and hand out nothing."""

    base: str
    length: int
    state: State


class DropBlock(Message, tag="drop_block"):
    """Take a block out of the pool before it is unassigned in EC2. Refused with `busy` if used or cooling."""

    base: str
    length: int


class Outlook(Message, tag="outlook"):
    """Whether a refill can come. With `can_grow` false, parked ADDs fail at once with `code` and `text`
    unless a cool-down ends within their patience; `text` names the limit. `retry_at_ns`: when it ends by itself, None
    if it does not; a time and not a duration, since it is told once and asked for minutes later."""

    can_grow: bool
    code: str = ""
    text: str = ""
    retry_at_ns: int | None = None

    def retry_after_s(self, now_ns: int) -> float | None:
        """Seconds from now until then, to a tenth; never less than 0."""
        return None if self.retry_at_ns is None else round(max(self.retry_at_ns - now_ns, 0) / 1e9, 1)


class Report(Message, tag="report"):
    """The manager's own state, kept by the agent verbatim for the commands: targets, steps, last errors."""

    report: dict[str, object]


class Ready(Message, tag="ready"):
    """The manager has finished node initialisation: the agent verified its blocks and may serve STATUS ok."""


# --- any client -----------------------------------------------------------------------------------------


class GetSnapshot(Message, tag="snapshot"):
    """Reply: Snapshot. With `watch`, Updates follow on this connection."""

    watch: bool = False


class GetPods(Message, tag="pods"):
    """Reply: Pods."""


class Explain(Message, tag="explain"):
    """Reply: Pods with all records of this pod, the living first, then gone and failed, newest first."""

    namespace: str
    pod: str


# --- agent to clients -----------------------------------------------------------------------------------


class Block(msgspec.Struct, omit_defaults=True):
    """A block as the pool sees it. `unready`: known from the journal, its ENI not confirmed yet this run.

    `used` counts held addresses too (used by somebody that the agent does not know).
    """

    eni_id: str
    base: str
    length: int
    kind: BlockKind
    state: State
    used: int
    cooling: int
    size: int
    unready: bool = False


class Pool(msgspec.Struct, omit_defaults=True):
    """Totals over open blocks, and who waits."""

    total: int
    used: int
    cooling: int
    free: int
    parked: int
    next_free_in_s: float | None = None


class Snapshot(Message, tag="snapshot_is"):
    """Everything the manager needs to plan and the commands need to show."""

    seq: int
    boot_id: str
    started_unix: float
    ready: bool
    pool: Pool
    enis: list[Eni]
    blocks: list[Block]
    outlook: Outlook | None = None
    report: dict[str, object] | None = None
    counters: dict[str, int] = {}
    last_errors: list[str] = []


class Update(Message, tag="update"):
    """What has changed since the last one on this connection; blocks that are gone are in `gone` as `base/length`."""

    seq: int
    pool: Pool
    blocks: list[Block] = []
    gone: list[str] = []


class Pod(msgspec.Struct, omit_defaults=True):
    """One sandbox that has, had or asked for an address.

    `state`: parked, wiring (has an address; its ADD is not finished), up, deleted, failed, lost (its veth went
    without a DEL). `rules` and `routes`: what a living pod should have; in the answer to Explain they are compared with
    the kernel, and begin with MISSING or SURPLUS where they differ.
    `phases`: name to microseconds since the request arrived (parked, assigned, journaled, wired, answered).
    """

    namespace: str
    pod: str
    container_id: str
    ifname: str
    network: str
    state: str
    addresses: list[str] = []
    eni_id: str = ""
    device: int = 0
    table: int = 0
    host_veth: str = ""
    netns: str = ""
    since_unix: float = 0.0
    until_unix: float = 0.0
    phases: dict[str, int] = {}
    rules: list[str] = []
    routes: list[str] = []
    error: str = ""
    error_code: str = ""
    details: str = ""


class Pods(Message, tag="pods_are"):
    """Answer to GetPods (living and parked only) and Explain."""

    pods: list[Pod]


class Done(Message, tag="done"):
    """The command took effect and is journaled."""


class Refused(Message, tag="refused"):
    """The command had no effect. `code`: busy, overlap, unknown-eni, unknown-block, unsupported, bad-message."""

    code: str
    text: str


Request = (
    Hello
    | SetEni
    | DropEni
    | AddBlock
    | SetBlockState
    | DropBlock
    | Outlook
    | Report
    | Ready
    | GetSnapshot
    | GetPods
    | Explain
)
Reply = Done | Refused | Snapshot | Pods | Update


class RequestFrame(msgspec.Struct):
    id: int
    body: Request


class ReplyFrame(msgspec.Struct):
    id: int
    body: Reply


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(RequestFrame)
_replies = msgspec.msgpack.Decoder(ReplyFrame)


def words(request: Request) -> str:
    """A command for a log line: its name and what it is about."""
    match request:
        case SetEni(eni):
            return f"set_eni {eni.eni_id}"
        case DropEni(eni_id):
            return f"drop_eni {eni_id}"
        case AddBlock(eni_id, base, length):
            return f"add_block {base}/{length} on {eni_id}"
        case SetBlockState(base, length, state):
            return f"set_block_state {base}/{length} {state}"
        case DropBlock(base, length):
            return f"drop_block {base}/{length}"
        case _:
            return type(request).__name__.lower()


def encode(frame: RequestFrame | ReplyFrame) -> bytes:
    """The frame with its length in front."""
    body = _encoder.encode(frame)
    return LENGTH.pack(len(body)) + body


def decode_request(body: bytes | memoryview) -> RequestFrame:
    """Raises msgspec.DecodeError or msgspec.ValidationError for what is no request."""
    return _requests.decode(body)


def decode_reply(body: bytes | memoryview) -> ReplyFrame:
    """Raises msgspec.DecodeError or msgspec.ValidationError for what is no reply."""
    return _replies.decode(body)
