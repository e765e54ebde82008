"""What the manager's commands do: ENIs and blocks come and go, states change, hopes are told.

Each is idempotent, and acknowledged after the journal write. A refusal has changed nothing.
"""

from __future__ import annotations

from agent import control
from agent.fastpath.history import owner_pod, parked_pod
from agent.fastpath.loop import now_ns
from agent.fastpath.messages import KINDS, STATES, eni_record
from agent.fastpath.node import Node
from agent.fastpath.parked import ParkingLot
from core import addresses, records
from core.errors import JournalWrite
from core.ipam import TooManyEnis, UnknownEni
from core.records import BlockMeta
from core.wiring import NOTHING, state_texts
from ext import netlink, pool


class Commands:
    """Carries them out."""

    def __init__(self, node: Node, lot: ParkingLot) -> None:
        self._node = node
        self._lot = lot
        # Blocks whose record could not be written, and that have owners.
        self._unjournaled: set[tuple[bytes, int]] = set()

    def carry_out(self, request: control.Request) -> control.Reply:
        """The reply; never raises for what a client can do wrong."""
        try:
            return self._carry_out(request)
        except UnknownEni as error:
            return control.Refused("unknown-eni", str(error))
        except pool.BlockBusy as error:
            return control.Refused("busy", str(error))
        except pool.UnknownBlock as error:
            return control.Refused("unknown-block", str(error))
        except pool.Overlap as error:
            return control.Refused("overlap", str(error))
        except (ValueError, TooManyEnis, pool.PoolError) as error:
            return control.Refused("bad-message", str(error))
        except JournalWrite as error:
            return control.Refused(error.code, error.text)

    def _carry_out(self, request: control.Request) -> control.Reply:
        if isinstance(request, control.SetEni):
            return self._set_eni(request.eni)
        if isinstance(request, control.DropEni):
            return self._drop_eni(request.eni_id)
        if isinstance(request, control.AddBlock):
            return self._add_block(request)
        if isinstance(request, control.SetBlockState):
            return self._set_block_state(request)
        if isinstance(request, control.DropBlock):
            return self._drop_block(request)
        if isinstance(request, control.Outlook):
            self._node.outlook = request
            self._lot.outlook_changed()
            return control.Done()
        if isinstance(request, control.Report):
            self._node.report = request.report
            return control.Done()
        if isinstance(request, control.Ready):
            return self._ready()
        if isinstance(request, control.GetPods):
            return control.Pods(self._living())
        if isinstance(request, control.Explain):
            return control.Pods(self._explain(request.namespace, request.pod))
        return control.Refused("bad-message", f"{type(request).__name__} is not served here")

    # --- ENIs ---------------------------------------------------------------------------------------------

    def _set_eni(self, eni: control.Eni) -> control.Reply:
        node = self._node
        if not eni.eni_id:
            raise ValueError("an ENI needs an id")
        if eni.state not in STATES:
            raise ValueError(f"state {eni.state!r} is none of {', '.join(STATES)}")
        if not 0 < eni.table < 1 << 32:
            raise ValueError(f"{eni.eni_id}: table {eni.table} is not within 1..{(1 << 32) - 1}")
        record = eni_record(eni)
        known = node.book.enis.get(eni.eni_id)
        before = known.record if known is not None else None
        if before != record:
            # Checked first, so that what is journaled has also happened.
            node.book.set_eni(record, confirmed=True)
            try:
                node.append(records.ENI, meta=records.encode(record))
            except JournalWrite:
                if before is None:
                    node.book.drop_eni(eni.eni_id)
                else:
                    node.book.set_eni(before, confirmed=False)
                raise
        entry = node.book.set_eni(record, confirmed=True)
        for base, length in entry.blocks:
            node.block_changed(node.pool.find_block(base, length))
        node.moves()
        return control.Done()

    def _drop_eni(self, eni_id: str) -> control.Reply:
        node = self._node
        entry = node.book.enis.get(eni_id)
        if entry is None:
            return control.Done()
        if entry.blocks:
            return control.Refused("busy", f"{eni_id} has {len(entry.blocks)} blocks")
        node.append(records.ENI_GONE, meta=records.encode(entry.record))
        node.book.drop_eni(eni_id)
        return control.Done()

    # --- blocks -------------------------------------------------------------------------------------------

    def _add_block(self, request: control.AddBlock) -> control.Reply:
        node = self._node
        base = addresses.parse(request.base)
        kind = KINDS.index(request.kind)
        if request.eni_id not in node.book.enis:
            raise UnknownEni(f"ENI {request.eni_id} is not known; SetEni comes first")
        try:
            info = node.pool.block_info(node.pool.find_block(base, request.length))
        except pool.UnknownBlock:
            pass
        else:
            if node.book.by_number[info.eni].record.eni_id != request.eni_id or info.kind != kind:
                other = node.book.by_number[info.eni].record.eni_id
                return control.Refused("overlap", f"{request.base}/{request.length} is there already, on {other}")
            if (base, request.length) in self._unjournaled:
                self._open_block(info.block, base, request, kind)
                self._unjournaled.discard((base, request.length))
            return control.Done()
        if len(self._lot):
            self._end_reboot_rests(base, request.length)
        state = STATES.index(request.state)
        handle = node.book.add_block(request.eni_id, base, request.length, kind, state, now_ns())
        try:
            self._open_block(handle, base, request, kind)
        except JournalWrite:
            if node.pool.empty_blocks(node.book.enis[request.eni_id].number).count(handle):
                node.book.drop_block(base, request.length)
            else:
                # Its owners need it, but nobody new may rely on it.
                self._unjournaled.add((base, request.length))
                node.pool.set_state(handle, pool.QUARANTINED)
                node.block_changed(handle)
            raise
        return control.Done()

    def _open_block(self, handle: int, base: bytes, request: control.AddBlock, kind: int) -> None:
        """Record a block that is there, and put it into the state that is asked for. Raises JournalWrite."""
        node = self._node
        state = STATES.index(request.state)
        meta = BlockMeta(request.length, request.eni_id, kind, state)
        node.append(records.BLOCK, address=base, meta=records.encode(meta))
        node.pool.set_state(handle, state)
        node.block_changed(handle)
        node.moves()
        node.room_changed()

    def _end_reboot_rests(self, base: bytes, length: int) -> None:
        """Rests over a reboot are a precaution that those who wait do without."""
        node = self._node
        for address in [a for a in node.reboot_rests if addresses.within(a, base, length)]:
            node.reboot_rests.discard(address)
            if isinstance(node.book.unplaced.get(address), int):
                del node.book.unplaced[address]

    def _set_block_state(self, request: control.SetBlockState) -> control.Reply:
        node = self._node
        base = addresses.parse(request.base)
        handle = node.pool.find_block(base, request.length)
        info = node.pool.block_info(handle)
        state = STATES.index(request.state)
        if info.state != state:
            node.pool.set_state(handle, state)
            meta = BlockMeta(info.length, node.book.by_number[info.eni].record.eni_id, info.kind, state)
            try:
                node.append(records.BLOCK, address=base, meta=records.encode(meta))
            except JournalWrite:
                node.pool.set_state(handle, info.state)
                raise
            node.block_changed(handle)
            node.room_changed()
        return control.Done()

    def _drop_block(self, request: control.DropBlock) -> control.Reply:
        node = self._node
        base = addresses.parse(request.base)
        node.pool.expire(now_ns())
        try:
            info = node.pool.block_info(node.pool.find_block(base, request.length))
        except pool.UnknownBlock:
            return control.Done()
        eni_id = node.book.by_number[info.eni].record.eni_id
        node.book.drop_block(base, request.length)
        try:
            node.append(records.BLOCK_GONE, address=base, meta=records.encode(BlockMeta(request.length, eni_id)))
        except JournalWrite:
            node.book.add_block(eni_id, base, request.length, info.kind, info.state, now_ns())
            raise
        node.block_gone(f"{addresses.text(base)}/{request.length}")
        return control.Done()

    def _ready(self) -> control.Reply:
        node = self._node
        if not node.initialised:
            node.append(records.READY)
        node.initialised = node.ready = True
        if node.wait_ready:
            node.wait_ready = False
            node.log.info("control", "the manager has confirmed the blocks; new addresses are given out again")
        node.room_changed()
        return control.Done()

    # --- questions ----------------------------------------------------------------------------------------

    def _living(self) -> list[control.Pod]:
        pods = [owner_pod(owner) for owner in self._node.book.owners.values()]
        return pods + [parked_pod(waiting.meta, waiting.phases) for waiting in self._lot]

    def _explain(self, namespace: str, pod: str) -> list[control.Pod]:
        node = self._node
        pods: list[control.Pod] = []
        for owner in node.book.owners.values():
            meta = owner.meta
            if (meta.namespace, meta.pod) != (namespace, pod):
                continue
            shown = owner_pod(owner)
            if owner.host_index:
                try:
                    state = node.kernel.states().get(owner.address, NOTHING)
                    shown.rules, shown.routes = state_texts(
                        owner.address, meta.table, meta.host_veth, owner.host_index, state
                    )
                except netlink.NetlinkError as error:
                    node.log.warn("control", f"the kernel could not be looked at: {error}")
            pods.append(shown)
        pods += [parked_pod(w.meta, w.phases) for w in self._lot if (w.meta.namespace, w.meta.pod) == (namespace, pod)]
        return pods + node.history.of(namespace, pod)
