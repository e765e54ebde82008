"""The call budget: bursts, priorities, and how it gives way to EC2."""

from __future__ import annotations

from clients.budget import BURST_S, CHANGE_RATE, DESCRIBE_RATE, LOWEST_RATE, Budget, Priority
from tests.unit.hand_clock import HandClock


def test_a_burst_then_the_rate() -> None:
    clock = HandClock()
    budget = Budget(clock)
    burst = int(CHANGE_RATE * BURST_S)
    assert [budget.reserve("CreateTags", Priority.WAITING) for _ in range(burst)] == [0.0] * burst
    assert budget.reserve("CreateTags", Priority.WAITING) == 1 / CHANGE_RATE
    assert budget.reserve("CreateTags", Priority.WAITING) == 2 / CHANGE_RATE
    clock.sleep(BURST_S)
    assert budget.reserve("CreateTags", Priority.WAITING) == 0.0


def test_actions_do_not_share() -> None:
    budget = Budget(HandClock())
    for _ in range(100):
        budget.reserve("CreateTags", Priority.WAITING)
    assert budget.reserve("DescribeSubnets", Priority.WAITING) == 0.0


def test_the_urgent_go_first() -> None:
    budget = Budget(HandClock())
    waits = dict.fromkeys(Priority, 0)
    for priority in (Priority.SWEEP, Priority.WARM, Priority.WAITING):
        while budget.reserve("AssignPrivateIpAddresses", priority) == 0.0:
            waits[priority] += 1
    assert all(count > 0 for count in waits.values())
    assert waits[Priority.SWEEP] == CHANGE_RATE * BURST_S / 2


def test_halved_when_throttled_and_raised_by_success() -> None:
    budget = Budget(HandClock())
    budget.throttled("DescribeSubnets")
    assert budget.rate("DescribeSubnets") == DESCRIBE_RATE / 2
    assert budget.reserve("DescribeSubnets", Priority.WAITING) > 0
    for _ in range(30):
        budget.throttled("DescribeSubnets")
    assert budget.rate("DescribeSubnets") == LOWEST_RATE
    before = budget.rate("DescribeSubnets")
    budget.succeeded("DescribeSubnets")
    assert budget.rate("DescribeSubnets") > before
    for _ in range(100):
        budget.succeeded("DescribeSubnets")
    assert budget.rate("DescribeSubnets") == DESCRIBE_RATE
