"""Writes `docs/sandbox-ec2.md`, the page of what of EC2 is simulated, from the code: `python -m sandbox.ec2.make_docs`.

A page written by hand would soon promise too much. Actions, members, filters, errors, quotas and buckets come from
the tables that the simulator itself uses; the number of checks per action comes from the strictness table of the
tests, which a checkout has and an installed package has not.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from sandbox.ec2 import errors, errors_given
from sandbox.ec2.account.buckets import Buckets
from sandbox.ec2.account.iam import ROOT
from sandbox.ec2.account.policy import KEYS, OPERATORS
from sandbox.ec2.actions.registry import ACTIONS, Action
from sandbox.ec2.api import SUBJECTS
from sandbox.ec2.codec import Model
from sandbox.ec2.limits import DATA

# What the sources of errors call repositories that they cite without the owner, as `CNI#1773`.
REPOSITORIES: Final = {
    "CNI": "aws/amazon-vpc-cni-k8s",
    "CIL": "cilium/cilium",
    "aws-cli": "aws/aws-cli",
    "botocore": "boto/botocore",
    "terraform-provider-aws": "hashicorp/terraform-provider-aws",
}
PAGE: Final = Path("docs") / "sandbox-ec2.md"

HEAD: Final = """# What of EC2 is simulated

Written by `python -m sandbox.ec2.make_docs` from the code; a test fails if it is out of date.

- Everything that is not listed here is refused by name: `NotSimulated: member X of action Y`, `filter X of action Y`,
  `action Y`. Nothing is silently ignored, not even an empty member.
- Requests over HTTP must be signed (Signature Version 4). The key pair `{key}` / `{secret}` of the root user is always
  there; `Api.iam` adds keys and roles with policies. In process, `Api.handle` needs no signature.
- The order of checks: the signature, the action exists, the request bucket, the form of members and ids, the policies,
  the bucket of resources, DryRun, then the action's own rules. A refused call changes nothing.
- Answers follow the shapes of botocore's description of the API, version 2016-11-15.
"""


def page(checks: Mapping[str, int]) -> str:
    """The page as Markdown. `checks`: how many strictness checks each action has."""
    model = Model.load()
    parts = [HEAD.format(key=ROOT.access_key, secret=ROOT.secret), _overview(checks)]
    for module in SUBJECTS:
        names = [name for name, one in ACTIONS.items() if one.run.__module__ == module.__name__]
        parts.append(
            f"## {(module.__doc__ or '').splitlines()[0].rstrip('.').removeprefix('The ')}\n".replace(
                "EC2 actions", "Actions"
            )
        )
        parts += [_action(ACTIONS[name], model) for name in sorted(names)]
    parts += [_errors(), _quotas(), _buckets(), _latencies(), _branches(), _policies()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _overview(checks: Mapping[str, int]) -> str:
    total = sum(checks.values())
    rows = [
        (name, len(one.members - {"DryRun"}), len(one.filters), checks.get(name, 0))
        for name, one in sorted(ACTIONS.items())
    ]
    return (
        f"## Actions and their checks\n\n{len(ACTIONS)} actions; {total} strictness checks, of them"
        f" {checks.get('-', 0)} on no one action.\n\n"
        + _table(("action", "members", "filters", "strictness checks"), rows)
    )


def _action(one: Action, model: Model) -> str:
    text = f"### {one.name}\n\n"
    if doc := (one.run.__doc__ or "").strip():
        text += " ".join(doc.split()) + "\n\n"
    known = {member for member in model.members(one.name) if not member.startswith("Filters.")}
    mine = sorted(member for member in one.members if not member.startswith("Filters.") and member in known)
    text += f"- members: {', '.join(f'`{member}`' for member in mine) or 'none'}\n"
    if missing := sorted(known - one.members):
        text += f"- not simulated: {', '.join(f'`{member}`' for member in missing)}\n"
    if one.filters:
        text += f"- filters: {', '.join(f'`{name}`' for name in one.filters)}"
        text += ", and `tag:…`, `tag-key`\n"
    return text


def _errors() -> str:
    rows = [(f"`{rule.code}`", rule.status, rule.text, rule.source) for rule in errors.table().values()]
    open_ones = sum("unconfirmed" in rule.source or "wording ours" in rule.source for rule in errors.table().values())
    legend = "".join(f"- `{name}#n`: github.com/{repository}\n" for name, repository in REPOSITORIES.items())
    given = sorted(rule.code for rule in vars(errors_given).values() if isinstance(rule, errors.Rule))
    return (
        f"## Errors\n\n{len(rows)} rules. `docs` is the page of error codes in the EC2 API reference. {open_ones}"
        " are\n"
        "marked `unconfirmed` or `wording ours`: no answer of AWS with that code or wording was found. A number is an\n"
        "issue or pull request that quotes AWS, of the repository that is named or stands for the short name:\n\n"
        f"{legend}\nBy fault rules only: {', '.join(f'`{code}`' for code in given)}.\n\n"
        + _table(("code", "HTTP", "text", "source"), sorted(rows, key=str))
    )


def _quotas() -> str:
    data = json.loads((DATA / "quotas.json").read_text())
    rows = [(name, row["value"], row["code"] or "-", row["source"]) for name, row in sorted(data.items())]
    return "## Quotas\n\n`Truth.quotas`, changeable at any time.\n\n" + _table(
        ("quota", "value", "code", "source"), rows
    )


def _buckets() -> str:
    data = json.loads((DATA / "buckets.json").read_text())
    rows = [
        (kind, name, one["size"], one["refill"], one.get("source", data["source"]))
        for kind in ("classes", "actions", "resources")
        for name, one in data[kind].items()
    ]
    head = (Buckets.__doc__ or "").split("\n")[0]
    return f"## Throttling\n\n{head}\n\n" + _table(("table", "name", "tokens", "refill a second", "source"), rows)


def _latencies() -> str:
    data = json.loads((DATA / "latencies.json").read_text())
    kinds = ("classes", "actions")
    rows = [(kind, name, one["least"], one["most"]) for kind in kinds for name, one in data[kind].items()]
    text = f"## Latencies\n\n`Api.latency`, off until switched on. Source: {data['source']}.\n\n"
    return text + _table(("table", "name", "least, s", "most, s"), rows)


def _branches() -> str:
    data = json.loads((DATA / "branches.json").read_text())
    rows = [(name, most) for name, most in data["types"].items()]
    return f"## Branch ENIs by type\n\n{data['source']}.\n\n" + _table(("type", "most branches"), rows)


def _policies() -> str:
    return (
        "## Policies\n\nAllow and Deny, `Action` and `Resource` with `*` and `?`, `Condition` with the operators "
        f"{', '.join(f'`{one}`' for one in OPERATORS)} on the keys"
        f" {', '.join(f'`{one}`' for one in KEYS)}. Everything\n"
        "else in a document is refused by name when the role is made.\n"
    )


def main() -> None:
    """Run from the top of a checkout."""
    rows = importlib.import_module("tests.sandbox.ec2_rows")
    PAGE.write_text(page(rows.counts()))
    print(f"{PAGE}: {PAGE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
