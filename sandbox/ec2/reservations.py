"""Blocks of a subnet that are kept for prefixes or for addresses named in requests.

A reservation changes only what is chosen, never what is held: see `Space4.keep`. What AWS does when the reservations
for prefixes are full (it goes on outside of them) is taken from the EKS best practices guide, "Prefix mode".
"""

from __future__ import annotations

import ipaddress
from typing import Literal

from sandbox.ec2 import errors
from sandbox.ec2.groups import Groups
from sandbox.ec2.network import checked_tags
from sandbox.ec2.records import NO_TAGS, Reservation, Tags


class Reservations(Groups):
    """Adds subnet CIDR reservations."""

    def create_reservation(
        self,
        subnet_id: str,
        cidr: str,
        kind: Literal["prefix", "explicit"],
        *,
        description: str = "",
        tags: Tags = NO_TAGS,
    ) -> Reservation:
        """Reserve a block of a subnet. Raises NO_SUBNET, BAD_CIDR, RESERVATION_RANGE, RESERVATION_CONFLICT."""
        with self._change():
            subnet = self.subnet(subnet_id)
            try:
                block = ipaddress.ip_network(cidr)
            except ValueError:
                raise errors.BAD_CIDR(cidr=cidr) from None
            whole = subnet.cidr if block.version == 4 else subnet.ipv6_cidr
            if whole is None or not block.subnet_of(whole):  # type: ignore[arg-type]  # of one version
                raise errors.RESERVATION_RANGE(cidr=cidr)
            if any(block.overlaps(other.cidr) for other in self._reservations_of(subnet_id)):
                raise errors.RESERVATION_CONFLICT(cidr=cidr)
            made = Reservation(self._new_id("scr"), subnet_id, block, kind, description, checked_tags(tags))
            self._put_reservation(made)
            self._keep(subnet_id)
            return made

    def delete_reservation(self, reservation_id: str) -> Reservation:
        """Raises NO_RESERVATION."""
        with self._change():
            found = self._reservations.get(reservation_id)
            if found is None:
                raise errors.NO_RESERVATION(id=reservation_id)
            self._note(found, reservation_id)
            del self._reservations[reservation_id]
            self._keep(found.subnet_id)
            return found

    def _reservations_of(self, subnet_id: str) -> list[Reservation]:
        return [one for one in self._reservations.values() if one.subnet_id == subnet_id]

    def _keep(self, subnet_id: str) -> None:
        mine = self._reservations_of(subnet_id)
        self._space4[subnet_id].keep(one for one in mine if one.cidr.version == 4)
        if subnet_id in self._space6:
            self._space6[subnet_id].keep(one for one in mine if one.cidr.version == 6)
