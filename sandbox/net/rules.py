"""The fixed part of the router's packet filter, and the counters of what it drops.

Order of a packet from an ENI: no broadcast, source check (the routing table is asked whether the source is routed to
the port that it came in by), destination held by somebody; then, where it is forwarded, the security groups of the
ENI that it leaves and of the one that it enters (groups.py fills their chains). What goes to the router's own
addresses (metadata, EC2's endpoint) passes no security group, as on AWS (VPC guide, "Security groups": link-local
services are not filtered).

Counters are dynamic sets keyed by port and address, so that attaching an ENI costs them nothing and the counts outlive
it. `mtu` and `hop-limit` are counted by the ICMP error that the router sends back, as the kernel drops such packets
itself; their bytes are those of the errors. A metadata answer that died on its way into a pod is known by the node's
"time exceeded" to the metadata address.

Security groups are stateful by the flow's conntrack mark, one bit for each of its two ENIs: set, this ENI tracks the
flow, and it goes on whatever becomes of the rules; not set, each packet must be allowed by a rule of its direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sandbox.net.nft import Nft

TABLE: Final = "inet vpc"
PUBLIC_BLOCK: Final = "198.51.100.0/24"
METADATA_ADDRESS: Final = "169.254.169.254"
METADATA_ADDRESS6: Final = "fd00:ec2::254"
# The ENI that began the flow, and the one that answers.
TRACKED_BY_FIRST: Final = "0x1"
TRACKED_BY_SECOND: Final = "0x2"


class Counter(NamedTuple):
    """One kind of drop: `here` and `there` are the nft expressions of its port and address."""

    reason: str
    direction: str
    name: str
    here: str
    there: str


COUNTERS: Final = (
    Counter("spoof", "", "spoof", "iifname", "saddr"),
    Counter("unknown", "", "unknown", "iifname", "daddr"),
    Counter("broadcast", "", "broadcast", "iifname", "daddr"),
    Counter("security-group", "egress", "group_out", "iifname", "daddr"),
    Counter("security-group", "ingress", "group_in", "oifname", "saddr"),
)
TOLD: Final = (
    Counter("mtu", "", "mtu", "oifname", "daddr"),
    Counter("hop-limit", "", "hops", "oifname", "daddr"),
)
REASONS: Final = tuple(dict.fromkeys(counter.reason for counter in (*COUNTERS, *TOLD)))


class Dropped(NamedTuple):
    """One counter. `address`: the source of a spoof and of what was too large or too far; else the other side.

    `direction` is that of a security group's rules, `ingress` or `egress`, else empty.
    """

    reason: str
    port: str
    address: str
    packets: int
    bytes: int
    direction: str = ""


def _counting() -> Iterator[str]:
    for counter in (*COUNTERS, *TOLD):
        for family, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
            shape = f"type ifname . {kind}; flags dynamic; size 65536; counter;"
            yield f"  set {counter.name}{family} {{ {shape} }}"
    for counter in COUNTERS:
        yield f"  chain count_{counter.name} {{"
        yield f"    meta nfproto ipv4 {_count(counter, '4')}"
        yield f"    meta nfproto ipv6 {_count(counter, '6')}"
        yield "    drop\n  }"


def _count(counter: Counter, family: str, here: str = "", there: str = "") -> str:
    protocol = "ip" if family == "4" else "ip6"
    key = f"meta {here or counter.here} . {protocol} {there or counter.there}"
    return f"update @{counter.name}{family} {{ {key} counter }}"


_MTU, _HOPS = TOLD
RULES: Final = f"""
table {TABLE} {{
{chr(10).join(_counting())}
  set nocheck {{ type ifname; }}
  map leave_by {{ type ifname : verdict; }}
  map enter_by {{ type ifname : verdict; }}
  set reachable {{ type ipv4_addr; }}
  map public {{ type ipv4_addr : ipv4_addr; }}
  map private {{ type ipv4_addr : ipv4_addr; }}
  chain from_eni4 {{
    meta pkttype {{ broadcast, multicast }} goto count_broadcast
    iifname != @nocheck fib saddr . iif oif missing goto count_spoof
    ip daddr {PUBLIC_BLOCK} goto count_unknown
    fib daddr type local accept
    fib daddr oif missing goto count_unknown
  }}
  chain from_eni6 {{
    icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query,
      mld-listener-report, mld-listener-done, mld2-listener-report }} fib daddr type {{ local, multicast }} accept
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} drop
    meta pkttype multicast goto count_broadcast
    iifname != @nocheck fib saddr . iif oif missing goto count_spoof
    fib daddr type local accept
    fib daddr oif missing goto count_unknown
  }}
  chain from_outside {{
    meta nfproto ipv6 icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert,
      mld-listener-report, mld-listener-done, mld2-listener-report }} accept
    fib daddr type {{ local, broadcast, multicast }} accept
    iifname "internet0" ip daddr @reachable accept
    fib daddr oif missing goto count_unknown
  }}
  chain track_leave {{ ct state new ct mark set ct mark | {TRACKED_BY_FIRST}
  }}
  chain track_enter {{ ct state new ct mark set ct mark | {TRACKED_BY_SECOND}
  }}
  chain leave_eni {{
    ct state related return
    ct direction original ct mark & {TRACKED_BY_FIRST} == {TRACKED_BY_FIRST} return
    ct direction reply ct mark & {TRACKED_BY_SECOND} == {TRACKED_BY_SECOND} return
    iifname vmap @leave_by
    goto count_group_out
  }}
  chain enter_eni {{
    ct state related return
    ct direction original ct mark & {TRACKED_BY_SECOND} == {TRACKED_BY_SECOND} return
    ct direction reply ct mark & {TRACKED_BY_FIRST} == {TRACKED_BY_FIRST} return
    oifname vmap @enter_by
    goto count_group_in
  }}
  chain prerouting {{ type filter hook prerouting priority -300; policy accept;
    iifname "v-*" meta nfproto ipv4 jump from_eni4
    iifname "v-*" meta nfproto ipv6 jump from_eni6
    iifname {{ "internet0", "o-*" }} jump from_outside
  }}
  chain forward {{ type filter hook forward priority 0; policy accept;
    iifname "internet0" meta nfproto ipv4 ct state new ct status & dnat == 0 goto count_unknown
    iifname "v-*" jump leave_eni
    oifname "v-*" jump enter_eni
  }}
  chain told {{ type filter hook output priority 0; policy accept;
    icmp type destination-unreachable icmp code frag-needed {_count(_MTU, "4")}
    icmpv6 type packet-too-big {_count(_MTU, "6")}
    icmp type time-exceeded {_count(_HOPS, "4")}
    icmpv6 type time-exceeded {_count(_HOPS, "6")}
  }}
  chain heard {{ type filter hook input priority 0; policy accept;
    ip daddr {METADATA_ADDRESS} icmp type time-exceeded {_count(_HOPS, "4", "iifname", "saddr")}
    ip6 daddr {METADATA_ADDRESS6} icmpv6 type time-exceeded {_count(_HOPS, "6", "iifname", "saddr")}
  }}
  chain public_in {{ type nat hook prerouting priority -100; policy accept;
    iifname "internet0" dnat ip to ip daddr map @public
  }}
  chain public_out {{ type nat hook postrouting priority 100; policy accept;
    oifname "internet0" snat ip to ip saddr map @private
  }}
}}
"""


def drops(nft: Nft) -> list[Dropped]:
    """What was dropped since the start, by reason, port and address. Raises SandboxFailure kernel."""
    found: list[Dropped] = []
    for counter in (*COUNTERS, *TOLD):
        for family in "46":
            for element in nft.elements(TABLE, counter.name + family):
                port, address = element["elem"]["val"]["concat"]
                count = element["elem"]["counter"]
                row = Dropped(counter.reason, port, address, count["packets"], count["bytes"], counter.direction)
                found.append(row)
    return found
