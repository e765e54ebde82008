"""Request token buckets: how EC2 throttles an account, per action.

Off until switched on. The figures are data: those that AWS publishes for classes of actions and for single ones,
each with its source. One simulated world is one account in one region, so there is one bucket per action.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sandbox.ec2.codec import Form
from sandbox.ec2.views import Clock


@dataclass(slots=True)
class _Bucket:
    size: float
    refill: float  # tokens per second
    tokens: float
    at: float

    def fill(self, now: float) -> None:
        """Add what has come since the last time."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.refill)
        self.at = now


class Buckets:
    """`on` switches throttling; what was refused is counted in `Api.calls`."""

    def __init__(self, clock: Clock, rates: dict[str, Any] | None = None) -> None:
        self.on = False
        self._clock = clock
        self._rates = rates
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def set_rate(self, action: str, size: float, refill: float) -> None:
        """Give one action a bucket of its own: `size` tokens, `refill` per second."""
        if size <= 0 or refill < 0:
            raise ValueError(f"bucket of {action}: size={size} must be above 0, refill={refill} not below")
        with self._lock:
            self._buckets[action] = _Bucket(size, refill, size, self._clock.now())

    def take(self, action: str, form: Form) -> bool:
        """Take one token; False if there is none: the call is to be refused."""
        if not self.on:
            return True
        with self._lock:
            now = self._clock.now()
            bucket = self._buckets.get(self._name(action, form)) or self._make(self._name(action, form), now)
            bucket.fill(now)
            if bucket.tokens < 1:
                return False
            bucket.tokens -= 1
            return True

    def take_resources(self, action: str, members: Mapping[str, Any]) -> bool:
        """Take as many resource tokens as instances are asked for (EC2 guide, "Resource rate limiting")."""
        if not self.on or action not in self._data()["resources"]:
            return True
        wanted = len(members.get("InstanceIds", ())) or members.get("MaxCount", 1)
        with self._lock:
            now = self._clock.now()
            rate = self._data()["resources"][action]
            name = f"{action} resources"
            if name not in self._buckets:
                self._buckets[name] = _Bucket(rate["size"], rate["refill"], rate["size"], now)
            bucket = self._buckets[name]
            bucket.fill(now)
            if bucket.tokens < wanted:
                return False
            bucket.tokens -= wanted
            return True

    def _data(self) -> dict[str, Any]:
        if self._rates is None:
            self._rates = json.loads((resources.files("sandbox.ec2") / "data" / "buckets.json").read_text())
        return self._rates

    def _name(self, action: str, form: Form) -> str:
        if action in self._buckets or not action.startswith("Describe"):
            return action
        # The lists of a Describe call are filters, ids and names: all of them narrow it down.
        narrow = any(key == "MaxResults" or re.search(r"\.\d+(\.|$)", key) for key, _ in form)
        return action if narrow else f"{action} unfiltered"

    def _make(self, name: str, now: float) -> _Bucket:
        rates = self._data()
        action = name.removesuffix(" unfiltered")
        if not action.startswith(("Describe", "Get")):
            kind = "mutating"
        else:
            kind = "describe" if name == action else "describe_unfiltered"
        rate = rates["actions"].get(action) or rates["classes"][kind]
        made = self._buckets[name] = _Bucket(rate["size"], rate["refill"], rate["size"], now)
        return made
