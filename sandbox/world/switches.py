"""Faults by name, as they are set on a running world (`enid sandbox fault NAME VALUE`).

Each name is one switch with a value in words; an empty value clears it. Rules for single EC2 and metadata calls
are JSON, with the fields of `faults.Fault`; `enid sandbox fault --file` loads a script of all of these (script.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.ec2 import rules
from sandbox.ec2.api import Api
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds import Imds
from sandbox.ec2.imds_tree import Notice
from sandbox.ec2.truth import Truth
from sandbox.ec2.views import CHANGES, KINDS, Delayed, Reader
from sandbox.kube.faults import Rule
from sandbox.kube.server import Server

_LAG: Final = f"or by kind and change: eni:new=2,gone=5 (kinds: {', '.join(KINDS.values())}; {', '.join(CHANGES)})"
HELP: Final = {
    "ec2": f"rule or list of rules in JSON: {', '.join(Fault.__struct_fields__)}",
    "throttle": "on: EC2's request buckets apply",
    "latency": "on: EC2's calls take as long as they do in AWS",
    "api-lag": f"seconds by which Describe calls are late, {_LAG}",
    "imds-lag": f"seconds by which the metadata is late, {_LAG}",
    "imds-stuck": "how many changes of addresses the metadata misses until the next one of the same ENI; on: all",
    "imds-hide": "patterns of metadata paths that are not shown, with commas between: meta-data/*/ipv4-prefix",
    "imds-notice": f"what instances are told of their lives, JSON: {', '.join(Notice.__struct_fields__)}",
    "net-lag": "seconds by which the network is late",
    "nic-lag": "seconds that a device takes on top to appear after its attachment",
    "route-lag": "seconds that a device's addresses are not routed after it has appeared",
    "attach-delay": "seconds that an attachment takes",
    "detach-delay": "seconds that a detachment takes",
    "launch-delay": "seconds that a launched instance is pending before it is running",
    "attach-stuck": "how many of the next attachments stay attaching until this is cleared; on: all",
    "detach-stuck": "how many of the next detachments stay detaching until this is cleared; on: all",
    "kube": "hang, away, slow:SECONDS, cut (watches and connections, once) or expire (410 for all watches, once)",
    "kube-rule": "rule or list of rules in JSON: verb, resource, name, user, when, status, text, retry_after, delay, "
    "drop, events, times, chance",
}
MANY: Final = 1e9


class Switches:
    """What is set now, and how to set it. Without `net` or `server` their switches are refused."""

    def __init__(
        self, truth: Truth, api: Api, imds: Imds, net: Delayed | None = None, server: Server | None = None
    ) -> None:
        self._truth = truth
        self._api = api
        self._imds = imds
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
        self.check(name)
        try:
            self._setters()[name](value)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SandboxFailure("bad-request", f"fault {name}={value!r}: {error}; it takes {HELP[name]}") from error
        with self._lock:
            if value:
                self._set[name] = value
            else:
                self._set.pop(name, None)
        if self._truth.trace.on:
            self._truth.trace.note("switch", name=name, value=value)

    def check(self, name: str) -> None:
        """Whether there is such a switch. Raises SandboxFailure bad-request naming those that there are."""
        setters = self._setters()
        if name not in setters:
            raise SandboxFailure("bad-request", f"fault {name!r} is not known; there are: {', '.join(sorted(setters))}")

    def _setters(self) -> dict[str, Callable[[str], None]]:
        truth = self._truth
        setters: dict[str, Callable[[str], None]] = {
            "ec2": self._rules,
            "throttle": self._throttle,
            "latency": self._latency,
            "api-lag": lambda text: self._lag(truth.api, text),
            "imds-lag": lambda text: self._lag(truth.imds, text),
            "imds-stuck": self._stick,
            "imds-hide": self._hide,
            "imds-notice": lambda text: self._imds.notify(msgspec.json.decode(text, type=Notice) if text else Notice()),
            "attach-delay": lambda text: self._delay("attach", text),
            "detach-delay": lambda text: self._delay("detach", text),
            "launch-delay": lambda text: self._delay("launch", text),
            "attach-stuck": lambda text: self._stuck("attach", text),
            "detach-stuck": lambda text: self._stuck("detach", text),
        }
        if (net := self._net) is not None:
            setters["net-lag"] = lambda text: setattr(net, "lag", _seconds(text))
            setters["nic-lag"] = lambda text: setattr(net, "nic_lag", _seconds(text))
            setters["route-lag"] = lambda text: setattr(net, "route_lag", _seconds(text))
        if self._kube is not None:
            setters["kube"] = self._kubernetes
            setters["kube-rule"] = self._kube_rules
        return setters

    def _rules(self, text: str) -> None:
        if not text:
            self._truth.faults.clear()
            return
        for rule in rules.parse(text):
            self._truth.faults.add(rule)

    def _lag(self, reader: Reader, text: str) -> None:
        """`3`, or `eni:new=2,gone=5`: what is not named does not lag."""
        parts = [part.strip().rpartition("=") for part in text.split(",")] if text else []
        wanted = {
            ("" if key == "" else f":{key}" if key in CHANGES else key): _seconds(value) for key, _, value in parts
        }
        with self._truth.lock:
            reader.set_lags(wanted)

    def _stick(self, text: str) -> None:
        with self._truth.lock:
            self._truth.imds.stick(_count(text))

    def _hide(self, text: str) -> None:
        self._imds.hidden = rules.check_paths(part.strip() for part in text.split(",")) if text else ()

    def _delay(self, kind: str, text: str) -> None:
        setattr(self._truth.delays, kind, _seconds(text))
        if not self._truth.delays.stuck.get(kind):
            self._truth.hasten(kind, _seconds(text))

    def _stuck(self, kind: str, text: str) -> None:
        self._truth.delays.stuck[kind] = _count(text)
        if not text:
            self._truth.hasten(kind, getattr(self._truth.delays, kind))

    def _kube_rules(self, text: str) -> None:
        if self._kube is None:
            raise ValueError("there is no Kubernetes here")
        if not text:
            self._kube.faults.clear()
            return
        found = msgspec.json.decode(text, type=Rule | list[Rule])
        for rule in found if isinstance(found, list) else [found]:
            self._kube.faults.add(rule)

    def _throttle(self, text: str) -> None:
        if text not in ("", "on"):
            raise ValueError("neither 'on' nor empty")
        self._api.buckets.on = text == "on"

    def _latency(self, text: str) -> None:
        if text not in ("", "on"):
            raise ValueError("neither 'on' nor empty")
        self._api.latency.on = text == "on"

    def _kubernetes(self, text: str) -> None:
        kind, _, rest = text.partition(":")
        if kind not in ("", "hang", "away", "slow", "cut", "expire"):
            raise ValueError("unknown")
        if self._kube is None:
            raise ValueError("there is no Kubernetes here")
        if kind == "cut":
            self._kube.cut()
        if kind == "expire":
            self._kube.store.expire()
        self._kube.set_fault(hang=kind == "hang", away=kind == "away", slow=_seconds(rest) if kind == "slow" else 0.0)


def _seconds(text: str) -> float:
    seconds = float(text or 0)
    if not 0 <= seconds <= 3600:
        raise ValueError("seconds must be within 0 to 3600")
    return seconds


def _count(text: str) -> float:
    if text in ("", "on"):
        return MANY if text else 0
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ValueError("neither 'on' nor a number from 1")
    return int(text)
