"""The one place where the parts of the world are put together.

Truth, its views and servers, the fabric, nodes with their folders, processes and runtimes, the Kubernetes
stand-in. What can be asked of the whole is in requests.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.base import http, shapes
from sandbox.base.clocks import SteeredClock
from sandbox.base.failures import SandboxFailure
from sandbox.ec2.api import Api
from sandbox.ec2.imds import Imds
from sandbox.ec2.records import Eni, Instance
from sandbox.ec2.truth import Truth
from sandbox.ec2.views import Delayed
from sandbox.kube import server as kube
from sandbox.kube.scheduler import Scheduler
from sandbox.kube.store import Store
from sandbox.net import internet, netns, outside
from sandbox.net.fabric import Fabric
from sandbox.net.router import Router
from sandbox.net.rules import METADATA_ADDRESS6
from sandbox.runtime.runtime import Runtime
from sandbox.world import furnish, power, services
from sandbox.world.cluster import Cluster, kubeconfig
from sandbox.world.processes import Processes, base_env, run
from sandbox.world.scenario import RESERVED_NAMES, NodeSpec, Scenario
from sandbox.world.script import Script
from sandbox.world.switches import Switches

EC2_ADDRESS: Final = "198.18.0.2"
KUBE_ADDRESS: Final = "198.18.0.3"
SERVICES_ADDRESS: Final = "198.18.0.4"
IMDS_ADDRESS: Final = "169.254.169.254"
LEDGER: Final = "`enid sandbox ledger` lists the ENIs that there are, and where they are attached"
STANDARD_PLUGINS: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables"}
TICK_SECONDS: Final = 0.05
POLL_SECONDS: Final = 5.0  # the kubelet's, of the runtime's status
POLL_TIMEOUT: Final = 5.0


@dataclass
class NodeState:
    """What the world keeps of one instance."""

    name: str
    instance_id: str
    folder: Path
    runtime: Runtime


class World:
    """Built and used inside the daemon's namespaces; safe from any thread."""

    def __init__(self, folder: Path, scenario: Scenario, step: Callable[[str], None]) -> None:
        self.folder = folder
        self.scenario = scenario
        self._step = step
        self._rng = random.Random(scenario.seed)
        self._lock = threading.RLock()
        self._nodes: dict[str, NodeState] = {}
        self._names: dict[str, str] = {}
        self._subnet_ids: list[str] = []
        self.clock = SteeredClock()
        self.started = self.clock.now()
        self.truth = Truth(self.clock, random.Random(scenario.seed), region=scenario.region)
        self.router = Router()
        self.fabric = Fabric(self.truth, self.router, self)
        self.public = internet.PublicAddresses(self.router.nft)
        self.net = Delayed(self.fabric, self.clock)
        self.truth.subscribe(self.net)
        self.api = Api(self.truth, sleep=self.clock.sleep)
        self.api.iam.add_key(furnish.KEY, "root")
        self.imds = Imds(self.truth, sleep=self.clock.sleep)
        self.store = Store(self.clock, random.Random(scenario.seed))
        self.kube = kube.Server(self.store)
        self.cluster = Cluster(self.kube.api, scenario.region)
        self.scheduler = Scheduler(self.kube.api)
        self.processes = Processes()
        self.switches = Switches(self.truth, self.api, self.imds, self.net, self.kube)
        self.script = Script(self.truth, self.switches)
        self.truth.rebooted = lambda instance_id: power.reboot(self, instance_id)
        self.api.called = self.imds.called = self.script.called
        self.api.interference.kill = self.imds.interference.kill = lambda who, name: power.kill(self, who, name)

    def build(self) -> None:
        """Everything up. Raises SandboxFailure."""
        for program, package in PROGRAMS.items():
            if shutil.which(program) is None:
                raise SandboxFailure("missing", f"the program {program} is missing (Debian package {package})")
        self._step("router and internet host")
        netns.pin_own("router")
        self.router.set_up()
        self.fabric.set_up()
        internet.set_up()
        for number, one in enumerate(self.scenario.outside, 1):
            outside.plug(outside.Outside(one.name, one.kind, f"o-{one.name}", one.blocks), number)
        self._step("VPC; EC2, metadata and Kubernetes servers")
        self._subnet_ids += furnish.furnish(self.truth, self.scenario)
        self.truth.wired_vpc = next(iter(self.truth.vpcs))
        self.truth.metadata_ipv6 = self.scenario.imds_ipv6
        self._serve()
        threading.Thread(target=self._tick, name="tick", daemon=True).start()
        threading.Thread(target=self._poll, name="poll", daemon=True).start()
        for node in self.scenario.nodes:
            self._step(f"node {node.name} ({node.instance_type})")
            self.launch(node)

    def launch(self, spec: NodeSpec) -> None:
        """One more instance, known by its name though its network may come later. Raises SandboxFailure."""
        instance = furnish.launch(self.truth, self.scenario, self._subnet_ids, spec)
        kind = self.truth.types.get(spec.instance_type)
        try:
            self.cluster.add_node(spec.name, instance, kind, spec.labels)
        except SandboxFailure:
            self.truth.terminate_instance(instance.instance_id)
            raise
        self.name_of(instance)

    # --- nodes ----------------------------------------------------------------------------------------

    def state(self, node: str) -> NodeState:
        """Raises SandboxFailure unknown."""
        with self._lock:
            found = self._nodes.get(node)
        if found is None:
            known = ", ".join(sorted(self._nodes)) or "none"
            raise SandboxFailure("unknown", f"there is no node {node!r}; there are: {known}")
        return found

    def inside(self, node: str) -> str:
        """The path of a node's namespace. Raises SandboxFailure unknown, stopped."""
        instance = self.truth.instances.get(self.state(node).instance_id)
        if not netns.exists(node):
            state = instance.state if instance else "gone"
            if state not in ("pending", "running"):
                raise SandboxFailure("stopped", f"node {node} is {state}; nothing runs in it")
            late = [
                f"{name}={value}" for name, value in self.switches.current().items() if name in ("net-lag", "nic-lag")
            ]
            remedy = (
                f"wait, or clear {' and '.join(late)} with `enid sandbox fault`" if late else "try again in a moment"
            )
            raise SandboxFailure("stopped", f"node {node} is {state}; it has no device yet", remedy=remedy)
        return netns.path(node)

    def states(self) -> list[NodeState]:
        with self._lock:
            return list(self._nodes.values())

    def tick(self) -> None:
        """Do what is due by the clock."""
        self.truth.tick()
        self.net.tick()
        self.fabric.tick()
        self.script.tick()

    def enis(self) -> list[Eni]:
        """All ENIs of the truth, as of now."""
        with self.truth.lock:
            return list(self.truth.enis.values())

    def name_by_id(self, instance_id: str) -> str:
        """The node's name, empty if there is no such instance."""
        return self._names.get(instance_id, "")

    def name_of(self, instance: Instance) -> str:
        """The instance's Name if it can be a node's name and is free, else its id; fixed at first sight."""
        with self._lock:
            name = self._names.get(instance.instance_id)
            if name is None:
                name = instance.tags.get("Name", "")
                try:
                    self.scenario.check_node(NodeSpec(name))
                except SandboxFailure:
                    name = instance.instance_id
                if name in self._nodes:
                    name = instance.instance_id
                self._nodes[name] = self._prepare(name, instance)
                self._names[instance.instance_id] = name
            return name

    def instance_gone(self, instance: Instance) -> None:
        name = self.name_by_id(instance.instance_id)
        if not name:
            return
        power.end_all(self, name)
        with self._lock:
            del self._names[instance.instance_id], self._nodes[name]
        self.cluster.remove_node(name)

    def instance_stopped(self, instance: Instance) -> None:
        power.end_all(self, self.name_by_id(instance.instance_id))

    def env(self, node: str) -> dict[str, str]:
        """What a daemon of this node needs."""
        folder = self.state(node).folder
        return {
            "AWS_ENDPOINT_URL_EC2": f"http://{EC2_ADDRESS}",
            "AWS_ENDPOINT_URL": f"http://{SERVICES_ADDRESS}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{IMDS_ADDRESS}",
            "AWS_ACCESS_KEY_ID": furnish.KEY.access_key,
            "AWS_SECRET_ACCESS_KEY": furnish.KEY.secret,
            "AWS_REGION": self.scenario.region,
            # What boto3 and botocore read; every other SDK reads the one above.
            "AWS_DEFAULT_REGION": self.scenario.region,
            # As the chart of the Amazon VPC CNI sets it on every node.
            "ENABLE_IPv4": "true",
            "CLUSTER_NAME": self.scenario.cluster_name,
            "MY_NODE_NAME": node,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "ENID_RUN_DIR": str(folder / "run"),
            "ENID_CNI_BIN_DIR": str(folder / "cni" / "bin"),
            "ENID_CNI_CONF_DIR": str(folder / "cni" / "conf"),
            "ENID_LOG_DIR": str(folder / "log"),
        }

    def standing(self, where: str) -> tuple[str, dict[str, str]]:
        """Namespace path and environment of a command. `where`: a node, NODE/NAMESPACE/POD, `internet`, `router` or the
        name of a network outside.

        Raises SandboxFailure unknown, stopped.
        """
        if where in RESERVED_NAMES or any(where == one.name for one in self.scenario.outside):
            return netns.path(where), base_env(self.folder)
        node, *pod = where.split("/")
        state = self.state(node)
        if not pod:
            return self.inside(node), {**base_env(state.folder), **self.env(node)}
        if len(pod) != 2:
            raise SandboxFailure("unknown", f"{where!r} is no node, NODE/NAMESPACE/POD, internet or router")
        return state.runtime.find(pod[0], pod[1]).netns, base_env(self.folder)

    def port(self, where: str) -> str:
        """The router's interface of an ENI: its id, NODE (the primary one) or NODE/DEVICE.

        Raises SandboxFailure unknown, stopped.
        """
        if where.startswith("eni-"):
            if found := self.fabric.port_of(where):
                return found
            eni = self.truth.enis.get(where)
            if eni is None:
                raise SandboxFailure("unknown", f"there is no ENI {where}", remedy=LEDGER)
            if not eni.instance_id:
                raise SandboxFailure("unknown", f"ENI {where} is attached to no instance", remedy=LEDGER)
            node, device = self.name_by_id(eni.instance_id), where
        else:
            node, _, device = where.partition("/")
        nics = self.fabric.nics(self.state(node).instance_id)
        if not nics:
            self.inside(node)
        for nic in nics:
            if device in ("", nic.ifname):
                return nic.port
        raise SandboxFailure(
            "unknown", f"node {node} has no device {device!r}; there are: {' '.join(nic.ifname for nic in nics)}"
        )

    def _prepare(self, name: str, instance: Instance) -> NodeState:
        folder = self.folder / "nodes" / name
        for part in ("run", "cni/bin", "cni/conf", "cni/cache", "log"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for source in STANDARD_PLUGINS:
            for plugin in sorted(source.iterdir()) if source.is_dir() else ():
                link = folder / "cni" / "bin" / plugin.name
                if not link.exists():
                    link.symlink_to(plugin)
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(f"http://{KUBE_ADDRESS}", name), indent=2))

        def run_plugin(argv: Sequence[str], extra: Mapping[str, str], stdin: bytes, timeout: float) -> shapes.Completed:
            return run(self.inside(name), argv, extra, stdin, timeout)

        rng = random.Random(self._rng.getrandbits(64))
        profile = next((node.runtime for node in self.scenario.nodes if node.name == name), "spec")
        runtime = Runtime(name, folder, base_env(folder), run_plugin, self.clock, rng, profile)
        return NodeState(name, instance.instance_id, folder, runtime)

    # --- servers --------------------------------------------------------------------------------------

    def _serve(self) -> None:
        http.serve(_tcp(EC2_ADDRESS), self.api, "ec2")
        http.serve(unix_listener(self.folder, "ec2.sock"), self.api.unsigned, "ec2-unix")
        http.serve(_tcp(SERVICES_ADDRESS), services.answer, "services")
        http.serve(_tcp(IMDS_ADDRESS), self.imds, "imds")
        if self.scenario.imds_ipv6:
            http.serve(_tcp(METADATA_ADDRESS6), self.imds, "imds6")
        self.kube.serve(_tcp(KUBE_ADDRESS))
        self.kube.serve(unix_listener(self.folder, "kube.sock"))
        self.scheduler.start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            try:
                self.tick()
            except Exception:
                # The clock must go on; what failed is in the log and shows in the state.
                traceback.print_exc()

    def _poll(self) -> None:
        """The kubelets' part where a runtime asks plugins for their status: the node's Ready condition."""
        while True:
            time.sleep(POLL_SECONDS)
            for state in self.states():
                if not state.runtime.profile.polls_status:
                    continue
                try:
                    self.cluster.node_ready(state.name, state.runtime.poll(POLL_TIMEOUT))
                except Exception:
                    traceback.print_exc()


def _tcp(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 80))
    return listener


def unix_listener(folder: Path, name: str) -> socket.socket:
    """A listening socket in the folder, for its owner only; by a descriptor, as paths have at most 107 bytes."""
    (folder / name).unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.chmod(folder / name, 0o600)
    finally:
        os.close(descriptor)
    listener.listen(256)
    return listener
