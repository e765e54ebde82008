"""EC2's word against the pool: what one answer may do, and what it takes two for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.reconcile import LAG_S, TWICE_S, Actions, Memory, PoolAddress, compare, enis_gone

NOTHING = Actions((), (), (), ())


def has(base: str, *, eni: str = "eni-1", idle: bool = True, quarantined: bool = False) -> PoolAddress:
    return PoolAddress(eni, base, idle, quarantined)


def test_agreement_does_nothing() -> None:
    assert compare([has("10.0.0.5")], {"eni-1": {"10.0.0.5"}}, Memory(), 1000) == NOTHING


def test_what_ec2_has_more_comes_in_unless_it_was_just_taken_out() -> None:
    memory = Memory(taken={"10.0.0.6": 990.0})
    ec2 = {"eni-1": {"10.0.0.5", "10.0.0.6"}}
    assert compare([], ec2, memory, 1000).add == (("eni-1", "10.0.0.5"),)
    assert compare([], ec2, memory, 990 + LAG_S).add == (("eni-1", "10.0.0.5"), ("eni-1", "10.0.0.6"))


def test_what_is_missing_goes_in_two_steps_and_never_from_a_pod() -> None:
    memory = Memory()
    ec2: dict[str, set[str]] = {"eni-1": set()}
    assert compare([has("10.0.0.5")], ec2, memory, 1000).quarantine == ("10.0.0.5",)
    held = has("10.0.0.5", quarantined=True)
    assert compare([held], ec2, memory, 1000 + TWICE_S - 1) == NOTHING
    used = has("10.0.0.5", quarantined=True, idle=False)
    assert compare([used], ec2, memory, 1000 + 10 * TWICE_S) == NOTHING
    assert compare([held], ec2, memory, 1000 + TWICE_S).drop == ("10.0.0.5",)
    assert memory.missing == {}


def test_what_comes_back_is_opened_and_starts_anew() -> None:
    memory = Memory()
    compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1000)
    seen = compare([has("10.0.0.5", quarantined=True)], {"eni-1": {"10.0.0.5"}}, memory, 1030)
    assert seen.reopen == ("10.0.0.5",)
    again = compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1061)
    assert (again.quarantine, again.drop) == (("10.0.0.5",), ())


def test_an_answer_older_than_our_own_change_says_nothing() -> None:
    memory = Memory(given={"10.0.0.5": 990.0})
    assert compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1000) == NOTHING
    assert compare([has("10.0.0.5")], {"eni-1": set()}, memory, 990 + LAG_S).quarantine == ("10.0.0.5",)


def test_an_eni_with_a_step_under_way_is_left_alone() -> None:
    ec2 = {"eni-1": {"10.0.0.9"}}
    assert compare([has("10.0.0.5")], ec2, Memory(), 1000, busy={"eni-1"}) == NOTHING


def test_an_address_that_moved_to_another_eni_leaves_the_first_before_it_enters_the_second() -> None:
    memory = Memory()
    ec2 = {"eni-1": set(), "eni-2": {"10.0.0.5"}}
    found = compare([has("10.0.0.5")], ec2, memory, 1000)
    assert (found.add, found.quarantine) == ((), ("10.0.0.5",))
    assert compare([has("10.0.0.5", quarantined=True)], ec2, memory, 1060).drop == ("10.0.0.5",)
    assert compare([], ec2, memory, 1120).add == (("eni-2", "10.0.0.5"),)


def test_enis_are_missed_twice() -> None:
    memory = Memory()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1000) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-1", "eni-2"}, memory, 1030) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1040) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1040 + TWICE_S) == ("eni-1",)


def test_memory_forgets() -> None:
    memory = Memory(given={"a": 0.0, "b": 1000.0}, taken={"c": 0.0})
    memory.forget(1001.0)
    assert (memory.given, memory.taken) == ({"b": 1000.0}, {})


NAMES = st.sampled_from([f"10.0.0.{n}" for n in range(4, 9)])
ROUNDS = st.lists(
    st.tuples(st.sets(NAMES), st.sets(NAMES), st.integers(0, 90)),
    min_size=1,
    max_size=12,
)


@given(ROUNDS)
def test_no_live_pod_ever_loses_its_address(rounds: list[tuple[set[str], set[str], int]]) -> None:
    """Whatever EC2 says, and in whatever order: a used address is never dropped, a dropped one was missed twice."""
    memory = Memory()
    pool: dict[str, bool] = {"10.0.0.4": False, "10.0.0.5": False}
    now, missed = 1000.0, dict[str, float]()
    for shown, used, wait in rounds:
        now += wait
        entries = [has(a, idle=a not in used, quarantined=q) for a, q in pool.items()]
        found = compare(entries, {"eni-1": shown}, memory, now)
        for address in set(pool) & shown:
            missed.pop(address, None)
        for address in set(pool) - shown:
            missed.setdefault(address, now)
        assert not set(found.drop) & used
        assert all(now - missed[address] >= TWICE_S and pool[address] for address in found.drop)
        for address in found.drop:
            del pool[address], missed[address]
        for address in found.quarantine:
            pool[address] = True
        for address in found.reopen:
            pool[address] = False
        for _, address in found.add:
            assert address not in pool
            pool[address] = False
