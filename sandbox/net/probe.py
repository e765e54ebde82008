"""Real packets between all pairs of pods, seen from inside their namespaces.

One UDP socket is opened in each namespace and stays there; one loop drives them all. A request carries a random
payload; the receiver notes the source address on the wire and echoes to it; the sender compares the echo. Each
socket's own address is read from its namespace, so what is claimed about an address rests on nobody's records.
A request without an echo is sent again, and pairs whose *first* packet stayed lost are counted: a pod that is
called ready before its path works shows up here.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import ProbeFailure, ProbeReport
from sandbox.net import internet, netns

PORT: Final = 39_000
RESEND_SECONDS: Final = 0.5
IN_FLIGHT: Final = 128
HEAD: Final = struct.Struct("!4sHHBB")  # magic, source index, target index, kind, attempt
MAGIC: Final = b"prb1"
REQUEST, ECHO = 0, 1
PAYLOAD: Final = 32


@dataclass
class _End:
    name: str
    link: socket.socket
    address: str


@dataclass
class _Pair:
    source: int
    target: int
    payload: bytes
    attempts: int = 0
    sent_at: float = 0.0
    first_back: bool = False
    done: bool = False
    why: str = ""
    seen: str = ""


@dataclass
class _Run:
    ends: list[_End]
    pairs: dict[tuple[int, int], _Pair] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)


@contextmanager
def _opened(targets: Mapping[str, str], ifname: str) -> Iterator[list[_End]]:
    ends: list[_End] = []

    def open_one() -> tuple[socket.socket, str]:
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            link.bind(("0.0.0.0", PORT))
            return link, netns.address_of(ifname)
        except OSError:
            link.close()
            raise

    try:
        for name, where in targets.items():
            try:
                link, address = netns.call(where, open_one)
            except OSError as error:
                raise SandboxFailure("unknown", f"probe: no usable {ifname} of {name} in {where}: {error}") from error
            ends.append(_End(name, link, address))
        yield ends
    finally:
        for end in ends:
            end.link.close()


def all_pairs(targets: Mapping[str, str], ifname: str = "eth0", timeout: float = 20.0) -> ProbeReport:
    """Echo between each ordered pair. `targets`: name to namespace path. Raises SandboxFailure unknown without address.

    Returns when every pair is done or `timeout` seconds are over, with at least one grace period for late echoes.
    """
    begun = time.monotonic()
    with _opened(targets, ifname) as ends:
        run = _Run(ends, seen={end.name: set() for end in ends})
        for source in range(len(ends)):
            for target in range(len(ends)):
                if source != target:
                    run.pairs[(source, target)] = _Pair(source, target, os.urandom(PAYLOAD))
        _drive(run, begun + timeout)
    failures = [
        ProbeFailure(ends[pair.source].name, ends[pair.target].name, pair.why or "lost", pair.seen)
        for pair in run.pairs.values()
        if pair.why or not pair.done
    ]
    return ProbeReport(
        sent=len(run.pairs),
        ok=len(run.pairs) - len(failures),
        failures=failures,
        first_lost=sum(not pair.first_back for pair in run.pairs.values()),
        seen_source={name: sorted(addresses) for name, addresses in run.seen.items()},
        took_ms=(time.monotonic() - begun) * 1000,
    )


def _drive(run: _Run, deadline: float) -> None:
    # Round by round: pair (i, i+k) for each k, so that no socket gets all its requests in one burst.
    count = len(run.ends)
    waiting = deque(run.pairs[(i, (i + step) % count)] for step in range(1, count) for i in range(count))
    flying: dict[tuple[int, int], _Pair] = {}
    # Pairs that are done but for their first packet, whose echo may only be late.
    late: dict[tuple[int, int], float] = {}
    with selectors.DefaultSelector() as selector:
        for index, end in enumerate(run.ends):
            selector.register(end.link, selectors.EVENT_READ, index)
        while waiting or flying or late:
            now = time.monotonic()
            if now >= deadline:
                return
            while waiting and len(flying) < IN_FLIGHT:
                pair = waiting.popleft()
                flying[(pair.source, pair.target)] = pair
                _send(run, pair, now)
            for pair in flying.values():
                if now - pair.sent_at >= RESEND_SECONDS:
                    _send(run, pair, now)
            for key in [key for key, until in late.items() if now >= until]:
                del late[key]
            for event, _ in selector.select(0.02):
                for pair in _receive(run, event.data):
                    key = (pair.source, pair.target)
                    flying.pop(key, None)
                    if pair.first_back:
                        late.pop(key, None)
                    elif key not in late:
                        late[key] = time.monotonic() + RESEND_SECONDS


def _send(run: _Run, pair: _Pair, now: float) -> None:
    packet = HEAD.pack(MAGIC, pair.source, pair.target, REQUEST, min(pair.attempts, 255)) + pair.payload
    pair.attempts += 1
    pair.sent_at = now
    try:
        run.ends[pair.source].link.sendto(packet, (run.ends[pair.target].address, PORT))
    except OSError as error:
        # No route, a full queue: as good as lost; it is sent again.
        pair.seen = f"send: {error.strerror}"


def _receive(run: _Run, index: int) -> Iterator[_Pair]:
    """Take what is there; requests are echoed, pairs that an echo ends are given back."""
    end = run.ends[index]
    for _ in range(64):
        try:
            packet, (address, port) = end.link.recvfrom(2048)
        except OSError:
            return
        if len(packet) != HEAD.size + PAYLOAD:
            continue
        magic, source, target, kind, attempt = HEAD.unpack_from(packet)
        pair = run.pairs.get((source, target))
        if magic != MAGIC or pair is None:
            continue
        if kind == REQUEST and target == index:
            run.seen[run.ends[source].name].add(address)
            if address != run.ends[source].address:
                pair.why, pair.seen = "wrong-source", address
            echo = HEAD.pack(MAGIC, source, target, ECHO, attempt) + packet[HEAD.size :]
            try:
                end.link.sendto(echo, (address, port))
            except OSError:
                continue
        elif kind == ECHO and source == index:
            if packet[HEAD.size :] != pair.payload:
                pair.why, pair.seen = "wrong-payload", packet[HEAD.size :].hex()
            elif address != run.ends[target].address:
                pair.why, pair.seen = "wrong-source", address
            pair.done = True
            pair.first_back = pair.first_back or attempt == 0
            yield pair


def to_internet(targets: Mapping[str, str], ifname: str = "eth0", timeout: float = 10.0) -> dict[str, str]:
    """For each target the source address with which its packet reached the internet host; empty if none did."""

    def open_host() -> socket.socket:
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.bind((internet.HOST, PORT))
        return link

    seen = dict.fromkeys(targets, "")
    tokens = {os.urandom(PAYLOAD): name for name in targets}
    deadline = time.monotonic() + timeout
    with netns.call(netns.path(internet.NAME), open_host) as host, _opened(targets, ifname) as ends:
        links = {end.name: end.link for end in ends}
        host.settimeout(RESEND_SECONDS)
        while not all(seen.values()) and time.monotonic() < deadline:
            for token, name in tokens.items():
                if not seen[name]:
                    try:
                        links[name].sendto(token, (internet.HOST, PORT))
                    except OSError:
                        continue
            try:
                while not all(seen.values()):
                    packet, (address, _) = host.recvfrom(2048)
                    if packet in tokens:
                        seen[tokens[packet]] = address
            except TimeoutError:
                continue
    return seen
