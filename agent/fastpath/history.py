"""The last 512 pods that failed or are gone, and how any pod is shown to the commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from agent import control
from core import addresses
from core.ipam import UP, Owner
from core.records import HISTORY_LENGTH, Gone, OwnerMeta, Past
from core.wiring import route_texts, rule_texts


class History:
    """Newest last; what is beyond the length is forgotten."""

    def __init__(self, pasts: Iterable[Past] = ()) -> None:
        self._pasts: deque[Past] = deque(pasts, maxlen=HISTORY_LENGTH)

    def __len__(self) -> int:
        return len(self._pasts)

    def __iter__(self) -> Iterator[Past]:
        return iter(self._pasts)

    def add(self, meta: OwnerMeta, gone: Gone, address: bytes = b"") -> Past:
        """Remember one more."""
        past = Past(meta, gone, address)
        self._pasts.append(past)
        return past

    def halve(self) -> None:
        """Forget the older half (all, if it is one)."""
        for _ in range((len(self._pasts) + 1) // 2):
            self._pasts.popleft()

    def of(self, namespace: str, pod: str) -> list[control.Pod]:
        """All records of this pod, newest first."""
        found = [past_pod(p) for p in self._pasts if p.owner.namespace == namespace and p.owner.pod == pod]
        found.reverse()
        return found


def _pod(meta: OwnerMeta, state: str, address: bytes) -> control.Pod:
    return control.Pod(
        namespace=meta.namespace,
        pod=meta.pod,
        container_id=meta.container_id,
        ifname=meta.ifname,
        network=meta.network,
        state=state,
        addresses=[addresses.cidr(address)] if address else [],
        eni_id=meta.eni_id,
        device=meta.device,
        table=meta.table if address else 0,
        host_veth=meta.host_veth,
        netns=meta.netns,
        since_unix=meta.since_unix_ns / 1e9,
        phases=dict(meta.phases),
    )


def past_pod(past: Past) -> control.Pod:
    """A pod that failed or is gone."""
    gone = past.gone
    pod = _pod(past.owner, gone.state, past.address)
    pod.until_unix = gone.until_unix_ns / 1e9
    pod.phases = dict(gone.phases or past.owner.phases)
    pod.error, pod.error_code, pod.details = gone.error, gone.error_code, gone.details
    return pod


def owner_pod(owner: Owner) -> control.Pod:
    """A pod with an address; rules and routes are those that it should have."""
    pod = _pod(owner.meta, owner.state, owner.address)
    if owner.state == UP and owner.host_index:
        pod.rules = rule_texts(owner.address, owner.meta.table)
        pod.routes = route_texts(owner.address, owner.meta.host_veth)
    return pod


def parked_pod(meta: OwnerMeta, phases: dict[str, int]) -> control.Pod:
    """A pod that waits for an address."""
    pod = _pod(meta, "parked", b"")
    pod.phases = dict(phases)
    return pod
