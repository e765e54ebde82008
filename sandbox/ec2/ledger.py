"""The tables of the EC2 truth and the one way in which they change.

Every rule lives above this file; here is what all rules need: records by id, indexes by instance, attachment and
address, ids and MACs from the injected generator, work that falls due by the injected clock, and the order of events.
A change is planned on immutable records and then put in place by `_put` and `_drop`, which cannot fail; so a refused
call changes nothing. Events reach the views after the lock is released and before the caller gets its answer.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from sandbox.base.trace import Trace
from sandbox.ec2 import errors
from sandbox.ec2.faults import Faults
from sandbox.ec2.limits import Catalogue, quotas
from sandbox.ec2.records import (
    Association,
    Eni,
    EniPermission,
    Group,
    Instance,
    Record,
    Reservation,
    Subnet,
    Vpc,
)
from sandbox.ec2.space import BLOCK, RESERVED_FIRST, Policy, Space4, Space6
from sandbox.ec2.views import Clock, Event, Reader, View


@dataclass(order=True, slots=True)
class _Due:
    """Work that waits for the clock."""

    when: float
    number: int
    since: float = field(compare=False)
    kind: str = field(compare=False)
    work: Callable[[], None] = field(compare=False)


class Ledger:
    """State without rules. `policy`: how free addresses are chosen (see `space.Space4`).

    Readers of several records hold `lock`; nobody calls what changes the truth while holding it, since views are told
    when it is free. `api` and `imds` are the lagging views; `faults` the fault rules; `types` the instance types;
    `trace` what happened.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        region: str = "us-west-2",
        account: str = "123456789012",
        policy: Policy = "dense",
        types: Catalogue | None = None,
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.region = region
        self.account = account
        self.quotas = quotas()
        self.policy: Policy = policy
        self.types = types if types is not None else Catalogue()
        self.trace = Trace(clock)
        self.faults = Faults(clock, random.Random(rng.getrandbits(64)), self.trace)
        self.lock = threading.RLock()
        self.api = Reader(clock)
        self.imds = Reader(clock)
        self._vpcs: dict[str, Vpc] = {}
        self._subnets: dict[str, Subnet] = {}
        self._groups: dict[str, Group] = {}
        self._enis: dict[str, Eni] = {}
        self._instances: dict[str, Instance] = {}
        self._reservations: dict[str, Reservation] = {}
        self._associations: dict[str, Association] = {}
        self._permissions: dict[str, EniPermission] = {}
        self._space4: dict[str, Space4] = {}
        self._space6: dict[str, Space6] = {}
        self._enis_of: dict[str, set[str]] = {}
        self._by_attachment: dict[str, str] = {}
        self._by_address: dict[str, dict[str, str]] = {}  # VPC id, then address or prefix, to ENI id
        self._macs: set[str] = set()
        self._due: list[_Due] = []
        self._due_count = 0
        self._subscribers: list[View] = []
        self._events: deque[tuple[Event, str]] = deque()
        self._delivery = threading.Lock()
        self._delivering = 0

    # --- reading ------------------------------------------------------------------------------------------

    @property
    def vpcs(self) -> Mapping[str, Vpc]:
        return MappingProxyType(self._vpcs)

    @property
    def subnets(self) -> Mapping[str, Subnet]:
        return MappingProxyType(self._subnets)

    @property
    def groups(self) -> Mapping[str, Group]:
        return MappingProxyType(self._groups)

    @property
    def enis(self) -> Mapping[str, Eni]:
        return MappingProxyType(self._enis)

    @property
    def instances(self) -> Mapping[str, Instance]:
        return MappingProxyType(self._instances)

    @property
    def reservations(self) -> Mapping[str, Reservation]:
        return MappingProxyType(self._reservations)

    @property
    def associations(self) -> Mapping[str, Association]:
        return MappingProxyType(self._associations)

    @property
    def permissions(self) -> Mapping[str, EniPermission]:
        return MappingProxyType(self._permissions)

    def vpc(self, vpc_id: str) -> Vpc:
        """Raises NO_VPC."""
        found = self._vpcs.get(vpc_id)
        if found is None:
            raise errors.NO_VPC(id=vpc_id)
        return found

    def subnet(self, subnet_id: str) -> Subnet:
        """Raises NO_SUBNET."""
        found = self._subnets.get(subnet_id)
        if found is None:
            raise errors.NO_SUBNET(id=subnet_id)
        return found

    def group(self, group_id: str) -> Group:
        """Raises NO_GROUP."""
        found = self._groups.get(group_id)
        if found is None:
            raise errors.NO_GROUP(id=group_id)
        return found

    def eni(self, eni_id: str) -> Eni:
        """Raises NO_ENI."""
        found = self._enis.get(eni_id)
        if found is None:
            raise errors.NO_ENI(id=eni_id)
        return found

    def instance(self, instance_id: str) -> Instance:
        """Raises NO_INSTANCE."""
        found = self._instances.get(instance_id)
        if found is None:
            raise errors.NO_INSTANCE(id=instance_id)
        return found

    def enis_of(self, instance_id: str, reader: Reader | None = None) -> tuple[Eni, ...]:
        """The ENIs of an instance (also those being attached or detached) by card and device index."""
        with self.lock:
            ids = self._enis_of.get(instance_id, set())
            if reader is None or not (unsettled := reader.unsettled("eni-")):
                found = [self._enis[eni_id] for eni_id in ids]
            else:
                seen = (reader.see(eni_id, self._enis.get(eni_id)) for eni_id in {*ids, *unsettled})
                found = [eni for eni in seen if eni is not None and eni.instance_id == instance_id]
        return tuple(sorted(found, key=lambda eni: (eni.card, eni.device, eni.eni_id)))

    def holder(self, address: str, vpc_id: str | None = None) -> Eni | None:
        """The ENI that holds this address, alone or within a prefix. Without `vpc_id`: in the first VPC that has it."""
        try:
            number = ipaddress.ip_address(address)
        except ValueError:
            return None
        block = str(ipaddress.ip_network(f"{number}/{28 if number.version == 4 else 80}", strict=False))
        with self.lock:
            for vpc in [vpc_id] if vpc_id is not None else list(self._by_address):
                held = self._by_address.get(vpc, {})
                eni_id = held.get(str(number)) or held.get(block)
                if eni_id is not None:
                    return self._enis[eni_id]
        return None

    def holders(self, address: str) -> list[str]:
        """Ids of the ENIs, at most one per VPC, that have this very address (not within a prefix)."""
        with self.lock:
            return [held[address] for held in self._by_address.values() if address in held]

    def free_addresses(self, subnet_id: str) -> int:
        """AvailableIpAddressCount of a subnet."""
        self.subnet(subnet_id)
        return self._space4[subnet_id].free

    def free_as_seen(self, subnet: Subnet, reader: Reader) -> int:
        """The same by the ENIs that a view shows, which may show a subnet that is gone. The caller holds the lock."""
        space = self._space4.get(subnet.subnet_id)
        free = space.free if space is not None else subnet.cidr.num_addresses - RESERVED_FIRST - 1
        for eni_id in reader.unsettled("eni-"):
            now = self._enis.get(eni_id)
            free += _taken(now, subnet) - _taken(reader.see(eni_id, now), subnet)
        return max(free, 0)  # by kinds of changes that lag differently an address may be shown on two ENIs

    # --- changing -------------------------------------------------------------------------------------------

    def subscribe(self, view: View) -> None:
        """From now on tell this view of each change."""
        with self.lock:
            self._subscribers.append(view)

    def tick(self) -> float | None:
        """Carry out what is due by the clock. Returns the time of the next thing due."""
        if not self._due:
            return None
        with self._change():
            return self._due[0].when if self._due else None

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Around each public change: lock, catch up with the clock, and tell the views when the lock is free again."""
        try:
            with self.lock:
                self._settle()
                yield
        finally:
            self._deliver()

    def _settle(self) -> None:
        while self._due and self._due[0].when <= self.clock.now():
            due = heapq.heappop(self._due)
            if self.trace.on:
                self.trace.note("clock", due=due.kind)
            due.work()

    def _after(self, delay: float, work: Callable[[], None], kind: str = "") -> None:
        """Do `work` (under the lock, it must not fail) in `delay` seconds; at once if that is 0. See `hasten`."""
        if delay <= 0:
            work()
            return
        self._due_count += 1
        now = self.clock.now()
        heapq.heappush(self._due, _Due(now + delay, self._due_count, now, kind, work))

    def hasten(self, kind: str, delay: float) -> None:
        """Work of this kind that waits already is done `delay` seconds after it was put off, if that is earlier."""
        with self._change():
            for due in self._due:
                if due.kind == kind:
                    due.when = min(due.when, due.since + delay)
            heapq.heapify(self._due)
            self._settle()

    def _tell(self, event: Event, eni_id: str) -> None:
        self._events.append((event, eni_id))

    def _deliver(self) -> None:
        if not self._events and not self._delivery.locked():
            return
        me = threading.get_ident()
        if self._delivering == me:
            return  # a view changed the truth: the loop below it delivers that too
        failures: list[Exception] = []
        with self._delivery:
            self._delivering = me
            try:
                while self._events:
                    event, eni_id = self._events.popleft()
                    if self.trace.on:
                        self.trace.note("view", event=event, eni=eni_id)
                    for view in self._subscribers:
                        try:
                            getattr(view, event)(eni_id)
                        except Exception as failure:
                            failures.append(failure)
            finally:
                self._delivering = 0
        if failures:
            raise ExceptionGroup("views failed to follow a change", failures)

    def _put_vpc(self, vpc: Vpc) -> None:
        self._note(self._vpcs.get(vpc.vpc_id), vpc.vpc_id, vpc)
        self._vpcs[vpc.vpc_id] = vpc

    def _put_subnet(self, subnet: Subnet) -> None:
        self._note(self._subnets.get(subnet.subnet_id), subnet.subnet_id, subnet)
        self._subnets[subnet.subnet_id] = subnet

    def _put_group(self, group: Group) -> None:
        self._note(self._groups.get(group.group_id), group.group_id, group)
        self._groups[group.group_id] = group

    def _put_reservation(self, one: Reservation) -> None:
        self._note(self._reservations.get(one.reservation_id), one.reservation_id, one)
        self._reservations[one.reservation_id] = one

    def _put_instance(self, instance: Instance) -> None:
        self._note(self._instances.get(instance.instance_id), instance.instance_id, instance)
        self._instances[instance.instance_id] = instance

    def _put_eni(self, eni: Eni) -> None:
        """Put an ENI in place and bring the indexes in line. Its addresses are taken in the subnet already."""
        old = self._enis.get(eni.eni_id)
        self._note(old, eni.eni_id, eni)
        self._enis[eni.eni_id] = eni
        self._reindex(old, eni)
        self._members_changed(old, eni)

    def _drop_eni(self, eni: Eni) -> None:
        self._note(self._enis[eni.eni_id], eni.eni_id)
        old = self._enis.pop(eni.eni_id)
        self._reindex(old, None)
        self._members_changed(old, None)

    def _members_changed(self, old: Eni | None, new: Eni | None) -> None:
        """Told of each change of an ENI; the layer that knows groups passes on what concerns them."""

    def _note(self, old: Record | None, record_id: str, new: Record | None = None) -> None:
        self.api.note(record_id, old, new)
        self.imds.note(record_id, old, new)

    def _reindex(self, old: Eni | None, new: Eni | None) -> None:
        eni = new or old
        if eni is None:
            return
        before, after = set(_held(old)), set(_held(new))
        if before != after:
            held = self._by_address.setdefault(eni.vpc_id, {})
            for key in before - after:
                del held[key]
            for key in _held(new):
                held[key] = eni.eni_id
        was, is_now = old.attachment if old else None, new.attachment if new else None
        if was is not None and (is_now is None or is_now.attachment_id != was.attachment_id):
            self._enis_of[was.instance_id].discard(eni.eni_id)
            del self._by_attachment[was.attachment_id]
        if is_now is not None:
            self._enis_of.setdefault(is_now.instance_id, set()).add(eni.eni_id)
            self._by_attachment[is_now.attachment_id] = eni.eni_id
        if new is None:
            self._macs.discard(eni.mac)
        else:
            self._macs.add(eni.mac)

    def _new_id(self, prefix: str) -> str:
        """An id of the long form: prefix and 17 hexadecimal digits."""
        return f"{prefix}-0{self.rng.getrandbits(64):016x}"

    def _new_mac(self) -> str:
        """A MAC as AWS makes them: locally administered, unicast, unique here."""
        while True:
            raw = bytearray(self.rng.getrandbits(48).to_bytes(6, "big"))
            raw[0] = raw[0] & 0x0C | 0x02
            mac = raw.hex(":")
            if mac not in self._macs:
                return mac

    def _give_back(self, eni: Eni) -> None:
        """Free all that an ENI holds in its subnet."""
        space = self._space4[eni.subnet_id]
        space.give(map(space.offset, eni.addresses), map(space.block, eni.prefixes))
        if eni.ipv6_addresses or eni.ipv6_prefixes:
            space6 = self._space6[eni.subnet_id]
            space6.give(map(space6.offset, eni.ipv6_addresses), map(space6.block, eni.ipv6_prefixes))


def _taken(eni: Eni | None, subnet: Subnet) -> int:
    return len(eni.addresses) + BLOCK * len(eni.prefixes) if eni and eni.subnet_id == subnet.subnet_id else 0


def _held(eni: Eni | None) -> Iterable[str]:
    return (*eni.addresses, *eni.prefixes, *eni.ipv6_addresses, *eni.ipv6_prefixes) if eni else ()
