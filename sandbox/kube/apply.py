"""Who manages which field: server-side apply and the field sets of `metadata.managedFields`.

After KEP-555 and sigs.k8s.io/structured-merge-diff: apply merges a manager's whole intent, takes away what it no longer
wants and nobody else has, and conflicts where another manager's value would change; every other write gives its manager
the fields that it changed. A field is a path of FieldsV1 parts: `f:NAME`, `k:{KEYS}`, `v:VALUE`, and `.` for a list's
entry itself. A list that does not merge, and an empty map, are one field.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sandbox.kube.errors import Cause, KubeError, bad_request
from sandbox.kube.kinds import Keys, Kind, Object

Path = tuple[str, ...]
Fields = frozenset[Path]
# Fields that nobody manages: fieldmanager/internal/stripmeta.go.
_META: Final = (
    *("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields"),
    *("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"),
)
_STRIPPED: Final = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", f"f:{name}") for name in _META)}
)


def fields_of(thing: Mapping[str, Any], kind: Kind) -> dict[Path, Any]:
    """All managed fields of an object with their values."""
    found: dict[Path, Any] = {}
    _collect(thing, (), "", kind.lists, found)
    return {path: value for path, value in found.items() if path not in _STRIPPED and path[:2] not in _STRIPPED}


def _collect(value: Any, path: Path, dotted: str, lists: Mapping[str, Keys], found: dict[Path, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            _collect(below, (*path, f"f:{name}"), f"{dotted}.{name}" if dotted else name, lists, found)
        return
    keys = lists.get(dotted)
    if isinstance(value, list) and value and keys is not None and dotted:
        for entry in value:
            part = _part(entry, keys)
            if keys.apply:
                found[(*path, part, ".")] = None
                for name, below in entry.items():
                    _collect(below, (*path, part, f"f:{name}"), f"{dotted}.{name}", lists, found)
            else:
                found[(*path, part)] = entry
        return
    found[path] = value


def _part(entry: Any, keys: Keys) -> str:
    """How a list's entry is named. Raises KubeError 400 where a key is missing; a port's protocol is TCP then."""
    if not keys.apply:
        return "v:" + json.dumps(entry, separators=(",", ":"), sort_keys=True)
    if not isinstance(entry, Mapping):
        raise bad_request(f"associative list with keys {list(keys.apply)} has an element that is no map: {entry!r}")
    chosen = {}
    for key in keys.apply:
        if key not in entry and key != "protocol":
            raise bad_request(f'associative list with keys has an element that omits key field "{key}"')
        chosen[key] = entry.get(key, "TCP")
    return "k:" + json.dumps(chosen, separators=(",", ":"), sort_keys=True)


# --- the form on the wire ------------------------------------------------------------------------------


def to_wire(fields: Iterable[Path]) -> Object:
    """FieldsV1."""
    tree: Object = {}
    for path in sorted(fields):
        place: Any = tree
        for part in path:
            place = place.setdefault(part, {})
    return tree


def from_wire(tree: Mapping[str, Any], above: Path = ()) -> Fields:
    """A map's own `.`, which others write, is not kept, as a map here is a field only when empty."""
    found: set[Path] = set()
    for part, below in tree.items():
        path = (*above, part)
        if part == "." and above and not above[-1].startswith("k:"):
            continue
        found |= from_wire(below, path) if below else {path}
    return frozenset(found)


def managers(thing: Mapping[str, Any]) -> dict[tuple[str, str, str], Object]:
    """Entries by manager, operation and subresource."""
    entries = (thing.get("metadata") or {}).get("managedFields") or []
    return {(entry["manager"], entry["operation"], entry.get("subresource", "")): entry for entry in entries}


def _store(
    thing: Object,
    kind: Kind,
    before: Mapping[tuple[str, str, str], Object],
    sets: Mapping[tuple[str, str, str], Fields],
    when: str,
) -> None:
    entries = []
    for (manager, operation, part), fields in sets.items():
        if not fields:
            continue
        wire = to_wire(fields)
        old = before.get((manager, operation, part))
        if old is not None and old["fieldsV1"] == wire:
            entries.append(old)
            continue
        entry = {
            "manager": manager,
            "operation": operation,
            "apiVersion": kind.api_version,
            "time": when,
            "fieldsType": "FieldsV1",
            "fieldsV1": wire,
        }
        entries.append({**entry, "subresource": part} if part else entry)
    thing["metadata"].pop("managedFields", None)
    if entries:
        thing["metadata"]["managedFields"] = sorted(
            entries, key=lambda entry: (entry["operation"] != "Apply", entry["time"])
        )


def updated(old: Mapping[str, Any] | None, new: Object, kind: Kind, manager: str, part: str, when: str) -> None:
    """Note in `new` that a create, update or patch of `manager` changed what differs from `old`."""
    given = new["metadata"].get("managedFields")
    reset = old is not None and given is not None and not any(given)
    before = {} if reset else managers(old or {})
    was, now = fields_of(old or {}, kind), fields_of(new, kind)
    changed = {path for path, value in now.items() if path not in was or was[path] != value}
    gone = set(was) - set(now)
    sets = {key: from_wire(entry["fieldsV1"]) - changed - gone for key, entry in before.items()}
    if not reset and manager:
        own = (manager, "Update", part)
        sets[own] = (sets.get(own, frozenset()) | frozenset(changed)) - gone
    _store(new, kind, before, sets, when)


# --- apply ---------------------------------------------------------------------------------------------


def apply(
    live: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    kind: Kind,
    manager: str,
    part: str,
    force: bool,
    when: str,
) -> Object:
    """The object after `manager` applied `config`. Raises KubeError 400, 409 with one cause per conflicting field."""
    if (config.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    base: Object = copy.deepcopy(dict(live)) if live is not None else {"metadata": {}}
    before = managers(base)
    own = (manager, "Apply", part)
    wanted, there = fields_of(config, kind), fields_of(base, kind)
    sets = {key: from_wire(entry["fieldsV1"]) for key, entry in before.items()}
    conflicts = [
        (key, path)
        for key, held in sets.items()
        if key != own
        for path in sorted(held & set(wanted))
        if path[-1] != "." and (path not in there or there[path] != wanted[path])
    ]
    if conflicts and not force:
        raise _conflict(conflicts, before)
    taken = {path for _, path in conflicts}
    others = frozenset().union(*(held - taken for key, held in sets.items() if key != own))
    result: Object = _merged(base, config, "", kind.lists)
    for path in sorted(sets.get(own, frozenset()) - set(wanted), key=_depth):
        held = path[:-1] if path[-1] == "." else path
        if not any(other[: len(held)] == held for other in (*others, *wanted)):
            _remove(result, held, kind)
    sets = {key: held - taken if key != own else held for key, held in sets.items()}
    sets[own] = frozenset(wanted)
    _store(result, kind, before, sets, when)
    return result


def _depth(path: Path) -> int:
    """A list's entry goes before the fields in it, which name it."""
    return len(path) - (path[-1] == ".")


def _conflict(
    conflicts: list[tuple[tuple[str, str, str], Path]], before: Mapping[tuple[str, str, str], Object]
) -> KubeError:
    causes: list[Cause] = []
    by_manager: dict[str, list[str]] = {}
    for key, path in conflicts:
        manager, operation, part = key
        entry = before[key]
        named = f'conflict with "{manager}"' + (f' with subresource "{part}"' if part else "")
        named += f" using {entry['apiVersion']}" + (f" at {entry['time']}" if operation == "Update" else "")
        causes.append(Cause("FieldManagerConflict", _shown(path), named))
        by_manager.setdefault(named, []).append(_shown(path))
    noun = "conflict" if len(causes) == 1 else "conflicts"
    if len(causes) == 1:
        text = f"{causes[0].message}: {causes[0].field}"
    else:
        text = "\n".join(
            named.replace("conflict with", "conflicts with", 1) + ":\n" + "\n".join(f"- {field}" for field in fields)
            for named, fields in by_manager.items()
        )
    return KubeError(409, "Conflict", f"Apply failed with {len(causes)} {noun}: {text}", causes=causes)


def _shown(path: Path) -> str:
    """`.spec.containers[name="a"].image`, as the API server writes paths."""
    text = ""
    for part in path:
        if part.startswith("f:"):
            text += f".{part[2:]}"
        elif part.startswith("k:"):
            pairs = json.loads(part[2:])
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in pairs.items()) + "]"
        elif part.startswith("v:"):
            text += f"[={part[2:]}]"
    return text


def _merged(live: Any, config: Any, dotted: str, lists: Mapping[str, Keys]) -> Any:
    if isinstance(config, Mapping) and isinstance(live, Mapping):
        result = dict(live)
        for name, value in config.items():
            result[name] = _merged(result.get(name), value, f"{dotted}.{name}" if dotted else name, lists)
        return result
    keys = lists.get(dotted)
    if not isinstance(config, list) or not isinstance(live, list) or keys is None:
        return copy.deepcopy(config)
    if not keys.apply:
        return [*live, *(entry for entry in config if entry not in live)]
    names = [_part(entry, keys) for entry in config]
    if len(set(names)) != len(names):
        raise bad_request(f".{dotted}: duplicate entries for key {next(n for n in names if names.count(n) > 1)[2:]}")
    result_list = list(live)
    places = {_part(entry, keys): index for index, entry in enumerate(live)}
    for name, entry in zip(names, config, strict=True):
        if name in places:
            result_list[places[name]] = _merged(live[places[name]], entry, dotted, lists)
        else:
            result_list.append(copy.deepcopy(entry))
    return result_list


def _remove(thing: Object, path: Path, kind: Kind) -> None:
    """Take one field away, and the maps that it leaves empty."""
    trail: list[tuple[Any, Any]] = []
    place: Any = thing
    dotted = ""
    for part in path:
        step: Any = None
        if part.startswith("f:"):
            step = part[2:] if isinstance(place, Mapping) and part[2:] in place else None
            dotted = f"{dotted}.{part[2:]}" if dotted else part[2:]
        elif isinstance(place, list) and dotted in kind.lists:
            step = next((i for i, entry in enumerate(place) if _part(entry, kind.lists[dotted]) == part), None)
        if step is None:
            return
        trail.append((place, step))
        place = place[step]
    holder, step = trail.pop()
    del holder[step]
    while trail and not holder:
        holder, step = trail.pop()
        if step != "metadata":
            del holder[step]
