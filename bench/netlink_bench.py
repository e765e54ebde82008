"""What does the kernel writer cost, by itself and with the kernel? `python -m bench.netlink_bench [--json]`

By itself: an ADD whose answers lie ready in a pair of sockets, so that only our own work and the cost of the system
calls is left (budget: fill 5 us, the rest small). With the kernel: ADD, DEL and deletion in groups
with 0, 250 and 1,000 pods present, in a network namespace of its own. Figures are microseconds.
"""

from __future__ import annotations

import json
import platform
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from ext import netlink
from tests.kernel.box import Pod, run_child, slots_for
from tests.twins.null_kernel import HEADER, answer, link

SAMPLES = 200


def percentiles(samples: list[int]) -> dict[str, float]:
    """p50 and p99 in microseconds."""
    ordered = sorted(samples)
    return {
        "p50": round(statistics.median(ordered) / 1000, 1),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000, 1),
    }


def timed(work: Callable[[], object], count: int = 2000) -> dict[str, float]:
    """Percentiles of single calls."""
    samples = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        work()
        samples.append(time.perf_counter_ns() - begin)
    return percentiles(samples)


class Ready:
    """A socket whose answers are queued before they are asked for."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = netlink.Socket(near.detach(), check=False)
        try:
            self.sock.run(netlink.compile_ops([netlink.link_del(1)]), b"", 1)
        except netlink.KernelError:
            self.seq = HEADER.unpack_from(self.far.recv(4096))[3]

    def queue(self, *answers: tuple[int, Callable[[int], bytes]]) -> None:
        """Answers to the messages so many places after the last known one."""
        for places, make in answers:
            self.seq += places
            self.far.send(make(self.seq))

    def drain(self, batches: int) -> None:
        """What was sent."""
        for _ in range(batches):
            self.far.recv(65536)


def alone() -> dict[str, dict[str, float]]:
    """Our own cost of an ADD, and of what comes before it in Python."""
    shape = netlink.pod_shape(secondary=True, sysctls=False)
    fields = {"address": bytes([10, 0, 0, 1]), "host_name": "enicc21c2d7785", "netns": 7, "table": 2}
    macs = {"host_mac": b"\2\0\0\0\0\1", "pod_mac": b"\2\0\0\0\0\2"}
    slots = shape.slots(**fields, **macs)  # type: ignore[arg-type]
    host, pod = Ready(), Ready()
    took = bytearray(netlink.TOOK.size)
    samples = []
    for _ in range(2000):
        host.queue((1, link), (0, lambda seq: answer(0, seq)), (5, lambda seq: answer(0, seq)), (1, link))
        pod.queue((5, lambda seq: answer(0, seq)))
        begin = time.perf_counter_ns()
        netlink.pod_add(host.sock, pod.sock, shape, slots, took)
        samples.append(time.perf_counter_ns() - begin)
        host.drain(3)
        pod.drain(1)

    def adopt() -> None:
        """As for each ADD."""
        netlink.Socket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).detach()).close()

    return {
        "fill the slots": timed(lambda: shape.slots(**fields, **macs)),  # type: ignore[arg-type]
        "adopt a socket (with opening and closing it)": timed(adopt),
        "pod_add without a kernel (9 system calls)": percentiles(samples),
        "compile a shape": timed(lambda: netlink.pod_shape(secondary=True), 100),
    }


def with_kernel(ipv6: bool) -> dict[str, dict[str, float]]:
    """ADD and DEL with 0, 250 and 1,000 pods present, all on a secondary ENI (two rules each)."""
    host = netlink.Socket.open()
    shape = netlink.pod_shape(ipv6=ipv6, secondary=True)
    took = bytearray(netlink.TOOK.size)
    found: dict[str, dict[str, float]] = {}
    present = 0
    shared = Pod(lo=False)
    for target in (0, 250, 1000):
        while present < target:
            present += 1
            name = f"pod{present}"
            slots = slots_for(shape, shared, 10_000 + present)
            offset = shape.templates[0].layout["pod_name"][0]
            slots[offset : offset + 16] = name.encode().ljust(16, b"\0")
            add_without_default(host, shared, shape, slots)
        pods = [Pod(lo=False) for _ in range(SAMPLES)]
        sockets = [pod.socket() for pod in pods]
        adds, dels, phases = [], [], []
        indexes = []
        for number, (pod, sock) in enumerate(zip(pods, sockets, strict=True), 1):
            slots = slots_for(shape, pod, number)
            begin = time.perf_counter_ns()
            index = netlink.pod_add(host, sock, shape, slots, took)
            adds.append(time.perf_counter_ns() - begin)
            phases.append(netlink.TOOK.unpack(took)[:5])
            begin = time.perf_counter_ns()
            netlink.pod_del(host, shape, slots)
            dels.append(time.perf_counter_ns() - begin)
            indexes.append(index)
        label = f"{'v6' if ipv6 else 'v4'}, {target} pods present"
        found[f"ADD, {label}"] = percentiles(adds)
        for place, phase in enumerate(netlink.PHASES):
            found[f"  of it {phase}, {label}"] = percentiles([p[place] for p in phases])
        found[f"DEL, {label}"] = percentiles(dels)
        begin = time.perf_counter_ns()
        netlink.set_group_and_delete(host, indexes)
        each = (time.perf_counter_ns() - begin) / SAMPLES / 1000
        found[f"group deletion per pod, {label}"] = {"p50": round(each, 1), "p99": round(each, 1)}
        for sock, pod in zip(sockets, pods, strict=True):
            sock.close()
            pod.close()
    return found


def add_without_default(host: netlink.Socket, pod: Pod, shape: netlink.PodShape, slots: bytearray) -> None:
    """A pod that is merely present: link, route and rules on the host; its other end lies in a shared namespace."""
    index, _ = host.new_link(shape.templates[0], slots)
    offset = shape.templates[0].layout["host_index"][0]
    slots[offset : offset + 4] = index.to_bytes(4, sys.byteorder)
    host.run(shape.templates[1], slots)


def main() -> None:
    """Prints a table, or JSON."""
    results = {"machine": platform.platform(), "microseconds": alone()}
    print(json.dumps(results) if "--json" in sys.argv else table(results["microseconds"]))
    for ipv6 in (False, True):
        if text := run_child(partial(show, ipv6)):
            raise SystemExit(text)


def show(ipv6: bool) -> None:
    """In the child, which has the namespaces."""
    results = with_kernel(ipv6)
    print(json.dumps(results) if "--json" in sys.argv else table(results))


def table(results: object) -> str:
    """One line each."""
    assert isinstance(results, dict)
    return "\n".join(f"{name:58} p50 {v['p50']:9.1f}   p99 {v['p99']:9.1f}" for name, v in results.items())


if __name__ == "__main__":
    main()
