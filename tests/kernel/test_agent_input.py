"""What must not hurt: rubbish, cut frames, strangers, too many or too few descriptors; none of them is leaked."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import wire
from tests.kernel.agentbox import AgentBox, CniError, answer
from tests.kernel.namespaces import until

pytestmark = pytest.mark.root
CONF: dict[str, Any] = {"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni"}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(1), ["10.0.1.10", "10.0.1.11"])
        yield made


def still_serves(box: AgentBox, descriptors: int) -> None:
    until(lambda: box.descriptors() == descriptors, "no descriptor is left over")
    assert box.process.poll() is None
    pod = box.pod("after")
    pod.add()
    assert pod.addresses() == {pod.address}
    pod.delete()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"config": b""}, 6),
        ({"config": b'{"name":"aw'}, 6),
        ({"config": b"\xff\xfe\xfd"}, 6),
        ({"config": b" " * wire.MAX_CONFIG}, 6),
        ({"config": json.dumps({**CONF, "cniVersion": "7.0"}).encode()}, 1),
        ({"config": json.dumps({**CONF, "name": ""}).encode()}, 7),
        ({"config": json.dumps({**CONF, "vethPrefix": "toolong"}).encode()}, 7),
        ({"config": json.dumps({**CONF, "mtu": 1500}).encode()}, 7),
        ({"container_id": b"../../etc"}, 4),
        ({"container_id": b"a" * wire.MAX_FIELD}, 4),
        ({"ifname": b"much-too-long-for-a-link"}, 4),
        ({"args": b"FOO=bar"}, 4),
        ({"args": b"\xff"}, 6),
        ({"netns": b""}, 4),
    ],
)
def test_bad_requests_are_told_by_type(box: AgentBox, fields: dict[str, bytes], code: int) -> None:
    before = box.descriptors()
    with pytest.raises(CniError) as caught:
        box.pod("web-0").add(**fields)
    assert caught.value.code == code
    assert caught.value.body["msg"]
    assert "remedy: " in caught.value.body["details"]
    assert len(caught.value.body["msg"]) < 2000
    still_serves(box, before)


def test_rubbish_of_all_kinds(box: AgentBox) -> None:
    before = box.descriptors()
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pod = box.pod("web-0")
    good = wire.encode_request(pod.request("ADD", flags=wire.HAS_DESCRIPTORS))
    for n in range(300):
        data = bytearray(good)
        match n % 4:
            case 0:
                data = bytearray(rng.randbytes(rng.randrange(1, 400)))
            case 1:
                del data[rng.randrange(1, len(data)) :]
            case 2:
                for _ in range(3):
                    data[rng.randrange(20)] = rng.randrange(256)
            case 3:
                data += rng.randbytes(5)
        fds = [pod.netns, pod.socket.fileno(), pod.netns][: rng.randrange(4)]
        try:
            connection = box.send(bytes(data), fds)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
            connection.close()
        except OSError:
            connection.close()
    pod.delete()
    still_serves(box, before)


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_the_wrong_number_of_descriptors(box: AgentBox, count: int) -> None:
    before = box.descriptors()
    pod = box.pod("web-0")
    data = wire.encode_request(pod.request("ADD", flags=wire.HAS_DESCRIPTORS))
    with pytest.raises(CniError) as caught:
        answer(box.send(data, [pod.netns, pod.socket.fileno(), *[0] * 6][:count]))
    assert caught.value.code == 121
    still_serves(box, before)


def test_an_add_without_descriptors(box: AgentBox) -> None:
    with pytest.raises(CniError) as caught:
        box.pod("web-0").call("ADD", descriptors=False)
    assert caught.value.code == 121


def test_descriptors_that_are_something_else(box: AgentBox, tmp_path: Path) -> None:
    before = box.descriptors()
    pod = box.pod("web-0")
    data = wire.encode_request(pod.request("ADD", flags=wire.HAS_DESCRIPTORS))
    other = os.open(tmp_path, os.O_RDONLY)
    pair = socket.socketpair()
    for fds in ([other, other], [pod.netns, other], [pod.netns, pair[0].fileno()], [other, pod.socket.fileno()]):
        with pytest.raises(CniError) as caught:
            answer(box.send(data, fds))
        assert caught.value.code == 121
        assert box.manager.snapshot().pool.used == 0
    for sock in pair:
        sock.close()
    os.close(other)
    assert box.state() == (set(), set(), set())
    assert box.manager.snapshot().pool.used == 0
    still_serves(box, before)


def test_a_frame_in_single_bytes(box: AgentBox) -> None:
    pod = box.pod("web-0")
    data = wire.encode_request(pod.request("ADD", flags=wire.HAS_DESCRIPTORS))
    connection = box.send(data[:1], [pod.netns, pod.socket.fileno()])
    for n in range(1, len(data)):
        connection.send(data[n : n + 1])
    pod.result = answer(connection)
    assert pod.addresses() == {pod.address}


def test_a_version_that_is_not_spoken(box: AgentBox) -> None:
    data = bytearray(wire.encode_request(box.pod("web-0").request("DEL")))
    data[4:6] = (9).to_bytes(2, "little")
    with box.send(bytes(data)) as connection:
        frame = wire.decode_frame(connection.recv(100))
    assert wire.parse_reply(frame) == wire.Unsupported(wire.LOWEST_VERSION, wire.VERSION)


def test_a_field_beyond_its_bound_is_refused_by_name(box: AgentBox) -> None:
    header = wire.HEADER.pack(wire.MAGIC, 1, 1, 0, wire.MAX_BODY + 1, 0)
    with pytest.raises(CniError, match=str(wire.MAX_BODY)):
        answer(box.send(header))


def test_strangers_are_not_served(box: AgentBox) -> None:
    os.chmod(box.run_dir, 0o755)
    os.chmod(box.run_dir / "cni.sock", 0o666)
    os.chmod(box.run_dir / "control.sock", 0o666)
    code = """
import os, socket, sys
os.setuid(65534)
for name in ("cni.sock", "control.sock"):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1] + "/" + name)
    try:
        s.send(b"ENID" + bytes(12))
        assert s.recv(100) == b"", name
    except OSError:
        pass
"""
    subprocess.run([sys.executable, "-I", "-c", code, str(box.run_dir)], check=True, timeout=20)


def test_many_connections_that_say_nothing(box: AgentBox) -> None:
    before = box.descriptors()
    idle = [box.send(b"") for _ in range(200)]
    pod = box.pod("web-0")
    pod.add()
    pod.delete()
    for connection in idle:
        connection.close()
    still_serves(box, before)


def run_main(environ: dict[str, str], *, listen: bool = True) -> subprocess.CompletedProcess[str]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("")
        if listen:
            sock.listen()
        return subprocess.run(
            ["unshare", "-n", sys.executable, "-I", "-m", "agent.fastpath.main"],
            env={"PATH": os.environ["PATH"], "ENID_LISTEN_FD": str(sock.fileno()), **environ},
            pass_fds=[sock.fileno()], capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip


def test_bad_settings_are_all_named_and_end_with_78() -> None:
    done = run_main({"ENABLE_IPv4": "true", "AWS_VPC_ENI_MTU": "7", "ENID_ADD_WAIT": "soon"})
    assert done.returncode == 78
    assert "AWS_VPC_ENI_MTU" in done.stderr
    assert "ENID_ADD_WAIT" in done.stderr


def test_a_descriptor_that_does_not_listen_ends_with_78(tmp_path: Path) -> None:
    good = {"ENABLE_IPv4": "true", "ENID_RUN_DIR": str(tmp_path), "ENID_LOG_DIR": str(tmp_path)}
    for environ, listen in (({}, False), ({"ENID_LISTEN_FD": "77"}, True), ({"ENID_LISTEN_FD": "x"}, True)):
        done = run_main({**good, **environ}, listen=listen)
        assert done.returncode == 78
        assert "ENID_LISTEN_FD" in done.stderr


def test_the_hot_process_loads_nothing_slow(box: AgentBox) -> None:
    slow = (
        "boto3",
        "botocore",
        "grpc",
        "lightkube",
        "prometheus_client",
        "pyroute2",
        "asyncio",
        "ssl",
        "http",
        "logging",
    )
    code = f"import sys, agent.fastpath.main; print([m for m in sys.modules if m.partition('.')[0] in {slow!r}])"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]"
