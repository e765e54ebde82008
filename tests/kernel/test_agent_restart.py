"""Killed at any point, the agent comes back to what is true: no address twice, no live pod harmed, nothing left over.

The points are hit by code put around a function of the agent before it starts; the process then kills itself there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from agent import control
from cni import wire
from core.names import host_veth
from ext import _journal
from tests.kernel.agentbox import AgentBox, CniError, Pod, answer, in_namespace, until

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


def by_hand(box: AgentBox, pod: Pod, address: str, table: int = 0) -> None:
    """Wire a pod as the existing system does, without us."""
    name = host_veth(pod.namespace, pod.name)
    inside = f"/proc/{os.getpid()}/fd/{pod.netns}"
    box.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inside)
    box.ip("link", "set", name, "up")
    box.ip("route", "add", f"{address}/32", "dev", name, "scope", "link")
    box.ip("rule", "add", "to", address, "lookup", "main", "priority", "512")
    if table:
        box.ip("rule", "add", "from", address, "lookup", str(table), "priority", "1536")
    for words in (["addr", "add", f"{address}/32", "dev", "eth0"], ["link", "set", "eth0", "up"]):
        subprocess.run(["nsenter", f"--net={inside}", "ip", *words], check=True, timeout=20)


def foreign_file(box: AgentBox, *entries: tuple[Pod, str]) -> None:
    """ipam.json as the existing system writes it."""
    allocations = [
        {"networkName": "aws-cni", "containerID": pod.container_id, "ifName": "eth0", "ipv4": address,
         "allocationTimestamp": 1766300000000000000,
         "metadata": {"k8sPodNamespace": pod.namespace, "k8sPodName": pod.name, "interfacesCount": 1}}
        for pod, address in entries
    ]  # fmt: skip
    (box.run_dir / "ipam.json").write_text(json.dumps({"version": "vpc-cni-ipam/1", "allocations": allocations}))


def test_take_over_of_the_existing_systems_pods(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        pods = {box.pod("web-0"): "10.0.1.10", box.pod("web-1"): "10.0.1.11"}
        for pod, address in pods.items():
            by_hand(box, pod, address, 2)
        dead = box.pod("dead")
        foreign_file(box, *pods.items(), (dead, "10.0.1.12"))
        before = box.state()
        box.start()
        assert box.state() == before
        box.manager.give(box.eni(1), ADDRESSES)
        snapshot = box.manager.snapshot()
        assert (snapshot.pool.used, snapshot.pool.free) == (3, 3)
        new = box.pod("web-2")
        new.add()
        assert new.address in ADDRESSES[3:]
        shown = box.manager.pods()
        assert {i: p.addresses for i, p in shown.items() if p.state == "up"} == {
            **{pod.container_id: [f"{address}/32"] for pod, address in pods.items()},
            new.container_id: [f"{new.address}/32"],
        }
        for pod in (*pods, new, dead):
            pod.delete()
        until(lambda: box.state() == NOTHING, "nothing is left")
        assert box.manager.snapshot().pool.free == 6


def test_our_own_file_is_known_and_a_changed_one_is_imported(box: AgentBox) -> None:
    pod, gone = box.pod("web-0"), box.pod("web-1")
    pod.add()
    gone.add()
    old = (box.run_dir / "ipam.json").read_bytes()
    gone.delete()
    until(lambda: box.state()[0] == {pod.host_veth}, "the veth is gone")
    box.restart()
    assert "0 entries came from a foreign ipam.json" in box.text().splitlines()[-1]
    box.kill()
    # A version of long ago is not ours any more: somebody else may have put it there.
    (box.run_dir / "ipam.json").write_bytes(old.replace(b'"web-1"', b'"web-9"'))
    box.start()
    assert "2 entries came from a foreign ipam.json" in box.text()
    assert box.manager.snapshot().pool.used == 2
    assert box.checkpoint() == {pod.container_id: pod.address}


def test_a_pod_that_nobody_knows_keeps_its_address(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        unknown = box.pod("web-0")
        by_hand(box, unknown, "10.0.1.10", 2)
        before = box.state()
        box.start()
        box.manager.give(box.eni(1), ["10.0.1.10"])
        assert box.state() == before
        snapshot = box.manager.snapshot()
        assert (snapshot.pool.free, snapshot.pool.used, snapshot.counters["addresses_held"]) == (0, 1, 1)
        assert box.manager.ask(control.DropBlock("10.0.1.10", 32)).code == "busy"
        box.manager.do(control.Outlook(False, "x", "no more"))
        with pytest.raises(CniError):
            box.pod("web-1").add()
        unknown.close()
        until(lambda: box.manager.snapshot().pool.free == 1, "its veth is gone, so the address is free")
        until(lambda: box.state() == NOTHING, "its rules are gone too")


def test_a_pod_that_nobody_knows_makes_room_for_its_name_and_keeps_its_route(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        unknown, new = box.pod("web-0"), box.pod("web-0")
        by_hand(box, unknown, "10.0.1.10", 2)
        box.start()
        box.manager.give(box.eni(1), ADDRESSES)
        before = box.state()
        new.add()
        links, routes, rules = box.state()
        (renamed,) = links - {new.host_veth}
        assert routes == {f"10.0.1.10/32 dev {renamed}", f"{new.address}/32 dev {new.host_veth}"}
        assert rules > before[2]
        new.delete()
        until(lambda: box.state()[0] == {renamed}, "the newer one is gone")
        assert box.state() == ({renamed}, {f"10.0.1.10/32 dev {renamed}"}, before[2])


def test_a_lost_journal_costs_no_address(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add()
    box.kill()
    for path in (box.run_dir / "journal").iterdir():
        path.unlink()
    (box.run_dir / "ipam.json").unlink()
    box.start()
    box.manager.give(box.eni(1), ADDRESSES)
    others = [box.pod(f"other-{n}") for n in range(5)]
    for other in others:
        other.add()
    assert pod.address not in {other.address for other in others}
    pod.delete(conf={"prevResult": pod.result})
    until(lambda: box.manager.snapshot().pool.free == 1, "the pod's DEL frees its address")
    until(lambda: pod.host_veth not in box.state()[0], "and its veth is gone")


@pytest.mark.parametrize("keep", ["nothing", "ipam.json"])
def test_a_damaged_journal_is_named_and_survived(box: AgentBox, keep: str) -> None:
    pods = [box.pod(f"web-{n}") for n in range(3)]
    for pod in pods:
        pod.add()
    box.kill()
    for path in (box.run_dir / "journal").iterdir():
        data = bytearray(path.read_bytes())
        if any(data[64:]):
            end = data.rstrip(b"\0")
            data[64 + (len(end) - 64) // 2] ^= 0xFF
            path.write_bytes(data)
    if keep == "nothing":
        (box.run_dir / "ipam.json").unlink()
    box.start()
    assert "journal-damaged" in box.text()
    waiting = box.pod("later").send("ADD")
    box.manager.give(box.eni(1), ADDRESSES)
    answer(waiting)
    assert len(box.pods) == 4
    held = [address for pod in box.pods for address in pod.addresses()]
    assert len(set(held)) == 4
    assert box.manager.snapshot().pool.free == 2
    for pod in box.pods:
        pod.delete(conf={"prevResult": pod.result} if pod.result else {})
    until(lambda: box.state() == NOTHING, "nothing is left")


def test_a_newer_journal_is_refused_by_name_and_state_comes_from_elsewhere(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add()
    box.kill()
    for path in (box.run_dir / "journal").iterdir():
        path.write_bytes(of_a_newer_format(path.read_bytes()))
    box.start()
    assert "journal-newer" in box.text()
    box.manager.give(box.eni(1), ADDRESSES)
    assert box.manager.snapshot().pool.used == 1
    assert pod.addresses() == {pod.address}
    pod.delete(conf={"prevResult": pod.result})
    until(lambda: box.manager.snapshot().pool.free == len(ADDRESSES), "the address is free")


def of_a_newer_format(segment: bytes) -> bytes:
    """The segment with the format in its header raised (journal.h: u32 CRC32C of the header at 12, u32 format at 8)."""
    header = bytearray(segment[:64])
    if not any(header):
        return segment
    header[8] += 1
    header[12:16] = bytes(4)
    header[12:16] = _journal.crc32c(bytes(header)).to_bytes(4, "little")
    return bytes(header) + segment[64:]


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":"vpc-cni-ipam/9","allocations":[]}', b"\xff" * 100])
def test_an_unreadable_checkpoint_does_not_brick_the_node(tmp_path: Path, content: bytes) -> None:
    with AgentBox(tmp_path, start=False) as box:
        (box.run_dir / "ipam.json").write_bytes(content)
        box.start()
        assert "checkpoint-foreign" in box.text()
        assert (box.run_dir / "ipam.json.unreadable").read_bytes() == content
        box.manager.give(box.eni(1), ADDRESSES)
        pod = box.pod("web-0")
        pod.add()
        assert box.checkpoint() == {pod.container_id: pod.address}


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


def test_an_entry_of_the_time_before_cni_keys_is_deleted_by_its_container(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        pod = box.pod("web-0")
        by_hand(box, pod, "10.0.1.10")
        entry = {"networkName": "_migrated-from-cri", "containerID": pod.container_id, "ifName": "unknown",
                 "ipv4": "10.0.1.10", "metadata": {"k8sPodNamespace": "default", "k8sPodName": "web-0"}}  # fmt: skip
        (box.run_dir / "ipam.json").write_text(json.dumps({"version": "vpc-cni-ipam/1", "allocations": [entry]}))
        box.start()
        box.manager.give(box.eni(0), ["10.0.1.10"])
        assert box.manager.snapshot().pool.used == 1
        pod.delete()
        until(lambda: box.state() == NOTHING, "nothing is left")
        assert box.manager.snapshot().pool.free == 1


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
