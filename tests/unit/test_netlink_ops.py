"""Templates against their twin by pyroute2, and what the builders refuse."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import netlink as ours
from ext.netlink_template import batches
from tests.twins import netlink_twin as twin

V4 = st.integers(1, 2**32 - 1).map(lambda n: socket.inet_ntop(socket.AF_INET, n.to_bytes(4, "big")))
V6 = st.integers(1, 2**128 - 1).map(lambda n: socket.inet_ntop(socket.AF_INET6, n.to_bytes(16, "big")))
ADDRESS = st.one_of(V4, V6)
INDEX = st.integers(1, 2**31 - 1)
TABLE = st.integers(1, 2**32 - 1)
PRIORITY = st.integers(1, 2**32 - 1)
MAC = st.binary(min_size=6, max_size=6)
NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15).filter(
    lambda n: n not in (".", "..")
)
FD = st.integers(0, 2**20)


def op(name: str, /, *places: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """(name, positional, keywords) of one random op; a field may be left out where it is drawn as ..."""
    keywords = st.fixed_dictionaries(fields).map(lambda d: {k: v for k, v in d.items() if v is not ...})
    return st.tuples(st.just(name), st.tuples(*places), keywords)


def pair(name: str, /, *first: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An op over two addresses of one family, passed as dst and gateway."""
    both = st.one_of(st.tuples(st.one_of(V4, st.none()), V4), st.tuples(st.one_of(V6, st.none()), V6))
    return st.tuples(op(name, *first, **fields), both).map(
        lambda v: (v[0][0], (v[1][0], *v[0][1]), v[0][2] | {"gateway": v[1][1]})
    )


LEFT_OUT = st.just(...)
OPS = st.one_of(
    op("veth_add", NAME, NAME, FD, mtu=TABLE, mac=MAC, peer_mac=MAC),
    op("link_set", INDEX, up=st.booleans() | LEFT_OUT, mtu=TABLE | LEFT_OUT, name=NAME | LEFT_OUT),
    op("link_del", INDEX),
    op("address_add", INDEX, ADDRESS, nodad=st.booleans()),
    op("address_del", INDEX, ADDRESS),
    op("neighbour_set", INDEX, ADDRESS, MAC),
    op("neighbour_del", INDEX, ADDRESS),
    op("route_replace", ADDRESS, index=INDEX, table=TABLE | LEFT_OUT),
    pair("route_replace", index=INDEX, table=TABLE),
    pair("route_add", index=INDEX, table=TABLE),
    op("route_del", ADDRESS, table=TABLE),
    op("rule_add", PRIORITY, TABLE, src=ADDRESS),
    op("rule_add", PRIORITY, TABLE, dst=ADDRESS),
    op("rule_del", PRIORITY, TABLE | st.just(0), src=ADDRESS),
    op("rule_del", PRIORITY, TABLE, dst=ADDRESS),
)


def raw(value: Any) -> bytes:
    """A field's value as it stands in a slot."""
    if isinstance(value, str):
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                return socket.inet_pton(family, value)
            except OSError:
                continue
        return value.encode().ljust(16, b"\0")
    return value if isinstance(value, bytes) else struct.pack("=I", value)


def filled(template: ours.Template, slots: bytes) -> bytes:
    """What C makes of a template, in slow Python."""
    data = bytearray(template.data)
    for at, source, size in struct.iter_unpack("=HHH", template.patches):
        data[at : at + size] = slots[source : source + size]
    return bytes(data)


@given(st.lists(OPS, min_size=1, max_size=8))
def test_constants_encode_as_pyroute2_does(chosen: list[Any]) -> None:
    """Every op, random fields: the same content as the twin's messages, in the same order."""
    template = ours.compile_ops([getattr(ours, name)(*places, **fields) for name, places, fields in chosen])
    expected = b"".join(getattr(twin, name)(*places, **fields) for name, places, fields in chosen)
    assert twin.decode(template.data) == twin.decode(expected)
    assert template.names == tuple(name for name, _, _ in chosen)


@given(OPS, st.data())
def test_slots_and_constants_give_the_same_bytes(chosen: Any, data: st.DataObject) -> None:
    """A message with slots, filled, is the message with constants."""
    name, places, fields = chosen
    values: list[bytes] = []

    def slot(value: Any) -> Any:
        """The value itself, or a slot in its place."""
        if value is None or isinstance(value, bool) or not data.draw(st.booleans()):
            return value
        values.append(raw(value))
        return ours.Slot(f"slot{len(values)}", len(values[-1]))

    builder: Callable[..., ours.Op] = getattr(ours, name)
    constant = ours.compile_ops([builder(*places, **fields)])
    template = ours.compile_ops([builder(*map(slot, places), **{k: slot(v) for k, v in fields.items()})])
    by_name = {f"slot{i + 1}": value for i, value in enumerate(values)}
    slots = bytearray(template.size)
    for slot_name, (offset, size) in template.layout.items():
        slots[offset : offset + size] = by_name[slot_name]
    assert set(template.layout) == set(by_name)
    assert filled(template, bytes(slots)) == constant.data


def test_only_the_last_message_asks_for_an_answer() -> None:
    """Errors are told anyway; one acknowledgement says that all is done."""
    data = ours.compile_ops([ours.link_del(1), ours.link_del(2), ours.link_del(3)]).data
    flags = [struct.unpack_from("=IHH", data, at)[2] for at in range(0, len(data), 32)]
    assert flags == [0x1, 0x1, 0x5]


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("secondary", [False, True])
def test_a_pod_shape_has_the_contract_s_messages(ipv6: bool, secondary: bool) -> None:
    """The five batches of a shape, filled, against the twin's: data plane specification, 7.1 and 7.2."""
    text, gateway = ("2001:db8::17", "fe80::1") if ipv6 else ("10.0.1.23", "169.254.1.1")
    host_mac, pod_mac = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
    shape = ours.pod_shape(ipv6=ipv6, secondary=secondary)
    slots = shape.slots(
        address=raw(text),
        host_name="enicc21c2d7785",
        host_mac=host_mac,
        pod_mac=pod_mac,
        netns=9,
        table=3,
        host_index=5,
    )
    offset, _ = shape.templates[0].layout["pod_index"]
    struct.pack_into("=I", slots, offset, 6)
    link, host, pod, undo, remove = (twin.decode(filled(t, bytes(slots))) for t in shape.templates)
    assert link == twin.decode(twin.veth_add("enicc21c2d7785", "eth0", 9, mtu=9001, mac=host_mac, peer_mac=pod_mac))
    from_pod = twin.rule_add(1536, 3, src=text) if secondary else b""
    assert host == twin.decode(
        twin.link_set(5, up=True)
        + twin.neighbour_set(5, text, pod_mac)
        + twin.route_replace(text, index=5)
        + twin.rule_add(512, 254, dst=text)
        + from_pod
    )
    expected = twin.decode(
        twin.link_set(6, up=True)
        + twin.address_add(6, text, nodad=ipv6)
        + twin.route_replace(gateway, index=6)
        + twin.route_add(None, index=6, gateway=gateway)
        + twin.neighbour_set(6, gateway, host_mac)
    )
    for route in (expected[2], expected[3]):
        route[2]["proto"] = 3  # inside the pod routes look as any administrator's
    if ipv6:
        [here] = twin.decode(twin.route_add(text, index=6, table=255))
        here[2]["type"], here[2]["scope"] = 2, 254
        expected.insert(2, here)
    assert pod == expected
    no_from_pod = twin.rule_del(1536, 3, src=text) if secondary else b""
    expected = twin.decode(twin.rule_del(512, 254, dst=text) + no_from_pod + twin.link_del(5))
    for rule in expected[:-1]:
        rule[2]["attrs"] = sorted([*rule[2]["attrs"], ("FRA_PROTOCOL", 2)], key=repr)  # ours only
    assert undo == expected
    assert remove[1:] == twin.decode(
        twin.rule_del(1536, 3, src=text) + twin.rule_del(512, 254, dst=text) + twin.route_del(text)
    )
    assert remove[0][0] == 18


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: ours.link_set(1, name="sixteen-byte-name"), "1 to 15 bytes"),
        (lambda: ours.link_set(1, name="a/b"), "without '/'"),
        (lambda: ours.link_set(1, name="ümlaut-name-lon"), "1 to 15 bytes"),
        (lambda: ours.link_set(-1, up=True), "index -1 is not within"),
        (lambda: ours.address_add(1, "10.0.0.300"), "'10.0.0.300' is no IP address"),
        (lambda: ours.address_add(1, b"12345"), "5 bytes"),
        (lambda: ours.address_add(1, "10.0.0.1/33"), "prefix length '33'"),
        (lambda: ours.route_replace("10.0.0.1", 40, index=1), "prefix length 40"),
        (lambda: ours.route_replace("10.0.0.1", index=1, gateway="fe80::1"), "one address family"),
        (lambda: ours.route_replace(None, index=1), "one address family"),
        (lambda: ours.rule_add(512, 254), "one address family"),
        (lambda: ours.neighbour_set(1, "10.0.0.1", b"123"), "6 bytes"),
        (lambda: ours.neighbour_set(1, "10.0.0.1", ours.Slot("mac", 4)), "slot mac"),
        (lambda: ours.compile_ops([]), "1 to 128 messages"),
        (lambda: ours.compile_ops([ours.link_del(1)] * 129), "1 to 128 messages"),
        (lambda: ours.compile_ops([ours.link_del(1, tolerate=(1, 2, 3, 4, 5))]), "at most 4"),
        (lambda: ours.compile_ops([ours.link_del(ours.Slot("i"))], {"j": (0, 4)}), "no slot i"),
        (
            lambda: ours.compile_ops([ours.neighbour_set(ours.Slot("i"), "10.0.0.1", ours.Slot("i", 6))]),
            "sizes 4 and 6",
        ),
        (lambda: ours.pod_shape().slots(address=bytes(16), host_name="a"), "16 bytes; an AF_INET one has 4"),
        (lambda: ours.pod_shape().slots(address=bytes(4)), "host_name or host_index"),
        (lambda: ours.pod_shape().slots(address=bytes(4), host_name="a", mtu=100), "mtu 100"),
        (lambda: ours.pod_shape().slots(address=bytes(4), host_name="a", host_mac=b"1"), "not 6 bytes"),
        (lambda: ours.pod_shape().slots(address=bytes(4), host_name="a", table=-1), "table -1"),
        (lambda: ours.set_group_and_delete(None, [1], 0), "group 0"),  # type: ignore[arg-type]
        (lambda: ours.set_group_and_delete(None, [0]), "not within 1.."),  # type: ignore[arg-type]
    ],
)
def test_bad_fields_are_named(make: Callable[[], object], rule: str) -> None:
    """Each refusal names the field, the value or the rule."""
    with pytest.raises(ValueError, match=rule.replace("'", ".").replace("(", r"\(")):
        make()


def test_long_lists_of_ops_become_several_batches() -> None:
    """At most 128 messages and 12 KiB each, none lost."""
    ops = [ours.rule_add(n + 1, 254, src="10.0.0.1") for n in range(300)]
    made = batches(ops)
    assert sum(len(t.names) for t in made) == 300
    assert all(len(t.names) <= 128 and len(t.data) <= 12 << 10 for t in made)
    assert batches([]) == []


def test_a_template_that_leads_outside_is_refused() -> None:
    """C trusts a template, so it is checked when it is made."""
    good = ours.compile_ops([ours.link_set(ours.Slot("i"), up=True)])
    parts = (good.data, good.patches, good.messages, good.names, good.layout, good.size)
    assert ours.Template(*parts).names == ("link_set",)
    bad: list[tuple[int, Any]] = [
        (0, good.data[:-4]),
        (0, good.data[:7] + b"\0" + good.data[8:-4]),
        (0, struct.pack("=I", 4) + good.data[4:]),
        (1, struct.pack("=HHH", 30, 0, 4)),
        (1, struct.pack("=HHH", 0, 4, 4)),
        (2, struct.pack("=H4h", 4, 0, 0, 0, 0)),
        (2, b""),
        (5, 3),
    ]
    for place, value in bad:
        with pytest.raises(ValueError, match="outside its own bounds"):
            ours.Template(*[value if i == place else part for i, part in enumerate(parts)])  # type: ignore[arg-type]


def test_defaults_of_tolerance() -> None:
    """Deletions tolerate absence, a rule its twin, and nothing else does."""
    assert ours.rule_add(1, 2, src="10.0.0.1").tolerate == (errno.EEXIST,)
    assert errno.ENOENT in ours.rule_del(1, src="10.0.0.1").tolerate
    assert errno.ESRCH in ours.route_del("10.0.0.1").tolerate
    assert ours.address_add(1, "10.0.0.1").tolerate == ours.route_replace("10.0.0.1", index=1).tolerate == ()
