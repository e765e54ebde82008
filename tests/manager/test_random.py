"""A random life of a node, and promises that hold at every moment of it.

Pods come and go; EC2 is throttled, loses answers before and after they took effect, and shows what was true seconds
ago, as the metadata do; the agent comes back with its journal, the manager is killed and started anew; strangers
attach and detach ENIs and add addresses. Whenever a pod gets an address, and whenever the ledger changes:

- an address that a pod uses is on the ENI that the agent took it from, by EC2's ledger;
- no step takes an address, or its ENI, from a pod.

No pod fails but over a limit that there is, or over a refusal that this life has had from EC2.

Each life prints its seed. Set ENID_SEED to repeat one, ENID_SEEDS to run more.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.faults import Fault
from tests.manager.bench import NO_MANAGE, Bench, until
from tests.sandbox.ec2_kit import check, make_account

SPEED = 40.0
STEPS = 60
MOST_PODS = 50
CHANGES = (
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeNetworkInterfaces",
)


LIVES = 1 if "ENID_SEED" in os.environ else int(os.environ.get("ENID_SEEDS", "4"))


@pytest.fixture
def rng() -> random.Random:
    """Of a seed that a failed test shows. Not in the test's name: processes that share the tests agree on those."""
    seed = int(os.environ.get("ENID_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"ENID_SEED={seed}")
    return random.Random(seed)


class Witness:
    """Looks at each change of EC2's ledger and at each address that a pod gets. Not ours: it asks the truth itself."""

    def __init__(self, b: Bench) -> None:
        self._b = b
        self.broken: list[str] = []
        self.assigned = 0
        b.agent.on_assign = self._given
        b.a.truth.subscribe(self)  # type: ignore[arg-type]  # it has all methods of a view

    def _given(self, eni_id: str, base: str) -> None:
        self.assigned += 1
        eni = self._b.a.truth.enis.get(eni_id)
        here = eni is not None and eni.attachment is not None and eni.instance_id == self._b.a.node.instance_id
        if not here or eni is None or base not in eni.addresses:
            self.broken.append(f"a pod got {base}, which {eni_id} does not have")

    def _changed(self, eni_id: str) -> None:
        lost = self._b.agent.used() - self._b.in_ec2()
        if lost:
            self.broken.append(f"pods lost {sorted(lost)} by a change of {eni_id}")

    eni_attached = eni_detached = addresses_changed = groups_changed = source_check_changed = _changed


class Life:
    """What may happen, drawn by one generator."""

    def __init__(self, b: Bench, rng: random.Random) -> None:
        self.b = b
        self.rng = rng
        self.strangers: list[str] = []
        self.limited = False
        self.refusals: set[str] = set()
        self.settings = rng.choice(
            [
                {"warm_ip_target": 1},
                {"warm_ip_target": 5, "minimum_ip_target": 8},
                {"warm_eni_target": 0},
                {"warm_eni_target": 1},
                {"warm_ip_target": 2, "max_eni": 2},
            ]
        )
        self.limited = "max_eni" in self.settings

    def surprised(self) -> list[str]:
        """What was told to pods that have failed without need."""
        with self.b.agent.lock:
            texts = set(self.b.agent.failed)
        expected = {text for text in texts if any(code in text for code in self.refusals)}
        if self.limited:
            # Who has taken the last slot may not be seen yet.
            expected |= {text for text in texts if text.startswith("node-full") or "AttachmentLimitExceeded" in text}
        return sorted(texts - expected)

    def step(self) -> str:
        """One thing happens; its name."""
        chosen = self.rng.choices(
            [self.pods_come, self.pods_go, self.time_passes, self.ec2_fails, self.ec2_lags, self.agent_dies,
             self.manager_dies, self.stranger_comes, self.stranger_goes, self.somebody_assigns],
            [20, 18, 30, 20, 6, 5, 4, 2, 2, 2],
        )[0]  # fmt: skip
        chosen()
        return chosen.__name__

    def pods_come(self) -> None:
        room = MOST_PODS - len(self.b.agent.used()) - len(self.b.agent.waiting)
        self.b.agent.add_pods(min(self.rng.randint(1, 12), room))

    def pods_go(self) -> None:
        self.b.agent.delete_pods(self.rng.randint(1, 12), cool=self.rng.random() < 0.5)

    def time_passes(self) -> None:
        self.b.clock.ahead += self.rng.choice([1, 5, 20, 40, 70])
        if self.rng.random() < 0.5:
            with self.b.agent.lock:
                for address in self.b.agent.addresses.values():
                    address.cooling = False
                self.b.agent.tell()

    def ec2_fails(self) -> None:
        fault = self.rng.choice(
            [
                Fault(error="RequestLimitExceeded", status=503, times=self.rng.randint(1, 8)),
                Fault(drop=True, times=self.rng.randint(1, 3)),
                Fault(when="after", drop=True, times=self.rng.randint(1, 3)),
                Fault(when="after", error="InternalError", status=500, times=1),
                Fault(error="UnauthorizedOperation", status=403, times=1),
                Fault(error="PrivateIpAddressLimitExceeded", status=400, times=1),
            ]
        )
        action = self.rng.choice(CHANGES)
        if fault.error == "PrivateIpAddressLimitExceeded":
            action = "AssignPrivateIpAddresses"
            # The ENI, and with it the node, has less room from then on.
            self.limited = True
        if fault.error == "UnauthorizedOperation":
            self.refusals.add(fault.error)
        self.b.a.truth.faults.add(
            Fault(action, fault.when, error=fault.error, status=fault.status, drop=fault.drop, times=fault.times)
        )

    def ec2_lags(self) -> None:
        self.b.a.truth.api.lag = self.rng.choice([0, 2, 10, 30])
        self.b.a.truth.imds.lag = self.rng.choice([0, 2, 30, 120])

    def agent_dies(self) -> None:
        self.b.restart_agent()

    def manager_dies(self) -> None:
        self.b.kill()
        self.b.start(seed=self.rng.randrange(1 << 16), **self.settings)

    def stranger_comes(self) -> None:
        if not self.strangers:
            used = {eni.device for eni in self.b.a.truth.enis_of(self.b.a.node.instance_id)}
            truth, device = self.b.a.truth, max(device or 0 for device in used) + 1
            made = truth.create_eni(self.b.a.subnet.subnet_id, tags=NO_MANAGE)
            try:
                truth.attach_eni(made.eni_id, self.b.a.node.instance_id, device)
            except Ec2Error:
                # No slot is left for strangers, or one of ours has just taken this index.
                truth.delete_eni(made.eni_id)
            else:
                self.strangers.append(made.eni_id)
                self.limited = True

    def stranger_goes(self) -> None:
        if self.strangers:
            self.b.detach(self.strangers.pop())

    def somebody_assigns(self) -> None:
        eni = self.b.a.truth.eni(self.b.a.eni)
        if len(eni.addresses) < 13:
            self.b.a.truth.assign_ipv4(self.b.a.eni, count=1)


@pytest.fixture
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    account = make_account()
    account.truth.delays.attach = account.truth.delays.detach = 2.0
    made = Bench(account, tmp_path, SPEED)
    yield made
    made.close()
    check(account.truth)


@pytest.mark.parametrize("_life", range(LIVES))
def test_no_pod_ever_has_an_address_that_ec2_has_not_given_its_node(
    fast: Bench, rng: random.Random, _life: int
) -> None:
    b = fast
    witness = Witness(b)
    life = Life(b, rng)
    b.start(**life.settings)
    b.agent.add_pods(3)
    happened = []
    for _ in range(STEPS):
        happened.append(life.step())
        pause = time.monotonic() + rng.choice([0.0, 0.01, 0.05, 0.2])
        while time.monotonic() < pause and not witness.broken:
            b.a.truth.tick()
            time.sleep(0.005)
        assert witness.broken == [], happened
        assert b.agent.used() <= b.in_ec2(), happened
        assert life.surprised() == [], happened
    # Everything is well again: whoever can be served is, and the pool is what EC2 has.
    b.a.truth.faults.clear()
    b.a.truth.api.lag = b.a.truth.imds.lag = 0.0
    with b.agent.lock:
        for address in b.agent.addresses.values():
            address.cooling = False
    b.agent.tell()

    def at_rest() -> bool:
        b.a.truth.tick()
        b.clock.ahead += 2
        with b.agent.lock:
            # The kubelet tries again with pods that have failed.
            b.agent.failed.clear()
            b.agent.add_pods(MOST_PODS - len(b.agent.used()) - len(b.agent.waiting))
            full = b.agent.outlook is not None and b.agent.outlook.code == "node-full"
            served = not b.agent.waiting and (full or not b.agent.failed)
        return served and not b.busy() and b.agent.open() <= b.in_ec2()

    until("all is well again", at_rest, 40)
    assert witness.broken == [], happened
    assert witness.assigned >= 3
    refused = [line for line in b.agent.refused if "busy" not in line]
    assert refused == [], happened
