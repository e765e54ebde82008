"""Plans of the host network: the documented state, the smallest step to it, and nothing the second time."""

from __future__ import annotations

from core.hostnet import (
    AddAddress,
    AddressView,
    AddRule,
    DropAddress,
    DropRoute,
    DropRule,
    EniLink,
    HostOp,
    LinkView,
    NodeRules,
    ReplaceRoute,
    RouteView,
    RuleView,
    SetLink,
    describe,
    eni_ops,
    eni_removal,
    gateway,
    node_rule_ops,
    sysctls,
)

MAC = "02:00:00:00:00:01"
WANT = EniLink(ifindex=7, mtu=9001, table=3, primary_ip="10.0.16.9", subnet="10.0.16.0/20")
UP = LinkView(7, "ens6", MAC, 9001, True)
OWN = AddressView(7, "10.0.16.9", 20)
CONNECTED = RouteView("10.0.16.0/20", 7)
VIA = RouteView("10.0.16.1/32", 7, table=3)
DEFAULT = RouteView("0.0.0.0/0", 7, "10.0.16.1", 3, 0)
RULE = RuleView(32765, 3, src="10.0.16.9/32")


def after(ops: list[HostOp], addresses: set[AddressView], routes: set[RouteView], rules: set[RuleView]) -> None:
    """Carry operations out on plain sets, as the kernel would: an address brings its connected route."""
    for op in ops:
        match op:
            case AddAddress(address):
                addresses.add(address)
                routes.add(CONNECTED)
            case DropAddress(address):
                addresses.discard(address)
            case ReplaceRoute(route):
                routes.add(route)
            case DropRoute(route):
                routes.discard(route)
            case AddRule(rule):
                rules.add(rule)
            case DropRule(rule):
                rules.discard(rule)
            case SetLink():
                pass


def test_a_new_eni_gets_its_documented_state_and_a_second_run_changes_nothing() -> None:
    addresses: set[AddressView] = set()
    routes: set[RouteView] = set()
    rules: set[RuleView] = set()
    down = LinkView(7, "ens6", MAC, 1500, False)
    ops = eni_ops(WANT, down, [], [], [])
    assert ops[0] == SetLink(7, 9001)
    after(ops, addresses, routes, rules)
    assert addresses == {OWN}
    assert routes == {VIA, DEFAULT}
    assert rules == {RULE}
    assert eni_ops(WANT, UP, list(addresses), list(routes), list(rules)) == []


def test_leftovers_of_the_subnet_go_and_those_of_an_administrator_stay() -> None:
    foreign, admin = AddressView(7, "10.0.16.40", 32), AddressView(7, "192.168.0.1", 24)
    elsewhere, local = AddressView(8, "10.0.16.41", 20), AddressView(7, "10.0.16.42", 32, scope=253)
    ops = eni_ops(WANT, UP, [foreign, admin, elsewhere, local, OWN], [VIA, DEFAULT], [RULE])
    assert DropAddress(foreign) in ops
    assert not {DropAddress(admin), DropAddress(elsewhere), DropAddress(local)} & set(ops)
    # The kernel may have taken our own address, and its routes, with the foreign one.
    assert ops.index(AddAddress(OWN)) > ops.index(DropAddress(foreign))
    assert ReplaceRoute(DEFAULT) in ops


def test_the_connected_route_in_main_goes() -> None:
    assert eni_ops(WANT, UP, [OWN], [CONNECTED, VIA, DEFAULT], [RULE]) == [DropRoute(CONNECTED)]


def test_a_rule_to_another_table_is_replaced_and_added_first() -> None:
    old = RULE._replace(table=2)
    others = [RuleView(1536, 3, src="10.0.16.9/32"), RuleView(32765, 2, src="10.0.16.10/32")]
    assert eni_ops(WANT, UP, [OWN], [VIA, DEFAULT], [old, *others]) == [AddRule(RULE), DropRule(old)]


def test_removal_takes_every_rule_from_the_primary_address() -> None:
    rules = [RULE, RuleView(1536, 3, src="10.0.16.9/32"), RuleView(1536, 3, src="10.0.16.10/32")]
    assert eni_removal("10.0.16.9", rules) == [DropRule(rules[0]), DropRule(rules[1])]


def test_node_rules() -> None:
    mark = RuleView(1024, 254, fwmark=0x80, fwmask=0x80)
    service = RuleView(1535, 254, dst="172.20.0.0/16")
    want = NodeRules(0x80, True, False, ("172.20.0.0/16",))
    assert node_rule_ops(want, []) == [AddRule(service), AddRule(mark)]
    assert node_rule_ops(want, [mark, service]) == []
    old = [RuleView(1024, 254, fwmark=0x100, fwmask=0x100), RuleView(1535, 254, dst="10.9.0.0/16")]
    strangers = [
        RuleView(1024, 7, fwmark=0x80, fwmask=0x80),
        RuleView(1024, 254, fwmark=0x80, fwmask=0xFF),
        RuleView(512, 254, dst="10.0.0.5/32"),
        RuleView(1535, 254),
    ]
    assert node_rule_ops(want, [mark, service, *old, *strangers]) == [DropRule(old[0]), DropRule(old[1])]
    assert node_rule_ops(NodeRules(0x80, False, False), []) == [AddRule(mark)]
    assert node_rule_ops(NodeRules(0x80, True, True), []) == [AddRule(mark)]
    assert node_rule_ops(NodeRules(0x80, False, True), [mark]) == [DropRule(mark)]


def test_sysctls_and_gateway() -> None:
    assert gateway("10.0.16.0/20") == "10.0.16.1"
    assert sysctls("ens5.1", True) == [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/ens5.1/rp_filter", "2"),
        ("net/ipv4/tcp_early_demux", "1"),
    ]
    assert ("net/ipv4/tcp_early_demux", "0") in sysctls("ens5", False)


def test_operations_in_words() -> None:
    words = [describe(op) for op in eni_ops(WANT, UP, [], [], [])]
    assert "route 0.0.0.0/0 via 10.0.16.1 by link 7 in table 3" in words
    assert "rule 32765 from 10.0.16.9/32 lookup 3" in words
    assert describe(DropRule(RuleView(1024, 254, fwmark=1, fwmask=1))) == "no rule 1024 fwmark 0x1/0x1 lookup 254"
