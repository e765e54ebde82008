"""The metadata service over HTTP: tokens, the tree for ENIs, and that it is a view of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.base import http as server
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds import Imds
from tests.sandbox.ec2_kit import Account, loopback, make_account

ROOT = "/latest/meta-data"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"


class Node:
    """The service as one instance sees it: callers on loopback are taken to have the instance's address."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.address = account.node.private_ip
        self.imds = Imds(account.truth, sleep=lambda seconds: None)
        self.hops: list[int | None] = []
        self.server = server.serve(loopback(), self._as_node)
        address: Any = self.server.address
        host, port = address
        self.connection = http.client.HTTPConnection(host, port, timeout=10)

    def _as_node(self, request: server.Request) -> server.Response:
        response = self.imds(replace(request, peer=self.address))
        self.hops.append(response.hops)
        return replace(response, hops=None)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        self.connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

    def token(self, seconds: str = "60") -> str:
        status, text = self.ask("PUT", "/latest/api/token", **{TTL: seconds})
        assert status == 200, text
        return text

    def get(self, path: str, token: str | None = None) -> str:
        """What a path holds; `404` and the like as text."""
        status, text = self.ask("GET", f"{ROOT}/{path}", X_aws_ec2_metadata_token=token or self.token())
        return text if status == 200 else str(status)

    def close(self) -> None:
        self.connection.close()
        self.server.close()


@pytest.fixture
def a() -> Account:
    return make_account()


@pytest.fixture
def node(a: Account) -> Iterator[Node]:
    made = Node(a)
    yield made
    made.close()


@pytest.mark.parametrize("seconds", ["", "0", "21601", "-5", "x", "1.5", "9" * 40])
def test_bad_lifetimes(node: Node, seconds: str) -> None:
    assert node.ask("PUT", "/latest/api/token", **{TTL: seconds})[0] == 400


def test_tokens(a: Account, node: Node) -> None:
    assert node.ask("GET", f"{ROOT}/mac")[0] == 401
    assert node.ask("GET", f"{ROOT}/mac", X_aws_ec2_metadata_token="made-up")[0] == 401
    assert node.ask("PUT", "/latest/api/token")[0] == 400
    assert node.ask("GET", "/latest/api/token")[0] == 405
    assert node.ask("PUT", f"{ROOT}/mac")[0] == 405
    assert node.ask("PUT", "/latest/api/token", **{TTL: "60", "X-Forwarded-For": "10.0.0.9"})[0] == 403
    token = node.token("60")
    mac = a.truth.eni(a.eni).mac
    assert node.get("mac", token) == mac
    a.clock.time += 59
    assert node.get("mac", token) == mac
    a.clock.time += 1
    assert node.get("mac", token) == "401"


def test_a_token_belongs_to_one_instance(a: Account, node: Node) -> None:
    token = node.token()
    node.address = a.truth.run_instance("m5.large", a.subnet.subnet_id).private_ip
    assert node.get("mac", token) == "401"


def test_version_one_where_the_instance_allows_it(a: Account, node: Node) -> None:
    old = a.truth.run_instance("m5.large", a.subnet.subnet_id, tokens_required=False)
    node.address = old.private_ip
    assert node.ask("GET", f"{ROOT}/instance-id") == (200, old.instance_id)
    assert node.ask("GET", f"{ROOT}/instance-id", X_aws_ec2_metadata_token="bad")[0] == 401


def test_hop_limit_goes_with_the_token(a: Account, node: Node) -> None:
    far = a.truth.run_instance("m5.large", a.subnet.subnet_id, hop_limit=2)
    token = node.token()
    node.get("mac", token)
    node.address = far.private_ip
    node.token()
    assert node.hops == [1, None, 2]


def test_who_calls(a: Account, node: Node) -> None:
    """Any address of any ENI of the instance will do, also one inside a prefix; others get nothing."""
    second = a.new(PrivateIpAddress="10.0.3.3", Ipv4Prefixes=[{"Ipv4Prefix": "10.0.3.16/28"}])
    loose = a.new(PrivateIpAddress="10.0.4.4")
    a.attach(second, 1)
    a.truth.assign_ipv4(a.eni, addresses=["10.0.5.5"])
    for address in ("10.0.3.3", "10.0.3.16", "10.0.3.31", "10.0.5.5"):
        node.address = address
        assert node.get("instance-id") == a.node.instance_id
    for address in ("10.0.4.4", "10.0.9.9", "192.0.2.1"):
        node.address = address
        assert node.ask("PUT", "/latest/api/token", **{TTL: "60"})[0] == 404
    assert loose in a.truth.enis


def test_the_tree(a: Account, node: Node) -> None:
    second = a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=1, Groups=a.groups[1:3])
    a.attach(second, 2)
    a.truth.assign_ipv4(a.eni, count=2)
    a.truth.assign_ipv6(a.eni, count=1)
    a.truth.assign_ipv6(a.eni, prefix_count=1)
    primary, other = a.truth.eni(a.eni), a.truth.eni(second)
    macs = f"network/interfaces/macs/{primary.mac}"
    expected = {
        "instance-id": a.node.instance_id,
        "instance-type": "sandbox.room",
        "local-ipv4": primary.primary_ip,
        "ipv6": primary.ipv6_addresses[0],
        "mac": primary.mac,
        "ami-id": a.node.image_id,
        "local-hostname": "ip-10-0-0-4.us-west-2.compute.internal",
        "placement/availability-zone": "us-west-2a",
        "placement/region": "us-west-2",
        "security-groups": "group-0",
        "network": "interfaces/",
        "network/interfaces/macs": "\n".join(sorted(f"{eni.mac}/" for eni in (primary, other))),
        "network/interfaces/macs/": "\n".join(sorted(f"{eni.mac}/" for eni in (primary, other))),
        f"{macs}/device-number": "0",
        f"{macs}/interface-id": primary.eni_id,
        f"{macs}/local-ipv4s": "\n".join(primary.addresses),
        f"{macs}/ipv6s": "\n".join(primary.ipv6_addresses),
        f"{macs}/ipv6-prefix": "\n".join(primary.ipv6_prefixes),
        f"{macs}/ipv4-prefix": "404",
        f"{macs}/network-card": "404",
        f"{macs}/mac": primary.mac,
        f"{macs}/owner-id": "123456789012",
        f"{macs}/security-group-ids": a.groups[0],
        f"{macs}/subnet-id": a.subnet.subnet_id,
        f"{macs}/subnet-ipv4-cidr-block": "10.0.0.0/20",
        f"{macs}/subnet-ipv6-cidr-blocks": "fd00:ec2:0:1::/64",
        f"{macs}/vpc-id": a.vpc.vpc_id,
        f"{macs}/vpc-ipv4-cidr-block": "10.0.0.0/16",
        f"{macs}/vpc-ipv4-cidr-blocks": "10.0.0.0/16\n10.1.0.0/16",
        f"{macs}/vpc-ipv6-cidr-blocks": "fd00:ec2::/56",
        f"network/interfaces/macs/{other.mac}/device-number": "2",
        f"network/interfaces/macs/{other.mac}/ipv4-prefix": other.prefixes[0],
        f"network/interfaces/macs/{other.mac}/security-group-ids": "\n".join(a.groups[1:3]),
        f"network/interfaces/macs/{other.mac}/ipv6s": "404",
        f"network/interfaces/macs/{other.mac}/subnet-ipv6-cidr-blocks": "404",
        "network/interfaces/macs/02:00:00:00:00:00/mac": "404",
        "nothing/here": "404",
        "mac/deeper": "404",
    }
    token = node.token()
    assert {path: node.get(path, token) for path in expected} == expected
    listed = node.get(f"{macs}/", token).split("\n")
    assert listed == node.get(macs, token).split("\n")
    assert "ipv4-prefix" not in listed
    for name in listed:
        assert node.get(f"{macs}/{name}", token) not in ("", "404")
    top = node.get("", token).split("\n")
    assert {"network/", "placement/", "mac", "instance-id"} <= set(top)


def test_network_cards_are_told_where_there_are_several(a: Account, node: Node) -> None:
    wide = a.truth.run_instance("sandbox.cards", a.subnet.subnet_id)
    second = a.truth.create_eni(a.subnet.subnet_id)
    a.truth.attach_eni(second.eni_id, wide.instance_id, 0, 1)
    node.address = wide.private_ip
    cards = {
        eni.mac: node.get(f"network/interfaces/macs/{eni.mac}/network-card")
        for eni in a.truth.enis_of(wide.instance_id)
    }
    assert cards == {a.truth.eni(wide.primary_eni_id).mac: "0", second.mac: "1"}


def test_identity_document(a: Account, node: Node) -> None:
    status, text = node.ask("GET", "/latest/dynamic/instance-identity/document", X_aws_ec2_metadata_token=node.token())
    document = json.loads(text)
    assert status == 200
    assert document["region"] == "us-west-2"
    assert document["availabilityZone"] == "us-west-2a"
    assert document["instanceId"] == a.node.instance_id
    assert document["accountId"] == "123456789012"
    assert document["privateIp"] == a.node.private_ip
    assert document["pendingTime"] == "2025-06-15T15:06:40Z"


def test_it_follows_attach_and_detach(a: Account, node: Node) -> None:
    a.truth.delays.attach = 5
    eni_id = a.new()
    mac = a.truth.eni(eni_id).mac
    attachment_id = a.attach(eni_id, 1)
    assert mac not in node.get("network/interfaces/macs")
    a.clock.time += 5
    assert f"{mac}/" in node.get("network/interfaces/macs").split("\n")
    a.ec2.detach_network_interface(AttachmentId=attachment_id)
    assert mac not in node.get("network/interfaces/macs")


def test_it_lags_on_its_own(a: Account, node: Node) -> None:
    """EC2 knows the prefix, the metadata not yet; and an ENI that is gone is still listed for a while."""
    eni_id = a.new()
    mac = a.truth.eni(eni_id).mac
    attachment_id = a.attach(eni_id, 1)
    a.truth.imds.lag = 3
    a.truth.assign_ipv4(a.eni, prefix_count=1)
    path = f"network/interfaces/macs/{a.truth.eni(a.eni).mac}/ipv4-prefix"
    assert node.get(path) == "404"
    assert len(a.describe(a.eni)["Ipv4Prefixes"]) == 1
    a.ec2.detach_network_interface(AttachmentId=attachment_id)
    a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert mac in node.get("network/interfaces/macs")
    assert node.get(f"network/interfaces/macs/{mac}/interface-id") == eni_id
    a.clock.time += 3
    assert node.get(path) == a.truth.eni(a.eni).prefixes[0]
    assert mac not in node.get("network/interfaces/macs")


def test_faults(a: Account, node: Node) -> None:
    token = node.token()
    a.truth.faults.add(Fault("imds:GET */macs/*", error="Throttled", status=429, times=1))
    a.truth.faults.add(Fault("imds:PUT *", body=b"", status=500, caller=a.node.instance_id))
    assert node.get(f"network/interfaces/macs/{a.truth.eni(a.eni).mac}/mac", token) == "429"
    assert node.get("mac", token) == a.truth.eni(a.eni).mac
    assert node.ask("PUT", "/latest/api/token", **{TTL: "60"}) == (500, "")
    assert node.token()


def test_top_listings(node: Node) -> None:
    token = node.token()
    for path, listed in (("/", "latest"), ("/latest", "dynamic\nmeta-data"), ("/latest/", "dynamic\nmeta-data")):
        assert node.ask("GET", path, X_aws_ec2_metadata_token=token) == (200, listed)
    assert node.ask("GET", "/latest/user-data", X_aws_ec2_metadata_token=token)[0] == 404
    assert node.ask("HEAD", f"{ROOT}/mac", X_aws_ec2_metadata_token=token) == (200, "")
