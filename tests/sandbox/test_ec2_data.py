"""The data files are what the installed libraries say, so that an update of either is noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.ec2 import make_data
from sandbox.ec2.api import actions
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.limits import Catalogue
from tests.sandbox.ec2_kit import make_account


def test_the_model_is_botocores() -> None:
    assert (make_data.DATA / "ec2_model.json").read_text() == make_data.text(make_data.model(actions()))


def test_the_types_are_motos() -> None:
    assert (make_data.DATA / "instance_types.json").read_text() == make_data.text(make_data.instance_types())


@pytest.mark.parametrize(
    ("name", "enis", "ipv4", "cards", "prefixes"),
    [
        ("t2.micro", 2, 2, 1, False),
        ("t3.medium", 3, 6, 1, True),
        ("m5.large", 3, 10, 1, True),
        ("m5.4xlarge", 8, 30, 1, True),
        ("c5.18xlarge", 15, 50, 1, True),
        ("p5.48xlarge", 64, 50, 32, True),
        ("m5.metal", 15, 50, 1, True),
    ],
)
def test_known_types(name: str, enis: int, ipv4: int, cards: int, prefixes: bool) -> None:
    kind = Catalogue().get(name)
    assert (kind.enis, kind.ipv4_per_eni, len(kind.cards), kind.prefixes) == (enis, ipv4, cards, prefixes)
    assert sum(kind.cards) >= kind.enis or cards == 1


def test_what_is_told_of_types_is_what_the_collection_tells() -> None:
    """Cards and zeroes that the collection leaves out apart."""

    def agrees(mine: Any, theirs: Any) -> bool:
        if isinstance(mine, dict):
            return all(agrees(value, theirs[key]) for key, value in mine.items() if key in theirs)
        if isinstance(mine, list | tuple):
            return len(mine) == len(theirs) and all(map(agrees, mine, theirs))
        return bool(mine == theirs)

    a, told = make_account(), make_data.collected_types()
    pages = a.ec2.get_paginator("describe_instance_types").paginate()
    shown = {one["InstanceType"]: one for page in pages for one in page["InstanceTypes"]}
    assert told.keys() <= shown.keys()
    assert [name for name, theirs in told.items() if not agrees(shown[name], theirs)] == []
    assert all("CurrentGeneration" not in one for one in shown.values())


def test_all_types_can_be_read() -> None:
    catalogue = Catalogue()
    assert len(catalogue) > 1300
    for kind in catalogue:
        assert kind.enis >= 1
        assert kind.ipv4_per_eni >= 1
        assert kind.cards
        assert kind.hypervisor in ("nitro", "xen", "")
    with pytest.raises(Ec2Error, match="InvalidInstanceType"):
        catalogue.get("m5.nope")


def test_buckets_name_real_actions() -> None:
    data = json.loads((make_data.DATA / "buckets.json").read_text())
    assert data["actions"].keys() <= set(actions())
    assert data["classes"].keys() == {"describe", "describe_unfiltered", "mutating"}


def test_the_other_tables_name_real_things_and_their_sources() -> None:
    def read(name: str) -> dict[str, dict[str, dict[str, object]]]:
        found: dict[str, dict[str, dict[str, object]]] = json.loads((make_data.DATA / f"{name}.json").read_text())
        return found

    buckets, latencies, quotas, branches = map(read, ("buckets", "latencies", "quotas", "branches"))
    known = set(actions())
    assert buckets["resources"].keys() | latencies["actions"].keys() <= known
    assert all(row["source"] for row in (*buckets["resources"].values(), *buckets["actions"].values()))
    assert all(row["source"] and isinstance(row["value"], int) for row in quotas.values())
    assert branches["types"].keys() <= set(Catalogue().names())
    assert all(row["least"] <= row["most"] for part in ("classes", "actions") for row in latencies[part].values())  # type: ignore[operator]
