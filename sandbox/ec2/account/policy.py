"""IAM policies: whether a role may do what a call asks.

Understood is what the documented policies of VPC network plugins use: Allow and Deny, actions and resources with wild
cards, and the condition operators below on tags of the request and of the resource and on the VPC. Everything else in
a document is refused by name when the policy is made, since a condition that is skipped allows too much.
Explicit deny wins, then allow; what is not mentioned is denied (IAM guide, "Policy evaluation logic").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

OPERATORS: Final = ("StringEquals", "StringLike", "ArnEquals", "ArnLike")
KEYS: Final = ("aws:RequestTag/", "aws:ResourceTag/", "ec2:ResourceTag/", "ec2:Vpc", "ec2:Region")
Verdict = Literal["allow", "deny", "none"]


@dataclass(frozen=True, slots=True)
class Target:
    """One resource that a call is about: its ARN and what conditions can look at, by key such as `ec2:Vpc`."""

    arn: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Statement:
    allow: bool
    actions: tuple[re.Pattern[str], ...]
    resources: tuple[re.Pattern[str], ...]
    conditions: tuple[tuple[str, str, tuple[re.Pattern[str], ...]], ...]

    def covers(self, action: str, target: Target) -> bool:
        if not any(pattern.fullmatch(action.lower()) for pattern in self.actions):
            return False
        if not any(pattern.fullmatch(target.arn) for pattern in self.resources):
            return False
        return all(
            (value := target.facts.get(key)) is not None and any(pattern.fullmatch(value) for pattern in patterns)
            for _, key, patterns in self.conditions
        )


class Policy:
    """One policy document, as a dictionary of its JSON. Raises ValueError naming what is not understood."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        _only(document, {"Version", "Id", "Statement"}, "policy")
        if document.get("Version", "2012-10-17") != "2012-10-17":
            raise ValueError(f"policy: Version {document['Version']!r} is not simulated, only 2012-10-17")
        statements = document.get("Statement")
        if not statements:
            raise ValueError("policy: Statement is missing")
        self._statements = tuple(_statement(one) for one in _listed(statements))

    def verdict(self, action: str, target: Target) -> Verdict:
        """What it says of an action such as `ec2:CreateTags` on one resource."""
        covering = [statement for statement in self._statements if statement.covers(action, target)]
        if any(not statement.allow for statement in covering):
            return "deny"
        return "allow" if covering else "none"


def verdict(policies: Iterable[Policy], action: str, target: Target) -> Verdict:
    """What several policies together say."""
    found = {policy.verdict(action, target) for policy in policies}
    return "deny" if "deny" in found else "allow" if "allow" in found else "none"


def _statement(one: Mapping[str, Any]) -> _Statement:
    _only(one, {"Sid", "Effect", "Action", "Resource", "Condition"}, "policy statement")
    if one.get("Effect") not in ("Allow", "Deny"):
        raise ValueError(f"policy statement: Effect {one.get('Effect')!r} is neither Allow nor Deny")
    actions, resources = _listed(one.get("Action")), _listed(one.get("Resource"))
    if not actions or not resources:
        raise ValueError("policy statement: Action and Resource must be given")
    conditions = []
    for operator, tests in one.get("Condition", {}).items():
        if operator not in OPERATORS:
            raise ValueError(f"policy statement: condition operator {operator!r} is not simulated")
        for key, values in tests.items():
            if not key.startswith(KEYS):
                raise ValueError(f"policy statement: condition key {key!r} is not simulated")
            wild = operator != "StringEquals"
            conditions.append((operator, key, tuple(_pattern(value, wild=wild) for value in _listed(values))))
    return _Statement(
        one["Effect"] == "Allow",
        tuple(_pattern(action.lower()) for action in actions),
        tuple(_pattern(resource) for resource in resources),
        tuple(conditions),
    )


def _only(given: Mapping[str, Any], known: set[str], what: str) -> None:
    if strange := given.keys() - known:
        raise ValueError(f"{what}: {', '.join(sorted(strange))} is not simulated")


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else [value]


def _pattern(text: object, *, wild: bool = True) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise ValueError(f"policy: {text!r} is not a text")
    if "${" in text:
        raise ValueError(f"policy: the variable in {text!r} is not simulated")
    if not wild:
        return re.compile(re.escape(text))
    return re.compile("".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in text), re.DOTALL)
