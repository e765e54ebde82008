"""EC2 and the metadata behind HTTP in real time, with no namespace, no packet and no privilege.

The same core as a world's, in the calling process: one port for EC2, and one for the metadata of each node of the
scenario, since a caller on loopback has no ENI to be known by. What is set, slowed or listed goes through the folder's
control socket, so `enid sandbox fault`, `time`, `status`, `ledger` and `down` work here as they do on a whole world.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.base import http
from sandbox.base.clocks import SteeredClock
from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import Node, Status
from sandbox.ec2.api import Api
from sandbox.ec2.imds import Imds
from sandbox.ec2.records import Instance
from sandbox.ec2.truth import Truth
from sandbox.world import control, furnish, place
from sandbox.world.scenario import Scenario
from sandbox.world.script import Script
from sandbox.world.steer import Steer
from sandbox.world.switches import Switches

TICK_SECONDS: Final = 0.05


class Endpoint:
    """Serves from its making on until `close`. `host`: an address of this machine; ports of 0 are chosen.

    `url` is EC2's; `metadata` maps node names to theirs. Raises SandboxFailure bad-request, already-running.
    """

    def __init__(self, folder: Path, scenario: Scenario, *, host: str = "127.0.0.1", port: int = 0) -> None:
        scenario.check()
        if scenario.outside or scenario.imds_ipv6:
            what = "outside" if scenario.outside else "imds_ipv6"
            raise SandboxFailure("bad-request", f"scenario: {what} needs a data plane; `enid sandbox up` has one")
        self.folder = folder
        self.scenario = scenario
        self.clock = SteeredClock()
        self.started = self.clock.now()
        self.truth = Truth(self.clock, random.Random(scenario.seed), region=scenario.region)
        self.api = Api(self.truth, sleep=self.clock.sleep)
        self.api.iam.add_key(furnish.KEY, "root")
        self.imds = Imds(self.truth, sleep=self.clock.sleep)
        self.switches = Switches(self.truth, self.api, self.imds)
        self.script = Script(self.truth, self.switches)
        self.api.called = self.imds.called = self.script.called
        self.ended = threading.Event()
        subnets = furnish.furnish(self.truth, scenario)
        nodes = [furnish.launch(self.truth, scenario, subnets, node) for node in scenario.nodes]
        self._lock = place.claim(folder)
        self._servers: list[http.Server] = []
        try:
            place.clear(folder)
            (folder / place.PID).write_text(str(os.getpid()))
            self.url = self._serve(self.api, host, port)
            self.metadata = {node.tags["Name"]: self._serve(self._as(node), host, 0) for node in nodes}
            control.listen(folder, control.Served(EndpointRequests(self)), self.ended)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._ticking, name="tick", daemon=True).start()

    def close(self) -> None:
        """Stop serving and leave the folder to the next. Twice is once."""
        self.ended.set()
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._lock >= 0:
            for name in (*place.SOCKETS, place.PID):
                (self.folder / name).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def name_by_id(self, instance_id: str) -> str:
        """The Name tag of an instance, or empty."""
        instance = self.truth.instances.get(instance_id)
        return instance.tags.get("Name", "") if instance else ""

    def tick(self) -> None:
        """Do what is due by the clock."""
        self.truth.tick()
        self.script.tick()

    def _ticking(self) -> None:
        while not self.ended.wait(TICK_SECONDS):
            try:
                self.tick()
            except Exception:
                # The clock must go on; what failed is on standard error and shows in the state.
                traceback.print_exc()

    def _as(self, node: Instance) -> http.Handler:
        def handler(request: http.Request) -> http.Response:
            caller = self.truth.caller(node.private_ip)
            # The port is the instance's: its address may be another's by now, and then nobody asks here.
            is_node = caller is not None and caller.instance_id == node.instance_id
            return replace(self.imds(replace(request, peer=node.private_ip if is_node else "")), hops=None)

        return handler

    def _serve(self, handler: http.Handler, host: str, port: int) -> str:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise SandboxFailure("bad-request", f"address {host}:{port}: {error.strerror}") from error
        self._servers.append(http.serve(listener, handler))
        return f"http://{host}:{listener.getsockname()[1]}"


class EndpointRequests(Steer):
    """The requests that make sense without a data plane."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._endpoint = endpoint

    def status(self) -> Status:
        endpoint = self._endpoint
        with endpoint.truth.lock:
            instances = list(endpoint.truth.instances.values())
        nodes = [
            Node(
                name=endpoint.name_by_id(one.instance_id) or one.instance_id,
                instance_id=one.instance_id,
                instance_type=one.instance_type,
                state=one.state,
                primary_ip=one.private_ip,
                subnet_id=one.subnet_id,
                zone=one.zone,
                netns="",
                folder="",
                nics=[],
            )
            for one in instances
            if one.state != "terminated"
        ]
        return Status(
            folder=str(endpoint.folder),
            pid=os.getpid(),
            started_unix=endpoint.started,
            region=endpoint.scenario.region,
            vpc_cidr=endpoint.scenario.vpc_cidr,
            user_namespace=False,
            nodes=nodes,
            pods=0,
            enis=len(endpoint.truth.enis),
            drops={},
            faults=endpoint.script.summary(),
            branches="nothing carries them: this world has no data plane",
        )


def wait(endpoint: Endpoint) -> None:
    """Until `down` or Ctrl-C."""
    try:
        while not endpoint.ended.is_set():
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass
    finally:
        endpoint.close()
