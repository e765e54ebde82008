"""What an ADD and a DEL cost the agent, counted by strace and fixed: a change that needs more must say so here.

From the moment that it takes a connection until it waits for the next one. The kernel part alone is in
test_netlink_counts.py, the plugin's own share in tests/cni/test_shim_cost.py.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import features
from tests.kernel.agentbox import AgentBox, Pod
from tests.kernel.namespaces import until
from tests.kernel.test_agent_restart import NOTHING

pytestmark = [pytest.mark.root]

# The connection: taken, asked whose it is, read; at the end there is no further one.
CONNECTION = Counter(accept4=2, getsockname=1, ioctl=1, getsockopt=1, recvmsg=1, sendto=1, close=1)
# What the shim passed: is it a network namespace, whose, is the other one a netlink socket; then both are closed.
DESCRIPTORS = Counter(ioctl=1, newfstatat=1, getsockopt=3, setsockopt=2, close=2)
# Has a DEL been written down? Has the caller gone?
BEFORE = Counter(newfstatat=1, recvfrom=1)
# journal, and ipam.json with its record
OWNER = Counter(pwrite64=1)
CHECKPOINT = Counter(pwrite64=1, openat=1, write=1, close=1, rename=1)
# tests/kernel/test_netlink_counts.py
KERNEL_ADD = Counter(sendto=4, recvfrom=5, openat=3, read=3, pwrite64=1, close=3)
KERNEL_DEL = Counter(sendto=1, recvfrom=1)

ADD = CONNECTION + DESCRIPTORS + BEFORE + OWNER + CHECKPOINT + KERNEL_ADD
DEL = CONNECTION + Counter(close=2) + OWNER + CHECKPOINT + KERNEL_DEL
# Of other threads, and of the allocator.
NOISE = {"futex", "brk", "mmap", "munmap", "madvise", "clock_gettime"}


@contextmanager
def traced(box: AgentBox, trace: Path) -> Iterator[None]:
    """strace on the agent's main thread."""
    command = ["strace", "-p", str(box.process.pid), "-o", str(trace)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        assert "attached" in strace.stderr.readline()
        yield
        # The answer is out before all is closed; the look for a further connection is the last.
        until(lambda: trace.read_text().splitlines()[-1].startswith(("accept4(", "epoll_wait(")), "the round is over")
        until(lambda: calls(trace)["accept4"] == 2, "the round is over")
        strace.terminate()
        strace.communicate()


def calls(trace: Path) -> Counter[str]:
    """Of the last connection."""
    text = trace.read_text().splitlines()
    first = max(n for n, line in enumerate(text) if line.startswith("accept4(") and "= -1" not in line)
    names = [line.partition("(")[0] for line in text[first:]]
    end = names.index("epoll_wait") if "epoll_wait" in names else len(names)
    return Counter(name for name in names[:end] if name not in NOISE)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    # At level debug a line of the log is written as well, when the answers are out.
    with AgentBox(tmp_path, environ={"AWS_VPC_K8S_CNI_LOGLEVEL": "info"}) as made:
        made.manager.give(made.eni(1), [f"10.0.1.{n}" for n in range(10, 30)])
        yield made


def ready(box: AgentBox, name: str) -> Pod:
    """A pod, on an agent at rest that has served others."""
    for n in range(3):
        other = box.pod(f"warm-{name}-{n}")
        other.add()
        other.delete()
    until(lambda: box.state() == NOTHING, "the reaper is at rest")
    return box.pod(name)


def cost_of_an_add(seen: Counter[str]) -> Counter[str]:
    """What an ADD costs on this kernel; `seen` tells how often an old one had to be asked again at the end."""
    cost = ADD + Counter(sendto=int(not features.echoes_new_links()))
    again = 0 if features.activates_when_asked() else seen["ppoll"]
    return cost + Counter(sendto=again, recvfrom=again, ppoll=again)


def test_system_calls_of_an_add(box: AgentBox, tmp_path: Path) -> None:
    pod = ready(box, "web")
    with traced(box, tmp_path / "trace"):
        pod.add()
    seen = calls(tmp_path / "trace")
    assert seen == cost_of_an_add(seen)


def test_system_calls_of_a_delete(box: AgentBox, tmp_path: Path) -> None:
    pod = ready(box, "web")
    pod.add()
    with traced(box, tmp_path / "trace"):
        pod.delete()
    assert calls(tmp_path / "trace") == DEL


def test_an_add_costs_the_same_among_many(box: AgentBox, tmp_path: Path) -> None:
    pods = [box.pod(f"there-{n}") for n in range(16)]
    for pod in pods:
        pod.add()
    pod = box.pod("web")
    with traced(box, tmp_path / "trace"):
        pod.add()
    seen = calls(tmp_path / "trace")
    assert seen == cost_of_an_add(seen)
