"""A node that needs what is not served is refused by name; an ordinary one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.manager import takeover
from clients.files import exists_below


@pytest.mark.parametrize(
    ("links", "pins", "named"),
    [
        (["ens5", "vlan.eth.3", "eni123"], False, "vlan.eth.3"),
        (["ens5"], True, "network policies"),
    ],
)
def test_a_node_that_needs_what_is_not_served_is_refused(links: list[str], pins: bool, named: str) -> None:
    with pytest.raises(takeover.TakeoverRefused, match=named):
        takeover.check(links, lambda folder: pins)


def test_an_ordinary_node_is_taken_over(tmp_path: Path) -> None:
    takeover.check(["lo", "ens5", "eni0123456789a", "docker0", "vlan0"], lambda folder: False)
    assert exists_below(str(tmp_path)) is False
    assert exists_below(str(tmp_path / "none")) is False
