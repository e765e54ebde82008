"""A random life of objects in the Kubernetes stand-in, against a slow twin that keeps every state there ever was.

The twin applies the documented rules naively to whole snapshots: no index, no history, no events. Watches from any
version must tell exactly the difference of the snapshots between, and lists of any version must show them.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sandbox.kube.api import APPLY, MERGE, Api, Options
from sandbox.kube.apply import from_wire
from sandbox.kube.errors import KubeError
from sandbox.kube.selectors import everything
from sandbox.kube.store import Store
from tests.sandbox.ec2_kit import HandClock

NAMES = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from(["x", "y"])
VALUES = st.sampled_from(["1", "2"])
DATA = st.dictionaries(KEYS, VALUES, max_size=2)
MANAGERS = st.sampled_from(["one", "two"])
HOLD = "x.io/hold"


class Thing:
    """What the twin knows of one object."""

    def __init__(self, uid: str, data: dict[str, str], owners: list[str]) -> None:
        self.uid = uid
        self.data = dict(data)
        self.owners = owners
        self.held = False
        self.ending = False
        self.wanted: dict[str, set[str]] = {}  # by applying manager
        self.touched: dict[str, set[str]] = {}  # by updating manager

    def others(self, manager: str, applying: bool) -> dict[str, set[str]]:
        found = {f"update {name}": keys for name, keys in self.touched.items()}
        found.update({f"apply {name}": keys for name, keys in self.wanted.items()})
        found.pop(f"{'apply' if applying else 'update'} {manager}", None)
        return found

    def shown(self) -> Any:
        managed = {(name, "Apply"): keys for name, keys in self.wanted.items() if keys}
        managed.update({(name, "Update"): keys for name, keys in self.touched.items() if keys})
        return (self.uid, dict(self.data), sorted(self.owners), self.held, self.ending, managed)


class Twin:
    """All objects of the twin."""

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {}

    def delete(self, name: str, policy: str = "Background") -> None:
        thing = self.things[name]
        if policy == "Orphan":
            for other in self.things.values():
                other.owners = [uid for uid in other.owners if uid != thing.uid]
        if thing.held:
            thing.ending = True
        else:
            del self.things[name]
        self.collect()

    def collect(self) -> None:
        """Until nothing changes: who has owners but none that is there goes; references to the dead are dropped."""
        while True:
            alive = {thing.uid for thing in self.things.values()}
            lost = [n for n, t in self.things.items() if t.owners and not alive & set(t.owners) and not t.ending]
            for thing in self.things.values():
                if alive & set(thing.owners):
                    thing.owners = [uid for uid in thing.owners if uid in alive]
            if not lost:
                return
            for name in lost:
                if self.things[name].held:
                    self.things[name].ending = True
                else:
                    del self.things[name]

    def changed(self, thing: Thing, manager: str, data: dict[str, str]) -> None:
        """A write of `manager`: it has what it changed, and nobody else has that or what is gone."""
        altered = {key for key, value in data.items() if thing.data.get(key) != value}
        gone = set(thing.data) - set(data)
        for sets in (thing.wanted, thing.touched):
            for name in sets:
                sets[name] = sets[name] - altered - gone
        thing.touched[manager] = thing.touched.get(manager, set()) | altered
        thing.data = dict(data)

    def apply(self, thing: Thing, manager: str, data: dict[str, str], force: bool) -> bool:
        """Whether it went through."""
        others = thing.others(manager, True)
        conflicts = {key for key, value in data.items() if thing.data.get(key) != value}
        conflicts = {key for key in conflicts if any(key in keys for keys in others.values())}
        if conflicts and not force:
            return False
        for sets in (thing.wanted, thing.touched):
            for name in sets:
                if sets is thing.touched or name != manager:
                    sets[name] = sets[name] - conflicts
        others = thing.others(manager, True)
        for key in thing.wanted.get(manager, set()) - set(data):
            if not any(key in keys for keys in others.values()):
                thing.data.pop(key, None)
        thing.data.update(data)
        thing.wanted[manager] = set(data)
        return True


def managed(item: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Keys of the data by manager and operation, as the object tells."""
    found = {}
    for entry in item["metadata"].get("managedFields") or ():
        keys = {path[-1][2:] for path in from_wire(entry["fieldsV1"]) if path[0] == "f:data" and len(path) == 2}
        if keys:
            found[(entry["manager"], entry["operation"])] = keys
    return found


class StoreMachine(RuleBasedStateMachine):
    """ConfigMaps of one namespace, in process."""

    def __init__(self) -> None:
        super().__init__()
        self.api = Api(Store(HandClock(), random.Random(7)))
        self.kind = self.api.store.kind("", "v1", "configmaps")
        self.twin = Twin()
        self.states: dict[int, dict[str, Any]] = {}
        self._keep()

    def _keep(self) -> None:
        """What the store shows now; versions between two of these have no state of the twin's."""
        self.states[self.api.store.version] = {
            item["metadata"]["name"]: copy.deepcopy(item) for item in self.api.store.list(self.kind).items
        }

    def _refused(self, call: Any) -> str:
        """The reason of a refusal, empty if there was none."""
        try:
            call()
        except KubeError as error:
            return error.reason
        return ""

    @rule(name=NAMES, data=DATA, owners=st.lists(NAMES, max_size=2, unique=True), held=st.booleans(), manager=MANAGERS)
    def create(self, name: str, data: dict[str, str], owners: list[str], held: bool, manager: str) -> None:
        known = [(owner, self.twin.things[owner].uid) for owner in owners if owner in self.twin.things]
        references = [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid} for owner, uid in known]
        meta = {"name": name, "ownerReferences": references, "finalizers": [HOLD] if held else []}
        made: list[dict[str, Any]] = []
        body = {"metadata": meta, "data": data}
        reason = self._refused(lambda: made.append(self.api.create(self.kind, "default", body, Options(manager))))
        assert reason == ("AlreadyExists" if name in self.twin.things else "")
        if not reason:
            thing = Thing(made[0]["metadata"]["uid"], {}, [uid for _, uid in known])
            self.twin.changed(thing, manager, data)
            thing.held = held
            self.twin.things[name] = thing

    @rule(name=NAMES, data=DATA, manager=MANAGERS, stale=st.booleans())
    def update(self, name: str, data: dict[str, str], manager: str, stale: bool) -> None:
        there = self.states[self.api.store.version].get(name)
        meta = dict(there["metadata"]) if there else {"name": name}
        if stale:
            meta["resourceVersion"] = "1"
        body = {"metadata": meta, "data": data}
        reason = self._refused(lambda: self.api.update(self.kind, "default", name, body, options=Options(manager)))
        assert reason == ("NotFound" if there is None else "Conflict" if stale else "")
        if not reason:
            self.twin.changed(self.twin.things[name], manager, data)

    @rule(name=NAMES, key=KEYS, value=st.none() | VALUES, manager=MANAGERS)
    def patch(self, name: str, key: str, value: str | None, manager: str) -> None:
        body = {"data": {key: value}}
        reason = self._refused(
            lambda: self.api.patch(self.kind, "default", name, MERGE, body, options=Options(manager))
        )
        thing = self.twin.things.get(name)
        assert reason == ("NotFound" if thing is None else "")
        if thing is not None:
            data = (
                {**thing.data, key: value} if value is not None else {k: v for k, v in thing.data.items() if k != key}
            )
            self.twin.changed(thing, manager, {k: v for k, v in data.items() if v is not None})

    @rule(name=NAMES, data=DATA, manager=MANAGERS, force=st.booleans())
    def apply(self, name: str, data: dict[str, str], manager: str, force: bool) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        if not data:
            del body["data"]
        made: list[Any] = []
        options = Options(manager, force=force)
        reason = self._refused(
            lambda: made.append(self.api.patch(self.kind, "default", name, APPLY, body, options=options))
        )
        thing = self.twin.things.get(name)
        if thing is None:
            assert not reason
            thing = self.twin.things[name] = Thing(made[0][0]["metadata"]["uid"], {}, [])
        assert reason == ("" if self.twin.apply(thing, manager, data, force) else "Conflict")

    @rule(name=NAMES, policy=st.sampled_from(["Background", "Orphan"]))
    def delete(self, name: str, policy: str) -> None:
        body = {"propagationPolicy": policy}
        reason = self._refused(lambda: self.api.delete(self.kind, "default", name, body))
        assert reason == ("" if name in self.twin.things else "NotFound")
        if not reason:
            self.twin.delete(name, policy)

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        """Take the finalizer away."""
        body = {"metadata": {"finalizers": None}}
        reason = self._refused(lambda: self.api.patch(self.kind, "default", name, MERGE, body))
        thing = self.twin.things.get(name)
        assert reason == ("NotFound" if thing is None else "")
        if thing is not None:
            thing.held = False
            if thing.ending:
                del self.twin.things[name]
                self.twin.collect()

    @invariant()
    def shows_what_the_twin_has(self) -> None:
        self._keep()
        found = {}
        for name, item in self.states[self.api.store.version].items():
            meta = item["metadata"]
            owners = sorted(owner["uid"] for owner in meta.get("ownerReferences") or ())
            ending, held = "deletionTimestamp" in meta, bool(meta.get("finalizers"))
            found[name] = (meta["uid"], item.get("data") or {}, owners, held, ending, managed(item))
        assert found == {name: thing.shown() for name, thing in self.twin.things.items()}

    @invariant()
    def watches_from_any_version_tell_exactly_the_history(self) -> None:
        now = self.api.store.clock.now()
        for version, state in self.states.items():
            told = dict(state)
            last = version
            for event in self.api.store.watch(self.kind, "default", everything, version, now):
                if event is None:
                    continue
                kind, item = event
                name, at = item["metadata"]["name"], int(item["metadata"]["resourceVersion"])
                assert at > last, "in order, once"
                last = at
                assert (kind == "ADDED") == (name not in told)
                if kind == "DELETED":
                    del told[name]
                else:
                    told[name] = item
            assert told == self.states[self.api.store.version]
            page = self.api.store.list(self.kind, "default", at=version)
            assert {item["metadata"]["name"]: item for item in page.items} == state


StoreMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
