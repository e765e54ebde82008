"""Captures of an ENI, read back by a parser of the format as it is written down (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import ipaddress
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.face.client import Sandbox
from tests.sandbox.conftest import until

pytestmark = pytest.mark.root


@dataclass
class Frame:
    """One record."""

    at: float
    data: bytes
    length: int

    @property
    def source(self) -> str:
        """Of the IPv4 header; empty if it is none."""
        return str(ipaddress.IPv4Address(self.data[26:30])) if self.data[12:14] == b"\x08\x00" else ""

    @property
    def icmp(self) -> bool:
        return self.data[12:14] == b"\x08\x00" and self.data[23] == 1


def parse(data: bytes) -> list[Frame]:
    magic, major, minor, zone, accuracy, snaplen, link = struct.unpack_from("=IHHiIII", data)
    assert (magic, major, minor, zone, accuracy, link) == (0xA1B23C4D, 2, 4, 0, 0, 1)
    found, place = [], 24
    while place < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, place)
        assert nanoseconds < 1_000_000_000
        assert kept <= min(length, snaplen)
        place += 16
        assert place + kept <= len(data), "a record is whole"
        found.append(Frame(seconds + nanoseconds / 1e9, data[place : place + kept], length))
        place += kept
    return found


def command(world: Sandbox, *words: str) -> list[str]:
    start = "from sandbox.commands.main import sandbox; sandbox()"
    return [sys.executable, "-I", "-c", start, "--dir", str(world.folder), "pcap", *words]


def pinging(world: Sandbox, node: str, target: str, stop: threading.Event) -> None:
    while not stop.is_set():
        world.node_exec(node, ["ping", "-c1", "-W1", target])


@pytest.fixture
def traffic(world: Sandbox) -> Iterator[str]:
    """Pings from node-1 to node-2 as long as the test lasts; the target."""
    target = world.node("node-2").primary_ip
    stop = threading.Event()
    thread = threading.Thread(target=pinging, args=(world, "node-1", target, stop))
    thread.start()
    yield target
    stop.set()
    thread.join()


def test_frames_of_both_directions_with_their_times(world: Sandbox, traffic: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    begun = time.time()
    done = subprocess.run(command(world, "node-1", "--count", "20", "-w", str(file)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    frames = parse(file.read_bytes())
    assert len(frames) == 20
    sources = {frame.source for frame in frames if frame.icmp}
    assert sources == {world.node("node-1").primary_ip, traffic}
    mac = bytes.fromhex(world.node("node-1").nics[0].mac.replace(":", ""))
    assert all(mac in (frame.data[:6], frame.data[6:12]) for frame in frames if frame.icmp)
    assert [frame.at for frame in frames] == sorted(frame.at for frame in frames)
    assert all(begun <= frame.at <= time.time() for frame in frames)


def test_only_the_named_eni_is_seen(world: Sandbox, traffic: str, tmp_path: Path) -> None:
    file = tmp_path / "b.pcap"
    eni_id = world.node("node-3").nics[0].eni_id
    done = subprocess.run(
        command(world, eni_id, "--seconds", "1", "-w", str(file)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [frame for frame in parse(file.read_bytes()) if frame.icmp]
    assert "capturing on v-" in done.stderr
    assert traffic != world.node("node-3").primary_ip


def test_a_pipe_gets_each_frame_at_once_and_its_end_is_the_end(world: Sandbox, traffic: str) -> None:
    with subprocess.Popen(command(world, "node-2/ens5"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        head = running.stdout.read(24)
        record = running.stdout.read(16)
        data = running.stdout.read(struct.unpack("=IIII", record)[2])
        frames = parse(head + record + data)
        assert len(frames) == 1
        running.stdout.close()
        assert running.wait(20) == 0
    assert traffic


def test_a_jumbo_frame_is_kept_whole(world: Sandbox, tmp_path: Path) -> None:
    target = world.node("node-2").primary_ip
    file = tmp_path / "d.pcap"
    with open(file, "wb") as sink:
        told, tell = os.pipe()
        with world.capture("node-1", sink.fileno(), told=tell) as running, os.fdopen(told) as words:
            os.close(tell)
            assert words.readline().startswith("capturing on")
            assert world.node_exec("node-1", ["ping", "-c1", "-W20", "-M", "do", "-s", "8973", target]).rc == 0
            until(lambda: file.stat().st_size > 9015, "9,001 bytes and Ethernet's 14")
            assert running.fileno() >= 0
    largest = max(parse(file.read_bytes()), key=lambda frame: frame.length)
    assert len(largest.data) == largest.length == 9015


def test_what_is_not_there_is_refused_by_name(world: Sandbox) -> None:
    with pytest.raises(SandboxFailure, match="node-1 has no device 'ens9'; there are: ens5"):
        world.capture("node-1/ens9", 1)
    with pytest.raises(SandboxFailure, match="there is no ENI eni-1"):
        world.capture("eni-1", 1)
    with pytest.raises(SandboxFailure, match="no node 'nobody'"):
        world.capture("nobody", 1)
    done = subprocess.run(command(world, "node-1", "-w", "/nowhere/x"), capture_output=True, text=True, check=False)
    assert (done.returncode, "/nowhere/x: No such file" in done.stderr) == (2, True)
