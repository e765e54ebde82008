"""ADD: an address, a record, a veth, an answer; inline, in this order.

The same request twice gives the same answer: an owner keeps its address, and a veth that is whole stays as it is.
What fails is taken back, and told with its type. An ADD that finds no free address is parked.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from agent.fastpath.kernel import refusal
from agent.fastpath.loop import now_ns
from agent.fastpath.node import Node
from agent.fastpath.parked import Parked, ParkingLot
from agent.fastpath.server import Call
from agent.fastpath.spool import Spool
from agent.fastpath.wirer import Way, Wirer
from core import addresses, names, netconf, result
from core.errors import DescriptorsRefused, EnidError, JournalWrite, KernelRefused, MultiNicOff
from core.ipam import Owner
from core.netconf import Request
from core.records import Gone, OwnerMeta
from ext import netlink, pool

NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
CLONE_NEWNET: Final = 0x40000000


class Adder:
    """Carries out ADDs."""

    def __init__(self, node: Node, spool: Spool) -> None:
        self._node = node
        self._spool = spool
        self._wirer = Wirer(node)
        self.lot: ParkingLot
        self._own_namespace = os.stat("/proc/self/ns/net").st_ino

    def add(self, call: Call, request: Request) -> None:
        """Answer the call, now or once an address is there. Raises EnidError for what is to be answered at once."""
        node = self._node
        if request.multi_nic:
            raise MultiNicOff(
                f"{request.namespace}/{request.pod} asks for one interface on each network card "
                f"({netconf.NIC_ANNOTATION}={netconf.MULTI_NIC}), and ENABLE_MULTI_NIC is off"
            )
        if call.relayed:
            node.count("add_relayed")
            node.log.info("add", f"{request.namespace}/{request.pod}: {call.lacks}; the shim sends for us")
        elif len(call.fds) != 2:
            raise DescriptorsRefused("ADD came without the descriptors of the pod's network namespace")
        else:
            self._take_descriptors(call)
        self._spool.check()
        if call.hung_up():
            # Its DEL may be through already: what is made now would stay.
            node.count("add_caller_gone")
            call.close()
            return
        for note in request.notes:
            node.log.info("add", f"{request.namespace}/{request.pod}: {note}")
        key = names.owner_key(request.network, request.container_id, request.ifname)
        owner = node.book.owners.get(key)
        if owner is not None:
            self._again(call, request, owner)
            return
        waiting = self.lot.get(key)
        if waiting is not None:
            self.lot.join(waiting, call)
            return
        meta = OwnerMeta(
            network=request.network,
            container_id=request.container_id,
            ifname=request.ifname,
            namespace=request.namespace,
            pod=request.pod,
            netns=request.netns,
            host_veth=names.host_veth(request.namespace, request.pod, request.veth_prefix),
            since_unix_ns=time.time_ns(),
            phases={},
        )
        if len(self.lot) or node.wait_ready:
            self._park(key, request, meta, call)
            return
        try:
            owner = node.assign(key, meta)
        except pool.Exhausted:
            self._park(key, request, meta, call)
            return
        self._finish([call], request, owner, call.arrived_ns)

    def serve(self, waiting: Parked, owner: Owner) -> None:
        """Finish a parked ADD that has got its address."""
        owner.meta.phases.update(waiting.phases)
        self._finish(waiting.calls, waiting.request, owner, waiting.since_ns)

    def _park(self, key: bytes, request: Request, meta: OwnerMeta, call: Call) -> None:
        try:
            self.lot.park(key, request, meta, call)
        except EnidError as error:
            self._node.failed(meta, error, {})
            raise

    def _again(self, call: Call, request: Request, owner: Owner) -> None:
        """A request that was answered, or begun, before: the same address, the veth made anew only if it must be."""
        node = self._node
        node.count("add_repeated")
        try:
            with Way(call) as way:
                whole = node.kernel.whole(owner, way.pod, request.ifname)
            if whole:
                node.kernel.host_again(owner)
            if not whole and owner.host_index:
                # A leftover of the earlier try may hold the name inside the pod, so it must be gone, not going.
                node.kernel.unwire(owner)
                node.kernel.delete_link(owner.host_index)
                node.book.set_index(owner, 0)
        except netlink.NetlinkError as error:
            raise refusal(error).error from error
        if whole:
            node.is_up(owner, owner.host_index)
            call.reply(0, self._result(request, owner))
            return
        owner.meta.netns = request.netns
        # Its own name may be with a later sandbox of the same pod; that one is put aside as always.
        owner.meta.host_veth = names.host_veth(request.namespace, request.pod, request.veth_prefix)
        owner.meta.namespace, owner.meta.pod = request.namespace, request.pod
        self._finish([call], request, owner, call.arrived_ns, again=True)

    def _finish(
        self, calls: list[Call], request: Request, owner: Owner, arrived_ns: int, *, again: bool = False
    ) -> None:
        """Journal, kernel, ipam.json, answer; all of it taken back if one fails."""
        node = self._node
        phases = owner.meta.phases
        phases["assigned"] = (now_ns() - arrived_ns) // 1000
        try:
            node.journal_owner(owner)
        except JournalWrite as error:
            if not again:
                node.undo(owner)
            self._fail(calls, owner, error)
            return
        phases["journaled"] = (now_ns() - arrived_ns) // 1000
        # The newest call's descriptors are those that live the longest.
        call = calls[-1]
        try:
            with Way(call) as way:
                index = self._wirer.wire(way, owner, request.ifname, request.veth_prefix, request.mtu)
        except (netlink.NetlinkError, EnidError, ValueError) as error:
            refused = refusal(error)
            node.note_error("add", refused.error.code, f"{owner.meta.namespace}/{owner.meta.pod}: {refused.error.text}")
            cool = refused.touched or again
            node.end(owner, _failed(refused.error, cool))
            self._fail(calls, owner, refused.error, remembered=True)
            return
        phases["wired"] = (now_ns() - arrived_ns) // 1000
        node.is_up(owner, index)
        node.count("add_ok")
        text = self._result(request, owner)
        for waiting in calls:
            waiting.reply(0, text)
        phases["answered"] = (now_ns() - arrived_ns) // 1000
        if node.log.debugging:
            node.log.debug(
                "add",
                f"{request.namespace}/{request.pod} ({request.container_id[:12]}) has "
                f"{addresses.text(owner.address)} on {owner.meta.eni_id} after {phases['answered']} us",
            )

    def _fail(self, calls: list[Call], owner: Owner, error: EnidError, *, remembered: bool = False) -> None:
        self._node.count("add_failed")
        self._node.count(f"add_failed_{error.code}")
        if not remembered:
            self._node.failed(owner.meta, error, owner.meta.phases)
        for call in calls:
            call.fail(error)

    def _take_descriptors(self, call: Call) -> None:
        """The second becomes the call's netlink socket in the pod.

        Raises DescriptorsRefused, or KernelRefused if they are of the host's own namespace.
        """
        netns, route = call.fds
        try:
            kind = fcntl.ioctl(netns, NS_GET_NSTYPE)
        except OSError as error:
            raise DescriptorsRefused(f"the first descriptor is no namespace: {error}") from error
        if kind != CLONE_NEWNET:
            raise DescriptorsRefused(f"the first descriptor is a namespace of type {kind:#x}, no network namespace")
        if os.fstat(netns).st_ino == self._own_namespace:
            raise KernelRefused("the pod's network namespace is the host's own; nothing is done to it")
        try:
            call.pod = netlink.Socket(route)
        except netlink.NetlinkError as error:
            raise DescriptorsRefused(f"the second descriptor is no NETLINK_ROUTE socket: {error}") from error
        del call.fds[1]

    def _result(self, request: Request, owner: Owner) -> bytes:
        meta = owner.meta
        return result.result(
            version=request.version,
            namespace=meta.namespace,
            pod=meta.pod,
            host_veth=meta.host_veth,
            ifname=meta.ifname,
            netns=meta.netns,
            address=addresses.text(owner.address),
            table=meta.table,
            device=meta.device,
        )


def _failed(error: EnidError, cool: bool) -> Gone:
    return Gone("failed", 0, error.text, error.code, error.details(), cool)
