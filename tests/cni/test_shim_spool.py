"""DEL without an agent is written down and succeeds, whatever is broken; STATUS counts how long it is away."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from cni import wire
from tests.cni.conftest import ARGS, CONTAINER, SHIM, Node, Pod
from tests.cni.fake_agent import FakeAgent, reply


def spooled(node: Node) -> list[Path]:
    return sorted(node.spool.iterdir()) if node.spool.exists() else []


def request_of(node: Node, netns: str, flags: int) -> wire.Request:
    return wire.Request(
        wire.Kind.DEL, CONTAINER.encode(), netns.encode(), b"eth0", ARGS.encode(), b"/nowhere", node.config(), flags
    )


def test_del_without_an_agent_is_written_down(node: Node) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    process = node.call("DEL", ENID_SHIM_DEL_WAIT="1").start()
    out, err = process.communicate(node.config(), timeout=60)
    assert (process.returncode, out) == (0, b"")
    assert f"DEL of {CONTAINER} is written down for the agent at {node.socket}".encode() in err
    (file,) = spooled(node)
    assert wire.SPOOL_NAME.fullmatch(file.name)
    when, pid = re.split("[-.]", file.name)[:2]
    assert before <= int(when) <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert int(pid) == process.pid
    assert file.name == wire.spool_name(int(when), int(pid))
    assert file.read_bytes() == wire.encode_request(request_of(node, "", wire.REPLAYED | wire.NETNS_GONE))
    assert wire.decode_request(file.read_bytes()).flags == wire.REPLAYED | wire.NETNS_GONE
    assert file.stat().st_mode == 0o100600
    assert node.spool.stat().st_mode == 0o40700


@pytest.mark.root
def test_what_is_written_down_has_no_descriptors(node: Node, pod: Pod) -> None:
    assert node.call("DEL", pod.netns, ENID_SHIM_DEL_WAIT="1").run().status == 0
    (file,) = spooled(node)
    assert wire.decode_request(file.read_bytes()) == request_of(node, pod.netns, wire.REPLAYED)


def test_ten_times_and_in_order(node: Node) -> None:
    for number in range(10):
        assert node.call("DEL", ENID_SHIM_DEL_WAIT="1", CNI_CONTAINERID=f"c{number}").run().status == 0
    containers = [wire.decode_request(file.read_bytes()).container_id for file in spooled(node)]
    assert containers == [f"c{number}".encode() for number in range(10)]


def test_agent_that_hangs(node: Node) -> None:
    agent = FakeAgent(node.run_dir)
    agent.answers = [agent.hang]
    with agent:
        done = node.call("DEL", ENID_SHIM_DEL_WAIT="200").run()
    assert (done.status, done.out) == (0, b"")
    assert [wire.decode_request(file.read_bytes()) for file in spooled(node)] == [
        request_of(node, "", wire.REPLAYED | wire.NETNS_GONE)
    ]


def test_agent_that_answers_nonsense(node: Node) -> None:
    with FakeAgent(node.run_dir, [lambda _request: b"nonsense"]):
        assert node.call("DEL").run().status == 0
    assert len(spooled(node)) == 1


def test_folder_that_never_was(node: Node, tmp_path: Path) -> None:
    socket = tmp_path / "never" / "cni.sock"
    config = node.config(agentSocket=str(socket))
    assert node.call("DEL", config=config, ENID_SHIM_DEL_WAIT="1").run().status == 0
    (file,) = (tmp_path / "never" / "spool").iterdir()
    assert wire.decode_request(file.read_bytes()).config == config


@pytest.mark.parametrize("trap", ["file", "link"])
def test_spool_that_is_no_folder(node: Node, tmp_path: Path, trap: str) -> None:
    if trap == "file":
        node.spool.write_text("")
    else:
        node.spool.symlink_to(tmp_path)
    done = node.call("DEL", ENID_SHIM_DEL_WAIT="1").run()
    assert (done.status, done.out) == (0, b"")
    assert f"DEL of {CONTAINER} is lost" in done.err
    assert not list(tmp_path.glob("*.del"))


@pytest.mark.root
def test_full_file_system(node: Node) -> None:
    script = f"""
        mount -t tmpfs -o size=8k,nr_inodes=20 none {node.run_dir} && mkdir {node.spool}
        dd if=/dev/zero of={node.run_dir}/full bs=4k 2>/dev/null
        {SHIM} < /dev/stdin; echo "status $?"; ls -A {node.spool}
    """
    call = node.call("DEL", ENID_SHIM_DEL_WAIT="1")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**call.environment, "CNI_COMMAND": "DEL", "PATH": os.environ["PATH"]},
        input=call.config,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"status 0\n"
    assert b"is lost (No space left on device)" in done.stderr


# --- the pod's namespace ------------------------------------------------------------------------------


@pytest.mark.parametrize("netns", ["", "/var/run/netns/no-such", "/dev/null", "/etc/hostname"])
def test_del_without_a_namespace_is_told_to_the_agent(node: Node, netns: str) -> None:
    with FakeAgent(node.run_dir, [reply()]) as agent:
        assert node.call("DEL", netns).run().status == 0
    assert agent.requests == [request_of(node, netns, wire.NETNS_GONE)]
    assert agent.seen[0].descriptors == 0


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("netns", "text"),
    [
        ("/var/run/netns/no-such", "cannot be opened: No such file or directory (ENOENT)"),
        ("/dev/null", "cannot be entered: Invalid argument (EINVAL)"),
        ("/proc/self/ns/uts", "cannot be entered: Invalid argument (EINVAL)"),
    ],
)
def test_namespace_that_cannot_be_entered(node: Node, verb: str, netns: str, text: str) -> None:
    with FakeAgent(node.run_dir) as agent:
        error = node.call(verb, netns).run().error
    assert (error["code"], error["msg"]) == (8, f"CNI_NETNS {netns} {text}")
    assert not agent.seen


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_own_namespace_is_refused(node: Node, verb: str) -> None:
    with FakeAgent(node.run_dir) as agent:
        error = node.call(verb, "/proc/self/ns/net").run().error
    assert error["code"] == 8
    assert error["msg"] == "CNI_NETNS /proc/self/ns/net is the plugin's own network namespace"
    # A DEL is carried out first, as the CNI library does, but nobody gets the host's namespace.
    assert [seen.descriptors for seen in agent.seen] == ([0] if verb == "DEL" else [])


@pytest.mark.root
@pytest.mark.parametrize(("fields", "value"), [({"ipv6": True}, "0"), ({}, "1"), ({"ipv6": "true"}, "1")])
def test_ipv6_is_switched_on_inside(node: Node, pod: Pod, fields: dict[str, object], value: str) -> None:
    files = [f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in ("all", "default", "lo")]
    pod.run("sh", "-c", "for file; do echo 1 > $file; done", "sh", *files)
    outside = Path(files[2]).read_text()
    with FakeAgent(node.run_dir):
        assert node.call("ADD", pod.netns, node.config(**fields)).run().status == 0
    assert pod.run("cat", *files).split() == [value] * 3
    assert Path(files[2]).read_text() == outside


# --- STATUS -------------------------------------------------------------------------------------------


def away(node: Node) -> None:
    """A socket that nobody listens on, as a daemon that was stopped leaves it."""
    with FakeAgent(node.run_dir):
        pass
    assert node.socket.is_socket()


def status(node: Node, grace_ms: int) -> tuple[int, int]:
    done = node.call("STATUS", ENID_SHIM_DEL_WAIT="1", ENID_SHIM_STATUS_GRACE=str(grace_ms)).run()
    return done.status, done.error["code"] if done.status else 0


def test_status_fails_where_no_agent_ever_ran(node: Node) -> None:
    assert status(node, 9999999) == (1, 50)


def test_status_bears_a_restart(node: Node) -> None:
    away(node)
    assert status(node, 9999999) == (0, 0)
    assert status(node, 9999999) == (0, 0)


def test_status_fails_when_the_agent_is_away_for_long(node: Node) -> None:
    away(node)
    assert status(node, 0) == (1, 50)
    file = node.run_dir / "agent-away"
    first, last = map(int, file.read_text().split())
    assert first <= last
    # Half an hour of polls, the last one just now.
    file.write_text(f"{max(first - 1800000, 0):020d} {last:020d}\n")
    assert status(node, 1) == (1, 50)
    assert int(file.read_text().split()[0]) == max(first - 1800000, 0)


@pytest.mark.parametrize("content", ["", "x y", "5 3", "-1 2", "99999999999999 99999999999999"])
def test_status_begins_anew_after_a_gap(node: Node, content: str) -> None:
    away(node)
    (node.run_dir / "agent-away").write_text(content)
    assert status(node, 60000) == (0, 0)
    first, last = map(int, (node.run_dir / "agent-away").read_text().split()[:2])
    assert first == last


def test_status_forgets_the_absence_when_the_agent_answers(node: Node) -> None:
    away(node)
    status(node, 60000)
    node.socket.unlink()
    with FakeAgent(node.run_dir):
        assert node.call("STATUS").run().status == 0
    assert not (node.run_dir / "agent-away").exists()
