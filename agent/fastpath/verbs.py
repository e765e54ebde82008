"""Which verb does what, and the three small ones: CHECK, STATUS, GC.

STATUS is asked at each poll of the kubelet, and a failure makes the node NotReady, after which its pods are evicted: so
it fails only before the first initialisation. A full node is a normal state, and one without a manager still serves.
"""

from __future__ import annotations

import os
from typing import Final

from agent.fastpath.add import Adder
from agent.fastpath.delete import Deleter
from agent.fastpath.loop import now_ns
from agent.fastpath.node import Node
from agent.fastpath.server import Call
from cni import wire
from core import addresses, names, netconf
from core.errors import EnidError, KernelRefused, NotReady, UnknownContainer
from core.netconf import Request
from core.wiring import NOTHING
from ext import netlink

DEL_TRIES: Final = 10
DEL_RETRY_NS: Final = 1_000_000_000


def decode(request: wire.Request) -> Request:
    """The checked request in a frame. Raises what `netconf.decode` raises."""
    return netconf.decode(
        request.kind.name, request.container_id, request.netns, request.ifname, request.args, request.config
    )


class Verbs:
    """Answers complete requests."""

    def __init__(self, node: Node, adder: Adder, deleter: Deleter) -> None:
        self._node = node
        self._adder = adder
        self._deleter = deleter

    def handle(self, call: Call) -> None:
        """Answer, or park. Raises EnidError for what the server is to answer."""
        frame = call.request
        assert frame is not None
        kind = frame.kind
        if kind is wire.Kind.ADD or kind is wire.Kind.DEL:
            self._node.reaper.called()
        try:
            request = decode(frame)
            if kind is wire.Kind.ADD:
                self._adder.add(call, request)
                return
            if kind is wire.Kind.DEL:
                self._delete(request, DEL_TRIES)
            elif kind is wire.Kind.CHECK:
                self._check(call, request)
            elif kind is wire.Kind.STATUS:
                self._status()
            else:
                self._collect(request)
        except EnidError as error:
            self._node.count(f"{kind.name.lower()}_failed")
            self._node.count(f"{kind.name.lower()}_failed_{error.code}")
            self._node.log.warn(kind.name.lower(), f"{error.code}: {error.text}")
            raise
        call.reply(0, b"")

    def _delete(self, request: Request, tries: int) -> None:
        """A fault of our own must not fail a DEL: it is told, and tried again."""
        node = self._node
        try:
            self._deleter.delete(request)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            node.note_error("del", "internal", f"DEL of {request.container_id[:12]}, {tries} tries left: {what}")
            if tries:
                node.loop.at(now_ns() + DEL_RETRY_NS, lambda: self._delete(request, tries - 1))

    def replay(self, frame: wire.Request) -> None:
        """Carry out a spooled DEL. Raises EnidError for nonsense."""
        self._node.count("del_replayed")
        self._deleter.delete(decode(frame))

    def _check(self, call: Call, request: Request) -> None:
        """Compare the pod with the kernel. Raises UnknownContainer, KernelRefused naming what differs."""
        node = self._node
        owner = node.book.owners.get(names.owner_key(request.network, request.container_id, request.ifname))
        if owner is None:
            raise UnknownContainer(f"container {request.container_id} has no address on {request.network}")
        wrong: list[str] = []
        text = addresses.text(owner.address)
        previous = request.previous
        if previous is not None and text not in previous.addresses:
            wrong.append(f"prevResult has {', '.join(previous.addresses) or 'no address'}, the pod has {text}")
        try:
            if not owner.host_index:
                wrong.append("its host veth is missing")
            else:
                state = node.kernel.states().get(owner.address, NOTHING)
                lacks = state.missing(owner.host_index, owner.meta.table)
                wrong += [f"the {what} of {text} is missing or wrong" for what in lacks]
                if len(call.fds) == wire.DESCRIPTORS:
                    with netlink.Socket(os.dup(call.fds[1])) as pod:
                        if not node.kernel.whole(owner, pod, request.ifname):
                            wrong.append(f"{request.ifname} in the pod is not whole")
        except netlink.NetlinkError as error:
            raise KernelRefused(f"the pod could not be looked at: {error}") from error
        if wrong:
            raise KernelRefused(f"{owner.meta.namespace}/{owner.meta.pod}: " + "; ".join(wrong))

    def _status(self) -> None:
        """Raises NotReady."""
        node = self._node
        if not node.initialised and not node.pool.blocks():
            raise NotReady("the node has not been initialised yet: no manager was ready and no address is known")

    def _collect(self, request: Request) -> None:
        """End the owners of this network that the runtime does not know."""
        node = self._node
        valid = {(a.container_id, a.ifname) for a in request.valid or ()}
        for owner in list(node.book.owners.values()):
            meta = owner.meta
            if meta.network == request.network and (meta.container_id, meta.ifname) not in valid:
                node.count("gc_ended")
                node.log.warn("gc", f"{meta.namespace}/{meta.pod} ({meta.container_id[:12]}) is unknown to the runtime")
                self._deleter.end(owner)
