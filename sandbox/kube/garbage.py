"""Deletion and what follows from it: finalizers, owners, namespaces, custom resources.

What the API server's delete and the controllers behind it (garbage collector, namespace controller,
customresourcecleanup) do, but at once and in the store's lock: nobody sees a dependent outlive its owner.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube import errors, metadata
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import Kind, Object, Resource
from sandbox.kube.store import Change, Key, Store, seen_as

FOREGROUND: Final = "foregroundDeletion"
CLEANUP: Final = "customresourcecleanup.apiextensions.k8s.io"
POLICIES: Final = ("Background", "Foreground", "Orphan")
POD_GRACE: Final = 30
NAMESPACE: Final = ("", "namespaces")
DEFINITION: Final = ("apiextensions.k8s.io", "customresourcedefinitions")


class Garbage:
    """Deletes from one store and follows its changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at: dict[str, tuple[Resource, Key]] = {}  # uid to place
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)  # owner's uid to uids
        for kind in store.kinds():
            for key, thing in store.stored(kind.resource).items():
                self._at[thing["metadata"]["uid"]] = (kind.resource, key)
        store.follow(self._follow)

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        policy: str = "Background",
        grace: int | None = None,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """The object as it was left, and whether it is gone. Raises KubeError 404, 409 (preconditions)."""
        store = self._store
        with store.changed:
            old = store.get(kind, namespace, name)
            meta = old["metadata"]
            key = (meta.get("namespace", ""), name)
            for what, wanted, there in (
                ("UID", uid, meta["uid"]),
                ("ResourceVersion", version, meta["resourceVersion"]),
            ):
                if wanted and wanted != there:
                    text = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {there}"
                    raise errors.conflict(kind.plural, name, text, kind.group)
            if dry_run:
                return old, not meta.get("finalizers")
            if policy == "Orphan":
                self._orphan(meta["uid"])
            stays = self._finalizers(kind, key, meta, policy)
            graceful = kind.resource == ("", "pods") and (old.get("spec") or {}).get("nodeName") and grace != 0
            if not (stays or meta.get("finalizers") or graceful or kind.resource == NAMESPACE):
                return seen_as(kind, copy.deepcopy(store.remove(kind, key))), True
            if "deletionTimestamp" not in meta:
                seconds = (POD_GRACE if grace is None else grace) if graceful else 0
                self._mark(kind, key, seconds, stays)
            left = copy.deepcopy(store.stored(kind.resource).get(key) or old)
            if graceful and not left["metadata"].get("finalizers"):
                # There is no kubelet: its part, ending the containers and the object, is done at once.
                return seen_as(kind, copy.deepcopy(store.remove(kind, key))), False
            store.todo.append(lambda: self._clear(kind.resource, key))
            store.settle()
            return seen_as(kind, copy.deepcopy(store.stored(kind.resource).get(key) or left)), False

    # --- within the lock ------------------------------------------------------------------------------

    def _finalizers(self, kind: Kind, key: Key, meta: Mapping[str, Any], policy: str) -> list[str]:
        """What the deletion itself adds."""
        found = []
        if policy == "Foreground" and self._blockers(meta["uid"]):
            found.append(FOREGROUND)
        if kind.resource == DEFINITION and self._instances(key[1]):
            found.append(CLEANUP)
        return found

    def _mark(self, kind: Kind, key: Key, seconds: int, finalizers: list[str]) -> None:
        now = self._store.timestamp()

        def change(thing: Object) -> None:
            meta = thing["metadata"]
            meta["deletionTimestamp"] = now
            meta["deletionGracePeriodSeconds"] = seconds
            if kind.generation:
                meta["generation"] = meta.get("generation", 0) + 1
            if finalizers:
                meta["finalizers"] = [*meta.get("finalizers", []), *finalizers]
            if kind.resource == NAMESPACE:
                thing["status"] = {**thing.get("status", {}), "phase": "Terminating"}

        self._store.mark(kind, key, change, end=False)

    def _clear(self, resource: Resource, key: Key) -> None:
        """Go on with a deletion that waits for others: delete those, or end it when there are none."""
        thing = self._store.stored(resource).get(key)
        if thing is None or "deletionTimestamp" not in thing["metadata"]:
            return
        kind = self._store.kind_of(resource)
        finalizers = thing["metadata"].get("finalizers") or []
        if FOREGROUND in finalizers:
            for uid in self._blockers(thing["metadata"]["uid"]):
                self._delete_by_uid(uid, "Foreground")
            if not self._blockers(thing["metadata"]["uid"]):
                self._drop_finalizer(kind, key, FOREGROUND)
        if CLEANUP in finalizers:
            self._delete_all(self._instances(key[1]))
            if not self._instances(key[1]):
                self._drop_finalizer(kind, key, CLEANUP)
        if resource == NAMESPACE:
            self._delete_all(self._contents(key[1]))
            if not self._contents(key[1]):
                self._end_namespace(kind, key)

    def _end_namespace(self, kind: Kind, key: Key) -> None:
        thing = self._store.stored(NAMESPACE).get(key)
        if thing is None:
            return
        spec = thing.get("spec") or {}
        if "kubernetes" in (spec.get("finalizers") or ()):
            left = [entry for entry in spec["finalizers"] if entry != "kubernetes"]
            self._store.mark(kind, key, lambda new: new.setdefault("spec", {}).update(finalizers=left))
        elif metadata.ended(thing):
            self._store.remove(kind, key)

    def _drop_finalizer(self, kind: Kind, key: Key, name: str) -> None:
        def change(thing: Object) -> None:
            left = [entry for entry in thing["metadata"].get("finalizers", []) if entry != name]
            thing["metadata"]["finalizers"] = left

        if key in self._store.stored(kind.resource):
            self._store.mark(kind, key, change)

    def _contents(self, namespace: str) -> list[tuple[Resource, Key]]:
        return [
            (kind.resource, key)
            for kind in {kind.resource: kind for kind in self._store.kinds() if kind.namespaced}.values()
            for key in self._store.stored(kind.resource)
            if key[0] == namespace
        ]

    def _instances(self, definition: str) -> list[tuple[Resource, Key]]:
        plural, _, group = definition.partition(".")
        return [((group, plural), key) for key in self._store.stored((group, plural))]

    def _delete_all(self, places: list[tuple[Resource, Key]]) -> None:
        for resource, key in places:
            if key in self._store.stored(resource):
                self.delete(self._store.kind_of(resource), key[0], key[1])

    def _blockers(self, uid: str) -> list[str]:
        """Dependents that a foreground deletion waits for."""
        found = []
        for dependent in self._dependents.get(uid, ()):
            thing = self._thing(dependent)
            owners = thing["metadata"].get("ownerReferences") or [] if thing else []
            if any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in owners):
                found.append(dependent)
        return sorted(found)

    def _thing(self, uid: str) -> Object | None:
        place = self._at.get(uid)
        return self._store.stored(place[0]).get(place[1]) if place else None

    def _delete_by_uid(self, uid: str, policy: str) -> None:
        place = self._at.get(uid)
        if place is not None:
            try:
                self.delete(self._store.kind_of(place[0]), *place[1], uid=uid, policy=policy)
            except KubeError:
                return

    def _orphan(self, uid: str) -> None:
        for dependent in sorted(self._dependents.get(uid, ())):
            self._drop_owner(dependent, {uid})

    def _drop_owner(self, dependent: str, owners: set[str]) -> None:
        def change(thing: Object) -> None:
            meta = thing["metadata"]
            left = [owner for owner in meta["ownerReferences"] if owner["uid"] not in owners]
            meta["ownerReferences"] = left
            if not left:
                del meta["ownerReferences"]

        place = self._at.get(dependent)
        if place is not None:
            self._store.mark(self._store.kind_of(place[0]), place[1], change)

    def _follow(self, change: Change) -> None:
        meta = change.thing["metadata"]
        uid = meta["uid"]
        for owner in (change.before or {}).get("metadata", {}).get("ownerReferences") or ():
            self._dependents[owner["uid"]].discard(uid)
        if change.type == "DELETED":
            self._at.pop(uid, None)
            self._store.todo.append(lambda: self._after_deletion(change))
            return
        self._at[uid] = (change.resource, change.key)
        for owner in meta.get("ownerReferences") or ():
            self._dependents[owner["uid"]].add(uid)
        if meta.get("ownerReferences"):
            self._store.todo.append(lambda: self._collect(uid))

    def _after_deletion(self, change: Change) -> None:
        uid = change.thing["metadata"]["uid"]
        for dependent in sorted(self._dependents.pop(uid, ())):
            self._collect(dependent)
        for owner in change.thing["metadata"].get("ownerReferences") or ():
            if owner["uid"] in self._at:
                self._clear(*self._at[owner["uid"]])
        if change.key[0]:
            self._clear(NAMESPACE, ("", change.key[0]))
        group, plural = change.resource
        self._clear(DEFINITION, ("", f"{plural}.{group}"))

    def _collect(self, uid: str) -> None:
        """Delete a dependent none of whose owners is there; else drop the references to those that are not."""
        thing = self._thing(uid)
        owners = {owner["uid"] for owner in (thing or {}).get("metadata", {}).get("ownerReferences") or ()}
        gone = {owner for owner in owners if owner not in self._at}
        if not gone:
            return
        if gone == owners:
            self._delete_by_uid(uid, "Background")
        else:
            self._drop_owner(uid, gone)
