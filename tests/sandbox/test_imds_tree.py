"""The whole tree of the metadata: that the list of its paths is right, what is absent when, and what a notice tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.base.http import Response
from sandbox.ec2.imds_tree import MAC, PATHS
from sandbox.ec2.records import Instance
from sandbox.ec2.truth import Wanted
from sandbox.face.inprocess import Account, Metadata
from tests.sandbox.ec2_kit import START, model

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


@pytest.fixture
def a() -> Account:
    account = Account(model=model())
    account.truth.types.register("sandbox.cards", enis=4, ipv4=15, cards=(2, 2))
    account.truth.create_vpc(["10.0.0.0/16", "10.1.0.0/16"], ipv6_cidrs=["fd00:ec2::/56"])
    return account


def launch(a: Account, kind: str = "sandbox.cards", **kw: Any) -> Instance:
    vpc = next(iter(a.truth.vpcs))
    if not a.truth.subnets:
        a.truth.create_subnet(vpc, "10.0.0.0/20", "us-west-2a", ipv6_cidr="fd00:ec2:0:1::/64")
    return a.truth.run_instance(kind, next(iter(a.truth.subnets)), **kw)


@pytest.fixture
def full(a: Account) -> Iterator[Instance]:
    """An instance that has everything that an instance can have."""
    a.truth.key_names.add("mine")
    node = launch(a, key_name="mine", user_data=b"#!/bin/sh", prefix_count=1, ipv6=Wanted(count=1), tags={"Name": "x"})
    a.truth.assign_ipv6(node.primary_eni_id, prefix_count=1)
    notice = {"life_cycle": "spot", "spot_action": "terminate", "rebalance": True, "tags": True}
    a.switch("imds-notice", json.dumps({**notice, "target_state": "Terminated", "instance": node.instance_id}))
    yield node
    a.switch("imds-notice", "")


def ask(imds: Metadata, path: str) -> Response:
    token = imds.ask("PUT", "/latest/api/token", {TTL: "60"}).body.decode()
    return imds.ask("GET", f"/latest/{path}", {TOKEN: token})


def leaves(imds: Metadata, folder: str = "") -> Iterator[str]:
    """All paths below a folder, by its listing alone: what ends with a slash, and the top, are folders."""
    answer = ask(imds, folder)
    assert answer.status == 200, folder
    for name in answer.body.decode().split("\n"):
        if not folder:
            yield from leaves(imds, f"{name}/") if name in ("dynamic", "meta-data") else [name]
        elif name == "0=mine":
            yield from leaves(imds, f"{folder}0/")
        elif name.endswith("/"):
            yield from leaves(imds, f"{folder}{name}")
        else:
            yield f"{folder}{name}"


def test_the_list_of_paths_is_what_is_served(a: Account, full: Instance) -> None:
    """A walk by listings finds each path of the list, and no other; each has a value."""
    imds = a.metadata(full.instance_id)
    mac = a.truth.eni(full.primary_eni_id).mac
    found = list(leaves(imds))
    listed = {path.replace(MAC, mac).replace("{key}", "Name") for path in PATHS}
    assert sorted(found) == sorted(listed)
    assert {ask(imds, path).status for path in found} == {200}
    assert all(ask(imds, path).body for path in found)


def test_what_an_instance_lacks_is_404(a: Account) -> None:
    bare = a.metadata(launch(a).instance_id)
    for path in (
        "user-data",
        "meta-data/public-keys",
        "meta-data/spot/instance-action",
        "meta-data/spot/termination-time",
        "meta-data/events/recommendations/rebalance",
        "meta-data/autoscaling/target-lifecycle-state",
        "meta-data/tags/instance",
        "meta-data/public-ipv4",
        "meta-data/public-hostname",
        "meta-data/iam/security-credentials/",
    ):
        answer = ask(bare, path)
        assert (answer.status, answer.content_type) == (404, "text/html"), path
        assert b"<title>404 - Not Found</title>" in answer.body
    top = ask(bare, "meta-data/").body.decode().split("\n")
    assert {"spot/", "tags/", "autoscaling/", "public-keys/"}.isdisjoint(top)
    assert {"events/", "placement/", "services/", "network/"} <= set(top)
    assert top == sorted(top)


def test_notices(a: Account, full: Instance) -> None:
    imds = a.metadata(full.instance_id)
    assert a.now() == START
    spot = {"action": "terminate", "time": "2025-06-15T15:08:40Z"}
    assert json.loads(imds.get("spot/instance-action") or "") == spot
    assert imds.get("spot/termination-time") == spot["time"]
    assert json.loads(imds.get("events/recommendations/rebalance") or "") == {"noticeTime": "2025-06-15T15:06:40Z"}
    assert imds.get("autoscaling/target-lifecycle-state") == "Terminated"
    assert imds.get("instance-life-cycle") == "spot"
    assert imds.get("tags/instance") == "Name"
    assert imds.get("tags/instance/Name") == "x"
    a.switch("imds-notice", '{"spot_action": "stop", "life_cycle": "spot"}')
    assert json.loads(imds.get("spot/instance-action") or "")["action"] == "stop"
    assert imds.get("spot/termination-time") is None


def test_a_service_that_is_switched_off(a: Account) -> None:
    node = launch(a)
    imds = a.metadata(node.instance_id)
    a.switch("imds-notice", json.dumps({"instance": node.instance_id, "endpoint": False}))
    for method, path in (("PUT", "/latest/api/token"), ("GET", "/latest/meta-data/"), ("GET", "/")):
        assert imds.ask(method, path, {TTL: "60"}).status == 403
    a.switch("imds-notice", "")
    assert imds.get("instance-id") == node.instance_id


@pytest.mark.parametrize("status", [429, 503])
def test_throttling_as_a_rule(a: Account, status: int) -> None:
    imds = a.metadata(launch(a).instance_id)
    rule = {"action": "imds:GET */macs/", "error": "Throttled", "text": "slow down", "status": status}
    a.load([{"rule": rule}])
    assert imds.get("mac")
    assert ask(imds, "meta-data/network/interfaces/macs/").status == status
    assert ask(imds, "meta-data/network/interfaces/macs/").status == 200


def test_cards(a: Account) -> None:
    """The index of the card is told on types that have several, and only there."""
    node = launch(a)
    eni = a.truth.create_eni(node.subnet_id)
    a.truth.attach_eni(eni.eni_id, node.instance_id, 1, 1)
    imds = a.metadata(node.instance_id)
    assert imds.get(f"network/interfaces/macs/{eni.mac}/network-card") == "1"
    assert imds.get(f"network/interfaces/macs/{eni.mac}/device-number") == "1"
    plain = launch(a, "m5.large")
    imds = a.metadata(plain.instance_id)
    assert imds.get(f"network/interfaces/macs/{imds.get('mac')}/network-card") is None


def test_a_token_lives_as_long_as_it_says(a: Account) -> None:
    imds = a.metadata(launch(a).instance_id)
    token = imds.ask("PUT", "/latest/api/token", {TTL: "2"})
    assert token.headers == {TTL.lower(): "2"}
    use = {TOKEN: token.body.decode()}
    a.advance(1.9)
    assert imds.ask("GET", "/latest/meta-data/mac", use).status == 200
    a.advance(0.1)
    assert imds.ask("GET", "/latest/meta-data/mac", use).status == 401
    for refused, status in ((TTL + "x", 400), (TTL, 403)):
        headers = {refused: "60", **({"X-Forwarded-For": "10.9.9.9"} if status == 403 else {})}
        assert imds.ask("PUT", "/latest/api/token", headers).status == status
