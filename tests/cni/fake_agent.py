"""An agent of a few lines: it listens, writes down what comes, and answers as the test says.

It runs in a thread and uses `cni.wire` for the frames, but keeps the raw bytes too, so that the format is
compared with files and not with itself. Descriptors are looked at while they are open: what they are is the
point of the exercise.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cni import wire

Answer = Callable[[wire.Request], bytes | None]
RESULT = b'{"cniVersion":"0.4.0","interfaces":[{"name":"eni1"},{"name":"eth0","mac":"2"}],"ips":[],"dns":{}}'


@dataclass
class Seen:
    """One request: its bytes, its meaning, and what its descriptors led to."""

    raw: bytes
    request: wire.Request
    descriptors: int = 0
    netns_inode: int = 0
    links: list[str] = field(default_factory=list)
    peer_uid: int = -1


def reply(status: int = 0, text: bytes = b"") -> Answer:
    """Answers with a REPLY."""
    return lambda _request: wire.encode_reply(status, text)


def die(_request: wire.Request) -> bytes | None:
    """Reads the request and goes, as a killed agent does."""
    return None


def link_names(descriptor: int) -> list[str]:
    """The names of all links that a NETLINK_ROUTE socket sees (rtnetlink(7): nlmsghdr, ifinfomsg, rtattr)."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
    head = struct.pack("=IHHII", 16 + len(body), 18, 0x301, 1, 0)
    names: list[str] = []
    with socket.socket(fileno=os.dup(descriptor)) as route:
        route.settimeout(10)
        route.send(head + body)
        while True:
            data, at = route.recv(1 << 16), 0
            while at < len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind == 3:
                    return sorted(names)
                assert kind == 16, f"netlink answered with type {kind}"
                attribute = at + 16 + 16
                while attribute < at + size:
                    length, number = struct.unpack_from("=HH", data, attribute)
                    if number == 3:
                        names.append(data[attribute + 4 : attribute + length].rstrip(b"\0").decode())
                    attribute += (length + 3) & ~3
                at += (size + 3) & ~3


class FakeAgent:
    """Serves `folder/cni.sock`. The n-th connection gets the n-th of `answers`, all after them the last."""

    def __init__(self, folder: Path, answers: Iterable[Answer] = (reply(),), parallel: bool = False) -> None:
        self.path = folder / "cni.sock"
        self.answers = list(answers)
        self.seen: list[Seen] = []
        self.failures: list[BaseException] = []
        self._parallel = parallel
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(1024)
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._wake.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        for worker in self._workers:
            worker.join(20)
        self._listener.close()
        self._stop.close()
        assert not self.failures, self.failures

    @property
    def requests(self) -> list[wire.Request]:
        return [seen.request for seen in self.seen]

    def _run(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            answer = self.answers[min(number, len(self.answers) - 1)]
            number += 1
            if self._parallel:
                worker = threading.Thread(target=self._guarded, args=(connection, answer), daemon=True)
                self._workers.append(worker)
                worker.start()
            else:
                self._guarded(connection, answer)

    def _guarded(self, connection: socket.socket, answer: Answer) -> None:
        try:
            with connection:
                self._serve(connection, answer)
        except ConnectionError:
            pass
        except BaseException as error:
            self.failures.append(error)

    def _serve(self, connection: socket.socket, answer: Answer) -> None:
        decoder, raw, frame = wire.Decoder(), b"", None
        descriptors: list[int] = []
        while frame is None:
            data, fds, _flags, _address = socket.recv_fds(connection, max(decoder.missing, 1), wire.DESCRIPTORS)
            descriptors += fds
            if not data:
                return
            raw += data
            frame = decoder.feed(data)
        seen = Seen(raw, wire.parse_request(frame), len(descriptors))
        seen.peer_uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if descriptors:
            seen.netns_inode = os.fstat(descriptors[0]).st_ino
            seen.links = link_names(descriptors[1])
        for descriptor in descriptors:
            os.close(descriptor)
        with self._lock:
            self.seen.append(seen)
        given = answer(seen.request)
        if given is not None:
            connection.sendall(given)

    def hang(self, _request: wire.Request) -> bytes | None:
        """Takes the request and never answers, until the test ends."""
        self._stop.recv(1)
        return None
