"""The answers' exact shape: other programs, and the existing plugin after a rollback, read them."""

from __future__ import annotations

import json

import pytest

from core import result
from core.codes import CODES
from core.errors import EnidError, NodeFull, PoolEmpty
from core.netconf import VERSIONS, parse_previous


def make(version: str, address: str = "10.0.1.23", table: int = 2, device: int = 1) -> bytes:
    return result.result(
        version=version, namespace="default", pod="sample-pod", host_veth="enicc21c2d7785", ifname="eth0",
        netns="/var/run/netns/cni-1234", address=address, table=table, device=device,
    )  # fmt: skip


def test_the_contract_of_version_0_4_0() -> None:
    assert make("0.4.0") == (
        b'{"cniVersion":"0.4.0","interfaces":[{"name":"enicc21c2d7785"},'
        b'{"name":"eth0","mac":"2","sandbox":"/var/run/netns/cni-1234"},'
        b'{"name":"dummycc21c2d7785","mac":"0","sandbox":"1"}],'
        b'"ips":[{"version":"4","interface":1,"address":"10.0.1.23/32"}],"dns":{}}'
    )


def test_the_primary_interface() -> None:
    body = json.loads(make("0.4.0", table=254, device=0))
    assert [face.get("mac") for face in body["interfaces"]] == [None, "254", "0"]
    assert body["interfaces"][2]["sandbox"] == "0"


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_versions_with_interfaces(version: str) -> None:
    body = json.loads(make(version))
    reference = json.loads(make("0.4.0"))
    assert body["cniVersion"] == version
    assert body["interfaces"] == reference["interfaces"]
    assert body["ips"][0].pop("version", None) == (None if version.startswith("1") else "4")
    assert body["ips"] == [{"interface": 1, "address": "10.0.1.23/32"}]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_versions_without_interfaces(version: str) -> None:
    assert json.loads(make(version)) == {"cniVersion": version, "ip4": {"ip": "10.0.1.23/32"}, "dns": {}}
    assert json.loads(make(version, "fd00::5"))["ip6"] == {"ip": "fd00::5/128"}


def test_ipv6() -> None:
    assert json.loads(make("0.4.0", "fd00::5"))["ips"] == [{"version": "6", "interface": 1, "address": "fd00::5/128"}]


@pytest.mark.parametrize("version", VERSIONS[2:])
def test_what_we_answer_is_what_we_read_back(version: str) -> None:
    previous = parse_previous(make(version), "eth0")
    assert previous is not None
    assert (previous.host_veth, previous.addresses) == ("enicc21c2d7785", ("10.0.1.23",))
    assert (previous.table, previous.device) == (2, 1)


def test_error_object() -> None:
    body = json.loads(result.error(NodeFull("no more", cause="MAX_ENI", retry_after=5.0), "1.0.0"))
    assert (body["cniVersion"], body["code"], body["msg"]) == ("1.0.0", 110, "no more")
    assert "MAX_ENI" in body["details"]
    assert "retry after 5 s" in body["details"]


def test_every_error_has_its_codes() -> None:
    assert CODES["pool-empty"] == ("pool-empty", 11, "PoolEmpty", PoolEmpty.remedy)
    kinds = [EnidError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__ == "core.errors":
            assert CODES[kind.code].cni_code == kind.cni_code
