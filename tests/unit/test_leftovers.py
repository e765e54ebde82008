"""What the existing system left in iptables: which rules go, what looking at the others costs, and when it is done."""

from __future__ import annotations

import random
import shlex
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.manager import clearance
from agent.manager.clearance import Clearance
from agent.manager.jobs import Jobs
from agent.manager.report import Account
from agent.manager.tools import Tools
from core import leftovers
from tests.unit.hand_clock import HandClock
from tests.unit.test_deadline import settle

SAVED = """*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i ens5 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL -j CONNMARK --set-mark 0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark
-A PREROUTING -m comment --comment "AWS, primary ENI" -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:AWS-SNAT-CHAIN-0 - [0:0]
:KUBE-SVC-1 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A POSTROUTING -m comment --comment "of an administrator of AWS" -j MASQUERADE
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -j SNAT --to-source 10.0.0.4
-A KUBE-SVC-1 -m comment --comment "default/web" -j KUBE-SEP-1
COMMIT
"""


def test_their_rules_and_chains_go_and_all_others_stay() -> None:
    gone = leftovers.removal(SAVED).splitlines()
    assert [line[:20] for line in gone] == [
        "*mangle",
        "-D PREROUTING -i ens",
        "-D PREROUTING -i eni",
        "COMMIT",
        "*nat",
        "-D POSTROUTING -m co",
        "-F AWS-SNAT-CHAIN-0",
        "-X AWS-SNAT-CHAIN-0",
        "COMMIT",
    ]
    assert leftovers.removal("*nat\n-A KUBE-SVC-1 -j KUBE-SEP-1\nCOMMIT\n") == ""


def test_rules_of_others_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of many services has fifty thousand, and the interpreter does nothing else meanwhile."""
    split, taken_apart = shlex.split, list[str]()
    monkeypatch.setattr(shlex, "split", lambda text: (taken_apart.append(text), split(text))[1])
    leftovers.removal(SAVED)
    alone = len(taken_apart)
    others = '-A KUBE-SVC-1 -m comment --comment "default/web" -j KUBE-SEP-1\n' * 500
    taken_apart.clear()
    leftovers.removal(SAVED.replace("COMMIT", f"{others}COMMIT"))
    assert len(taken_apart) == alone


def test_the_clearance_waits_for_a_node_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares its worker with the set-up of ENIs, for which pods may be waiting."""
    cleared: list[str] = []
    monkeypatch.setattr(clearance, "clear", lambda *_: (cleared.append("nat"), ["nat: 3 rules"])[1])
    jobs, clock, serves = Jobs(1, "test"), HandClock(), [False]
    tools = SimpleNamespace(clock=clock, rng=random.Random(1), hosts=jobs, account=Account())
    duty = Clearance(cast(Tools, cast(Any, tools)), lambda: serves[0])
    duty.tick()
    assert duty.next_at == float("inf")
    settled = [False]
    jobs.start(lambda: None, lambda _: settled.__setitem__(0, True))
    settle(jobs, lambda: settled[0])
    assert cleared == []
    serves[0] = True
    assert duty.next_at <= clock.now()
    duty.tick()
    settle(jobs, lambda: duty.next_at == float("inf") and cleared)
    assert cleared == ["nat"]
    jobs.close()
