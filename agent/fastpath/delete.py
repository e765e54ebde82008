"""DEL: always succeeds, once or ten times, for owners known and unknown.

What belongs to somebody else is never touched: a late DEL of an old sandbox may name a veth or an address that a newer
pod has by now.
"""

from __future__ import annotations

from agent.fastpath.node import Node
from agent.fastpath.parked import ParkingLot
from core import addresses, names
from core.ipam import Owner
from core.netconf import Request
from core.records import MIGRATED, Gone
from ext import netlink


class Deleter:
    """Carries out DELs and the removals of GC."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.lot: ParkingLot | None = None

    def delete(self, request: Request) -> None:
        """End the owner, and whatever is left of it. Raises nothing: what fails is logged and tried again."""
        node = self._node
        key = names.owner_key(request.network, request.container_id, request.ifname)
        for note in request.notes:
            node.log.info("del", f"{request.container_id[:12]}: {note}")
        if self.lot is not None and self.lot.cancel(key):
            node.count("del_of_parked")
        owner = node.book.find(key, request.container_id, MIGRATED)
        node.count("del_ok")
        if owner is None:
            node.count("del_unknown")
            self._clean(request)
            return
        self.end(owner)

    def end(self, owner: Owner) -> None:
        """The owner is deleted."""
        node = self._node
        address = owner.address
        node.end(owner, Gone("deleted"))
        if node.log.debugging:
            meta = owner.meta
            node.log.debug(
                "del", f"{meta.namespace}/{meta.pod} ({meta.container_id[:12]}) had {addresses.text(address)}"
            )

    def _clean(self, request: Request) -> None:
        """Nobody known: remove what is provably this sandbox's own."""
        node = self._node
        previous = request.previous
        try:
            down = self._put_down_links(request)
            for text in previous.addresses if previous is not None else ():
                try:
                    address = addresses.parse(text)
                except ValueError:
                    continue
                self._clean_address(address, down)
        except netlink.NetlinkError as error:
            node.note_error("del", "kernel-refused", f"{request.container_id[:12]} (unknown) not cleaned: {error}")

    def _clean_address(self, address: bytes, down: set[int]) -> None:
        """Raises NetlinkError. What is held for a link that is not this sandbox's stays held until that link is gone:
        a living pod may have it."""
        node = self._node
        if address in node.book.by_address:
            return
        held = node.book.held.get(address)
        if held is not None and not held.links <= down:
            node.count("del_of_held_address")
            return
        node.kernel.clear_address(address)
        node.unhold(address)

    def _put_down_links(self, request: Request) -> set[int]:
        """The links of this sandbox, which the reaper has now. Raises NetlinkError."""
        node = self._node
        previous = request.previous
        candidates = {previous.host_veth} if previous is not None else set()
        if request.pod:
            candidates.add(names.host_veth(request.namespace, request.pod, request.veth_prefix))
        mac = names.derived_mac(request.container_id, request.ifname, "host")
        down: set[int] = set()
        for name in candidates:
            try:
                link = node.kernel.host.link(name=name)
            except ValueError:
                continue
            if link is None or link.kind != "veth" or link.ifindex in node.book.by_index:
                continue
            named = previous is not None and previous.host_veth == name
            if link.mac == mac or (named and (not link.up or self._is_held_by(link.ifindex, request))):
                node.kernel.put_down(link.ifindex)
                node.reaper.put(link.ifindex)
                down.add(link.ifindex)
        return down

    def _is_held_by(self, index: int, request: Request) -> bool:
        """Whether the previous result names the very address that is held because of this link."""
        previous = request.previous
        for text in previous.addresses if previous is not None else ():
            try:
                held = self._node.book.held.get(addresses.parse(text))
            except ValueError:
                continue
            if held is not None and index in held.links:
                return True
        return False
