"""ADDs that wait for an address, first come, first served.

The manager hears of each at once, a cool-down that ends serves one, and a caller that hangs up or a DEL of its
sandbox is noticed before anything is done. On a node where no refill can come only as many wait as cool-downs will
end for within their patience; the others are told at once which limit is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from agent.fastpath.loop import Timer, now_ns
from agent.fastpath.node import Node
from agent.fastpath.server import Call
from core.errors import CallerGone, EnidError, NodeFull, PoolEmpty
from core.ipam import Owner
from core.netconf import Request
from core.records import OwnerMeta
from ext import pool

# Callers served in one go, so that the control socket and new callers are not forgotten meanwhile.
AT_ONCE: Final = 8


class Finish(Protocol):
    """What is done with a parked ADD once the pool has given it an address; answers all its calls."""

    def __call__(self, waiting: Parked, owner: Owner) -> None: ...


class Parked:
    """One sandbox that waits. A request that is sent again joins: the newer call's descriptors count."""

    __slots__ = ("calls", "deadline_ns", "key", "meta", "phases", "request", "since_ns", "timer")

    def __init__(self, key: bytes, request: Request, meta: OwnerMeta, call: Call, deadline_ns: int) -> None:
        self.key = key
        self.request = request
        self.meta = meta
        self.calls = [call]
        self.since_ns = call.arrived_ns
        self.deadline_ns = deadline_ns
        self.phases: dict[str, int] = {}
        self.timer: Timer | None = None


class ParkingLot:
    """The queue. `changed` is called when its length changes; `finish` gets who can be served."""

    def __init__(self, node: Node, finish: Finish, changed: Callable[[], None]) -> None:
        self._node = node
        self._finish = finish
        self._changed = changed
        self._waiting: dict[bytes, Parked] = {}
        self._wake: Timer | None = None
        self._serving = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Parked]:
        return iter(list(self._waiting.values()))

    def get(self, key: bytes) -> Parked | None:
        """Who waits under this key."""
        return self._waiting.get(key)

    def park(self, key: bytes, request: Request, meta: OwnerMeta, call: Call) -> None:
        """Let an ADD wait. Raises NodeFull if it would wait in vain."""
        patience = int(self._node.settings.add_wait_s * 1e9)
        waiting = Parked(key, request, meta, call, call.arrived_ns + patience)
        full = self._full(len(self._waiting), waiting.deadline_ns)
        if full is not None:
            raise full
        self._waiting[key] = waiting
        self._node.count("add_parked")
        self._node.log.info("add", f"{meta.namespace}/{meta.pod} waits for an address, {len(self._waiting)} in all")
        waiting.timer = self._node.loop.at(waiting.deadline_ns, lambda: self._too_late(waiting))
        call.wait(lambda: self._hung_up(waiting, call))
        self._set_wake()
        self._changed()

    def join(self, waiting: Parked, call: Call) -> None:
        """The same request again: all its callers get the one answer."""
        waiting.calls.append(call)
        call.wait(lambda: self._hung_up(waiting, call))

    def cancel(self, key: bytes) -> bool:
        """The sandbox is deleted; whoever still waits for it is told."""
        waiting = self._take(key)
        if waiting is None:
            return False
        self._answer(waiting, CallerGone("the sandbox was deleted while its ADD waited for an address"))
        return True

    def serve(self) -> None:
        """Give out what is free, in order."""
        if not self._waiting or self._node.wait_ready or self._serving:
            return
        self._serving = True
        try:
            self._serve()
        finally:
            self._serving = False
        self._set_wake()

    def _serve(self) -> None:
        for served, waiting in enumerate(list(self._waiting.values())):
            if served == AT_ONCE:
                self._node.loop.soon(self.serve)
                return
            for call in [c for c in waiting.calls if c.hung_up()]:
                call.close()
                waiting.calls.remove(call)
            if not waiting.calls:
                self._drop(waiting)
                continue
            waiting.phases["parked"] = (now_ns() - waiting.since_ns) // 1000
            try:
                owner = self._node.assign(waiting.key, waiting.meta)
            except pool.Exhausted:
                return
            self._take(waiting.key)
            self._finish(waiting, owner)

    def outlook_changed(self) -> None:
        """Fail at once those who wait in vain now, the last come first."""
        order = list(self._waiting.values())
        for place in range(len(order) - 1, -1, -1):
            full = self._full(place, order[place].deadline_ns)
            if full is None:
                return
            self._take(order[place].key)
            self._answer(order[place], full)

    def close(self) -> None:
        """Forget all; their callers try again on the next agent."""
        for waiting in list(self._waiting.values()):
            self._take(waiting.key)

    def _full(self, ahead: int, deadline_ns: int) -> NodeFull | None:
        """The error for one with so many ahead of it, None if it may hope."""
        outlook = self._node.outlook
        if outlook is None or outlook.can_grow or self._node.wait_ready:
            return None
        ending = sum(1 for _, until in self._node.pool.cooling() if until <= deadline_ns)
        free = self._node.pool.stats().free
        if ahead < ending + free:
            return None
        return NodeFull(
            f"no address is free and none can come: {outlook.text or 'the node is full'}",
            cause=outlook.code,
            retry_after=outlook.retry_after_s(now_ns()),
        )

    def _take(self, key: bytes) -> Parked | None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            if waiting.timer is not None:
                waiting.timer.cancel()
            self._changed()
        return waiting

    def _answer(self, waiting: Parked, error: EnidError) -> None:
        waiting.phases["parked"] = (now_ns() - waiting.since_ns) // 1000
        self._node.count("add_failed")
        self._node.count(f"add_failed_{error.code}")
        self._node.log.warn("add", f"{waiting.meta.namespace}/{waiting.meta.pod}: {error.code}: {error.text}")
        self._node.failed(waiting.meta, error, waiting.phases)
        for call in waiting.calls:
            call.fail(error)

    def _too_late(self, waiting: Parked) -> None:
        if self._take(waiting.key) is None:
            return
        stats = self._node.pool.stats()
        seconds = self._node.settings.add_wait_s
        outlook = self._node.outlook
        why = "the manager is away" if not self._node.manager_here else "no refill came"
        if self._node.wait_ready:
            why = "the blocks are not confirmed yet after a long absence"
        self._answer(
            waiting,
            PoolEmpty(
                f"no address came free within {seconds:g} s: {stats.used} of {stats.total} are used, "
                f"{stats.cooling} cool down; {why}",
                cause=outlook.text if outlook is not None else "",
                retry_after=10.0,
            ),
        )

    def _hung_up(self, waiting: Parked, call: Call) -> None:
        if call in waiting.calls:
            waiting.calls.remove(call)
        if not waiting.calls:
            self._drop(waiting)

    def _drop(self, waiting: Parked) -> None:
        if self._take(waiting.key) is not None:
            self._node.count("add_caller_gone")
            error = CallerGone("the runtime hung up while the ADD waited for an address")
            waiting.phases["parked"] = (now_ns() - waiting.since_ns) // 1000
            self._node.failed(waiting.meta, error, waiting.phases)
            for call in waiting.calls:
                call.close()

    def _set_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self._waiting:
            next_free = self._node.pool.stats().next_free_ns
            if next_free is not None:
                self._wake = self._node.loop.at(next_free, self.serve)
