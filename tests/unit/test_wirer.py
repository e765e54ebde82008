"""Names that are taken when a pod's network is made, with kernels that answer as a test says."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from agent.fastpath.kernel import Kernel
from agent.fastpath.wirer import TRIES, Wirer
from core.addresses import parse
from core.ipam import Owner
from core.records import OwnerMeta
from ext import netlink
from tests.twins.null_kernel import NullKernel

Errors = Callable[[int, int], int]
NOTHING: Final = errno.ENODEV


class Reaper:
    """Has so many links, and is asked to hurry."""

    def __init__(self, links: int, *, in_time: bool = True, more: bool = False) -> None:
        self.links, self.in_time, self.more, self.flushes = links, in_time, more, 0

    def __len__(self) -> int:
        return self.links

    def __contains__(self, _index: int) -> bool:
        return False

    def finish(self) -> int:
        """All gone; no error."""
        self.links = 0
        return 0

    def flush(self, _timeout_s: float) -> bool:
        """All gone, if the test says so; others may have come."""
        self.flushes += 1
        self.links = self.links if self.more else 0
        return self.in_time


class Bench:
    """A wirer between a host and a pod that answer as told."""

    def __init__(self, host: Errors, pod: Errors, reaper: Reaper) -> None:
        self.host, self.pod, self.reaper = NullKernel(host), NullKernel(pod), reaper
        self.sockets = [netlink.Socket(k.detach(), check=False) for k in (self.host, self.pod)]
        self.indexes: list[int] = []
        node = SimpleNamespace(
            kernel=Kernel(self.sockets[0]),
            reaper=reaper,
            settings=SimpleNamespace(pod_mtu=9001),
            book=SimpleNamespace(by_index={}, set_index=lambda _owner, index: self.indexes.append(index)),
        )
        self.wirer = Wirer(cast(Any, node))

    def wire(self) -> int:
        """One ADD's network."""
        meta = OwnerMeta(
            network="aws-cni",
            container_id="c" * 64,
            ifname="eth0",
            namespace="default",
            pod="web",
            netns="/run/netns/web",
            host_veth="enitest",
            since_unix_ns=0,
            phases={},
        )
        way = SimpleNamespace(host=None, pod=self.sockets[1], netns=0)
        return self.wirer.wire(cast(Any, way), Owner(b"key", parse("10.0.1.23"), meta, 0), "eth0", "eni", 0)

    def close(self) -> None:
        """Both kernels."""
        for sock, kernel in zip(self.sockets, (self.host, self.pod), strict=True):
            sock.close()
            kernel.close()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches and closes them."""
    made: list[Bench] = []

    def make(host: Errors, pod: Errors = lambda _batch, _index: 0, reaper: Reaper | None = None) -> Bench:
        made.append(Bench(host, pod, reaper or Reaper(0)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def in_turn(*errors: int) -> Errors:
    """The first message of each batch is refused with these, and all that follow succeed."""
    return lambda batch, index: errors[batch] if index == 0 and batch < len(errors) else 0


def test_a_holder_that_is_gone_before_it_is_looked_at_is_no_failure(bench: Callable[..., Bench]) -> None:
    """The reaper deletes the older sandbox's link between the kernel's refusal and our question whose it is."""
    one = bench(in_turn(errno.EEXIST, NOTHING), in_turn(NOTHING))
    assert one.wire() == 7
    assert one.reaper.flushes == 0


def test_that_may_happen_several_times_but_not_for_ever(bench: Callable[..., Bench]) -> None:
    """Whatever holds a name that nobody can see: the ADD fails, as the kernel says."""
    refused = (errno.EEXIST, NOTHING)
    assert bench(in_turn(*refused * (TRIES - 1)), in_turn(*[NOTHING] * (TRIES - 1))).wire() == 7
    never = bench(in_turn(*refused * 50), in_turn(*[NOTHING] * 50))
    with pytest.raises(netlink.KernelError) as caught:
        never.wire()
    assert caught.value.errno == errno.EEXIST
    assert len(never.host.batches) == 2 * TRIES


def test_a_name_inside_that_goes_with_a_link_of_the_reaper_is_waited_for(bench: Callable[..., Bench]) -> None:
    one = bench(in_turn(errno.EEXIST, NOTHING), reaper=Reaper(3))
    assert one.wire() == 7
    assert one.reaper.flushes == 1


def test_a_name_inside_whose_link_goes_right_after_the_look_is_no_failure(bench: Callable[..., Bench]) -> None:
    """The reaper is a thread of its own: it may end between the kernel's answer and the question what it has."""
    reaper = Reaper(3)
    one = bench(in_turn(errno.EEXIST, NOTHING), lambda _batch, _index: reaper.finish(), reaper)
    assert one.wire() == 7
    assert reaper.flushes == 0


@pytest.mark.parametrize("dying", [0, 3])
def test_a_name_inside_that_stays_is_the_callers_to_know(bench: Callable[..., Bench], dying: int) -> None:
    """Another plugin's interface, say; or links that cannot be deleted."""
    one = bench(in_turn(*(errno.EEXIST, NOTHING) * 50), reaper=Reaper(dying, in_time=False))
    with pytest.raises(netlink.KernelError) as caught:
        one.wire()
    assert (caught.value.errno, caught.value.phase, len(one.host.batches)) == (errno.EEXIST, "link", 2)


def test_it_is_waited_for_once(bench: Callable[..., Bench]) -> None:
    """With pods ending all the time the reaper is never empty, and each wait holds up every other call."""
    one = bench(in_turn(*(errno.EEXIST, NOTHING) * 50), reaper=Reaper(3, more=True))
    with pytest.raises(netlink.KernelError):
        one.wire()
    assert one.reaper.flushes == 1


def test_other_refusals_are_told_at_once(bench: Callable[..., Bench]) -> None:
    one = bench(in_turn(errno.ENOSPC))
    with pytest.raises(netlink.KernelError) as caught:
        one.wire()
    assert (caught.value.errno, len(one.host.batches), one.indexes) == (errno.ENOSPC, 1, [])
