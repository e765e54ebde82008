"""The shipped table is whole, and its numbers are those of the specification."""

from __future__ import annotations

from importlib import resources

import pytest

from core import limits

TEXT = resources.files("core").joinpath(limits.TABLE).read_text(encoding="ascii")
LINES = [line for line in TEXT.splitlines() if not line.startswith("#")]
NAMES = [name for line in LINES for name in line.partition(":")[2].split()]


def test_every_type_stands_once() -> None:
    assert len(NAMES) == 1391
    assert len(set(NAMES)) == 1391


@pytest.mark.parametrize(
    ("name", "enis", "addresses", "max_pods"),
    [
        ("t2.micro", 2, 2, 4),
        ("t3.small", 3, 4, 11),
        ("t3.medium", 3, 6, 17),
        ("m5.large", 3, 10, 29),
        ("m5.xlarge", 4, 15, 58),
        ("m5.4xlarge", 8, 30, 234),
        ("c5.18xlarge", 15, 50, 737),
        ("p5.48xlarge", 2, 50, 100),
        ("c8a.48xlarge", 24, 64, 1514),
    ],
)
def test_the_types_of_the_specification(name: str, enis: int, addresses: int, max_pods: int) -> None:
    found = limits.parse(TEXT, name)
    assert found is not None
    assert (found.enis, found.ipv4_per_eni, found.max_pods) == (enis, addresses, max_pods)
    assert found.addresses_per_eni == addresses - 1


def test_totals_of_the_specification() -> None:
    heads = [(line.partition(":")[0].split(), len(line.partition(":")[2].split())) for line in LINES]
    assert sum(count for head, count in heads if head[2] == "nitro" or head[3] == "metal") == 1309
    assert sum(count for head, count in heads if int(head[4]) > 1) == 67
    assert sum(count for head, count in heads if head[0] == "1") == 1
    cards = limits.parse(TEXT, "p6-b300.48xlarge")
    assert cards is not None
    assert cards.cards == 17


def test_a_type_that_only_begins_like_a_known_one_is_unknown() -> None:
    assert limits.parse(TEXT, "m5.larg") is None
    assert limits.parse(TEXT, "m5") is None
    assert limits.parse(TEXT, "enid.huge") is None
