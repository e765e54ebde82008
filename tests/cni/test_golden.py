"""The golden frames: the shim sends these bytes, the Python twin reads and writes them, the shim prints the replies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cni import wire
from tests.cni import golden_frames as golden
from tests.cni.conftest import SHIM, Pod
from tests.cni.fake_agent import FakeAgent


def call(folder: Path, verb: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    keep = golden.ENVIRONMENT if verb not in ("STATUS", "GC") else {"CNI_PATH": golden.ENVIRONMENT["CNI_PATH"]}
    return subprocess.run(
        [SHIM],
        env={**keep, "CNI_COMMAND": verb, **environment},
        cwd=folder,
        input=golden.CONFIG,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_every_file_is_spoken_for() -> None:
    assert {file.stem for file in golden.FOLDER.iterdir()} == {*golden.REQUESTS, *golden.REPLIES}


@pytest.mark.parametrize("name", golden.REQUESTS)
def test_twin_reads_and_writes_requests(name: str) -> None:
    assert wire.decode_request(golden.read(name)) == golden.REQUESTS[name]
    assert golden.encode(name) == golden.read(name)


@pytest.mark.parametrize("name", golden.REPLIES)
def test_twin_reads_and_writes_replies(name: str) -> None:
    assert wire.parse_reply(wire.decode_frame(golden.read(name))) == golden.REPLIES[name]
    assert golden.encode(name) == golden.read(name)


@pytest.mark.root
@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_shim_sends_them(tmp_path: Path, pod: Pod, verb: str) -> None:
    os.symlink(pod.netns, tmp_path / "pod-netns")
    with FakeAgent(tmp_path) as agent:
        assert call(tmp_path, verb).returncode == 0
    assert [seen.raw for seen in agent.seen] == [golden.read(f"v1-{verb.lower()}")]


@pytest.mark.parametrize(("verb", "name"), [("DEL", "v1-del-gone"), ("STATUS", "v1-status"), ("GC", "v1-gc")])
def test_shim_sends_them_without_a_namespace(tmp_path: Path, verb: str, name: str) -> None:
    with FakeAgent(tmp_path) as agent:
        assert call(tmp_path, verb, **({"CNI_NETNS": ""} if verb == "DEL" else {})).returncode == 0
    assert [seen.raw for seen in agent.seen] == [golden.read(name)]


def test_shim_spools_it(tmp_path: Path) -> None:
    assert call(tmp_path, "DEL", CNI_NETNS="", ENID_SHIM_DEL_WAIT="1").returncode == 0
    assert [file.read_bytes() for file in (tmp_path / "spool").iterdir()] == [golden.read("v1-del-spooled")]


@pytest.mark.parametrize("name", ["v1-reply-add", "v1-reply-error", "v1-reply-empty"])
def test_shim_prints_replies(tmp_path: Path, name: str) -> None:
    with FakeAgent(tmp_path, [lambda _request: golden.read(name)]):
        done = call(tmp_path, "DEL", CNI_NETNS="")
    wanted = golden.REPLIES[name]
    assert isinstance(wanted, wire.Reply)
    assert (done.returncode, done.stdout) == (wanted.status, wanted.text)


def test_shim_understands_unsupported(tmp_path: Path) -> None:
    with FakeAgent(tmp_path, [lambda _request: golden.read("v1-unsupported")]):
        done = call(tmp_path, "STATUS", CNI_NETNS="")
    assert done.returncode == 1
    assert b"speaks versions 1 to 1" in done.stdout
