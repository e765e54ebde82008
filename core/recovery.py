"""What is true after a restart: journal, foreign ipam.json and kernel, put together.

Pure: the same three inputs always give the same decisions. One rule stands above all others: **an address is free
only if every source calls it free**. So sources are never weighed against each other to free an address, only to
say whose it is. Further rules (design, section 5):

- an owner's veth is the one with the MAC that follows from its container, else the one that its address is routed to,
  else the one of its name that nobody has a better claim to;
- an owner without a veth stays for a grace (its ADD may be repeated), then its address cools down;
- an address that is routed to a veth without an owner is held until that veth is gone, whatever its name;
- an address that two owners claim goes to the one with the better proof; another one that has a veth inherits it;
- a journal of another boot is history: its addresses cool down, its blocks must be told anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from core.names import TABLE_MAIN, derived_mac, owner_key, veth_suffix
from core.records import Allocation, BlockMeta, EniRecord, Gone, Image, OwnerMeta, Past
from core.wiring import NOTHING, HostState, LinkLike, differences

_SUFFIX = re.compile(r"[0-9a-f]{11}").fullmatch

# How sure it is that a veth is an owner's; higher is surer.
BY_MAC, BY_ROUTE, BY_NAME, UNPROVEN = 3, 2, 1, 0


@dataclass(slots=True)
class Times:
    """CLOCK_BOOTTIME now and spans, all ns; `now_unix_ns` is for display."""

    now_ns: int
    now_unix_ns: int
    cooldown_ns: int
    grace_ns: int


@dataclass(slots=True)
class Recovered:
    """One owner that goes on. `index` 0: it has no veth, and ends at `expires_ns` unless its ADD is repeated.

    `missing` and `surplus` are what differs on the host (see `differences`); `carrier`: the veth's other end is up;
    `heir_of`: it has a veth, but another owner has the better claim to its address, so it gets the address when that
    one ends.
    """

    key: bytes
    address: bytes
    meta: OwnerMeta
    index: int
    mac: bytes
    proof: int
    foreign: bool
    expires_ns: int = 0
    missing: list[str] = field(default_factory=list)
    surplus: frozenset[int] = frozenset()
    carrier: bool = False
    heir_of: bytes = b""


@dataclass(slots=True)
class Recovery:
    """The decisions. `held` maps an address to the links that must all be gone before it cools down; `cooling` maps
    an address to the end of its rest; `stale` are addresses with rules but without anybody; `reap` are links that a
    finished DEL left behind."""

    enis: dict[str, EniRecord]
    blocks: dict[tuple[bytes, int], BlockMeta]
    owners: list[Recovered]
    held: dict[bytes, frozenset[int]]
    cooling: dict[bytes, int]
    stale: dict[bytes, HostState]
    reap: list[int]
    history: list[Past]
    problems: list[str]


@dataclass(slots=True)
class _Claim:
    key: bytes
    address: bytes
    meta: OwnerMeta
    foreign: bool
    link: LinkLike | None = None
    proof: int = UNPROVEN

    def rank(self) -> tuple[int, bool, int]:
        # A foreign file is there because somebody worked after us, so it is the newer word.
        return (self.proof, self.foreign, self.meta.since_unix_ns)


def our_veths(links: Collection[LinkLike], prefixes: Collection[str]) -> dict[int, LinkLike]:
    """The host ends of pods by index: veths named by a prefix and eleven hexadecimal digits."""
    return {
        link.ifindex: link
        for link in links
        if link.kind == "veth" and any(link.name.startswith(p) and _SUFFIX(link.name[len(p) :]) for p in prefixes)
    }


def recover(
    image: Image,
    *,
    other_boot: bool,
    foreign: Sequence[Allocation] | None,
    links: Collection[LinkLike],
    states: Mapping[bytes, HostState],
    prefixes: Collection[str],
    times: Times,
) -> Recovery:
    """Put the sources together. `foreign` is None if ipam.json is missing or our own; `states` as `host_states` gives.

    Raises nothing: what cannot be explained is told in `problems` and errs on the side of keeping addresses.
    """
    problems = list(image.problems)
    veths = our_veths(links, set(prefixes))
    claims = [] if other_boot else [_Claim(k, o.address, o.meta, False) for k, o in image.owners.items()]
    claims = _with_foreign(claims, foreign or (), veths, states)
    veths |= _claimed_veths(links, claims, states)
    _find_links(claims, veths, states)
    owners, rests = _settle(claims, states, times, problems)

    cooling: dict[bytes, int] = {}
    for address, released in ({} if other_boot else image.cooling).items():
        if released + times.cooldown_ns > times.now_ns:
            cooling[address] = min(released, times.now_ns) + times.cooldown_ns
    history = list(image.history)
    if other_boot:
        for address in [*image.cooling, *(o.address for o in image.owners.values())]:
            cooling[address] = times.now_ns + times.cooldown_ns
        ended = Gone("lost", times.now_unix_ns, "the node was rebooted", "rebooted")
        history += [Past(o.meta, ended, o.address) for o in image.owners.values()]
    for address in rests:
        cooling[address] = times.now_ns + times.grace_ns + times.cooldown_ns

    taken = {owner.address for owner in owners if not owner.heir_of}
    nics = {bytes.fromhex(eni.mac.replace(":", "")) for eni in image.enis.values()}
    bearers = {link.ifindex: link for link in links if link.mac not in nics}
    held, stale, reap = _leftovers(owners, taken, veths, bearers, states, problems)
    for address in (*taken, *held):
        cooling.pop(address, None)
    return Recovery(
        enis={} if other_boot else dict(image.enis),
        blocks={} if other_boot else dict(image.blocks),
        owners=owners,
        held=held,
        cooling=cooling,
        stale=stale,
        reap=reap,
        history=history,
        problems=problems,
    )


def _claimed_veths(
    links: Collection[LinkLike], claims: Sequence[_Claim], states: Mapping[bytes, HostState]
) -> dict[int, LinkLike]:
    """Veths that an owner's name, MAC or address leads to: the prefix may have been another one when they were made."""
    names = {claim.meta.host_veth for claim in claims}
    routed = {states.get(claim.address, NOTHING).route_index for claim in claims}
    macs = {derived_mac(c.meta.container_id, c.meta.ifname, "host") for c in claims if c.meta.container_id}
    return {
        link.ifindex: link
        for link in links
        if link.kind == "veth" and (link.name in names or link.ifindex in routed or link.mac in macs)
    }


def _with_foreign(
    claims: list[_Claim],
    foreign: Sequence[Allocation],
    veths: Mapping[int, LinkLike],
    states: Mapping[bytes, HostState],
) -> list[_Claim]:
    """Add the entries of the existing system that say something new."""
    known = {(claim.key, claim.address) for claim in claims}
    by_suffix = {link.name[-11:]: link.name for link in veths.values()}
    for entry in foreign:
        key = owner_key(entry.network, entry.container_id, entry.ifname)
        address = entry.address
        if (key, address) in known:
            continue
        known.add((key, address))
        tables = states.get(address, NOTHING).from_tables
        namespace, pod = entry.metadata.namespace, entry.metadata.pod
        meta = OwnerMeta(
            network=entry.network,
            container_id=entry.container_id,
            ifname=entry.ifname,
            namespace=namespace,
            pod=pod,
            host_veth=by_suffix.get(veth_suffix(namespace, pod), "") if pod else "",
            table=min(tables) if len(tables) == 1 else TABLE_MAIN,
            since_unix_ns=entry.timestamp,
        )
        claims.append(_Claim(key, address, meta, True))
    return claims


def _find_links(claims: list[_Claim], veths: Mapping[int, LinkLike], states: Mapping[bytes, HostState]) -> None:
    """Give each claim the veth that is its own, surest proof first; a veth goes to one owner only."""
    by_mac = {link.mac: link for link in veths.values()}
    by_name = {link.name: link for link in veths.values()}
    owner_of: dict[int, bytes] = {}

    def give(claim: _Claim, link: LinkLike | None, proof: int) -> None:
        if claim.link is None and link is not None and owner_of.setdefault(link.ifindex, claim.key) == claim.key:
            claim.link, claim.proof = link, proof

    for claim in claims:
        if claim.meta.container_id:
            mac = derived_mac(claim.meta.container_id, claim.meta.ifname, "host")
            link = by_mac.get(mac)
            # The MAC proves the sandbox, the route the address: an owner may be claimed with two addresses.
            routed = link is not None and states.get(claim.address, NOTHING).route_index == link.ifindex
            lone = sum(other.key == claim.key for other in claims) == 1
            if routed or lone:
                give(claim, link, BY_MAC)
    for named in (True, False):
        for claim in claims:
            link = veths.get(states.get(claim.address, NOTHING).route_index)
            if link is not None and (not named or link.name == claim.meta.host_veth):
                give(claim, link, BY_ROUTE)
    for claim in claims:
        # One that is down may be what a DEL has left of an earlier sandbox of the same pod.
        link = by_name.get(claim.meta.host_veth)
        give(claim, link if link is not None and link.up else None, BY_NAME)


def _settle(
    claims: list[_Claim], states: Mapping[bytes, HostState], times: Times, problems: list[str]
) -> tuple[list[Recovered], list[bytes]]:
    """One address per owner and one owner per address. Returns the owners, and the addresses that lost their claim."""
    rests: list[bytes] = []
    of_owner: dict[bytes, _Claim] = {}
    for claim in sorted(claims, key=_Claim.rank, reverse=True):
        if claim.key in of_owner:
            rests.append(claim.address)
            problems.append(
                f"{_who(claim)} is said to have {claim.address.hex()} and {of_owner[claim.key].address.hex()}; "
                "the second is taken, the first rests"
            )
        else:
            of_owner[claim.key] = claim
    of_address: dict[bytes, _Claim] = {}
    owners: list[Recovered] = []
    for claim in of_owner.values():
        best = of_address.setdefault(claim.address, claim)
        if best is not claim:
            problems.append(f"address {claim.address.hex()} is claimed by {_who(best)} and {_who(claim)}")
            if claim.link is None:
                continue
        link = claim.link
        state = states.get(claim.address, NOTHING)
        owner = Recovered(
            key=claim.key,
            address=claim.address,
            meta=claim.meta,
            index=link.ifindex if link is not None else 0,
            mac=link.mac if link is not None else b"",
            proof=claim.proof,
            foreign=claim.foreign,
            carrier=link is not None and link.carrier,
            heir_of=best.key if best is not claim else b"",
        )
        if link is None:
            # An address that is still routed somewhere is in use, whoever says what.
            owner.expires_ns = times.now_ns + times.grace_ns if state.route_index == 0 else 0
        elif link.up and best is claim:
            # A link that is down was put down by a DEL under way; what it took away stays away.
            owner.missing, owner.surplus = differences(
                state, link.ifindex, claim.meta.table, table_known=bool(claim.meta.eni_id)
            )
        owners.append(owner)
    return owners, rests


def _who(claim: _Claim) -> str:
    name = f"{claim.meta.namespace}/{claim.meta.pod}" if claim.meta.pod else "a pod"
    return f"{name} ({claim.meta.container_id[:12] or claim.key.hex()[:12]}{', ipam.json' if claim.foreign else ''})"


def _leftovers(
    owners: Sequence[Recovered],
    taken: Collection[bytes],
    veths: Mapping[int, LinkLike],
    bearers: Mapping[int, LinkLike],
    states: Mapping[bytes, HostState],
    problems: list[str],
) -> tuple[dict[bytes, frozenset[int]], dict[bytes, HostState], list[int]]:
    """What the kernel has and no owner explains: (held addresses, stale rules, links to reap).

    `bearers` are all links that are no NICs: an address with a pod's rule that is routed to one is in use.
    """
    owned = {owner.index for owner in owners if owner.index}
    routed = {state.route_index for state in states.values()}
    lost = [link for index, link in veths.items() if index not in owned and index not in routed]
    reap = [link.ifindex for link in lost if not link.up]
    mute = frozenset(link.ifindex for link in lost if link.up)
    problems += [
        f"link {veths[index].name} belongs to no pod that is known, and no address is routed to it"
        for index in sorted(mute)
    ]
    held: dict[bytes, frozenset[int]] = {}
    stale: dict[bytes, HostState] = {}
    for address, state in states.items():
        if address in taken:
            continue
        bearer = bearers.get(state.route_index)
        if bearer is not None and (bearer.ifindex in veths or state.to_rule or state.from_tables):
            held[address] = frozenset((bearer.ifindex,))
            problems.append(f"address {address.hex()} is routed to {bearer.name}, but has no owner")
        elif state.to_rule or state.from_tables:
            # An unexplained veth that is up may have just this address.
            if mute:
                held[address] = mute
            else:
                stale[address] = state
    return held, stale, reap
