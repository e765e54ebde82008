"""ADDs that wait: for a refill, for a cool-down, in vain, or no longer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import control
from agent.fastpath.loop import now_ns
from tests.kernel.agentbox import AgentBox, CniError, Pod, answer
from tests.kernel.namespaces import until

pytestmark = pytest.mark.root


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentBox]:
    with AgentBox(tmp_path) as made:
        made.manager.give(made.eni(1), ["10.0.1.10"])
        made.pod("first").add()
        yield made


def parked(box: AgentBox, count: int) -> None:
    until(lambda: box.manager.snapshot().pool.parked == count, f"{count} wait")


def test_the_manager_hears_at_once_and_the_refill_serves_in_order(box: AgentBox) -> None:
    manager = box.manager
    assert manager.snapshot(watch=True).pool.parked == 0
    pods = [box.pod(f"web-{n}") for n in range(12)]
    connections: list[socket.socket] = []
    for n, pod in enumerate(pods):
        connections.append(pod.send("ADD"))
        until(lambda n=n: manager.receive() and manager.updates[-1].pool.parked == n + 1, "the manager hears of it")  # type: ignore[misc]
    for n, (pod, connection) in enumerate(zip(pods, connections, strict=True)):
        manager.do(control.AddBlock(box.eni(1).eni_id, f"10.0.1.{100 + n}", 32, "address"))
        pod.result = answer(connection)
        assert pod.address == f"10.0.1.{100 + n}"
        assert pod.addresses() == {pod.address}
    assert manager.snapshot().pool.parked == 0
    (shown,) = manager.explain("web-3")
    assert list(shown.phases)[:2] == ["parked", "assigned"]


def test_a_big_refill_serves_all(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(16)]
    connections = [pod.send("ADD") for pod in pods]
    parked(box, 16)
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.2.16", 28, "prefix"))
    for pod, connection in zip(pods, connections, strict=True):
        pod.result = answer(connection)
    assert {pod.address for pod in pods} == {f"10.0.2.{n}" for n in range(16, 32)}


def test_a_caller_that_hangs_up_gets_nothing_done(box: AgentBox) -> None:
    gone, stays = box.pod("gone"), box.pod("stays")
    before = box.state()
    first, second = gone.send("ADD"), stays.send("ADD")
    parked(box, 2)
    first.close()
    parked(box, 1)
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    stays.result = answer(second)
    assert gone.addresses() == set()
    stays.delete()
    until(lambda: box.state() == before, "only the first pod is there")
    (failed,) = box.manager.explain("gone")
    assert (failed.state, failed.error_code) == ("failed", "caller-gone")


def test_a_delete_cancels(box: AgentBox) -> None:
    pod = box.pod("web-0")
    connection = pod.send("ADD")
    parked(box, 1)
    pod.delete()
    with pytest.raises(CniError) as caught:
        answer(connection)
    assert caught.value.code == 111
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    assert box.manager.snapshot().pool.used == 1
    assert pod.addresses() == set()


def test_a_request_sent_again_joins(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first, second = pod.send("ADD"), pod.send("ADD")
    parked(box, 1)
    third = pod.send("ADD")
    third.close()
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    assert answer(first) == answer(second)
    assert pod.addresses() == {"10.0.1.11"}
    assert box.manager.snapshot().pool.used == 2


def test_a_request_sent_again_after_the_first_caller_is_gone(box: AgentBox) -> None:
    pod = box.pod("web-0")
    first = pod.send("ADD")
    parked(box, 1)
    second = pod.send("ADD")
    first.close()
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    pod.result = answer(second)
    assert pod.addresses() == {pod.address}


def full(box: AgentBox) -> None:
    box.manager.do(control.Outlook(False, "max-eni", "MAX_ENI=2 is reached", now_ns() + 60_000_000_000))


def refused(pod: Pod) -> CniError:
    with pytest.raises(CniError) as caught:
        pod.add()
    return caught.value


def test_when_to_try_again_is_told_as_of_now(box: AgentBox) -> None:
    """The manager has said it once, and may have said it minutes ago."""
    box.manager.do(control.Outlook(False, "subnet-full", "no free addresses", now_ns() - 1))
    assert "retry after 0 s" in refused(box.pod("web-0")).body["details"]
    box.manager.do(control.Outlook(False, "node-full", "for ever"))
    assert "retry after" not in refused(box.pod("web-1")).body["details"]


def test_a_full_node_says_so_at_once_and_explains_it(box: AgentBox) -> None:
    full(box)
    pod = box.pod("web-0")
    error = refused(pod)
    assert (error.code, error.body["cniVersion"]) == (110, "1.0.0")
    assert "MAX_ENI=2 is reached" in error.body["msg"]
    assert "max-eni" in error.body["details"]
    assert 0 < float(error.body["details"].partition("retry after ")[2].removesuffix(" s")) <= 60
    box.restart()
    (failed,) = box.manager.explain("web-0")
    assert (failed.state, failed.error_code) == ("failed", "node-full")
    assert "MAX_ENI=2 is reached" in failed.error


def test_those_who_wait_already_are_told_when_the_hope_ends(box: AgentBox) -> None:
    pods = [box.pod(f"web-{n}") for n in range(3)]
    connections = [pod.send("ADD") for pod in pods]
    parked(box, 3)
    full(box)
    for connection in connections:
        with pytest.raises(CniError) as caught:
            answer(connection)
        assert caught.value.code == 110
    assert box.manager.snapshot().pool.parked == 0


def test_a_manager_that_goes_takes_its_bad_news_with_it(box: AgentBox) -> None:
    full(box)
    box.manager.close()
    box._manager = None
    pod = box.pod("web-0")
    connection = pod.send("ADD")
    parked(box, 1)
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    answer(connection)


def test_a_cool_down_that_ends_in_time_is_waited_for_even_on_a_full_node(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"IP_COOLDOWN_PERIOD": "1"}) as box:
        box.manager.give(box.eni(1), ["10.0.1.10"])
        full(box)
        old = box.pod("old")
        old.add()
        old.delete()
        pod, more = box.pod("web-0"), box.pod("web-1")
        connection = pod.send("ADD")
        parked(box, 1)
        assert refused(more).code == 110, "there is one cool-down only"
        pod.result = answer(connection)
        assert pod.address == "10.0.1.10"
        assert pod.addresses() == {pod.address}


def test_patience_ends(tmp_path: Path) -> None:
    with AgentBox(tmp_path, environ={"ENID_ADD_WAIT": "1"}) as box:
        box.manager.give(box.eni(1), [])
        error = refused(box.pod("web-0"))
        assert error.code == 11
        assert "0 of 0 are used" in error.body["msg"]
        assert box.manager.explain("web-0")[0].error_code == "pool-empty"


def test_an_agent_that_ends_drops_those_who_wait_and_the_next_one_serves_them(box: AgentBox) -> None:
    pod = box.pod("web-0")
    connection = pod.send("ADD")
    parked(box, 1)
    assert box.stop() == 0
    with pytest.raises(ConnectionError):
        answer(connection)
    again = pod.send("ADD")
    box.start()
    parked(box, 1)
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    pod.result = answer(again)
    assert pod.addresses() == {"10.0.1.11"}


def test_a_caller_that_is_gone_before_the_agent_looks_gets_nothing_done(box: AgentBox) -> None:
    box.manager.do(control.AddBlock(box.eni(1).eni_id, "10.0.1.11", 32, "address"))
    box.kill()
    pod = box.pod("web-0")
    pod.send("ADD").close()
    box.start()
    until(lambda: box.manager.snapshot().counters.get("add_caller_gone"), "the agent has looked")
    assert pod.addresses() == set()
    assert box.manager.snapshot().pool.used == 1
