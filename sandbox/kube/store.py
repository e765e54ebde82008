"""Objects of the Kubernetes stand-in: versions, conflicts, watches; no HTTP.

One counter gives every change its resource version, as etcd's revision does, and a bounded history of changes
feeds the watches, so a watch from a version too old gets 410 as from the real server. Kinds are data: a custom
resource is one more line.
"""

from __future__ import annotations

import copy
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]
HISTORY: Final = 4096
BOOKMARK_SECONDS: Final = 10.0


class KubeError(Exception):
    """A failure as the API tells it: HTTP status and reason."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.text = text


@dataclass(frozen=True)
class Kind:
    """One resource. `group` is empty for core."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS: Final = (
    Kind("", "v1", "nodes", "Node", namespaced=False),
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "events", "Event", has_status=False),
    Kind("", "v1", "configmaps", "ConfigMap", has_status=False),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", has_status=False),
    Kind("events.k8s.io", "v1", "events", "Event", has_status=False),
)


@dataclass(frozen=True)
class Change:
    """One event of a watch. `before` is what the object was, for selectors that it leaves."""

    version: int
    type: str
    kind: Kind
    thing: Object
    before: Object | None


class Store:
    """All objects. Safe from any thread. What it hands out is a copy, but for watches, which must not change it."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._version = 0
        self._objects: dict[tuple[Kind, str, str], Object] = {}
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}

    def register(self, kind: Kind) -> None:
        """One more kind (a custom resource)."""
        self._kinds[(kind.group, kind.version, kind.plural)] = kind

    def kind(self, group: str, version: str, plural: str) -> Kind:
        """Raises KubeError 404."""
        found = self._kinds.get((group, version, plural))
        if found is None:
            raise KubeError(404, "NotFound", "the server could not find the requested resource")
        return found

    def kinds(self) -> list[Kind]:
        return list(self._kinds.values())

    @property
    def version(self) -> int:
        return self._version

    # --- reading --------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Raises KubeError 404."""
        with self._changed:
            return copy.deepcopy(self._find(kind, namespace, name))

    def list(self, kind: Kind, namespace: str, matches: Callable[[Object], bool]) -> tuple[list[Object], int]:
        """Objects in one namespace (empty: all), in order of name, with the version they are true at."""
        with self._changed:
            found = [
                copy.deepcopy(thing)
                for (its_kind, where, _), thing in sorted(self._objects.items(), key=lambda item: item[0][1:])
                if its_kind is kind and namespace in ("", where) and matches(thing)
            ]
            return found, self._version

    def watch(
        self,
        kind: Kind,
        namespace: str,
        matches: Callable[[Object], bool],
        since: int | None,
        until: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[str, Object] | None]:
        """Events after version `since` (None: what there is, as ADDED, then on); None now and then, when nothing comes.

        Ends at monotonic time `until` or when `stopped`. Raises KubeError 410 if `since` is older than the history.
        """
        with self._changed:
            if since is None:
                backlog = [("ADDED", thing) for thing in self.list(kind, namespace, matches)[0]]
                since = self._version
            else:
                backlog = []
                if self._history and len(self._history) == HISTORY and since < self._history[0].version - 1:
                    raise KubeError(410, "Expired", f"too old resource version: {since} ({self._history[0].version})")
        yield from backlog
        while True:
            with self._changed:
                if self._version <= since:
                    self._changed.wait(min(1.0, max(0.0, until - time.monotonic())))
                if self._history and len(self._history) == HISTORY and since < self._history[0].version - 1:
                    raise KubeError(410, "Expired", f"too old resource version: {since} ({self._history[0].version})")
                news = []
                for change in reversed(self._history):
                    if change.version <= since:
                        break
                    news.append(change)
                since = max(since, self._version)
            sent = False
            for change in reversed(news):
                if change.kind is kind and namespace in ("", change.thing["metadata"].get("namespace", "")):
                    event = _seen(change, matches)
                    if event is not None:
                        sent = True
                        yield event
            if stopped() or time.monotonic() >= until:
                return
            if not sent:
                yield None

    # --- changing -------------------------------------------------------------------------------------

    def create(self, kind: Kind, namespace: str, thing: Object) -> Object:
        """Raises KubeError 400, 409 AlreadyExists, 422."""
        thing = copy.deepcopy(thing)
        meta = thing.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        name = meta.get("name")
        if not name or not isinstance(name, str):
            raise KubeError(
                422, "Invalid", f"{kind.kind}: metadata.name: Required value: name or generateName is required"
            )
        if kind.namespaced:
            if meta.setdefault("namespace", namespace or "default") != (namespace or "default"):
                raise KubeError(
                    400, "BadRequest", "the namespace of the object does not match the namespace on the request"
                )
        else:
            meta.pop("namespace", None)
        with self._changed:
            key = (kind, meta.get("namespace", ""), name)
            if key in self._objects:
                raise KubeError(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
            thing["apiVersion"], thing["kind"] = kind.api_version, kind.kind
            meta["uid"] = meta.get("uid") or str(uuid.uuid4())
            meta["creationTimestamp"] = timestamp(self._now())
            meta["generation"] = 1
            return self._commit("ADDED", key, thing, None)

    def update(self, kind: Kind, namespace: str, name: str, thing: Object, part: str = "") -> Object:
        """Replace, or with `part` "status" only the status. Raises KubeError 404, 409 (not the newest version)."""
        with self._changed:
            old = self._find(kind, namespace, name)
            version = (thing.get("metadata") or {}).get("resourceVersion")
            if version and version != old["metadata"]["resourceVersion"]:
                raise KubeError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {kind.plural} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again",
                )
            new = copy.deepcopy(old)
            if part == "status":
                new["status"] = copy.deepcopy(thing.get("status", {}))
            else:
                kept = {
                    key: old["metadata"].get(key)
                    for key in ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")
                }
                new = copy.deepcopy(thing)
                new["apiVersion"], new["kind"] = kind.api_version, kind.kind
                new["metadata"] = {
                    **new.get("metadata", {}),
                    **{key: value for key, value in kept.items() if value is not None},
                }
                if kind.has_status:
                    new.pop("status", None)
                    if "status" in old:
                        new["status"] = copy.deepcopy(old["status"])
                if new.get("spec") != old.get("spec"):
                    new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            if new == old:
                return copy.deepcopy(old)
            key = (kind, old["metadata"].get("namespace", ""), name)
            if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
                del self._objects[key]
                return self._commit("DELETED", key, new, old)
            return self._commit("MODIFIED", key, new, old)

    def patch(
        self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], part: str = ""
    ) -> Object:
        """Read, change and update in one. Raises KubeError 404, and what `change` raises."""
        with self._changed:
            old = self._find(kind, namespace, name)
            return self.update(kind, namespace, name, change(copy.deepcopy(old)), part)

    def delete(self, kind: Kind, namespace: str, name: str, uid: str = "") -> Object:
        """Gone at once, or with finalizers marked. `uid` is a precondition. Raises KubeError 404, 409."""
        with self._changed:
            old = self._find(kind, namespace, name)
            if uid and uid != old["metadata"]["uid"]:
                raise KubeError(
                    409,
                    "Conflict",
                    f"the UID in the precondition ({uid}) does not match the UID in record ({old['metadata']['uid']})",
                )
            key = (kind, old["metadata"].get("namespace", ""), name)
            new = copy.deepcopy(old)
            if old["metadata"].get("finalizers"):
                if "deletionTimestamp" in old["metadata"]:
                    return new
                new["metadata"]["deletionTimestamp"] = timestamp(self._now())
                return self._commit("MODIFIED", key, new, old)
            del self._objects[key]
            return self._commit("DELETED", key, new, old)

    def wake(self) -> None:
        """Let watches look whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def _find(self, kind: Kind, namespace: str, name: str) -> Object:
        thing = self._objects.get((kind, namespace if kind.namespaced else "", name))
        if thing is None:
            raise KubeError(404, "NotFound", f'{kind.plural} "{name}" not found')
        return thing

    def _commit(self, event: str, key: tuple[Kind, str, str], thing: Object, before: Object | None) -> Object:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        if event != "DELETED":
            self._objects[key] = thing
        self._history.append(Change(self._version, event, key[0], thing, before))
        self._changed.notify_all()
        return copy.deepcopy(thing)


def _seen(change: Change, matches: Callable[[Object], bool]) -> tuple[str, Object] | None:
    """What a watch with a selector sees: entering it is ADDED, leaving it DELETED."""
    now, before = matches(change.thing), change.before is not None and matches(change.before)
    if change.type == "DELETED":
        return ("DELETED", change.thing) if now or before else None
    if now:
        return ("MODIFIED" if before else "ADDED", change.thing)
    return ("DELETED", change.thing) if before else None


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def name_of(thing: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name."""
    meta = thing["metadata"]
    return meta.get("namespace", ""), meta["name"]
