"""Nodes that lose their processes: by a reboot, at their end or stop, and one process in the middle of its call.

A reboot as EC2 does it: the instance keeps its ENIs, addresses and id; its network namespace is made anew, so that
everything that software has put into it (links, routes, rules) is gone, and so are its processes and pods. Files of
the node stay. Nothing starts by itself afterwards: whoever runs the node's daemons starts them again.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final, Protocol

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.net.fabric import Fabric
from sandbox.runtime.runtime import Runtime
from sandbox.world.cluster import Cluster
from sandbox.world.processes import Processes

DEATH_SECONDS: Final = 5.0  # longer than any process takes that the kernel lets go at all


class Node(Protocol):
    """One that runs."""

    runtime: Runtime


class Nodes(Protocol):
    """The world, as far as it is needed here."""

    fabric: Fabric
    cluster: Cluster
    processes: Processes

    def name_by_id(self, instance_id: str) -> str:
        """The node's name, empty if there is none."""

    def state(self, node: str) -> Node:
        """Raises SandboxFailure unknown."""


def reboot(world: Nodes, instance_id: str) -> None:
    """A node by its instance; fine if there is none."""
    node = world.name_by_id(instance_id)
    if not node:
        return
    end_all(world, node)
    world.fabric.restart(instance_id)


def end_all(world: Nodes, node: str) -> None:
    """Kill all that was started in a node, and whatever is in its namespace or those of its pods; forget the pods.

    To be called while the namespaces are there: later nobody knows whose a process was. Raises SandboxFailure unknown.
    """
    runtime = world.state(node).runtime
    world.processes.forget_node(node)
    places = [netns.path(node), *(pod.netns for pod in runtime.pods())]
    deadline = time.monotonic() + DEATH_SECONDS
    # More than once, as what is killed may have forked since it was seen.
    while alive := _alive(world, places):
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    for pod in runtime.abandon():
        world.cluster.pod_gone(pod.namespace, pod.name)


def _alive(world: Nodes, places: list[str]) -> list[int]:
    found = world.processes.listing({place: place for place in places})
    return [process.pid for process in found if process.rc is None and process.pid != os.getpid()]


def kill(world: Nodes, instance_id: str, name: str) -> None:
    """SIGKILL for the process that was spawned by this name on the instance's node; fine if there is none."""
    with suppress(SandboxFailure):
        world.processes.signal(world.name_by_id(instance_id), name, signal.SIGKILL)
