"""The steps of the pool as EC2 calls, each of which ends in a known state.

Run in worker threads; they change EC2 and nothing of ours. A call without a usable answer is never repeated
blindly: a Describe tells whether it took effect. A step that fails on the way takes back what it made, or leaves
it in a form that the next start or sweep recognises as ours: the instance's tag, and the description.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from clients.budget import Priority
from clients.clock import Clock
from clients.ec2 import TAG_CREATED, TAG_INSTANCE, Ec2
from clients.ec2_answers import Ec2Eni, NewEni, Subnet
from clients.ec2_codes import ADDRESS_LIMIT, ENI_GONE, NO_ADDRESSES, never_happened, outcome_unknown
from core.errors import Ec2Error

DESCRIPTION: Final = "aws-K8S-"
TAG_CLUSTER: Final = "cluster.k8s.amazonaws.com/name"
TAG_OWNER: Final = "eks:eni:owner"
OWNER: Final = "amazon-vpc-cni"
TAG_UNMANAGED: Final = "node.k8s.amazonaws.com/no_manage"
USED_KINDS: Final = frozenset(("interface",))

LOOKS: Final = 4
FIRST_WAIT_S: Final = 0.2
DETACH_WAIT_S: Final = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose ENIs these are: what goes into their description and tags."""

    instance_id: str
    cluster_name: str
    extra_tags: Mapping[str, str]

    def tags(self) -> dict[str, str]:
        """Tags of every managed ENI (ipam.md 13.6)."""
        tags = {TAG_INSTANCE: self.instance_id}
        if self.cluster_name:
            tags |= {TAG_CLUSTER: self.cluster_name, TAG_OWNER: OWNER}
        return tags | dict(self.extra_tags)

    @property
    def description(self) -> str:
        return f"{DESCRIPTION}{self.instance_id}"

    def manages(self, eni: Ec2Eni, manage_untagged: bool) -> bool:
        """Whether an ENI of this instance, other than the primary, is ours to use (ipam.md section 17)."""
        if eni.kind not in USED_KINDS:
            return False
        if TAG_UNMANAGED in eni.tags:
            return eni.tags[TAG_UNMANAGED] != "true"
        return eni.tags.get(TAG_INSTANCE) == self.instance_id or manage_untagged

    def created(self, eni: Ec2Eni) -> bool:
        """Whether an ENI was made by this node's daemon."""
        return eni.tags.get(TAG_INSTANCE) == self.instance_id and eni.description == self.description


@dataclass(frozen=True, slots=True)
class Created:
    """A new ENI, attached. `shortage`: it has fewer addresses than asked for, because the subnet has no more."""

    eni: Ec2Eni
    attachment_id: str
    shortage: bool


@dataclass(frozen=True, slots=True)
class Unassigned:
    """How an Unassign ended. `left` is still on the ENI for certain; after a lost answer nothing is certain."""

    left: tuple[str, ...] = ()
    error: Ec2Error | None = None
    certain: bool = True


class SubnetsFull(Ec2Error):
    """None of these subnets has a free address."""

    def __init__(self, subnets: Sequence[str], cause: Ec2Error) -> None:
        super().__init__(
            f"no free addresses in {', '.join(subnets)}", action=cause.action, api_code=cause.api_code, cause=cause.text
        )
        self.subnets = tuple(subnets)


class EniSteps:
    """The steps for one instance. Raises Ec2Error. Safe for several threads."""

    def __init__(self, ec2: Ec2, owner: Owner, clock: Clock, rng: random.Random) -> None:
        self._ec2 = ec2
        self._owner = owner
        self._clock = clock
        self._rng = rng

    # --- addresses --------------------------------------------------------------------------------------------

    def assign(self, eni_id: str, count: int, before: frozenset[str], free: int, priority: Priority) -> tuple[str, ...]:
        """Add up to `count` addresses; those that are new. `before`: what the ENI had.

        `free` is EC2's count of free addresses in the subnet: EC2 gives all that is asked for or nothing, so a
        request that is refused is repeated with what there is, then with one. An empty answer means that EC2 has
        called the ENI full, and that it is.
        """
        last: Ec2Error | None = None
        for wanted in dict.fromkeys((count, min(max(free, 1), count), 1)):
            try:
                return self._assign(eni_id, wanted, before, priority)
            except Ec2Error as error:
                if error.api_code == ADDRESS_LIMIT:
                    # Our view of the ENI is old: what it has is what counts.
                    return self._new_addresses(eni_id, before, priority)
                if error.api_code not in NO_ADDRESSES:
                    raise
                last = error
        assert last is not None
        raise last

    def _assign(self, eni_id: str, count: int, before: frozenset[str], priority: Priority) -> tuple[str, ...]:
        try:
            # EC2-like services list all addresses of the ENI here, not only the new ones.
            return tuple(a for a in self._ec2.assign(eni_id, count, priority) if a not in before)
        except Ec2Error as error:
            if not outcome_unknown(error):
                raise
            found = self._look(lambda: self._new_addresses(eni_id, before, priority), bool)
            if not found:
                raise
            return found

    def _new_addresses(self, eni_id: str, before: frozenset[str], priority: Priority) -> tuple[str, ...]:
        eni = self._ec2.eni(eni_id, priority)
        return tuple(a for a in eni.addresses if a not in before) if eni else ()

    def unassign(self, eni_id: str, addresses: Sequence[str]) -> Unassigned:
        """Take addresses off an ENI, all or none.

        After a lost answer a Describe proves nothing, since it lags: an address that it still shows may be gone, and
        must not get a pod. After a refusal it says which addresses the ENI has.
        """
        try:
            self._ec2.unassign(eni_id, addresses)
        except Ec2Error as error:
            if outcome_unknown(error):
                return Unassigned((), error, certain=False)
            if never_happened(error):
                return Unassigned(tuple(addresses), error)
            eni = self._ec2.eni(eni_id)
            return Unassigned(tuple(a for a in addresses if eni is not None and a in eni.addresses), error)
        return Unassigned()

    # --- creation ---------------------------------------------------------------------------------------------

    def create(
        self,
        count: int,
        device: int,
        subnets: Sequence[Subnet],
        groups: tuple[str, ...],
        tracking: Mapping[str, int],
        priority: Priority,
    ) -> Created:
        """Create an ENI with `count` addresses in the first of `subnets` that has room, and attach it as `device`.

        Raises SubnetsFull if no subnet has an address left; what was created and cannot be attached is deleted.
        """
        eni, short = self._create_somewhere(count, subnets, groups, tracking, priority)
        try:
            attachment_id = self._attach(eni.eni_id, device, priority)
        except Ec2Error:
            self.delete(eni.eni_id)
            raise
        try:
            self._ec2.delete_on_termination(eni.eni_id, attachment_id, priority)
        except Ec2Error as error:
            # Attached and usable; the next reconcile sees the flag and tries again.
            if error.api_code in ENI_GONE:
                raise
        return Created(eni, attachment_id, short)

    def _create_somewhere(
        self,
        count: int,
        subnets: Sequence[Subnet],
        groups: tuple[str, ...],
        tracking: Mapping[str, int],
        priority: Priority,
    ) -> tuple[Ec2Eni, bool]:
        last: Ec2Error | None = None
        for subnet in subnets:
            new = NewEni(subnet.subnet_id, count, groups, self._owner.description, {}, "", tracking)
            # One address is the ENI's own.
            for wanted in dict.fromkeys((count, min(max(subnet.free - 1, 1), count))):
                try:
                    return self._create(replace(new, count=wanted), priority), wanted < count
                except Ec2Error as error:
                    last = error
                    if error.api_code not in NO_ADDRESSES and not error.api_code.startswith("InvalidSubnet"):
                        raise
        if last is None:
            raise Ec2Error("there is no subnet to create an ENI in", action="CreateNetworkInterface")
        if last.api_code in NO_ADDRESSES:
            raise SubnetsFull([subnet.subnet_id for subnet in subnets], last) from last
        raise last

    def _create(self, new: NewEni, priority: Priority) -> Ec2Eni:
        stamp = datetime.datetime.fromtimestamp(self._clock.unix(), datetime.UTC).isoformat().replace("+00:00", "Z")
        token = f"enid-{self._rng.getrandbits(128):032x}"
        new = replace(new, token=token, tags={TAG_CREATED: stamp, **self._owner.tags()})
        try:
            return self._ec2.create_eni(new, priority)
        except Ec2Error as error:
            if not outcome_unknown(error):
                raise
            found = self._look(lambda: self._find_created(stamp, priority), lambda eni: eni is not None)
            # With the same token a second call returns the first one's ENI, if there is one after all.
            return found or self._ec2.create_eni(new, priority)

    def _find_created(self, stamp: str, priority: Priority) -> Ec2Eni | None:
        tags = {TAG_INSTANCE: self._owner.instance_id, TAG_CREATED: stamp}
        found = [eni for eni in self._ec2.free_enis(tags, priority) if self._owner.created(eni)]
        return found[0] if len(found) == 1 else None

    def _attach(self, eni_id: str, device: int, priority: Priority) -> str:
        try:
            return self._ec2.attach(eni_id, self._owner.instance_id, device, 0, priority)
        except Ec2Error as error:
            if not outcome_unknown(error) and error.api_code not in ENI_GONE:
                raise
            # No answer, or EC2 does not know its own new ENI yet.
            found = self._look(lambda: self._ec2.eni(eni_id, priority), lambda eni: eni and eni.attachment is not None)
            if found and found.attachment and found.attachment.instance_id == self._owner.instance_id:
                return found.attachment.attachment_id
            return self._ec2.attach(eni_id, self._owner.instance_id, device, 0, priority)

    # --- removal ------------------------------------------------------------------------------------------------

    def remove(self, eni_id: str) -> None:
        """Detach and delete an ENI. Not there is done; Ec2Error means that it is still attached or still there."""
        eni = self._ec2.eni(eni_id)
        if eni is None:
            return
        if eni.attachment is not None and eni.attachment.status not in ("detaching", "detached"):
            try:
                self._ec2.detach(eni.attachment.attachment_id)
            except Ec2Error as error:
                if not outcome_unknown(error) and error.api_code != "InvalidAttachmentID.NotFound":
                    raise
        deadline = self._clock.now() + DETACH_WAIT_S
        wait = FIRST_WAIT_S
        while (eni := self._ec2.eni(eni_id)) is not None and eni.status != "available":
            if self._clock.now() > deadline:
                raise Ec2Error(f"{eni_id} is not detached after {DETACH_WAIT_S:g} s", action="DetachNetworkInterface")
            self._clock.sleep(wait * (1 + 0.15 * self._rng.random()))
            wait = min(wait * 2, 5.0)
        self.delete(eni_id)

    def delete(self, eni_id: str) -> None:
        """Delete an ENI that is attached nowhere; a few tries, since EC2 forgets an attachment only after a while."""
        wait = FIRST_WAIT_S
        for attempt in range(LOOKS):
            try:
                self._ec2.delete_eni(eni_id)
                return
            except Ec2Error:
                if attempt == LOOKS - 1:
                    raise
            self._clock.sleep(wait * (1 + 0.15 * self._rng.random()))
            wait *= 3

    def leaked(self) -> tuple[Ec2Eni, ...]:
        """ENIs that this node's daemon made and that are attached nowhere."""
        free = self._ec2.free_enis({TAG_INSTANCE: self._owner.instance_id}, Priority.SWEEP)
        return tuple(eni for eni in free if self._owner.created(eni))

    def adopt(self, eni: Ec2Eni) -> None:
        """Give an ENI the tags that it lacks, and let it go with its instance if we made it."""
        missing = {key: value for key, value in self._owner.tags().items() if eni.tags.get(key) != value}
        if missing:
            self._ec2.tag(eni.eni_id, missing)
        if eni.attachment is not None and not eni.attachment.delete_on_termination and self._owner.created(eni):
            self._ec2.delete_on_termination(eni.eni_id, eni.attachment.attachment_id, Priority.SWEEP)

    def _look(self, ask: Callable[[], T], good: Callable[[T], object]) -> T:
        """Ask until the answer is good, a few times: what has just been made is not always seen at once."""
        wait = FIRST_WAIT_S
        for attempt in range(LOOKS):
            if attempt:
                self._clock.sleep(wait)
                wait *= 2
            answer = ask()
            if good(answer):
                break
        return answer
