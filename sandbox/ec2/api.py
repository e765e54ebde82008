"""The EC2 endpoint: from an HTTP request to the truth and back.

The order of checks is AWS's as far as it shows: the action exists, the caller is throttled, the request parses, the
caller may, DryRun, then the action's own rules. Fault rules stand around all of it, so that a call can be hit before
it has an effect or lose its answer afterwards.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from sandbox.base.http import Request, Response
from sandbox.ec2 import actions_addresses, actions_enis, actions_instances, actions_network, errors
from sandbox.ec2.actions import ACTIONS, Call, Tokens
from sandbox.ec2.buckets import Buckets
from sandbox.ec2.codec import Form, Model, error_answer, form_of
from sandbox.ec2.faults import Fault, When
from sandbox.ec2.truth import Truth

SUBJECTS = (actions_addresses, actions_enis, actions_instances, actions_network)
XML = "text/xml;charset=UTF-8"
Authorise = Callable[[str, str], bool]


def actions() -> list[str]:
    """The names of all actions that are simulated."""
    return sorted(ACTIONS)


class Api:
    """A handler for `http.serve`.

    `authorise(action, caller)` may refuse a call (UnauthorizedOperation); the caller is an instance id, or the peer's
    address where no instance has it. `buckets` throttles if it is on. `calls` counts calls by action and outcome
    (`ok` or the error code). `sleep` carries out delays of fault rules.
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
        self.calls: Counter[tuple[str, str]] = Counter()
        self._sleep = sleep
        self._model = model if model is not None else Model.load()
        self._tokens = Tokens()
        self._once = threading.Lock()
        self._count = threading.Lock()
        self._ids = random.Random(truth.rng.getrandbits(64))

    def __call__(self, request: Request) -> Response:
        query = urlsplit(request.target).query.encode() if request.method == "GET" else request.body
        return self.handle(query, request.peer)

    def handle(self, body: bytes, peer: str = "-") -> Response:
        """Answer one request given as a form; this is also the way in without a socket."""
        request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        action = "-"
        try:
            form = form_of(body)
            action = next((value for key, value in form if key == "Action"), "")
            response = self._faulty(action, peer, "before", request_id)
            if response is not None:
                self._counted(action, "fault")
                return response
            self.truth.tick()
            answer = self.run(action, form, peer, request_id)
            response = self._faulty(action, peer, "after", request_id)
            if response is not None:
                self._counted(action, "fault")
                return response
        except errors.Ec2Error as error:
            self._counted(action, error.code)
            return Response(error.status, error_answer(error, request_id), XML)
        except Exception as failure:
            self._counted(action, "InternalError")
            told = errors.Ec2Error("InternalError", f"{type(failure).__name__}: {failure}", 500, "fault of ours")
            return Response(500, error_answer(told, request_id), XML)
        self._counted(action, "ok")
        return Response(200, answer, XML)

    def run(self, action: str, form: Form, peer: str, request_id: str) -> bytes:
        """The XML of the answer. Raises Ec2Error."""
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
            raise errors.UNAUTHORIZED()
        members = self._model.parse(action, form, known.members)
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

    def _faulty(self, action: str, peer: str, when: When, request_id: str) -> Response | None:
        """The answer that a fault rule makes instead of the right one, if any."""
        if not self.truth.faults.rules():
            return None
        fault = self.truth.faults.hit(action, when, self._callers(peer))
        return apply_fault(fault, self._sleep, lambda error: error_answer(error, request_id), XML) if fault else None

    def _counted(self, action: str, outcome: str) -> None:
        with self._count:
            self.calls[action if action in ACTIONS else "-", outcome] += 1


def apply_fault(
    fault: Fault, sleep: Callable[[float], None], tell: Callable[[errors.Ec2Error], bytes], content_type: str
) -> Response | None:
    """Carry a fault out: wait, then the answer that it gives, or None if waiting was all."""
    if fault.delay:
        sleep(fault.delay)
    if fault.drop:
        return Response(drop=True)
    if fault.body is not None:
        return Response(fault.status or 200, fault.body, content_type)
    if fault.error:
        error = fault.make_error()
        return Response(error.status, tell(error), content_type)
    return None
