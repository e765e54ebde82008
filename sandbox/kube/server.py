"""A small Kubernetes API server over HTTP: sockets, connections, requests and answers.

Plain HTTP/1.1 with the paths, verbs, error objects, watches and bookmarks of the real one, so that ordinary
clients (lightkube, kubectl's shape of requests) need no change. A caller says who it is by a bearer token
`node:NAME`; rules and webhooks see it, nothing is denied by it.
"""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
import traceback
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube import errors, routes, verbs
from sandbox.kube.api import Api
from sandbox.kube.errors import KubeError
from sandbox.kube.faults import Call, Faults, Rule
from sandbox.kube.routes import Target
from sandbox.kube.store import Store
from sandbox.kube.streams import Stream

MAX_BODY: Final = 3 << 20
VERSION: Final = {"major": "1", "minor": "33", "gitVersion": "v1.33.0-sandbox", "platform": "linux/amd64"}


class Server:
    """Serves one store on any number of bound sockets, TCP or unix, with a thread per connection."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.api = Api(store)
        self.faults = Faults(store.clock, store.rng)
        self._servers: list[_Http] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.closed = False

    def serve(self, listener: socket.socket) -> None:
        """Take the socket over and serve on it until `close`."""
        listener.listen(128)
        server = _Http(listener, self)
        self._servers.append(server)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="kube-accept", daemon=True
        ).start()

    def close(self) -> None:
        """End all connections and watches."""
        self.closed = True
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self.faults.set(hang=False)
        self.cut()

    def cut(self) -> None:
        """Close every connection there is, watches too; new ones are taken."""
        with self._lock:
            links = list(self._open)
        for link in links:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.store.wake()

    def set_fault(self, *, hang: bool | None = None, away: bool | None = None, slow: float | None = None) -> None:
        """Faults live; going away cuts what is open."""
        self.faults.set(hang=hang, away=away, slow=slow)
        if away:
            self.cut()

    def opened(self, link: socket.socket) -> None:
        with self._lock:
            self._open.add(link)

    def ended(self, link: socket.socket) -> None:
        with self._lock:
            self._open.discard(link)


class _Http(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, owner: Server) -> None:
        super().__init__("", _Handler)
        self.socket = listener
        self.owner = owner

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, str]:
        link, _ = self.socket.accept()
        if link.family != socket.AF_UNIX:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.owner.opened(link)
        return link, "peer"

    def shutdown_request(self, request: Any) -> None:
        self.owner.ended(request)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        request.close()

    def server_close(self) -> None:
        self.socket.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Dropped(Exception):
    """A fault closes the connection."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.owner = self.server.owner

    def log_message(self, *args: object) -> None:
        """Requests are not logged."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        self._warnings: list[str] = []
        try:
            body = self._body()
            if self.owner.faults.away:
                raise _Dropped
            self.owner.faults.pause()
            self._answer(body)
        except _Dropped:
            self.close_connection = True
        except KubeError as error:
            self._send(error.status, error.body(), error.retry_after)
        except OSError:
            raise
        except Exception as error:
            # Objects of a shape that nothing here foresaw; the real server would have checked them by schema.
            traceback.print_exc()
            self._send(500, KubeError(500, "InternalError", f"{type(error).__name__}: {error}").body())

    def _answer(self, body: bytes) -> None:
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/version":
            return self._send(200, VERSION)
        if url.path in ("/healthz", "/readyz", "/livez"):
            return self._raw(200, b"ok", "text/plain", 0)
        accepted = self.headers.get("Accept", "")
        if accepted and not any(
            kind in accepted.replace(";as=", ";") for kind in ("application/json", "*/*", "application/*")
        ):
            raise KubeError(406, "NotAcceptable", "only the following media types are accepted: application/json")
        if accepted.startswith("application/json;as=Partial"):
            raise KubeError(406, "NotAcceptable", f"not simulated: {accepted}")
        target = routes.parse_path(self.owner.store, url.path)
        if not isinstance(target, Target):
            if self.command != "GET":
                raise errors.method_not_allowed()
            return self._send(200, target)
        query = routes.parse_query(url.query)
        verb = target.verb(self.command, query)
        routes.check_query(verb, query)
        user = self._user()
        call = Call(verb, target.resource, target.name, user)
        rule = self._fault(call, "before")
        if verb == "watch":
            return self._watch(Stream(self.owner.store, target, query, rule))
        chosen = verbs.options(query, user, self.headers.get("User-Agent", ""))
        how = self.headers.get("Content-Type", "").partition(";")[0].strip()
        status, thing = verbs.carry_out(self.owner.api, target, verb, query, how, body, chosen)
        self._warnings = chosen.warnings
        self._fault(call, "after")
        return self._send(status, thing)

    def _fault(self, call: Call, when: str) -> Rule | None:
        """The rule that hits, after its delay. Raises _Dropped, KubeError."""
        rule = self.owner.faults.take(call, when)
        if rule is None:
            return None
        self.owner.faults.wait(rule.delay)
        if rule.drop:
            raise _Dropped
        error = rule.error()
        if error is not None and rule.events is None:
            raise error
        return rule

    def _user(self) -> str:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            return "system:anonymous"
        what, _, name = token.partition(":")
        return f"system:node:{name}" if what == "node" else token[:64]

    def _body(self) -> bytes:
        """Raises KubeError 400, 413."""
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            raise KubeError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}")
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(length)) if int(length) else b""
        parts: list[bytes] = []
        try:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
        except ValueError as error:
            self.close_connection = True
            raise errors.bad_request("malformed chunked encoding") from error
        self.rfile.readline()
        return b"".join(parts)

    def _watch(self, stream: Stream) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in stream.events(self._stopped):
            self.owner.faults.pause()
            data = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _stopped(self) -> bool:
        """Also a watch whose client has hung up must end, or its thread would stay for half an hour."""
        if self.owner.faults.away or self.owner.closed:
            return True
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _send(self, status: int, thing: Mapping[str, Any], retry_after: int = 0) -> None:
        self._raw(status, json.dumps(thing).encode(), "application/json", retry_after)

    def _raw(self, status: int, data: bytes, content_type: str, retry_after: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        for warning in self._warnings:
            # RFC 7234, 5.5, in the form of k8s.io/apimachinery pkg/util/net: code, agent, quoted text.
            quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
