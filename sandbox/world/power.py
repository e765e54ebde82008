"""Nodes that lose their processes: a reboot of the whole node, and the death of one process in the middle of a call.

A reboot as EC2 does it: the instance keeps its ENIs, addresses and id; its network namespace is made anew, so that
everything that software has put into it (links, routes, rules) is gone, and so are its processes and pods. Files of
the node stay. Nothing starts by itself afterwards: whoever runs the node's daemons starts them again.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Protocol

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.net.fabric import Fabric
from sandbox.runtime.runtime import Runtime
from sandbox.world.cluster import Cluster
from sandbox.world.processes import Processes


class Node(Protocol):
    """One that runs."""

    instance_id: str
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
    state = world.state(node)
    world.processes.forget_node(node)
    for process in world.processes.listing({node: netns.path(node)}):
        if process.rc is None and process.pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    for pod in state.runtime.abandon():
        world.cluster.pod_gone(pod.namespace, pod.name)
    world.fabric.restart(state.instance_id)


def kill(world: Nodes, instance_id: str, name: str) -> None:
    """SIGKILL for the process that was spawned by this name on the instance's node; fine if there is none."""
    with suppress(SandboxFailure):
        world.processes.signal(world.name_by_id(instance_id), name, signal.SIGKILL)
