"""What must never cost a living pod its address or its path: what others do to links, rules and routes, DELs that
come late or name somebody else's address, take-overs that are not quite as expected, and a kernel that refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import control
from cni import wire
from ext import netlink
from tests.kernel.agentbox import AgentBox, CniError, Pod, answer
from tests.kernel.namespaces import until
from tests.kernel.test_agent_restart import ADDRESSES, NOTHING
from tests.kernel.test_agent_sources import by_hand, foreign_file

pytestmark = pytest.mark.root

QUICK = "import agent.fastpath.node as n; n.LOST_GRACE_S = 0.2"
# The kernel refuses to take pods down as long as the file is there.
STUBBORN = """
import errno, os, ext.netlink as n
for name in ("pod_drop", "pod_del"):
    def refusing(*args, _original=getattr(n, name), **kwargs):
        if os.path.exists({flag!r}):
            raise n.KernelError(0, "rule_del", errno.EBUSY, "")
        return _original(*args, **kwargs)
    setattr(n, name, refusing)
original = n.Socket.apply
def apply(self, ops, deadline_ns=0):
    ops = list(ops)
    if os.path.exists({flag!r}) and any(op.kind in ("rule_del", "link_set") for op in ops):
        raise n.KernelError(0, "rule_del", errno.EBUSY, "")
    return original(self, ops, deadline_ns)
n.Socket.apply = apply
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(1), ADDRESSES)
        yield made


def counters(box: AgentBox) -> dict[str, int]:
    return box.manager.snapshot().counters


def reaches(box: AgentBox, pod: Pod) -> bool:
    """Whether the host has just what this pod needs, by the kernel's word."""
    _links, routes, rules = box.state()
    mine = {rule for rule in rules if f" {pod.address} " in f"{rule} "}
    wanted = {f"512: from all to {pod.address} lookup 254", f"1536: from {pod.address} to all lookup 2"}
    return f"{pod.address}/32 dev {pod.host_veth}" in routes and mine == wanted


# --- what others do -----------------------------------------------------------------------------------------


def test_a_link_that_only_leaves_a_bridge_is_not_gone(tmp_path: Path) -> None:
    """The kernel tells it by the same message, RTM_DELLINK, with another family."""
    with AgentBox(tmp_path, setup=QUICK) as box:
        box.manager.give(box.eni(1), ADDRESSES)
        pod, marker = box.pod("web-0"), box.pod("marker")
        pod.add()
        marker.add()
        box.ip("link", "add", "br0", "type", "bridge")
        box.ip("link", "set", pod.host_veth, "master", "br0")
        box.ip("link", "set", pod.host_veth, "nomaster")
        box.ip("link", "del", "br0")
        # A veth that does go, later: when its owner has ended, the other's grace would be over as well.
        box.ip("link", "del", marker.host_veth)
        until(lambda: set(box.manager.pods()) == {pod.container_id}, "the other's grace is over")
        assert reaches(box, pod)
        assert counters(box)["veth_lost"] == 1


def test_rules_and_routes_that_others_take_away_come_back(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(3)]
    for pod in pods:
        pod.add()
    before = box.state()
    box.ip("rule", "del", "to", pods[0].address)
    box.ip("rule", "del", "from", pods[1].address)
    box.ip("route", "del", f"{pods[2].address}/32")
    until(lambda: box.state() == before, "all is as before")
    until(lambda: counters(box)["repaired"] >= 3, "and it is counted")
    box.ip("rule", "flush")
    box.ip("rule", "add", "lookup", "main", "priority", "32766")
    until(lambda: box.state() == before, "all is as before, again")


def test_rules_that_others_add_to_our_addresses_go(box: AgentBox) -> None:
    """The older of two rules would win, so the pod would leave by the wrong ENI."""
    pod, later = box.pod("web-0"), box.pod("web-1")
    pod.add()
    before = box.state()
    free = next(address for address in ADDRESSES if address != pod.address)
    for address in (pod.address, free):
        box.ip("rule", "add", "from", address, "lookup", "77", "priority", "1536", "protocol", "boot")
    box.ip("rule", "add", "from", "10.9.9.9", "lookup", "77", "priority", "1536")
    foreign = "1536: from 10.9.9.9 to all lookup 77"
    until(lambda: box.state()[2] == before[2] | {foreign}, "ours are as before, others' addresses are not our business")
    later.add()
    assert reaches(box, later)
    for one in (pod, later):
        one.delete()
    until(lambda: box.state()[2] == {foreign}, "nothing of ours is left")


def test_what_we_do_ourselves_wakes_no_repair(box: AgentBox) -> None:
    for n in range(5):
        pod = box.pod(f"web-{n}")
        pod.add()
        pod.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")
    assert "repaired" not in counters(box)


def test_a_repeated_add_brings_the_host_side_back_too(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first = pod.add()
    box.ip("link", "set", pod.host_veth, "down")
    box.ip("rule", "del", "to", pod.address)
    box.ip("link", "set", pod.host_veth, "up")
    assert pod.add() == first
    assert reaches(box, pod)


# --- DELs ---------------------------------------------------------------------------------------------------


def previous(address: str, veth: str) -> dict[str, object]:
    """A result as the existing plugin gives it."""
    return {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": veth}, {"name": "eth0", "mac": "2", "sandbox": "/x"}, {"name": "dummy1", "mac": "0"}],
        "ips": [{"version": "4", "interface": 1, "address": f"{address}/32"}],
    }


def test_a_late_delete_does_not_free_the_address_of_a_pod_that_nobody_knows(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        live, old = box.pod("live"), box.pod("old")
        by_hand(box, live, "10.0.1.10", 2)
        before = box.state()
        box.start()
        box.manager.give(box.eni(1), ["10.0.1.10"])
        old.delete(conf={"prevResult": previous("10.0.1.10", "eniaaaaaaaaaaa"), "cniVersion": "0.4.0"})
        assert box.state() == before
        assert box.manager.snapshot().pool.free == 0
        live.close()
        until(lambda: box.manager.snapshot().pool.free == 1, "its veth is gone, so the address is free")


@pytest.mark.parametrize("verb", ["DEL", "STATUS", "GC"])
def test_what_needs_no_descriptors_does_without(box: AgentBox, verb: str) -> None:
    """They may be held back by the kernel (SELinux), or there is no room for them."""
    pod = box.pod("web-0")
    # Not after the ADD: its own are closed when its answer is out.
    before = box.descriptors()
    pod.add()
    conf: dict[str, object] = {"cniVersion": "1.1.0"}
    if verb == "GC":
        conf["cni.dev/valid-attachments"] = []
    for fds in ([], [pod.netns], [pod.netns] * 5):
        data = wire.encode_request(pod.request(verb, flags=wire.HAS_DESCRIPTORS, conf=conf))
        assert answer(box.send(data, fds)) == {}
    until(lambda: box.descriptors() == before, "all are closed")


def test_an_address_whose_path_cannot_be_taken_down_is_given_to_nobody(tmp_path: Path) -> None:
    flag = tmp_path / "refuse"
    with AgentBox(tmp_path, setup=STUBBORN.format(flag=str(flag))) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod, later = box.pod("web-0"), box.pod("web-1")
        pod.add()
        flag.touch()
        pod.delete()
        snapshot = box.manager.snapshot()
        assert (snapshot.pool.free, snapshot.pool.cooling, snapshot.counters["addresses_held"]) == (0, 0, 1)
        connection = later.send("ADD")
        until(lambda: counters(box)["parked_now"] == 1, "the next one waits, though there is no cool-down")
        assert pod.addresses() == {"10.0.1.10"}
        flag.unlink()
        later.result = answer(connection)
        assert later.address == "10.0.1.10"
        until(lambda: box.state()[0] == {later.host_veth}, "the old veth is gone")
        assert pod.addresses() == set()
        assert reaches(box, later)


def test_a_refusal_outlives_a_restart(tmp_path: Path) -> None:
    flag = tmp_path / "refuse"
    with AgentBox(tmp_path, setup=STUBBORN.format(flag=str(flag))) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        flag.touch()
        pod.delete()
        box.restart()
        assert box.manager.snapshot().pool.free == 0
        assert pod.addresses() == {"10.0.1.10"}
        pod.close()
        flag.unlink()
        until(lambda: box.manager.snapshot().pool.free == 1, "its veth is gone, so the address is free")


def test_a_fault_of_our_own_fails_no_delete(tmp_path: Path) -> None:
    setup = """
import agent.fastpath.delete as d, agent.fastpath.verbs as v
v.DEL_RETRY_NS = 50_000_000
original, calls = d.Deleter.delete, []
def faulty(self, request):
    calls.append(1)
    if len(calls) < 3:
        raise ZeroDivisionError("a fault of our own")
    original(self, request)
d.Deleter.delete = faulty
"""
    with AgentBox(tmp_path, setup=setup) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        pod = box.pod("web-0")
        pod.add()
        pod.delete()
        until(lambda: box.manager.snapshot().pool.free == 1, "it is carried out in the end")
        assert counters(box)["error_internal"] == 2


def test_a_link_that_cannot_be_deleted_keeps_no_other(tmp_path: Path) -> None:
    setup = """
import errno, ext.netlink as n
group, apply = n.set_group_and_delete, n.Socket.apply
tries = []
def refusing(host, indexes, *rest):
    raise n.KernelError(0, "link_set group", errno.EPERM, "")
def single(self, ops, deadline_ns=0):
    ops = list(ops)
    if any(op.kind == "link_del" for op in ops):
        tries.append(1)
        if len(tries) == 1:
            raise n.KernelError(0, "link_del", errno.EPERM, "")
    return apply(self, ops, deadline_ns)
n.set_group_and_delete = refusing
n.Socket.apply = single
import agent.fastpath.reaper as r
r.AGAIN_S = 0.05
"""
    with AgentBox(tmp_path, setup=setup) as box:
        box.manager.give(box.eni(1), ADDRESSES)
        pods = [box.pod(f"web-{n}") for n in range(3)]
        for pod in pods:
            pod.add()
        for pod in pods:
            pod.delete()
        until(lambda: box.state() == NOTHING, "all are gone in the end")
        assert box.stop() == 0


# --- take-over and restart ------------------------------------------------------------------------------------


def test_a_pod_with_another_prefix_that_nobody_knows_keeps_its_address(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        unknown = box.pod("web-0")
        by_hand(box, unknown, "10.0.1.10", 2)
        (name,) = box.state()[0]
        # Down for its new name, as old kernels want it; that takes the route away.
        other = "abc" + name[3:]
        box.ip("link", "set", name, "down")
        box.ip("link", "set", name, "name", other, "up")
        box.ip("route", "add", "10.0.1.10/32", "dev", other, "scope", "link")
        before = box.state()
        box.start()
        box.manager.give(box.eni(1), ["10.0.1.10"])
        assert box.state() == before
        assert box.manager.snapshot().pool.free == 0
        unknown.close()
        until(lambda: box.manager.snapshot().pool.free == 1, "its veth is gone, so the address is free")


def test_a_pod_is_known_after_the_prefix_was_changed(box: AgentBox) -> None:
    ours, others = box.pod("web-0"), box.pod("web-1")
    ours.add()
    others.add(conf={"vethPrefix": "pod"})
    box.kill()
    box.environ["AWS_VPC_K8S_CNI_VETHPREFIX"] = "new"
    box.start()
    assert {pod.state for pod in box.manager.pods().values()} == {"up"}
    assert box.checkpoint() == {ours.container_id: ours.address, others.container_id: others.address}
    for pod in (ours, others):
        pod.call("CHECK", conf={"prevResult": pod.result})
    for pod in (ours, others):
        pod.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")


def test_a_take_over_of_two_from_rules_leaves_the_right_one(tmp_path: Path) -> None:
    """Until its ENI is known nothing is touched; then the one to its table stays."""
    with AgentBox(tmp_path, start=False) as box:
        pod = box.pod("web-0")
        by_hand(box, pod, "10.0.1.10", 2)
        box.ip("rule", "add", "from", "10.0.1.10", "lookup", "3", "priority", "1536")
        foreign_file(box, (pod, "10.0.1.10"))
        before = box.state()
        box.start()
        assert box.state() == before
        box.manager.give(box.eni(1), ["10.0.1.10"])
        until(lambda: box.state()[2] == before[2] - {"1536: from 10.0.1.10 to all lookup 3"}, "one from-rule is left")
        assert box.manager.explain("web-0")[0].rules == [
            "512: to 10.0.1.10/32 lookup main", "1536: from 10.0.1.10/32 lookup 2",
        ]  # fmt: skip


def test_a_take_over_without_a_from_rule_gets_it_when_the_eni_is_known(tmp_path: Path) -> None:
    with AgentBox(tmp_path, start=False) as box:
        pod = box.pod("web-0")
        by_hand(box, pod, "10.0.1.10", 0)
        foreign_file(box, (pod, "10.0.1.10"))
        box.start()
        rule = "1536: from 10.0.1.10 to all lookup 2"
        assert rule not in box.state()[2]
        box.manager.give(box.eni(1), ["10.0.1.10"])
        until(lambda: rule in box.state()[2], "it has its rule")


def test_the_rules_follow_when_an_eni_gets_another_table(box: AgentBox) -> None:
    pod = box.pod("web-0")
    pod.add()
    moved = box.eni(1)
    moved.device, moved.table = 3, 4
    box.manager.do(control.SetEni(moved))
    rules = {f"512: from all to {pod.address} lookup 254", f"1536: from {pod.address} to all lookup 4"}
    until(lambda: box.state()[2] == rules, "the from-rule leads to the new table")
    box.restart()
    assert box.manager.pods()[pod.container_id].table == 4
    assert box.state()[2] == rules
    pod.delete()
    until(lambda: box.state() == NOTHING, "nothing is left")


def test_an_add_that_was_cut_short_is_not_called_up(box: AgentBox) -> None:
    """Only the host end was made: there is no carrier, and no address inside."""
    pod = box.pod("web-0")
    pod.add()
    box.kill()
    inside = pod.socket.link(name="eth0")
    assert inside is not None
    box.ip("link", "set", pod.host_veth, "down")
    box.ip("link", "set", pod.host_veth, "up")
    pod.socket.apply([netlink.link_set(inside.ifindex, up=False)])
    box.start()
    assert box.manager.pods()[pod.container_id].state == "wiring"
    pod.add()
    assert box.manager.pods()[pod.container_id].state == "up"
    assert reaches(box, pod)


def test_our_own_file_stays_ours_though_it_could_not_be_written_for_a_while(box: AgentBox) -> None:
    """Neither the pod that was deleted meanwhile nor a wait for the manager may come of it."""
    keep, gone, later = box.pod("keep"), box.pod("gone"), box.pod("later")
    keep.add()
    gone.add()
    (box.run_dir / "ipam.json.tmp").mkdir()
    for n in range(4):
        other = box.pod(f"other-{n}")
        other.add()
        other.delete()
    gone.delete()
    until(lambda: counters(box)["error_checkpoint-write"] >= 11, "it was tried again twice after the last change")
    box.kill()
    (box.run_dir / "ipam.json.tmp").rmdir()
    box.start()
    assert "entries came from a foreign ipam.json" not in box.text().replace("0 entries", "")
    assert set(box.manager.pods()) == {keep.container_id}
    later.add()
    assert box.checkpoint() == {keep.container_id: keep.address, later.container_id: later.address}


# --- the control socket ---------------------------------------------------------------------------------------


def test_a_block_that_goes_and_comes_back_at_once_is_not_told_as_gone(box: AgentBox) -> None:
    box.manager.snapshot(watch=True)
    box.manager.do(control.DropBlock("10.0.1.10", 32))
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.10", 32, "address"))
    name, told = "10.0.1.10/32", dict[str, bool]()

    def heard() -> bool:
        box.manager.pods()  # takes in what came unasked
        for update in box.manager.updates:
            told.update(dict.fromkeys((f"{block.base}/{block.length}" for block in update.blocks), True))
            told.update(dict.fromkeys(update.gone, False))
        return name in told

    until(heard, "an update has come")
    assert told[name]


def test_multi_nic_is_refused_by_name(box: AgentBox) -> None:
    pod = box.pod("web-0")
    annotations = {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}
    with pytest.raises(CniError, match="ENABLE_MULTI_NIC is off") as caught:
        pod.add(conf={"runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations}})
    assert caught.value.code == 112
    assert box.state() == NOTHING
    annotations["k8s.amazonaws.com/nicConfig"] = "something-else"
    pod.add(conf={"runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations}})
    assert pod.addresses() == {pod.address}
