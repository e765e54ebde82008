"""What the hot process knows and keeps: pool, owners, journal, checkpoint, history, counters.

Every change of an owner goes through here, so that the order is right in one place. ADD: pool, journal, kernel,
ipam.json, answer. End of an owner: kernel, journal, pool, ipam.json. A change is in the journal before anybody
outside can see it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from agent import control
from agent.fastpath.checkpoint import CheckpointWriter
from agent.fastpath.cleanup import Cleanup
from agent.fastpath.history import History
from agent.fastpath.kernel import Kernel
from agent.fastpath.log import Log
from agent.fastpath.loop import Loop, now_ns
from agent.fastpath.reaper import Reaper
from core import addresses, records
from core.errors import EnidError, JournalWrite
from core.ipam import LOST, UP, Book, Owner
from core.records import BlockMeta, Gone, OwnerMeta
from core.settings import Settings
from core.wiring import NOTHING, HostState, differences
from ext import journal as journals
from ext import netlink, pool

# What is beyond the settings, in seconds. Tests that cannot wait change them before the start.
LOST_GRACE_S = 60.0  # a veth went away: how long its DEL may still come
ADD_GRACE_S = 60.0  # on top of the shim's patience: how long an ADD may be repeated after a restart
ABSENCE_S = 300.0  # nobody was here that long: blocks must be confirmed before they are used again
ALIVE_S = 60.0

LAST_ERRORS: Final = 20


class Node:
    """The state of the hot process. All times are CLOCK_BOOTTIME ns unless named otherwise."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        loop: Loop,
        kernel: Kernel,
        reaper: Reaper,
        journal: journals.Journal,
        boot_id: str,
    ) -> None:
        self.settings = settings
        self.log = log
        self.loop = loop
        self.kernel = kernel
        self.reaper = reaper
        self.journal = journal
        self.cooldown_ns = int(settings.cooldown_s * 1e9)
        self.pool = pool.Pool(cooldown_ns=self.cooldown_ns)
        self.book = Book(self.pool, cooldown_ns=self.cooldown_ns, max_enis=pool.MAX_ENIS)
        self.cleanup = Cleanup(kernel, reaper, self.book, loop, self._not_down, self._unheld)
        self.history = History()
        self.checkpoint = CheckpointWriter(
            settings.checkpoint_path,
            journal=self._journal_digest,
            later=lambda delay, action: loop.at(now_ns() + delay, action),
            failed=self._checkpoint_failed,
        )
        self.digests: deque[bytes] = deque(maxlen=2)
        self.initialised = False  # a manager was Ready once since the boot
        self.ready = False  # a manager was Ready in this run
        self.wait_ready = False  # new addresses wait for the manager's Ready
        self.outlook: control.Outlook | None = None
        self.report: dict[str, object] | None = None
        self.boot_id = boot_id
        self.reboot_rests: set[bytes] = set()
        self.manager_here = False
        self.started_unix = time.time()
        self.seq = 0
        self.counters: dict[str, int] = {}
        self.last_errors: deque[str] = deque(maxlen=LAST_ERRORS)
        # Told of every change; filled by the control server and the parking lot.
        self.block_changed: Callable[[int], None] = lambda _block: None
        self.block_gone: Callable[[str], None] = lambda _name: None
        self.room_changed: Callable[[], None] = lambda: None
        self.tables_changed: Callable[[list[Owner]], None] = lambda _owners: None

    # --- small things -----------------------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        """One more of something, for the commands and the metrics."""
        self.counters[name] = self.counters.get(name, 0) + by

    def note_error(self, caller: str, code: str, text: str) -> None:
        """A failure that people should find: log, counter, `enid status`."""
        self.count(f"error_{code}")
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        self.last_errors.append(f"{stamp} {code}: {text}")
        self.log.error(caller, f"{code}: {text}")

    # --- journal ------------------------------------------------------------------------------------------

    def append(self, kind: int, owner: bytes = b"", address: bytes = b"", meta: bytes = b"", when: int = -1) -> None:
        """Write one record. Raises JournalWrite, with nothing written."""
        frame = journals.encode(kind, owner, address, now_ns() if when < 0 else when, meta)
        try:
            try:
                self.journal.append(frame)
            except journals.Full:
                self.compact()
                self.journal.append(frame)
        except (OSError, journals.JournalError) as error:
            self.note_error("journal", JournalWrite.code, str(error))
            raise JournalWrite(f"the journal cannot be written: {error}", cause=str(error)) from error

    def compact(self) -> None:
        """Replace the journal by what is true now. Raises what the journal raises."""
        while True:
            self.count("journal_compactions")
            frames = list(self._frames())
            try:
                self.journal.compact(frames)
            except journals.Full:
                if not len(self.history):
                    raise
            else:
                # Little room would mean to compact again with every few records.
                if not len(self.history) or self.journal.room > sum(map(len, frames)) // 4:
                    return
            self.history.halve()
            self.note_error("journal", "history-dropped", "the journal has no room for all of the history")

    def _frames(self) -> Iterator[bytes]:
        now = now_ns()
        encode = journals.encode
        yield encode(records.ALIVE, b"", b"", now, b"")
        if self.initialised:
            yield encode(records.READY, b"", b"", now, b"")
        for entry in self.book.enis.values():
            yield encode(records.ENI, b"", b"", now, records.encode(entry.record))
        for info in self.pool.blocks():
            meta = BlockMeta(info.length, self.book.by_number[info.eni].record.eni_id, info.kind, info.state)
            yield encode(records.BLOCK, b"", info.base, now, records.encode(meta))
        for address, until in self.pool.cooling():
            yield encode(records.COOLING, b"", address, max(0, until - self.cooldown_ns), b"")
        for address, what in self.book.unplaced.items():
            if isinstance(what, int):
                yield encode(records.COOLING, b"", address, max(0, what - self.cooldown_ns), b"")
        for past in self.history:
            yield encode(records.HISTORY, b"", past.address, now, records.encode(past))
        for owner in self.book.owners.values():
            yield encode(records.ASSIGN, owner.key, owner.address, owner.since_ns, records.encode(owner.meta))
        for digest in self.digests:
            yield encode(records.CHECKPOINT, b"", b"", now, digest)

    def _journal_digest(self, digest: bytes) -> None:
        self.digests.append(digest)
        try:
            self.append(records.CHECKPOINT, meta=digest)
        except JournalWrite as error:
            raise OSError(5, error.text) from error

    def _checkpoint_failed(self, error: OSError) -> None:
        self.note_error("checkpoint", "checkpoint-write", f"{self.checkpoint.path} cannot be written: {error}")

    def alive(self) -> None:
        """A sign of life, each minute."""
        try:
            self.append(records.ALIVE)
        except JournalWrite:
            pass
        self.loop.at(now_ns() + int(ALIVE_S * 1e9), self.alive)

    # --- owners -------------------------------------------------------------------------------------------

    def assign(self, key: bytes, meta: OwnerMeta) -> Owner:
        """An address for this owner, in the pool only; on the lowest card that has one. Raises pool.Exhausted."""
        now = now_ns()
        cards = sorted({entry.record.card for entry in self.book.enis.values() if entry.blocks}) or [0]
        refused: pool.Exhausted | None = None
        for card in cards:
            try:
                owner = self.book.assign(key, 1 << card, meta, now)
            except pool.Exhausted as error:
                if refused is None or (error.next_ns or 1 << 62) < (refused.next_ns or 1 << 62):
                    refused = error
            else:
                self.block_changed(owner.block)
                return owner
        assert refused is not None
        raise refused

    def journal_owner(self, owner: Owner) -> None:
        """Record the owner as it is now. Raises JournalWrite."""
        self.append(records.ASSIGN, owner.key, owner.address, records.encode(owner.meta), when=owner.since_ns)

    def undo(self, owner: Owner) -> None:
        """Take an address back that was never journaled nor seen."""
        block = owner.block
        self.book.undo(owner)
        self.block_changed(block)

    def is_up(self, owner: Owner, index: int) -> None:
        """The owner's network is whole, its host end has this index."""
        self.book.set_index(owner, index)
        owner.state = UP
        owner.complete = True
        owner.expires_ns = 0
        self.write_entry(owner)

    def write_entry(self, owner: Owner) -> None:
        """Bring ipam.json up to date with this owner."""
        entry = records.checkpoint_entry(owner.meta, owner.address)
        if entry != owner.entry:
            owner.entry = entry
            self.checkpoint.put(owner.key, entry)
        self.checkpoint.changed()

    def end(self, owner: Owner, gone: Gone) -> None:
        """The owner is gone: kernel, journal, pool, ipam.json. Never fails; what could not be done is tried again."""
        index, down = owner.host_index, self.cleanup.unwire(owner)
        gone.until_unix_ns = time.time_ns()
        gone.phases = owner.meta.phases
        unseen = down and not gone.cool and not index and owner.block >= 0 and owner.address not in self.book.heirs
        if unseen:
            self._record_end(owner, gone)
            self.book.undo(owner)
        else:
            gone.cool = True
            self._record_end(owner, gone)
            self.book.release(owner, now_ns())
        if not down:
            self.cleanup.finish(owner.address, index)
        self.history.add(owner.meta, gone, owner.address)
        self.checkpoint.remove(owner.key)
        self.checkpoint.changed()
        heir = self.book.by_address.get(owner.address)
        if heir is not None:
            self._inherited(heir)
        if owner.block >= 0:
            self.block_changed(owner.block)
        self.room_changed()

    def _record_end(self, owner: Owner, gone: Gone) -> None:
        try:
            self.append(records.RELEASE, owner.key, owner.address, records.encode(gone))
        except JournalWrite:
            # Told already. After a crash the journal shows an owner without a veth, which ends by itself.
            pass

    def _inherited(self, heir: Owner) -> None:
        self.log.warn("ipam", f"{heir.meta.namespace}/{heir.meta.pod} inherits {addresses.text(heir.address)}")
        self.write_entry(heir)
        if heir.host_index:
            try:
                self.align(heir, self.kernel.states().get(heir.address, NOTHING))
            except netlink.NetlinkError as error:
                self.note_error("kernel", "kernel-refused", f"{heir.meta.host_veth} could not be repaired: {error}")

    def align(self, owner: Owner, state: HostState) -> str:
        """Bring the host's rules and route to what this pod should have; what was changed, in words, "" if nothing.

        Raises NetlinkError.
        """
        missing, surplus = differences(state, owner.host_index, owner.meta.table, table_known=bool(owner.meta.eni_id))
        if missing or surplus:
            self.kernel.repair(owner, missing, surplus)
        return ", ".join([*(f"{part} was missing" for part in missing), *(f"a rule to {t} too many" for t in surplus)])

    def _not_down(self, text: str) -> None:
        self.note_error("kernel", "kernel-refused", text)

    def moves(self) -> None:
        """To be called when an ENI or a block has come: their owners' tables are known now."""
        moved = self.book.take_moved()
        if moved:
            self.tables_changed(moved)

    def failed(self, meta: OwnerMeta, error: EnidError, phases: dict[str, int]) -> None:
        """Remember an ADD that got no address."""
        gone = Gone("failed", time.time_ns(), error.text, error.code, error.details(), False, dict(phases))
        past = self.history.add(meta, gone)
        try:
            self.append(records.HISTORY, meta=records.encode(past))
        except JournalWrite:
            pass

    def unhold(self, address: bytes) -> None:
        """Nobody uses a held address any more: it cools down. Others are left as they are."""
        if address in self.book.held:
            self.book.unhold(address, now_ns())
            self._unheld(address)

    def link_gone(self, index: int) -> None:
        """A link of the host is gone, and no DEL of ours did it."""
        for address in self.book.link_gone(index, now_ns()):
            self._unheld(address)
        owner = self.book.by_index.get(index)
        if owner is not None:
            self.count("veth_lost")
            self.book.set_index(owner, 0)
            owner.complete = False
            owner.state = LOST
            owner.expires_ns = now_ns() + int(LOST_GRACE_S * 1e9)
            # The sandbox has the address no longer, so ipam.json must not show it.
            owner.entry = b""
            self.checkpoint.remove(owner.key)
            self.checkpoint.changed()
            self.loop.at(owner.expires_ns, self.sweep)

    def _unheld(self, address: bytes) -> None:
        self.log.info("ipam", f"{addresses.text(address)} is not in use any more")
        try:
            self.kernel.clear_address(address)
        except netlink.NetlinkError as error:
            self._not_down(f"{addresses.text(address)} could not be taken down: {error}")
            self.cleanup.finish(address, 0)
        try:
            self.block_changed(self.pool.locate(address).block)
        except pool.UnknownAddress:
            pass
        self.room_changed()

    def sweep(self) -> None:
        """End the owners whose grace is over."""
        now = now_ns()
        for owner in [o for o in self.book.owners.values() if o.expires_ns and o.expires_ns <= now]:
            self.count("owners_expired")
            why = "its veth went away and no DEL came" if owner.state == LOST else "its ADD was never finished"
            name = f"{owner.meta.namespace}/{owner.meta.pod}"
            self.log.warn("ipam", f"{name} ({owner.meta.container_id[:12]}) gives up its address: {why}")
            self.end(owner, Gone("lost", error=why, error_code="lost"))
