"""The EC2 endpoint: from an HTTP request to the truth and back.

The order of checks is AWS's as far as it shows: the action exists, the caller is throttled, the request parses, the
caller may, DryRun, then the action's own rules. Fault rules stand around all of it, so that a call can be hit before
it has an effect or lose its answer afterwards.
"""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from sandbox.base.http import Request, Response
from sandbox.base.trace import digest
from sandbox.ec2 import errors, ids
from sandbox.ec2.account.buckets import Buckets
from sandbox.ec2.account.iam import Iam, Role
from sandbox.ec2.account.latency import Latency
from sandbox.ec2.actions import addresses, enis, groups, instances, life, network, tags, trunks, vpcs
from sandbox.ec2.actions.registry import ACTIONS, Call, Tokens
from sandbox.ec2.codec import SIGNATURE_KEYS, Form, Model, error_answer, form_of
from sandbox.ec2.faults import When
from sandbox.ec2.interference import Interference
from sandbox.ec2.truth import Truth

SUBJECTS = (
    addresses,
    enis,
    groups,
    instances,
    life,
    network,
    tags,
    trunks,
    vpcs,
)
XML = "text/xml;charset=UTF-8"
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
Authorise = Callable[[str, str], bool]


def actions() -> list[str]:
    """The names of all actions that are simulated."""
    return sorted(ACTIONS)


class Api:
    """A handler for `http.serve`.

    `authorise(action, caller)` may refuse a call (UnauthorizedOperation); the caller is an instance id, or the peer's
    address where no instance has it. `iam` knows the keys that sign and what their roles may. `buckets` throttles if
    it is on, `latency` makes calls take their time if it is on. `calls` counts calls by action and outcome (`ok` or
    the error code). `sleep` carries out latencies, and delays of fault rules, which `interference` brings about.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        authorise: Authorise | None = None,
        buckets: Buckets | None = None,
        sleep: Callable[[float], None] = time.sleep,
        model: Model | None = None,
    ) -> None:
        self.truth = truth
        self.authorise = authorise
        self.buckets = buckets if buckets is not None else Buckets(truth.clock)
        self.iam = Iam(truth)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.called: Callable[[str], None] | None = None  # told of each action that has ended
        self.interference = Interference(truth, sleep)
        self._model = model if model is not None else Model.load()
        self._tokens = Tokens()
        self._once = threading.Lock()
        self._count = threading.Lock()
        self._ids = random.Random(truth.rng.getrandbits(64))
        self._pause = sleep
        self.latency = Latency(random.Random(truth.rng.getrandbits(64)))

    def __call__(self, request: Request) -> Response:
        """A request over HTTP: it must be signed."""
        query = urlsplit(request.target).query.encode() if request.method == "GET" else request.body
        return self.handle(query, request.peer, request)

    def unsigned(self, request: Request) -> Response:
        """A request of the account's owner over a channel that is nobody else's."""
        query = urlsplit(request.target).query.encode() if request.method == "GET" else request.body
        return self.handle(query, request.peer)

    def handle(self, body: bytes, peer: str = "-", request: Request | None = None) -> Response:
        """Answer one request given as a form; without `request` unsigned and in the name of the root user, which is
        the way in without a socket."""
        action, response = self._answer(body, peer, request)
        if self.truth.trace.on:
            self._trace(body, peer, response)
        if self.called is not None:
            self.called(action)
        return response

    def _answer(self, body: bytes, peer: str, request: Request | None) -> tuple[str, Response]:
        request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        action = "-"
        try:
            form = form_of(body)
            action = next((value for key, value in form if key == "Action"), "")
            response = self._faulty(action, form, peer, "before", request_id)
            if response is not None:
                self._counted(action, "fault")
                return action, response
            role = self.iam.authenticate(request) if request is not None else None
            if (seconds := self.latency.of(action)) > 0:
                self._pause(seconds)
            self.truth.tick()
            answer = self.run(action, form, peer, request_id, role)
            response = self._faulty(action, form, peer, "after", request_id)
            if response is not None:
                self._counted(action, "fault")
                return action, response
        except errors.Ec2Error as error:
            self._counted(action, error.code)
            return action, Response(error.status, error_answer(error, request_id), XML)
        except Exception as failure:
            self._counted(action, "InternalError")
            told = errors.Ec2Error("InternalError", f"{type(failure).__name__}: {failure}", 500, "fault of ours")
            return action, Response(500, error_answer(told, request_id), XML)
        self._counted(action, "ok")
        return action, Response(200, answer, XML)

    def run(self, action: str, form: Form, peer: str, request_id: str, role: Role | None = None) -> bytes:
        """The XML of the answer. `role`: who calls; None: the root user. Raises Ec2Error."""
        if not action:
            raise errors.MISSING_ACTION()
        known = ACTIONS.get(action)
        if known is None:
            if action in self._model.others:
                raise errors.NOT_SIMULATED(what=f"action {action}")
            raise errors.INVALID_ACTION(action=action)
        version = next((value for key, value in form if key == "Version"), self._model.version)
        if version != self._model.version:
            raise errors.NOT_SIMULATED(what=f"API version {version} (only {self._model.version})")
        if not self.buckets.take(action, form):
            raise errors.THROTTLED()
        if self.authorise is not None and not self.authorise(action, self._callers(peer)[0]):
            raise errors.UNAUTHORIZED(detail="")
        members = self._model.parse(action, form, known.members)
        ids.check(members)
        if role is not None:
            self.iam.authorise(role, action, members)
        if not self.buckets.take_resources(action, members):
            raise errors.THROTTLED()
        if members.get("DryRun"):
            raise errors.DRY_RUN()
        call = Call(self.truth, action, members, peer, self._tokens)
        if members.get("ClientToken"):
            with self._once:
                result = known.run(call)
        else:
            result = known.run(call)
        return self._model.answer(action, result, request_id)

    def _callers(self, peer: str) -> tuple[str, ...]:
        instance = self.truth.caller(peer)
        return (instance.instance_id, peer) if instance else (peer,)

    def _faulty(self, action: str, form: Form, peer: str, when: When, request_id: str) -> Response | None:
        """The answer that a fault rule makes instead of the right one, if any."""
        if not self.truth.faults.any:
            return None
        named = next((value for key, value in form if key == "NetworkInterfaceId"), "")
        return self.interference.at(when, action, peer, lambda error: error_answer(error, request_id), XML, named)

    def _trace(self, body: bytes, peer: str, response: Response) -> None:
        """One line for the call, after those of what it brought about."""
        try:
            form = form_of(body)
        except errors.Ec2Error:
            form = []
        members = {key: value for key, value in form if key not in SIGNATURE_KEYS and not key.startswith("X-Amz-")}
        stand_ins = {}
        if token := members.get("ClientToken"):
            members["ClientToken"] = stand_ins[token] = self.truth.trace.stand_in(token)
        code = _CODE.search(response.body)
        outcome = "no answer" if response.drop or response.hang else code[1].decode() if code else "ok"
        self.truth.trace.note(
            "ec2",
            action=next((value for key, value in form if key == "Action"), "-"),
            members=members,
            peer=peer,
            status=response.status,
            outcome=outcome,
            answer=digest(response.body, stand_ins),
        )

    def _counted(self, action: str, outcome: str) -> None:
        with self._count:
            self.calls[action if action in ACTIONS else "-", outcome] += 1
