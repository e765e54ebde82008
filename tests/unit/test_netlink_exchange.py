"""What we make of the kernel's answers, with a kernel that answers as a test says."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext import netlink
from tests.twins.null_kernel import HEADER, NullKernel, answer, link, message

ADDRESS = socket.inet_aton("10.0.1.23")
HOST_MAC, POD_MAC = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
Opener = Callable[..., tuple[NullKernel, netlink.Socket]]


@pytest.fixture
def kernel() -> Iterator[Opener]:
    """Opens null kernels and closes them."""
    opened: list[tuple[NullKernel, netlink.Socket]] = []

    def open_(
        errors: Callable[[int, int], int] = lambda batch, index: 0, *, echo: bool = True
    ) -> tuple[NullKernel, netlink.Socket]:
        null = NullKernel(errors, echo=echo)
        opened.append((null, netlink.Socket(null.detach(), check=False)))
        return opened[-1]

    yield open_
    for null, sock in opened:
        sock.close()
        null.close()


def soon(seconds: float = 2.0) -> int:
    """A deadline."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)


def types(batch: bytes) -> list[int]:
    """RTM_* of each message of a batch."""
    found, at = [], 0
    while at < len(batch):
        size, kind, _, _, _ = HEADER.unpack_from(batch, at)
        found.append(kind)
        at += size + -size % 4
    return found


THREE = [
    netlink.rule_add(512, 254, dst="10.0.0.1"),
    netlink.route_replace("10.0.0.1", index=3),
    netlink.rule_del(1536, src="10.0.0.1"),
]


def test_tolerated_errors_are_no_failure_and_are_counted(kernel: Opener) -> None:
    """EEXIST of rule_add and ENOENT of rule_del: one of three took effect."""
    null, sock = kernel(lambda batch, index: {0: errno.EEXIST, 2: errno.ENOENT}.get(index, 0))
    assert sock.run(netlink.compile_ops(THREE)) == 1
    assert types(null.batches[0]) == [32, 24, 33]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_first_refused_message_is_named(kernel: Opener, bad: int) -> None:
    """A batch goes on after an error; the first is told, with the kernel's words."""
    _, sock = kernel(lambda batch, index: errno.EPERM if index >= bad else 0)
    with pytest.raises(netlink.KernelError, match=r"rule_add|route_replace|rule_del") as caught:
        sock.run(netlink.compile_ops(THREE))
    error = caught.value
    assert (error.index, error.op, error.errno) == (bad, THREE[bad].kind, errno.EPERM)
    assert error.text == f"message {bad} is not liked"


def test_a_tolerated_error_before_a_real_one_is_not_the_one_named(kernel: Opener) -> None:
    """Index and errno are those of the message refused in earnest."""
    _, sock = kernel(lambda batch, index: (errno.EEXIST, errno.ENETDOWN, errno.ENOENT)[index])
    with pytest.raises(netlink.KernelError) as caught:
        sock.run(netlink.compile_ops(THREE))
    assert (caught.value.index, caught.value.errno) == (1, errno.ENETDOWN)


def test_a_missing_answer_ends_at_the_deadline() -> None:
    """Nothing blocks for ever: ETIMEDOUT, naming the call."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, netlink.Socket(b.detach(), check=False) as sock, pytest.raises(netlink.KernelError) as caught:
        sock.run(netlink.compile_ops(THREE), b"", soon(0.05))
    assert (caught.value.errno, caught.value.op) == (errno.ETIMEDOUT, "receive")


def scripted(*datagrams: Callable[[int], bytes]) -> None:
    """Runs a batch of one deletion whose answers are these; each is given the sequence number."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, netlink.Socket(b.detach(), check=False) as sock:
        template = netlink.compile_ops([netlink.link_del(7)])
        # The number is known from a first batch, whose answer is left out.
        with pytest.raises(netlink.KernelError):
            sock.run(template, b"", 1)
        seq = HEADER.unpack_from(a.recv(4096))[3] + 1
        for datagram in datagrams:
            a.send(datagram(seq))
        assert sock.run(template, b"", soon(0.2)) == 1


def test_answers_to_earlier_batches_are_passed_over() -> None:
    """A late answer to a batch that was given up must not be taken for the next one's."""
    scripted(
        lambda seq: answer(errno.EPERM, seq - 1),
        lambda seq: answer(errno.EPERM, seq + 1),
        lambda seq: link(seq - 1) + answer(0, seq - 1) + answer(0, seq),
    )


@pytest.mark.parametrize(
    "nonsense",
    [
        b"x",
        bytes(16),
        HEADER.pack(4000, 2, 0, 0, 0),
        message(2, 0, 0, b"\0"),
        message(2, 0, 0, struct.pack("=i", 5) + bytes(16)),
        message(2, 0, 0, struct.pack("=i", -5000) + bytes(16)),
        message(2, 0x200, 0, struct.pack("=i", -1) + HEADER.pack(9999, 0, 0, 0, 0)),
        message(16, 0, 0, bytes(4)),
        message(16, 0, 0, bytes(16) + struct.pack("=HH", 200, 3)),
        message(16, 0, 0, bytes(16) + struct.pack("=HHHH", 8, 18, 90, 1)),
    ],
)
def test_nonsense_is_a_typed_error(nonsense: bytes) -> None:
    """Truncated, oversized and impossible answers: EBADMSG, never a crash or a wait."""
    with pytest.raises(netlink.KernelError) as caught:
        scripted(lambda seq: nonsense)
    assert (caught.value.errno, caught.value.op) == (errno.EBADMSG, "receive")


def test_an_answer_larger_than_we_read_is_a_typed_error() -> None:
    """A cut datagram is not half read."""
    with pytest.raises(netlink.KernelError) as caught:
        scripted(lambda seq: message(16, 0, seq, bytes(20000)))
    assert caught.value.errno == errno.EBADMSG


def test_a_closed_other_end_is_a_typed_error() -> None:
    """ECONNRESET or EPIPE, not an endless loop."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a.close()
    with netlink.Socket(b.detach(), check=False) as sock, pytest.raises(netlink.KernelError) as caught:
        sock.run(netlink.compile_ops(THREE))
    assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)


def add(
    host: netlink.Socket, pod: netlink.Socket, *, secondary: bool = False, deadline: int = 0
) -> tuple[int, tuple[int, ...]]:
    """pod_add without sysctls: the index, and what it took."""
    shape = netlink.pod_shape(secondary=secondary, sysctls=False)
    slots = shape.slots(address=ADDRESS, host_name="enitest", host_mac=HOST_MAC, pod_mac=POD_MAC, netns=0, table=2)
    took = bytearray(netlink.TOOK.size)
    index = netlink.pod_add(host, pod, shape, slots, took, deadline)
    assert struct.unpack_from("=II", slots) == (index, 2)
    return index, netlink.TOOK.unpack(took)


def test_an_add_sends_what_it_should_where_it_should(kernel: Opener) -> None:
    """Link alone, host batch, settle on the host's socket; one batch on the pod's; nothing else."""
    (host, host_socket), (pod, pod_socket) = kernel(), kernel()
    index, took = add(host_socket, pod_socket, secondary=True)
    assert index == 7
    assert [types(b) for b in host.batches] == [[16], [16, 28, 24, 32, 32], [18]]
    assert [types(b) for b in pod.batches] == [[16, 20, 24, 24, 28]]
    assert took[6] == 12


def test_without_an_echo_the_link_is_asked_for(kernel: Opener) -> None:
    """Kernels before 6.2: one message more."""
    (host, host_socket), (_, pod_socket) = kernel(echo=False), kernel()
    assert add(host_socket, pod_socket)[0] == 7
    assert [types(b) for b in host.batches] == [[16], [18], [16, 28, 24, 32], [18]]


def test_an_old_kernel_is_asked_until_the_link_is_active(kernel: Opener) -> None:
    """Before 6.8 asking does not activate the queue: packets would be lost if the ADD returned then."""
    (host, host_socket), (_, pod_socket) = kernel(), kernel()
    host.operstates = [2, 2, 2]
    add(host_socket, pod_socket)
    assert [types(b) for b in host.batches[2:]] == [[18]] * 4


def test_a_link_that_never_gets_active_fails_and_is_undone(kernel: Opener) -> None:
    """ADD returns only when the path works."""
    (host, host_socket), (_, pod_socket) = kernel(), kernel()
    host.operstates = [2] * 100_000
    with pytest.raises(netlink.KernelError) as caught:
        add(host_socket, pod_socket, deadline=soon(0.05))
    assert (caught.value.phase, caught.value.errno, caught.value.undone) == ("settle", errno.ETIMEDOUT, True)
    assert types(host.batches[-1]) == [33, 17]


HOST_BATCHES = {1: "host", 2: "settle"}


@pytest.mark.parametrize(("batch", "index"), [(1, i) for i in range(5)] + [(2, 0)])
def test_a_refusal_in_the_host_batch_is_undone(kernel: Opener, batch: int, index: int) -> None:
    """Every message of the host part, refused in turn: rules and link are taken back, the error says which."""
    (host, host_socket), (_, pod_socket) = (
        kernel(lambda b, i: errno.ENOBUFS if (b, i) == (batch, index) else 0),
        kernel(),
    )
    with pytest.raises(netlink.KernelError) as caught:
        add(host_socket, pod_socket, secondary=True)
    error = caught.value
    names = ["link_set", "neighbour_set", "route_replace", "rule_add", "rule_add"] if batch == 1 else ["link_get"]
    assert (error.phase, error.op, error.errno, error.undone) == (
        HOST_BATCHES[batch], names[index], errno.ENOBUFS, True,
    )  # fmt: skip
    assert types(host.batches[-1]) == [33, 33, 17]


@pytest.mark.parametrize("index", range(5))
def test_a_refusal_in_the_pod_batch_is_undone(kernel: Opener, index: int) -> None:
    """Every message of the pod part, refused in turn; the host's socket takes back."""
    (host, host_socket), (pod, pod_socket) = kernel(), kernel(lambda b, i: errno.EINVAL if i == index else 0)
    with pytest.raises(netlink.KernelError) as caught:
        add(host_socket, pod_socket)
    names = ["link_set", "address_add", "route_replace", "route_add", "neighbour_set"]
    assert (caught.value.phase, caught.value.op, caught.value.index) == ("pod", names[index], index)
    assert types(host.batches[-1]) == [33, 17]
    assert len(pod.batches) == 1


def test_an_undo_that_fails_is_said(kernel: Opener) -> None:
    """The caller must know that something may have stayed."""
    (_, host_socket), (_, pod_socket) = kernel(lambda b, i: errno.EIO if b >= 1 else 0), kernel()
    with pytest.raises(netlink.KernelError, match="could not be undone") as caught:
        add(host_socket, pod_socket)
    assert not caught.value.undone


def test_a_refused_link_needs_no_undo(kernel: Opener) -> None:
    """The veth is made alone, so nothing else was sent."""
    (host, host_socket), (pod, pod_socket) = kernel(lambda b, i: errno.EPERM), kernel()
    with pytest.raises(netlink.KernelError) as caught:
        add(host_socket, pod_socket)
    assert (caught.value.phase, caught.value.op) == ("link", "veth_add")
    assert ([types(b) for b in host.batches], pod.batches) == ([[16]], [])


def test_a_taken_name_describes_its_holder(kernel: Opener) -> None:
    """EEXIST of the host's name."""
    (_, host_socket), (pod, pod_socket) = kernel(lambda b, i: errno.EEXIST if b == 0 else 0), kernel()
    with pytest.raises(netlink.NameTaken) as caught:
        add(host_socket, pod_socket)
    assert (caught.value.name, caught.value.ifindex, caught.value.up) == ("enitest", 7, True)
    assert pod.batches == []


def test_a_taken_name_inside_the_pod_is_a_kernel_error(kernel: Opener) -> None:
    """EEXIST, but no link of the host's name: it is the peer's."""
    (_, host_socket), (_, pod_socket) = (
        kernel(lambda b, i: {0: errno.EEXIST, 1: errno.ENODEV}.get(b, 0)),
        kernel(),
    )
    with pytest.raises(netlink.KernelError) as caught:
        add(host_socket, pod_socket)
    assert (caught.value.op, caught.value.errno) == ("veth_add", errno.EEXIST)


def test_a_deadline_that_has_passed_changes_nothing(kernel: Opener) -> None:
    """No message is sent."""
    (host, host_socket), (pod, pod_socket) = kernel(), kernel()
    with pytest.raises(netlink.KernelError, match="deadline"):
        add(host_socket, pod_socket, deadline=1)
    assert host.batches == pod.batches == []


def delete(host: netlink.Socket, mac: bytes = bytes(6), table: int = 0) -> int:
    """pod_del by name."""
    shape = netlink.pod_shape()
    return netlink.pod_del(host, shape, shape.slots(address=ADDRESS, host_name="enitest", host_mac=mac, table=table))


def test_a_del_repeats_the_rules_until_there_is_none(kernel: Opener) -> None:
    """Two rules 1536 and one 512: each is deleted until ENOENT; last the link goes down."""
    null, sock = kernel(lambda b, i: errno.ENOENT if b in (2, 3) else 0)
    assert delete(sock) == 7
    assert [types(b) for b in null.batches] == [[18, 33, 33, 25], [33], [33], [33], [16]]


def test_a_del_of_a_pod_on_the_primary_eni_is_three_batches(kernel: Opener) -> None:
    """No from-rule, so only the other is repeated."""
    null, sock = kernel(lambda b, i: errno.ENOENT if (b, i) in ((0, 1), (1, 0)) else 0)
    assert delete(sock) == 7
    assert [types(b) for b in null.batches] == [[18, 33, 33, 25], [33], [16]]


def test_a_del_of_nothing_is_no_error(kernel: Opener) -> None:
    """All missing."""
    null, sock = kernel(lambda b, i: (errno.ENODEV, errno.ENOENT, errno.ENOENT, errno.ESRCH)[i])
    assert delete(sock) == 0
    assert len(null.batches) == 1


def test_a_del_leaves_a_link_with_another_mac_alone(kernel: Opener) -> None:
    """The name was taken over by a later sandbox of the same pod."""
    null, sock = kernel(lambda b, i: errno.ENOENT if (b, i) in ((0, 1), (0, 2)) else 0)
    assert delete(sock, mac=HOST_MAC) == 0
    assert [types(b) for b in null.batches] == [[18, 33, 33, 25]]


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_del_tries_all_before_it_fails(kernel: Opener, index: int) -> None:
    """One refusal: the rest is still done, then the error is told."""
    null, sock = kernel(lambda b, i: errno.EPERM if (b, i) == (0, index) else errno.ENOENT if b in (1, 2) else 0)
    with pytest.raises(netlink.KernelError) as caught:
        delete(sock)
    names = ["link_get", "rule_del", "rule_del", "route_del"]
    assert (caught.value.op, caught.value.errno) == (names[index], errno.EPERM)
    assert len(null.batches) == (3 if index in (0, 1, 2) else 4)


def test_buffers_that_are_too_small_are_refused(kernel: Opener) -> None:
    """Before anything is sent."""
    null, sock = kernel()
    shape = netlink.pod_shape()
    for call in (
        lambda: netlink.pod_add(sock, sock, shape, bytearray(shape.size - 1)),
        lambda: netlink.pod_add(sock, sock, shape, bytearray(shape.size), bytearray(8)),
        lambda: netlink.pod_del(sock, shape, bytearray(3)),
        lambda: sock.run(shape.templates[1], b"123"),
        lambda: sock.run(shape.templates[1]),
        lambda: sock.new_link(netlink.compile_ops(THREE)),
    ):
        with pytest.raises(ValueError, match=r"needed|exactly one"):
            call()
    assert null.batches == []


def test_what_is_no_netlink_socket_is_refused_and_stays_open(tmp_path: Path) -> None:
    """A file, a socket of another family, another netlink protocol, a closed descriptor."""
    plain = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as generic:
        for fd in (plain, unix.fileno(), generic.fileno()):
            with pytest.raises(netlink.WrongSocket, match=f"descriptor {fd} is no NETLINK_ROUTE socket"):
                netlink.Socket(fd)
            os.fstat(fd)
    os.close(plain)
    with pytest.raises(netlink.WrongSocket):
        netlink.Socket(plain)


def test_a_closed_socket_is_a_typed_error() -> None:
    """And closing twice is fine."""
    sock = netlink.Socket.open()
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    with pytest.raises(netlink.KernelError) as caught:
        sock.run(netlink.compile_ops(THREE))
    assert caught.value.errno == errno.EBADF
