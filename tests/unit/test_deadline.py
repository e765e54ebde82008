"""Calls and workers that end in time, whatever the other side does. Servers here trickle: no single read is late."""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.manager.jobs import JobOverdue, Jobs, Outcome
from clients import deadline, ec2_http
from clients.clock import SystemClock
from clients.ec2 import Ec2
from clients.ec2_codes import NOT_SENT, outcome_unknown
from clients.imds import Imds
from clients.kube import Kube
from core.errors import Ec2Error, ImdsError, KubeError
from sandbox.world.cluster import kubeconfig
from tests.unit.hand_clock import HandClock

ENDLESS = 60.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 100000\r\n\r\n"


@contextlib.contextmanager
def trickling(first: bytes) -> Iterator[str]:
    """A server that sends `first` and then a space now and then; its URL."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=drip, args=(client,), daemon=True).start()

        def drip(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(first)
                while not over.wait(0.05):
                    client.sendall(b" ")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def settle(jobs: Jobs, until: Callable[[], object], seconds: float = 10.0) -> None:
    """What the main loop does: wait for a job's end, or for the end of patience with one."""
    end = time.monotonic() + seconds
    poll = select.poll()
    poll.register(jobs.fileno(), select.POLLIN)
    while not until():
        assert time.monotonic() < end
        poll.poll(min(jobs.patience, 1.0) * 1000 + 1)
        jobs.settle()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("first", [HEAD, b"HTTP/1.1 200 OK\r\nX: "], ids=["in the body", "in the head"])
def test_an_ec2_call_ends_although_bytes_trickle(first: bytes) -> None:
    with trickling(first) as url:
        ec2 = Ec2("us-west-2", endpoint=url, timeout=0.3, clock=SystemClock())
        caught = in_time(lambda: ec2.instance_enis("i-1"), Ec2Error)
    assert isinstance(caught, Ec2Error)
    assert outcome_unknown(caught)
    assert "cut off after 0.3 s" in caught.cause


def test_a_metadata_request_ends_although_bytes_trickle() -> None:
    with trickling(HEAD) as url:
        imds = Imds(url, 0.2, SystemClock(), random.Random(1))
        caught = in_time(imds.enis, ImdsError)
    assert isinstance(caught, ImdsError)
    assert "cut off" in caught.cause


def in_time(call: Callable[[], object], kind: type[Exception]) -> Exception:
    """The error of a call that must not hang: it runs in a thread that the test gives up after a while."""
    found: list[Exception] = []

    def run() -> None:
        try:
            call()
        except kind as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ENDLESS / 2)
    assert not thread.is_alive(), "the call hangs"
    assert found
    return found[0]


@pytest.mark.usefixtures("keys")
def test_a_worker_that_was_given_up_sends_nothing_any_more() -> None:
    ec2 = Ec2("us-west-2", endpoint="http://127.0.0.1:1", timeout=1)
    lease = deadline.Lease(100)
    with deadline.held(lease):
        assert 99 < deadline.left() <= 100
        lease.end()
        with pytest.raises(Ec2Error) as caught:
            ec2.unassign("eni-1", ["10.0.0.1"])
    assert caught.value.api_code == NOT_SENT
    assert deadline.left() == float("inf")
    assert set(ec2.counts()["UnassignPrivateIpAddresses"]) == {NOT_SENT}


@contextlib.contextmanager
def noting() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers all requests with an error; its URL, and what it has been sent."""
    seen: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("slow", ["credentials", "name"])
@pytest.mark.parametrize("late", ["worker", "call"])
def test_what_is_late_before_it_is_sent_is_not_sent(monkeypatch: pytest.MonkeyPatch, slow: str, late: str) -> None:
    """A token service or a resolver takes its time, and meanwhile nobody counts with the call any more."""
    lease = deadline.Lease(100)

    def too_late() -> None:
        if late == "worker":
            lease.end()
        else:
            ec2_http.current().happened = True

    with noting() as (url, seen):
        ec2 = Ec2("us-west-2", endpoint=url, timeout=50)
        with pytest.raises(Ec2Error) as sent:
            ec2.unassign("eni-1", ["10.0.0.1"])
        assert (len(seen), sent.value.api_code) == (1, "")
        ec2._client.close()
        if slow == "name":
            resolve = socket.getaddrinfo
            monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: (too_late(), resolve(*a, **k))[1])
        else:
            signer = ec2._client._request_signer
            real = signer._credentials
            keys = SimpleNamespace(get_frozen_credentials=lambda: (too_late(), real.get_frozen_credentials())[1])
            monkeypatch.setattr(signer, "_credentials", keys)
        with deadline.held(lease), pytest.raises(Ec2Error) as caught:
            ec2.unassign("eni-1", ["10.0.0.1"])
    assert len(seen) == 1
    assert caught.value.api_code == NOT_SENT


@pytest.mark.usefixtures("keys")
def test_without_a_thread_to_end_it_no_call_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with noting() as (url, seen):
        ec2 = Ec2("us-west-2", endpoint=url, timeout=50)
        imds = Imds(url, 50, HandClock(), random.Random(1))
        config = tmp_path / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(url, "n1")))
        kube = Kube(timeout=50, environ={"KUBECONFIG": str(config)})
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(Ec2Error) as of_ec2:
                ec2.unassign("eni-1", ["10.0.0.1"])
            with pytest.raises(ImdsError) as of_imds:
                imds.enis()
            with pytest.raises(KubeError) as of_kube:
                kube.node("n1")
    assert seen == []
    assert of_ec2.value.api_code == NOT_SENT
    assert "threads" in of_ec2.value.remedy
    for caught in (of_ec2, of_imds, of_kube):
        assert "can't start new thread" in caught.value.cause


def test_a_job_that_hangs_is_written_off_and_its_worker_replaced() -> None:
    jobs, gate = Jobs(1, "test"), threading.Event()
    late: list[float] = []
    ended: list[Outcome] = []

    def hangs() -> None:
        gate.wait(ENDLESS)
        late.append(deadline.left())

    jobs.start(hangs, ended.append, limit_s=0.1)
    jobs.start(lambda: 7, ended.append)
    settle(jobs, lambda: len(ended) == 2)
    assert isinstance(ended[0].error, JobOverdue)
    assert ended[1].value == 7
    # It comes back after all: nobody hears of it, and all that it could have sent it could not.
    gate.set()
    settle(jobs, lambda: late)
    assert late[0] <= 0
    jobs.start(lambda: 8, ended.append)
    settle(jobs, lambda: len(ended) == 3)
    assert ended[2].value == 8
    jobs.close()


def test_whatever_ends_a_job_is_an_outcome() -> None:
    jobs = Jobs(1, "test")
    ended: list[Outcome] = []

    def leaves() -> None:
        raise SystemExit(3)

    jobs.start(leaves, ended.append)
    jobs.start(lambda: 7, ended.append)
    settle(jobs, lambda: len(ended) == 2)
    assert isinstance(ended[0].error, RuntimeError)
    assert ended[1].value == 7
    jobs.close()
