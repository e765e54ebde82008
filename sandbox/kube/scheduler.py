"""A small scheduler: binds pods to nodes that have room for them.

After kube-scheduler's filters NodeUnschedulable, NodeName, TaintToleration, NodeAffinity (nodeSelector only) and
NodeResourcesFit: requests of cpu, memory, pods and any extended resource such as vpc.amazonaws.com/pod-eni against
`allocatable`. Among the nodes that fit, the least full by number of pods; equals in an order that the generator draws.
A pod that asks for affinity, spreading or claims is left alone, with a condition that names what is not modelled.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from sandbox.kube.api import Api
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import Object
from sandbox.kube.selectors import everything
from sandbox.kube.store import LOOK_SECONDS, Key

NAME: Final = "default-scheduler"
PODS: Final = ("", "pods")
_SUFFIXES: Final[Mapping[str, Decimal]] = {
    **{text: Decimal(1024) ** power for power, text in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{text: Decimal(1000) ** power for power, text in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    "m": Decimal("0.001"),
    "u": Decimal("0.000001"),
    "n": Decimal("0.000000001"),
}
_NOT_MODELLED: Final = ("affinity", "topologySpreadConstraints", "resourceClaims")


def quantity(text: object) -> Decimal:
    """A resource quantity (k8s.io/apimachinery pkg/api/resource). Raises ValueError."""
    shown = str(text)
    for suffix, factor in _SUFFIXES.items():
        if shown.endswith(suffix):
            return _decimal(shown.removesuffix(suffix), shown) * factor
    return _decimal(shown, shown)


def _decimal(digits: str, shown: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError:
        raise ValueError(f"quantity {shown!r} is no number with an optional suffix") from None


def requests(pod: Mapping[str, Any]) -> Counter[str]:
    """What the pod takes of a node, in thousandths: the containers' sum or the largest init container, and overhead."""
    spec = pod.get("spec") or {}

    def of(container: Mapping[str, Any]) -> Counter[str]:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        return Counter({name: int(quantity(value) * 1000) for name, value in wanted.items()})

    total: Counter[str] = Counter()
    for container in spec.get("containers") or ():
        total.update(of(container))
    for container in spec.get("initContainers") or ():
        total |= of(container)
    total.update({name: int(quantity(value) * 1000) for name, value in (spec.get("overhead") or {}).items()})
    total["pods"] += 1000
    return total


def tolerated(taint: Mapping[str, Any], tolerations: list[Mapping[str, Any]]) -> bool:
    """Whether one of the tolerations covers the taint (k8s.io/api core/v1 toleration.go)."""
    for entry in tolerations:
        if entry.get("effect") and entry["effect"] != taint.get("effect"):
            continue
        if entry.get("key") and entry["key"] != taint.get("key"):
            continue
        operator = entry.get("operator") or "Equal"
        if operator == "Exists" or (entry.get("key") and (entry.get("value") or "") == (taint.get("value") or "")):
            return True
    return False


class Scheduler:
    """Schedules the pods of one store, in a thread of its own or when told."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._store = api.store
        self._stop = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the store until `stop`."""
        self._thread = threading.Thread(target=self._follow, name="kube-scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop = True
        self._store.wake()
        if self._thread is not None:
            self._thread.join(5)

    def run_once(self) -> int:
        """Bind what can be bound now, oldest first; how many that were."""
        bound = 0
        waiting = [(key, pod) for key, pod in self._store.stored(PODS).items() if _waits(pod)]
        for key, pod in sorted(waiting, key=lambda entry: (entry[1]["metadata"]["creationTimestamp"], entry[0])):
            try:
                node, why = self._choose(pod)
                if node:
                    self._api.bind(*key, {"target": {"kind": "Node", "name": node}})
                    bound += 1
                else:
                    self._unschedulable(key, why)
            except KubeError:
                continue  # it went, or somebody else bound it
        return bound

    def _follow(self) -> None:
        seen = -1
        while not self._stop:
            with self._store.changed:
                if self._store.version == seen:
                    self._store.changed.wait(LOOK_SECONDS)
                    continue
                seen = self._store.version
            try:
                self.run_once()
            except Exception:
                traceback.print_exc()  # what cannot be understood may be gone at the next change

    def _choose(self, pod: Object) -> tuple[str, str]:
        """A node's name, or why there is none."""
        alien = [name for name in _NOT_MODELLED if pod["spec"].get(name)]
        if alien:
            return "", f"not simulated: spec.{alien[0]}"
        nodes = self._store.list(self._store.kind("", "v1", "nodes"), "", everything).items
        used: dict[str, Counter[str]] = {}
        for other in self._store.stored(PODS).values():
            at = (other.get("spec") or {}).get("nodeName")
            if at and (other.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                used.setdefault(at, Counter()).update(requests(other))
        reasons: Counter[str] = Counter()
        fitting: list[tuple[int, float, str]] = []
        for node in nodes:
            name = node["metadata"]["name"]
            taken = used.get(name, Counter())
            problems = _problems(pod, node, taken)
            reasons.update(problems)
            if not problems:
                fitting.append((taken["pods"], self._store.rng.random(), name))
        if fitting:
            return min(fitting)[2], ""
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return "", f"0/{len(nodes)} nodes are available" + (f": {listed}." if listed else ".")

    def _unschedulable(self, key: Key, why: str) -> None:
        def change(thing: Object) -> None:
            status = thing.setdefault("status", {})
            conditions = status.get("conditions") or []
            if any(entry.get("type") == "PodScheduled" and entry.get("message") == why for entry in conditions):
                return
            others = [entry for entry in conditions if entry.get("type") != "PodScheduled"]
            told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            status["conditions"] = [*others, {**told, "lastTransitionTime": self._store.timestamp()}]

        self._store.mark(self._store.kind("", "v1", "pods"), key, change)


def _waits(pod: Mapping[str, Any]) -> bool:
    spec = pod.get("spec") or {}
    return not (spec.get("nodeName") or spec.get("schedulingGates") or "deletionTimestamp" in pod["metadata"]) and (
        spec.get("schedulerName") == NAME
    )


def _problems(pod: Mapping[str, Any], node: Mapping[str, Any], taken: Counter[str]) -> list[str]:
    """Why the pod does not fit, in kube-scheduler's words."""
    spec, node_spec = pod["spec"], node.get("spec") or {}
    tolerations = spec.get("tolerations") or []
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node_spec.get("unschedulable") and not tolerated(cordon, tolerations):
        return ["node(s) were unschedulable"]
    for taint in node_spec.get("taints") or ():
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerated(taint, tolerations):
            return [f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"]
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    room = {
        name: int(quantity(value) * 1000)
        for name, value in ((node.get("status") or {}).get("allocatable") or {}).items()
    }
    return [
        "Too many pods" if name == "pods" else f"Insufficient {name}"
        for name, wanted in requests(pod).items()
        if wanted > 0 and taken[name] + wanted > room.get(name, 0)
    ]
