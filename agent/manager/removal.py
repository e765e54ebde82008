"""Takes away what the daemon leaves on a host, for a node that goes back to another plugin.

A daemon that stops leaves everything for the next start: pods go on. But an nftables table that nobody looks after goes
on translating with the VPC's networks of its last day, and our conflist calls a plugin that nobody answers. So this
takes them away, and only what is ours: rules that carry our protocol, our own table, a list in which we are alone. It
refuses while pods of ours live, which need all of it, and while a daemon runs, which would put it back.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clients.nft import Nft
from cni import install
from core import nat
from core.errors import AlreadyRunning, EnidError, HostNetworkError
from core.names import (
    RULE_ENI_PRIMARY,
    RULE_EXTERNAL_SERVICE,
    RULE_FROM_POD,
    RULE_FWMARK,
    RULE_TO_POD,
    TABLE_MAIN,
)
from core.records import read_checkpoint
from core.settings import Settings
from ext import netlink
from ext.netlink import NetlinkError

LOCK: Final = "supervisor.lock"
INET: Final = 2
FRA_TO_TABLE: Final = 1
DUMP_TRIES: Final = 20
OURS: Final = frozenset((RULE_TO_POD, RULE_FWMARK, RULE_EXTERNAL_SERVICE, RULE_FROM_POD, RULE_ENI_PRIMARY))


class PodsRemain(EnidError):
    """Pods that this daemon has wired are still on the host; nothing was taken away."""

    code = "pods-remain"
    remedy = "drain the node, or delete these pods, and call it again"


def remove(settings: Settings, nft: Nft | None = None) -> list[str]:
    """Take everything away; what there was, in words, and what was left on purpose. A second call finds nothing.

    Raises AlreadyRunning, PodsRemain, HostNetworkError and InstallFailed. What an error has kept from going goes with
    the next call.
    """
    nft = nft or Nft()
    with _no_daemon(settings), netlink.Socket.open() as sock:
        rules, routes, links = _read(sock)
        living = _living(settings, rules, routes, links)
        if living:
            raise PodsRemain(f"{len(living)} pods of ours are on this host: {', '.join(living)}")
        done = install.remove_conflist(settings)
        if nft.fingerprint(nat.FAMILY, nat.TABLE):
            nft.apply(nat.removal())
            done.append(f"nftables table {nat.TABLE}")
        try:
            sock.apply([_deletion(rule) for rule in rules])
        except NetlinkError as error:
            raise HostNetworkError("the kernel refused to delete rules of ours", cause=str(error)) from error
        return done + [_words(rule) for rule in rules]


@contextmanager
def _no_daemon(settings: Settings) -> Iterator[None]:
    """Hold the supervisor's lock, so that none starts meanwhile. Raises AlreadyRunning."""
    if not os.path.isdir(settings.run_dir):
        yield
        return
    path = Path(settings.run_dir) / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostNetworkError(f"the lock {path} cannot be opened", cause=str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"a daemon runs on this node and holds {path}") from error
        # An agent may outlive its supervisor for a moment.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(settings.control_socket) == 0:
                raise AlreadyRunning(f"an agent answers on {settings.control_socket}")
        yield
    finally:
        os.close(descriptor)


def _read(sock: netlink.Socket) -> tuple[list[netlink.Rule], list[netlink.Route], list[netlink.Link]]:
    """Our rules, the main table's routes to one address each, all links."""
    for _ in range(DUMP_TRIES):
        try:
            rules, routes, links = sock.rules(INET), sock.routes(INET, TABLE_MAIN), sock.links()
        except netlink.DumpInterrupted:
            continue
        except NetlinkError as error:
            raise HostNetworkError("the kernel's tables cannot be read", cause=str(error)) from error
        ours = [
            rule
            for rule in rules
            if rule.priority in OURS
            and rule.protocol == netlink.KERNEL
            and rule.action == FRA_TO_TABLE
            and not rule.iif
        ]
        return ours, [route for route in routes if route.length == 32], links
    raise HostNetworkError("the kernel's tables change too fast to be read", retry_after=1.0)


def _living(
    settings: Settings,
    rules: Sequence[netlink.Rule],
    routes: Sequence[netlink.Route],
    links: Sequence[netlink.Link],
) -> list[str]:
    """Pods that have a link and our rule, or our route by a link with a pod's name. A rule alone is a remnant."""
    ruled = {rule.dst for rule in rules if rule.priority == RULE_TO_POD}
    names = {link.ifindex: link.name for link in links if link.kind == "veth"}
    pods = _pods(settings)
    found = []
    for route in routes:
        name = names.get(route.ifindex)
        if name is None:
            continue
        routed = route.protocol == netlink.KERNEL and name.startswith(settings.veth_prefix)
        if route.dst in ruled or routed:
            found.append(f"{pods.get(route.dst, 'a pod unknown to ipam.json')} ({_text(route.dst)}, {name})")
    return sorted(found)


def _pods(settings: Settings) -> dict[bytes, str]:
    """Names by address, as far as ipam.json tells."""
    try:
        entries = read_checkpoint(Path(settings.checkpoint_path).read_bytes()).allocations
    except (OSError, EnidError):
        return {}
    return {entry.address: f"{entry.metadata.namespace}/{entry.metadata.pod}" for entry in entries}


def _deletion(rule: netlink.Rule) -> netlink.Op:
    return netlink.rule_del(
        rule.priority,
        rule.table,
        src=rule.src or None,
        src_length=rule.src_length if rule.src else None,
        dst=rule.dst or None,
        dst_length=rule.dst_length if rule.dst else None,
        fwmark=rule.fwmark or None,
        fwmask=rule.fwmask or None,
        protocol=netlink.KERNEL,
        family=INET,
    )


def _words(rule: netlink.Rule) -> str:
    source = f" from {_text(rule.src)}/{rule.src_length}" if rule.src else ""
    target = f" to {_text(rule.dst)}/{rule.dst_length}" if rule.dst else ""
    mark = f" fwmark {rule.fwmark:#x}" if rule.fwmark else ""
    return f"rule {rule.priority}{source}{target}{mark} lookup {rule.table}"


def _text(raw: bytes) -> str:
    return ".".join(map(str, raw))
