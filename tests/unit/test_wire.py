"""The frames as values: what one end writes the other reads, in any pieces, and everything else is a typed error."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import wire

plain = st.binary(max_size=200).map(lambda value: value.replace(b"\0", b""))
requests = st.builds(
    wire.Request,
    kind=st.sampled_from(sorted(wire.REQUESTS)),
    container_id=plain,
    netns=plain,
    ifname=plain,
    args=plain,
    path=plain,
    config=st.binary(max_size=2000),
    flags=st.integers(0, wire.KNOWN_FLAGS),
)
ADD = wire.Request(wire.Kind.ADD, b"c", b"/n", b"eth0", b"a=b", b"/bin", b"{}", wire.HAS_DESCRIPTORS)


def feed(data: bytes, cuts: list[int]) -> wire.Frame:
    """The frame that `data` is, given in pieces."""
    decoder, at, frame = wire.Decoder(), 0, None
    for cut in [*sorted({cut % len(data) for cut in cuts}), len(data)]:
        assert frame is None
        frame = decoder.feed(data[at:cut])
        at = cut
    assert frame is not None
    return frame


@given(requests, st.lists(st.integers(0, 5000), max_size=8))
def test_a_request_survives_in_any_pieces(request: wire.Request, cuts: list[int]) -> None:
    assert wire.parse_request(feed(wire.encode_request(request), cuts)) == request


@given(st.integers(0, 255), st.binary(max_size=2000), st.lists(st.integers(0, 5000), max_size=8))
def test_a_reply_survives_in_any_pieces(status: int, text: bytes, cuts: list[int]) -> None:
    assert wire.parse_reply(feed(wire.encode_reply(status, text), cuts)) == wire.Reply(status, text)


@given(requests, st.data())
def test_a_cut_request_is_never_taken_for_a_whole_one(request: wire.Request, data: st.DataObject) -> None:
    raw = wire.encode_request(request)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(wire.WireError, match="the frame is cut"):
        wire.decode_request(cut)


@given(requests, st.data())
def test_damage_is_a_typed_error_or_another_request(request: wire.Request, data: st.DataObject) -> None:
    raw = bytearray(wire.encode_request(request))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = wire.decode_request(raw)
    except wire.WireError:
        return
    assert wire.encode_request(again) == raw


@given(st.binary(max_size=300))
def test_noise_is_a_typed_error(noise: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_request(noise)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: b"GET "}, "begins with b'ENID', this one with b'GET '"),
        ({6: b"\x00"}, "kind 0 is not known"),
        ({6: b"\x06"}, "kind 6 is not known"),
        ({6: b"\x80"}, "a frame of kind REPLY is no request"),
        ({7: b"\x08"}, "flags 0x8: only 0x7 are known"),
        ({12: b"\x01"}, "the last word of the header is 0x1, it must be 0"),
        ({16: b"\xff\xff\x00\x00"}, "CNI_CONTAINERID of 65535 bytes is cut"),
        ({20: b"\x00"}, "CNI_CONTAINERID holds a NUL byte"),
    ],
)
def test_what_is_wrong_is_named(change: dict[int, bytes], text: str) -> None:
    raw = bytearray(wire.encode_request(ADD))
    for at, value in change.items():
        raw[at : at + len(value)] = value
    with pytest.raises(wire.WireError) as caught:
        wire.decode_request(raw)
    assert text in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_a_version_that_is_not_spoken_is_found_by_the_header_alone(version: int) -> None:
    raw = bytearray(wire.encode_request(ADD))
    struct.pack_into("<H", raw, 4, version)
    with pytest.raises(wire.VersionNotSpoken) as caught:
        wire.Decoder().feed(raw[: wire.HEADER.size])
    assert caught.value.version == version
    assert wire.parse_reply(wire.decode_frame(wire.encode_unsupported())) == wire.Unsupported(1, 1)


def test_unsupported_is_read_whatever_its_version() -> None:
    raw = bytearray(wire.encode_unsupported())
    struct.pack_into("<H", raw, 4, 77)
    struct.pack_into("<HH", raw, 16, 76, 77)
    assert wire.parse_reply(wire.decode_frame(raw)) == wire.Unsupported(76, 77)


def test_bounds() -> None:
    full = b"x" * wire.MAX_FIELD
    largest = wire.Request(wire.Kind.DEL, full, full, full, full, full, b"y" * wire.MAX_CONFIG)
    assert wire.decode_request(wire.encode_request(largest)) == largest
    for field, name in zip(wire.FIELDS, wire.FIELD_NAMES, strict=True):
        bound = wire.MAX_CONFIG if field == "config" else wire.MAX_FIELD
        request = dataclasses.replace(ADD, **cast(dict[str, Any], {field: b"x" * (bound + 1)}))
        with pytest.raises(wire.TooLarge, match=f"{name} of {bound + 1} bytes is above the bound of {bound}"):
            wire.encode_request(request)


def test_a_huge_length_is_refused_before_anything_is_waited_for() -> None:
    header = wire.HEADER.pack(b"ENID", 1, 1, 0, wire.MAX_BODY + 1, 0)
    with pytest.raises(wire.TooLarge, match=f"a body of {wire.MAX_BODY + 1} bytes"):
        wire.Decoder().feed(header)
    raw = wire.HEADER.pack(b"ENID", 1, 1, 0, 4, 0) + struct.pack("<I", 0xFFFFFFFF)
    with pytest.raises(wire.TooLarge, match="CNI_CONTAINERID of 4294967295 bytes"):
        wire.decode_request(raw)


def test_a_wrong_magic_is_found_by_its_first_byte() -> None:
    decoder = wire.Decoder()
    assert decoder.feed(b"EN") is None
    with pytest.raises(wire.WireError):
        decoder.feed(b"X")


def test_bytes_after_the_frame() -> None:
    with pytest.raises(wire.WireError, match="1 bytes follow the frame"):
        wire.Decoder().feed(wire.encode_request(ADD) + b"x")
    body = wire.decode_frame(wire.encode_request(ADD)).body + b"\0" * 4
    with pytest.raises(wire.WireError, match="4 bytes follow the last field of the ADD"):
        wire.parse_request(wire.Frame(wire.Kind.ADD, 0, body))


def test_the_decoder_tells_what_it_waits_for() -> None:
    decoder = wire.Decoder()
    raw = wire.encode_request(ADD)
    assert (decoder.started, decoder.missing) == (False, wire.HEADER.size)
    decoder.feed(raw[:10])
    assert (decoder.started, decoder.missing) == (True, 6)
    decoder.feed(raw[10:20])
    assert decoder.missing == len(raw) - 20
    assert decoder.feed(raw[20:]) == wire.Frame(wire.Kind.ADD, wire.HAS_DESCRIPTORS, raw[16:])


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (wire.Kind.REPLY, b"abc", "a REPLY of 3 bytes has no exit status"),
        (wire.Kind.REPLY, b"\0" * 4, "the frame ends before the size of the text"),
        (wire.Kind.REPLY, b"\0" * 9, "1 bytes follow the text"),
        (wire.Kind.UNSUPPORTED, b"abc", "an UNSUPPORTED frame has 4 bytes"),
        (wire.Kind.ADD, b"", "a frame of kind ADD is no reply"),
    ],
)
def test_what_is_no_reply(kind: wire.Kind, body: bytes, text: str) -> None:
    with pytest.raises(wire.WireError, match=text):
        wire.parse_reply(wire.Frame(kind, 0, body))


@pytest.mark.parametrize("text", [b"x" * (wire.MAX_FIELD + 1), "é" * wire.MAX_FIELD])
def test_a_reply_beyond_the_bound_still_answers(text: bytes | str) -> None:
    reply = wire.parse_reply(wire.decode_frame(wire.encode_reply(0, text)))
    assert isinstance(reply, wire.Reply)
    assert reply.status == 1
    assert "above the bound" in json.loads(reply.text)["msg"]


def test_a_reply_takes_text_that_is_no_utf_8() -> None:
    reply = wire.parse_reply(wire.decode_frame(wire.encode_reply(1, "a\udcffb")))
    assert reply == wire.Reply(1, b"a\\udcffb")


def test_what_is_no_request_is_not_encoded() -> None:
    with pytest.raises(wire.WireError, match="no request"):
        wire.encode_request(wire.Request(wire.Kind.REPLY))
    with pytest.raises(wire.WireError, match="flags 0x10"):
        wire.encode_request(wire.Request(wire.Kind.ADD, flags=16))


def test_spool_names_sort_by_time() -> None:
    names = [wire.spool_name(when, pid) for when, pid in ((1, 9), (2, 1), (10**15, 5))]
    assert names == sorted(names)
    assert all(wire.SPOOL_NAME.fullmatch(name) for name in names)
    assert not wire.SPOOL_NAME.fullmatch(names[0] + wire.SPOOL_TEMPORARY)
    assert names[0] == "00000000000000000001-9.del"
