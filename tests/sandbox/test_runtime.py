"""The small runtime calls plugins as the CNI specification, or containerd 1.6, says. Told by a recording plugin."""

from __future__ import annotations

import json
import re

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.face.client import Sandbox
from sandbox.world.scenario import NodeSpec, Scenario
from tests.sandbox.conftest import Node, conflist, until

pytestmark = pytest.mark.root

FAILURE = json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "try later", "details": "pool is empty"})


def test_chain_of_add_and_del_with_prev_result_and_cached_result(world: Sandbox, fresh: Node) -> None:
    fresh.configure(conflist("wire", "note"))
    answer = world.pod_create(fresh.name, fresh.name, "web", uid="u-1", annotations={"a": "b"})
    assert answer.ok, answer
    assert answer.result is not None
    cached = list((fresh.folder / "cni" / "cache" / "results").iterdir())
    assert [json.loads(file.read_text())["result"] for file in cached] == [answer.result]
    assert world.pod_delete(fresh.name, fresh.name, "web").ok
    calls = fresh.calls()
    assert [(call.plugin, call.verb) for call in calls] == [
        ("wire", "ADD"),
        ("note", "ADD"),
        ("note", "DEL"),
        ("wire", "DEL"),
    ]
    assert "prevResult" not in calls[0].config
    assert [call.config["prevResult"] for call in calls[1:]] == [answer.result] * 3
    for call in calls:
        assert call.config["name"] == "test"
        assert call.config["cniVersion"] == "1.0.0"
        assert call.config["mark"] == call.plugin
        assert "capabilities" not in call.config
        assert call.config["runtimeConfig"] == {"io.kubernetes.cri.pod-annotations": {"a": "b"}}
        assert call.env["CNI_CONTAINERID"] == answer.pod.container_id
        assert call.env["CNI_NETNS"] == answer.pod.netns
        assert re.fullmatch(r"/run/netns/cni-[0-9a-f-]{36}", call.env["CNI_NETNS"])
        assert call.env["CNI_IFNAME"] == "eth0"
        assert call.env["CNI_PATH"] == str(fresh.folder / "cni" / "bin")
        pairs = dict(pair.split("=") for pair in call.env["CNI_ARGS"].split(";"))
        assert pairs == {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": fresh.name,
            "K8S_POD_NAME": "web",
            "K8S_POD_UID": "u-1",
            "K8S_POD_INFRA_CONTAINER_ID": answer.pod.container_id,
        }
    assert not list((fresh.folder / "cni" / "cache" / "results").iterdir())
    assert world.pods(fresh.name) == []


def test_arguments_come_in_random_order(world: Sandbox, fresh: Node) -> None:
    for index in range(4):
        assert world.pod_create(fresh.name, fresh.name, f"p{index}").ok
    for index in range(4):
        assert world.pod_delete(fresh.name, fresh.name, f"p{index}").ok
    orders = {tuple(pair.split("=")[0] for pair in call.env["CNI_ARGS"].split(";")) for call in fresh.calls()}
    assert len(orders) > 1


def test_port_mappings_reach_only_plugins_that_ask(world: Sandbox, fresh: Node) -> None:
    config = conflist("wire", "note")
    config["plugins"][0]["capabilities"] = {"portMappings": False}
    fresh.configure(config)
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    assert world.pod_create(fresh.name, fresh.name, "web", port_mappings=[mapping]).ok
    assert world.pod_delete(fresh.name, fresh.name, "web").ok
    seen = [(call.plugin, call.config.get("runtimeConfig")) for call in fresh.calls()]
    assert seen == [
        ("wire", None),
        ("note", {"portMappings": [mapping]}),
        ("note", {"portMappings": [mapping]}),
        ("wire", None),
    ]


def test_failed_add_is_answered_with_its_error_and_one_del_and_leaves_nothing(world: Sandbox, fresh: Node) -> None:
    fresh.configure(conflist("wire", "note"))
    fresh.fail("note", "ADD", FAILURE)
    before = world.router_exec(["ls", "/run/netns"]).text
    answer = world.pod_create(fresh.name, fresh.name, "web")
    assert answer.result is None
    assert answer.error is not None
    assert (answer.error.plugin, answer.error.code, answer.error.msg) == ("note", 11, "try later")
    assert answer.error.details == "pool is empty"
    assert [(call.plugin, call.verb) for call in fresh.calls()] == [
        ("wire", "ADD"),
        ("note", "ADD"),
        ("note", "DEL"),
        ("wire", "DEL"),
    ]
    assert all("prevResult" not in call.config for call in fresh.calls()[2:])
    assert fresh.calls()[2].env["CNI_NETNS"] == answer.pod.netns
    assert world.pods(fresh.name) == []
    assert world.router_exec(["ls", "/run/netns"]).text == before
    fresh.fail("note", "ADD", None)
    assert world.pod_create(fresh.name, fresh.name, "web").ok
    assert world.pod_delete(fresh.name, fresh.name, "web").ok


@pytest.mark.parametrize(
    ("said", "expected"),
    [("no json at all", "no json at all"), ('{"code": 1}', "exit status 1"), ("", "exit status 1")],
)
def test_failure_without_an_error_object_is_told_with_what_was_said(
    world: Sandbox, fresh: Node, said: str, expected: str
) -> None:
    fresh.fail("wire", "ADD", said)
    error = world.pod_create(fresh.name, fresh.name, "web").error
    assert error is not None
    assert error.code == 999
    assert expected in error.msg


def test_failed_del_keeps_the_sandbox_and_the_next_try_has_prev_result_again(world: Sandbox, fresh: Node) -> None:
    created = world.pod_create(fresh.name, fresh.name, "web")
    fresh.fail("wire", "DEL", FAILURE)
    answer = world.pod_delete(fresh.name, fresh.name, "web")
    assert answer.error is not None
    assert [(pod.name, pod.state) for pod in world.pods(fresh.name)] == [("web", "failed-delete")]
    fresh.fail("wire", "DEL", None)
    assert world.pod_delete(fresh.name, fresh.name, "web").ok
    deletes = [call for call in fresh.calls() if call.verb == "DEL"]
    assert [call.config["prevResult"] for call in deletes] == [created.result] * 2
    with pytest.raises(SandboxFailure, match="no sandbox") as caught:
        world.pod_delete(fresh.name, fresh.name, "web")
    assert caught.value.code == "unknown"


@pytest.mark.parametrize("profile", ["containerd-1.6", "containerd-2"])
def test_containerd_deletes_twice_and_calls_loopback(world: Sandbox, fresh: Node, profile: str) -> None:
    world.runtime_profile(fresh.name, profile)
    loopback = fresh.folder / "cni" / "bin" / "loopback"
    loopback.unlink(missing_ok=True)
    loopback.write_text((fresh.folder / "cni" / "bin" / "note").read_text())
    loopback.chmod(0o755)
    created = world.pod_create(fresh.name, fresh.name, "web")
    assert world.pod_delete(fresh.name, fresh.name, "web").ok
    calls = fresh.calls()
    beside = [call for call in calls if call.plugin == "loopback"]
    assert [(call.verb, call.env["CNI_IFNAME"], call.config["cniVersion"]) for call in beside] == [
        ("ADD", "lo", "0.3.1")
    ]
    deletes = [call for call in calls if call.plugin == "wire" and call.verb == "DEL"]
    assert [call.env["CNI_NETNS"] for call in deletes] == [created.pod.netns, ""]
    assert deletes[0].config["prevResult"] == created.result
    assert "prevResult" not in deletes[1].config


def speak_1_1_0(node: Node) -> None:
    """Let the plugin answer in that version, as a list of that version asks for."""
    wire = node.folder / "cni" / "bin" / "wire"
    wire.write_text(wire.read_text().replace('\\"1.0.0\\"', '\\"1.1.0\\"'))
    node.configure(conflist("wire", version="1.1.0"))


def test_containerd_1_6_refuses_results_of_1_1_0_after_the_add(world: Sandbox, fresh: Node) -> None:
    world.runtime_profile(fresh.name, "containerd-1.6")
    (fresh.folder / "cni" / "bin" / "loopback").unlink(missing_ok=True)
    speak_1_1_0(fresh)
    error = world.pod_create(fresh.name, fresh.name, "web").error
    assert error is not None
    assert "unsupported CNI result version '1.1.0'" in error.msg
    assert [call.verb for call in fresh.calls()] == ["ADD", "DEL"]


def test_containerd_2_takes_results_of_1_1_0(world: Sandbox, fresh: Node) -> None:
    world.runtime_profile(fresh.name, "containerd-2")
    speak_1_1_0(fresh)
    answer = world.pod_create(fresh.name, fresh.name, "web")
    assert answer.ok
    assert answer.result is not None
    assert answer.result["cniVersion"] == "1.1.0"
    assert world.pod_delete(fresh.name, fresh.name, "web").ok


@pytest.mark.parametrize(("profile", "version"), [("containerd-1.6", "1.0.0"), ("containerd-2", "1.1.0")])
def test_versions_that_a_list_offers_count_from_containerd_2_on(
    world: Sandbox, fresh: Node, profile: str, version: str
) -> None:
    world.runtime_profile(fresh.name, profile)
    fresh.configure(conflist("wire", cniVersions=["1.0.0", "1.1.0"]))
    assert world.pod_create(fresh.name, fresh.name, "web").ok
    assert [call.config["cniVersion"] for call in fresh.calls() if call.plugin == "wire"] == [version]
    assert world.pod_delete(fresh.name, fresh.name, "web").ok


def test_failing_status_makes_the_node_not_ready_under_containerd_2(world: Sandbox, fresh: Node) -> None:
    fresh.configure(conflist("wire", version="1.1.0"))
    fresh.fail("wire", "STATUS", json.dumps({"code": 50, "msg": "no addresses"}))
    path = f"http://198.18.0.3/api/v1/nodes/{fresh.name}"

    def ready() -> tuple[str, str]:
        node = json.loads(world.node_exec(fresh.name, ["curl", "-sf", path]).stdout)
        found = next(entry for entry in node["status"]["conditions"] if entry["type"] == "Ready")
        return found["status"], found.get("message", "")

    assert ready()[0] == "True"
    world.runtime_profile(fresh.name, "containerd-2")
    until(lambda: ready()[0] == "False", "the node is not ready", 30)
    assert "no addresses" in ready()[1]
    fresh.fail("wire", "STATUS", None)
    until(lambda: ready()[0] == "True", "the node is ready again", 30)


def test_unknown_profiles_are_refused_by_name(world: Sandbox, fresh: Node) -> None:
    with pytest.raises(SandboxFailure, match=r"'cri-o' is none of spec, containerd-1\.6, containerd-2"):
        world.runtime_profile(fresh.name, "cri-o")
    with pytest.raises(SandboxFailure, match="'cri-o' is none of"):
        Scenario(nodes=(NodeSpec("n", runtime="cri-o"),)).check()


def test_check_status_gc_and_version_are_callable(world: Sandbox, fresh: Node) -> None:
    fresh.configure(conflist("wire", version="1.1.0"))
    created = world.pod_create(fresh.name, fresh.name, "web")
    for verb in ("CHECK", "STATUS", "GC", "VERSION"):
        assert world.runtime_verb(fresh.name, verb, fresh.name, "web") is None
    calls = {call.verb: call for call in fresh.calls()}
    assert calls["CHECK"].config["prevResult"] == created.result
    assert calls["GC"].config["cni.dev/valid-attachments"] == [
        {"containerID": created.pod.container_id, "ifname": "eth0"}
    ]
    assert "CNI_CONTAINERID" not in calls["STATUS"].env
    fresh.fail("wire", "STATUS", json.dumps({"code": 50, "msg": "not ready"}))
    error = world.runtime_verb(fresh.name, "STATUS")
    assert error is not None
    assert (error.code, error.msg) == (50, "not ready")
    assert world.pod_delete(fresh.name, fresh.name, "web").ok


def test_old_versions_have_no_status(world: Sandbox, fresh: Node) -> None:
    with pytest.raises(SandboxFailure, match=r"STATUS: not for cniVersion 1\.0\.0") as caught:
        world.runtime_verb(fresh.name, "STATUS")
    assert caught.value.code == "bad-request"


def test_plugin_runs_in_the_nodes_namespace_without_the_daemons_environment(world: Sandbox, fresh: Node) -> None:
    tell = fresh.folder / "cni" / "bin" / "tell"
    tell.write_text('#!/bin/sh\ncat >/dev/null; { env; readlink /proc/self/ns/net; } >&2; echo "{}"\n')
    tell.chmod(0o755)
    fresh.configure(conflist("tell"))
    answer = world.pod_create(fresh.name, fresh.name, "web")
    assert answer.error is not None
    assert "failed to find network info" in answer.error.msg
    own = world.node_exec(fresh.name, ["readlink", "/proc/self/ns/net"]).text.strip()
    lines = answer.stderr.splitlines()
    assert own in lines
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert {name for name in names if not name.startswith("CNI_")} <= {
        "PATH",
        "HOME",
        "LANG",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }


def test_same_pod_twice_and_missing_network_are_refused(world: Sandbox, fresh: Node) -> None:
    assert world.pod_create(fresh.name, fresh.name, "web").ok
    with pytest.raises(SandboxFailure, match="has a sandbox") as caught:
        world.pod_create(fresh.name, fresh.name, "web")
    assert caught.value.code == "exists"
    assert world.pod_delete(fresh.name, fresh.name, "web").ok
    (fresh.folder / "cni" / "conf" / "10-test.conflist").unlink()
    with pytest.raises(SandboxFailure, match=r"holds no \*\.conflist") as caught:
        world.pod_create(fresh.name, fresh.name, "other")
    assert caught.value.code == "cni"


def test_pod_whose_sandbox_failed_is_only_an_object(world: Sandbox, fresh: Node) -> None:
    fresh.fail("wire", "ADD", FAILURE)
    assert not world.pod_create(fresh.name, "failing", "web").ok
    path = "http://198.18.0.3/api/v1/namespaces/failing/pods"

    def names() -> list[str]:
        items = json.loads(world.node_exec(fresh.name, ["curl", "-sf", path]).stdout)["items"]
        return [item["metadata"]["name"] for item in items]

    assert names() == ["web"]
    assert world.pod_delete(fresh.name, "failing", "web").ok
    assert names() == []
