"""The shim as a runtime calls it, a pod's namespace, and folders that are not the machine's."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "cni" / "bin" / "aws-cni"
CONTAINER = "0123456789abcdef" * 4
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=" + CONTAINER


def wait_for(true: Callable[[], bool], seconds: float = 20) -> None:
    """Until it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


@dataclass
class Done:
    """How a call of the shim ended."""

    status: int
    out: bytes
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The CNI error object."""
        assert self.status == 1, self
        value = json.loads(self.out)
        assert set(value) == {"cniVersion", "code", "msg", "details"}, value
        return dict(value)


@dataclass
class Call:
    """One call as kubelet's runtime makes it; `start` returns at once, `run` waits."""

    verb: str | None
    environment: dict[str, str]
    config: bytes

    def start(self) -> subprocess.Popen[bytes]:
        environment = dict(self.environment) if self.verb is None else {**self.environment, "CNI_COMMAND": self.verb}
        return subprocess.Popen(
            [SHIM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self) -> Done:
        process = self.start()
        out, err = process.communicate(self.config, timeout=60)
        return Done(process.returncode, out, err.decode())


@dataclass
class Pod:
    """A network namespace that lives as long as its process; its path is in /proc, so nothing is mounted."""

    process: subprocess.Popen[str]

    @property
    def netns(self) -> str:
        return f"/proc/{self.process.pid}/ns/net"

    @property
    def inode(self) -> int:
        return os.stat(self.netns).st_ino

    def run(self, *command: str) -> str:
        """In the namespace."""
        done = subprocess.run(
            ["nsenter", "--net=" + self.netns, *command], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout


class Node:
    """A run folder and the calls that lead to it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder
        self.socket = folder / "cni.sock"
        self.spool = folder / "spool"

    def config(self, **fields: object) -> bytes:
        return json.dumps(
            {"cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "agentSocket": str(self.socket), **fields}
        ).encode()

    def call(self, verb: str | None, netns: str = "", config: bytes | None = None, **environment: str) -> Call:
        """A call with all variables set; `environment` replaces them, with an empty value it takes them away."""
        all_of_it = {
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": ARGS,
            "CNI_PATH": "/nowhere",
            "ENID_SHIM_ADD_WAIT": "20000",
            "ENID_SHIM_DEL_WAIT": "20000",
            **environment,
        }
        return Call(
            verb,
            {name: value for name, value in all_of_it.items() if value},
            self.config() if config is None else config,
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    assert SHIM.exists(), "build the native programs first: python setup.py build_ext --inplace"
    folder = tmp_path / "run"
    folder.mkdir()
    return Node(folder)


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A namespace with a link `marker`, so that whoever sees it looks into this one."""
    script = "ip link add marker type veth peer name marker-peer && echo ready && exec cat"
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield Pod(process)
    process.stdin.close()
    process.wait(20)
    process.stdout.close()
