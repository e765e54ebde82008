"""How many addresses the pool lacks or has too many of.

The documented variables decide (IPAM specification, 11), in secondary-address mode: IP targets switch the ENI target
off, a cooling address counts as free, and nothing grows beyond the node's pod capacity. One thing is ours: pods
that wait for an address are demand. The existing system does not see them, so its eleventh pod never gets an
address with MINIMUM_IP_TARGET=10, and a burst is served in steps no larger than the warm target.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Totals:
    """Addresses over the ENIs that take part.

    `coming`: asked of EC2 and not in the pool yet; `parked`: ADDs that wait.
    """

    total: int = 0
    used: int = 0
    cooling: int = 0
    coming: int = 0
    parked: int = 0

    @property
    def free(self) -> int:
        """Addresses for pods to come, cooling ones and those on their way included; negative if pods outnumber them."""
        return self.total + self.coming - self.used - self.parked

    @property
    def ready(self) -> int:
        """Addresses that the next pods can have at once; negative if pods wait."""
        return self.total - self.used - self.cooling - self.parked

    @property
    def unserved(self) -> int:
        """Waiting ADDs for which no address is ready or on its way: they cannot be made to wait for a cool-down."""
        return max(-self.ready - self.coming, 0)


@dataclass(frozen=True, slots=True)
class Need:
    """What the targets ask for, in addresses. `short` is what to add, at least; whole ENIs may give more.

    `unlimited` is `short` without the cap by the node's pod capacity, so that the caller can name that limit.
    """

    short: int
    over: int
    unlimited: int


def need(settings: Settings, totals: Totals, per_eni: int, max_pods: int) -> Need:
    """The difference between targets and pool. `per_eni`: pod addresses that one ENI of this type holds.

    `over` counts addresses to give back one by one; with the ENI target it is 0, since surplus ENIs go whole. It
    leaves the warm target in addresses that are ready: giving those back because others cool down makes pods wait.
    """
    free = totals.free
    over = 0
    if settings.ip_targets:
        short = max(settings.warm_ip_target - free, settings.minimum_ip_target - totals.total - totals.coming, 0)
        over = max(min(totals.ready - settings.warm_ip_target, totals.total - settings.minimum_ip_target), 0)
    else:
        short = max(per_eni * settings.warm_eni_target - free, 0)
        if settings.warm_eni_target == 0 and free <= 0:
            short = 1 - free
    short = max(short, totals.unserved)
    capped = min(short, max(max_pods - totals.total - totals.coming, 0))
    return Need(short=capped, over=0 if short else over, unlimited=short)


def holds_without(settings: Settings, totals: Totals, leaving: int, per_eni: int) -> bool:
    """Whether the pool is large enough after an ENI with `leaving` free addresses has gone.

    With the ENI target this is the documented gate, free >= (target + 1) ENIs, in terms of what is left and ready.
    A target of 0 keeps one free address: the existing system frees the ENI it has just created, for ever.
    """
    ready = totals.ready - leaving
    if settings.ip_targets:
        return ready >= settings.warm_ip_target and totals.total - leaving >= settings.minimum_ip_target
    return ready >= max(per_eni * settings.warm_eni_target, 1)
