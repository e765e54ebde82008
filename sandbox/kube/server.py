"""A small Kubernetes API server over HTTP, for a handful of kinds.

Plain HTTP/1.1 with the paths, verbs, error objects, watches and bookmarks of the real one, so that ordinary
clients (lightkube, kubectl's shape of requests) need no change. A caller says who it is by a bearer token
`node:NAME`; nothing is denied by it yet. Faults: `hang` (takes requests, never answers), `away` (closes every
connection), `slow` (waits before each answer).
"""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.kube import patch as kube_patch
from sandbox.kube.faults import Faults
from sandbox.kube.store import BOOKMARK_SECONDS, Kind, KubeError, Object, Store

DEFAULT_WATCH_SECONDS: Final = 1800.0
MAX_BODY: Final = 3 << 20
VERSION: Final = {"major": "1", "minor": "33", "gitVersion": "v1.33.0-sandbox", "platform": "linux/amd64"}


class Server:
    """Serves one store on any number of bound sockets, TCP or unix, with a thread per connection."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.faults = Faults()
        self._servers: list[_Http] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False

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
        self._closed = True
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


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.owner = self.server.owner
        self.store = self.owner.store

    def log_message(self, *args: object) -> None:
        """Requests are not logged."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.owner.faults.away:
            self.close_connection = True
            return
        self.owner.faults.pause()
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
        try:
            answer = self._route(url.path, query, body)
        except KubeError as error:
            self._send(error.status, _status(error.status, error.reason, error.text))
            return
        except (ValueError, kube_patch.BadPatch) as error:
            self._send(400, _status(400, "BadRequest", str(error)))
            return
        except OSError:
            raise
        except Exception as error:
            # Objects of a shape that nothing here foresaw; the real server would have checked them by schema.
            traceback.print_exc()
            self._send(500, _status(500, "InternalError", f"{type(error).__name__}: {error}"))
            return
        if answer is not None:
            self._send(*answer)

    def _body(self) -> bytes | None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self.close_connection = True
            self._send(413, _status(413, "RequestEntityTooLarge", f"limit is {MAX_BODY}"))
            return None
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length) if length else b""
        parts: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # --- routes ---------------------------------------------------------------------------------------

    def _route(self, path: str, query: Mapping[str, str], body: bytes) -> tuple[int, Object] | None:
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if parts == ["version"]:
            return 200, dict(VERSION)
        if parts[0] in ("healthz", "readyz", "livez"):
            self._raw(200, b"ok", "text/plain")
            return None
        if parts[0] not in ("api", "apis"):
            raise KubeError(404, "NotFound", "the server could not find the requested resource")
        group, rest = ("", parts[1:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[2:])
        if len(rest) < 2:
            return 200, self._discovery(parts[0], group, rest)
        version, rest = rest[0], rest[1:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = self.store.kind(group, version, rest[0])
        name = rest[1] if len(rest) > 1 else ""
        part = rest[2] if len(rest) > 2 else ""
        if len(rest) > 3 or (part and not (part == "status" and kind.has_status)):
            raise KubeError(404, "NotFound", "the server could not find the requested resource")
        if name:
            return self._one(kind, namespace, name, part, query, body)
        return self._many(kind, namespace, query, body)

    def _one(
        self, kind: Kind, namespace: str, name: str, part: str, query: Mapping[str, str], body: bytes
    ) -> tuple[int, Object] | None:
        if self.command == "GET":
            if query.get("watch") in ("1", "true"):
                return self._many(kind, namespace, {**query, "fieldSelector": f"metadata.name={name}"}, body)
            return 200, self.store.get(kind, namespace, name)
        if self.command == "PUT":
            return 200, self.store.update(kind, namespace, name, _decode(body), part)
        if self.command == "PATCH":
            return self._patch(kind, namespace, name, part, _decode_any(body))
        if self.command == "DELETE":
            options = _decode(body) if body else {}
            gone = self.store.delete(kind, namespace, name, (options.get("preconditions") or {}).get("uid", ""))
            if "deletionTimestamp" in gone["metadata"]:
                return 200, gone
            return 200, {
                **_status(200, "", ""),
                "status": "Success",
                "details": {"name": name, "kind": kind.plural, "uid": gone["metadata"]["uid"]},
            }
        raise KubeError(405, "MethodNotAllowed", f"{self.command} is not for one object")

    def _patch(self, kind: Kind, namespace: str, name: str, part: str, patch: Any) -> tuple[int, Object]:
        how = self.headers.get("Content-Type", "").partition(";")[0].strip()
        change: Callable[[Object], Object]
        if how == "application/json-patch+json":
            change = lambda old: _checked(kube_patch.json_patch(old, patch))  # noqa: E731
        elif how in (
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ):
            change = lambda old: _checked(kube_patch.merge(old, patch))  # noqa: E731
        else:
            raise KubeError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {how!r}")
        try:
            return 200, self.store.patch(kind, namespace, name, change, part)
        except KubeError as error:
            if error.status != 404 or how != "application/apply-patch+yaml" or part:
                raise
            return 201, self.store.create(kind, namespace, patch)

    def _many(self, kind: Kind, namespace: str, query: Mapping[str, str], body: bytes) -> tuple[int, Object] | None:
        if self.command == "POST":
            return 201, self.store.create(kind, namespace, _decode(body))
        by_field = kube_patch.field_selector(query.get("fieldSelector", ""))
        by_label = kube_patch.label_selector(query.get("labelSelector", ""))

        def matches(thing: Object) -> bool:
            return by_field(thing) and by_label(thing)

        if self.command == "DELETE":
            items, version = self.store.list(kind, namespace, matches)
            for thing in items:
                self.store.delete(kind, thing["metadata"].get("namespace", ""), thing["metadata"]["name"])
        elif self.command != "GET":
            raise KubeError(405, "MethodNotAllowed", f"{self.command} is not for a list")
        elif query.get("watch") in ("1", "true"):
            self._watch(kind, namespace, matches, query)
            return None
        else:
            items, version = self.store.list(kind, namespace, matches)
        return 200, {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": str(version)},
            "items": items,
        }

    def _watch(self, kind: Kind, namespace: str, matches: Callable[[Object], bool], query: Mapping[str, str]) -> None:
        version = query.get("resourceVersion", "")
        since = int(version) if version not in ("", "0") else None
        until = time.monotonic() + float(query.get("timeoutSeconds") or DEFAULT_WATCH_SECONDS)
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        marked = time.monotonic()
        try:
            seen = self.store.version
            for event in self.store.watch(kind, namespace, matches, since, until, self._stopped):
                if event is not None:
                    self._chunk({"type": event[0], "object": event[1]})
                elif bookmarks and time.monotonic() - marked >= BOOKMARK_SECONDS:
                    marked = time.monotonic()
                    meta = {"resourceVersion": str(seen), "creationTimestamp": None}
                    mark = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
                    self._chunk({"type": "BOOKMARK", "object": mark})
                seen = self.store.version if event is None else int(event[1]["metadata"]["resourceVersion"])
        except KubeError as error:
            self._chunk({"type": "ERROR", "object": _status(error.status, error.reason, error.text)})
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _stopped(self) -> bool:
        """Also a watch whose client has hung up must end, or its thread would stay for half an hour."""
        if self.owner.faults.away:
            return True
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _chunk(self, event: Mapping[str, Any]) -> None:
        self.owner.faults.pause()
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _discovery(self, root: str, group: str, rest: list[str]) -> Object:
        kinds = self.store.kinds()
        if root == "api" and not rest:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if root == "apis" and not group:
            groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
            entries = [
                {"name": name, "versions": [{"groupVersion": f"{name}/{version}", "version": version}]}
                for name, version in groups
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}
        known = [kind for kind in kinds if kind.group == group and (not rest or kind.version == rest[0])]
        if not known:
            raise KubeError(404, "NotFound", "the server could not find the requested resource")
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        resources = [
            {"name": kind.plural, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs}
            for kind in known
        ]
        return {"kind": "APIResourceList", "groupVersion": known[0].api_version, "resources": resources}

    # --- answers --------------------------------------------------------------------------------------

    def _send(self, status: int, thing: Mapping[str, Any]) -> None:
        self._raw(status, json.dumps(thing).encode(), "application/json")

    def _raw(self, status: int, data: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _status(code: int, reason: str, text: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": text,
        "reason": reason,
        "code": code,
    }


def _decode_any(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise KubeError(400, "BadRequest", f"the body is not JSON: {error}") from error


def _checked(thing: Any) -> Object:
    if not isinstance(thing, dict) or not isinstance(thing.get("metadata"), dict):
        raise KubeError(422, "Invalid", "the patch leaves no object with metadata")
    return thing


def _decode(body: bytes) -> Object:
    thing = _decode_any(body)
    if not isinstance(thing, dict) or not isinstance(thing.get("metadata", {}), dict):
        raise KubeError(400, "BadRequest", "the body is not a JSON object, or its metadata is none")
    return thing
