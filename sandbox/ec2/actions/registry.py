"""What all EC2 actions share: the registry, the call, filters, pages, listings, idempotency.

An action names every request member and every filter that it models; the codec and `select` refuse all others. One
file per subject beside this one fills the registry.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sandbox.ec2 import errors
from sandbox.ec2.records import NO_TAGS, Record, Tags
from sandbox.ec2.truth import Truth, Wanted
from sandbox.ec2.views import Reader

R = TypeVar("R")
F = TypeVar("F")
M = TypeVar("M", bound=Record)
Result = dict[str, Any]
Getter = Callable[["Call", R], Iterable[str]]
MOST_TOKENS: Final = 10_000
MOST_VALUES: Final = 200  # EC2 guide, "Using filtering"
PAGING: Final = ("MaxResults", "NextToken")
FILTERS: Final = ("Filters.Name", "Filters.Values")
TAG_SPECS: Final = ("TagSpecifications.ResourceType", "TagSpecifications.Tags.Key", "TagSpecifications.Tags.Value")


class Tokens:
    """Which ClientToken made which resource (EC2 API reference, "Ensuring idempotency")."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], tuple[str, str]] = {}


@dataclass(slots=True)
class Call:
    """One request on its way: `members` as boto3 names them, `peer` as in `http.Request`."""

    truth: Truth
    action: str
    members: dict[str, Any]
    peer: str = "-"
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def reader(self) -> Reader:
        """The view that Describe calls show."""
        return self.truth.api

    def once(self, make: Callable[[], M], find: Callable[[str], F]) -> M | F:
        """What `make` makes, or what by `find` has become of what it made for an earlier call with this ClientToken.

        Raises CLIENT_TOKEN, and what `find` raises. What has just been made is not looked for: somebody else may have
        deleted it, but this call has succeeded.
        """
        token = self.members.get("ClientToken")
        if not token:
            return make()
        if len(token) > 64 or not token.isascii():
            raise errors.LONG_TOKEN()
        same = json.dumps(
            {name: self.members[name] for name in sorted(self.members) if name != "ClientToken"}, default=str
        )
        known = self.tokens.made.get((self.action, token))
        if known is None:
            made = make()
            self.tokens.made[self.action, token] = (same, made.record_id)
            if len(self.tokens.made) > MOST_TOKENS:
                del self.tokens.made[next(iter(self.tokens.made))]
            return made
        if known[0] != same:
            raise errors.CLIENT_TOKEN()
        return find(known[1])


@dataclass(frozen=True, slots=True)
class Action:
    """One action. `members`: the paths of request members that it models."""

    name: str
    run: Callable[[Call], Result]
    members: frozenset[str]
    filters: tuple[str, ...]


ACTIONS: Final[dict[str, Action]] = {}


def action(
    name: str, *members: str, filters: Mapping[str, Any] | None = None
) -> Callable[[Callable[[Call], Result]], Callable[[Call], Result]]:
    """Register a function as an action that models these members and filters (and DryRun, where AWS has it)."""

    def register(run: Callable[[Call], Result]) -> Callable[[Call], Result]:
        paths = {path for part in members for path in part.split()} | {"DryRun"}
        ACTIONS[name] = Action(name, run, frozenset(paths), tuple(sorted(filters or ())))
        return run

    return register


# --- filters ----------------------------------------------------------------------------------------------------

_PATTERN: Final = re.compile(r"[*?\\]")


def exact(call: Call, name: str) -> list[str] | None:
    """The values of a filter if none is a pattern; None if there is no such filter. For looking up by index."""
    for one in call.members.get("Filters", ()):
        if one.get("Name") == name:
            values: list[str] = one.get("Values", [])
            return None if any(_PATTERN.search(value) for value in values) else values
    return None


def select(call: Call, records: Iterable[R], getters: Mapping[str, Getter[R]], tags: Callable[[R], Tags]) -> list[R]:
    """The records that all filters of the call let through: within one any value, `*` and `?` are wild cards.

    Raises MISSING_PARAMETER, NOT_SIMULATED (a filter that is not modelled, or that AWS does not know).
    """
    tests: list[Callable[[R], bool]] = []
    for number, one in enumerate(call.members.get("Filters", ()), 1):
        name: str = one.get("Name", "")
        if not name:
            raise errors.MISSING_PARAMETER(name=f"Filter.{number}.Name")
        if not one.get("Values"):
            raise errors.MISSING_PARAMETER(name=f"Filter.{number}.Value")
        if len(one["Values"]) > MOST_VALUES:
            raise errors.FILTER_LIMIT(most=MOST_VALUES)
        tests.append(_tag_test(name, one["Values"], tags) or _test(_getter(call, name, getters, tags), one["Values"]))
    for test in tests:
        records = [record for record in records if test(record)]
    return records if isinstance(records, list) else list(records)


def _getter(
    call: Call, name: str, getters: Mapping[str, Getter[R]], tags: Callable[[R], Tags]
) -> Callable[[R], Iterable[str]]:
    if name.startswith("tag:"):
        key = name[4:]
        return lambda record: (tags(record)[key],) if key in tags(record) else ()
    if name == "tag-key":
        return lambda record: tags(record).keys()
    if name not in getters:
        raise errors.NOT_SIMULATED(what=f"filter {name} of action {call.action}")
    getter = getters[name]
    return lambda record: getter(call, record)


def _test(get: Callable[[R], Iterable[str]], values: Sequence[str]) -> Callable[[R], bool]:
    plain = {value for value in values if not _PATTERN.search(value)}
    wild = [_wild(value) for value in values if _PATTERN.search(value)]
    return lambda record: any(text in plain or any(p.fullmatch(text) for p in wild) for text in get(record))


def _tag_test(name: str, values: Sequence[str], tags: Callable[[R], Tags]) -> Callable[[R], bool] | None:
    """The test of a filter by tag without patterns, which is asked of every record there is."""
    if not name.startswith("tag:") or any(_PATTERN.search(value) for value in values):
        return None
    key, wanted = name[4:], set(values)
    return lambda record: tags(record).get(key) in wanted


def _wild(value: str) -> re.Pattern[str]:
    """EC2 guide, "Using filtering": `*` any characters, `?` one, `\\` before a literal `*`, `?` or `\\`."""
    parts = re.findall(r"\\.|[^\\]|\\$", value, re.DOTALL)
    return re.compile(
        "".join(
            ".*" if part == "*" else "." if part == "?" else re.escape(part[1:] if len(part) == 2 else part)
            for part in parts
        ),
        re.DOTALL,
    )


# --- pages --------------------------------------------------------------------------------------------------------


def page(
    call: Call,
    records: Sequence[R],
    key: Callable[[R], str],
    *,
    ids: str = "",
    most: int = 1000,
    default: int | None = None,
) -> tuple[list[R], str | None]:
    """One page and the token of the next, by the order of ids: what exists all along is shown exactly once.

    `ids` is the member that excludes MaxResults, `most` the upper bound of MaxResults (the lower one is 5), `default`
    the size of a page when the caller does not say. Raises BAD_COMBINATION, INVALID_VALUE, BAD_TOKEN.
    """
    size = call.members.get("MaxResults", default)
    token = call.members.get("NextToken")
    if "MaxResults" in call.members:
        if ids and call.members.get(ids):
            raise errors.BAD_COMBINATION(
                why=f"The parameter {ids} cannot be used with the parameter maxResults",
            )
        if not 5 <= call.members["MaxResults"] <= most:
            raise errors.INVALID_VALUE(
                value=call.members["MaxResults"], name="MaxResults", why=f"Expecting a value from 5 to {most}."
            )
    if size is None and token is None:
        return list(records), None
    ordered = sorted(records, key=key)
    if token is not None:
        last = _last_shown(call.action, token)
        ordered = [record for record in ordered if key(record) > last]
    if size is None or len(ordered) <= size:
        return ordered, None
    shown = ordered[:size]
    text = json.dumps([call.action, key(shown[-1])])
    return shown, base64.urlsafe_b64encode(text.encode()).decode()


def _last_shown(name: str, token: str) -> str:
    try:
        made_for, last = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError):
        raise errors.BAD_TOKEN() from None
    if made_for != name or not isinstance(last, str):
        raise errors.BAD_TOKEN()
    return last


# --- listings -----------------------------------------------------------------------------------------------------


def listed(
    call: Call,
    member: str,
    table: Mapping[str, M],
    prefix: str,
    missing: Callable[..., errors.Ec2Error],
    getters: Mapping[str, Getter[M]],
    *,
    most: int = 1000,
) -> tuple[list[M], str | None]:
    """What a Describe call shows of a table, and the token of the next page: the records whose ids the request has in
    `member`, or all that the view shows, as `narrowed` narrows them down. The caller holds the truth's lock.

    `prefix` is that of the table's ids. Raises `missing` for an id that is not there, and what `narrowed` raises.
    """
    reader = call.reader
    if not (ids := call.members.get(member)):
        return narrowed(call, reader.scan(table, prefix), getters, most=most)
    found = []
    for record_id in dict.fromkeys(ids):
        record = reader.see(record_id, table.get(record_id))
        if record is None:
            raise missing(id=record_id)
        found.append(record)
    return narrowed(call, found, getters, ids=member, most=most)


def narrowed(
    call: Call, records: Iterable[M], getters: Mapping[str, Getter[M]], *, ids: str = "", most: int = 1000
) -> tuple[list[M], str | None]:
    """One page of the records that the filters let through, and the token of the next; see `select` and `page`."""
    found = select(call, records, getters, _tags)
    return page(call, found, lambda record: record.record_id, ids=ids, most=most)


def _tags(record: Record) -> Tags:
    """Associations and permissions bear none here."""
    return getattr(record, "tags", NO_TAGS)


# --- members that several actions share ----------------------------------------------------------------------------


def tags_for(call: Call, resource_type: str, *others: str) -> Tags:
    """The tags that TagSpecifications asks for on a resource type. Raises INVALID_VALUE for a type not in `others`."""
    found: dict[str, str] = {}
    for spec in call.members.get("TagSpecifications", ()):
        kind = spec.get("ResourceType", "")
        if kind == resource_type:
            found.update(tags_of(spec.get("Tags", ())))
        elif kind not in others:
            raise errors.INVALID_VALUE(value=kind, name="ResourceType", why=f"Not a resource that {call.action} makes.")
    return found or NO_TAGS


def tags_of(pairs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags from a list of Key and Value. Raises MISSING_PARAMETER, INVALID_VALUE (a key twice)."""
    found: dict[str, str] = {}
    for pair in pairs:
        if "Key" not in pair:
            raise errors.MISSING_PARAMETER(name="Tag.Key")
        if pair["Key"] in found:
            raise errors.INVALID_VALUE(value=pair["Key"], name="Tag.Key", why="Given twice.")
        found[pair["Key"]] = pair.get("Value", "")
    return found


def tag_set(tags: Tags) -> list[dict[str, str]]:
    """Tags as answers bear them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def within(members: Mapping[str, Any], name: str, key: str) -> list[str]:
    """The one member of each structure of a list. Raises MISSING_PARAMETER for a structure without it."""
    for one in members.get(name, ()):
        if key not in one:
            raise errors.MISSING_PARAMETER(name=f"{name}.{key}")
    return [one[key] for one in members.get(name, ())]


def wanted6(members: Mapping[str, Any], *, flat: bool = False) -> Wanted:
    """The IPv6 members of a request. `flat`: the lists hold texts, not structures. Raises MISSING_PARAMETER."""
    addresses, prefixes = members.get("Ipv6Addresses", ()), members.get("Ipv6Prefixes", ())
    if not flat:
        addresses = within(members, "Ipv6Addresses", "Ipv6Address")
        prefixes = within(members, "Ipv6Prefixes", "Ipv6Prefix")
    return Wanted(
        tuple(addresses), members.get("Ipv6AddressCount", 0), tuple(prefixes), members.get("Ipv6PrefixCount", 0)
    )


def arn(call: Call, kind: str, record_id: str) -> str:
    """The name that policies call a record by (service authorization reference, "Resource types defined by EC2")."""
    return f"arn:aws:ec2:{call.truth.region}:{call.truth.account}:{kind}/{record_id}"


def lower(value: bool) -> str:
    """How filters spell booleans."""
    return "true" if value else "false"
