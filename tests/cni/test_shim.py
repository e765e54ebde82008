"""The shim as the runtime calls it: every verb with an agent, and every input that needs none."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cni import wire
from tests.cni.conftest import ARGS, CONTAINER, SHIM, Node, Pod, wait_for
from tests.cni.fake_agent import RESULT, FakeAgent, die, reply

SUPPORTED = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
NEEDED = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
    "STATUS": ["CNI_PATH"],
    "GC": ["CNI_PATH"],
}


# --- without an agent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "version"),
    [
        (b"{}", "1.1.0"),
        (b"", "1.1.0"),
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":"9.9.9"}', "1.1.0"),
        (b'{"cniVersion":"0.4.0","agentSocket":7}', "0.4.0"),
        (b'{"cniVersion":"0.4', "1.1.0"),
        (b"\xff\xfe\0", "1.1.0"),
    ],
)
def test_version(node: Node, config: bytes, version: str) -> None:
    done = node.call("VERSION", config=config, CNI_CONTAINERID="", CNI_IFNAME="", CNI_PATH="").run()
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out) == {"cniVersion": version, "supportedVersions": SUPPORTED}


@pytest.mark.parametrize("command", [None, ""])
def test_no_command_tells_what_it_is(node: Node, command: str | None) -> None:
    done = node.call(command).run()
    assert (done.status, done.out) == (0, b"")
    assert "CNI plugin of enid" in done.err


def test_unknown_command(node: Node) -> None:
    error = node.call("BLESS").run().error
    assert (error["code"], error["msg"]) == (4, "unknown CNI_COMMAND: BLESS")


@pytest.mark.parametrize(("verb", "names"), NEEDED.items())
def test_missing_variables_are_named(node: Node, verb: str, names: list[str]) -> None:
    error = (
        node.call(verb, config=b'{"cniVersion":"1.0.0"}', CNI_CONTAINERID="", CNI_IFNAME="", CNI_PATH="").run().error
    )
    assert (error["cniVersion"], error["code"]) == ("1.0.0", 4)
    assert error["msg"] == f"required env variables [{','.join(names)}] missing for {verb}"


@pytest.mark.parametrize(
    ("size", "fits"), [(wire.MAX_CONFIG, True), (wire.MAX_CONFIG + 1, False), (4 * wire.MAX_CONFIG, False)]
)
def test_bound_of_the_configuration(node: Node, size: int, fits: bool) -> None:
    config = node.config()
    config = config + b" " * (size - len(config))
    with FakeAgent(node.run_dir) as agent:
        done = node.call("STATUS", config=config).run()
    if fits:
        assert done.status == 0
        assert agent.requests[0].config == config
    else:
        assert done.error["code"] == 6
        assert str(wire.MAX_CONFIG) in done.error["msg"]
        assert not agent.seen


@pytest.mark.parametrize("name", ["CNI_ARGS", "CNI_CONTAINERID", "CNI_PATH"])
def test_bound_of_the_variables(node: Node, name: str) -> None:
    with FakeAgent(node.run_dir) as agent:
        call = node.call("DEL")
        call.environment[name] = "x" * wire.MAX_FIELD
        assert call.run().status == 0
        call.environment[name] += "x"
        error = call.run().error
    assert (error["code"], error["msg"]) == (4, f"{name} is longer than {wire.MAX_FIELD} bytes")
    assert len(agent.seen) == 1


@pytest.mark.parametrize("value", ['"relative/cni.sock"', '"/x\\u0041"', "17", '"/' + "x" * 107 + '"', '""'])
def test_agent_socket_that_is_none(node: Node, value: str) -> None:
    error = node.call("ADD", "/none", config=f'{{"agentSocket":{value}}}'.encode()).run().error
    assert error["code"] == 7
    assert f"agentSocket {value} is not an absolute path" in error["msg"]


def test_messages_are_utf_8_whatever_the_input(node: Node) -> None:
    environment = {**node.call("ADD").environment, "CNI_COMMAND": "ADD"}
    raw = {k.encode(): v.encode() for k, v in environment.items()}
    raw[b"CNI_NETNS"] = b'/no\xff"\\\n\xc3\xa9\xed\xa0\x80'
    done = subprocess.run([SHIM], env=raw, input=node.config(), capture_output=True, check=False, timeout=60)
    assert 'CNI_NETNS /no�"\\\né��� cannot be opened' in json.loads(done.stdout)["msg"]


# --- with an agent ------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_the_agent_gets_the_call_and_the_pods_descriptors(node: Node, pod: Pod, verb: str) -> None:
    with FakeAgent(node.run_dir, [reply(0, RESULT)]) as agent:
        done = node.call(verb, pod.netns).run()
    assert (done.status, done.out, done.err) == (0, RESULT, "")
    (seen,) = agent.seen
    assert seen.request == wire.Request(
        wire.Kind[verb],
        CONTAINER.encode(),
        pod.netns.encode(),
        b"eth0",
        ARGS.encode(),
        b"/nowhere",
        node.config(),
        wire.HAS_DESCRIPTORS,
    )
    assert seen.descriptors == 2
    assert seen.netns_inode == pod.inode
    assert seen.links == ["lo", "marker", "marker-peer"]
    assert seen.peer_uid == 0


@pytest.mark.parametrize("verb", ["STATUS", "GC"])
def test_verbs_without_a_pod(node: Node, verb: str) -> None:
    with FakeAgent(node.run_dir) as agent:
        done = node.call(verb, CNI_CONTAINERID="", CNI_IFNAME="", CNI_ARGS="").run()
    assert (done.status, done.out) == (0, b"")
    assert agent.requests == [wire.Request(wire.Kind[verb], path=b"/nowhere", config=node.config())]
    assert agent.seen[0].descriptors == 0


def test_the_agents_error_is_passed_on(node: Node) -> None:
    text = b'{"cniVersion":"0.4.0","code":110,"msg":"full","details":"code=node-full"}'
    with FakeAgent(node.run_dir, [reply(1, text)]):
        done = node.call("DEL").run()
    assert (done.status, done.out) == (1, text)


@pytest.mark.parametrize("rest", [b', "x": \xff}', b', "x": {"y"', b', "x": [}', b""])
def test_what_is_no_json_is_the_agents_to_tell(node: Node, rest: bytes) -> None:
    # Where the agent listens is taken from what stands before the fault.
    broken = node.config()[:-1] + rest
    with FakeAgent(node.run_dir) as agent:
        assert node.call("DEL", config=broken).run().status == 0
    assert agent.requests[0].config == broken


@pytest.mark.root
def test_a_reply_in_pieces_and_of_the_largest_size(node: Node, pod: Pod) -> None:
    text = b'{"x":"' + b"y" * (wire.MAX_FIELD - 8) + b'"}'
    with FakeAgent(node.run_dir, [reply(0, text)]):
        assert node.call("ADD", pod.netns).run().out == text


@pytest.mark.root
def test_agent_that_dies_before_its_reply_is_asked_again(node: Node, pod: Pod) -> None:
    with FakeAgent(node.run_dir, [die, die, reply(0, RESULT)]) as agent:
        done = node.call("ADD", pod.netns).run()
    assert (done.status, done.out) == (0, RESULT)
    assert len(agent.seen) == 3
    assert len({seen.raw for seen in agent.seen}) == 1
    assert [seen.netns_inode for seen in agent.seen] == [pod.inode] * 3


def test_agent_that_dies_in_the_middle_of_its_reply_is_asked_again(node: Node) -> None:
    def half(_request: wire.Request) -> bytes:
        return wire.encode_reply(0, RESULT)[:30]

    with FakeAgent(node.run_dir, [half, reply(0, RESULT)]) as agent:
        done = node.call("DEL").run()
    assert (done.status, done.out) == (0, RESULT)
    assert len(agent.seen) == 2


def inside_and_asleep(pid: int, pod: Pod) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return state == "S" and os.stat(f"/proc/{pid}/ns/net").st_ino == pod.inode


@pytest.mark.root
def test_add_waits_for_an_agent_that_comes(node: Node, pod: Pod) -> None:
    process = node.call("ADD", pod.netns).start()
    assert process.stdin is not None
    process.stdin.write(node.config())
    process.stdin.close()
    process.stdin = None
    # Inside the pod's namespace it sleeps only between two attempts to find somebody.
    wait_for(lambda: inside_and_asleep(process.pid, pod))
    with FakeAgent(node.run_dir, [reply(0, RESULT)]):
        out, _err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, RESULT)


@pytest.mark.root
def test_add_without_an_agent_names_it(node: Node, pod: Pod) -> None:
    error = node.call("ADD", pod.netns, ENID_SHIM_ADD_WAIT="50").run().error
    assert error["code"] == 11
    assert error["msg"] == f"the agent at {node.socket} does not answer: No such file or directory"


@pytest.mark.root
def test_add_gives_up_on_an_agent_that_hangs(node: Node, pod: Pod) -> None:
    agent = FakeAgent(node.run_dir)
    agent.answers = [agent.hang]
    with agent:
        error = node.call("ADD", pod.netns, ENID_SHIM_ADD_WAIT="200").run().error
    assert (error["code"], error["msg"]) == (11, f"the agent at {node.socket} has not answered within 200 ms")


@pytest.mark.root
@pytest.mark.parametrize("verb", ["CHECK", "GC"])
def test_other_verbs_without_an_agent(node: Node, pod: Pod, verb: str) -> None:
    error = node.call(verb, pod.netns, ENID_SHIM_DEL_WAIT="50").run().error
    assert error["code"] == 11


def newer(_request: wire.Request) -> bytes:
    """The answer of an agent that speaks other versions only."""
    frame = bytearray(wire.encode_unsupported())
    frame[4:6], frame[16:20] = (9).to_bytes(2, "little"), bytes((8, 0, 9, 0))
    return bytes(frame)


def test_delete_of_another_release_is_written_down(node: Node) -> None:
    with FakeAgent(node.run_dir, [newer]):
        done = node.call("DEL").run()
    assert (done.status, done.out) == (0, b"")
    assert "speaks versions 8 to 9, not 1" in done.err
    assert len(list((node.run_dir / "spool").iterdir())) == 1


@pytest.mark.parametrize("verb", ["STATUS"])
def test_other_release_names_the_versions(node: Node, verb: str) -> None:
    with FakeAgent(node.run_dir, [newer]):
        error = node.call(verb).run().error
    assert error["code"] == 141
    assert error["msg"] == f"the agent at {node.socket} speaks versions 8 to 9, this shim speaks 1"


@pytest.mark.root
@pytest.mark.parametrize("junk", [b"HTTP/1.1 400 Bad", b"ENID" + b"\0" * 12, wire.encode_reply(0, b"x") + b"y"])
def test_what_is_no_reply(node: Node, pod: Pod, junk: bytes) -> None:
    with FakeAgent(node.run_dir, [lambda _request: junk]):
        error = node.call("ADD", pod.netns).run().error
    assert error["msg"] == f"the agent at {node.socket} answered with what is no reply"


@pytest.mark.root
def test_thirty_at_once(node: Node, pod: Pod) -> None:
    def echo(request: wire.Request) -> bytes:
        return wire.encode_reply(0, request.container_id)

    with FakeAgent(node.run_dir, [echo], parallel=True) as agent:
        calls = [node.call("ADD", pod.netns, CNI_CONTAINERID=f"c{number}") for number in range(30)]
        processes = [call.start() for call in calls]
        outs = [process.communicate(call.config, timeout=60)[0] for call, process in zip(calls, processes, strict=True)]
    assert outs == [f"c{number}".encode() for number in range(30)]
    assert [process.returncode for process in processes] == [0] * 30
    assert {seen.netns_inode for seen in agent.seen} == {pod.inode}
