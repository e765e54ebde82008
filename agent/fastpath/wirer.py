"""A pod's network, made although its names may be taken.

The host end is named after the pod, so a pod that starts anew meets the link of its older sandbox, which may be in use,
on its way out, or gone between one look and the next. Each is told from the others here, and the ADD goes on; a
refusal that none of them explains is the caller's.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Final, Self

from agent.fastpath.kernel import spare_name
from agent.fastpath.node import Node
from agent.fastpath.server import Call
from core import names
from core.errors import JournalWrite
from core.ipam import Owner
from ext import netlink

TRIES: Final = 5
FLUSH_S: Final = 1.0


class Way:
    """How the pod's namespace is reached: by the descriptors that the call brought, or through its shim."""

    def __init__(self, call: Call) -> None:
        self._relay = call.relay() if call.relayed else None
        self.host: netlink.Socket | None = None
        self._call = call

    def __enter__(self) -> Self:
        """Raises DescriptorsRefused if the shim does not play its part."""
        if self._relay is not None:
            self._relay.__enter__()
            self.host, self.pod, self.netns = self._relay.host, self._relay.pod, self._relay.netns
        else:
            pod = self._call.pod
            assert isinstance(pod, netlink.Socket)
            self.pod, self.netns = pod, self._call.fds[0]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._relay is not None:
            self._relay.__exit__(kind, error, at)


class Wirer:
    """Makes pods' networks."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def wire(self, way: Way, owner: Owner, ifname: str, prefix: str, mtu: int) -> int:
        """Returns the index of the host end. `prefix` begins its name; `mtu` 0: the node's.

        Raises NetlinkError when nothing helps, with all taken back that could be.
        """
        owner.host_mac = names.derived_mac(owner.meta.container_id, owner.meta.ifname, "host")
        mtu = mtu or self._node.settings.pod_mtu
        waited = False
        try:
            for _ in range(TRIES - 1):
                dying = len(self._node.reaper)
                try:
                    return self._once(way, owner, ifname, mtu)
                except netlink.NameTaken as taken:
                    self._make_room(taken, owner, prefix)
                except netlink.KernelError as error:
                    if error.errno != errno.EEXIST or error.phase != "link" or not error.undone:
                        raise
                    # If it is free, the host end's was taken, and the reaper has deleted its holder meanwhile.
                    if way.pod.link(name=ifname) is not None:
                        # By the other end of a link that the reaper has, it may be, and goes together with it.
                        # If all have gone since, the answer may be older than their end.
                        reaper = self._node.reaper
                        if waited or not dying or (len(reaper) and not reaper.flush(FLUSH_S)):
                            raise
                        waited = True
            return self._once(way, owner, ifname, mtu)
        except netlink.KernelError as error:
            if not error.undone:
                self._find_leftover(owner)
            raise

    def _once(self, way: Way, owner: Owner, ifname: str, mtu: int) -> int:
        return self._node.kernel.wire(owner, way.pod, way.netns, ifname, mtu, way.host)

    def _find_leftover(self, owner: Owner) -> None:
        """What an ADD has made and could not take back, its way into the pod being cut, ends with the owner."""
        node = self._node
        link = node.kernel.host.link(name=owner.meta.host_veth)
        if link is not None and link.mac == owner.host_mac:
            node.book.set_index(owner, link.ifindex)

    def _make_room(self, taken: netlink.NameTaken, owner: Owner, prefix: str) -> None:
        """Free the name of the host end. Raises NetlinkError."""
        node = self._node
        kernel = node.kernel
        holder = node.book.by_index.get(taken.ifindex)
        link = kernel.host.link(index=taken.ifindex)
        if link is None:
            return
        if link.kind != "veth":
            raise taken
        if taken.mac == owner.host_mac and holder in (None, owner):
            # An earlier try of this very sandbox got so far; its inner end holds the pod's name.
            kernel.delete_link(taken.ifindex)
            return
        name = spare_name(prefix, f"{taken.ifindex} {link.mac.hex()}")
        if holder is None and taken.ifindex in node.reaper:
            # Renaming what is going away takes 50 us, waiting for it to be gone 20 ms.
            kernel.rename(taken.ifindex, name)
            return
        node.log.warn("add", f"{taken.name} is held by an older sandbox of the pod; it is {name} from now on")
        node.count("veth_taken_over")
        kernel.rename(taken.ifindex, name)
        if holder is None:
            return
        holder.meta.host_veth = name
        try:
            node.journal_owner(holder)
        except JournalWrite:
            # Told already; at a restart the MAC and the route still say whose it is.
            pass
