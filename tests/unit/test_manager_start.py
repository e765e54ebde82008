"""Small parts of the manager's process: patience at start, jobs, its log and its account."""

from __future__ import annotations

import json
import logging
import random
import select
from pathlib import Path

import pytest

from agent import control
from agent.manager import logs, pool_manager
from agent.manager.agent_link import AgentLink
from agent.manager.jobs import Jobs, Outcome
from agent.manager.report import KEPT, Account
from agent.manager.start import MAX_RETRY_S, Patience
from agent.manager.takeover import TakeoverRefused
from core.errors import Ec2Error, ImdsError
from tests.unit.hand_clock import HandClock


def test_a_step_of_the_start_is_tried_until_it_works(tmp_path: Path) -> None:
    clock, account = HandClock(), Account()
    link = AgentLink(str(tmp_path / "none.sock"), clock)
    patience = Patience(clock, random.Random(1), account, link)
    failures = [ImdsError("away", cause=f"try {number}") for number in range(12)]

    def work() -> str:
        assert account.phase == "starting: metadata"
        if failures:
            raise failures.pop()
        return "there"

    assert patience.try_until("metadata", work) == "there"
    assert len(clock.slept) == 12
    assert max(clock.slept) <= MAX_RETRY_S * 1.25
    assert clock.slept[0] < clock.slept[4]
    report = account.changed()
    assert report is not None
    assert len(report["errors"]) == 12  # type: ignore[arg-type]  # a list


def test_what_must_not_be_taken_over_is_not_waited_for(tmp_path: Path) -> None:
    clock = HandClock()
    patience = Patience(clock, random.Random(1), Account(), AgentLink(str(tmp_path / "none.sock"), clock))

    def work() -> None:
        raise TakeoverRefused("branch pods")

    with pytest.raises(TakeoverRefused):
        patience.try_until("links", work)
    assert clock.slept == []


def test_jobs_come_back_to_the_one_who_asked() -> None:
    jobs = Jobs(2, "test")
    outcomes: dict[str, Outcome] = {}

    def fails() -> None:
        raise ImdsError("no")

    jobs.start(lambda: 7, lambda outcome: outcomes.__setitem__("good", outcome))
    jobs.start(fails, lambda outcome: outcomes.__setitem__("bad", outcome))
    poll = select.poll()
    poll.register(jobs.fileno(), select.POLLIN)
    while len(outcomes) < 2:
        assert poll.poll(10_000)
        jobs.settle()
    assert outcomes["good"].value == 7
    assert isinstance(outcomes["bad"].error, ImdsError)
    assert jobs.settle() == 0
    assert not poll.poll(0)
    jobs.close()


def test_the_account_is_bounded_and_says_only_what_is_new() -> None:
    account = Account()
    assert account.changed() is not None
    assert account.changed() is None
    for number in range(3 * KEPT):
        account.step(0.0, f"step {number}", "done")
        account.error(0.0, Ec2Error(f"Assign {number}: no", cause="because"), "growing")
    report = account.changed()
    assert report is not None
    steps, errors = report["steps"], report["errors"]
    assert isinstance(steps, list)
    assert isinstance(errors, list)
    assert (len(steps), len(errors)) == (KEPT, KEPT)
    assert steps[0] == f"00:00:00 step {3 * KEPT - 1}: done"
    assert errors[0] == f"00:00:00 ec2: growing: Assign {3 * KEPT - 1}: no (because)"
    account.resend()
    assert account.changed() == report


def test_an_error_that_goes_on_does_not_push_out_its_cause() -> None:
    account = Account()
    account.error(0.0, Ec2Error("the cause"), "first")
    for number in range(100):
        account.error(float(number), Ec2Error("the audit fails"), "audit")
    report = account.changed()
    assert report is not None
    assert report["errors"] == ["00:01:39 ec2: audit: the audit fails (100 times)", "00:00:00 ec2: first: the cause"]


@pytest.mark.parametrize(
    ("told_s", "ends_s", "news"),
    [
        (None, None, False),
        (None, 160.0, True),
        (160.0, None, True),
        (160.0, 160.5, False),
        (160.0, 200.0, True),
        (90.0, 150.0, True),
        # Over already: it is computed anew in each turn, and is as over as before.
        (90.0, 100.0, False),
    ],
)
def test_an_end_that_has_moved_is_news(told_s: float | None, ends_s: float | None, news: bool) -> None:
    told, found = (
        control.Outlook(False, "ec2", "EC2 refuses", None if end is None else round(end * 1e9))
        for end in (told_s, ends_s)
    )
    assert pool_manager._same(told, found, round(100e9)) is not news


def test_the_log_is_json_lines_and_follows_a_file_that_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log" / "ipamd.log"
    root = logging.getLogger("enid")
    handlers, level, propagate = root.handlers, root.level, root.propagate
    try:
        logs.set_up(str(path), "info")
        logging.getLogger("enid.manager").debug("not wanted")
        logging.getLogger("enid.manager").warning("an ä and a %s", "line\nbreak")
        path.rename(tmp_path / "old.log")
        logging.getLogger("enid.manager").info("second")
        (first,) = (tmp_path / "old.log").read_text().splitlines()
        line = json.loads(first)
        assert (line["level"], line["msg"]) == ("warn", "an ä and a line\nbreak")
        assert set(line) == {"level", "ts", "caller", "msg"}
        assert json.loads(path.read_text())["msg"] == "second"
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers, root.level, root.propagate = handlers, level, propagate
