"""Security groups on the wire, IPv4 and IPv6: allow, deny, state, revoke with a connection open, and what is counted.

What AWS's connection tracking does is in the EC2 guide, "Amazon EC2 security group connection tracking".
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import Drop, Rule
from sandbox.face.client import Sandbox
from tests.sandbox import net_kit as kit
from tests.sandbox.conftest import ec2, until
from tests.sandbox.net_kit import Pod

pytestmark = pytest.mark.root
EVERYBODY = Rule(cidrs=["0.0.0.0/0", "::/0"])
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))"
both = pytest.mark.parametrize("family", ["4", "6"])
_numbers = itertools.count(1)


@dataclass
class Bench:
    """A client pod on node-1 in its own group, a server pod on node-2 in its own; each test sets the rules."""

    world: Sandbox
    client: Pod
    server: Pod
    outside: str  # the client's group
    inside: str  # the server's

    def rules(self, *ingress: Rule, egress: tuple[Rule, ...] = (EVERYBODY,)) -> None:
        """Those of the server's group."""
        self.world.group_rules(self.inside, ingress=ingress, egress=egress)

    def connects(self, family: str, port: int) -> bool:
        """A new TCP connection. A server that is not there refuses, which is an answer too: nobody filters it."""
        where = self.server.address[family]
        done = self.client.run(sys.executable, "-I", "-c", CONNECT, where, str(port), "20")
        return done.rc == 0 or "refused" in done.error_text

    def blocked(self, family: str, port: int) -> bool:
        """No answer within a second; the count tells that it was dropped."""
        where = self.server.address[family]
        done = self.client.run(sys.executable, "-I", "-c", CONNECT, where, str(port), "1")
        return "timed out" in done.error_text

    def dropped(self, way: str, family: str) -> int:
        """By the server's rules for what enters, by the client's for what leaves."""
        if way == "ingress":
            return kit.drops(self.world)[("security-group/ingress", "node-2", self.client.address[family])]
        return kit.drops(self.world)[("security-group/egress", "node-1", self.server.address[family])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with kit.running(tmp_path_factory.mktemp("groups")) as world:
        outside, inside = (world.group_create(name, egress=[EVERYBODY]) for name in ("outside", "inside"))
        client = kit.make_pod(world, "node-1", kit.attach(world, "node-1", outside))
        server = kit.make_pod(world, "node-2", kit.attach(world, "node-2", inside))
        yield Bench(world, client, server, outside, inside)


@pytest.fixture
def b(made: Bench) -> Iterator[Bench]:
    yield made
    # Connections end in order first, so that no late packet of one is counted by the next test.
    made.rules(EVERYBODY)
    made.world.group_rules(made.outside, ingress=[EVERYBODY], egress=[EVERYBODY])
    until(lambda: not any(_unfinished(pod) for pod in (made.client, made.server)), "no connection left")
    made.rules()
    made.world.group_rules(made.outside, ingress=[], egress=[EVERYBODY])
    for pod, group in ((made.client, made.outside), (made.server, made.inside)):
        _put_into(made.world, pod, group)


def _put_into(world: Sandbox, pod: Pod, *groups: str) -> None:
    members: Mapping[str, str] = {f"SecurityGroupId_{number}": group for number, group in enumerate(groups, 1)}
    ec2(world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=pod.eni_id, **members)


def _unfinished(pod: Pod) -> str:
    """TCP connections that still have something to send."""
    states = ("established", "syn-sent", "syn-recv", "fin-wait-1", "close-wait", "last-ack", "closing")
    words = [word for state in states for word in ("state", state)]
    done = pod.run("ss", "-Htan", *words)
    assert done.rc == 0, done.error_text
    return done.text


def _block(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


@both
def test_without_a_rule_nothing_enters(b: Bench, family: str) -> None:
    before = b.dropped("ingress", family)
    assert b.client.dark(b.server.address[family])
    assert b.dropped("ingress", family) == before + 1
    assert b.blocked(family, 80)
    assert b.dropped("ingress", family) >= before + 2


@both
def test_without_a_rule_nothing_leaves_but_answers(b: Bench, family: str) -> None:
    b.rules(EVERYBODY, egress=())
    assert b.client.ping(b.server.address[family]), "the answer leaves, whatever the rules for what leaves"
    b.rules(EVERYBODY)
    b.world.group_rules(b.outside, egress=[])
    before = b.dropped("egress", family)
    assert b.client.dark(b.server.address[family])
    assert b.dropped("egress", family) == before + 1


@both
def test_rule_for_a_block_and_ports(b: Bench, family: str) -> None:
    b.rules(Rule("tcp", 80, 90, cidrs=[_block(b.client.address[family])]))
    assert b.connects(family, 80)
    assert b.connects(family, 90)
    assert b.blocked(family, 91)
    assert b.client.dark(b.server.address[family])
    b.rules(Rule("tcp", 80, 90, cidrs=[_block(b.server.address[family])]))
    assert b.blocked(family, 80)


@both
def test_rule_for_echo_requests(b: Bench, family: str) -> None:
    kind = {"4": Rule("icmp", 8, 0, cidrs=["0.0.0.0/0"]), "6": Rule("icmpv6", 128, 0, cidrs=["::/0"])}[family]
    b.rules(kind)
    assert b.client.ping(b.server.address[family])
    assert b.blocked(family, 80)


@both
def test_rule_for_a_group_is_for_the_addresses_of_its_members(b: Bench, family: str) -> None:
    b.rules(Rule(groups=[b.outside]))
    assert b.client.ping(b.server.address[family])
    stranger = b.world.node("node-3")
    before = kit.drops(b.world)
    address = stranger.primary_ip
    if family == "6":
        address = kit.held(b.world, stranger.nics[0].eni_id).ipv6_addresses[0]
    key = ("security-group/ingress", "node-2", address)
    assert b.world.node_exec("node-3", ["ping", "-c1", "-W1", b.server.address[family]]).rc != 0
    assert kit.drops(b.world)[key] == before[key] + 1


@both
def test_member_by_a_prefix_and_only_while_it_is_one(b: Bench, family: str) -> None:
    b.rules(Rule(groups=[b.outside]))
    member = {"4": ("AssignPrivateIpAddresses", "Ipv4PrefixCount"), "6": ("AssignIpv6Addresses", "Ipv6PrefixCount")}
    action, count = member[family]
    ec2(b.world, action, NetworkInterfaceId=b.client.eni_id, **{count: 1})
    entry = kit.held(b.world, b.client.eni_id)
    prefix = (entry.prefixes if family == "4" else entry.ipv6_prefixes)[-1]
    address = prefix.partition("/")[0]
    other = "10.0.60.60" if family == "6" else "2001:db8:100::6060"
    pod = kit.wire(b.world, "node-1", b.client.eni_id, *((address, other) if family == "4" else (other, address)), 1)
    assert pod.ping(b.server.address[family])
    lone = b.world.group_create(f"lone-{next(_numbers)}", egress=[EVERYBODY])
    _put_into(b.world, pod, lone)
    assert pod.dark(b.server.address[family])
    assert kit.drops(b.world)[("security-group/ingress", "node-2", address)] == 1
    _put_into(b.world, pod, lone, b.outside)
    assert pod.ping(b.server.address[family]), "groups of an ENI add up"


@both
def test_tracked_connection_outlives_its_rule(b: Bench, family: str) -> None:
    """The rule names an address, so the flow is tracked and not interrupted; new ones are denied."""
    b.rules(Rule("tcp", 7100, 7100, cidrs=[_block(b.client.address[family])]))
    address = b.server.address[family]
    with kit.connection(b.world, b.client.name, b.server.name, address, 7100, 20.0) as link:
        assert link.say("before") == "before"
        b.rules()
        assert link.say("after") == "after"
        b.world.group_rules(b.outside, egress=[])
        assert link.say("still") == "still"
        b.world.group_rules(b.outside, egress=[EVERYBODY])
        assert b.blocked(family, 7100)


@both
def test_untracked_connection_ends_with_its_rule(b: Bench, family: str) -> None:
    """All addresses may come in, and all may be answered on all ports: the flow is not tracked."""
    rule = Rule("tcp", 7101, 7101, cidrs=["0.0.0.0/0", "::/0"])
    b.rules(rule)
    address = b.server.address[family]
    with kit.connection(b.world, b.client.name, b.server.name, address, 7101, 1.0) as link:
        assert link.say("before") == "before"
        before = b.dropped("ingress", family)
        b.rules()
        assert link.say("after") == "silence"
        assert b.dropped("ingress", family) > before
        # It was interrupted, not ended: with the rule back it goes on.
        b.rules(rule)
        until(lambda: link.say("again") != "silence", "an echo")


@both
def test_open_rule_with_narrow_answers_is_tracked(b: Bench, family: str) -> None:
    b.rules(Rule("tcp", 7102, 7102, cidrs=["0.0.0.0/0", "::/0"]), egress=(Rule("udp", 53, 53, cidrs=["0.0.0.0/0"]),))
    address = b.server.address[family]
    with kit.connection(b.world, b.client.name, b.server.name, address, 7102, 20.0) as link:
        b.rules()
        assert link.say("after") == "after"


@both
def test_ping_that_runs_goes_on_when_its_rule_is_gone(b: Bench, family: str) -> None:
    """ICMP is tracked always, also where all addresses are allowed."""
    b.rules(EVERYBODY)
    script = "import subprocess, sys; subprocess.run(['ping', '-i', '0.2', sys.argv[1]], check=False)"
    with kit.Talk(b.world, b.client.name, script, b.server.address[family]) as pings:
        while "seq=1 " not in pings.hear():
            pass
        b.rules()
        while "seq=12 " not in (line := pings.hear()):
            assert "seq=" in line
    assert b.client.dark(b.server.address[family])


@both
def test_errors_about_a_flow_are_let_through(b: Bench, family: str) -> None:
    """A port where nobody listens: the server's error for UDP enters by no rule of the client's group."""
    b.rules(Rule("udp", 7103, 7103, cidrs=[_block(b.client.address[family])]))
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,"
        " socket.SOCK_DGRAM); s.settimeout(20); s.connect((sys.argv[1], 7103)); s.send(b'x'); s.recv(1)"
    )
    done = b.client.run(sys.executable, "-I", "-c", script, b.server.address[family])
    assert "ConnectionRefusedError" in done.error_text


def test_internet_enters_only_by_a_rule(b: Bench) -> None:
    public = b.world.public_address(b.server.address["4"])
    key = ("security-group/ingress", "node-2", kit.INTERNET["4"])
    before = kit.drops(b.world)[key]
    assert b.world.internet_exec(["ping", "-c1", "-W1", public]).rc != 0
    assert kit.drops(b.world)[key] == before + 1
    b.rules(Rule("icmp", -1, -1, cidrs=[_block(kit.INTERNET["4"])]))
    assert b.world.internet_exec(["ping", "-c1", "-W20", public]).rc == 0
    b.world.public_address(b.server.address["4"], on=False)
    assert b.server.ping(kit.INTERNET["4"]), "what is begun inside is answered"


@both
def test_peered_vpc_enters_only_by_a_rule(b: Bench, family: str) -> None:
    ask = ["ping", "-c1", "-W1", b.server.address[family]]
    assert b.world.outside_exec("peer", ask).rc != 0
    b.rules(Rule(cidrs=[_block(kit.PEER[family])]))
    assert b.world.outside_exec("peer", ["ping", "-c1", "-W20", b.server.address[family]]).rc == 0
    assert b.world.outside_exec("premises", ask).rc != 0


def test_metadata_and_services_pass_no_group(b: Bench) -> None:
    none = b.world.group_create(f"none-{next(_numbers)}")
    primary = b.world.node("node-3").nics[0].eni_id
    before = kit.held(b.world, primary).groups
    ec2(b.world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=primary, SecurityGroupId_1=none)
    ask = ["curl", "-sf", "-m", "20", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"]
    assert b.world.node_exec("node-3", [*ask, f"http://{kit.METADATA['4']}/latest/api/token"]).rc == 0
    assert b.world.node_exec("node-3", ["ping", "-c1", "-W1", b.world.node("node-1").primary_ip]).rc != 0
    ec2(b.world, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=primary, SecurityGroupId_1=before[0])
    assert b.world.node_exec("node-3", ["ping", "-c1", "-W20", b.world.node("node-1").primary_ip]).rc == 0


def test_default_group_lets_its_members_talk_and_the_world_be_reached(b: Bench) -> None:
    """What a cluster stands on as it is brought up: nodes reach each other and the internet, and it not them."""
    assert b.world.node_exec("node-1", ["ping", "-c1", "-W20", b.world.node("node-3").primary_ip]).rc == 0
    assert b.world.node_exec("node-1", ["ping", "-c1", "-W20", kit.INTERNET["4"]]).rc == 0
    address = kit.held(b.world, b.world.node("node-1").nics[0].eni_id).ipv6_addresses[0]
    assert b.world.internet_exec(["ping", "-c1", "-W1", address]).rc != 0


def test_counts_are_shown_with_port_and_direction(b: Bench) -> None:
    key = ("security-group", b.client.address["4"], "ingress")

    def rows() -> list[Drop]:
        return [drop for drop in b.world.counters() if (drop.reason, drop.address, drop.direction) == key]

    assert b.client.dark(b.server.address["4"])
    before = rows()
    assert b.client.dark(b.server.address["4"])
    after = rows()
    assert [(drop.eni_id, drop.node) for drop in after] == [(b.server.eni_id, "node-2")]
    assert (after[0].packets - before[0].packets, after[0].bytes - before[0].bytes) == (1, 84)
    assert b.world.status().drops["security-group"] >= after[0].packets


def test_a_rule_that_cannot_be_modelled_is_refused_by_name(b: Bench) -> None:
    b.rules(EVERYBODY)
    with pytest.raises(SandboxFailure, match="protocol 'tls'"):
        b.rules(Rule("tls", cidrs=["0.0.0.0/0"]))
    with pytest.raises(SandboxFailure, match="sg-0000"):
        b.world.group_rules("sg-00000000000000000", ingress=[])
    assert b.client.ping(b.server.address["4"]), "nothing has changed"
