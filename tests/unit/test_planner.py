"""The pool planner: the worked examples of the specification, our betterments, and its rules under random life."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.planner import Assign, Create, Remove, Unassign
from tests.unit.planner_world import World, world


def m5_large(**targets: int) -> World:
    return world(3, 9, 29, **targets)


def t3_small(**targets: int) -> World:
    return world(3, 3, 11, **targets)


def p3dn(**targets: int) -> World:
    return world(15, 49, 737, **targets)


def grown(node: World, pods: int) -> World:
    node.settle(60)
    for _ in range(pods):
        node.add_pods(1)
        node.settle(30)
    node.settle(300)
    return node


# --- IPAM specification, 11.7, secondary mode --------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "pods", "shape", "free"),
    [
        ({"warm_eni_target": 1}, 0, [9], 9),
        ({"warm_eni_target": 1}, 1, [9, 9], 17),
        ({"warm_eni_target": 1}, 9, [9, 9], 9),
        ({"warm_eni_target": 1}, 10, [9, 9, 9], 17),
        ({"warm_eni_target": 1}, 27, [9, 9, 9], 0),
        ({"warm_eni_target": 2}, 0, [9, 9], 18),
        ({"warm_eni_target": 2}, 1, [9, 9, 9], 26),
        ({"warm_eni_target": 2}, 10, [9, 9, 9], 17),
        ({"warm_eni_target": 0}, 1, [9], 8),
        ({"warm_ip_target": 5}, 0, [5], 5),
        ({"warm_ip_target": 5}, 3, [8], 5),
        ({"warm_ip_target": 5}, 12, [9, 8], 5),
        ({"minimum_ip_target": 10}, 0, [9, 1], 10),
        ({"minimum_ip_target": 10}, 10, [9, 1], 0),
        ({"warm_ip_target": 2, "minimum_ip_target": 10}, 7, [9, 1], 3),
        ({"warm_ip_target": 2, "minimum_ip_target": 10}, 9, [9, 2], 2),
        ({"warm_ip_target": 2, "minimum_ip_target": 10}, 15, [9, 8], 2),
    ],
)
def test_m5_large(targets: dict[str, int], pods: int, shape: list[int], free: int) -> None:
    node = grown(m5_large(**targets), pods)
    assert (node.shape(), node.free, node.waiting) == (shape, free, [])


@pytest.mark.parametrize(
    ("targets", "pods", "shape"),
    [
        ({"warm_eni_target": 1}, 0, [3]),
        ({"warm_eni_target": 1}, 5, [3, 3, 3]),
        ({"warm_eni_target": 1}, 9, [3, 3, 3]),
        ({"warm_ip_target": 1, "minimum_ip_target": 1}, 5, [3, 3]),
        ({"warm_ip_target": 2, "minimum_ip_target": 5}, 0, [3, 2]),
        ({"warm_ip_target": 2, "minimum_ip_target": 5}, 5, [3, 3, 1]),
        ({"warm_ip_target": 2, "minimum_ip_target": 5}, 9, [3, 3, 3]),
    ],
)
def test_t3_small(targets: dict[str, int], pods: int, shape: list[int]) -> None:
    assert grown(t3_small(**targets), pods).shape() == shape


@pytest.mark.parametrize(("pods", "shape"), [(0, [10]), (7, [12]), (15, [20]), (45, [49, 1])])
def test_p3dn(pods: int, shape: list[int]) -> None:
    assert grown(p3dn(warm_ip_target=5, minimum_ip_target=10), pods).shape() == shape


def test_enis_go_one_by_one_when_pods_do() -> None:
    node = grown(m5_large(warm_eni_target=1), 27)
    node.delete_pods(25)
    node.settle(300)
    assert (node.shape(), node.free) == ([9, 9], 16)
    node.delete_pods(2)
    node.settle(300)
    assert (node.shape(), node.free) == ([9], 9)


def test_addresses_are_returned_after_the_cool_down() -> None:
    node = grown(m5_large(warm_ip_target=5), 12)
    node.delete_pods(8)
    node.now += 29
    assert not any(isinstance(step, Unassign | Remove) for step in node.turn().steps)
    node.settle(300)
    assert (node.total, node.free) == (9, 5)


# --- where we do better than what is documented -------------------------------------------------------------


def test_the_eleventh_pod_gets_an_address() -> None:
    node = grown(m5_large(minimum_ip_target=10), 11)
    assert (node.shape(), node.waiting) == ([9, 2], [])


def test_no_churn_with_a_target_of_no_enis() -> None:
    node = grown(m5_large(warm_eni_target=0), 9)
    created = node.created
    node.settle(3600)
    assert (node.created, node.removed, node.shape()) == (created, 0, [9, 9])


def test_a_burst_is_served_in_one_turn() -> None:
    node = grown(p3dn(warm_ip_target=5, minimum_ip_target=10), 0)
    node.slow = True
    node.add_pods(45)
    steps = node.turn().steps
    assert steps == (Assign("eni-0", 39), Create(1, ("subnet-1",)))
    node.finish()
    assert node.waiting == []
    assert node.turn().steps == ()


def test_a_burst_creates_the_enis_at_once_and_with_their_addresses() -> None:
    node = grown(m5_large(warm_eni_target=0), 0)
    node.slow = True
    node.add_pods(27)
    assert [step for step in node.turn().steps if isinstance(step, Create)] == [Create(9, ("subnet-1",))] * 2
    assert node.turn().steps == ()


def test_who_waits_while_all_free_addresses_cool_down_gets_new_ones() -> None:
    node = grown(m5_large(minimum_ip_target=3), 3)
    node.delete_pods(3)
    node.add_pods(2)
    assert node.turn().steps == (Assign("eni-0", 2),)
    assert node.waiting == []


def test_enis_that_are_busy_shrinking_are_waited_for() -> None:
    node = grown(m5_large(warm_ip_target=5), 3)
    node.delete_pods(3)
    node.now += 31
    node.slow = True
    (step,) = node.turn().steps
    assert isinstance(step, Unassign)
    assert node.shape() == [5]
    node.add_pods(3)
    assert node.turn().steps == ()
    node.finish()
    assert node.turn().steps == (Assign("eni-0", 3),)


# --- limits ---------------------------------------------------------------------------------------------------


def test_a_full_node_names_the_instance_type() -> None:
    node = grown(m5_large(warm_eni_target=1), 27)
    node.add_pods(1)
    plan = node.turn()
    assert plan.steps == ()
    assert plan.limit is not None
    assert plan.limit.code == "node-full"
    assert plan.limit.text == "instance type test.type allows 3 ENIs with 9 pod addresses each: 27 in all"


@pytest.mark.parametrize(("max_eni", "enis"), [(1, 1), (2, 2), (99, 3)])
def test_max_eni(max_eni: int, enis: int) -> None:
    node = grown(m5_large(max_eni=max_eni), 20)
    assert len(node.enis) == enis
    limit = node.plan().limit
    assert limit is not None
    assert limit.text.startswith(f"MAX_ENI={max_eni} allows" if max_eni < 3 else "instance type")


def test_unmanaged_enis_count() -> None:
    node = m5_large(warm_eni_target=2)
    node.other_enis = 1
    node.settle()
    assert node.shape() == [9, 9]
    node.add_pods(18)
    limit = node.turn().limit
    assert limit is not None
    assert "1 of them not managed" in limit.text
    assert limit.text.endswith("18 in all")


def test_pod_capacity_stops_growth() -> None:
    node = world(3, 9, 12, warm_ip_target=5)
    node.add_pods(12)
    node.settle()
    assert (node.total, node.waiting) == (12, [])
    node.add_pods(1)
    plan = node.turn()
    assert plan.steps == ()
    assert plan.limit is not None
    assert plan.limit.text == "the node's pod capacity of 12 is reached"


def test_a_subnet_without_addresses_is_left_alone_for_its_time() -> None:
    node = m5_large(warm_ip_target=5)
    node.blocked["subnet-1"] = node.now + 120
    node.add_pods(1)
    plan = node.turn()
    assert plan.steps == ()
    assert plan.limit is not None
    assert (plan.limit.code, plan.limit.retry_s) == ("subnet-full", 120.0)
    node.now += 121
    assert node.turn().limit is None
    assert node.waiting == []


def test_another_subnet_serves_when_one_is_full() -> None:
    node = m5_large(warm_ip_target=5)
    node.subnets = ("subnet-1", "subnet-2")
    node.blocked["subnet-1"] = node.now + 120
    assert node.turn().steps == (Create(5, ("subnet-2",)),)


def test_an_unschedulable_node_keeps_its_enis_and_may_shrink() -> None:
    node = grown(m5_large(warm_ip_target=5), 12)
    node.may_change_enis = False
    node.delete_pods(12)
    node.settle()
    assert (len(node.enis), node.total) == (2, 5)
    node.add_pods(9)
    limit = node.turn().limit
    assert limit is not None
    assert limit.code == "node-unschedulable"


def test_two_shrinks_are_half_a_minute_apart() -> None:
    node = grown(m5_large(warm_ip_target=1), 4)
    node.delete_pods(2)
    node.settle(40)
    assert node.total == 3
    first = node.last_shrink
    node.delete_pods(2)
    node.settle(300)
    assert node.total == 1
    assert node.last_shrink - first >= 30


def test_a_closed_eni_is_emptied_and_goes() -> None:
    node = grown(m5_large(warm_eni_target=0), 10)
    node.closed.add("eni-1")
    node.settle(20)
    used = [slot for slot in node.enis["eni-1"].values() if slot.pod]
    assert len(used) == len(node.enis["eni-1"])
    node.delete_pods(10)
    node.settle(300)
    assert "eni-1" not in node.enis


def test_a_type_without_pod_addresses_creates_nothing() -> None:
    node = world(4, 0, 110)
    node.add_pods(1)
    assert node.turn().steps == ()
    assert node.plan().limit is not None


# --- random life ------------------------------------------------------------------------------------------------

TARGETS = st.one_of(
    st.fixed_dictionaries({"warm_eni_target": st.integers(0, 3), "max_eni": st.sampled_from([0, 1, 2, 9])}),
    st.fixed_dictionaries(
        {
            "warm_ip_target": st.integers(0, 12),
            "minimum_ip_target": st.integers(0, 20),
            "max_eni": st.sampled_from([0, 2, 9]),
        }
    ),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("delete"), st.integers(1, 12)),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 90)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("block"), st.integers(1, 120)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(targets=TARGETS, enis=st.integers(1, 4), per_eni=st.integers(1, 9), cap=st.integers(1, 40), events=EVENTS)
def test_rules_hold_and_the_pool_converges(
    targets: dict[str, int], enis: int, per_eni: int, cap: int, events: list[tuple[str, int]]
) -> None:
    """World asserts the rules at each step; in the end nothing changes any more and nobody waits without a reason."""
    node = world(enis, per_eni, cap, **targets)
    node.slow = True
    for what, number in events:
        if what == "add":
            node.add_pods(number)
        elif what == "delete":
            node.delete_pods(number)
        elif what == "answer":
            node.finish(number)
        elif what == "wait":
            node.now += number
        elif what == "block":
            node.blocked["subnet-1"] = node.now + number
        node.turn()
    node.finish()
    node.slow = False
    node.settle(1200)
    calls = node.calls
    node.settle(600)
    assert node.calls == calls, "churn"
    assert not node.waiting or node.plan().limit is not None
