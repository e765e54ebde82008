"""Faults by name, as they are set on a running world (`enid sandbox fault NAME VALUE`).

Each name is one switch with a value in words; an empty value clears it. Rules for single EC2 and metadata calls
are JSON, with the fields of `faults.Fault`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.api import Api
from sandbox.ec2.faults import Fault
from sandbox.ec2.truth import Truth
from sandbox.ec2.views import Delayed
from sandbox.kube.server import Server

HELP: Final = {
    "ec2": "rule or list of rules in JSON: action, when, error, text, status, delay, drop, body, times, chance, caller",
    "throttle": "on: EC2's request buckets apply",
    "api-lag": "seconds by which Describe calls are late",
    "imds-lag": "seconds by which the metadata is late",
    "net-lag": "seconds by which the network is late",
    "attach-delay": "seconds that an attachment takes",
    "detach-delay": "seconds that a detachment takes",
    "kube": "hang, away, or slow:SECONDS",
}


class Switches:
    """What is set now, and how to set it."""

    def __init__(self, truth: Truth, api: Api, net: Delayed, server: Server) -> None:
        self._truth = truth
        self._api = api
        self._net = net
        self._kube = server
        self._lock = threading.Lock()
        self._set: dict[str, str] = {}

    def current(self) -> dict[str, str]:
        """Switches that are set, and how often rules for calls have hit, as `hits:ACTION`."""
        hits = {f"hits:{action}": str(count) for action, count in sorted(self._truth.faults.hits.items())}
        with self._lock:
            return {**self._set, **hits}

    def set(self, name: str, value: str) -> None:
        """Raises SandboxFailure bad-request naming what is known."""
        setters: dict[str, Callable[[str], None]] = {
            "ec2": self._rules,
            "throttle": self._throttle,
            "api-lag": lambda text: setattr(self._truth.api, "lag", _seconds(text)),
            "imds-lag": lambda text: setattr(self._truth.imds, "lag", _seconds(text)),
            "net-lag": lambda text: setattr(self._net, "lag", _seconds(text)),
            "attach-delay": lambda text: setattr(self._truth.delays, "attach", _seconds(text)),
            "detach-delay": lambda text: setattr(self._truth.delays, "detach", _seconds(text)),
            "kube": self._kubernetes,
        }
        if name not in setters:
            raise SandboxFailure("bad-request", f"fault {name!r} is not known; there are: {', '.join(sorted(setters))}")
        try:
            setters[name](value)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SandboxFailure("bad-request", f"fault {name}={value!r}: {error}; it takes {HELP[name]}") from error
        with self._lock:
            if value:
                self._set[name] = value
            else:
                self._set.pop(name, None)

    def _rules(self, text: str) -> None:
        if not text:
            self._truth.faults.clear()
            return
        rules = msgspec.json.decode(text, type=Fault | list[Fault])
        for rule in rules if isinstance(rules, list) else [rules]:
            self._truth.faults.add(rule)

    def _throttle(self, text: str) -> None:
        if text not in ("", "on"):
            raise ValueError("neither 'on' nor empty")
        self._api.buckets.on = text == "on"

    def _kubernetes(self, text: str) -> None:
        kind, _, rest = text.partition(":")
        if kind not in ("", "hang", "away", "slow"):
            raise ValueError("unknown")
        self._kube.set_fault(hang=kind == "hang", away=kind == "away", slow=_seconds(rest) if kind == "slow" else 0.0)


def _seconds(text: str) -> float:
    seconds = float(text or 0)
    if not 0 <= seconds <= 3600:
        raise ValueError("seconds must be within 0 to 3600")
    return seconds
