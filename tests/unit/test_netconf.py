"""The runtime's input: what is taken, and that all bad input is refused with its type, by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import netconf
from core.errors import BadEnvironment, BadNetworkConfig, BadRequest, EnidError, UnsupportedVersion

CONF: dict[str, Any] = {"cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001"}
ARGS = b"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"


def decode(verb: str = "ADD", conf: Any = None, **fields: Any) -> netconf.Request:
    given = {"container_id": b"c1", "netns": b"/run/netns/x", "ifname": b"eth0", "args": ARGS, **fields}
    config = conf if isinstance(conf, bytes) else json.dumps({**CONF, **(conf or {})}).encode()
    return netconf.decode(
        verb, given["container_id"], given["netns"], given["ifname"], given["args"], fields.get("config", config)
    )


def test_good_request() -> None:
    got = decode()
    assert (got.network, got.container_id, got.ifname, got.netns) == ("aws-cni", "c1", "eth0", "/run/netns/x")
    assert (got.namespace, got.pod, got.pod_uid, got.veth_prefix, got.mtu) == ("default", "web-0", "u1", "eni", 9001)
    assert (got.version, got.multi_nic, got.previous, got.valid, got.notes) == ("0.4.0", False, None, None, [])


@pytest.mark.parametrize("version", netconf.VERSIONS)
def test_every_version_is_spoken(version: str) -> None:
    assert decode(conf={"cniVersion": version}).version == version


def test_a_missing_version_is_the_oldest() -> None:
    assert decode(conf={"cniVersion": ""}).version == "0.1.0"


@pytest.mark.parametrize(
    ("text", "mtu"),
    [("", 0), ("abc", 9001), ("100", 9001), ("575", 9001), ("576", 576), ("1500", 1500), ("9001", 9001),
     ("9002", 9001), ("-1500", 9001), ("+1500", 1500), ("1e3", 9001), (" 1500", 9001), ("9" * 400, 9001)],
)  # fmt: skip
def test_mtu(text: str, mtu: int) -> None:
    assert decode(conf={"mtu": text}).mtu == mtu


@pytest.mark.parametrize(
    ("conf", "error", "word"),
    [
        (b"", BadRequest, "truncated"),
        (b'{"name":"aws', BadRequest, "truncated"),
        (b'{"name":"aws-cni"} x', BadRequest, "trailing"),
        (b'{"name":"\xff"}', BadRequest, "UTF-8"),
        (b'{"x":"\xc3\x28"}', BadRequest, "UTF-8"),
        (b"[" * 100_000, BadNetworkConfig, "object"),
        (b'{"a":' * 100_000, BadRequest, "JSON"),
        (b"[]", BadNetworkConfig, "object"),
        ({"name": 7}, BadNetworkConfig, "$.name"),
        ({"name": ""}, BadNetworkConfig, "name"),
        ({"name": "../x"}, BadNetworkConfig, "name"),
        ({"mtu": 9001}, BadNetworkConfig, "$.mtu"),
        ({"vethPrefix": "enixx"}, BadNetworkConfig, "vethPrefix"),
        ({"vethPrefix": "e/n"}, BadNetworkConfig, "vethPrefix"),
        ({"cniVersion": "9.9.9"}, UnsupportedVersion, "9.9.9"),
        ({"cniVersion": "9.9.9", "mtu": 5}, UnsupportedVersion, "9.9.9"),
        ({"cniVersion": 1}, BadNetworkConfig, "$.cniVersion"),
        ({"runtimeConfig": []}, BadNetworkConfig, "runtimeConfig"),
        ({"prevResult": {"ips": 3}}, BadNetworkConfig, "prevResult"),
    ],
)
def test_bad_configuration(conf: Any, error: type[EnidError], word: str) -> None:
    with pytest.raises(error) as caught:
        decode(conf=conf)
    assert word in caught.value.text


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"container_id": b""}, "CNI_CONTAINERID"),
        ({"container_id": b"a/b"}, "CNI_CONTAINERID"),
        ({"container_id": b"-a"}, "CNI_CONTAINERID"),
        ({"container_id": b"a" * 60_000}, "CNI_CONTAINERID"),
        ({"ifname": b""}, "CNI_IFNAME"),
        ({"ifname": b"eth0eth0eth0eth0"}, "CNI_IFNAME"),
        ({"ifname": "éééééééé".encode()}, "CNI_IFNAME"),
        ({"ifname": b"e:0"}, "CNI_IFNAME"),
        ({"ifname": b".."}, "CNI_IFNAME"),
        ({"netns": b""}, "CNI_NETNS"),
        ({"args": b""}, "K8S_POD_NAMESPACE"),
        ({"args": b"IgnoreUnknown=1;K8S_POD_NAMESPACE=a"}, "K8S_POD_NAME"),
        ({"args": b"K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;FOO=bar"}, "FOO"),
        ({"args": b"IgnoreUnknown=0;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;FOO=bar"}, "FOO"),
        ({"args": b"IgnoreUnknown=perhaps;K8S_POD_NAME=b"}, "IgnoreUnknown"),
        ({"args": b"K8S_POD_NAME"}, "key=value"),
        ({"args": b"K8S_POD_NAME=a=b"}, "key=value"),
        ({"args": b";"}, "key=value"),
        ({"args": b"IgnoreUnknown=1;K8S_POD_NAMESPACE=a b;K8S_POD_NAME=b"}, "K8S_POD_NAMESPACE"),
    ],
)
def test_bad_environment(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(BadEnvironment, match=word):
        decode(**fields)


@pytest.mark.parametrize("field", ["container_id", "ifname", "netns", "args"])
def test_variables_must_be_utf8(field: str) -> None:
    changes: dict[str, Any] = {field: b"\xff\xfe"}
    with pytest.raises(BadRequest, match="UTF-8"):
        decode(**changes)


def test_unknown_arguments_are_fine_when_asked_for() -> None:
    assert decode(args=b"FOO=bar;" + ARGS).pod == "web-0"
    assert decode(args=b"IgnoreUnknown=True;FOO=;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b").namespace == "a"


def test_del_needs_neither_pod_nor_namespace_nor_a_sound_previous_result() -> None:
    got = decode("DEL", {"prevResult": {"ips": 3}}, netns=b"", args=b"")
    assert (got.netns, got.pod, got.previous) == ("", "", None)
    assert "prevResult" in got.notes[0]


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "0.4.0")])
def test_verbs_need_their_version(verb: str, version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=verb):
        decode(verb, {"cniVersion": version})


def test_gc_takes_the_list_of_attachments() -> None:
    valid = [{"containerID": "c1", "ifname": "eth0", "more": 1}]
    got = decode("GC", {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}, container_id=b"", ifname=b"")
    assert got.valid == [netconf.Attachment("c1", "eth0")]
    with pytest.raises(BadNetworkConfig, match="valid-attachments"):
        decode("GC", {"cniVersion": "1.1.0"})


@pytest.mark.parametrize(
    ("value", "wished", "told"), [(None, False, 0), (netconf.MULTI_NIC, True, 0), ("other", False, 1), (5, False, 1)]
)
def test_annotation(value: Any, wished: bool, told: int) -> None:
    annotations = {} if value is None else {netconf.NIC_ANNOTATION: value}
    got = decode(conf={"runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations, "portMappings": []}})
    assert (got.multi_nic, len(got.notes)) == (wished, told)


PREVIOUS: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "interfaces": [
        {"name": "enicc21c2d7785"},
        {"name": "eth0", "mac": "2", "sandbox": "/var/run/netns/cni-1234"},
        {"name": "dummycc21c2d7785", "mac": "0", "sandbox": "1"},
    ],
    "ips": [{"version": "4", "interface": 1, "address": "10.0.1.23/32"}],
    "dns": {},
}


def test_previous_result() -> None:
    got = decode("DEL", {"prevResult": PREVIOUS}).previous
    assert got == netconf.Previous("enicc21c2d7785", ("10.0.1.23",), 2, 1)


def test_previous_result_without_table_and_with_entries_of_others() -> None:
    faces = [*PREVIOUS["interfaces"], {"name": "v4if0"}, {"name": "veth1", "mac": "x"}]
    faces[1] = {"name": "eth0", "sandbox": "/x"}
    got = decode("DEL", {"prevResult": {**PREVIOUS, "interfaces": faces}}).previous
    assert got == netconf.Previous("enicc21c2d7785", ("10.0.1.23",), -1, 1)


@pytest.mark.parametrize("previous", [None, {}, {"ips": []}, {"interfaces": [{"name": "eth0", "sandbox": "/x"}]}])
def test_previous_result_of_another_shape_is_none(previous: Any) -> None:
    assert decode("DEL", {"prevResult": previous}).previous is None


@given(st.binary(max_size=200), st.sampled_from(["ADD", "DEL", "CHECK", "STATUS", "GC"]))
def test_rubbish_is_refused_with_a_type(rubbish: bytes, verb: str) -> None:
    with pytest.raises(EnidError):
        decode(verb, rubbish)


WORDS = st.sampled_from([*CONF, "prevResult", "runtimeConfig", "ips", "interfaces", "address"]) | st.text()
LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner)))
def test_any_json_is_taken_or_refused_with_a_type(value: Any) -> None:
    try:
        decode(conf=json.dumps(value).encode())
    except EnidError:
        pass


@pytest.mark.parametrize(
    ("config", "version"),
    [(b'{"cniVersion":"1.0.0"}', "1.0.0"), (b"{", "0.4.0"), (b'{"cniVersion":"7"}', "0.4.0"), (b"{}", "0.4.0"),
     (b'{"cniVersion":"1.0.0","mtu":5}', "1.0.0"), (b'{"cniVersion":["1.0.0"]}', "0.4.0")],
)  # fmt: skip
def test_version_of_an_answer(config: bytes, version: str) -> None:
    assert netconf.version_of(config) == version
