"""docs/sandbox.md, generated: what is simulated, as the code itself says it.

    python -m sandbox.face.page > docs/sandbox.md

Faults, scripts, scenarios and metadata paths come from the records and tables that the sandbox works with, so the page
cannot promise what is not there; a test compares it with the file.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, get_type_hints

import msgspec

from sandbox.base.failures import REMEDIES
from sandbox.base.shapes import DROPS
from sandbox.ec2.changes import Change
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds_tree import PATHS, Notice
from sandbox.world import scenario
from sandbox.world.script import Step
from sandbox.world.switches import HELP

HEAD = """# What the sandbox simulates

Generated from the code by `python -m sandbox.face.page`; do not edit. How to use it all:
[the README](../sandbox/README.md). EC2's actions, members, filters and error codes are a page of their own.

- Everything that is not modelled is refused by name: a member of a request, a filter, an action, a field of a
  scenario or rule.
- One truth, three views with lags of their own: Describe calls, the instance metadata, the network.
- All ids, MACs, addresses, tokens and chances come from the scenario's seed, all times from the world's clock. In
  process, under the virtual clock, two runs of one script give one trace, byte for byte.
"""
CLOCK = """## The clock

| follows the world's clock | keeps the machine's time |
| --- | --- |
| lags of all views, delays of launches and attachments, stuck attachments | packets, ARP, connection tracking |
| rules with `begin` and `last`, steps of scripts | processes and their timers |
| lifetimes of metadata tokens, spot notices | watches and leases of the Kubernetes stand-in |
| request buckets, times in answers, delays of rules | time-outs of clients |

`enid sandbox time` slows, stops and advances it, in process `Account.advance`, which does what falls due on its way at
its time and in order.
"""
TRACE = """## Traces

One JSON object per line with sorted keys: `n` (number), `t` (seconds since the trace began), `kind`, and by kind

| kind | one line for each | fields |
| --- | --- | --- |
| `ec2` | call, after what it brought about | action, members, peer, status, outcome, answer (CRC-32 of its bytes) |
| `imds` | metadata request | action, peer, outcome, answer |
| `fault` | rule that hit | id, action, when, does |
| `foreign` | act of somebody else | do, done |
| `view` | change that views are told of | event, eni |
| `clock` | state that ended by itself | due |
| `script` | step that became due | id, does |
| `switch` | switch that was set | name, value |

`outcome` is `ok`, an error code or a status, or `no answer`. A ClientToken is
written as the number of its first appearance, since SDKs make it up at random.
"""
METADATA = """IMDSv2 with session tokens (`PUT /latest/api/token`, 1 to 21,600 s), the hop limit as the IP TTL of the
answer that carries a token, IMDSv1 where the instance allows it. 400: a bad lifetime; 401: no, an unknown or an expired
token; 403: switched off, or a `PUT` with `X-Forwarded-For`; 404: not there; 405: another method. Folders end with `/`
in listings, but not at the top.

Not here: IAM credentials, a signed identity document, block devices, public addresses, versions other than `latest`,
throttling other than by a rule."""


def page() -> str:
    """The whole page."""
    parts = [HEAD, _faults(), _metadata(), _drops(), _scenarios(), CLOCK, TRACE, _failures()]
    return "\n".join(part.strip() + "\n" for part in parts)


def _faults() -> str:
    rows = [f"| `{name}` | {_cell(text)} |" for name, text in HELP.items()]
    return "\n".join(
        [
            "## Faults",
            "",
            "### Switches (`enid sandbox fault NAME VALUE`, `Account.switch`)",
            "",
            "`off` clears each; `enid sandbox fault NAME` shows it.",
            "",
            "| name | value |",
            "| --- | --- |",
            *rows,
            "",
            *_record("Steps of a script (`enid sandbox fault --file`, `load_faults`, `Account.load`)", Step),
            *_record("Rules (`rule` of a step, or the switch `ec2`)", Fault),
            *_record("Somebody else's acts (`change` of a step or rule)", Change),
            *_record("What instances are told of their lives (switch `imds-notice`)", Notice),
        ]
    )


def _drops() -> str:
    rows = [f"| `{reason}` | {_cell(text)} |" for reason, text in DROPS.items()]
    return "\n".join(["## What the router drops (`enid sandbox counters`)", "", "| reason | |", "| --- | --- |", *rows])


def _metadata() -> str:
    rows = [f"| `{path}` | {_cell(text)} |" for path, text in PATHS.items()]
    return "\n".join(
        [
            "## Instance metadata",
            "",
            METADATA,
            "",
            "| below `/latest/` | |",
            "| --- | --- |",
            *rows,
        ]
    )


def _scenarios() -> str:
    """Every record of a scenario, the outermost first."""
    specs = [
        one
        for _, one in inspect.getmembers(scenario, inspect.isclass)
        if issubclass(one, msgspec.Struct) and one.__module__ == scenario.__name__
    ]
    lines = ["## Scenarios (`enid sandbox up --scenario FILE`, JSON)", ""]
    for one in sorted(specs, key=lambda spec: (spec is not scenario.Scenario, spec.__name__)):
        lines += _record(f"`{one.__name__}`", one)
    return "\n".join(lines)


def _failures() -> str:
    rows = [f"| `{code}` | {_cell(text)} |" for code, text in REMEDIES.items()]
    return "\n".join(["## Failures (`SandboxFailure.code`)", "", "| code | remedy |", "| --- | --- |", *rows])


def _record(title: str, kind: type[msgspec.Struct]) -> list[str]:
    """A heading, what the record says of itself, and its fields with types and defaults."""
    hints = get_type_hints(kind)
    rows = [f"| `{f.name}` | {_cell(_type(hints[f.name]))} | {_default(f)} |" for f in msgspec.structs.fields(kind)]
    said = inspect.cleandoc(kind.__doc__ or "")
    return [f"### {title}", "", said, "", "| field | type | default |", "| --- | --- | --- |", *rows, ""]


def _type(hint: Any) -> str:
    if isinstance(hint, type) and not getattr(hint, "__args__", None):
        return hint.__name__
    text = str(hint).replace("typing.", "")
    for prefix in ("sandbox.world.scenario.", "sandbox.ec2.faults.", "sandbox.ec2.changes."):
        text = text.replace(prefix, "")
    return f"`{text}`"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{_cell(msgspec.json.encode(value).decode())}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
