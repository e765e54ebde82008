"""The strictness table: what EC2 refuses, one row per check, run by `test_ec2_table.py` and counted in the docs.

A row is an action, a request as boto3 takes it (`FORM` instead: a form as it goes over the wire), the code that EC2
answers with, and who says so. `{name}` in a request stands for a thing of the table's world (`test_ec2_table.World`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

FORM = "FORM"
GONE = "00000000000000000"
NO = {
    "eni": f"eni-{GONE}",
    "i": f"i-{GONE}",
    "subnet": f"subnet-{GONE}",
    "vpc": f"vpc-{GONE}",
    "sg": f"sg-{GONE}",
    "attach": f"eni-attach-{GONE}",
}


class Row(NamedTuple):
    """One check."""

    action: str
    request: dict[str, Any]
    code: str
    source: str


ROWS: list[Row] = []


def rows(action: str, code: str, source: str, *requests: dict[str, Any]) -> None:
    """Several requests that one rule refuses."""
    ROWS.extend(Row(action, request, code, source) for request in requests)


def every() -> list[Row]:
    """All rows of all files."""
    from tests.sandbox import ec2_rows_enis, ec2_rows_form, ec2_rows_network

    assert all((ec2_rows_enis, ec2_rows_form, ec2_rows_network))
    return ROWS


def counts() -> Counter[str]:
    """How many checks each action has: rows, and lines on what moto gets wrong. Those of no one action count as `-`."""
    from tests.sandbox.test_ec2_moto_lines import LINES

    return Counter([row.action for row in every()] + [action for action, _, _ in LINES])
