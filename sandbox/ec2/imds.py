"""The instance metadata service, version 2: session tokens and the tree below /latest.

A node's programs take their own identity and ENIs from here, so the tree (`imds_tree`) is complete for ENIs, and it
is a view of its own: it may lag behind the API, be stuck, show only a part, or be made to fail by rule. The caller is
known by its source address, as AWS knows it by the network card. The hop limit is a property of packets: the answer
that carries a token leaves with that IP TTL, and so does everything after it on the connection, or a retransmission
would get through.

Sources: EC2 user guide, "Use the Instance Metadata Service to access instance metadata" (tokens, their lifetime, 400
for a PUT that is not valid, 401 for a missing, unknown or expired token, 403 for a service that is switched off or a
PUT that bears X-Forwarded-For, 404 for what is not there) and "Configure the Instance Metadata options" (hop limit).
The guide says that queries are throttled per instance, but neither from which rate on nor with which status: a fault
rule plays that (`imds:GET *`, status 429 or 503). The limit of packets to link-local addresses is the network's.
"""

from __future__ import annotations

import fnmatch
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from sandbox.base.http import Request, Response
from sandbox.base.trace import digest
from sandbox.ec2 import imds_tree
from sandbox.ec2.faults import When
from sandbox.ec2.imds_tree import ANY_MAC, MAC, PATHS, Notice, Told
from sandbox.ec2.interference import Interference
from sandbox.ec2.records import Instance
from sandbox.ec2.truth import Truth

TTL_HEADER: Final = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "x-aws-ec2-metadata-token"
TOKEN_PATH: Final = "/latest/api/token"
MOST_SECONDS: Final = 21_600  # EC2 guide: six hours
METHODS: Final = ("GET", "HEAD", "PUT")


@dataclass(frozen=True, slots=True)
class _Token:
    instance_id: str
    until: float


class Imds:
    """A handler for `http.serve`. `vpc_id` narrows down whose addresses callers have, if VPCs overlap.

    Fault rules see requests as actions named `imds:METHOD /path`. `hidden` are patterns of paths below /latest that
    are not shown to anybody: metadata that is there in part only.
    """

    def __init__(self, truth: Truth, *, vpc_id: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.truth = truth
        self.called: Callable[[str], None] | None = None  # told of each request that has ended
        self.interference = Interference(truth, sleep)
        self.hidden: tuple[str, ...] = ()
        self._vpc_id = vpc_id
        self._rng = random.Random(truth.rng.getrandbits(64))
        self._tokens: dict[str, _Token] = {}
        self._told: list[Told] = []

    def __call__(self, request: Request) -> Response:
        return self.answer(request, self._vpc_id)

    def answer(self, request: Request, vpc_id: str | None) -> Response:
        """One request whose caller has an address of this VPC; None: of any."""
        path = unquote(urlsplit(request.target).path)
        action = f"imds:{request.method} {path}"
        response = self._faulty("before", action, request.peer)
        if response is None:
            self.truth.tick()
            instance = self.truth.caller(request.peer, vpc_id)
            answer = self._answer(request, path, instance)
            response = self._faulty("after", action, request.peer) or answer
        if self.truth.trace.on:
            outcome = "no answer" if response.drop or response.hang else str(response.status)
            self.truth.trace.note(
                "imds", action=action, peer=request.peer, outcome=outcome, answer=digest(response.body)
            )
        if self.called is not None:
            self.called(action)
        return response

    def notify(self, notice: Notice) -> None:
        """Tell instances of their own lives; the last notice that fits an instance holds."""
        with self.truth.lock:
            self._told.append(Told(notice, self.truth.clock.now()))

    def told(self, instance: Instance) -> Told | None:
        """The notice that holds for an instance."""
        names = (instance.instance_id, instance.tags.get("Name", ""))
        for told in reversed(self._told):
            if any(fnmatch.fnmatchcase(name, told.notice.instance) for name in names):
                return told
        return None

    def _faulty(self, when: When, action: str, peer: str) -> Response | None:
        return self.interference.at(when, action, peer, lambda error: error.text.encode(), "text/plain")

    def _answer(self, request: Request, path: str, instance: Instance | None) -> Response:
        if instance is None:
            return _refused(404)
        told = self.told(instance)
        if not instance.metadata_on or (told is not None and not told.notice.endpoint):
            return _refused(403)
        if path == TOKEN_PATH:
            return self._make_token(request, instance)
        if request.method not in ("GET", "HEAD"):
            return _refused(405)
        token = request.headers.get(TOKEN_HEADER)
        if token is None and instance.tokens_required:
            return _refused(401)
        if token is not None:
            known = self._tokens.get(token)
            if known is None or known.instance_id != instance.instance_id or known.until <= self.truth.clock.now():
                return _refused(401)
        with self.truth.lock:
            text = imds_tree.find(imds_tree.build(self.truth, instance, told), path, self._is_hidden)
        if text is None:
            return _refused(404)
        kind = "application/json" if text.startswith("{") else "text/plain"
        return Response(200, text.encode(), kind)

    def _is_hidden(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.hidden)

    def _make_token(self, request: Request, instance: Instance) -> Response:
        """PUT with a lifetime of 1 to 21,600 s; none for requests that came through a proxy."""
        if request.method != "PUT":
            return _refused(405)
        if "x-forwarded-for" in request.headers:
            return _refused(403)
        seconds = request.headers.get(TTL_HEADER, "")
        if not seconds.isascii() or not seconds.isdigit() or not 1 <= int(seconds[:9]) <= MOST_SECONDS:
            return _refused(400)
        now = self.truth.clock.now()
        token = f"{self._rng.getrandbits(320):080x}=="
        with self.truth.lock:
            if len(self._tokens) > 4096:
                self._tokens = {text: known for text, known in self._tokens.items() if known.until > now}
            self._tokens[token] = _Token(instance.instance_id, now + int(seconds))
        return Response(200, token.encode(), headers={TTL_HEADER: seconds}, hops=instance.hop_limit)


def modelled(pattern: str) -> bool:
    """Whether a pattern of paths (below /latest/, as in `Imds.hidden`) fits any that there is."""
    return any(fnmatch.fnmatchcase(example, pattern) for example in examples(pattern))


def examples(pattern: str = "") -> list[str]:
    """All paths below /latest/, folders too, with the MAC and the tag key of `pattern` if it names one."""
    found = ANY_MAC.search(pattern)
    mac = found[0] if found else "02:00:00:00:00:01"
    key = pattern.partition("/tags/instance/")[2] or "Name"
    leaves = [path.replace(MAC, mac).replace("{key}", key) for path in PATHS]
    return sorted({"/".join(leaf.split("/")[:depth]) for leaf in leaves for depth in range(1, leaf.count("/") + 2)})


def _refused(status: int) -> Response:
    """The page that the service answers with."""
    title = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Not Allowed"}[status]
    return Response(status, _PAGE.format(title=f"{status} - {title}").encode(), "text/html")


_PAGE: Final = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{title}</title>
 </head>
 <body>
  <h1>{title}</h1>
 </body>
</html>
"""
