"""The agent dies at every system call of the kernel part of an ADD and of a DEL, before it and after it.

The points are counted, not chosen: a build of the kernel writer with fault hooks kills the process at the n-th call
for every n. After each death another agent starts on the same files; the runtime's request is repeated, as the shim
does, or never comes again, and what the namespaces hold is compared with what the agent says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import features
from tests.kernel.agentbox import AgentBox, Pod, answer
from tests.kernel.namespaces import until
from tests.kernel.test_agent_restart import ADDRESSES, NOTHING, consistent

ROOT = Path(__file__).resolve().parents[2]
DIE = -9
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

# Puts the other build in place, and arms it when the call is made; after `nth` 0 it only counts.
SETUP = """
import importlib.machinery, importlib.util, os, sys
import ext, ext.netlink_errors
path = {module!r}
loader = importlib.machinery.ExtensionFileLoader("ext._netlink", path)
spec = importlib.util.spec_from_file_location("ext._netlink", path, loader=loader)
hooked = importlib.util.module_from_spec(spec)
sys.modules["ext._netlink"] = ext._netlink = hooked
loader.exec_module(hooked)
from agent.fastpath.kernel import Kernel
def armed(name):
    original = getattr(Kernel, name)
    def call(*args, **kwargs):
        hooked.set_fault({nth}, {die}, {after})
        try:
            return original(*args, **kwargs)
        finally:
            with open({count!r}, "w") as file:
                file.write(str(hooked.set_fault(0, 0, 0)))
    setattr(Kernel, name, call)
armed({method!r})
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel writer with fault hooks; the checkout's own build stays as it is."""
    place = tmp_path_factory.mktemp("hooks")
    (place / "ext").mkdir()
    for source in [ROOT / "ext" / "__init__.py", *(ROOT / "ext").glob("*netlink*")]:
        if source.suffix != ".so" and source.name != "_netlink.c":
            shutil.copy(source, place / "ext")
    shutil.copy(ROOT / "setup.py", place)
    env = os.environ | {"ENID_BUILD_ONLY": "netlink", "ENID_FAULTS": "1"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (place / "ext").glob("_netlink*.so")
    return built


class Deaths:
    """Agents that die at a given call, one after the other, on one node."""

    def __init__(self, box: AgentBox, module: Path, folder: Path, method: str) -> None:
        self.box = box
        self._module = module
        self._count = folder / "count"
        self._method = method

    def arm(self, nth: int, after: int) -> None:
        """Start an agent that dies there."""
        self.box.kill()
        self.box.setup = SETUP.format(
            module=str(self._module), count=str(self._count), method=self._method, nth=nth, die=DIE, after=after
        )
        self.box.start()

    def calls(self, request: str, pod: Pod) -> int:
        """How many system calls with hooks the kernel part of the request has, undisturbed."""
        self.arm(0, 0)
        pod.call(request)
        return int(self._count.read_text())

    def at(self, nth: int, after: int, request: str, pod: Pod) -> None:
        """Let the agent die in this request, and start an ordinary one."""
        self.arm(nth, after)
        connection = pod.send(request)
        self.box.process.wait(20)
        with pytest.raises((ConnectionError, OSError)):
            answer(connection)
        self.box.setup = ""
        self.box.start()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path, environ={"ENID_ADD_WAIT": "1"}) as made:
        made.manager.give(made.eni(1), ADDRESSES)
        yield made


def points(count: int) -> list[tuple[int, int]]:
    return [(nth, after) for nth in range(1, count + 1) for after in (0, 1)]


@pytest.mark.parametrize("repeated", [True, False], ids=["repeated", "given up"])
def test_death_at_every_call_of_an_add(box: AgentBox, module: Path, tmp_path: Path, repeated: bool) -> None:
    live, first = box.pod("live"), box.pod("first")
    live.add()
    deaths = Deaths(box, module, tmp_path, "wire")
    count = deaths.calls("ADD", first)
    least = 16 + (not features.echoes_new_links())
    assert count == least or (count > least and not features.activates_when_asked()), count
    first.delete()
    for nth, after in points(least):
        pod, other = box.pod(f"web-{nth}-{after}"), box.pod(f"other-{nth}-{after}")
        deaths.at(nth, after, "ADD", pod)
        assert live.addresses() == {live.address}, (nth, after)
        if repeated:
            pod.add()
            assert pod.addresses() == {pod.address}, (nth, after)
        other.add()
        assert other.address not in pod.addresses() or repeated, (nth, after)
        whole = [live, other, *([pod] if repeated else [])]
        # A sandbox that was given up half way is in ipam.json as long as there is a veth that may have its address.
        consistent(box, whole, half={pod.container_id} - {one.container_id for one in whole})
        # The runtime gives a sandbox up by a DEL; one whose ADD it never saw the end of, too.
        for one in (pod, other):
            one.delete()
        until(lambda: box.state()[0] == {live.host_veth}, f"only the living pod is left ({nth}, {after})")
        assert box.manager.snapshot().pool.free == len(ADDRESSES) - 1, (nth, after)
        pod.close(), other.close()
    live.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")


@pytest.mark.parametrize("foreign", [False, True], ids=["our rules only", "with rules of others"])
def test_death_at_every_call_of_a_delete(box: AgentBox, module: Path, tmp_path: Path, foreign: bool) -> None:
    live, first = box.pod("live"), box.pod("first")
    live.add()
    if foreign:
        # Then a DEL looks for more than one rule of an address.
        box.ip("rule", "add", "to", live.address, "lookup", "main", "priority", "512", "protocol", "boot")
    deaths = Deaths(box, module, tmp_path, "unwire")
    first.add()
    count = deaths.calls("DEL", first)
    assert count >= (8 if foreign else 2), count
    for nth, after in points(count):
        pod, other = box.pod(f"web-{nth}-{after}"), box.pod(f"other-{nth}-{after}")
        pod.add()
        deaths.at(nth, after, "DEL", pod)
        other.add()
        link = box.host.link(name=pod.host_veth)
        assert other.address not in pod.addresses() or link is None or not link.up, (nth, after)
        assert live.addresses() == {live.address}, (nth, after)
        pod.delete()
        left = {live.host_veth, other.host_veth}
        until(lambda left=left: box.state()[0] == left, f"the veth is gone ({nth}, {after})")
        consistent(box, [live, other])
        other.delete()
        until(lambda: box.manager.snapshot().pool.free == len(ADDRESSES) - 1, f"all are free ({nth}, {after})")
        pod.close(), other.close()
    live.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")
