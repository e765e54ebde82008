"""What the journal's records mean, and the existing system's checkpoint file.

The journal is a list of changes; `replay` turns it into the state after the last of them. Metas are msgpack
arrays, so that fields can be added at their ends: an older release skips what it does not know, a newer one
takes the default for what is missing.

`ipam.json` is the existing system's file (IPAM specification, section 10). Its entries are made once per owner
and joined, so that writing it costs little more than the write. A version of the file is known by the sum of its
entries' digests: O(1) per change, and the same whatever the order of the entries.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from core import addresses
from core.errors import CheckpointForeign

# Kinds of journal records. Numbers are for ever.
ASSIGN: Final = 1  # owner, address; meta OwnerMeta. Again for a known owner: its meta has changed
RELEASE: Final = 2  # owner, address, time; meta Gone
ENI: Final = 3  # meta EniRecord
ENI_GONE: Final = 4  # meta EniRecord, of which only eni_id counts
BLOCK: Final = 5  # address: base; meta BlockMeta. Again: the state has changed
BLOCK_GONE: Final = 6  # address: base; meta BlockMeta, of which only length counts
CHECKPOINT: Final = 7  # meta: digest of the version of ipam.json that comes next
HISTORY: Final = 8  # address (or empty); meta Past
READY: Final = 9  # the manager has finished node initialisation
ALIVE: Final = 10  # sign of life
COOLING: Final = 11  # address, released at this time by an owner that is forgotten (compaction)

HISTORY_LENGTH: Final = 512
CHECKPOINT_VERSION: Final = "vpc-cni-ipam/1"
MIGRATED: Final = "_migrated-from-cri"
DIGEST_SIZE: Final = 16
_DIGEST_SPACE: Final = 1 << (8 * DIGEST_SIZE)


class OwnerMeta(msgspec.Struct, array_like=True):
    """Who has an address, and all that DEL, CHECK and the commands need to know. `since_unix_ns` is wall time."""

    network: str = ""
    container_id: str = ""
    ifname: str = ""
    namespace: str = ""
    pod: str = ""
    netns: str = ""
    host_veth: str = ""
    eni_id: str = ""
    card: int = 0
    device: int = 0
    table: int = 254
    since_unix_ns: int = 0
    phases: dict[str, int] = {}


class Gone(msgspec.Struct, array_like=True):
    """How an owner ended. `state`: deleted, failed, lost. `cool` False: nobody ever saw the address."""

    state: str = "deleted"
    until_unix_ns: int = 0
    error: str = ""
    error_code: str = ""
    details: str = ""
    cool: bool = True
    phases: dict[str, int] = {}


class Past(msgspec.Struct, array_like=True):
    """One of the last pods that failed or are gone."""

    owner: OwnerMeta
    gone: Gone
    address: bytes = b""


class EniRecord(msgspec.Struct, array_like=True):
    """An ENI whose link, table and rules are up; the fields of the control protocol's Eni."""

    eni_id: str
    mac: str = ""
    ifname: str = ""
    ifindex: int = 0
    card: int = 0
    device: int = 0
    table: int = 254
    primary_ip: str = ""
    subnet_gateway: str = ""
    primary: bool = False
    state: str = "open"


class BlockMeta(msgspec.Struct, array_like=True):
    """A block of the pool; `kind` and `state` are the pool's numbers."""

    length: int
    eni_id: str = ""
    kind: int = 0
    state: int = 0


class RecordLike(Protocol):
    """A record as the journal gives it."""

    @property
    def kind(self) -> int: ...
    @property
    def owner(self) -> bytes: ...
    @property
    def address(self) -> bytes: ...
    @property
    def when_ns(self) -> int: ...
    @property
    def meta(self) -> bytes: ...


@dataclass(slots=True)
class Owned:
    """One owner of the journal."""

    address: bytes
    when_ns: int
    meta: OwnerMeta


@dataclass(slots=True)
class Image:
    """The state after the last record. `cooling` maps an address to when it was released."""

    enis: dict[str, EniRecord] = field(default_factory=dict)
    blocks: dict[tuple[bytes, int], BlockMeta] = field(default_factory=dict)
    owners: dict[bytes, Owned] = field(default_factory=dict)
    cooling: dict[bytes, int] = field(default_factory=dict)
    digests: deque[bytes] = field(default_factory=lambda: deque(maxlen=2))
    history: deque[Past] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    ready: bool = False
    last_ns: int = 0
    problems: list[str] = field(default_factory=list)


encode = msgspec.msgpack.Encoder().encode
_owner = msgspec.msgpack.Decoder(OwnerMeta)
_gone = msgspec.msgpack.Decoder(Gone)
_past = msgspec.msgpack.Decoder(Past)
_eni = msgspec.msgpack.Decoder(EniRecord)
_block = msgspec.msgpack.Decoder(BlockMeta)


def replay(records: Iterable[RecordLike]) -> Image:
    """The state after the last record. What cannot be understood is told in `problems`; it never holds the rest up,
    and never makes an address look free: an owner with an unreadable meta keeps its address."""
    image = Image()
    for number, record in enumerate(records):
        image.last_ns = max(image.last_ns, record.when_ns)
        try:
            _step(image, record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            image.problems.append(f"journal record {number} of kind {record.kind} cannot be understood: {error}")
            if record.kind == ASSIGN:
                image.owners[record.owner] = Owned(record.address, record.when_ns, OwnerMeta())
            elif record.kind == RELEASE:
                _release(image, record, Gone())
    return image


def _step(image: Image, record: RecordLike) -> None:
    kind = record.kind
    if kind == ASSIGN:
        meta = _owner.decode(record.meta)
        before = image.owners.get(record.owner)
        when = before.when_ns if before is not None and before.address == record.address else record.when_ns
        image.owners[record.owner] = Owned(record.address, when, meta)
        image.cooling.pop(record.address, None)
    elif kind == RELEASE:
        _release(image, record, _gone.decode(record.meta))
    elif kind == ENI:
        eni = _eni.decode(record.meta)
        image.enis[eni.eni_id] = eni
    elif kind == ENI_GONE:
        image.enis.pop(_eni.decode(record.meta).eni_id, None)
    elif kind == BLOCK:
        block = _block.decode(record.meta)
        image.blocks[record.address, block.length] = block
    elif kind == BLOCK_GONE:
        gone = _block.decode(record.meta)
        image.blocks.pop((record.address, gone.length), None)
        for address in [a for a in image.cooling if addresses.within(a, record.address, gone.length)]:
            del image.cooling[address]
    elif kind == CHECKPOINT:
        image.digests.append(bytes(record.meta))
    elif kind == HISTORY:
        image.history.append(_past.decode(record.meta))
    elif kind == READY:
        image.ready = True
    elif kind == COOLING:
        image.cooling[record.address] = record.when_ns
    elif kind != ALIVE:
        image.problems.append(f"a journal record of the unknown kind {kind} is left out")


def _release(image: Image, record: RecordLike, gone: Gone) -> None:
    owned = image.owners.pop(record.owner, None)
    address = owned.address if owned is not None else record.address
    if gone.cool and address:
        image.cooling[address] = record.when_ns
    if owned is not None:
        image.history.append(Past(owned.meta, gone, address))


# --- the existing system's checkpoint ---------------------------------------------------------------


class _Pod(msgspec.Struct, omit_defaults=True):
    namespace: str = msgspec.field(default="", name="k8sPodNamespace")
    pod: str = msgspec.field(default="", name="k8sPodName")
    count: int = msgspec.field(default=0, name="interfacesCount")


class Allocation(msgspec.Struct, omit_defaults=True):
    """One entry of ipam.json. `timestamp` is Unix time in ns; 0 in old entries."""

    network: str = msgspec.field(name="networkName")
    container_id: str = msgspec.field(name="containerID")
    ifname: str = msgspec.field(name="ifName")
    ipv4: str = ""
    ipv6: str = ""
    timestamp: int = msgspec.field(default=0, name="allocationTimestamp")
    metadata: _Pod = msgspec.field(default_factory=_Pod)

    @property
    def address(self) -> bytes:
        """Raises ValueError if the entry has no address, or nonsense."""
        return addresses.parse(self.ipv4 or self.ipv6)


class _Entry(msgspec.Struct):
    # Spelled out beside Allocation because `metadata` and the times are always written.
    network: str = msgspec.field(name="networkName")
    container_id: str = msgspec.field(name="containerID")
    ifname: str = msgspec.field(name="ifName")
    ip: str = msgspec.field(name="ipv4")
    timestamp: int = msgspec.field(name="allocationTimestamp")
    metadata: _Pod


class _Entry6(msgspec.Struct):
    network: str = msgspec.field(name="networkName")
    container_id: str = msgspec.field(name="containerID")
    ifname: str = msgspec.field(name="ifName")
    ip: str = msgspec.field(name="ipv6")
    timestamp: int = msgspec.field(name="allocationTimestamp")
    metadata: _Pod


class _File(msgspec.Struct):
    version: str
    allocations: list[msgspec.Raw] | None = None


_file = msgspec.json.Decoder(_File)
_allocation = msgspec.json.Decoder(Allocation)
_json = msgspec.json.Encoder()


def checkpoint_entry(meta: OwnerMeta, address: bytes) -> bytes:
    """One entry as the existing system writes it; `address` 4 or 16 bytes."""
    kind = _Entry if len(address) == 4 else _Entry6
    return _json.encode(
        kind(
            meta.network,
            meta.container_id,
            meta.ifname,
            addresses.text(address),
            meta.since_unix_ns,
            _Pod(meta.namespace, meta.pod, 1),
        )
    )


def checkpoint_file(entries: Iterable[bytes]) -> bytes:
    """The whole file: one line, line feed at the end."""
    return b'{"version":"%s","allocations":[%s]}\n' % (CHECKPOINT_VERSION.encode(), b",".join(entries))


class Digest:
    """The digest of a set of entries, kept up to date by adding and taking away."""

    __slots__ = ("_sum",)

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self._sum = 0
        for entry in entries:
            self.add(entry)

    @staticmethod
    def _of(entry: bytes) -> int:
        return int.from_bytes(hashlib.sha256(entry).digest()[:DIGEST_SIZE], "big")

    def add(self, entry: bytes) -> None:
        """An entry has come."""
        self._sum = (self._sum + self._of(entry)) % _DIGEST_SPACE

    def take(self, entry: bytes) -> None:
        """An entry has gone."""
        self._sum = (self._sum - self._of(entry)) % _DIGEST_SPACE

    @property
    def value(self) -> bytes:
        """16 bytes."""
        return self._sum.to_bytes(DIGEST_SIZE, "big")


@dataclass(slots=True)
class Checkpoint:
    """A decoded ipam.json. `problems` names entries that make no sense and are left out."""

    allocations: list[Allocation]
    digest: bytes
    problems: list[str]


def read_checkpoint(data: bytes) -> Checkpoint:
    """Decode the file. Raises CheckpointForeign if it is not JSON of the one known version."""
    try:
        body = _file.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointForeign(f"ipam.json cannot be read: {error}") from error
    if body.version != CHECKPOINT_VERSION:
        raise CheckpointForeign(f"ipam.json has version {body.version[:100]!r}; we read {CHECKPOINT_VERSION} only")
    raws = [bytes(memoryview(raw)) for raw in body.allocations or ()]
    found: list[Allocation] = []
    problems: list[str] = []
    for number, raw in enumerate(raws):
        try:
            entry = _allocation.decode(raw)
            _ = entry.address
        except (msgspec.MsgspecError, ValueError) as error:
            problems.append(f"ipam.json: entry {number} is left out: {error}")
        else:
            found.append(entry)
    return Checkpoint(found, Digest(raws).value, problems)
