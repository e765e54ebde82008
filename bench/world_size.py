"""How long does a world of 50 nodes with 200 ENIs take to stand, and what does it hold?

Every ENI is attached through EC2's API, as a client does it, with the data plane behind it: the time of an
attachment is that of the call, at whose end the device is in the node. Memory is that of the sandbox's own processes
(Pss, bytes); `kernel` is by how much the machine's slab grew meanwhile, which whatever else runs adds to.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import tempfile
import time
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from bench.results import Answer, Figure, Options, Question, figure
from sandbox.face.client import Sandbox
from sandbox.world.scenario import NodeSpec, Scenario, SubnetSpec, TypeSpec

NODES, ENIS = 50, 200
# Of one run: its name, its unit, and the most that it may be.
FIGURES: Final = (
    ("all nodes up", "s", None),
    ("all ENIs attached", "s", 15.0),
    ("create and attach, p50", "ms", None),
    ("create and attach, p99", "ms", None),
    ("memory, Pss", "MiB", None),
    ("memory, Rss", "MiB", 150.0),
    ("kernel's slab, growth", "MiB", None),
)
MIB = 1 << 20


class _Unix(http.client.HTTPConnection):
    """HTTP to the world's own socket, the connection kept."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def call(link: _Unix, keys: Credentials, action: str, **members: object) -> ET.Element:
    """One signed EC2 call. Raises ValueError with EC2's words if it is refused."""
    body = urllib.parse.urlencode({"Action": action, "Version": "2016-11-15", **members})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    request = AWSRequest("POST", "http://localhost/", data=body, headers=kind)
    SigV4Auth(keys, "ec2", "us-west-2").add_auth(request)
    link.request("POST", "/", body, dict(request.headers.items()))
    answer = link.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise ValueError(f"{action}: {text}")
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def family(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(status[1]), []).append(int(entry))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def memory(pid: int) -> dict[str, float]:
    """Pss and Rss of the family, in MiB."""
    sums = {"Pss": 0, "Rss": 0}
    for one in family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sums:
                sums[name] += int(rest.split()[0]) * 1024
    return {name: round(total / MIB, 1) for name, total in sums.items()}


def slab() -> float:
    """The kernel's slab, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["Slab"].split()[0]) / 1024


def measure(nodes: int, enis: int, ipv6: bool) -> dict[str, float]:
    """Build it once and take it down."""
    subnets = tuple(
        SubnetSpec(f"10.0.{index * 64}.0/18", zone, f"2001:db8:100:{index}::/64" if ipv6 else "")
        for index, zone in enumerate("ab")
    )
    scenario = Scenario(
        nodes=tuple(NodeSpec(f"node-{number + 1}", "bench.large", number % 2) for number in range(nodes)),
        types=(TypeSpec("bench.large", enis=-(-enis // nodes), ipv4_per_eni=10),),
        subnets=subnets,
        vpc_ipv6_cidr="2001:db8:100::/56" if ipv6 else "",
    )
    before = slab()
    with tempfile.TemporaryDirectory(prefix="enid-bench-") as folder:
        begun = time.monotonic()
        with Sandbox.up(Path(folder) / "w", scenario) as world:
            up = time.monotonic() - begun
            link = _Unix(world.folder / "ec2.sock")
            here = world.nodes()
            env = world.node_env(here[0].name)
            keys = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
            took = []
            for number in range(enis - nodes):
                node, device = here[number % nodes], 1 + number // nodes
                at = time.monotonic()
                made = call(link, keys, "CreateNetworkInterface", SubnetId=node.subnet_id)
                call(
                    link,
                    keys,
                    "AttachNetworkInterface",
                    NetworkInterfaceId=made.findtext(".//networkInterfaceId"),
                    InstanceId=node.instance_id,
                    DeviceIndex=device,
                )
                took.append((time.monotonic() - at) * 1000)
            total = time.monotonic() - begun
            now = world.status()
            held = memory(now.pid)
            assert (len(now.nodes), now.enis) == (nodes, enis)
            values = (
                up,
                total,
                statistics.median(took),
                statistics.quantiles(took, n=100)[98],
                held["Pss"],
                held["Rss"],
                slab() - before,
            )
            return {what: round(value, 2) for (what, _, _), value in zip(FIGURES, values, strict=True)}


def answer(options: Options) -> Answer:
    """Each run builds both worlds anew."""
    nodes, enis = (3, 8) if options.quick else (NODES, ENIS)
    found: dict[str, list[dict[str, float]]] = {"IPv4": [], "IPv4 and IPv6": []}
    for run in range(options.runs):
        for name, made in found.items():
            options.progress(f"run {run + 1} of {options.runs}: {nodes} nodes, {enis} ENIs, {name}")
            made.append(measure(nodes, enis, name != "IPv4"))
    figures: list[Figure] = []
    for name, made in found.items():
        for what, unit, limit in FIGURES:
            figures.append(figure(name, what, unit, [run[what] for run in made], limit))
    return Answer(figures, [], found)


QUESTION = Question(
    "How long does a world of 50 nodes with 200 ENIs take to stand, and what does it hold?",
    (
        "pods and daemons in the nodes, which are their own",
        "what else used the kernel's slab meanwhile: its growth is the whole machine's",
    ),
    answer,
)
