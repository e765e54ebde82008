"""EC2's word against the pool: what one answer may do, and what it takes two for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.reconcile import KEPT_S, LAG_S, TWICE_S, Actions, Memory, PoolAddress, compare, enis_gone

NOTHING = Actions((), (), (), ())
FIVE = ("eni-1", "10.0.0.5")


def has(base: str, *, eni: str = "eni-1", idle: bool = True, quarantined: bool = False) -> PoolAddress:
    return PoolAddress(eni, base, idle, quarantined)


def test_agreement_does_nothing() -> None:
    assert compare([has("10.0.0.5")], {"eni-1": {"10.0.0.5"}}, Memory(), 1000) == NOTHING


def test_what_ec2_has_more_comes_in_unless_it_was_just_taken_out() -> None:
    memory = Memory()
    ec2 = {"eni-1": {"10.0.0.5", "10.0.0.6"}}
    memory.leave("eni-1", ["10.0.0.6"])
    # However long the step takes: nobody may have it.
    assert compare([], ec2, memory, 9000).add == (("eni-1", "10.0.0.5"),)
    memory.gone("eni-1", ["10.0.0.6"], 9990.0)
    assert compare([], ec2, memory, 10000).add == (("eni-1", "10.0.0.5"),)
    assert compare([], ec2, memory, 9990 + LAG_S).add == (("eni-1", "10.0.0.5"), ("eni-1", "10.0.0.6"))


def test_what_a_step_did_not_take_off_may_go_in_at_once() -> None:
    memory = Memory()
    memory.leave("eni-1", ["10.0.0.5", "10.0.0.6"])
    memory.stay("eni-1", ["10.0.0.5"])
    memory.gone("eni-1", ["10.0.0.6"], 1000.0)
    assert compare([], {"eni-1": {"10.0.0.5", "10.0.0.6"}}, memory, 1001).add == (("eni-1", "10.0.0.5"),)


def test_what_left_one_eni_may_be_given_to_another_at_once() -> None:
    memory = Memory()
    memory.leave("eni-1", ["10.0.0.5"])
    assert memory.may_have("eni-2", "10.0.0.5", 1000.0)
    memory.gone("eni-1", ["10.0.0.5"], 1000.0)
    assert memory.may_have("eni-2", "10.0.0.5", 1001.0)
    # And to the same one, if EC2 answers so.
    memory.give("eni-1", ["10.0.0.5"], 1002.0)
    assert memory.may_have("eni-1", "10.0.0.5", 1002.0)


def test_an_answer_asked_for_during_the_rest_counts_for_nothing_later() -> None:
    memory = Memory()
    memory.gone("eni-1", ["10.0.0.5"], 1000.0)
    assert not memory.may_have("eni-1", "10.0.0.5", 1059.0)
    assert memory.may_have("eni-1", "10.0.0.5", 1060.0)


def test_on_an_eni_of_an_earlier_life_only_the_pool_is_sure() -> None:
    memory = Memory(unsure={"eni-1": 1000.0})
    ec2 = {"eni-1": {"10.0.0.5", "10.0.0.6"}}
    assert compare([has("10.0.0.5")], ec2, memory, 1001) == NOTHING
    memory.give("eni-1", ["10.0.0.7"], 1002.0)
    assert memory.may_have("eni-1", "10.0.0.7", 1002.0)
    assert compare([has("10.0.0.5")], ec2, memory, 1060).add == (("eni-1", "10.0.0.6"),)


def test_what_a_pool_has_that_is_on_its_way_out_goes_into_quarantine() -> None:
    """A damaged journal brings back what was given back a moment ago, and EC2 still shows it."""
    memory = Memory()
    memory.gone("eni-1", ["10.0.0.5"], 1000.0)
    assert compare([has("10.0.0.5")], {"eni-1": {"10.0.0.5"}}, memory, 1010).quarantine == (("eni-1", "10.0.0.5"),)


def test_an_eni_rests_too() -> None:
    memory = Memory(left_enis={"eni-1": 1000.0})
    assert memory.eni_rests("eni-1", 1059.0)
    assert not memory.eni_rests("eni-1", 1060.0)
    assert not memory.eni_rests("eni-2", 1000.0)


def test_what_is_missing_goes_in_two_steps_and_never_from_a_pod() -> None:
    memory = Memory()
    ec2: dict[str, set[str]] = {"eni-1": set()}
    assert compare([has("10.0.0.5")], ec2, memory, 1000).quarantine == (FIVE,)
    held = has("10.0.0.5", quarantined=True)
    assert compare([held], ec2, memory, 1000 + TWICE_S - 1) == NOTHING
    used = has("10.0.0.5", quarantined=True, idle=False)
    assert compare([used], ec2, memory, 1000 + 10 * TWICE_S) == NOTHING
    assert compare([held], ec2, memory, 1000 + TWICE_S).drop == (FIVE,)
    assert memory.missing == {}


def test_what_comes_back_is_opened_and_starts_anew() -> None:
    memory = Memory()
    compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1000)
    seen = compare([has("10.0.0.5", quarantined=True)], {"eni-1": {"10.0.0.5"}}, memory, 1030)
    assert seen.reopen == (FIVE,)
    again = compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1061)
    assert (again.quarantine, again.drop) == ((FIVE,), ())


def test_an_answer_older_than_our_own_change_says_nothing() -> None:
    memory = Memory(given={FIVE: 990.0})
    assert compare([has("10.0.0.5")], {"eni-1": set()}, memory, 1000) == NOTHING
    assert compare([has("10.0.0.5")], {"eni-1": set()}, memory, 990 + LAG_S).quarantine == (FIVE,)


def test_an_eni_with_a_step_under_way_is_left_alone() -> None:
    ec2 = {"eni-1": {"10.0.0.9"}}
    assert compare([has("10.0.0.5")], ec2, Memory(), 1000, busy={"eni-1"}) == NOTHING


def test_an_address_that_moved_to_another_eni_leaves_the_first_before_it_enters_the_second() -> None:
    memory = Memory()
    ec2 = {"eni-1": set(), "eni-2": {"10.0.0.5"}}
    found = compare([has("10.0.0.5")], ec2, memory, 1000)
    assert (found.add, found.quarantine) == ((), (FIVE,))
    assert compare([has("10.0.0.5", quarantined=True)], ec2, memory, 1060).drop == (FIVE,)
    assert compare([], ec2, memory, 1120).add == (("eni-2", "10.0.0.5"),)


def test_enis_are_missed_twice() -> None:
    memory = Memory()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1000) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-1", "eni-2"}, memory, 1030) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1040) == ()
    assert enis_gone(["eni-1", "eni-2"], {"eni-2"}, memory, 1040 + TWICE_S) == ("eni-1",)


def test_an_eni_that_is_known_no_more_is_not_missed() -> None:
    memory = Memory()
    enis_gone(["eni-1"], set(), memory, 1000)
    enis_gone([], set(), memory, 1030)
    assert memory.missing_enis == {}


def test_what_has_left_is_outgoing_while_an_answer_may_still_show_it() -> None:
    memory = Memory()
    memory.leave("eni-1", ["c"])
    memory.gone("eni-1", ["a"], 1000.0)
    memory.gone("eni-2", ["b"], 1000.0)
    assert memory.outgoing("eni-1", 1000.0 + LAG_S - 1) == {"a", "c"}
    assert memory.outgoing("eni-1", 1000.0 + LAG_S) == {"c"}


def test_memory_forgets_what_has_ended_and_nothing_else() -> None:
    one, two = ("eni-1", "a"), ("eni-1", "b")
    memory = Memory(given={one: 0.0, two: 1000.0}, left={one: 0.0}, left_enis={"eni-2": 0.0, "eni-3": 900.0})
    memory.leave("eni-1", ["c"])
    memory.forget(1001.0)
    assert (memory.given, memory.left, memory.left_enis) == ({two: 1000.0}, {}, {"eni-3": 900.0})
    assert memory.leaving == {("eni-1", "c")}
    # What is forgotten can no longer be shown by an answer that is on its way.
    assert KEPT_S >= 5 * LAG_S


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
        dropped = {address for _, address in found.drop}
        assert not dropped & used
        assert all(now - missed[address] >= TWICE_S and pool[address] for address in dropped)
        for address in dropped:
            del pool[address], missed[address]
        for _, address in found.quarantine:
            pool[address] = True
        for _, address in found.reopen:
            pool[address] = False
        for _, address in found.add:
            assert address not in pool
            pool[address] = False
