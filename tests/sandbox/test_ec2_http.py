"""The HTTP server under the endpoints, and the faults that stand around calls: what clients really meet."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import botocore.exceptions
import botocore.parsers
import pytest
from botocore.exceptions import ClientError

from sandbox.base import http as server
from sandbox.base.trace import Trace
from sandbox.ec2.api import Api
from sandbox.ec2.faults import Fault, Faults
from tests.sandbox.ec2_kit import Account, HandClock, loopback, make_account, model, refused, signed


@pytest.fixture
def a() -> Account:
    return make_account()


def echo(request: server.Request) -> server.Response:
    if request.target == "/broken":
        raise RuntimeError("on purpose")
    text = f"{request.method} {request.target} {request.headers.get('x-a', '-')} {len(request.body)} {request.peer}"
    return server.Response(body=text.encode())


@pytest.fixture
def echoing() -> Iterator[server.Server]:
    made = server.serve(loopback(), echo)
    yield made
    made.close()


def talk(at: server.Server, data: bytes, replies: int = 1) -> bytes:
    """Send raw bytes, read until that many replies or the end."""
    got = b""
    with contextlib.closing(socket.create_connection(at.address, timeout=10)) as sock:  # type: ignore[arg-type]  # TCP
        sock.sendall(data)
        while got.count(b"HTTP/1.1 ") < replies or not got.endswith((b" 127.0.0.1", b"\n")):
            more = sock.recv(65536)
            if not more:
                break
            got += more
    return got


def test_keep_alive_pipelining_and_bodies_in_pieces(echoing: server.Server) -> None:
    got = talk(echoing, b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nX-A:  b \r\nContent-Length: 3\r\n\r\nabc", 2)
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert b"GET /1 - 0 127.0.0.1" in got
    assert b"POST /2 b 3 127.0.0.1" in got
    with contextlib.closing(socket.create_connection(echoing.address, timeout=10)) as sock:  # type: ignore[arg-type]
        for piece in (b"PUT /x HT", b"TP/1.1\r", b"\nContent-Len", b"gth: 4\r\n\r\n", b"ab", b"cd"):
            sock.sendall(piece)
        assert sock.recv(65536).endswith(b"PUT /x - 4 127.0.0.1")


def test_close_is_honoured(echoing: server.Server) -> None:
    assert b"Connection: close" in talk(echoing, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 9)
    assert b"Connection: close" in talk(echoing, b"GET / HTTP/1.0\r\n\r\n", 9)
    assert b"Connection: keep-alive" in talk(echoing, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / extra HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, 431),
    ],
)
def test_nonsense_is_answered_and_harms_nobody(echoing: server.Server, data: bytes, status: int) -> None:
    assert talk(echoing, data, 9).startswith(b"HTTP/1.1 %d " % status)
    assert b"200 OK" in talk(echoing, b"GET / HTTP/1.1\r\n\r\n")


def test_a_failing_handler_is_an_answer(echoing: server.Server) -> None:
    assert b"HTTP/1.1 500" in talk(echoing, b"GET /broken HTTP/1.1\r\n\r\n")
    assert isinstance(echoing.last_failure, RuntimeError)
    assert b"200 OK" in talk(echoing, b"GET / HTTP/1.1\r\n\r\n")


def test_unix_sockets_are_served(tmp_path: Path) -> None:
    path = str(tmp_path / "ec2.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    made = server.serve(listener, echo)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(path)
        sock.sendall(b"GET /u HTTP/1.1\r\n\r\n")
        assert sock.recv(65536).endswith(b"GET /u - 0 unix")
    made.close()


def test_close_cuts_connections_and_frees_the_port() -> None:
    made = server.serve(loopback(), echo)
    address: Any = made.address
    idle = socket.create_connection(address, timeout=10)
    idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert idle.recv(65536)
    made.close()
    made.close()
    assert idle.recv(1) == b""
    idle.close()
    with pytest.raises(OSError):  # noqa: PT011 refused or reset, by timing
        socket.create_connection(address, timeout=1)


def test_hops_are_set_on_the_connection() -> None:
    """All later packets of the connection leave with it; read from the accepted socket by the handler's own reply."""
    seen: list[int] = []

    class Spy(server.Server):
        def _converse(self, connection: socket.socket, peer: str) -> None:
            super()._converse(connection, peer)
            seen.append(connection.getsockopt(socket.IPPROTO_IP, socket.IP_TTL))

    made = Spy(loopback(), lambda _request: server.Response(hops=3), "spy")
    talk(made, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 9)
    made.close()
    assert seen == [3]


# --- faults -----------------------------------------------------------------------------------------------


def create(a: Account) -> Any:
    return a.ec2.create_network_interface(SubnetId=a.subnet.subnet_id, ClientToken="t")


def test_error_before_leaves_the_truth_alone(a: Account) -> None:
    a.truth.faults.add(Fault("CreateNetworkInterface", error="RequestLimitExceeded", times=2))
    for _ in range(2):
        with refused(a, "RequestLimitExceeded", "Request limit exceeded."):
            create(a)
    create(a)
    assert a.truth.faults.rules() == []
    assert a.truth.faults.hits == {"CreateNetworkInterface": 2}


def test_error_after_has_its_effect(a: Account) -> None:
    a.truth.faults.add(Fault("Create*", when="after", error="InternalError"))
    before = len(a.truth.enis)
    with pytest.raises(ClientError, match="InternalError"):
        create(a)
    assert len(a.truth.enis) == before + 1
    create(a)  # the same ClientToken finds what was made
    assert len(a.truth.enis) == before + 1


def test_lost_answer(a: Account) -> None:
    a.truth.faults.add(Fault("DeleteNetworkInterface", when="after", drop=True))
    eni_id = a.new()
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert eni_id not in a.truth.enis
    with refused(a, "InvalidNetworkInterfaceID.NotFound"):
        a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"<a><b></a>", b"\x00\xff" * 50, b"<a/>"])
def test_nonsense_answers(a: Account, body: bytes) -> None:
    a.truth.faults.add(Fault("DescribeSubnets", body=body, status=500))
    with pytest.raises((ClientError, botocore.parsers.ResponseParserError)):
        a.ec2.describe_subnets()
    assert a.ec2.describe_subnets()["Subnets"]


def test_delays_and_hangs() -> None:
    """The delay goes to the injected sleep, and the answer follows it."""
    a = make_account()
    slept: list[float] = []
    api = Api(a.truth, model=model(), sleep=slept.append)
    a.truth.faults.add(Fault("Describe*", delay=2.5, times=None))
    a.truth.faults.add(Fault("DescribeVpcs", when="after", delay=3600.0, drop=True))
    form = urlencode({"Action": "DescribeVpcs", "Version": "2016-11-15"}).encode()
    assert api.handle(form).drop
    assert api.handle(form).status == 200
    assert slept == [2.5, 3600.0, 2.5]
    assert api.calls == {("DescribeVpcs", "fault"): 1, ("DescribeVpcs", "ok"): 1}


def test_a_hanging_call_holds_nobody_else_up(a: Account) -> None:
    gate = threading.Event()
    made = server.serve(loopback(), Api(a.truth, model=model(), sleep=lambda _seconds: assert_(gate.wait(20))))
    a.truth.faults.add(Fault("DescribeVpcs", delay=1))
    answers: list[int] = []

    def ask(action: str) -> None:
        address: Any = made.address
        host, port = address
        connection = http.client.HTTPConnection(host, port, timeout=20)
        body = urlencode({"Action": action, "Version": "2016-11-15"})
        connection.request("POST", "/", body, signed(f"http://{host}:{port}/", body))
        answers.append(connection.getresponse().status)
        connection.close()

    hanging = threading.Thread(target=ask, args=("DescribeVpcs",))
    hanging.start()
    ask("DescribeSubnets")
    assert answers == [200]
    gate.set()
    hanging.join()
    assert answers == [200, 200]
    made.close()


def assert_(value: bool) -> None:
    assert value


def test_rules_pick_their_callers_and_chances() -> None:
    clock = HandClock()
    faults = Faults(clock, random.Random(5), Trace(clock))
    faults.add(Fault("*", caller="i-1", error="InternalError", times=None))
    assert faults.hit("DescribeVpcs", "before", ("i-2", "10.0.0.9")) is None
    assert faults.hit("DescribeVpcs", "after", ("i-1", "10.0.0.4")) is None
    assert faults.hit("DescribeVpcs", "before", ("i-1", "10.0.0.4")) is not None
    faults.clear()
    assert faults.hit("DescribeVpcs", "before", ("i-1",)) is None
    faults.add(Fault("*", error="InternalError", times=None, chance=0.5))
    hits = sum(faults.hit("DescribeVpcs", "before") is not None for _ in range(1000))
    assert 400 < hits < 600


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault(),
        lambda: Fault(when="during", error="x"),  # type: ignore[arg-type]  # on purpose
        lambda: Fault(error="x", chance=2),
        lambda: Fault(error="x", times=0),
        lambda: Fault(delay=-1),
    ],
)
def test_impossible_rules(make: Callable[[], Fault]) -> None:
    with pytest.raises(ValueError, match="fault"):
        make()
