"""A small threaded HTTP/1.1 server for sockets that are bound already.

The fabric opens listening sockets inside network namespaces (a socket stays in the namespace that it was made in) and
in the file system; the server takes any of them and tells its handler who calls. One thread per connection, keep-alive,
TCP_NODELAY; the standard library's server is not used because its line-wise parsing costs more than an EC2 call here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

MAX_HEAD: Final = 64 << 10
MAX_BODY: Final = 4 << 20
IDLE_SECONDS: Final = 600.0
DEAD_PEER_MS: Final = 10_000  # a reply that a hop limit swallows must not be sent again for a quarter of an hour


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` have lower-case names; `peer` is the caller's address, or `unix`."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. `hops`: the IP hop limit of this and all later packets of the connection.
    `drop`: close without an answer. `hang`: no answer, and the connection stays open until the caller gives up."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    hops: int | None = None
    drop: bool = False
    hang: bool = False


Handler = Callable[[Request], Response]


class BadHttp(Exception):
    """What came is no HTTP/1 request that we take; `status` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(listener: socket.socket, handler: Handler, name: str = "http") -> Server:
    """Serve HTTP on a bound stream socket (TCP or unix) in threads of our own until `close`. Takes the socket over."""
    return Server(listener, handler, name)


class Server:
    """Made by `serve`."""

    def __init__(self, listener: socket.socket, handler: Handler, name: str) -> None:
        listener.settimeout(None)
        listener.listen(128)
        self._listener = listener
        self._handler = handler
        self._name = name
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.last_failure: BaseException | None = None  # of a handler: a fault of ours, answered with 500
        self._thread = threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True)
        self._thread.start()

    @property
    def address(self) -> object:
        """What the listening socket is bound to."""
        return self._listener.getsockname()

    def close(self) -> None:
        """Stop listening and cut all connections. Twice is once."""
        with self._lock:
            self._closed = True
            connections = list(self._open)
        for sock in (self._listener, *connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                if self._closed or self._listener.fileno() < 0:
                    return
                continue  # ECONNABORTED, or out of descriptors for a moment
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._open.add(connection)
            who = str(peer[0]) if isinstance(peer, tuple) and peer else "unix"
            threading.Thread(
                target=self._run, args=(connection, who.removeprefix("::ffff:")), name=self._name, daemon=True
            ).start()

    def _run(self, connection: socket.socket, peer: str) -> None:
        try:
            connection.settimeout(IDLE_SECONDS)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
            self._converse(connection, peer)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _converse(self, connection: socket.socket, peer: str) -> None:
        rest = bytearray()
        while True:
            try:
                taken = _read(connection, rest, peer)
            except BadHttp as damage:
                _send(connection, Response(damage.status, f"{damage}\n".encode()), False, "GET")
                return
            if taken is None:
                return
            request, keep = taken
            try:
                response = self._handler(request)
            except Exception as failure:
                self.last_failure = failure
                response = Response(500, f"{type(failure).__name__}: {failure}\n".encode())
            if response.drop:
                return
            if response.hang:
                while connection.recv(65536):
                    pass
                return
            _send(connection, response, keep, request.method)
            if not keep:
                return


def _read(connection: socket.socket, rest: bytearray, peer: str) -> tuple[Request, bool] | None:
    """The next request and whether the connection stays; None at the end of it. `rest` holds what came too early."""
    while (end := rest.find(b"\r\n\r\n")) < 0:
        if len(rest) > MAX_HEAD:
            raise BadHttp(431, "request head too large")
        more = connection.recv(65536)
        if not more:
            return None
        rest += more
    lines = bytes(rest[:end]).decode("latin-1").split("\r\n")
    del rest[: end + 4]
    first = lines[0].split(" ")
    if len(first) != 3 or first[2] not in ("HTTP/1.1", "HTTP/1.0") or not first[1]:
        raise BadHttp(400, "not an HTTP/1 request")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadHttp(400, "malformed header")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise BadHttp(501, "Transfer-Encoding is not served")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise BadHttp(400, "malformed Content-Length")
    size = int(length)
    if size > MAX_BODY:
        raise BadHttp(413, "body too large")
    if headers.get("expect", "").lower() == "100-continue" and len(rest) < size:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(rest) < size:
        more = connection.recv(65536)
        if not more:
            return None
        rest += more
    body = bytes(rest[:size])
    del rest[:size]
    asked = headers.get("connection", "").lower()
    keep = asked == "keep-alive" if first[2] == "HTTP/1.0" else asked != "close"
    return Request(first[0], first[1], headers, body, peer), keep


def _send(connection: socket.socket, response: Response, keep: bool, method: str) -> None:
    if response.hops is not None and connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, response.hops)
    elif response.hops is not None and connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, response.hops)
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Unknown"
    head = [
        f"HTTP/1.1 {response.status} {phrase}",
        "Server: EC2ws",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        f"Connection: {'keep-alive' if keep else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    body = b"" if method == "HEAD" else response.body
    connection.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
