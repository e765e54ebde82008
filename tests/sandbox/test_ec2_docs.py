"""The page of what is simulated is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from sandbox.ec2 import errors, make_docs
from sandbox.ec2.actions.registry import ACTIONS
from tests.sandbox import ec2_rows

TOP = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    made = make_docs.page(ec2_rows.counts())
    assert (TOP / make_docs.PAGE).read_text() == made, "run: python -m sandbox.ec2.make_docs"


def test_the_page_tells_of_every_action_and_of_what_it_lacks() -> None:
    made = make_docs.page(ec2_rows.counts())
    assert all(f"### {name}\n" in made for name in ACTIONS)
    assert "`IamInstanceProfile.Arn`" in made
    assert "`trunk-interface-association.trunk-interface-id`" in made
    assert f"{ec2_rows.counts().total()} strictness checks" in made


def test_the_page_says_whose_numbers_its_sources_are() -> None:
    cited = {name for rule in errors.table().values() for name in re.findall(r"([\w/-]+)#\d", rule.source)}
    short = {name for name in cited if "/" not in name}
    assert short <= make_docs.REPOSITORIES.keys()
    made = make_docs.page(ec2_rows.counts())
    assert {name for name in short if f"- `{name}#n`: github.com/" in made} == short != set()


def test_the_page_says_which_codes_only_rules_give() -> None:
    [line] = [one for one in make_docs.page(ec2_rows.counts()).splitlines() if one.startswith("By fault rules only")]
    assert "`InsufficientInstanceCapacity`" in line
    assert "`InsufficientFreeAddressesInSubnet`" not in line
