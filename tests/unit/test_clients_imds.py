"""The metadata client against a service that is well, slow to start, forgetful, or talks nonsense."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Iterator

import pytest

from clients.imds import TRIES, Imds, ImdsEni
from core.errors import ImdsError
from tests.unit.hand_clock import HandClock

MAC = "02:00:00:00:00:05"
BELOW = f"meta-data/network/interfaces/macs/{MAC}"
TREE = {
    "dynamic/instance-identity/document": json.dumps({"region": "us-west-2"}),
    "meta-data/mac": MAC,
    "meta-data/placement/availability-zone": "us-west-2a",
    "meta-data/placement/region": "us-west-2",
    "meta-data/instance-id": "i-0123",
    "meta-data/instance-type": "m5.large",
    "meta-data/local-ipv4": "10.0.0.4",
    f"{BELOW}/interface-id": "eni-01",
    f"{BELOW}/subnet-id": "subnet-01",
    f"{BELOW}/vpc-id": "vpc-01",
    f"{BELOW}/subnet-ipv4-cidr-block": "10.0.0.0/18",
    f"{BELOW}/vpc-ipv4-cidr-blocks": "10.1.0.0/16\n10.0.0.0/16",
    f"{BELOW}/security-group-ids": "sg-02\nsg-01",
    f"{BELOW}/local-ipv4s": "10.0.0.4\n10.0.0.9",
    "meta-data/network/interfaces/macs": f"{MAC}/",
}


class Service:
    """IMDSv2 with hand-made answers. `broken`: path to what is sent instead (status, body), `fails`: how often."""

    def __init__(self) -> None:
        self.tree = dict(TREE)
        self.broken: dict[str, tuple[int, bytes]] = {}
        self.fails: dict[str, int] = {}
        self.token = "token-1"
        self.asked: list[str] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self) -> None:
                service.asked.append("PUT token")
                self.answer(*service.broken.get("token", (200, service.token.encode())))

            def do_GET(self) -> None:
                path = self.path.removeprefix("/latest/")
                service.asked.append(path)
                if self.headers.get("X-aws-ec2-metadata-token") != service.token:
                    return self.answer(401, b"")
                if service.fails.get(path, 0) > 0:
                    service.fails[path] -= 1
                    return self.answer(503, b"")
                if path in service.broken:
                    return self.answer(*service.broken[path])
                if path not in service.tree:
                    return self.answer(404, b"")
                return self.answer(200, service.tree[path].encode())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture
def imds(service: Service) -> Imds:
    return Imds(service.url, 5.0, HandClock(), random.Random(1))


def test_identity(imds: Imds, service: Service) -> None:
    found = imds.identity()
    assert (found.region, found.zone, found.instance_id) == ("us-west-2", "us-west-2a", "i-0123")
    assert (found.eni_id, found.subnet_id, found.vpc_id) == ("eni-01", "subnet-01", "vpc-01")
    assert (found.address, found.subnet_cidr, found.mac) == ("10.0.0.4", "10.0.0.0/18", MAC)
    assert service.asked.count("PUT token") == 1
    del service.tree["dynamic/instance-identity/document"]
    assert imds.identity().region == "us-west-2"


def test_lists_are_sorted_and_enis_enumerated(imds: Imds, service: Service) -> None:
    assert imds.vpc_cidrs(MAC) == ("10.0.0.0/16", "10.1.0.0/16")
    assert imds.security_groups(MAC) == ("sg-01", "sg-02")
    assert imds.enis() == (ImdsEni(MAC, "eni-01", ("10.0.0.4", "10.0.0.9")),)
    service.tree["meta-data/network/interfaces/macs"] = f"{MAC}/\n02:00:00:00:00:06/"
    assert len(imds.enis()) == 1


def test_a_token_that_is_forgotten_is_renewed(imds: Imds, service: Service) -> None:
    imds.identity()
    service.token = "token-2"
    assert imds.identity().instance_id == "i-0123"


def test_what_passes_is_waited_for(imds: Imds, service: Service) -> None:
    service.fails["meta-data/instance-id"] = TRIES - 1
    assert imds.identity().instance_id == "i-0123"
    service.fails["meta-data/instance-id"] = TRIES
    with pytest.raises(ImdsError, match="meta-data/instance-id") as caught:
        imds.identity()
    assert "HTTP 503" in caught.value.cause


def test_nobody_there() -> None:
    imds = Imds("http://127.0.0.1:1", 1.0, HandClock(), random.Random(1))
    with pytest.raises(ImdsError) as caught:
        imds.identity()
    assert "127.0.0.1:1" in caught.value.cause


@pytest.mark.parametrize("path", sorted(TREE))
@pytest.mark.parametrize("body", [b"", b" ", b"<html>\xff</html>", b"a b c", b"[]", b"\x00" * 9, b"9" * 5000])
def test_nonsense_is_an_error_that_names_the_key(imds: Imds, service: Service, path: str, body: bytes) -> None:
    service.broken[path] = (200, body)
    refusal = ""
    try:
        identity = imds.identity()
        imds.vpc_cidrs(MAC)
        imds.security_groups(MAC)
        enis = imds.enis()
    except ImdsError as error:
        refusal = f"{error.text} {error.cause}"
    if refusal:
        assert path in refusal
        return
    # What is asked only when another answers 404, and an ENI without addresses, which there may be.
    assert path == "meta-data/placement/region" or (path == f"{BELOW}/local-ipv4s" and not body.strip())
    assert identity.region == "us-west-2"
    assert [len(eni.addresses) for eni in enis] == [2 if path == "meta-data/placement/region" else 0]


def test_a_token_endpoint_that_refuses(imds: Imds, service: Service) -> None:
    service.broken["token"] = (403, b"no")
    with pytest.raises(ImdsError, match="does not answer") as caught:
        imds.identity()
    assert "HTTP 403" in caught.value.cause
