"""Worlds with enid on each node, for the end-to-end tests. Folders are short: paths of sockets are bounded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cli.stage import Stage
from sandbox.face.client import Sandbox
from sandbox.world.scenario import Scenario

# What Python prints by itself when something was not caught.
TRACES = ("Traceback (most recent call last)", "Exception ignored", "Exception in thread")
MakeStage = Callable[..., Stage]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder of this test alone, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="enid-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# What EC2 is like on a bad day: slow, throttling, and showing its changes seconds late. The network itself is not late:
# EC2's word for an address is all that a node can go by.
BAD_DAY = {
    "latency": "on",
    "throttle": "on",
    "api-lag": "eni:new=3,gone=3",
    "imds-lag": "5",
    "attach-delay": "2",
    "detach-delay": "2",
}


@pytest.fixture(params=[{}, BAD_DAY], ids=["calm", "bad-day"])
def weather(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Switches that every world of a test begins with (`enid sandbox fault`)."""
    switches: Mapping[str, str] = request.param
    return switches


@pytest.fixture
def make_stage(short_folder: Path, request: pytest.FixtureRequest, weather: Mapping[str, str]) -> Iterator[MakeStage]:
    """Builds a world (`scenario`) with enid on all nodes (unless `start=False`); taken down at the end of the test.

    When the test failed, the last lines of every daemon's log are added to the report.
    """
    worlds: list[Sandbox] = []

    def make(scenario: Scenario, env: Mapping[str, str] | None = None, *, start: bool = True) -> Stage:
        world = Sandbox.up(short_folder / f"w{len(worlds)}", scenario)
        worlds.append(world)
        for name, value in weather.items():
            assert world.fault(name, value)[name] == value
        stage = Stage(world, dict(env or {}))
        if start:
            stage.start([node.name for node in world.nodes()])
        return stage

    yield make
    told: list[str] = []
    for world in worlds:
        for log in sorted(world.folder.glob("nodes/*/log/*")):
            text = log.read_text(errors="replace")
            request.node.add_report_section("call", str(log.name), text[-4000:])
            told += [f"{log.name}: {mark}\n{text[-4000:]}" for mark in TRACES if mark in text]
        world.down()
    assert not told, "\n".join(told)
