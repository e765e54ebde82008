"""The CNI socket: accepts, reads one frame per connection with its two descriptors, writes one reply.

Nothing of a caller is trusted: only uid 0 is served, sizes are refused by their headers, descriptors are closed with
the answer or with the connection, whatever happens. A caller that is too slow is dropped; one that hangs up while its
ADD waits is noticed.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from agent.fastpath.log import Log
from agent.fastpath.loop import READ, WRITE, Loop, Timer, now_ns
from agent.fastpath.relay import Relay
from cni import wire
from core import result
from core.errors import BadRequest, DescriptorsRefused, EnidError

FIRST_READ: Final = 8192
PATIENCE_NS: Final = 30_000_000_000
ACCEPT_AT_ONCE: Final = 32
# Verbs that can do without descriptors: above all a DEL must not fail for want of what it does not use.
WITHOUT: Final = frozenset((wire.Kind.DEL, wire.Kind.STATUS, wire.Kind.GC))
_CREDENTIALS: Final = struct.Struct("iII")
# Room for more than the two that are allowed: what is not received would be dropped in silence.
_ANCILLARY: Final = socket.CMSG_SPACE(8 * 4)


class Closable(Protocol):
    """What a call may keep beside its descriptors until it is over."""

    def close(self) -> None: ...


class Call:
    """One connection of a shim: a request, later its reply. `pod` is what was made of a descriptor of `fds`."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_server",
        "arrived_ns",
        "fds",
        "gone",
        "lacks",
        "pod",
        "relayed",
        "request",
        "waiting",
    )

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._decoder = wire.Decoder()
        self.fds: list[int] = []
        self.lacks = ""  # why there are not the descriptors that were announced
        self.relayed = False  # the shim must speak for us: the kernel has held them back
        self.pod: Closable | None = None
        self.arrived_ns = now_ns()
        self.request: wire.Request | None = None
        self.waiting: Callable[[], None] | None = None
        self.gone = False

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._connection.fileno()

    def relay(self) -> Relay:
        """The pod's netlink through this call's shim."""
        return Relay(self._connection)

    def take(self) -> bool:
        """Read what is there; True once the whole request is.

        Raises WireError and its kin, DescriptorsRefused, OSError.
        """
        while True:
            try:
                data, ancillary, flags, _ = self._connection.recvmsg(
                    max(self._decoder.missing, FIRST_READ), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                    self.fds += numbers
            if flags & socket.MSG_CTRUNC:
                self.lacks = self._why_cut()
            if not data:
                raise ConnectionResetError("the caller hung up before its request was complete")
            frame = self._decoder.feed(data)
            if frame is not None:
                self.request = wire.parse_request(frame)
                wanted = wire.DESCRIPTORS if self.request.flags & wire.HAS_DESCRIPTORS else 0
                if not self.lacks and len(self.fds) != wanted:
                    self.lacks = f"{len(self.fds)} descriptors came with the request, {wanted} are announced"
                self.relayed = self.relayed and self.request.kind is wire.Kind.ADD
                if self.lacks and self.request.kind not in WITHOUT and not self.relayed:
                    raise DescriptorsRefused(self.lacks)
                return True

    def _why_cut(self) -> str:
        """Why the kernel did not hand over all descriptors (unix(7), MSG_CTRUNC)."""
        try:
            os.close(os.dup(self._connection.fileno()))
        except OSError as error:
            return f"the agent has no room for the descriptors of the pod's namespace: {error}"
        self.relayed = True
        return "the descriptors of the pod's namespace were held back by the kernel; SELinux does that"

    @property
    def started(self) -> bool:
        """Whether anything was sent."""
        return self._decoder.started

    def hung_up(self) -> bool:
        """Whether the caller is gone; asks the kernel."""
        if self.gone:
            return True
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait(self, hung_up: Callable[[], None]) -> None:
        """Keep the caller waiting; `hung_up` is called if it gives up."""
        self.waiting = hung_up
        self._server.watch(self)

    def reply(self, status: int, text: bytes) -> None:
        """Answer and be done. A caller that is gone is fine."""
        if not self.gone:
            version = self.request.version if self.request is not None else wire.VERSION
            self._server.send(self, wire.encode_reply(status, text, version))

    def fail(self, error: EnidError) -> None:
        """Answer with a CNI error object."""
        version = "0.4.0"
        if self.request is not None:
            from_config = self._server.version_of(self.request.config)
            version = from_config or version
        self.reply(1, result.error(error, version))

    def close_descriptors(self) -> None:
        """Close the pod's descriptors; twice is fine."""
        if self.pod is not None:
            self.pod.close()
            self.pod = None
        for fd in self.fds:
            try:
                os.close(fd)
            except OSError:
                pass
        self.fds = []

    def close(self) -> None:
        """End the connection; twice is fine."""
        if not self.gone:
            self.gone = True
            self._server.forget(self)
            self.close_descriptors()
            self._connection.close()


class Server:
    """Serves the listening socket that the supervisor holds. `handle(call)` gets each complete request."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        listener: socket.socket,
        handle: Callable[[Call], None],
        version_of: Callable[[bytes], str],
    ) -> None:
        self._loop = loop
        self._log = log
        self._listener = listener
        self._handle = handle
        self.version_of = version_of
        self.calls: set[Call] = set()
        self._watched: set[int] = set()
        self._pause: Timer | None = None
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._accept)

    # --- reading ------------------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptors left: those who wait stay in the queue until some are free.
                self._log.error("server", f"accept: {error}")
                self._loop.forget(self._listener.fileno())
                self._pause = self._loop.at(now_ns() + 100_000_000, self._resume)
                return
            connection.setblocking(False)
            call = Call(self, connection)
            self.calls.add(call)
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _gid = _CREDENTIALS.unpack(raw)
            if uid != 0:
                self._log.warn("server", f"process {pid} of uid {uid} is refused; only uid 0 is served")
                call.close()
                continue
            self._read(call)

    def _resume(self) -> None:
        self._pause = None
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _read(self, call: Call) -> None:
        try:
            if not call.take():
                self.watch(call)
                return
        except wire.VersionNotSpoken as error:
            self._log.warn("server", error.text)
            self.send(call, wire.encode_unsupported())
            return
        except (BadRequest, DescriptorsRefused) as error:
            self._log.warn("server", f"{error.code}: {error.text}")
            call.fail(error)
            return
        except OSError as error:
            if call.started or not isinstance(error, ConnectionResetError):
                self._log.warn("server", f"a caller is gone: {error!r}")
            call.close()
            return
        self._unwatch(call)
        try:
            self._handle(call)
        except EnidError as error:
            call.fail(error)
        except BaseException as error:
            call.fail(EnidError(f"internal error: {type(error).__name__}: {error}"))
            raise

    def _ready(self, call: Call) -> None:
        if call.waiting is None:
            self._read(call)
            return
        # Whatever a waiting caller does but wait, it is not waiting any more.
        hung_up = call.waiting
        call.close()
        hung_up()

    # --- watching -----------------------------------------------------------------------------------------

    def watch(self, call: Call) -> None:
        """Be told when the caller sends more, or hangs up."""
        fd = call.fileno()
        if fd not in self._watched:
            self._watched.add(fd)
            self._loop.watch(fd, READ, lambda _events: self._ready(call))

    def _unwatch(self, call: Call) -> None:
        fd = call.fileno()
        if fd in self._watched:
            self._watched.discard(fd)
            self._loop.forget(fd)

    def forget(self, call: Call) -> None:
        """The call is over."""
        self._unwatch(call)
        self.calls.discard(call)

    # --- writing ------------------------------------------------------------------------------------------

    def send(self, call: Call, data: bytes) -> None:
        """Write without blocking, then close. The pod's descriptors are closed with the answer."""
        call.waiting = None
        connection = call._connection
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            call.close()
            return
        if sent == len(data):
            call.close()
            return
        call.close_descriptors()
        rest = memoryview(data)[sent:]
        self._unwatch(call)
        self._watched.add(call.fileno())
        self._loop.watch(call.fileno(), WRITE, lambda _events: self._send_rest(call, rest))

    def _send_rest(self, call: Call, rest: memoryview) -> None:
        self._unwatch(call)
        self.send(call, bytes(rest))

    # --- the rest -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Drop callers that are too slow to send their request or to take their answer."""
        limit = now_ns() - PATIENCE_NS
        for call in [c for c in self.calls if c.waiting is None and c.arrived_ns < limit]:
            self._log.warn("server", "a caller is too slow and is dropped")
            call.close()

    def close(self) -> None:
        """Stop accepting; callers without an answer are cut off, and try again on the next agent."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.forget(self._listener.fileno())
        for call in list(self.calls):
            call.close()
