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
from typing import Final, NoReturn, TypeVar

from agent.manager.eni_errors import NotAttached, PerhapsAttached, StillAttached, SubnetsFull
from agent.manager.owner import Owner
from clients.budget import Priority
from clients.clock import Clock
from clients.ec2 import TAG_CREATED, TAG_INSTANCE, Ec2
from clients.ec2_answers import Attachment, Ec2Eni, NewEni, Subnet
from clients.ec2_codes import ADDRESS_LIMIT, ENI_GONE, NO_ADDRESSES, never_happened, outcome_unknown
from core.errors import Ec2Error

LOOKS: Final = 4
FIRST_WAIT_S: Final = 0.2
DETACH_WAIT_S: Final = 60.0
# As long as a Describe may lag behind an Attach whose answer was lost.
ATTACH_WAIT_S: Final = 30.0
ENI_IN_USE: Final = "InvalidNetworkInterface.InUse"
# An Unassign that has to wait its turn for longer is not worth keeping an ENI from growing.
UNASSIGN_PATIENCE_S: Final = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Created:
    """A new ENI, attached. `shortage`: it has fewer addresses than asked for, because the subnet has no more."""

    eni: Ec2Eni
    attachment: Attachment
    shortage: bool


@dataclass(frozen=True, slots=True)
class Added:
    """What an Assign came to. `confirmed`: EC2 has answered with these; else a Describe shows them, which may lag.

    `refused`: EC2 allows the ENI less than we asked for, and nothing on it was new to us. `resting`: EC2 allows it less
    and shows these, which have just left it: they are gone, or ours again by an answer that was lost. `shortage`: EC2
    has given less than we asked for, because the subnet has no more.
    """

    addresses: tuple[str, ...] = ()
    confirmed: bool = True
    refused: bool = False
    resting: tuple[str, ...] = ()
    shortage: bool = False


@dataclass(frozen=True, slots=True)
class Unassigned:
    """How an Unassign ended. `left` is still on the ENI for certain; after a lost answer nothing is certain."""

    left: tuple[str, ...] = ()
    error: Ec2Error | None = None
    certain: bool = True


class EniSteps:
    """The steps for one instance. Raises Ec2Error. Safe for several threads."""

    def __init__(
        self, ec2: Ec2, owner: Owner, clock: Clock, rng: random.Random, *, manage_untagged: bool = True
    ) -> None:
        self._ec2 = ec2
        self._owner = owner
        self._clock = clock
        self._rng = rng
        self._manage_untagged = manage_untagged
        self._made: dict[str, float] = {}

    # --- addresses --------------------------------------------------------------------------------------------

    def assign(
        self,
        eni_id: str,
        count: int,
        held: frozenset[str],
        free: Callable[[], int],
        priority: Priority,
        resting: frozenset[str] = frozenset(),
    ) -> Added:
        """Add up to `count` addresses. `held`: what the ENI has; `resting`: what is leaving it, or has just left it.

        EC2 gives all that is asked for or nothing, so a request that the subnet is too small for is repeated with
        what is `free` there by EC2's own count, then with one.
        """
        try:
            return self._assign(eni_id, count, held, resting, priority)
        except Ec2Error as error:
            if error.api_code not in NO_ADDRESSES:
                raise
            last = error
        for wanted in dict.fromkeys((min(max(free(), 1), count), 1)):
            if wanted == count:
                continue
            try:
                return replace(self._assign(eni_id, wanted, held, resting, priority), shortage=True)
            except Ec2Error as error:
                if error.api_code not in NO_ADDRESSES:
                    raise
                last = error
        raise last

    def _assign(
        self, eni_id: str, count: int, held: frozenset[str], resting: frozenset[str], priority: Priority
    ) -> Added:
        try:
            answer = self._ec2.assign(eni_id, count, priority)
        except Ec2Error as error:
            known = held | resting
            if error.api_code == ADDRESS_LIMIT:
                # Our view of the ENI is old, or EC2's limit is not the table's.
                shown = self._new_addresses(eni_id, held, priority)
                found = tuple(a for a in shown if a not in resting)
                again = tuple(a for a in shown if a in resting)
                return Added(found, confirmed=False, refused=not shown, resting=again)
            if not outcome_unknown(error):
                raise
            found = self._look(lambda: self._new_addresses(eni_id, known, priority), bool)
            if not found:
                raise
            return Added(found, confirmed=False)
        # EC2 likes to give again what it has just got back. But EC2-like services list all addresses of the ENI here,
        # and among those may be one whose Unassign has lost its answer.
        listed_all = not (held - resting).isdisjoint(answer)
        added = tuple(a for a in answer if not (listed_all and a in held | resting))
        return Added(added, confirmed=bool(added), shortage=0 < len(answer) < count)

    def _new_addresses(self, eni_id: str, before: frozenset[str], priority: Priority) -> tuple[str, ...]:
        eni = self._ec2.eni(eni_id, priority)
        return tuple(a for a in eni.addresses if a not in before) if eni else ()

    def unassign(self, eni_id: str, addresses: Sequence[str]) -> Unassigned:
        """Take addresses off an ENI, all or none.

        After a lost answer a Describe proves nothing, since it lags: an address that it still shows may be gone, and
        must not get a pod. After a refusal it says which addresses the ENI has.
        """
        try:
            self._ec2.unassign(eni_id, addresses, patience_s=UNASSIGN_PATIENCE_S)
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

        Raises SubnetsFull if no subnet has an address left, NotAttached if it cannot be attached: then it is deleted,
        and PerhapsAttached if that is not known.
        """
        eni, short = self._create_somewhere(count, subnets, groups, tracking, priority)
        try:
            attachment_id = self._attach(eni.eni_id, device, priority)
        except PerhapsAttached:
            raise
        except Ec2Error as error:
            self._undo(eni.eni_id, error)
        kept = True
        try:
            self._ec2.delete_on_termination(eni.eni_id, attachment_id, priority)
        except Ec2Error as error:
            # Attached and usable: whoever looks after its tags sees the flag and tries again.
            if error.api_code in ENI_GONE:
                raise
            kept = False
        attachment = Attachment(attachment_id, self._owner.instance_id, device, 0, "attached", kept)
        return Created(eni, attachment, short)

    def _undo(self, eni_id: str, error: Ec2Error) -> NoReturn:
        """Delete what could not be attached. Raises NotAttached, which says first why it could not be attached."""
        try:
            self.delete(eni_id)
        except Ec2Error as second:
            raise NotAttached(error, eni_id, second) from error
        raise NotAttached(error, eni_id, None) from error

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
        self._made[stamp] = self._clock.now()
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
            first = error
        try:
            # No answer, or EC2 does not know its own new ENI yet.
            return self._attach_again(eni_id, device, priority)
        except Ec2Error as error:
            if outcome_unknown(first) or outcome_unknown(error):
                # One of the two may have worked, whatever the other one was told.
                raise PerhapsAttached(error, eni_id) from error
            raise

    def _attach_again(self, eni_id: str, device: int, priority: Priority) -> str:
        found = self._look(lambda: self._attachment_here(eni_id, priority), bool)
        if found is not None:
            return found
        try:
            return self._ec2.attach(eni_id, self._owner.instance_id, device, 0, priority)
        except Ec2Error as error:
            if not outcome_unknown(error) and error.api_code != ENI_IN_USE:
                raise
            last = error
        # It is attached, or may be: a Describe shows it in the end.
        deadline, wait = self._clock.now() + ATTACH_WAIT_S, FIRST_WAIT_S
        while self._clock.now() < deadline:
            self._clock.sleep(wait)
            wait = min(wait * 2, 5.0)
            found = self._attachment_here(eni_id, priority)
            if found is not None:
                return found
        raise last

    def _attachment_here(self, eni_id: str, priority: Priority) -> str | None:
        eni = self._ec2.eni(eni_id, priority)
        if eni is None or eni.attachment is None or eni.attachment.instance_id != self._owner.instance_id:
            return None
        return eni.attachment.attachment_id

    # --- removal ------------------------------------------------------------------------------------------------

    def remove(self, eni_id: str) -> None:
        """Detach and delete an ENI. Not there is done. Raises StillAttached if nothing has been begun, also if its
        tags say by now that it is not ours; any other Ec2Error leaves open how far it came."""
        attachment = self._attachment_to_end(eni_id)
        if attachment is not None:
            try:
                self._ec2.detach(attachment.attachment_id)
            except Ec2Error as error:
                if not outcome_unknown(error) and error.api_code != "InvalidAttachmentID.NotFound":
                    raise StillAttached(error) from error
        deadline = self._clock.now() + DETACH_WAIT_S
        wait = FIRST_WAIT_S
        while (eni := self._ec2.eni(eni_id)) is not None and eni.status != "available":
            if self._clock.now() > deadline:
                raise Ec2Error(f"{eni_id} is not detached after {DETACH_WAIT_S:g} s", action="DetachNetworkInterface")
            self._clock.sleep(wait * (1 + 0.15 * self._rng.random()))
            wait = min(wait * 2, 5.0)
        self.delete(eni_id)

    def _attachment_to_end(self, eni_id: str) -> Attachment | None:
        """An ENI's attachment, None if it has none any more. Raises StillAttached if it is not ours to end."""
        try:
            eni = self._ec2.eni(eni_id)
        except Ec2Error as error:
            raise StillAttached(error) from error
        if eni is None or eni.attachment is None:
            return None
        here = eni.attachment.instance_id == self._owner.instance_id
        if not here or not self._owner.manages(eni, self._manage_untagged):
            text = f"{eni_id} is not ours to remove any more"
            raise StillAttached(Ec2Error(text, action="DetachNetworkInterface", api_code="NotOurs"))
        return None if eni.attachment.status in ("detaching", "detached") else eni.attachment

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

    def age(self, eni: Ec2Eni) -> float:
        """Seconds since this life created an ENI; infinity for one of an earlier life."""
        return self._clock.now() - self._made.get(eni.tags.get(TAG_CREATED, ""), float("-inf"))

    def lacks(self, eni: Ec2Eni, attachment: Attachment) -> bool:
        """Whether `adopt` has something to do."""
        return bool(self._missing_tags(eni)) or self._would_stay(eni, attachment)

    def adopt(self, eni: Ec2Eni, attachment: Attachment) -> None:
        """Give an ENI the tags that it lacks, and let it go with its instance if we made it."""
        missing = self._missing_tags(eni)
        if missing:
            self._ec2.tag(eni.eni_id, missing)
        if self._would_stay(eni, attachment):
            self._ec2.delete_on_termination(eni.eni_id, attachment.attachment_id, Priority.SWEEP)

    def adopted(self, eni: Ec2Eni) -> Ec2Eni:
        """The ENI as `adopt` leaves it."""
        return replace(eni, tags={**eni.tags, **self._owner.tags()})

    def _missing_tags(self, eni: Ec2Eni) -> dict[str, str]:
        return {key: value for key, value in self._owner.tags().items() if eni.tags.get(key) != value}

    def _would_stay(self, eni: Ec2Eni, attachment: Attachment) -> bool:
        return not attachment.delete_on_termination and self._owner.created(eni)

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
