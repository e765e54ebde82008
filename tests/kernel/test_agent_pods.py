"""The life of pods, as a runtime asks for it, against a real kernel; ground truth is read from the namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import control
from ext import netlink
from tests.kernel.agentbox import AgentBox, CniError, answer
from tests.kernel.namespaces import new_namespace, until

pytestmark = pytest.mark.root
NOTHING: tuple[set[str], set[str], set[str]] = (set(), set(), set())


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(0), [f"10.0.0.{n}" for n in range(10, 12)])
        made.manager.give(made.eni(1), [f"10.0.1.{n}" for n in range(10, 14)])
        yield made


def host_is_empty(box: AgentBox) -> None:
    until(lambda: box.state() == NOTHING, "links, routes and rules are gone")


def test_pod_on_the_primary_eni(box: AgentBox) -> None:
    pod = box.pod("web-0")
    result = pod.add()
    veth = result["interfaces"][0]["name"]
    assert pod.addresses() == {"10.0.0.10"} == {pod.address}
    assert result["interfaces"][1] == {"name": "eth0", "mac": "254", "sandbox": pod.path}
    assert result["interfaces"][2]["sandbox"] == "0"
    assert box.state() == ({veth}, {f"10.0.0.10/32 dev {veth}"}, {"512: from all to 10.0.0.10 lookup 254"})
    assert box.checkpoint() == {pod.container_id: "10.0.0.10"}
    pod.delete()
    assert box.checkpoint() == {}
    host_is_empty(box)


def test_pods_on_both_enis_differ_in_everything(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(6)]
    for pod in pods:
        pod.add()
    assert len({pod.address for pod in pods}) == 6
    assert all(pod.addresses() == {pod.address} for pod in pods)
    _links, routes, rules = box.state()
    assert routes == {f"{pod.address}/32 dev {pod.host_veth}" for pod in pods}
    secondary = {pod.address for pod in pods if pod.address.startswith("10.0.1.")}
    assert len(secondary) == 4
    assert rules == {f"512: from all to {p.address} lookup 254" for p in pods} | {
        f"1536: from {a} to all lookup 2" for a in secondary
    }
    for pod in pods:
        pod.delete()
    host_is_empty(box)


def test_first_packets_are_not_lost(box: AgentBox) -> None:
    box.ip("addr", "add", "10.0.0.4/32", "dev", "lo")
    for n in range(4):
        pod = box.pod(f"web-{n}")
        pod.add()
        command = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{pod.netns}", "ping", "-c1", "-W1", "-q", "10.0.0.4"]
        assert os.spawnvp(os.P_WAIT, "nsenter", command) == 0


def test_the_same_add_twice_is_one(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first = pod.add()
    index = box.host.link(name=pod.host_veth)
    assert pod.add() == first
    assert box.host.link(name=pod.host_veth) == index
    assert box.manager.snapshot().counters["add_ok"] == 1


def test_an_add_is_answered_in_the_version_that_it_asks_in(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add(conf={"cniVersion": "0.3.1"})
    assert pod.result["cniVersion"] == "0.3.1"
    assert pod.result["ips"][0]["version"] == "4"
    assert pod.add(conf={"cniVersion": "0.2.0"}) == {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.10/32"}, "dns": {}}
    with pytest.raises(CniError) as caught:
        pod.add(conf={"cniVersion": "3.0.0"})
    assert caught.value.code == 1


def test_a_veth_that_is_gone_is_made_anew_with_the_same_address(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first = pod.add()
    box.ip("link", "del", pod.host_veth)
    assert pod.add() == first
    assert pod.addresses() == {pod.address}
    assert box.state()[1] == {f"{pod.address}/32 dev {pod.host_veth}"}


def test_a_new_namespace_for_the_same_container_is_wired(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first = pod.add()
    old, old_socket = pod.netns, pod.socket
    twin = box.pod("web-0")
    twin.container_id, twin.path = pod.container_id, pod.path
    assert twin.add() == first
    assert twin.addresses() == {pod.address}
    assert pod.addresses() == set()
    assert (pod.netns, pod.socket) == (old, old_socket)


def test_mtu_and_prefix(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add(conf={"mtu": "1500", "vethPrefix": "pod"})
    assert pod.host_veth.startswith("pod")
    host, inside = box.host.link(name=pod.host_veth), pod.socket.link(name="eth0")
    assert host is not None
    assert inside is not None
    assert (host.mtu, inside.mtu) == (1500, 1500)


def test_delete_ten_times_and_of_the_unknown(box: AgentBox) -> None:
    pod, other = box.pod("web-0"), box.pod("web-1")
    pod.add()
    other.add()
    for n in range(10):
        pod.delete(descriptors=n % 2 == 0, netns=b"" if n % 2 else b"/gone", conf={"prevResult": pod.result})
    box.pod("never").delete(args=b"")
    assert box.checkpoint() == {other.container_id: other.address}
    until(lambda: box.state()[0] == {other.host_veth}, "only the other pod's veth is there")
    assert other.addresses() == {other.address}


def test_a_late_delete_does_not_hit_the_newer_pod(box: AgentBox) -> None:
    old = box.pod("web-0")
    old.add()
    old.delete()
    new = box.pod("web-0")
    new.add()
    new_too = box.pod("web-1")
    new_too.add()
    until(lambda: box.state()[0] == {new.host_veth, new_too.host_veth}, "the old one's veth is gone")
    state = box.state()
    # The first release is over, so the address of the old one may be anybody's by now.
    old.delete(conf={"prevResult": old.result})
    old.delete(args=b"")
    assert box.state() == state or until(lambda: box.state() == state, "the newer pods are whole")
    assert (new.addresses(), new_too.addresses()) == ({new.address}, {new_too.address})


def test_a_living_sandbox_of_the_same_pod_keeps_its_network(box: AgentBox) -> None:
    old, new = box.pod("web-0"), box.pod("web-0")
    old.add()
    new.add()
    assert old.address != new.address
    assert old.host_veth == new.host_veth
    links, routes, _rules = box.state()
    assert new.host_veth in links
    (renamed,) = links - {new.host_veth}
    assert routes == {f"{new.address}/32 dev {new.host_veth}", f"{old.address}/32 dev {renamed}"}
    shown = box.manager.pods()
    assert shown[old.container_id].host_veth == renamed
    box.restart()
    assert box.state()[1] == routes
    old.delete()
    until(lambda: box.state()[0] == {new.host_veth}, "the older one is gone")
    assert new.addresses() == {new.address}
    new.delete()
    host_is_empty(box)


def test_a_namespace_is_used_again_at_once(box: AgentBox) -> None:
    pod = box.pod("web-0")
    for n in range(5):
        pod.container_id = f"{n:064x}"
        pod.add()
        assert pod.addresses() == {pod.address}
        pod.delete()


def test_a_thousand_lives_leave_nothing(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(4)]
    room, files = 0, dict[str, int]()
    before = box.descriptors()
    for n in range(250):
        for pod in pods:
            pod.container_id = f"{n:032x}{pods.index(pod):032x}"
            pod.close()
            fresh = box.pod(pod.name)
            pod.netns, pod.socket = fresh.netns, fresh.socket
            fresh.netns = -1
            box.pods.remove(fresh)
            pod.add()
        for pod in pods:
            pod.delete()
        if n == 149:
            # The 512 pods that are remembered are there by now.
            room, files = memory(box), journal_files(box)
    host_is_empty(box)
    until(lambda: box.descriptors() == before, "no descriptor is left over")
    assert memory(box) - room < 128, "kB over 400 lives"
    assert journal_files(box) == files
    assert box.checkpoint() == {}
    assert box.manager.snapshot().counters["add_ok"] == 1000


def journal_files(box: AgentBox) -> dict[str, int]:
    """Sizes by name."""
    return {path.name: path.stat().st_size for path in (box.run_dir / "journal").iterdir()}


def memory(box: AgentBox) -> int:
    """Private kB of the agent."""
    total = 0
    for line in Path(f"/proc/{box.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private"):
            total += int(line.split()[1])
    return total


def test_check(box: AgentBox) -> None:
    pod = box.pod("web-0")
    with pytest.raises(CniError) as caught:
        pod.call("CHECK")
    assert caught.value.code == 3
    pod.add()
    assert pod.call("CHECK", conf={"prevResult": pod.result}) == {}
    wrong = {**pod.result, "ips": [{**pod.result["ips"][0], "address": "10.9.9.9/32"}]}
    breaks: list[tuple[dict[str, Any], str, list[str]]] = [
        ({"conf": {"prevResult": wrong}}, "10.9.9.9", []),
        ({}, "to-rule", ["rule", "del", "priority", "512"]),
        ({}, "route", ["route", "del", f"{pod.address}/32"]),
        ({}, "not whole", ["link", "set", pod.host_veth, "down"]),
        ({}, "missing", ["link", "del", pod.host_veth]),
    ]
    for changes, word, command in breaks:
        if command:
            box.ip(*command)
        with pytest.raises(CniError, match=word):
            pod.call("CHECK", **changes)


def test_gc_ends_what_the_runtime_does_not_know(box: AgentBox) -> None:
    keep, lost = box.pod("keep"), box.pod("lost")
    keep.add()
    lost.add()
    valid = [{"containerID": keep.container_id, "ifname": "eth0"}]
    conf = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert keep.call("GC", descriptors=False, container_id=b"", ifname=b"", conf=conf) == {}
    assert box.checkpoint() == {keep.container_id: keep.address}
    assert keep.addresses() == {keep.address}
    until(lambda: box.state()[0] == {keep.host_veth}, "the lost one's veth is gone")


def test_status_fails_only_before_the_first_initialisation(tmp_path: Path) -> None:
    with AgentBox(tmp_path) as box:
        pod = box.pod("any")

        def status() -> int:
            try:
                pod.call("STATUS", descriptors=False, container_id=b"", ifname=b"", conf={"cniVersion": "1.1.0"})
            except CniError as error:
                return error.code
            return 0

        assert status() == 50
        box.manager.give(box.eni(0), ["10.0.0.10"])
        assert status() == 0
        pod.add()
        assert status() == 0, "a full node is a normal state"
        box.restart()
        assert status() == 0, "the journal knows that the node was initialised, and nobody needs a manager for it"
        assert box.manager.snapshot().ready is False
        assert status() == 0


def test_phases_rules_and_history_are_explained(box: AgentBox) -> None:
    box.manager.give(box.eni(2), ["10.0.2.10"])
    box.manager.do(_draining("10.0.0.10"))
    box.manager.do(_draining("10.0.0.11"))
    pod = box.pod("web-0", "shop")
    pod.add()
    (shown,) = box.manager.explain("web-0", "shop")
    assert shown.addresses == [f"{pod.address}/32"]
    assert list(shown.phases) == ["assigned", "journaled", "wired", "answered"]
    assert sorted(shown.phases.values()) == list(shown.phases.values())
    assert shown.rules == [f"512: to {pod.address}/32 lookup main", f"1536: from {pod.address}/32 lookup {shown.table}"]
    assert shown.routes == [f"{pod.address}/32 dev {pod.host_veth} scope link"]
    box.ip("rule", "del", "priority", "1536")
    assert box.manager.explain("web-0", "shop")[0].rules[1].startswith("MISSING ")
    pod.delete()
    for _ in range(2):
        (gone,) = box.manager.explain("web-0", "shop")
        assert (gone.state, gone.addresses) == ("deleted", [f"{pod.address}/32"])
        assert gone.phases == shown.phases
        box.restart()


def _draining(address: str) -> control.SetBlockState:
    return control.SetBlockState(address, 32, "draining")


def test_a_lost_delete_frees_the_address_after_a_grace(tmp_path: Path) -> None:
    setup = "import agent.fastpath.node as n; n.LOST_GRACE_S = 0.3"
    with AgentBox(tmp_path, setup=setup) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        pod.close()
        until(lambda: box.manager.pods().get(pod.container_id) is None, "the owner is given up")
        assert box.manager.explain("web-0")[0].state == "lost"
        assert box.checkpoint() == {}
        host_is_empty(box)
        again = box.pod("web-1")
        again.add()
        assert again.address == "10.0.1.10"


def test_a_delete_within_the_grace_is_an_ordinary_one(tmp_path: Path) -> None:
    with AgentBox(tmp_path) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        pod.close()
        until(lambda: box.manager.pods()[pod.container_id].state == "lost", "the loss is noticed")
        pod.netns, pod.socket = new_namespace(), netlink.Socket.open()
        pod.delete(descriptors=False)
        assert box.manager.explain("web-0")[0].state == "deleted"
        host_is_empty(box)


def test_a_hostnetwork_namespace_is_refused(box: AgentBox) -> None:
    pod = box.pod("web-0")
    before = box.state()
    os.close(pod.netns)
    pod.netns = os.dup(box.netns)
    with pytest.raises(CniError) as caught:
        pod.add()
    assert caught.value.code == 120
    assert box.state() == before
    assert box.checkpoint() == {}


def test_a_name_held_inside_the_pod_is_refused_and_undone(box: AgentBox) -> None:
    pod = box.pod("web-0")
    before = box.state()
    # Loopback must be down for it on old kernels.
    pod.socket.apply([netlink.link_set(1, up=False), netlink.link_set(1, name="eth0")])
    with pytest.raises(CniError) as caught:
        pod.add()
    assert (caught.value.code, "EEXIST" in caught.value.body["details"]) == (120, True)
    assert box.state() == before
    snapshot = box.manager.snapshot()
    assert (snapshot.pool.used, snapshot.pool.cooling) == (0, 0)
    (failed,) = box.manager.explain("web-0")
    assert (failed.state, failed.error_code) == ("failed", "kernel-refused")


def test_an_add_that_was_half_wired_cools_down(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "30"}) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        # The default route that is there already refuses ours, late in the plan.
        pod.socket.apply([netlink.route_add(None, index=1, family=2, scope=253)])
        with pytest.raises(CniError):
            pod.add()
        assert box.state() == NOTHING
        assert box.manager.snapshot().pool.cooling == 1


def test_all_pods_at_once(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(6)]
    connections = [pod.send("ADD") for pod in pods]
    for pod, connection in zip(pods, connections, strict=True):
        pod.result = answer(connection)
    assert len({pod.address for pod in pods}) == 6
    assert all(pod.addresses() == {pod.address} for pod in pods)


def test_comm_and_modules(box: AgentBox) -> None:
    assert Path(f"/proc/{box.process.pid}/comm").read_text() == "aws-k8s-agent\n"
    maps = Path(f"/proc/{box.process.pid}/maps").read_text()
    for slow in ("grpc", "botocore", "prometheus", "_ssl"):
        assert slow not in maps
