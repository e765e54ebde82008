"""What the tests of EC2 and IMDS share: a clock that moves by hand, a small account, boto3 over real HTTP."""

from __future__ import annotations

import functools
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.config
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from sandbox.base import http
from sandbox.ec2.api import Api
from sandbox.ec2.codec import Model
from sandbox.ec2.records import Instance, Subnet, Vpc
from sandbox.ec2.space import Policy
from sandbox.ec2.truth import Truth

START = 1_750_000_000.0


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time


class Told:
    """A view that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda eni_id: self.events.append((name, eni_id))


@functools.cache
def model() -> Model:
    return Model.load()


class _Switch:
    """One server and one boto3 client serve all tests: making either costs more than a test."""

    def __init__(self) -> None:
        self.handler: http.Handler | None = None

    def __call__(self, request: http.Request) -> http.Response:
        assert self.handler is not None
        return self.handler(request)


@functools.cache
def _endpoint() -> tuple[_Switch, Any, str]:
    switch = _Switch()
    server = http.serve(loopback(), switch)
    address: Any = server.address
    host, port = address
    url = f"http://{host}:{port}"
    return switch, make_client(url), url


def switch_to(handler: http.Handler) -> None:
    """Let the one endpoint be served by another handler; `make_account` sets it anew."""
    _endpoint()[0].handler = handler


def make_client(url: str) -> Any:
    return boto3.client(
        "ec2",
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=20, connect_timeout=5),
    )


def signed(
    url: str,
    body: str,
    *,
    key: str = "key",
    secret: str = "secret",
    session: str | None = None,
    region: str = "us-west-2",
) -> dict[str, str]:
    """The headers of a signed POST of a form."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = AWSRequest("POST", url, data=body, headers=headers)
    SigV4Auth(Credentials(key, secret, session), "ec2", region).add_auth(request)
    return dict(request.headers.items())


def loopback() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


@dataclass
class Account:
    """A VPC with two subnets in zone a and one in zone b, groups, and a node of a type with room (4 ENIs x 15)."""

    truth: Truth
    clock: HandClock
    api: Api
    ec2: Any
    url: str
    vpc: Vpc
    subnet: Subnet
    small: Subnet
    other_zone: Subnet
    groups: list[str]
    node: Instance
    told: Told = field(default_factory=Told)

    @property
    def eni(self) -> str:
        return self.node.primary_eni_id

    def describe(self, eni_id: str) -> dict[str, Any]:
        """The ENI as boto3 sees it."""
        found: list[dict[str, Any]] = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])[
            "NetworkInterfaces"
        ]
        return found[0]

    def free(self, subnet: Subnet) -> int:
        """AvailableIpAddressCount as boto3 sees it."""
        return int(self.ec2.describe_subnets(SubnetIds=[subnet.subnet_id])["Subnets"][0]["AvailableIpAddressCount"])

    def new(self, **kw: Any) -> str:
        """A new ENI in the main subnet, by boto3."""
        kw.setdefault("SubnetId", self.subnet.subnet_id)
        return str(self.ec2.create_network_interface(**kw)["NetworkInterface"]["NetworkInterfaceId"])

    def attach(self, eni_id: str, device: int, **kw: Any) -> str:
        """Attach to the node by boto3."""
        kw.setdefault("InstanceId", self.node.instance_id)
        answer = self.ec2.attach_network_interface(NetworkInterfaceId=eni_id, DeviceIndex=device, **kw)
        return str(answer["AttachmentId"])


def make_truth(seed: int = 7, policy: Policy = "dense", clock: HandClock | None = None) -> tuple[Truth, HandClock]:
    clock = clock or HandClock()
    truth = Truth(clock, random.Random(seed), policy=policy)
    truth.types.register("sandbox.room", enis=4, ipv4=15)
    truth.types.register("sandbox.tight", enis=2, ipv4=4, ipv6=2)
    truth.types.register("sandbox.xen", enis=4, ipv4=15, hypervisor="xen")
    truth.types.register("sandbox.cards", enis=3, ipv4=15, cards=(2, 2))
    truth.types.register("sandbox.4000", enis=15, ipv4=4000)
    return truth, clock


def make_account(policy: Policy = "dense") -> Account:
    truth, clock = make_truth(policy=policy)
    vpc = truth.create_vpc(["10.0.0.0/16", "10.1.0.0/16"], ipv6_cidrs=["fd00:ec2:0::/56"], tags={"Name": "main"})
    subnet = truth.create_subnet(
        vpc.vpc_id, "10.0.0.0/20", "us-west-2a", ipv6_cidr="fd00:ec2:0:1::/64", tags={"kubernetes.io/role/cni": "1"}
    )
    small = truth.create_subnet(vpc.vpc_id, "10.1.0.0/26", "us-west-2a")
    other_zone = truth.create_subnet(vpc.vpc_id, "10.0.16.0/24", "us-west-2b")
    groups = [truth.create_group(vpc.vpc_id, f"group-{number}").group_id for number in range(6)]
    node = truth.run_instance("sandbox.room", subnet.subnet_id, groups=groups[:1], tags={"Name": "node"})
    api = Api(truth, model=model(), sleep=lambda seconds: None)
    switch, client, url = _endpoint()
    switch.handler = api
    account = Account(truth, clock, api, client, url, vpc, subnet, small, other_zone, groups, node)
    truth.subscribe(account.told)
    return account


def state(truth: Truth) -> dict[str, Any]:
    """Everything that a refused call must leave as it was."""
    return {
        "vpcs": dict(truth.vpcs),
        "subnets": dict(truth.subnets),
        "groups": dict(truth.groups),
        "enis": dict(truth.enis),
        "instances": dict(truth.instances),
        "reservations": dict(truth.reservations),
        "associations": dict(truth.associations),
        "permissions": dict(truth.permissions),
        "free": {subnet_id: truth.free_addresses(subnet_id) for subnet_id in truth.subnets},
    }


@contextmanager
def refused(account: Account, code: str, text: str = "") -> Iterator[None]:
    """The block raises a ClientError with this code, whose text contains `text`, and changes nothing."""
    before = state(account.truth)
    with pytest.raises(ClientError) as caught:
        yield
    error = caught.value.response["Error"]
    assert error["Code"] == code, error
    assert text in error["Message"]
    assert state(account.truth) == before


def check(truth: Truth) -> None:
    """The promises of the truth, recomputed from the records alone."""
    import ipaddress

    for vpc_id in truth.vpcs:
        held: dict[int, str] = {}
        for eni in truth.enis.values():
            if eni.vpc_id != vpc_id:
                continue
            for text in (*eni.addresses, *eni.prefixes, *eni.ipv6_addresses, *eni.ipv6_prefixes):
                block = ipaddress.ip_network(text)
                subnet = truth.subnets[eni.subnet_id]
                whole = subnet.cidr if block.version == 4 else subnet.ipv6_cidr
                assert whole is not None
                assert block.subnet_of(whole)  # type: ignore[arg-type]  # of one version
                first, last = int(block.network_address), int(block.broadcast_address)
                if block.prefixlen in (28, 32):
                    assert first >= int(whole.network_address) + 4
                    assert last < int(whole.broadcast_address)
                    for number in range(first, last + 1):
                        assert number not in held, f"{text} is on {held[number]} and {eni.eni_id}"
                        held[number] = eni.eni_id
                assert truth.holder(str(block.network_address), vpc_id) == eni
        wide = [
            (ipaddress.ip_network(text), eni.eni_id)
            for eni in truth.enis.values()
            if eni.vpc_id == vpc_id
            for text in (*eni.ipv6_addresses, *eni.ipv6_prefixes)
        ]
        for index, (one, _) in enumerate(wide):
            assert not any(one.overlaps(other) for other, _ in wide[index + 1 :])
    for subnet in truth.subnets.values():
        inside = [eni for eni in truth.enis.values() if eni.subnet_id == subnet.subnet_id]
        used = sum(len(eni.addresses) + 16 * len(eni.prefixes) for eni in inside)
        assert truth.free_addresses(subnet.subnet_id) == subnet.cidr.num_addresses - 5 - used >= 0
    for instance in truth.instances.values():
        kind = truth.types.get(instance.instance_type)
        enis = truth.enis_of(instance.instance_id)
        assert {eni.eni_id for eni in enis} == {
            eni.eni_id for eni in truth.enis.values() if eni.instance_id == instance.instance_id
        }
        assert len(enis) <= kind.enis
        for card, most in enumerate(kind.cards):
            assert sum(eni.card == card for eni in enis) <= most
        assert len({(eni.card, eni.device) for eni in enis}) == len(enis)
        for eni in enis:
            assert eni.slots <= kind.ipv4_per_eni
            assert len(eni.ipv6_addresses) + len(eni.ipv6_prefixes) <= kind.ipv6_per_eni
            assert not (eni.prefixes or eni.ipv6_prefixes) or kind.prefixes
            assert eni.zone == instance.zone
        assert not enis or instance.state != "terminated"
    assert len({eni.mac for eni in truth.enis.values()}) == len(truth.enis)
