"""Journal records become state, and ipam.json is the existing system's, to the byte."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.errors import CheckpointForeign
from core.records import BlockMeta, Digest, EniRecord, Gone, OwnerMeta, Past, replay

A, B = bytes([10, 0, 1, 23]), bytes([10, 0, 1, 24])
K, L = b"k" * 20, b"l" * 20
META = OwnerMeta("aws-cni", "8f", "eth0", "default", "web-0", since_unix_ns=1766300000000000000)


class Record(NamedTuple):
    kind: int
    owner: bytes = b""
    address: bytes = b""
    when_ns: int = 0
    meta: bytes = b""


def assign(key: bytes = K, address: bytes = A, when: int = 5, meta: OwnerMeta = META) -> Record:
    return Record(records.ASSIGN, key, address, when, records.encode(meta))


def release(key: bytes = K, address: bytes = A, when: int = 9, gone: Gone | None = None) -> Record:
    return Record(records.RELEASE, key, address, when, records.encode(gone or Gone()))


def test_an_owner_comes_and_goes() -> None:
    image = replay([assign()])
    assert (image.owners[K].address, image.owners[K].meta, image.last_ns) == (A, META, 5)
    image = replay([assign(), release()])
    assert (image.owners, image.cooling, image.last_ns) == ({}, {A: 9}, 9)
    assert image.history[-1] == Past(META, Gone(), A)


def test_a_release_that_nobody_saw_does_not_cool() -> None:
    assert replay([assign(), release(gone=Gone("failed", cool=False))]).cooling == {}


def test_an_address_that_is_assigned_again_does_not_cool() -> None:
    image = replay([assign(), release(), assign(L)])
    assert (image.cooling, image.owners[L].address) == ({}, A)


def test_a_second_record_of_an_owner_changes_its_meta_only() -> None:
    renamed = OwnerMeta("aws-cni", "8f", "eth0", "default", "web-0", host_veth="enispare")
    image = replay([assign(when=5), assign(when=8, meta=renamed)])
    assert (image.owners[K].when_ns, image.owners[K].meta.host_veth) == (5, "enispare")


def test_blocks_and_enis() -> None:
    eni = EniRecord("eni-1", "0a:0", "eth1", 3, 0, 1, 2, "10.0.1.4")
    block = Record(records.BLOCK, b"", A, 1, records.encode(BlockMeta(32, "eni-1", 0, 0)))
    drained = Record(records.BLOCK, b"", A, 2, records.encode(BlockMeta(32, "eni-1", 0, 1)))
    known = Record(records.ENI, b"", b"", 1, records.encode(eni))
    image = replay([known, block, drained, Record(records.READY)])
    assert (image.enis, image.blocks, image.ready) == ({"eni-1": eni}, {(A, 32): BlockMeta(32, "eni-1", 0, 1)}, True)
    image = replay(
        [
            known, block, assign(), release(),
            Record(records.BLOCK_GONE, b"", A, 3, records.encode(BlockMeta(32))),
            Record(records.ENI_GONE, b"", b"", 4, records.encode(eni)),
        ]
    )  # fmt: skip
    assert (image.enis, image.blocks, image.cooling) == ({}, {}, {})


def test_only_the_last_two_digests_count() -> None:
    image = replay([Record(records.CHECKPOINT, meta=bytes([i]) * 16) for i in range(4)])
    assert list(image.digests) == [b"\2" * 16, b"\3" * 16]


def test_history_is_bounded() -> None:
    pasts = [Past(OwnerMeta(pod=str(i)), Gone("failed")) for i in range(600)]
    image = replay(Record(records.HISTORY, meta=records.encode(p)) for p in pasts)
    assert list(image.history) == pasts[-512:]


def test_what_is_not_understood_never_frees_an_address() -> None:
    image = replay([Record(records.ASSIGN, K, A, 1, b"\xc1rubbish"), Record(99), release(L, B)])
    assert image.owners[K].address == A
    assert image.cooling == {B: 9}
    assert len(image.problems) == 2


def test_a_newer_release_may_add_fields() -> None:
    longer = records.encode([*json.loads(json.dumps(["n", "c", "i", "s", "p"])), "", "", "", 0, 0, 254, 0, {}, "new"])
    assert replay([Record(records.ASSIGN, K, A, 1, longer)]).owners[K].meta.pod == "p"
    shorter = records.encode(["n", "c"])
    assert replay([Record(records.ASSIGN, K, A, 1, shorter)]).owners[K].meta.table == 254


ENTRY = (
    b'{"networkName":"aws-cni","containerID":"8f","ifName":"eth0","ipv4":"10.0.1.23",'
    b'"allocationTimestamp":1766300000000000000,'
    b'"metadata":{"k8sPodNamespace":"default","k8sPodName":"web-0","interfacesCount":1}}'
)
FILE = b'{"version":"vpc-cni-ipam/1","allocations":[' + ENTRY + b"]}\n"


def test_the_file_to_the_byte() -> None:
    assert records.checkpoint_entry(META, A) == ENTRY
    assert records.checkpoint_file([ENTRY]) == FILE
    assert records.checkpoint_file([]) == b'{"version":"vpc-cni-ipam/1","allocations":[]}\n'


def test_ipv6_and_empty_names() -> None:
    body = json.loads(records.checkpoint_entry(OwnerMeta("n", "c", "i"), bytes(15) + b"\1"))
    assert body["ipv6"] == "::1"
    assert "ipv4" not in body
    assert body["metadata"] == {"interfacesCount": 1}


def test_reading_back() -> None:
    found = records.read_checkpoint(FILE)
    (entry,) = found.allocations
    assert (entry.network, entry.container_id, entry.ifname, entry.address) == ("aws-cni", "8f", "eth0", A)
    assert (entry.metadata.namespace, entry.metadata.pod, entry.timestamp) == ("default", "web-0", META.since_unix_ns)
    assert found.digest == Digest([ENTRY]).value


def test_old_entries() -> None:
    old = b'{"networkName":"_migrated-from-cri","containerID":"8f","ifName":"unknown","ipv4":"10.0.1.23","metadata":{}}'
    (entry,) = records.read_checkpoint(b'{"version":"vpc-cni-ipam/1","allocations":[%s]}' % old).allocations
    assert (entry.network, entry.metadata.pod, entry.timestamp) == ("_migrated-from-cri", "", 0)
    assert records.read_checkpoint(b'{"version":"vpc-cni-ipam/1","allocations":null}').allocations == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"version":"vpc-cni-ipam/2","allocations":[]}', b"{}", b"\xff\xfe", FILE[:-20]]
)
def test_a_file_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(CheckpointForeign, match=r"ipam\.json"):
        records.read_checkpoint(data)


def test_bad_entries_are_left_out_by_name() -> None:
    bad = [b'{"networkName":"n","containerID":"c","ifName":"i","ipv4":"10.0.0"}', b"7", b'{"ipv4":"10.0.0.1"}']
    data = b'{"version":"vpc-cni-ipam/1","allocations":[' + b",".join([*bad, ENTRY]) + b"]}"
    found = records.read_checkpoint(data)
    assert len(found.allocations) == 1
    assert [p.split(":")[1].split()[1] for p in found.problems] == ["0", "1", "2"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40), st.randoms())
def test_the_digest_is_that_of_the_set(steps: list[tuple[bool, int]], random: object) -> None:
    digest = Digest()
    there: set[int] = set()
    for add, number in steps:
        entry = b"entry %d" % number
        if add and number not in there:
            there.add(number)
            digest.add(entry)
        elif not add and number in there:
            there.discard(number)
            digest.take(entry)
    entries = [b"entry %d" % n for n in there]
    random.shuffle(entries)  # type: ignore[attr-defined]  # hypothesis hands a Random
    assert digest.value == Digest(entries).value
    assert digest.value != Digest([*entries, b"one more"]).value
