"""Objects of the Kubernetes stand-in: versions, conflicts, history; no HTTP.

One counter gives every change its resource version, as etcd's revision does, and a bounded history of changes
feeds watches and pages of old versions, so what is too old gets 410 as from the real server. What follows from a
change (garbage, namespaces, definitions) is done by followers, in the same lock, before anybody else sees the store.
"""

from __future__ import annotations

import copy
import random
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sandbox.kube import defaults, errors, metadata
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import KINDS, Kind, Object, Resource
from sandbox.kube.selectors import Matcher, everything

HISTORY: Final = 4096
LOOK_SECONDS: Final = 0.25  # a waiting watch looks this often (by the machine) at the clock that it was given
NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
Key = tuple[str, str]  # namespace and name


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...


@dataclass(frozen=True)
class Change:
    """One event of a watch. `before` is what the object was, for selectors that it leaves."""

    version: int
    type: str
    resource: Resource
    key: Key
    thing: Object
    before: Object | None


@dataclass(frozen=True)
class Page:
    """A list, or a part of it. `items` are the store's own and must not be changed."""

    items: list[Object]
    version: int
    following: Key | None = None  # the last key of this page, if there are more
    remaining: int = 0


class Store:
    """All objects. Safe from any thread."""

    def __init__(self, clock: Clock, rng: random.Random, history: int = HISTORY) -> None:
        self.clock = clock
        self.rng = rng
        self.changed = threading.Condition()
        self._version = 0
        self._objects: defaultdict[Resource, dict[Key, Object]] = defaultdict(dict)
        self._history: deque[Change] = deque()
        self._limit = history
        self._oldest = 0  # what happened up to here can no longer be told
        self._expired = 0  # watches begun before this many calls of `expire` are told 410
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
        self._depth = 0
        self._followers: list[Callable[[Change], None]] = []
        self.todo: deque[Callable[[], object]] = deque()
        for name in NAMESPACES:
            self.create(self.kind("", "v1", "namespaces"), "", metadata.namespace(name))

    # --- kinds ----------------------------------------------------------------------------------------

    def register(self, kind: Kind) -> None:
        """One more kind."""
        self._kinds[(kind.group, kind.version, kind.plural)] = kind

    def unregister(self, resource: Resource) -> None:
        """All versions of one resource go."""
        self._kinds = {key: kind for key, kind in self._kinds.items() if kind.resource != resource}

    def kind(self, group: str, version: str, plural: str) -> Kind:
        """Raises KubeError 404."""
        found = self._kinds.get((group, version, plural))
        if found is None:
            raise errors.nowhere()
        return found

    def kind_of(self, resource: Resource) -> Kind:
        """Any version of it. Raises KubeError 404."""
        found = next((kind for kind in self._kinds.values() if kind.resource == resource), None)
        if found is None:
            raise errors.nowhere()
        return found

    def kinds(self) -> list[Kind]:
        return list(self._kinds.values())

    def follow(self, follower: Callable[[Change], None]) -> None:
        """Have `follower` told of each change, in the lock; more changes belong into `todo`."""
        self._followers.append(follower)

    @property
    def version(self) -> int:
        return self._version

    @property
    def oldest(self) -> int:
        """The oldest version that a watch can start from."""
        return self._oldest

    # --- reading --------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """A copy. Raises KubeError 404."""
        with self.changed:
            return copy.deepcopy(seen_as(kind, self._find(kind, namespace, name)))

    def stored(self, resource: Resource) -> dict[Key, Object]:
        """The objects of one resource as they are kept; not to be changed."""
        with self.changed:
            return dict(self._objects[resource])

    def list(
        self,
        kind: Kind,
        namespace: str = "",
        matches: Matcher = everything,
        *,
        at: int | None = None,
        after: Key | None = None,
        limit: int = 0,
    ) -> Page:
        """Objects in one namespace (empty: all), in order of key, as of now or version `at`, behind `after`.

        Raises KubeError 410 if `at` is too old, 504 if it has not been.
        """
        with self.changed:
            if at is not None and at > self._version:
                raise errors.too_large(at, self._version)
            if at is not None and at < self._oldest:
                raise errors.expired(at, self._oldest)
            version = self._version if at is None else at
            found = self._objects[kind.resource]
            if version < self._version:
                found = dict(found)
                for change in reversed(self._history):
                    if change.version <= version:
                        break
                    if change.resource == kind.resource:
                        if change.before is None:
                            found.pop(change.key, None)
                        else:
                            found[change.key] = change.before
            items: list[Object] = []
            keys: list[Key] = []
            for key in sorted(found):
                if (after is None or key > after) and namespace in ("", key[0]) and matches(found[key]):
                    items.append(seen_as(kind, found[key]))
                    keys.append(key)
        if limit and len(items) > limit:
            return Page(items[:limit], version, keys[limit - 1], len(items) - limit)
        return Page(items, version)

    def watch(
        self,
        kind: Kind,
        namespace: str,
        matches: Matcher,
        since: int | None,
        until: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[str, Object] | None]:
        """Events after version `since` (None: what there is, as ADDED, then on); None now and then, when nothing comes.

        Ends when the clock is at `until`, or when `stopped`. Raises KubeError 410 if `since` is older than the
        history, 504 if it has not been.
        """
        backlog: list[Object] = []
        with self.changed:
            generation = self._expired
            if since is None:
                page = self.list(kind, namespace, matches)
                backlog, since = page.items, page.version
            elif since > self._version:
                raise errors.too_large(since, self._version)
        for thing in backlog:
            yield "ADDED", thing
        while True:
            with self.changed:
                if self._version <= since and generation == self._expired:
                    self.changed.wait(min(LOOK_SECONDS, max(0.0, until - self.clock.now())))
                if since < self._oldest or generation != self._expired:
                    raise errors.expired(since, self._oldest)
                news = []
                for change in reversed(self._history):
                    if change.version <= since:
                        break
                    news.append(change)
                since = max(since, self._version)
            sent = False
            for change in reversed(news):
                if change.resource == kind.resource and namespace in ("", change.key[0]):
                    event = _seen(change, matches)
                    if event is not None:
                        sent = True
                        yield event[0], seen_as(kind, event[1])
            if stopped() or self.clock.now() >= until:
                return
            if not sent:
                yield None

    # --- changing -------------------------------------------------------------------------------------

    def create(self, kind: Kind, namespace: str, thing: Object, *, uid: str = "", dry_run: bool = False) -> Object:
        """Raises KubeError 400, 403 (the namespace is ending), 404 (no such namespace), 409 AlreadyExists, 422."""
        with self._operation():
            made = metadata.new(kind, namespace, thing, self.timestamp(), self.rng)
            defaults.fill(kind, made)
            made["metadata"]["uid"] = uid or str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
            key = (made["metadata"].get("namespace", ""), made["metadata"]["name"])
            if kind.namespaced:
                self._check_namespace(kind, key)
            if key in self._objects[kind.resource]:
                raise errors.already_exists(kind.plural, key[1], kind.group)
            return seen_as(kind, copy.deepcopy(self._commit("ADDED", kind, key, made, None, dry_run)))

    def update(
        self, kind: Kind, namespace: str, name: str, thing: Object, part: str = "", *, dry_run: bool = False
    ) -> Object:
        """Replace, or with `part` "status" only the status. Raises KubeError 404, 409 (not the newest version), 422."""
        with self._operation():
            old = self._find(kind, namespace, name)
            new = metadata.carried_over(kind, old, thing, part)
            defaults.fill(kind, new)
            key = (old["metadata"].get("namespace", ""), name)
            if new == old:
                return copy.deepcopy(seen_as(kind, old))
            if metadata.ended(new):
                return copy.deepcopy(seen_as(kind, self._remove(kind, key, new, old, dry_run)))
            return copy.deepcopy(seen_as(kind, self._commit("MODIFIED", kind, key, new, old, dry_run)))

    def patch(
        self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], part: str = ""
    ) -> Object:
        """Read, change and update in one. Raises KubeError 404, and what `change` raises."""
        with self.changed:
            old = copy.deepcopy(self._find(kind, namespace, name))
            return self.update(kind, namespace, name, change(old), part)

    def mark(self, kind: Kind, key: Key, change: Callable[[Object], object], *, end: bool = True) -> Object:
        """For followers: change a stored object's copy in place, past all rules; gone if its deletion is held by
        nothing more, unless not `end`. Raises KubeError 404."""
        with self._operation():
            old = self._find(kind, *key)
            new = copy.deepcopy(old)
            change(new)
            if new == old:
                return old
            if end and metadata.ended(new):
                return self._remove(kind, key, new, old, False)
            return self._commit("MODIFIED", kind, key, new, old, False)

    def settle(self) -> None:
        """Do what is to do."""
        with self._operation():
            pass

    def remove(self, kind: Kind, key: Key) -> Object:
        """For followers: take an object away, past all rules. Raises KubeError 404."""
        with self._operation():
            old = self._find(kind, *key)
            return self._remove(kind, key, copy.deepcopy(old), old, False)

    # --- faults and watches ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Let watches look at the clock and whether they are stopped."""
        with self.changed:
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget the history: versions before now are 410 for new watches and pages."""
        with self.changed:
            self._history.clear()
            self._oldest = self._version

    def expire(self) -> None:
        """Compact, and tell running watches 410 too."""
        with self.changed:
            self.compact()
            self._expired += 1
            self.changed.notify_all()

    def timestamp(self) -> str:
        """Now, as objects carry it."""
        return timestamp(self.clock.now())

    # --- within ---------------------------------------------------------------------------------------

    def _find(self, kind: Kind, namespace: str, name: str) -> Object:
        thing = self._objects[kind.resource].get((namespace if kind.namespaced else "", name))
        if thing is None:
            raise errors.not_found(kind.plural, name, kind.group)
        return thing

    def _check_namespace(self, kind: Kind, key: Key) -> None:
        found = self._objects[("", "namespaces")].get(("", key[0]))
        if found is None:
            raise errors.not_found("namespaces", key[0])
        if "deletionTimestamp" in found["metadata"]:
            text = f"unable to create new content in namespace {key[0]} because it is being terminated"
            cause = errors.Cause(
                "NamespaceTerminating", "metadata.namespace", f"namespace {key[0]} is being terminated"
            )
            details = {"name": key[1], "kind": kind.plural}
            raise KubeError(
                403, "Forbidden", f'{kind.plural} "{key[1]}" is forbidden: {text}', details=details, causes=[cause]
            )

    @contextmanager
    def _operation(self) -> Iterator[None]:
        """The lock; at the end of the outermost operation followers do what is to do."""
        with self.changed:
            self._depth += 1
            try:
                yield
                while self._depth == 1 and self.todo:
                    self.todo.popleft()()
            finally:
                self._depth -= 1

    def _remove(self, kind: Kind, key: Key, thing: Object, before: Object, dry_run: bool) -> Object:
        return self._commit("DELETED", kind, key, thing, before, dry_run)

    def _commit(self, event: str, kind: Kind, key: Key, thing: Object, before: Object | None, dry_run: bool) -> Object:
        if dry_run:
            return thing
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        if event == "DELETED":
            del self._objects[kind.resource][key]
        else:
            self._objects[kind.resource][key] = thing
        change = Change(self._version, event, kind.resource, key, thing, before)
        self._history.append(change)
        while len(self._history) > self._limit:
            self._oldest = self._history.popleft().version
        for follower in self._followers:
            follower(change)
        self.changed.notify_all()
        return thing


def seen_as(kind: Kind, thing: Object) -> Object:
    """In the version asked for; without conversion, versions differ in nothing else."""
    return thing if thing["apiVersion"] == kind.api_version else {**thing, "apiVersion": kind.api_version}


def _seen(change: Change, matches: Matcher) -> tuple[str, Object] | None:
    """What a watch with a selector sees: entering it is ADDED, leaving it DELETED."""
    now, before = matches(change.thing), change.before is not None and matches(change.before)
    if change.type == "DELETED":
        return ("DELETED", change.thing) if now or before else None
    if now:
        return ("MODIFIED" if before else "ADDED", change.thing)
    if not before or change.before is None:
        return None
    # The real server shows the object as it last matched, with the version of the change.
    version = change.thing["metadata"]["resourceVersion"]
    return "DELETED", {**change.before, "metadata": {**change.before["metadata"], "resourceVersion": version}}


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def name_of(thing: Mapping[str, Any]) -> Key:
    """Namespace and name."""
    meta = thing["metadata"]
    return meta.get("namespace", ""), meta["name"]
