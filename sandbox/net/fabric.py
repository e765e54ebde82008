"""The network as EC2's truth prescribes it: a view that plugs ENIs into nodes and keeps the router's routes.

Each instance is a network namespace. Attaching an ENI makes its device appear there, down and bare, as hot
plugging does; the primary one is configured at once, as an instance finds it after boot. Detaching takes the
device away. Nothing is decided here: which addresses, whose, checked or not is asked of the truth each time,
so events may be late or come twice without harm.
"""

from __future__ import annotations

import ipaddress
import threading
from typing import Final, Protocol

from sandbox.base.shapes import Nic
from sandbox.ec2.records import Eni, Instance
from sandbox.ec2.truth import Truth
from sandbox.net import netns
from sandbox.net.router import Router, ip_batch, port_name

CARD_STRIDE: Final = 64


class Host(Protocol):
    """What the fabric tells whoever runs the instances."""

    def name_of(self, instance: Instance) -> str:
        """The node's name, which is also its namespace's."""

    def instance_gone(self, instance: Instance) -> None:
        """Its last device is gone and it is terminated: the namespace goes now."""


def interface_name(device: int, card: int) -> str:
    """As predictable naming does for PCI slots: ens5 for the first; cards are spread apart."""
    return f"ens{5 + device + CARD_STRIDE * card}"


class Fabric:
    """A truth.View. Runs in the router's namespace, in the thread of whoever changed the truth."""

    def __init__(self, truth: Truth, switch: Router, host: Host) -> None:
        self._truth = truth
        self._router = switch
        self._host = host
        self._lock = threading.RLock()
        self._namespaces: dict[str, str] = {}
        self._plugged: dict[str, tuple[str, Nic]] = {}
        self._eni_of_port: dict[str, str] = {}
        self._node_of_port: dict[str, str] = {}
        self._subnets: set[str] = set()

    # --- the view -------------------------------------------------------------------------------------

    def eni_attached(self, eni_id: str) -> None:
        eni = self._truth.enis.get(eni_id)
        if eni is None or not eni.plugged:
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
            self._router.add_port(nic.port, where, nic.ifname, nic.mac)
            self._plugged[eni_id] = (instance.instance_id, nic)
            self._eni_of_port[nic.port] = eni_id
            self._node_of_port[nic.port] = self._host.name_of(instance)
            self._sync(eni)
            if not eni.source_dest_check:
                self._router.set_source_check(nic.port, False)
            if eni_id == instance.primary_eni_id:
                self._boot(where, eni, nic)

    def eni_detached(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and eni.plugged and self._plugged.get(eni_id, ("",))[0] == eni.instance_id:
                return
            instance_id, nic = self._plugged.pop(eni_id, ("", None))
            if nic is None:
                return
            self._router.remove_port(nic.port)
            last = not any(owner == instance_id for owner, _ in self._plugged.values())
            instance = self._truth.instances.get(instance_id)
            if last and instance is not None and instance.state in ("shutting-down", "terminated"):
                self._host.instance_gone(instance)
                if (where := self._namespaces.pop(instance_id, None)) is not None:
                    netns.remove(where.rpartition("/")[2])

    def addresses_changed(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and eni_id in self._plugged:
                self._sync(eni)

    def groups_changed(self, eni_id: str) -> None:
        """Every group allows everything as yet; chains `leave_eni` and `enter_eni` of the router wait for the rules."""

    def source_check_changed(self, eni_id: str) -> None:
        with self._lock:
            eni = self._truth.enis.get(eni_id)
            if eni is not None and eni_id in self._plugged:
                self._router.set_source_check(port_name(eni_id), eni.source_dest_check)

    # --- questions ------------------------------------------------------------------------------------

    def nics(self, instance_id: str) -> list[Nic]:
        """Devices of an instance, by card and device index."""
        with self._lock:
            found = [nic for owner, nic in self._plugged.values() if owner == instance_id]
        return sorted(found, key=lambda nic: (nic.card, nic.device))

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
            self._router.add_subnet([str(cidr) for cidr in vpc.cidrs], subnet.gateway)
            self._subnets.add(subnet_id)

    def _sync(self, eni: Eni) -> None:
        self._router.sync_port(port_name(eni.eni_id), eni.mac, eni.primary_ip, (*eni.addresses[1:], *eni.prefixes))

    def _boot(self, where: str, eni: Eni, nic: Nic) -> None:
        subnet = self._truth.subnets[eni.subnet_id]
        length = ipaddress.ip_network(subnet.cidr).prefixlen
        lines = [
            f"address add {eni.primary_ip}/{length} brd + dev {nic.ifname}",
            f"link set {nic.ifname} up",
            f"route add default via {subnet.gateway} dev {nic.ifname} proto dhcp src {eni.primary_ip} metric 512",
        ]
        netns.call(where, lambda: ip_batch(lines))


def _node_sysctls() -> None:
    """What Amazon Linux and the kubelet's set-up leave on a node: forwarding on, strict reverse path filter."""
    netns.write_sysctl("net/ipv4/ip_forward", 1)
    netns.write_sysctl("net/ipv4/conf/default/rp_filter", 1)
    netns.write_sysctl("net/ipv4/conf/all/rp_filter", 0)
