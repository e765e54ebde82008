"""Which rules and routes a pod needs, and how the kernel's state is judged."""

from __future__ import annotations

from core import wiring
from ext.netlink import Link, Route, Rule

POD = bytes([10, 0, 1, 23])


def rule(priority: int, *, src: bytes = b"", dst: bytes = b"", table: int = 254) -> Rule:
    return Rule(2, priority, src, 8 * len(src), dst, 8 * len(dst), table, 0, 0, "", 0, 1)


def route(dst: bytes, index: int, *, length: int = 32, table: int = 254) -> Route:
    return Route(2, dst, length, index, b"", b"", table, 2, 253, 1, 0)


def test_primary_and_secondary() -> None:
    assert [wiring.secondary(t) for t in (254, 0, 1, 2, 10001)] == [False, False, False, True, True]
    assert wiring.rule_texts(POD, 254) == ["512: to 10.0.1.23/32 lookup main"]
    assert wiring.rule_texts(POD, 2)[1] == "1536: from 10.0.1.23/32 lookup 2"
    assert wiring.route_texts(POD, "eni0") == ["10.0.1.23/32 dev eni0 scope link"]


def test_a_whole_pod_misses_nothing() -> None:
    states = wiring.host_states([route(POD, 7)], [rule(512, dst=POD), rule(1536, src=POD, table=2)])
    assert states[POD].missing(7, 2) == []
    assert states[POD].surplus(2) == frozenset()
    assert wiring.state_texts(POD, 2, "eni0", 7, states[POD]) == (
        wiring.rule_texts(POD, 2),
        wiring.route_texts(POD, "eni0"),
    )


def test_what_is_missing_or_too_much_is_named() -> None:
    states = wiring.host_states([route(POD, 8)], [rule(1536, src=POD, table=3)])
    assert states[POD].missing(7, 2) == ["route", "to-rule", "from-rule"]
    assert states[POD].surplus(2) == {3}
    assert states[POD].surplus(254) == {3}
    assert wiring.NOTHING.missing(7, 254) == ["route", "to-rule"]
    rules, routes = wiring.state_texts(POD, 2, "eni0", 7, states[POD])
    assert [text.split()[0] for text in rules] == ["MISSING", "MISSING", "SURPLUS"]
    assert routes[0].startswith("MISSING ")


def test_other_routes_and_rules_are_nobodys_pod() -> None:
    others = [route(POD, 7, length=24), route(POD, 7, table=2), route(POD, 0), route(b"", 7, length=0)]
    rules = [rule(512, dst=POD, table=100), rule(1024, dst=POD), rule(1536, src=POD, dst=POD), rule(32766)]
    assert wiring.host_states(others, rules) == {}


def link(index: int, peer: int, *, kind: str = "veth", mac: bytes = b"", flags: int = 1) -> Link:
    return Link(index, "x", mac, 9001, flags, 6, kind, peer, 0, 0)


def test_tied() -> None:
    mac = bytes(range(6))
    host, pod = link(7, 2), link(2, 7, mac=mac)
    assert wiring.tied(host, pod, mac)
    assert not wiring.tied(None, pod, mac)
    assert not wiring.tied(host, None, mac)
    assert not wiring.tied(link(7, 3), pod, mac)
    assert not wiring.tied(host, link(2, 8, mac=mac), mac)
    assert not wiring.tied(host, link(2, 7, mac=bytes(6)), mac)
    assert not wiring.tied(link(7, 2, kind="macvlan"), pod, mac)
    assert not wiring.tied(link(7, 2, flags=0), pod, mac)
    assert not wiring.tied(host, link(2, 7, mac=mac, flags=0), mac)
