"""Pauses, doubts and bounds: pure values that only get longer while the same thing goes on, and end."""

from __future__ import annotations

from core.backoff import HOPELESS, LASTING, PASSING, REFUSED, Bound, Doubt, Holds, Pause

MIDDLE = 0.5


def lengths(pause: Pause, failures: int) -> list[float]:
    holds, now, found = Holds(), 1000.0, []
    for _ in range(failures):
        hold = holds.failed("x", pause, now, MIDDLE)
        found.append(hold.until - now)
        now = hold.until
    return found


def test_pauses_grow_to_their_longest() -> None:
    assert lengths(PASSING, 8) == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert lengths(REFUSED, 7) == [1, 4, 16, 64, 256, 600, 600]
    assert lengths(LASTING, 7) == [30, 60, 120, 240, 480, 600, 600]
    # In an hour, that is a handful of tries.
    assert sum(1 for _ in lengths(LASTING, 9)) == 9
    assert sum(lengths(LASTING, 9)) >= 2700


def test_chance_spreads_a_pause() -> None:
    holds = Holds()
    assert holds.failed("a", LASTING, 0.0, 0.0).until == 22.5
    assert holds.failed("b", LASTING, 0.0, 1.0).until == 37.5


def test_a_pause_is_of_one_thing_and_ends_with_success() -> None:
    holds = Holds()
    holds.failed("a", LASTING, 0.0, MIDDLE, "no right")
    assert holds.readiness("a", 1.0) == "no"
    assert holds.readiness("b", 1.0) == "now"
    assert holds.readiness("a", 30.0) == "now"
    holds.failed("b", LASTING, 2.0, MIDDLE, "a quota")
    assert holds.why(3.0) == "a quota"
    holds.worked("b")
    assert holds.why(3.0) == "no right"
    assert holds.why(3000.0) == ""
    assert holds.next_end(1.0) == 30.0
    holds.worked("a")
    assert holds.next_end(1.0) == float("inf")
    assert holds.failed("a", LASTING, 100.0, MIDDLE).until == 130.0


def test_what_is_likely_to_pass_is_no_reason_beside_what_is_not() -> None:
    holds = Holds()
    holds.failed("a", PASSING, 0.0, MIDDLE, "no answer")
    assert holds.why(1.0) == "no answer"
    holds.failed("b", LASTING, 1.0, MIDDLE, "no right")
    holds.failed("c", PASSING, 2.0, MIDDLE, "too many calls")
    assert holds.why(3.0) == "no right"
    assert holds.why(50.0) == "too many calls"
    holds.worked("b")
    assert holds.why(3.0) == "too many calls"


def test_another_cause_or_a_long_silence_starts_anew() -> None:
    holds = Holds()
    for _ in range(5):
        holds.failed("a", PASSING, 0.0, MIDDLE)
    assert holds.failed("a", LASTING, 0.0, MIDDLE).length == 30
    holds.failed("a", LASTING, 30.0, MIDDLE)
    assert holds.failed("a", LASTING, 5000.0, MIDDLE).length == 30


def test_what_passes_is_waited_for_and_what_lasts_is_not() -> None:
    holds = Holds()
    for _ in range(20):
        holds.failed("passing", PASSING, 0.0, MIDDLE)
    holds.failed("lasting", LASTING, 0.0, MIDDLE)
    assert holds.readiness("passing", 0.1) == "soon"
    assert holds.readiness("lasting", 0.1) == "no"
    for number in range(HOPELESS):
        assert holds.readiness("refused", 0.1) == ("soon" if number else "now")
        holds.failed("refused", REFUSED, 0.0, MIDDLE)
    assert holds.readiness("refused", 0.1) == "no"


def test_what_is_gone_is_forgotten() -> None:
    holds = Holds()
    holds.failed("a", LASTING, 0.0, MIDDLE)
    holds.failed("b", LASTING, 0.0, MIDDLE)
    holds.forget_all_but({"b"})
    assert (holds.readiness("a", 1.0), holds.readiness("b", 1.0)) == ("now", "no")


def test_the_same_doubt_is_asked_about_ever_more_seldom() -> None:
    doubt, now, asked = Doubt(60, 900), 0.0, []
    while now < 3600:
        if doubt.due({"x"}, now):
            doubt.asked({"x"}, now)
            asked.append(now)
        now += 30
    assert asked == [0, 60, 180, 420, 900, 1800, 2700]
    assert not doubt.due(set(), now)
    assert doubt.due({"y"}, now)


def test_a_new_doubt_starts_anew() -> None:
    doubt = Doubt(60, 900)
    for now in (0.0, 60.0, 180.0):
        doubt.asked({"x"}, now)
    doubt.asked({"y"}, 200.0)
    assert not doubt.due({"y"}, 259.0)
    assert doubt.due({"y"}, 260.0)


def test_a_bound_is_believed_for_a_while_and_only_gets_lower_in_it() -> None:
    bound = Bound(600, 3600)
    assert bound.at(0.0) is None
    bound.learn(14, 0.0)
    bound.learn(12, 10.0)
    bound.learn(13, 20.0)
    assert bound.at(599.0) == 12
    assert bound.at(600.0) is None
    # Taught again: believed for longer.
    bound.learn(14, 700.0)
    assert bound.at(700.0 + 1199) == 14
    assert bound.at(700.0 + 1200) is None
