"""Host ports: portmap is run when ports are asked for, with what the chain would have given it, and only then."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cni.conftest import CONTAINER, Node, Pod
from tests.cni.fake_agent import RESULT, FakeAgent, reply

PORTS = [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]


class Recorder:
    """A plugin `portmap` that writes down its calls and behaves as `fate` says (shell)."""

    def __init__(self, folder: Path, fate: str = "exit 0") -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "portmap"
        program.write_text(
            f"#!/bin/sh\ncat > {folder}/$CNI_COMMAND.input\n"
            f"env > {folder}/$CNI_COMMAND.env\nreadlink /proc/self/ns/net > {folder}/$CNI_COMMAND.netns\n{fate}\n"
        )
        program.chmod(0o755)

    def verbs(self) -> list[str]:
        return sorted(file.stem for file in self.folder.glob("*.input"))

    def input(self, verb: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"{verb}.input").read_text()))

    def environment(self, verb: str) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.folder / f"{verb}.env").read_text().splitlines())

    def netns(self, verb: str) -> str:
        return (self.folder / f"{verb}.netns").read_text().strip()


def with_ports(node: Node, **fields: object) -> bytes:
    return node.config(runtimeConfig={"portMappings": PORTS}, **fields)


@pytest.mark.root
def test_add_gives_portmap_our_result(node: Node, pod: Pod, tmp_path: Path) -> None:
    plugin = Recorder(tmp_path / "bin", "cat /dev/null; echo ignored")
    path = f":/nowhere:{plugin.folder}:/usr/lib/cni"
    with FakeAgent(node.run_dir, [reply(0, RESULT)]) as agent:
        done = node.call("ADD", pod.netns, with_ports(node), CNI_PATH=path).run()
    assert (done.status, done.out, done.err) == (0, RESULT, "")
    assert agent.seen[0].netns_inode == pod.inode
    assert plugin.verbs() == ["ADD"]
    assert plugin.input("ADD") == {
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "type": "portmap",
        "snat": True,
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": PORTS},
        "prevResult": json.loads(RESULT),
    }
    given = plugin.environment("ADD")
    assert (given["CNI_COMMAND"], given["CNI_CONTAINERID"], given["CNI_IFNAME"]) == ("ADD", CONTAINER, "eth0")
    assert (given["CNI_NETNS"], given["CNI_PATH"]) == (pod.netns, path)
    assert plugin.netns("ADD") == os.readlink("/proc/self/ns/net")


@pytest.mark.root
@pytest.mark.parametrize(
    "runtime", [{}, {"portMappings": []}, {"portMappings": None}, {"other": PORTS}, {"x": {"portMappings": PORTS}}]
)
def test_no_ports_no_portmap(node: Node, pod: Pod, tmp_path: Path, runtime: dict[str, object]) -> None:
    plugin = Recorder(tmp_path / "bin", "exit 1")
    with FakeAgent(node.run_dir):
        for verb in ("ADD", "CHECK", "DEL"):
            call = node.call(verb, pod.netns, node.config(runtimeConfig=runtime), CNI_PATH=str(plugin.folder))
            assert call.run().status == 0
    assert plugin.verbs() == []


@pytest.mark.root
def test_missing_portmap_is_named_before_anything_is_done(node: Node, pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "portmap").write_text("not executable")
    path = f"/nowhere:{tmp_path}"
    with FakeAgent(node.run_dir) as agent:
        error = node.call("ADD", pod.netns, with_ports(node), CNI_PATH=path).run().error
    assert error["code"] == 140
    assert error["msg"] == f"the pod has host ports, and the plugin portmap is in no folder of CNI_PATH={path}"
    assert not agent.seen


@pytest.mark.root
def test_its_error_is_passed_on(node: Node, pod: Pod, tmp_path: Path) -> None:
    text = {"cniVersion": "0.4.0", "code": 999, "msg": "port taken", "details": ""}
    plugin = Recorder(tmp_path / "bin", f"echo '{json.dumps(text)}'; exit 3")
    with FakeAgent(node.run_dir, [reply(0, RESULT)]):
        done = node.call("ADD", pod.netns, with_ports(node), CNI_PATH=str(plugin.folder)).run()
    assert done.error == text


@pytest.mark.root
@pytest.mark.parametrize(
    ("fate", "text"),
    [("exit 3", "ended with status 3 and said nothing"), ("kill -9 $$", "was killed by signal 9")],
)
def test_a_silent_failure_is_named(node: Node, pod: Pod, tmp_path: Path, fate: str, text: str) -> None:
    plugin = Recorder(tmp_path / "bin", fate)
    with FakeAgent(node.run_dir, [reply(0, RESULT)]):
        error = node.call("ADD", pod.netns, with_ports(node), CNI_PATH=str(plugin.folder)).run().error
    assert error["code"] == 140
    assert error["msg"] == f"{plugin.folder}/portmap {text}"


@pytest.mark.root
def test_no_portmap_after_a_failed_add(node: Node, pod: Pod, tmp_path: Path) -> None:
    plugin = Recorder(tmp_path / "bin")
    with FakeAgent(node.run_dir, [reply(1, b"{}")]):
        assert node.call("ADD", pod.netns, with_ports(node), CNI_PATH=str(plugin.folder)).run().status == 1
    assert plugin.verbs() == []


@pytest.mark.parametrize("previous", [True, False])
def test_del_runs_it_first_and_without_an_agent_too(node: Node, tmp_path: Path, previous: bool) -> None:
    plugin = Recorder(tmp_path / "bin")
    fields = {"prevResult": json.loads(RESULT)} if previous else {}
    call = node.call("DEL", "", with_ports(node, **fields), CNI_PATH=str(plugin.folder), ENID_SHIM_DEL_WAIT="1")
    assert call.run().status == 0
    assert plugin.verbs() == ["DEL"]
    assert plugin.input("DEL").get("prevResult") == fields.get("prevResult")
    assert plugin.input("DEL")["runtimeConfig"] == {"portMappings": PORTS}
    assert len(list(node.spool.iterdir())) == 1


def test_del_that_leaves_host_ports_keeps_the_address(node: Node, tmp_path: Path) -> None:
    plugin = Recorder(tmp_path / "bin", "exit 1")
    with FakeAgent(node.run_dir) as agent:
        assert node.call("DEL", "", with_ports(node), CNI_PATH=str(plugin.folder)).run().status == 1
        assert not agent.seen
        # Without the program it cannot be helped, and the DEL goes on.
        done = node.call("DEL", "", with_ports(node)).run()
    assert done.status == 0
    assert "portmap is in no folder of CNI_PATH" in done.err
    assert len(agent.seen) == 1


@pytest.mark.root
def test_check_runs_it_with_the_runtimes_result(node: Node, pod: Pod, tmp_path: Path) -> None:
    plugin = Recorder(tmp_path / "bin")
    config = with_ports(node, prevResult={"cniVersion": "0.4.0"})
    with FakeAgent(node.run_dir):
        assert node.call("CHECK", pod.netns, config, CNI_PATH=str(plugin.folder)).run().status == 0
    assert plugin.input("CHECK")["prevResult"] == {"cniVersion": "0.4.0"}


@pytest.mark.root
def test_the_reference_plugin_understands_its_input(node: Node, pod: Pod) -> None:
    """With a result that has no address it has nothing to forward, so it reads all, and touches nothing."""
    if not Path("/usr/lib/cni/portmap").exists():
        pytest.skip("needs the reference plugins in /usr/lib/cni")
    result = {"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "x"}], "ips": [], "dns": {}}
    with FakeAgent(node.run_dir, [reply(0, json.dumps(result).encode())]):
        done = node.call("ADD", pod.netns, with_ports(node), CNI_PATH="/usr/lib/cni").run()
        # Its complaint about a bad name shows that it did read.
        wrong = node.call("ADD", pod.netns, with_ports(node, cniVersion="0.4.0", name=7), CNI_PATH="/usr/lib/cni").run()
    assert (done.status, json.loads(done.out)) == (0, result)
    assert "cannot unmarshal number" in json.loads(wrong.out)["msg"]
