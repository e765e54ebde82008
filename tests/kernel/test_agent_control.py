"""The control socket as the manager and the commands use it, and what is kept over restarts and compactions."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import control
from tests.kernel.agentbox import AgentBox, CniError, answer
from tests.kernel.namespaces import until

pytestmark = pytest.mark.root
SHIM = Path(__file__).resolve().parents[2] / "cni" / "bin" / "aws-cni"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        yield made


def refused(reply: Any) -> str:
    assert isinstance(reply, control.Refused), reply
    assert reply.text
    return reply.code


def test_the_socket_is_for_root_only(box: AgentBox) -> None:
    assert (box.run_dir / "control.sock").stat().st_mode & 0o777 == 0o600


def test_commands_are_idempotent_and_survive_a_restart(box: AgentBox) -> None:
    eni = box.eni(1)
    for _ in range(2):
        for _ in range(2):
            box.manager.do(control.SetEni(eni))
            box.manager.do(control.AddBlock(eni.eni_id, "10.0.1.10", 32, "address"))
            box.manager.do(control.AddBlock(eni.eni_id, "10.0.1.16", 28, "prefix"))
            box.manager.do(control.SetBlockState("10.0.1.10", 32, "draining"))
            box.manager.do(control.Ready())
        snapshot = box.manager.snapshot()
        assert snapshot.enis == [eni]
        assert {(b.base, b.length, b.kind, b.state, b.size) for b in snapshot.blocks} == {
            ("10.0.1.10", 32, "address", "draining", 1),
            ("10.0.1.16", 28, "prefix", "open", 16),
        }
        assert snapshot.pool == control.Pool(16, 0, 0, 16, 0)
        box.restart()
    for _ in range(2):
        box.manager.do(control.DropBlock("10.0.1.10", 32))
        box.manager.do(control.DropBlock("10.0.1.16", 28))
        box.manager.do(control.DropEni(eni.eni_id))
    box.restart()
    snapshot = box.manager.snapshot()
    assert (snapshot.enis, snapshot.blocks) == ([], [])


def test_what_a_manager_sent_before_it_died_is_carried_out_whole(box: AgentBox) -> None:
    """An ENI whose addresses are lost on the way is known without them, and they rest for a minute."""
    eni = box.eni(1)
    wanted = [f"10.0.1.{10 + n}" for n in range(14)]
    requests = [control.SetEni(eni), *(control.AddBlock(eni.eni_id, a, 32, "address") for a in wanted)]
    frames = [control.encode(control.RequestFrame(100 + n, request)) for n, request in enumerate(requests)]
    dying = box.client()
    os.kill(box.process.pid, signal.SIGSTOP)
    os.waitpid(box.process.pid, os.WUNTRACED)
    dying.sock.sendall(b"".join(frames))
    dying.close()
    os.kill(box.process.pid, signal.SIGCONT)
    snapshot = box.manager.snapshot()
    assert snapshot.enis == [eni]
    assert sorted(block.base for block in snapshot.blocks) == sorted(wanted)


def test_refusals(box: AgentBox) -> None:
    ask = box.manager.ask
    eni = box.eni(1).eni_id
    assert refused(ask(control.AddBlock(eni, "10.0.1.10", 32, "address"))) == "unknown-eni"
    box.manager.give(box.eni(1), ["10.0.1.10"])
    box.manager.do(control.SetEni(box.eni(2)))
    assert refused(ask(control.AddBlock(box.eni(2).eni_id, "10.0.1.10", 32, "address"))) == "overlap"
    assert refused(ask(control.AddBlock(eni, "10.0.1.0", 28, "prefix"))) == "overlap"
    assert refused(ask(control.AddBlock(eni, "10.0.1.11", 31, "address"))) == "bad-message"
    assert refused(ask(control.AddBlock(eni, "10.0.1.17", 28, "prefix"))) == "bad-message"
    assert refused(ask(control.AddBlock(eni, "ten", 32, "address"))) == "bad-message"
    assert refused(ask(control.SetBlockState("10.9.9.9", 32, "open"))) == "unknown-block"
    pod = box.pod("web-0")
    pod.add()
    assert refused(ask(control.DropBlock("10.0.1.10", 32))) == "busy"
    assert refused(ask(control.DropEni(eni))) == "busy"
    box.manager.do(control.SetBlockState("10.0.1.10", 32, "quarantined"))
    pod.delete()
    assert refused(ask(control.DropBlock("10.0.1.10", 32))) == "busy"
    assert box.manager.snapshot().pool.total == 0


def test_rubbish_is_refused_and_the_rest_goes_on(box: AgentBox) -> None:
    manager = box.manager
    manager.sock.sendall(control.LENGTH.pack(3) + b"abc")
    assert refused(manager.receive().body) == "bad-message"
    body = b"\x82\xa2id\x07\xa4body\x81\xa2do\xa4nope"
    manager.sock.sendall(control.LENGTH.pack(len(body)) + body)
    frame = manager.receive()
    assert (frame.id, refused(frame.body)) == (7, "bad-message")
    assert manager.snapshot().blocks == []
    manager.sock.sendall(control.LENGTH.pack(control.MAX_FRAME + 1))
    assert refused(manager.receive().body) == "bad-message"
    with pytest.raises(ConnectionError):
        manager.receive()


def test_hello_comes_first_and_in_our_protocol(box: AgentBox) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(box.run_dir / "control.sock"))
        sock.sendall(control.encode(control.RequestFrame(1, control.GetPods())))
        sock.sendall(control.encode(control.RequestFrame(2, control.Hello("manager", 99))))
        data = b""
        while part := sock.recv(1 << 16):
            data += part
    (length,) = control.LENGTH.unpack_from(data)
    assert refused(control.decode_reply(data[4 : 4 + length]).body) == "bad-message"
    assert refused(control.decode_reply(data[8 + length :]).body) == "unsupported"


def test_a_command_changes_nothing(box: AgentBox) -> None:
    command = box.client("command")
    assert refused(command.ask(control.SetEni(box.eni(1)))) == "unsupported"
    assert command.snapshot().enis == []
    command.close()


def test_the_newer_manager_wins(box: AgentBox) -> None:
    old = box.client()
    new = box.client()
    with pytest.raises(ConnectionError):
        old.receive()
    new.do(control.Report({"targets": {"warm": 1}}))
    assert new.snapshot().report == {"targets": {"warm": 1}}
    old.close()
    new.close()


def test_updates_tell_what_changed(box: AgentBox) -> None:
    manager = box.manager
    manager.give(box.eni(1), ["10.0.1.10", "10.0.1.11"])
    seq = manager.snapshot(watch=True).seq
    manager.updates.clear()
    pod = box.pod("web-0")
    pod.add()
    until(lambda: manager.receive() and manager.updates[-1].pool.used == 1, "the pod is told")
    last = manager.updates[-1]
    assert last.seq > seq
    assert [(b.base, b.used) for b in last.blocks] == [("10.0.1.10", 1)]
    pod.delete()
    until(lambda: manager.receive() and manager.updates[-1].pool.free == 2, "the release is told")
    manager.do(control.DropBlock("10.0.1.11", 32))
    until(
        lambda: any("10.0.1.11/32" in u.gone for u in manager.updates) or manager.receive() is None, "the drop is told"
    )


def test_the_end_of_a_cool_down_is_told(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "1"}) as box:
        manager = box.manager
        manager.give(box.eni(1), ["10.0.1.10"])
        manager.snapshot(watch=True)
        pod = box.pod("web-0")
        pod.add()
        pod.delete()
        until(lambda: manager.receive() and manager.updates[-1].pool.cooling == 1, "it cools")
        until(lambda: manager.receive() and manager.updates[-1].pool.cooling == 0, "it has cooled")
        assert [(b.base, b.cooling) for b in manager.updates[-1].blocks] == [("10.0.1.10", 0)]
        manager.do(control.DropBlock("10.0.1.10", 32))


def test_a_client_that_does_not_read_is_cut_off_and_holds_nobody_up(box: AgentBox) -> None:
    box.manager.give(box.eni(1), [f"10.0.{1 + n // 250}.{n % 250 + 1}" for n in range(600)])
    lazy = box.client("command")
    ask = control.encode(control.RequestFrame(1, control.GetSnapshot()))
    lazy.sock.settimeout(0.5)
    try:
        for _ in range(2000):
            lazy.sock.sendall(ask)
    except OSError:
        pass
    pod = box.pod("web-0")
    pod.add()
    assert "does not read" in box.text()
    lazy.close()


@pytest.mark.parametrize("size", [1 << 16, 1 << 14])
def test_state_survives_compactions_of_the_journal(tmp_path: Path, size: int) -> None:
    setup = f"""
from ext import journal
original = journal.Journal.open.__func__
journal.Journal.open = classmethod(lambda cls, path, boot, **k: original(cls, path, boot, **{{**k, "size": {size}}}))
"""
    with AgentBox(tmp_path, setup=setup, environ={"IP_COOLDOWN_PERIOD": "30"}) as box:
        box.manager.give(box.eni(1), [f"10.0.1.{n}" for n in range(1, 101)])
        stay = box.pod("stay")
        stay.add()
        for n in range(90):
            pod = box.pod(f"web-{n % 3}", "compacted" * 6)
            pod.add()
            pod.delete()
            pod.close()
        for n in range(800):
            box.manager.do(control.SetBlockState("10.0.1.100", 32, "open" if n % 2 else "draining"))
        before = box.manager.snapshot()
        assert before.counters["journal_compactions"] > 1
        assert (before.pool.used, before.pool.cooling) == (1, 90)
        box.restart()
        after = box.manager.snapshot()
        assert (after.pool.used, after.pool.cooling, after.pool.total) == (1, 90, 100)
        kept = len(box.manager.explain("web-0", "compacted" * 6))
        # Where not all fits, it is the history that is given up.
        assert kept == 30 if size > 20000 else kept < 30
        assert stay.add() == stay.result


def test_a_journal_that_cannot_hold_the_state_refuses_adds_by_name_and_deletes_go_on(tmp_path: Path) -> None:
    setup = """
from ext import journal
original = journal.Journal.append
def append(self, frame):
    import os
    if os.path.exists(%r):
        raise OSError(28, "No space left on device")
    return original(self, frame)
journal.Journal.append = append
"""
    switch = tmp_path / "full"
    with AgentBox(tmp_path, setup=setup % str(switch)) as box:
        box.manager.give(box.eni(1), ["10.0.1.10", "10.0.1.11"])
        first, second = box.pod("web-0"), box.pod("web-1")
        first.add()
        switch.touch()
        with pytest.raises(CniError) as caught:
            second.add()
        assert caught.value.code == 132
        assert second.addresses() == set()
        assert (
            refused(box.manager.ask(control.AddBlock(box.eni(1).eni_id, "10.0.1.12", 32, "address"))) == "journal-write"
        )
        assert box.manager.snapshot().pool.total == 2
        first.delete()
        assert box.manager.snapshot().pool.used == 0
        switch.unlink()
        second.add()
        until(lambda: box.checkpoint() == {second.container_id: second.address}, "ipam.json is true again")


def test_a_checkpoint_that_cannot_be_written_fails_no_add(box: AgentBox) -> None:
    box.manager.give(box.eni(1), ["10.0.1.10"])
    (box.run_dir / "ipam.json.tmp").mkdir()
    pod = box.pod("web-0")
    pod.add()
    assert box.checkpoint() == {}
    assert box.manager.snapshot().counters["error_checkpoint-write"] >= 1
    (box.run_dir / "ipam.json.tmp").rmdir()
    until(lambda: box.checkpoint() == {pod.container_id: pod.address}, "it is written as soon as it can be")


def test_many_owners_are_in_the_checkpoint_within_a_moment(tmp_path: Path) -> None:
    with AgentBox(tmp_path, setup="import agent.fastpath.checkpoint as c; c.AT_ONCE = 2") as box:
        box.manager.give(box.eni(1), [f"10.0.1.{n}" for n in range(10, 18)])
        pods = [box.pod(f"web-{n}") for n in range(8)]
        connections = [pod.send("ADD") for pod in pods]
        for pod, connection in zip(pods, connections, strict=True):
            pod.result = answer(connection)
        until(lambda: box.checkpoint() == {p.container_id: p.address for p in pods}, "all are in it")
        box.stop()
        assert box.checkpoint() == {p.container_id: p.address for p in pods}


def test_a_reboot_is_history_and_its_addresses_rest_unless_somebody_waits(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "30"}) as box:
        box.manager.give(box.eni(1), ["10.0.1.10", "10.0.1.11"])
        pods = [box.pod("web-0"), box.pod("web-1")]
        for pod in pods:
            pod.add()
        box.kill()
        for pod in pods:
            pod.close()
        until(lambda: box.state()[0] == set(), "the pods are gone")
        box.setup = "from agent.fastpath import start; start.boot_id = lambda: '0' * 32"
        box.start()
        snapshot = box.manager.snapshot()
        assert (snapshot.enis, snapshot.blocks, snapshot.boot_id) == ([], [], "0" * 32)
        assert box.manager.explain("web-0")[0].error_code == "rebooted"
        box.manager.do(control.SetEni(box.eni(1)))
        box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.10", 32, "address"))
        assert box.manager.snapshot().pool.cooling == 1
        new = box.pod("web-0")
        connection = new.send("ADD")
        until(lambda: box.manager.snapshot().pool.parked == 1, "it waits")
        box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
        new.result = answer(connection)
        assert new.addresses() == {"10.0.1.11"}


def test_a_dead_manager_changes_nothing_for_pods(box: AgentBox) -> None:
    box.manager.give(box.eni(1), ["10.0.1.10"])
    box.manager.close()
    box._manager = None
    pod = box.pod("web-0")
    pod.add()
    pod.delete()
    assert box.manager.snapshot().ready


@pytest.mark.skipif(not SHIM.exists(), reason="the shim is not built: python setup.py build_ext --inplace")
def test_the_real_shim(box: AgentBox) -> None:
    box.manager.give(box.eni(1), ["10.0.1.10"])
    pod = box.pod("web-0")
    conf = {"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni", "agentSocket": str(box.run_dir / "cni.sock")}

    def shim(verb: str, **more: str) -> dict[str, Any]:
        environ = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": pod.container_id, "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{pod.netns}",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", **more,
        }  # fmt: skip
        done = subprocess.run([SHIM], input=json.dumps(conf), env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (done.stdout, done.stderr)
        body: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return body

    assert shim("ADD")["ips"] == [{"interface": 1, "address": "10.0.1.10/32"}]
    assert pod.addresses() == {"10.0.1.10"}
    box.kill()
    shim("DEL")
    assert list((box.run_dir / "spool").iterdir())
    box.start()
    until(lambda: box.state() == (set(), set(), set()), "the spooled DEL is done")
    assert shim("DEL", CNI_NETNS="") == {}
