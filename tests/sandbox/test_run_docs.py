"""Papers that follow from the code: the page of what is simulated is up to date, the examples of the API are true."""

from __future__ import annotations

import doctest
from pathlib import Path

import msgspec
import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.ec2 import imds_tree
from sandbox.ec2.api import actions
from sandbox.face import inprocess, page
from sandbox.world import scenario, script
from sandbox.world.switches import HELP

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    made = page.page()
    assert (ROOT / "docs" / "sandbox.md").read_text() == made, "run: python -m sandbox.face.page > docs/sandbox.md"


def test_the_page_names_everything() -> None:
    made = page.page()
    for name in (*HELP, *imds_tree.PATHS, *script.Step.__struct_fields__, *scenario.Scenario.__struct_fields__):
        assert f"| `{name}` |" in made


def test_the_examples_of_the_api() -> None:
    done = doctest.testmod(inprocess)
    assert (done.failed, done.attempted > 10) == (0, True)


def test_the_example_of_the_script() -> None:
    """In the docstring of world/script.py."""
    text = (script.__doc__ or "").partition("    [\n")[2].partition("    ]\n")[0]
    steps = script.parse(f"[{text}]")
    assert [step.does[0] for step in steps] == ["set", "rule", "change", "reboot", "clear"]
    assert {step.rule.action for step in steps if step.rule} <= set(actions())


def test_a_scenario_from_the_page() -> None:
    """The defaults that it shows are those that are used, and a field that it does not name is refused."""
    defaults = msgspec.to_builtins(scenario.parse('{"nodes": []}'))
    for name, value in defaults.items():
        if name != "nodes":
            assert f"`{msgspec.json.encode(value).decode()}` |" in page.page()
    with pytest.raises(SandboxFailure, match="unknown field `cidr`"):
        scenario.parse('{"nodes": [], "cidr": "10.0.0.0/8"}')
