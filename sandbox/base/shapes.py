"""What the daemon answers, as typed records shared by the daemon and its client.

They travel as JSON objects with exactly these names; bytes travel as base64.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Nic(msgspec.Struct, frozen=True):
    """One attached ENI as the data plane sees it. `port` is the router's end, `ifname` the node's."""

    eni_id: str
    mac: str
    ifname: str
    device: int
    card: int
    port: str


class Node(msgspec.Struct, frozen=True):
    """One instance; `state` as EC2 says it. `netns` is a path inside the daemon's mount namespace; `folder` is valid
    everywhere."""

    name: str
    instance_id: str
    instance_type: str
    state: str
    primary_ip: str
    subnet_id: str
    zone: str
    netns: str
    folder: str
    nics: list[Nic]


class Process(msgspec.Struct, frozen=True):
    """A process in a node. `pid` counts in the daemon's pid namespace; `name` is empty unless it was spawned by name.

    `rc` is None while it runs; negative means killed by that signal.
    """

    node: str
    name: str
    pid: int
    ppid: int
    comm: str
    argv: list[str]
    rc: int | None = None


class Completed(msgspec.Struct, frozen=True):
    """End of a command. `rc` is negative when a signal ended it."""

    rc: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, bytes that are not UTF-8 replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        """Standard error as text, bytes that are not UTF-8 replaced."""
        return self.stderr.decode(errors="replace")


class Pod(msgspec.Struct, frozen=True):
    """One sandbox of the small runtime. `state`: starting, up, stopping, failed-delete."""

    node: str
    namespace: str
    name: str
    uid: str
    container_id: str
    netns: str
    state: str
    ips: list[str] = []


class CniError(msgspec.Struct, frozen=True):
    """A CNI error object (CNI specification, "Error"), with the plugin that gave it."""

    plugin: str
    code: int
    msg: str
    details: str = ""


class PodAnswer(msgspec.Struct, frozen=True):
    """Answer to pod_create (one of `result` and `error`) and pod_delete (`error` or neither).

    `took_us` covers the CNI chain only; `total_us` the namespace too. `stderr` is what the plugins wrote there.
    """

    pod: Pod
    result: dict[str, Any] | None
    error: CniError | None
    took_us: int
    total_us: int
    stderr: str = ""

    @property
    def ok(self) -> bool:
        return self.error is None


class LedgerEni(msgspec.Struct, frozen=True):
    """One ENI as EC2's truth has it. `addresses` holds the primary first; `node` is empty if not attached."""

    eni_id: str
    mac: str
    subnet_id: str
    status: str
    instance_id: str
    node: str
    device: int | None
    card: int | None
    primary_ip: str
    addresses: list[str]
    prefixes: list[str]
    groups: list[str]
    source_dest_check: bool
    ipv6_addresses: list[str] = []
    ipv6_prefixes: list[str] = []


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One security group rule; the fields are those of EC2's IpPermissions.

    `protocol`: -1 (all), tcp, udp, icmp, icmpv6 or a number. `from_port` and `to_port`: ports, or ICMP type and code;
    None for all. The other side is any of `cidrs` (IPv4 and IPv6) and `groups` (ids).
    """

    protocol: str = "-1"
    from_port: int | None = None
    to_port: int | None = None
    cidrs: list[str] = []
    groups: list[str] = []


# By reason: why the router drops a packet, and what its row holds.
DROPS: Final = {
    "spoof": "sent from an address that its ENI does not have (source check); address: the source",
    "unknown": "sent to an address that no ENI holds; address: the destination",
    "broadcast": "sent to a broadcast or multicast address, which a VPC does not carry; address: the destination",
    "security-group": "allowed by no rule of the ENI's groups; rules: their direction, ingress or egress; "
    "address: the other side",
    "mtu": "larger than the MTU on its way, and not to be fragmented; address: the sender; bytes: the router's answers",
    "hop-limit": "out of hops (TTL), as metadata answers are on their way into a pod; address: the sender; "
    "bytes: the router's answers",
}


class Drop(msgspec.Struct, frozen=True):
    """Packets that the router dropped. `reason` is one of DROPS, which says what `address`, `direction` and `bytes`
    are; `direction` is empty for most."""

    reason: str
    port: str
    eni_id: str
    node: str
    address: str
    packets: int
    bytes: int
    direction: str = ""


class ProbeFailure(msgspec.Struct, frozen=True):
    """One pair that did not do. `why`: lost, wrong-source, wrong-payload."""

    source: str
    target: str
    why: str
    seen: str = ""


class ProbeReport(msgspec.Struct, frozen=True):
    """Result of a probe of all pairs.

    `sent` pairs, `ok` of them echoed with payload and source right; `first_lost`: pairs whose first packet never came
    back (a retransmission did, or nothing). `seen_source`: for each pod the source addresses that its peers saw.
    """

    sent: int
    ok: int
    failures: list[ProbeFailure]
    first_lost: int
    seen_source: dict[str, list[str]]
    took_ms: float


class Status(msgspec.Struct, frozen=True):
    """The world at a glance. Paths are valid outside the daemon; `branches` says how branch ENIs reach a node.

    `faults`: switches that are set, and how many rules are in force, steps wait and steps failed, where any do.
    """

    folder: str
    pid: int
    started_unix: float
    region: str
    vpc_cidr: str
    user_namespace: bool
    nodes: list[Node]
    pods: int
    enis: int
    drops: dict[str, int]
    faults: dict[str, str]
    branches: str = ""
