"""What a restart finds: files and pods of the existing system, pods that nobody knows, journals and checkpoints that
are lost, damaged, or newer than we are. No address may look free that a pod has.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import control
from core.names import host_veth
from ext import _journal
from tests.kernel.agentbox import AgentBox, CniError, Pod, answer
from tests.kernel.namespaces import until
from tests.kernel.test_agent_restart import ADDRESSES, NOTHING

pytestmark = pytest.mark.root


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(1), ADDRESSES)
        yield made


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
