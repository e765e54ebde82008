"""EC2 as the manager sees it: eleven calls, typed, paced and counted.

botocore signs, sends and parses; its own retries are off, because a repeated AssignPrivateIpAddresses whose first
answer was lost takes addresses twice. Only a call that EC2 has refused for its rate is repeated here, since that
one was not carried out. Whether a call with an unknown outcome took effect is found out by the caller with a
Describe (`ec2_codes.outcome_unknown`). Answers are checked field by field: nonsense is an Ec2Error, never a crash or
a value. Every call ends: `timeout` bounds one HTTP exchange as a whole, and a worker whose lease is over
(`deadline`) sends nothing any more.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import botocore.config  # type: ignore[import-untyped]  # botocore ships no types
import botocore.exceptions  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]

from clients import deadline, ec2_http
from clients import ec2_answers as answers
from clients.budget import Budget, Priority
from clients.clock import Clock, SystemClock
from clients.ec2_answers import Ec2Eni, NewEni, Subnet
from clients.ec2_codes import ENI_GONE, NOT_SENT, THROTTLED, UNKNOWN, remedy
from clients.ec2_model import API_VERSION, CutLoader
from core.errors import Ec2Error
from core.limits import Limits

IDLE_S: Final = 10.0
TRIES: Final = 5
PAGE: Final = 1000

TAG_INSTANCE: Final = "node.k8s.amazonaws.com/instance_id"
TAG_CREATED: Final = "node.k8s.amazonaws.com/createdAt"

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]*")


class Ec2:
    """EC2 in one region. Safe for several threads. Every method raises Ec2Error, which names action and code."""

    def __init__(
        self,
        region: str,
        *,
        endpoint: str = "",
        timeout: float = 10.0,
        user_agent: str = "",
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._budget = Budget(self._clock)
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._in_flight = 0
        self._used_at = self._clock.now()
        session = botocore.session.Session()
        session.register_component("data_loader", CutLoader())
        self._timeout = timeout
        config = botocore.config.Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra=user_agent or None,
            max_pool_connections=8,
        )
        try:
            self._client = session.create_client(
                "ec2", region_name=region, api_version=API_VERSION, endpoint_url=endpoint or None, config=config
            )
        except botocore.exceptions.BotoCoreError as error:
            raise Ec2Error(f"no EC2 client for region {region}", cause=str(error)) from error
        ec2_http.bound(self._client)

    # --- questions ----------------------------------------------------------------------------------------

    def instance_enis(self, instance_id: str, priority: Priority = Priority.WARM) -> tuple[Ec2Eni, ...]:
        """All ENIs attached to an instance, in every state of attachment."""
        return self._enis({"attachment.instance-id": instance_id}, priority)

    def free_enis(self, tags: Mapping[str, str], priority: Priority = Priority.WARM) -> tuple[Ec2Eni, ...]:
        """ENIs that are attached nowhere and carry all of these tags."""
        return self._enis({"status": "available"} | {f"tag:{key}": value for key, value in tags.items()}, priority)

    def eni(self, eni_id: str, priority: Priority = Priority.WARM) -> Ec2Eni | None:
        """One ENI, None if EC2 has none of this id (which it also says for a moment after its creation)."""
        try:
            answer = self._call("DescribeNetworkInterfaces", priority, NetworkInterfaceIds=[eni_id])
        except Ec2Error as error:
            if error.api_code in ENI_GONE:
                return None
            raise
        found = [answers.eni(entry) for entry in answers.entries(answer, "NetworkInterfaces")]
        return next((eni for eni in found if eni.eni_id == eni_id), None)

    def subnets(self, vpc_id: str, zone: str, priority: Priority = Priority.WARM) -> tuple[Subnet, ...]:
        """All subnets of a VPC in a zone, the one with most free addresses first."""
        filters = {"vpc-id": vpc_id, "availability-zone": zone}
        entries = self._pages("DescribeSubnets", "Subnets", filters, priority)
        found = [answers.subnet(entry) for entry in entries]
        return tuple(sorted(found, key=lambda subnet: -subnet.free))

    def limits(self, instance_type: str) -> Limits:
        """The limits of a type by EC2's word: those of the default card (limits specification, 3)."""
        answer = self._call("DescribeInstanceTypes", Priority.WAITING, InstanceTypes=[instance_type])
        entries = answers.entries(answer, "InstanceTypes")
        if len(entries) != 1 or not isinstance(entries[0], dict):
            raise answers.nonsense("DescribeInstanceTypes", f"{len(entries)} types for {instance_type}")
        entry = entries[0]
        network = entry.get("NetworkInfo")
        if not isinstance(network, dict):
            raise answers.nonsense("DescribeInstanceTypes", "no NetworkInfo")
        cards = [card for card in network.get("NetworkCards") or [] if isinstance(card, dict)]
        default = network.get("DefaultNetworkCardIndex") or 0
        own = [card.get("MaximumNetworkInterfaces") for card in cards if card.get("NetworkCardIndex") == default]
        enis = own[0] if own else network.get("MaximumNetworkInterfaces")
        addresses = network.get("Ipv4AddressesPerInterface")
        if not isinstance(enis, int) or not isinstance(addresses, int) or enis < 1 or addresses < 1:
            raise answers.nonsense(
                "DescribeInstanceTypes", f"{enis!r} ENIs and {addresses!r} addresses for {instance_type}"
            )
        hypervisor = entry.get("Hypervisor") or "unknown"
        return Limits(instance_type, enis, addresses, hypervisor, bool(entry.get("BareMetal")), max(len(cards), 1))

    # --- changes ------------------------------------------------------------------------------------------

    def create_eni(self, new: NewEni, priority: Priority) -> Ec2Eni:
        """Create an ENI with all its addresses. Repeating it with the same token is safe."""
        parameters: dict[str, Any] = {
            "SubnetId": new.subnet_id,
            "Description": new.description,
            "Groups": sorted(new.groups),
            "SecondaryPrivateIpAddressCount": new.count,
            "ClientToken": new.token,
            "TagSpecifications": [{"ResourceType": "network-interface", "Tags": answers.tag_list(new.tags)}],
        }
        if new.count == 0:
            del parameters["SecondaryPrivateIpAddressCount"]
        if new.tracking:
            parameters["ConnectionTrackingSpecification"] = dict(new.tracking)
        answer = self._call("CreateNetworkInterface", priority, **parameters)
        made = answers.eni(answer.get("NetworkInterface"))
        if not made.primary_ip:
            raise answers.nonsense("CreateNetworkInterface", f"{made.eni_id} has no IPv4 address")
        return made

    def attach(self, eni_id: str, instance_id: str, device: int, card: int, priority: Priority) -> str:
        """Attach an ENI; the attachment id."""
        answer = self._call(
            "AttachNetworkInterface",
            priority,
            NetworkInterfaceId=eni_id,
            InstanceId=instance_id,
            DeviceIndex=device,
            NetworkCardIndex=card,
        )
        return answers.text(answer, "AttachmentId")

    def delete_on_termination(self, eni_id: str, attachment_id: str, priority: Priority) -> None:
        """Let the ENI go with its instance."""
        change = {"AttachmentId": attachment_id, "DeleteOnTermination": True}
        self._call("ModifyNetworkInterfaceAttribute", priority, NetworkInterfaceId=eni_id, Attachment=change)

    def set_groups(self, eni_id: str, groups: Iterable[str], priority: Priority = Priority.SWEEP) -> None:
        """Replace the security groups of an ENI."""
        self._call("ModifyNetworkInterfaceAttribute", priority, NetworkInterfaceId=eni_id, Groups=sorted(set(groups)))

    def detach(self, attachment_id: str, priority: Priority = Priority.SWEEP) -> None:
        """Begin to detach an ENI; it ends later. Not forced."""
        self._call("DetachNetworkInterface", priority, AttachmentId=attachment_id)

    def delete_eni(self, eni_id: str, priority: Priority = Priority.SWEEP) -> None:
        """Delete an ENI that is attached nowhere. One that is gone already is fine."""
        try:
            self._call("DeleteNetworkInterface", priority, NetworkInterfaceId=eni_id)
        except Ec2Error as error:
            if error.api_code not in ENI_GONE:
                raise

    def assign(self, eni_id: str, count: int, priority: Priority) -> tuple[str, ...]:
        """Give an ENI `count` more secondary addresses; those that EC2 names as new."""
        answer = self._call(
            "AssignPrivateIpAddresses", priority, NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=count
        )
        entries = answers.entries(answer, "AssignedPrivateIpAddresses")
        return tuple(answers.address(entry, "PrivateIpAddress") for entry in entries)

    def unassign(
        self,
        eni_id: str,
        addresses: Sequence[str],
        priority: Priority = Priority.SWEEP,
        patience_s: float = float("inf"),
    ) -> None:
        """Take secondary addresses off an ENI, all or none. Not sent if it has to wait for longer than `patience_s`."""
        self._call(
            "UnassignPrivateIpAddresses",
            priority,
            patience_s=patience_s,
            NetworkInterfaceId=eni_id,
            PrivateIpAddresses=list(addresses),
        )

    def tag(self, eni_id: str, tags: Mapping[str, str], priority: Priority = Priority.SWEEP) -> None:
        """Set tags of an ENI."""
        self._call("CreateTags", priority, Resources=[eni_id], Tags=answers.tag_list(tags))

    def close_idle(self) -> None:
        """Give back connections that nobody has used for IDLE_S.

        The server closes them too, sooner or later, and a call that meets such a one has an unknown outcome.
        """
        with self._lock:
            if self._in_flight == 0 and self._clock.now() - self._used_at >= IDLE_S:
                self._client.close()
                self._used_at = float("inf")

    # --- figures ------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, dict[str, int]]:
        """Calls so far: action, then outcome (`ok`, EC2's error code, or `no-answer`), then how many."""
        with self._lock:
            return {action: dict(outcomes) for action, outcomes in self._counts.items()}

    # --- calls --------------------------------------------------------------------------------------------

    def _enis(self, filters: Mapping[str, str], priority: Priority) -> tuple[Ec2Eni, ...]:
        entries = self._pages("DescribeNetworkInterfaces", "NetworkInterfaces", filters, priority)
        return tuple(answers.eni(entry) for entry in entries)

    def _pages(self, action: str, key: str, filters: Mapping[str, str], priority: Priority) -> list[Any]:
        parameters: dict[str, Any] = {
            "Filters": [{"Name": name, "Values": [value]} for name, value in filters.items()],
            "MaxResults": PAGE,
        }
        found: list[Any] = []
        seen: set[str] = set()
        while True:
            answer = self._call(action, priority, **parameters)
            found += answers.entries(answer, key)
            token = answer.get("NextToken")
            if not token:
                return found
            if not isinstance(token, str) or token in seen:
                raise answers.nonsense(action, "pages without end")
            seen.add(token)
            parameters["NextToken"] = token

    def _call(
        self, action: str, priority: Priority, *, patience_s: float = float("inf"), **parameters: Any
    ) -> dict[str, Any]:
        """One call, repeated only if EC2 refused it for its rate."""
        patience_s = self._wait(action, self._budget.reserve(action, priority), patience_s)
        pause = 0.5
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._once(action, parameters)
            except Ec2Error as error:
                self._count(action, error.api_code or "no-answer")
                if error.api_code not in THROTTLED:
                    raise
                self._budget.throttled(action)
                if attempt == TRIES:
                    raise
                wait = pause * (0.5 + self._rng.random()) + self._budget.reserve(action, priority)
                pause *= 2
                patience_s = self._wait(action, wait, patience_s)
                continue
            self._count(action, "ok")
            self._budget.succeeded(action)
            return answer
        raise AssertionError("unreachable")

    def _wait(self, action: str, seconds: float, patience_s: float) -> float:
        """Sleep for a call's turn; what is left of the patience. Ec2Error if that, or the thread's time, is shorter."""
        if seconds > min(patience_s, deadline.left()):
            self._count(action, NOT_SENT)
            self._budget.give_back(action)
            raise Ec2Error(
                f"{action} was not sent: its turn comes in {seconds:.1f} s", action=action, api_code=NOT_SENT,
                retry_after=seconds,
            )  # fmt: skip
        if seconds > 0:
            self._clock.sleep(seconds)
        return patience_s - seconds

    def _once(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        method: Callable[..., Any] = self._client._make_api_call
        self.close_idle()
        if deadline.left() <= 0:
            raise Ec2Error(f"{action} was not sent: its worker was given up", action=action, api_code=NOT_SENT)
        with self._lock:
            self._in_flight += 1
        try:
            with deadline.cut_after(self._timeout) as cut, ec2_http.calling(cut):
                answer = method(action, dict(parameters))
        except botocore.exceptions.ClientError as error:
            raise _refused(action, error) from error
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.CredentialRetrievalError) as error:
            raise Ec2Error(
                f"{action}: no AWS credentials",
                action=action,
                api_code="NoCredentials",
                cause=str(error),
                remedy=remedy(action, "NoCredentials"),
            ) from error
        except deadline.Unbounded as error:
            raise Ec2Error(
                f"{action} was not sent: nothing could end it",
                action=action,
                api_code=NOT_SENT,
                cause=str(error),
                retry_after=1.0,
                remedy="raise the limit of threads of the daemon's pod or cgroup",
            ) from error
        except botocore.exceptions.ParamValidationError as error:
            # Not sent: no outcome to look for.
            raise Ec2Error(
                f"{action} was not sent", action=action, api_code="ParamValidation", cause=str(error)
            ) from error
        except Exception as error:
            if cut.held_back:
                raise Ec2Error(
                    f"{action} was not sent: credentials and connection took too long",
                    action=action,
                    api_code=NOT_SENT,
                    cause=f"{type(error).__name__}: {error}",
                    retry_after=1.0,
                ) from error
            # Time-outs, broken connections, and whatever botocore's parsers raise over an answer that is nonsense.
            raise Ec2Error(
                f"{action}: no usable answer from EC2",
                action=action,
                cause=f"{type(error).__name__}: {error}" if not cut.happened else f"cut off after {self._timeout:g} s",
                retry_after=1.0,
            ) from error
        finally:
            with self._lock:
                self._in_flight -= 1
                self._used_at = self._clock.now()
        if not isinstance(answer, dict):
            raise answers.nonsense(action, repr(answer)[:80])
        return answer

    def _count(self, action: str, outcome: str) -> None:
        with self._lock:
            outcomes = self._counts.setdefault(action, {})
            outcomes[outcome] = outcomes.get(outcome, 0) + 1


def _refused(action: str, error: Any) -> Ec2Error:
    details = error.response.get("Error") if isinstance(error.response, dict) else None
    code = str((details or {}).get("Code", ""))
    text = str((details or {}).get("Message", ""))[:500]
    if not _CODE.fullmatch(code):
        # Without an error code in the body botocore makes one of the HTTP status.
        return Ec2Error(f"{action}: EC2 failed without a code", action=action, cause=str(error)[:500], retry_after=1.0)
    wait = 1.0 if code in THROTTLED or code in UNKNOWN else None
    what = f"{action}: {code}: {text}"
    return Ec2Error(what, action=action, api_code=code, retry_after=wait, remedy=remedy(action, code))
