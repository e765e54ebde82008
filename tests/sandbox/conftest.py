"""One world for all tests that need real packets, and a small plugin that wires pods to the VPC.

The plugin is ours for the tests only: a shell script that gives a pod the next address of its node's pool, so
the sandbox is tested by something that shares no code with it or with the agent. It writes down each call.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.face.client import Sandbox
from sandbox.world.scenario import NodeSpec, Scenario, TypeSpec
from tests.sandbox.ec2_kit import signed

SIGNED = ("--aws-sigv4", "aws:amz:us-west-2:ec2", "--user", "key:secret")  # how curl signs a call of EC2

WIRE = """#!/bin/sh
# A plugin that is told what to do by files beside it; see conftest.py.
set -eu
here=$(dirname "$0")/../../test; name=$(basename "$0")
input=$(cat)
call=$here/calls/$(date +%s%N)-$name-$CNI_COMMAND
{ env | grep ^CNI_ | sort; echo "INPUT=$input" | tr -d '\\n'; echo; } >"$call.tmp"; mv "$call.tmp" "$call"
if [ -e "$here/fail-$name-$CNI_COMMAND" ]; then cat "$here/fail-$name-$CNI_COMMAND"; exit 1; fi
[ "$name" = wire ] || { echo "$input" | sed -n 's/.*"prevResult": *//p' | sed 's/}$//'; exit 0; }
short=w$(echo "${CNI_CONTAINERID:-}" | cut -c1-12); held=$here/held-${CNI_CONTAINERID:-}
case $CNI_COMMAND in
ADD)
  ip=$(flock "$here/lock" sh -c "head -n1 $here/pool; sed -i 1d $here/pool"); echo "$ip" >"$held"
  ns=$(basename "$CNI_NETNS")
  ip link add "$short" mtu 9001 type veth peer name "$CNI_IFNAME" mtu 9001 netns "$ns"
  ip link set "$short" up; ip -n "$ns" link set "$CNI_IFNAME" up
  ip -n "$ns" addr add "$ip/32" dev "$CNI_IFNAME"
  ip -n "$ns" route add 169.254.1.1 dev "$CNI_IFNAME" scope link
  ip -n "$ns" route add default via 169.254.1.1 dev "$CNI_IFNAME"
  mac=$(ip -o link show "$short" | sed 's/.*ether \\([^ ]*\\).*/\\1/')
  ip -n "$ns" neigh add 169.254.1.1 lladdr "$mac" dev "$CNI_IFNAME" nud permanent
  ip route add "$ip/32" dev "$short"; ip link show "$short" >/dev/null
  echo "{\\"cniVersion\\": \\"1.0.0\\", " \\
    "\\"interfaces\\": [{\\"name\\": \\"$CNI_IFNAME\\", \\"sandbox\\": \\"$CNI_NETNS\\"}]," \\
    "\\"ips\\": [{\\"address\\": \\"$ip/32\\", \\"interface\\": 0}], \\"dns\\": {}}";;
DEL)
  [ ! -e "$held" ] || { ip link del "$short" 2>/dev/null || true
    flock "$here/lock" sh -c "cat $held >>$here/pool"; rm "$held"; };;
esac
"""


def conflist(*types: str, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    """A list of plugins that take port mappings and annotations."""
    wants = {"portMappings": True, "io.kubernetes.cri.pod-annotations": True, "bandwidth": False}
    plugins = [{"type": kind, "capabilities": wants, "mark": kind} for kind in types]
    return {"cniVersion": version, "name": "test", "plugins": plugins, **more}


@dataclass
class Call:
    """One call of the recording plugin."""

    plugin: str
    verb: str
    env: dict[str, str]
    config: dict[str, Any]


class Node:
    """A node of the world with the test's plugin on it."""

    def __init__(self, world: Sandbox, name: str, pool: list[str]) -> None:
        self.world = world
        self.name = name
        self.folder = world.node_folder(name)
        self.test = self.folder / "test"
        (self.test / "calls").mkdir(parents=True)
        (self.test / "pool").write_text("".join(f"{address}\n" for address in pool))
        for plugin in ("wire", "note"):
            file = self.folder / "cni" / "bin" / plugin
            file.write_text(WIRE)
            file.chmod(0o755)
        self.configure(conflist("wire"))

    def configure(self, config: dict[str, Any]) -> None:
        (self.folder / "cni" / "conf" / "10-test.conflist").write_text(json.dumps(config))

    def fail(self, plugin: str, verb: str, text: str | None) -> None:
        """Let a plugin print `text` and fail; None: work again."""
        file = self.test / f"fail-{plugin}-{verb}"
        if text is None:
            file.unlink()
        else:
            file.write_text(text)

    def calls(self) -> list[Call]:
        """In order of time."""
        found = []
        for file in sorted((self.test / "calls").iterdir()):
            _, plugin, verb = file.name.split("-")
            lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
            config = lines.pop("INPUT")
            found.append(Call(plugin, verb, lines, json.loads(config) if config else {}))
        return found


def until(check: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def ec2(world: Sandbox, action: str, **members: object) -> ET.Element:
    """One EC2 call over the folder's socket; members with `_` for `.`. The root element, without XML namespaces."""
    fields = {name.replace("_", "."): str(value) for name, value in members.items()}
    body = urllib.parse.urlencode({"Action": action, "Version": "2016-11-15", **fields})
    link = _Unix(world.folder / "ec2.sock")
    try:
        link.request("POST", "/", body, signed("http://localhost/", body))
        answer = link.getresponse()
        text = answer.read().decode()
    finally:
        link.close()
    assert answer.status == 200, f"{action}: {text}"
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


SCENARIO = Scenario(
    nodes=(NodeSpec("node-1", "big", 0), NodeSpec("node-2", "big", 1), NodeSpec("node-3", "m5.large", 0, hop_limit=1)),
    types=(TypeSpec("big", 4, 4000),),
)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Three nodes: two that can have 4,000 addresses per ENI, one with hop limit 1."""
    with Sandbox.up(tmp_path_factory.mktemp("w") / "s", SCENARIO) as running:
        yield running


def _assign(world: Sandbox, name: str, count: int) -> list[str]:
    node = world.node(name)
    eni = node.nics[0].eni_id
    ec2(world, "AssignPrivateIpAddresses", NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=count)
    held = next(entry for entry in world.ledger() if entry.eni_id == eni)
    return held.addresses[-count:]


@pytest.fixture(scope="session")
def nodes(world: Sandbox) -> list[Node]:
    """The first three nodes with the plugin and addresses on their primary ENIs."""
    return [
        Node(world, name, _assign(world, name, count))
        for name, count in (("node-1", 40), ("node-2", 40), ("node-3", 4))
    ]


_numbers = itertools.count(1)


@pytest.fixture
def fresh(world: Sandbox) -> Node:
    """A node of the test's own, with four addresses and the plugin."""
    name = f"fresh-{next(_numbers)}"
    world.node_add(name, "m5.large")
    return Node(world, name, _assign(world, name, 4))
