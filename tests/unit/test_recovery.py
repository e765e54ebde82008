"""After a restart an address is free only if every source calls it free, and it is in one pod at most."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from core.names import derived_mac, host_veth, owner_key, veth_suffix
from core.records import Allocation, Image, Owned, OwnerMeta
from core.records import _Pod as Metadata
from core.recovery import BY_MAC, BY_NAME, BY_ROUTE, UNPROVEN, Recovered, Recovery, Times, recover
from core.wiring import NOTHING, HostState

NOW, COOL, GRACE = 1_000_000, 30, 120
TIMES = Times(NOW, 5, COOL, GRACE)


@dataclass(frozen=True)
class FakeLink:
    ifindex: int
    name: str
    mac: bytes = b"\2rando"
    up: bool = True
    carrier: bool = True
    kind: str = "veth"
    peer: int = 2


def address(last: int) -> bytes:
    return bytes([10, 0, 0, last])


def meta(container: str, pod: str, since: int = 0, veth: str = "") -> OwnerMeta:
    name = veth or host_veth("ns", pod)
    return OwnerMeta("n", container, "eth0", "ns", pod, host_veth=name, eni_id="eni-1", since_unix_ns=since)


def key(container: str) -> bytes:
    return owner_key("n", container, "eth0")


def veth(index: int, pod: str, container: str = "", up: bool = True) -> FakeLink:
    mac = derived_mac(container, "eth0", "host") if container else b"\2rand%d" % (index % 10)
    return FakeLink(index, host_veth("ns", pod), mac, up)


def whole(index: int, *tables: int) -> HostState:
    return HostState(index, True, frozenset(tables))


def entry(container: str, pod: str, last: int, since: int = 9) -> Allocation:
    return Allocation("n", container, "eth0", ipv4=f"10.0.0.{last}", timestamp=since, metadata=Metadata("ns", pod, 1))


def run(
    owners: dict[str, tuple[int, str]] | None = None,
    links: list[FakeLink] | None = None,
    states: dict[int, HostState] | None = None,
    foreign: list[Allocation] | None = None,
    cooling: dict[int, int] | None = None,
    other_boot: bool = False,
) -> Recovery:
    image = Image()
    for container, (last, pod) in (owners or {}).items():
        image.owners[key(container)] = Owned(address(last), 1, meta(container, pod))
    image.cooling = {address(last): when for last, when in (cooling or {}).items()}
    return recover(
        image, other_boot=other_boot, foreign=foreign, links=links or [],
        states={address(last): state for last, state in (states or {}).items()}, prefixes=["eni"], times=TIMES,
    )  # fmt: skip


def only(recovery: Recovery) -> Recovered:
    (owner,) = recovery.owners
    return owner


def test_nothing_is_nothing() -> None:
    got = run()
    assert (got.owners, got.held, got.cooling, got.stale, got.reap, got.problems) == ([], {}, {}, {}, [], [])


def test_a_whole_pod_goes_on() -> None:
    got = run({"c": (1, "p")}, [veth(7, "p", "c")], {1: whole(7)})
    owner = only(got)
    assert (owner.index, owner.proof, owner.missing, owner.surplus, owner.expires_ns) == (7, BY_MAC, [], frozenset(), 0)
    assert got.problems == []


def test_a_pod_of_the_existing_system_is_proven_by_its_route_and_then_by_its_name() -> None:
    assert only(run({"c": (1, "p")}, [veth(7, "p")], {1: whole(7)})).proof == BY_ROUTE
    owner = only(run({"c": (1, "p")}, [veth(7, "p")]))
    assert (owner.proof, owner.index, owner.missing) == (BY_NAME, 7, ["route", "to-rule"])


def test_what_a_living_pod_lacks_is_named() -> None:
    owner = only(run({"c": (1, "p")}, [veth(7, "p", "c")], {1: HostState(0, True, frozenset([2]))}))
    assert (owner.missing, owner.surplus) == (["route"], frozenset([2]))


def test_a_link_that_a_delete_put_down_is_not_repaired() -> None:
    owner = only(run({"c": (1, "p")}, [veth(7, "p", "c", up=False)]))
    assert (owner.index, owner.missing, owner.expires_ns) == (7, [], 0)


def test_an_owner_without_veth_ends_after_the_grace() -> None:
    owner = only(run({"c": (1, "p")}))
    assert (owner.index, owner.proof, owner.expires_ns) == (0, UNPROVEN, NOW + GRACE)


def test_the_veth_of_a_younger_pod_of_the_same_name_is_not_the_older_ones() -> None:
    got = run({"old": (1, "p"), "new": (2, "p")}, [veth(7, "p", "new")], {2: whole(7)})
    by_key = {owner.key: owner for owner in got.owners}
    assert by_key[key("new")].index == 7
    assert (by_key[key("old")].index, by_key[key("old")].expires_ns) == (0, NOW + GRACE)


def test_a_veth_renamed_before_it_was_journaled_is_found_by_its_mac() -> None:
    spare = FakeLink(7, "eni" + "0" * 11, derived_mac("old", "eth0", "host"))
    got = run({"old": (1, "p"), "new": (2, "p")}, [spare, veth(8, "p", "new")], {1: whole(7), 2: whole(8)})
    assert {owner.key: owner.index for owner in got.owners} == {key("old"): 7, key("new"): 8}
    assert got.problems == []


def test_foreign_entries_are_imported() -> None:
    got = run(foreign=[entry("c", "p", 1)], links=[veth(7, "p")], states={1: whole(7, 3)})
    owner = only(got)
    assert (owner.key, owner.address, owner.index, owner.foreign) == (key("c"), address(1), 7, True)
    assert (owner.meta.host_veth, owner.meta.table, owner.missing) == ("eni" + veth_suffix("ns", "p"), 3, [])


def test_a_foreign_entry_that_the_journal_knows_says_nothing_new() -> None:
    got = run({"c": (1, "p")}, [veth(7, "p", "c")], {1: whole(7)}, [entry("c", "p", 1)])
    assert not only(got).foreign


def test_two_claims_to_one_address_the_veth_decides() -> None:
    got = run({"a": (1, "p")}, [veth(7, "q")], {1: whole(7)}, [entry("b", "q", 1)])
    assert (only(got).key, only(got).index) == (key("b"), 7)
    assert "claimed" in got.problems[0]


def test_two_claims_with_a_veth_each_the_second_inherits() -> None:
    got = run({"a": (1, "p")}, [veth(7, "p", "a"), veth(8, "q")], {1: whole(7)}, [entry("b", "q", 1)])
    assert [(o.key, o.heir_of) for o in sorted(got.owners, key=lambda o: o.index)] == [
        (key("a"), b""),
        (key("b"), key("a")),
    ]


def test_one_owner_with_two_addresses_keeps_the_routed_one_and_the_other_rests() -> None:
    got = run({"a": (1, "p")}, [veth(7, "p", "a")], {2: whole(7)}, [entry("a", "p", 2)])
    assert (only(got).address, only(got).index) == (address(2), 7)
    assert got.cooling == {address(1): NOW + GRACE + COOL}


def test_a_route_without_owner_is_held() -> None:
    got = run(links=[veth(7, "p")], states={1: whole(7)})
    assert (got.held, got.owners, got.stale) == ({address(1): frozenset([7])}, [], {})


def test_rules_without_owner_are_stale_unless_a_veth_is_unexplained() -> None:
    state = HostState(0, True, frozenset([2]))
    assert run(states={1: state}).stale == {address(1): state}
    got = run(links=[veth(7, "p")], states={1: state})
    assert (got.stale, got.held) == ({}, {address(1): frozenset([7])})


def test_what_a_finished_delete_left_is_reaped() -> None:
    got = run(links=[veth(7, "p", up=False), veth(8, "q")])
    assert got.reap == [7]
    assert len(got.problems) == 1


def test_links_of_others_are_left_alone() -> None:
    others = [FakeLink(7, "eni0", up=False), FakeLink(8, "eth" + "0" * 11), FakeLink(9, "eni" + "0" * 11, kind="dummy")]
    got = run(links=others, states={1: HostState(8, False, frozenset())})
    assert (got.reap, got.held, got.stale, got.problems) == ([], {}, {}, [])


def test_an_address_with_a_pods_rule_is_in_use_whatever_its_link_is_called() -> None:
    """The prefix was another one, or somebody has renamed the link."""
    for state in (whole(8), HostState(8, False, frozenset([2]))):
        got = run(links=[FakeLink(8, "abc" + "0" * 11)], states={1: state})
        assert (got.held, got.stale, got.reap) == ({address(1): frozenset([8])}, {}, [])


def test_a_pod_is_found_by_what_its_record_says_whatever_the_prefix_is_now() -> None:
    by_name = FakeLink(7, "abc" + "1" * 11)
    by_mac = FakeLink(7, "renamed", derived_mac("c", "eth0", "host"))
    by_route = FakeLink(7, "renamed")
    for link, state in ((by_name, NOTHING), (by_mac, NOTHING), (by_route, whole(7))):
        image = Image()
        image.owners[key("c")] = Owned(address(1), 1, meta("c", "p", veth="abc" + "1" * 11))
        states = {address(1): state} if state is not NOTHING else {}
        got = recover(image, other_boot=False, foreign=None, links=[link], states=states, prefixes=["eni"], times=TIMES)
        assert (only(got).index, only(got).expires_ns, got.held) == (7, 0, {})


def test_a_link_that_is_down_is_nobodys_by_its_name() -> None:
    """It may be what a DEL has left of an earlier sandbox of the same pod."""
    got = run({"new": (1, "p")}, [veth(7, "p", "old", up=False)])
    assert (only(got).index, only(got).expires_ns) == (0, NOW + GRACE)
    assert got.reap == [7]


def test_while_the_table_is_a_guess_no_from_rule_is_touched() -> None:
    got = run(foreign=[entry("c", "p", 1)], links=[veth(7, "p")], states={1: whole(7, 2, 3)})
    assert (only(got).missing, only(got).surplus) == ([], frozenset())


def test_cooling_goes_on_and_ends() -> None:
    got = run(cooling={1: NOW - 10, 2: NOW - COOL, 3: NOW + 500})
    assert got.cooling == {address(1): NOW + 20, address(3): NOW + COOL}


def test_another_boot_is_history() -> None:
    got = run({"a": (1, "p")}, cooling={2: 5}, other_boot=True)
    assert (got.owners, got.blocks, got.enis) == ([], {}, {})
    assert got.cooling == {address(1): NOW + COOL, address(2): NOW + COOL}
    assert got.history[-1].gone.error_code == "rebooted"


containers = st.sampled_from(["a", "b", "c", "d"])
pods = st.sampled_from(["p", "q"])
lasts = st.integers(1, 4)
tables = st.frozensets(st.sampled_from([2, 3]))


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, object]:
    links = []
    for index in draw(st.sets(st.integers(5, 8))):
        maker = draw(st.sampled_from(["ours", "theirs"]))
        up = draw(st.booleans())
        links.append(veth(index, f"{draw(pods)}", draw(containers) if maker == "ours" else "", up))
    routes = st.sampled_from([0, *(link.ifindex for link in links)])
    return {
        "owners": draw(st.dictionaries(containers, st.tuples(lasts, pods))),
        "links": links,
        "states": draw(st.dictionaries(lasts, st.builds(HostState, routes, st.booleans(), tables))),
        "foreign": draw(st.none() | st.lists(st.builds(entry, containers, pods, lasts, st.integers(0, 9)))),
        "cooling": draw(st.dictionaries(lasts, st.integers(NOW - 60, NOW))),
        "other_boot": draw(st.booleans()),
    }


@given(worlds())
def test_free_is_what_all_call_free(world: dict[str, object]) -> None:
    got = run(**world)  # type: ignore[arg-type]  # one strategy for all arguments
    bearers = [owner.address for owner in got.owners if not owner.heir_of]
    assert len(bearers) == len(set(bearers)), "an address in two pods"
    assert len({owner.key for owner in got.owners}) == len(got.owners), "an owner with two addresses"
    indexes = [owner.index for owner in got.owners if owner.index]
    assert len(indexes) == len(set(indexes)), "a veth of two pods"
    assert not set(bearers) & set(got.held)
    assert not set(got.cooling) & (set(bearers) | set(got.held))
    by_key = {owner.key: owner for owner in got.owners}
    for owner in got.owners:
        if owner.heir_of:
            assert by_key[owner.heir_of].address == owner.address
            assert not by_key[owner.heir_of].heir_of

    blocked = set(bearers) | set(got.held) | set(got.cooling)
    links = {link.ifindex: link for link in world["links"]}  # type: ignore[attr-defined]
    owners: dict[str, tuple[int, str]] = world["owners"]  # type: ignore[assignment]
    claimed = {address(last) for last, _ in owners.values()}
    claimed |= {e.address for e in world["foreign"] or ()}  # type: ignore[attr-defined]
    claimed |= {address(n) for n, s in world["states"].items() if s.route_index in links}  # type: ignore[attr-defined]
    claimed |= {address(n) for n, when in world["cooling"].items() if when + COOL > NOW}  # type: ignore[attr-defined]
    assert claimed <= blocked, "an address that one source knows is free"
    assert not set(got.stale) & (set(bearers) | set(got.held))
    for index in got.reap:
        assert not links[index].up
        assert index not in indexes


@given(worlds())
def test_the_same_sources_give_the_same_decisions(world: dict[str, object]) -> None:
    assert run(**world) == run(**world)  # type: ignore[arg-type]
