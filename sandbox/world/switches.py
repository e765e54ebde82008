"""Faults by name, as they are set on a running world (`enid sandbox fault NAME VALUE`).

Each name is one switch with a value in words; `off`, or an empty value, clears it. Rules for single EC2 and metadata
calls are JSON, with the fields of `faults.Fault`; `enid sandbox fault --file` loads a script of all of these
(script.py). A value that changes nothing, such as 0 seconds, clears its switch too. A value is read wholly before
anything is changed, so that a script can be checked before it is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import msgspec

from sandbox.base.choices import explained
from sandbox.base.clocks import LONGEST_SECONDS
from sandbox.base.failures import SandboxFailure
from sandbox.ec2 import rules
from sandbox.ec2.api import Api
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds import Imds
from sandbox.ec2.imds_tree import Notice
from sandbox.ec2.truth import Truth
from sandbox.ec2.views import CHANGES, KINDS, Delayed, Lags, Reader
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
    "stop-delay": "seconds that an instance is stopping before it is stopped",
    "start-delay": "seconds that a stopped instance is pending before it runs again",
    "terminate-delay": "seconds that an instance is shutting down before it is terminated",
    "attach-stuck": "how many of the next attachments stay attaching until this is cleared; on: all",
    "detach-stuck": "how many of the next detachments stay detaching until this is cleared; on: all",
    "kube": "hang, away, slow:SECONDS, cut (watches and connections, once) or expire (410 for all watches, once)",
    "kube-rule": f"rule or list of rules in JSON: {', '.join(Rule.__struct_fields__)}",
}
JSON: Final = {"ec2": Fault | list[Fault], "imds-notice": Notice, "kube-rule": Rule | list[Rule]}
ONCE: Final = ("cut", "expire")  # values of kube that are over when they are done
MANY: Final = 1e9
T = TypeVar("T")
Deed = Callable[[], object]


class Switches:
    """What is set now, and how to set it. Without `net` or `server` their switches are refused."""

    def __init__(
        self, truth: Truth, api: Api, imds: Imds, net: Delayed | None = None, server: Server | None = None
    ) -> None:
        self._truth = truth
        self._api = api
        self._imds = imds
        self._lock = threading.Lock()
        self._set: dict[str, str] = {}
        self._known = self._table(net, server)
        # Whether anything is left of what is used up by calls.
        self._left: dict[str, Callable[[], bool]] = {"ec2": lambda: truth.faults.any}
        if server is not None:
            self._left["kube-rule"] = lambda: bool(server.faults.rules())

    def current(self) -> dict[str, str]:
        """Switches that are set, and how often rules for calls have hit, as `hits:ACTION`."""
        hits = {f"hits:{action}": str(count) for action, count in sorted(self._truth.faults.hits.items())}
        with self._lock:
            held = {name: value for name, value in self._set.items() if name not in self._left or self._left[name]()}
        return {**held, **hits}

    def set(self, name: str, value: str) -> None:
        """Raises SandboxFailure bad-request naming the switch, the value and what it takes."""
        deed, clears = self.check(name, value)
        deed()
        with self._lock:
            if clears or (name == "kube" and value in ONCE):
                self._set.pop(name, None)
            else:
                self._set[name] = value
        if self._truth.trace.on:
            self._truth.trace.note("switch", name=name, value=value)

    def check(self, name: str, value: str) -> tuple[Deed, bool]:
        """What `set` will do, which has not been done, and whether that clears the switch. Raises SandboxFailure as
        `set`."""
        self.check_name(name)
        try:
            return self._known[name]("" if value == "off" else value)
        except (ValueError, msgspec.MsgspecError) as error:
            why = explained(error, JSON.get(name, str))
            raise SandboxFailure("bad-request", f"fault {name}={value!r}: {why}; it takes {HELP[name]}") from error

    def check_name(self, name: str) -> None:
        """Whether there is such a switch. Raises SandboxFailure bad-request naming those that there are."""
        if name not in self._known:
            known = ", ".join(sorted(self._known))
            hint = "; it needs a world of `enid sandbox up`" if name in HELP else rules.near(name, self._known)
            raise SandboxFailure("bad-request", f"fault {name!r} is not known here{hint}; there are: {known}")

    def _table(self, net: Delayed | None, server: Server | None) -> dict[str, Callable[[str], tuple[Deed, bool]]]:
        """By name: a value in words (empty: cleared) to what it does and whether it clears. Each raises ValueError for
        a value that is none.

        What is read and what is done with it are apart, so that nothing is half done.
        """
        truth, api, imds = self._truth, self._api, self._imds

        def of(parse: Callable[[str], T], apply: Callable[[T], object]) -> Callable[[str], tuple[Deed, bool]]:
            def read(text: str) -> tuple[Deed, bool]:
                value = parse(text)
                return partial(apply, value), value == parse("")

            return read

        table = {
            "ec2": of(partial(_rules, truth), self._set_rules),
            "throttle": of(_on, lambda on: setattr(api.buckets, "on", on)),
            "latency": of(_on, lambda on: setattr(api.latency, "on", on)),
            "api-lag": of(_lags, partial(self._set_lags, truth.api)),
            "imds-lag": of(_lags, partial(self._set_lags, truth.imds)),
            "imds-stuck": of(_count, self._stick),
            "imds-hide": of(_paths, lambda paths: setattr(imds, "hidden", paths)),
            "imds-notice": of(partial(_notice, truth), imds.notify),
            "attach-delay": of(_seconds, partial(self._delay, "attach")),
            "detach-delay": of(_seconds, partial(self._delay, "detach")),
            "launch-delay": of(_seconds, partial(self._delay, "launch")),
            "stop-delay": of(_seconds, partial(self._delay, "stop")),
            "start-delay": of(_seconds, partial(self._delay, "start")),
            "terminate-delay": of(_seconds, partial(self._delay, "terminate")),
            "attach-stuck": of(_count, partial(self._stuck, "attach")),
            "detach-stuck": of(_count, partial(self._stuck, "detach")),
        }
        if net is not None:
            table["net-lag"] = of(_seconds, lambda seconds: setattr(net, "lag", seconds))
            table["nic-lag"] = of(_seconds, lambda seconds: setattr(net, "nic_lag", seconds))
            table["route-lag"] = of(_seconds, lambda seconds: setattr(net, "route_lag", seconds))
        if server is not None:
            table["kube"] = of(_kube, partial(_set_kube, server))
            table["kube-rule"] = of(_kube_rules, partial(_set_kube_rules, server))
        return table

    def _set_rules(self, found: list[Fault]) -> None:
        if not found:
            self._truth.faults.clear()
        for rule in found:
            self._truth.faults.add(rule)

    def _set_lags(self, reader: Reader, lags: dict[str, float]) -> None:
        with self._truth.lock:
            reader.set_lags(lags)

    def _stick(self, changes: float) -> None:
        with self._truth.lock:
            self._truth.imds.stick(changes)

    def _delay(self, kind: str, seconds: float) -> None:
        setattr(self._truth.delays, kind, seconds)
        if not self._truth.delays.stuck.get(kind):
            self._truth.hasten(kind, seconds)

    def _stuck(self, kind: str, count: float) -> None:
        self._truth.delays.stuck[kind] = count
        if not count:
            self._truth.hasten(kind, getattr(self._truth.delays, kind))


def _set_kube(server: Server, wanted: tuple[str, float]) -> None:
    kind, seconds = wanted
    if kind == "cut":
        server.cut()
    if kind == "expire":
        server.store.expire()
    server.set_fault(hang=kind == "hang", away=kind == "away", slow=seconds)


def _set_kube_rules(server: Server, found: list[Rule]) -> None:
    if not found:
        server.faults.clear()
    for rule in found:
        server.faults.add(rule)


# --- values in words, each by one reader; empty is cleared -----------------------------------------------------------


def _on(text: str) -> bool:
    if text not in ("", "on"):
        raise ValueError("neither on nor off")
    return text == "on"


def _seconds(text: str) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"{text!r} is no number of seconds from 0 to {LONGEST_SECONDS}")
    return seconds


def _count(text: str) -> float:
    if text in ("", "on"):
        return MANY if text else 0
    if not text.isascii() or not text.isdigit():
        raise ValueError("neither on nor off nor a number")
    return int(text)


def _lags(text: str) -> dict[str, float]:
    """`3`, or `eni:new=2,gone=5`: what is not named does not lag. The keys are those of Lags."""
    lags = Lags()
    for part in (one.strip() for one in text.split(",")) if text else ():
        key, sign, value = part.rpartition("=")
        if not value or (sign and not key):
            raise ValueError(f"{part!r} is neither SECONDS nor KIND[:CHANGE]=SECONDS nor CHANGE=SECONDS")
        key = f":{key}" if key in CHANGES else key
        if key in lags.set_:
            raise ValueError(f"{part!r}: that lag is there twice")
        lags.set(key, _seconds(value))
    return lags.set_ if any(lags.set_.values()) else {}


def _paths(text: str) -> tuple[str, ...]:
    return rules.check_paths(part.strip() for part in text.split(",")) if text else ()


def _notice(truth: Truth, text: str) -> Notice:
    notice = msgspec.json.decode(text, type=Notice) if text else Notice()
    rules.check_notice(truth, notice)
    return notice


def _rules(truth: Truth, text: str) -> list[Fault]:
    return rules.parse(truth, text) if text else []


def _kube_rules(text: str) -> list[Rule]:
    if not text:
        return []
    found = msgspec.json.decode(text, type=Rule | list[Rule])
    if not found:
        raise ValueError("an empty list of rules does nothing")
    return found if isinstance(found, list) else [found]


def _kube(text: str) -> tuple[str, float]:
    """What it does, and by how many seconds it is slow."""
    kind, sign, rest = text.partition(":")
    if kind not in ("", "hang", "away", "slow", *ONCE) or (kind == "slow") != bool(sign):
        raise ValueError("it is none of these")
    if kind == "slow" and not rest:
        raise ValueError("slow by how many seconds?")
    return kind, _seconds(rest)
