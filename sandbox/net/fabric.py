"""The network as EC2's truth prescribes it: a view that plugs ENIs into nodes and keeps the router's routes.

Each instance is a network namespace. Attaching an ENI makes its device appear there, down and bare, as hot
plugging does; the primary one is configured at once, as an instance finds it after boot. Detaching takes the
device away. A branch ENI is a tagged port on its trunk where the kernel has VLANs; where it has none, its device is
put into the node ready made, under the name and MAC that the node's own VLAN device would have. Nothing is decided
here: which addresses, whose, checked or not is asked of the truth each time, so events may be late or come twice
without harm. One that the kernel refuses is raised and tried again at each `tick`, until it is carried out or void.
"""

from __future__ import annotations

import ipaddress
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Final, Protocol

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import Nic
from sandbox.ec2.records import Eni, Instance
from sandbox.ec2.truth import Truth
from sandbox.net import netns
from sandbox.net.groups import SecurityGroups
from sandbox.net.router import Router, ip_batch, port_name

CARD_STRIDE: Final = 64


class Host(Protocol):
    """What the fabric tells whoever runs the instances."""

    def name_of(self, instance: Instance) -> str:
        """The node's name, which is also its namespace's."""

    def instance_gone(self, instance: Instance) -> None:
        """Its last device is gone and it is terminated: the namespace goes now. May be told twice."""

    def instance_stopped(self, instance: Instance) -> None:
        """Its last device is gone while it is stopped: what runs in it and its namespace go now, its disk stays."""


def interface_name(device: int, card: int) -> str:
    """As predictable naming does for PCI slots: ens5 for the first; cards are spread apart."""
    return f"ens{5 + device + CARD_STRIDE * card}"


def branch_name(vlan: int) -> str:
    """What the Amazon VPC CNI calls the VLAN device of a branch ENI."""
    return f"vlan.eth.{vlan}"


def _kept(method: Callable[[Fabric, str], None]) -> Callable[[Fabric, str], None]:
    """Around an event: remembered while it fails, for `Fabric.tick`."""

    @wraps(method)
    def tried(self: Fabric, eni_id: str) -> None:
        key = (method.__name__, eni_id)
        with self._lock:
            try:
                method(self, eni_id)
            except Exception as failure:
                self._failed[key] = str(failure)
                raise
            self._failed.pop(key, None)

    return tried


class Fabric:
    """A truth.View. Runs in the router's namespace, in the thread of whoever changed the truth."""

    def __init__(self, truth: Truth, switch: Router, host: Host) -> None:
        self._truth = truth
        self._router = switch
        self._host = host
        self.groups = SecurityGroups(switch.nft, truth.group)
        self.tagged = False
        self._lock = threading.RLock()
        self._namespaces: dict[str, str] = {}
        self._plugged: dict[str, tuple[str, Nic]] = {}
        self._eni_of_port: dict[str, str] = {}
        self._node_of_port: dict[str, str] = {}
        self._branches: dict[str, str] = {}
        self._subnets: set[str] = set()
        self._unrouted: set[str] = set()
        self._failed: dict[tuple[str, str], str] = {}  # event and ENI id to why it failed last

    def set_up(self) -> None:
        """Find out how branch ENIs are handed over; the router is up. Raises SandboxFailure kernel."""
        self.tagged = self._router.has_vlans()

    # --- the view -------------------------------------------------------------------------------------

    @_kept
    def eni_attached(self, eni_id: str) -> None:
        if ("eni_detached", eni_id) in self._failed:
            self.eni_detached(eni_id)  # or the device of its last attachment would pass for this one's
        eni = self._truth.enis.get(eni_id)
        if eni is not None and eni.trunk_id:
            self._associate(eni)
            return
        if eni is None or not self._should_be(eni):
            return
        with self._lock:
            if eni_id in self._plugged:
                return
            instance = self._truth.instances[eni.instance_id]
            where = self._namespace(instance)
            self._learn_subnet(eni.subnet_id)
            nic = Nic(
                eni_id=eni_id,
                mac=eni.mac,
                ifname=interface_name(eni.device, eni.card),
                device=eni.device,
                card=eni.card,
                port=port_name(eni_id),
            )
            self._eni_of_port[nic.port] = eni_id
            self._node_of_port[nic.port] = self._host.name_of(instance)
            with self._wholly(nic.port):
                self._router.add_port(nic.port, where, nic.ifname, nic.mac)
                self._wire(eni, nic.port)
                if eni_id == instance.primary_eni_id:
                    self._boot(where, eni, nic)
            self._plugged[eni_id] = (instance.instance_id, nic)
            # Branches that were associated while their trunk was not there, or the instance was stopped.
            for branch in list(self._truth.enis.values()) if eni.interface_type == "trunk" else ():
                if branch.trunk_id == eni_id:
                    self._associate(branch)

    @_kept
    def eni_detached(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni_id in self._branches:
                self._part(eni_id)
                return
            instance_id, nic = self._plugged.get(eni_id, ("", None))
            if nic is None:
                self._end_bare(eni_id)
                return
            place = (instance_id, nic.device, nic.card)
            if eni is not None and self._should_be(eni) and place == (eni.instance_id, eni.device, eni.card):
                return
            for branch in [branch for branch, trunk in self._branches.items() if trunk == eni_id]:
                self._part(branch)
            self.groups.remove(nic.port)
            self._router.remove_port(nic.port)
            del self._plugged[eni_id]
            last = not any(owner == instance_id for owner, _ in self._plugged.values())
            instance = self._truth.instances.get(instance_id)
            if last and instance is not None and not _up(instance):
                if instance.state in ("shutting-down", "terminated"):
                    self._host.instance_gone(instance)
                else:
                    self._host.instance_stopped(instance)
                if (where := self._namespaces.pop(instance_id, None)) is not None:
                    netns.remove(where.rpartition("/")[2])

    def _end_bare(self, eni_id: str) -> None:
        """The end of an instance that had no device any more (it was stopped), or none yet (the network hears late)."""
        for instance in list(self._truth.instances.values()):
            if instance.primary_eni_id == eni_id and instance.state == "terminated":
                self._host.instance_gone(instance)

    @_kept
    def addresses_changed(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and self._present(eni_id):
                self._sync(eni)

    @_kept
    def groups_changed(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and self._present(eni_id):
                self._group(eni)

    @_kept
    def source_check_changed(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and self._present(eni_id):
                self._router.set_source_check(port_name(eni_id), eni.source_dest_check)

    def hold_routes(self, eni_id: str, held: bool) -> None:
        """views.Routes: a device that is there before the VPC routes anything to it."""
        with self._lock:
            (self._unrouted.add if held else self._unrouted.discard)(eni_id)
        if not held:
            self.addresses_changed(eni_id)

    def restart(self, instance_id: str) -> None:
        """A reboot as the network sees it: a new namespace with the same devices, bare but for the primary one."""
        with self._lock:
            plugged = [eni_id for eni_id, (owner, _) in self._plugged.items() if owner == instance_id]
            for branch in [branch for branch, trunk in self._branches.items() if trunk in plugged]:
                self._part(branch)
            # Should it fail on the way, `tick` brings up what is missing.
            self._failed.update({("eni_attached", eni_id): "the reboot was not finished" for eni_id in plugged})
            for eni_id in plugged:
                port = self._plugged.pop(eni_id)[1].port
                self.groups.remove(port)
                self._router.remove_port(port)
            if (where := self._namespaces.pop(instance_id, None)) is not None:
                netns.remove(where.rpartition("/")[2])
            enis = [eni for eni in map(self._truth.enis.get, plugged) if eni is not None]
            for eni in sorted(enis, key=lambda eni: (eni.card, eni.device)):
                self.eni_attached(eni.eni_id)

    def tick(self) -> None:
        """Try again what the kernel refused. Raises nothing; a reason that is new goes to the log."""
        for key, reason in list(self._failed.items()):
            event, eni_id = key
            try:
                getattr(self, event)(eni_id)
            except Exception as failure:
                if str(failure) != reason:
                    print(f"{event} {eni_id}: {failure}", file=sys.stderr, flush=True)

    # --- questions ------------------------------------------------------------------------------------

    def nics(self, instance_id: str) -> list[Nic]:
        """Devices of an instance, by card and device index."""
        with self._lock:
            found = [nic for owner, nic in self._plugged.values() if owner == instance_id]
        return sorted(found, key=lambda nic: (nic.card, nic.device))

    def branches(self) -> str:
        """In words, how branch ENIs reach a node on this kernel."""
        if self.tagged:
            return "tagged"
        return "ready made (this kernel has no 8021q): the device vlan.eth.ID is put into the node"

    def port_of(self, eni_id: str) -> str:
        """The router's interface of an ENI that is plugged in, or empty."""
        with self._lock:
            return port_name(eni_id) if self._present(eni_id) else ""

    def origin_of(self, port: str) -> tuple[str, str]:
        """ENI and node name of a port that is or was."""
        with self._lock:
            return self._eni_of_port.get(port, ""), self._node_of_port.get(port, "")

    # --- within ---------------------------------------------------------------------------------------

    def _namespace(self, instance: Instance) -> str:
        where = self._namespaces.get(instance.instance_id)
        if where is None:
            where = netns.create(self._host.name_of(instance), _node_sysctls)
            self._namespaces[instance.instance_id] = where
        return where

    def _learn_subnet(self, subnet_id: str) -> None:
        if subnet_id not in self._subnets:
            subnet = self._truth.subnets[subnet_id]
            vpc = self._truth.vpcs[subnet.vpc_id]
            gateways, blocks = [subnet.gateway], [*map(str, vpc.cidrs), *map(str, vpc.ipv6_cidrs)]
            if subnet.ipv6_cidr is not None:
                gateways.append(str(subnet.ipv6_cidr.network_address + 1))
            self._router.add_subnet(blocks, gateways)
            self._subnets.add(subnet_id)

    def _should_be(self, eni: Eni) -> bool:
        """Whether the instance has this device: attached, and not stopped."""
        return eni.plugged and _up(self._truth.instances[eni.instance_id])

    def _associate(self, eni: Eni) -> None:
        """A branch ENI is on the trunk of an instance from now on. Twice is once."""
        with self._lock:
            instance_id, trunk = self._plugged.get(eni.trunk_id, ("", None))
            if trunk is None or eni.eni_id in self._branches:
                return
            instance = self._truth.instances[instance_id]
            self._learn_subnet(eni.subnet_id)
            port = port_name(eni.eni_id)
            self._eni_of_port[port] = eni.eni_id
            self._node_of_port[port] = self._host.name_of(instance)
            with self._wholly(port):
                if self.tagged:
                    self._router.add_tagged_port(port, trunk.port, eni.vlan)
                else:
                    print(f"branch {eni.eni_id}, VLAN {eni.vlan}: {self.branches()}", file=sys.stderr, flush=True)
                    self._router.add_port(port, self._namespace(instance), branch_name(eni.vlan), eni.mac)
                self._wire(eni, port)
            self._branches[eni.eni_id] = eni.trunk_id

    @contextmanager
    def _wholly(self, port: str) -> Iterator[None]:
        """A port is there with all that it needs, or not at all: what fails halfway is begun anew."""
        try:
            yield
        except Exception:
            with suppress(SandboxFailure):
                self.groups.remove(port)
                self._router.remove_port(port)
            raise

    def _part(self, eni_id: str) -> None:
        """It is on no trunk any more."""
        self.groups.remove(port_name(eni_id))
        self._router.remove_port(port_name(eni_id))
        del self._branches[eni_id]

    def _present(self, eni_id: str) -> bool:
        return eni_id in self._plugged or eni_id in self._branches

    def _wire(self, eni: Eni, port: str) -> None:
        """What every new port needs, whatever it is made of."""
        block = self._truth.subnets[eni.subnet_id].ipv6_cidr
        if block is not None:
            self._router.enable_ipv6(port, str(block))
        self._sync(eni)
        if not eni.source_dest_check:
            self._router.set_source_check(port, False)

    def _sync(self, eni: Eni) -> None:
        if eni.eni_id in self._unrouted:
            return
        primary = eni.addresses[0] if eni.addresses else ""
        self._router.sync_port(port_name(eni.eni_id), eni.mac, primary, _targets(eni))
        self._group(eni)

    def _group(self, eni: Eni) -> None:
        self.groups.put(port_name(eni.eni_id), eni.groups, _targets(eni))

    def _boot(self, where: str, eni: Eni, nic: Nic) -> None:
        subnet = self._truth.subnets[eni.subnet_id]
        length = ipaddress.ip_network(subnet.cidr).prefixlen
        lines = [
            f"address add {eni.primary_ip}/{length} brd + dev {nic.ifname}",
            f"link set {nic.ifname} up",
            f"route add default via {subnet.gateway} dev {nic.ifname} proto dhcp src {eni.primary_ip} metric 512",
        ]
        # The router comes by advertisement; addresses by DHCPv6, whose part this is.
        lines += [f"address add {address}/128 dev {nic.ifname} nodad" for address in eni.ipv6_addresses[:1]]
        netns.call(where, lambda: ip_batch(lines))
        self._router.neighbours.advertise(nic.port)


def _up(instance: Instance) -> bool:
    return instance.state in ("pending", "running", "stopping")


def _targets(eni: Eni) -> tuple[str, ...]:
    """All that is routed to an ENI."""
    return (*eni.addresses, *eni.prefixes, *eni.ipv6_addresses, *eni.ipv6_prefixes)


def _node_sysctls() -> None:
    """What Amazon Linux and the kubelet's set-up leave on a node: forwarding on, strict reverse path filter."""
    netns.write_sysctl("net/ipv4/ip_forward", 1)
    netns.write_sysctl("net/ipv4/conf/default/rp_filter", 1)
    netns.write_sysctl("net/ipv4/conf/all/rp_filter", 0)
