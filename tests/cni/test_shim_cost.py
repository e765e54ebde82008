"""What a call of the shim costs, counted: the system calls of an ADD and of a DEL, by name and in order.

The start of a static program is its library's and not ours, so the count begins where `main` does: at the one call that
ignores SIGPIPE. A change here is a change of what every pod start pays.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cni.conftest import SHIM, Node, Pod
from tests.cni.fake_agent import RESULT, FakeAgent, reply

START = "rt_sigaction"
INPUT = ["read", "read"]
# musl sets close-on-exec once more, for kernels that know no O_CLOEXEC.
NETNS = ["openat", "fcntl", "stat", "openat", "fcntl", "stat", "setns", "socket"]
EXCHANGE = ["socket", "connect", "sendmsg", "poll", "recvfrom", "close"]
END = "exit_group"
# Other processors and libraries spell some of them otherwise.
SAME = {"newfstatat": "stat", "fstat": "stat", "ppoll": "poll", "open": "openat"}


def system_calls(node: Node, verb: str, netns: str, trace: Path) -> list[str]:
    if "sanitize" in SHIM.with_name("aws-cni.flags").read_text():
        pytest.skip("the shim is built with sanitizers, which make system calls of their own")
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    call = node.call(verb, netns)
    subprocess.run(
        ["strace", "-o", trace, "-qq", "-e", "signal=none", SHIM],
        env={**call.environment, "CNI_COMMAND": verb},
        input=call.config,
        capture_output=True,
        check=True,
        timeout=60,
    )
    names = re.findall(r"^(\w+)\(", trace.read_text(), re.MULTILINE)
    ours = names[names.index(START) + 1 :]
    return [SAME.get(name, name) for name in ours]


@pytest.mark.root
def test_add(node: Node, pod: Pod, tmp_path: Path) -> None:
    with FakeAgent(node.run_dir, [reply(0, RESULT)]):
        assert system_calls(node, "ADD", pod.netns, tmp_path / "trace") == [*INPUT, *NETNS, *EXCHANGE, "write", END]


@pytest.mark.root
def test_del(node: Node, pod: Pod, tmp_path: Path) -> None:
    with FakeAgent(node.run_dir):
        assert system_calls(node, "DEL", pod.netns, tmp_path / "trace") == [*INPUT, *NETNS, *EXCHANGE, END]


def test_second_del(node: Node, tmp_path: Path) -> None:
    with FakeAgent(node.run_dir):
        assert system_calls(node, "DEL", "", tmp_path / "trace") == [*INPUT, *EXCHANGE, END]
