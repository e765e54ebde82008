"""The pod's netlink through the shim, on nodes whose policy lets no descriptors pass.

SELinux may hold back the two descriptors that a request brings. Then nothing of ours can speak to the pod's namespace,
but the shim can: so the kernel writer is given two sockets whose other ends are here, and each datagram that it sends
goes to the shim, which sends it for us and brings the kernel's answers (docs/seams.md, section 1). It takes a
millisecond more, in which this process serves nobody else.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

from cni import wire
from core.errors import DescriptorsRefused
from ext import netlink

PATIENCE_S: Final = 5.0
DATAGRAM: Final = 1 << 16
_NUMBER: Final = struct.Struct("<i")


class Relay:
    """`host` and `pod` are sockets for the kernel writer, `netns` the number of the pod's namespace for messages to
    `host`. A context manager around their use; the connection is in between used for nothing else."""

    host: netlink.Socket
    pod: netlink.Socket
    netns: int

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        """Raises DescriptorsRefused if the shim does not answer."""
        self._connection.settimeout(PATIENCE_S)
        try:
            (answer,) = self._exchange(wire.RELAY_NETNS, b"")
            (self.netns,) = _NUMBER.unpack(answer)
        except (OSError, ValueError, struct.error, wire.WireError) as error:
            raise DescriptorsRefused(f"the shim cannot speak to the pod's namespace for us: {error}") from error
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self._far = [far for _, far in pairs]
        self.host, self.pod = (netlink.Socket(near.detach(), check=False) for near, _ in pairs)
        self._thread = threading.Thread(target=self._pump, name="relay", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.host.close()
        self.pod.close()
        self._thread.join()
        try:
            self._connection.setblocking(False)
        except OSError:
            pass

    def _pump(self) -> None:
        """Until the near ends are closed. If the shim goes the far ends are, which the kernel writer sees at once."""
        try:
            poll = select.poll()
            for far in self._far:
                poll.register(far, select.POLLIN)
            open_ends = {far.fileno(): (which, far) for which, far in enumerate(self._far)}
            while open_ends:
                for fd, _events in poll.poll():
                    which, far = open_ends[fd]
                    data = far.recv(DATAGRAM)
                    if not data:
                        poll.unregister(fd)
                        del open_ends[fd]
                        continue
                    for answer in self._exchange(which, data):
                        far.send(answer)
        except (OSError, wire.WireError):
            pass
        finally:
            for far in self._far:
                far.close()

    def _exchange(self, which: int, data: bytes) -> list[bytes]:
        """What came to one datagram. Raises OSError, WireError."""
        self._connection.sendall(wire.encode_relay(which, data))
        answers: list[bytes] = []
        while True:
            header = self._receive(wire.HEADER.size)
            length = wire.HEADER.unpack(header)[4]
            if length > DATAGRAM:
                raise wire.TooLarge(f"an answer of {length} bytes is above the bound of {DATAGRAM}")
            answer = wire.parse_relay(wire.decode_frame(header + self._receive(length)), which)
            if not answer:
                return answers
            answers.append(answer)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the shim hung up")
            data += part
        return data
