"""Killed at any point, the agent comes back to what is true: no address twice, no live pod harmed, nothing left over.

The points are hit by code put around a function of the agent before it starts; the process then kills itself there.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from agent import control
from cni import wire
from tests.kernel.agentbox import AgentBox, CniError, Pod, answer
from tests.kernel.namespaces import in_namespace, until

pytestmark = pytest.mark.root
NOTHING: tuple[set[str], set[str], set[str]] = (set(), set(), set())
ADDRESSES = [f"10.0.1.{n}" for n in range(10, 16)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(1), ADDRESSES)
        yield made


def die(where: str, when: str) -> str:
    """Setup text: the process kills itself before or after the call of `module:Class.method`."""
    module, _, path = where.partition(":")
    return f"""
import os, importlib, signal
owner = importlib.import_module({module!r})
*outer, name = {path!r}.split(".")
for part in outer:
    owner = getattr(owner, part)
original = getattr(owner, name)
def dying(*args, **kwargs):
    if {when!r} == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    value = original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
    return value
setattr(owner, name, dying)
"""


ADD_POINTS = [
    ("agent.fastpath.node:Node.assign", "after"),
    ("agent.fastpath.node:Node.journal_owner", "after"),
    ("ext.netlink:pod_add", "before"),
    ("ext.netlink:pod_add", "after"),
    ("agent.fastpath.node:Node.is_up", "before"),
    ("agent.fastpath.checkpoint:checkpoint_file", "before"),
    ("os:rename", "before"),
    ("os:rename", "after"),
    ("agent.fastpath.server:Call.reply", "before"),
    ("agent.fastpath.server:Call.reply", "after"),
]
DEL_POINTS = [
    ("ext.netlink:pod_drop", "before"),
    ("ext.netlink:pod_drop", "after"),
    ("agent.fastpath.node:Node._record_end", "before"),
    ("agent.fastpath.node:Node._record_end", "after"),
    ("os:rename", "before"),
    ("os:rename", "after"),
    ("agent.fastpath.server:Call.reply", "before"),
]


def with_death(box: AgentBox, where: str, when: str) -> None:
    """Restart the agent so that it dies at this point. The point is armed when it serves, not while it starts."""
    box.kill()
    arm = die(where, when).replace("\n", "\n    ")
    box.setup = f"""
from agent.fastpath import main as entry
run = entry.Agent.run
def armed(self):
    {arm}
    run(self)
entry.Agent.run = armed
"""
    box.start()


def consistent(box: AgentBox, pods: list[Pod], half: Collection[str] = ()) -> None:
    """What the namespaces hold, what the agent says and what ipam.json says are the same, and no address is double.

    `half`: containers that may be known although their ADD was never answered.
    """
    held = [address for pod in pods for address in pod.addresses()]
    assert len(held) == len(set(held))
    up = {i: p for i, p in box.manager.pods().items() if p.state == "up" and i not in half}
    said = {i: p.addresses[0].partition("/")[0] for i, p in up.items()}
    really = {pod.container_id: next(iter(pod.addresses())) for pod in pods if pod.addresses()}
    assert said == really
    assert {i: address for i, address in box.checkpoint().items() if i not in half} == really


@pytest.mark.parametrize(("where", "when"), ADD_POINTS)
def test_killed_in_an_add(box: AgentBox, where: str, when: str) -> None:
    live, pod, later = box.pod("live"), box.pod("web-0"), box.pod("web-1")
    live.add()
    with_death(box, where, when)
    connection = pod.send("ADD")
    box.process.wait(20)
    try:
        pod.result = answer(connection)
        assert (where, when) == ("agent.fastpath.server:Call.reply", "after")
    except ConnectionError:
        pass
    box.setup = ""
    box.start()
    assert live.addresses() == {live.address}
    later.add()
    pod.add()
    assert pod.addresses() == {pod.address}
    consistent(box, [live, pod, later])
    _links, routes, _rules = box.state()
    assert routes == {f"{p.address}/32 dev {p.host_veth}" for p in (live, pod, later)}
    for p in (live, pod, later):
        p.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")
    assert box.manager.snapshot().pool.free == len(ADDRESSES)


@pytest.mark.parametrize(("where", "when"), ADD_POINTS)
def test_killed_in_an_add_that_is_not_repeated(tmp_path: Path, where: str, when: str) -> None:
    setup = "import agent.fastpath.node as n; n.ADD_GRACE_S = -0.5"
    with AgentBox(tmp_path, environ={"ENID_ADD_WAIT": "1"}) as box:
        box.manager.give(box.eni(1), ADDRESSES)
        pod = box.pod("web-0")
        with_death(box, where, when)
        connection = pod.send("ADD")
        box.process.wait(20)
        connection.close()
        box.setup = setup
        box.start()
        other = box.pod("web-1")
        other.add()
        assert other.addresses() & pod.addresses() == set()
        other.delete()
        # The runtime gives the sandbox up: it deletes, or its namespace just goes.
        pod.delete()
        pod.close()
        until(lambda: box.state() == NOTHING, "nothing is left")
        until(lambda: box.manager.snapshot().pool.free == len(ADDRESSES), "all addresses are free")
        assert box.checkpoint() == {}


@pytest.mark.parametrize(("where", "when"), DEL_POINTS)
def test_killed_in_a_delete(box: AgentBox, where: str, when: str) -> None:
    live, pod = box.pod("live"), box.pod("web-0")
    live.add()
    pod.add()
    with_death(box, where, when)
    connection = pod.send("DEL")
    box.process.wait(20)
    connection.close()
    box.setup = ""
    box.start()
    assert live.addresses() == {live.address}
    other = box.pod("web-1")
    other.add()
    assert other.address not in pod.addresses() or box.host.link(name=pod.host_veth) is None or not _up(box, pod)
    pod.delete()
    until(lambda: box.state()[0] == {live.host_veth, other.host_veth}, "the deleted pod's veth is gone")
    consistent(box, [live, other])
    live.delete()
    other.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")


@pytest.mark.parametrize(("where", "when"), DEL_POINTS)
def test_the_address_of_a_killed_delete_rests(tmp_path: Path, where: str, when: str) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "30"}) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        with_death(box, where, when)
        connection = pod.send("DEL")
        box.process.wait(20)
        connection.close()
        box.setup = ""
        box.start()
        assert box.manager.snapshot().pool.free == 0
        pod.delete()
        pool = box.manager.snapshot().pool
        assert (pool.used, pool.cooling, pool.free) == (0, 1, 0)


def _up(box: AgentBox, pod: Pod) -> bool:
    link = box.host.link(name=pod.host_veth)
    return link is not None and link.up


def test_killed_again_and_again_under_load(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(6)]
    connections = {pod: pod.send("ADD") for pod in pods}
    for _ in range(4):
        box.restart()
        for pod in pods:
            if not pod.result:
                try:
                    pod.result = answer(connections[pod])
                except (ConnectionError, OSError):
                    connections[pod] = pod.send("ADD")
    for pod in pods:
        if not pod.result:
            pod.result = answer(connections[pod])
    consistent(box, pods)
    assert {pod.address for pod in pods} == set(ADDRESSES)


def test_a_restarted_agent_serves_without_a_manager(box: AgentBox) -> None:
    first = box.pod("web-0")
    first.add()
    box.restart()
    command = box.client("command")
    snapshot = command.snapshot()
    command.close()
    assert (snapshot.ready, [e.eni_id for e in snapshot.enis]) == (False, [box.eni(1).eni_id])
    assert all(block.unready for block in snapshot.blocks)
    assert {block.base for block in snapshot.blocks} == set(ADDRESSES)
    second = box.pod("web-1")
    second.add()
    assert second.address != first.address
    box.manager.do(control.SetEni(box.eni(1)))
    assert not any(block.unready for block in box.manager.snapshot().blocks)


def test_sigterm_leaves_all_in_order(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add()
    before = box.state()
    assert box.stop() == 0
    assert box.checkpoint() == {pod.container_id: pod.address}
    assert box.state() == before
    box.start()
    consistent(box, [pod])


def test_cooling_goes_on_over_a_restart(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "30"}) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        pod.delete()
        box.restart()
        snapshot = box.manager.snapshot()
        assert (snapshot.pool.cooling, snapshot.pool.free) == (1, 0)
        assert snapshot.pool.next_free_in_s is not None
        assert 0 < snapshot.pool.next_free_in_s <= 30


def test_what_is_missing_in_the_kernel_is_put_back(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(3)]
    for pod in pods:
        pod.add()
    before = box.state()
    box.kill()
    for command in (
        ["route", "del", f"{pods[0].address}/32"],
        ["rule", "del", "to", pods[1].address],
        ["rule", "del", "from", pods[2].address],
        ["rule", "add", "from", pods[2].address, "lookup", "77", "priority", "1536"],
        ["rule", "add", "to", "10.0.1.15", "lookup", "main", "priority", "512"],
        ["rule", "add", "from", "10.0.1.15", "lookup", "9", "priority", "1536"],
    ):
        box.ip(*command)
    assert box.state() != before
    box.start()
    assert box.state() == before


@pytest.mark.parametrize("table", ["2", "77"])
def test_a_delete_takes_the_existing_systems_rules_too(box: AgentBox, table: str) -> None:
    """They carry another protocol, so an address may have theirs beside ours; an agent that starts with any looks."""
    pod, other = box.pod("web-0"), box.pod("web-1")
    pod.add()
    box.kill()
    box.ip("rule", "add", "to", pod.address, "lookup", "main", "priority", "512", "protocol", "boot")
    box.ip("rule", "add", "from", pod.address, "lookup", table, "priority", "1536", "protocol", "boot")
    box.start()
    pod.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")
    other.add()
    other.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")


def test_after_a_long_absence_new_addresses_wait_for_the_manager(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add()
    box.kill()
    box.setup = "import agent.fastpath.node as n; n.ABSENCE_S = 0.0"
    box.start()
    assert pod.add() == pod.result, "who has an address goes on"
    new = box.pod("web-1")
    connection = new.send("ADD")
    until(lambda: box.manager.snapshot().pool.parked == 1, "it waits")
    box.manager.do(control.Ready())
    new.result = answer(connection)
    assert new.addresses() == {new.address}


def spool(box: AgentBox, pod: Pod, number: int = 1) -> Path:
    folder = box.run_dir / "spool"
    folder.mkdir(exist_ok=True)
    path = folder / wire.spool_name(number, 1)
    request = pod.request("DEL", flags=wire.REPLAYED)
    path.with_suffix(".tmp").write_bytes(wire.encode_request(request))
    path.with_suffix(".tmp").rename(path)
    return path


def test_spooled_deletes_are_done_at_start_and_before_an_add(box: AgentBox) -> None:
    first, second = box.pod("web-0"), box.pod("web-1")
    first.add()
    second.add()
    box.kill()
    path = spool(box, first)
    rubbish = path.with_name(wire.spool_name(2, 2))
    rubbish.write_bytes(b"rubbish")
    box.start()
    assert not path.exists()
    assert not rubbish.exists()
    assert box.checkpoint() == {second.container_id: second.address}
    path = spool(box, second)
    third = box.pod("web-1")
    third.add()
    assert not path.exists()
    assert box.checkpoint() == {third.container_id: third.address}
    until(lambda: box.state()[0] == {third.host_veth}, "only the newest is there")


def test_a_spooled_delete_of_a_parked_add(box: AgentBox) -> None:
    for n in range(len(ADDRESSES)):
        box.pod(f"full-{n}").add()
    pod = box.pod("web-0")
    connection = pod.send("ADD")
    until(lambda: box.manager.snapshot().pool.parked == 1, "it waits")
    spool(box, pod)
    with pytest.raises(CniError) as caught:
        answer(connection)
    assert caught.value.code == 111


def test_two_agents_on_one_node_the_second_refuses(box: AgentBox) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("")
        sock.listen()
        again = in_namespace(
            box.netns,
            lambda: subprocess.run(
                ["nsenter", f"--net=/proc/{os.getpid()}/fd/{box.netns}", *box.process.args[2:]],  # type: ignore[index]
                env={**box.environ, "ENID_LISTEN_FD": str(sock.fileno())}, pass_fds=[sock.fileno()],
                capture_output=True, text=True, check=False, timeout=30,
            ),
        )  # fmt: skip
    assert again.returncode == 1
    assert "another process has it open" in again.stderr
