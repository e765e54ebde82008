"""Fault rules carried out: what EC2's and the metadata's servers ask before and after each call.

The rules say what is to happen (`faults`); here it happens: somebody else's change, waiting, the death of the calling
process, and the answer that takes the place of the right one.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from sandbox.base.http import Response
from sandbox.ec2 import errors, foreign
from sandbox.ec2.faults import Fault, When
from sandbox.ec2.truth import Truth

Tell = Callable[[errors.Ec2Error], bytes]


def nobody_dies(instance_id: str, process: str) -> None:
    """What `crash` does where no processes are simulated: the call has no answer, and that is all."""


class Interference:
    """`sleep` carries out delays; `kill(instance_id, process)` the deaths of processes, and may be set later."""

    def __init__(self, truth: Truth, sleep: Callable[[float], None]) -> None:
        self.kill: Callable[[str, str], None] = nobody_dies
        self._truth = truth
        self._sleep = sleep
        self._rng = random.Random(truth.faults.seed())

    def at(self, when: When, action: str, peer: str, tell: Tell, content_type: str, named: str = "") -> Response | None:
        """The answer that a rule gives at this point of a call; None if the call goes on. `named`: the call's ENI."""
        if not self._truth.faults.any:
            return None
        instance = self._truth.caller(peer)
        callers = (instance.instance_id, instance.tags.get("Name", ""), peer) if instance else (peer,)
        fault = self._truth.faults.hit(action, when, callers)
        if fault is None:
            return None
        if fault.change is not None:
            foreign.apply(self._truth, fault.change, self._rng, named)
        if fault.delay:
            self._sleep(fault.delay)
        if fault.does == "crash":
            self.kill(instance.instance_id if instance else "", fault.crash)
        return _answer(fault, tell, content_type)


def _answer(fault: Fault, tell: Tell, content_type: str) -> Response | None:
    if fault.does in ("drop", "crash"):
        return Response(drop=True)
    if fault.does == "hang":
        return Response(hang=True)
    if fault.body is not None and fault.does == "body":
        return Response(fault.status or 200, fault.body, content_type)
    if fault.does == "error":
        error = fault.make_error()
        return Response(error.status, tell(error), content_type)
    return None
