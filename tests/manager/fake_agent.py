"""An agent for the manager's tests: the control protocol over a unix socket, and a pool of single addresses.

It keeps the pool's rules by itself: a used or cooling address cannot be dropped, a quarantined one neither, an ENI
with blocks neither, and a block needs its ENI. So a manager that breaks one is refused, and a test sees it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent import control


@dataclass
class Address:
    eni_id: str
    state: control.State = "open"
    pod: int | None = None
    cooling: bool = False


@dataclass
class FakeAgent:
    """Serves `path` until `stop`. All state may be read by tests under `lock`; `refused` holds what was refused.

    `wait_ready`: new addresses wait for the manager's Ready, as after a long absence. `on_assign` hears of each
    address that a pod gets, in `lock`. `failed`: what was told to pods that waited in vain, or would have.
    `deaf_after`: the request after which it hears nothing but what was sent with it, as if its manager had died there.
    """

    path: Path
    enis: dict[str, control.Eni] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)
    outlook: control.Outlook | None = None
    report: dict[str, object] = field(default_factory=dict)
    ready: bool = False
    waiting: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    wait_ready: bool = False
    on_assign: Callable[[str, str], None] | None = None
    deaf_after: Callable[[control.Request], bool] = lambda _: False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._pods = 0
        self._seq = 0
        self._clients: list[socket.socket] = []
        self._watchers: list[socket.socket] = []
        self._manager: socket.socket | None = None
        self._parted = threading.Condition(self.lock)
        self._listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    # --- pods -------------------------------------------------------------------------------------------------

    def add_pods(self, count: int) -> None:
        """ADDs: served at once or parked."""
        with self.lock:
            for _ in range(count):
                self._pods += 1
                self.waiting.append(self._pods)
            self._serve_parked()
            self._fail_in_vain()
            self._tell(list(self.addresses))

    def delete_pods(self, count: int, *, cool: bool = False) -> None:
        """DELs of the youngest pods."""
        with self.lock:
            used = sorted((a.pod, base) for base, a in self.addresses.items() if a.pod is not None)
            gone = [base for _, base in used[-count:]]
            for base in gone:
                self.addresses[base].pod, self.addresses[base].cooling = None, cool
            self._tell(gone)

    def used(self) -> set[str]:
        with self.lock:
            return {base for base, address in self.addresses.items() if address.pod is not None}

    def open(self) -> set[str]:
        with self.lock:
            return {base for base, address in self.addresses.items() if address.state == "open"}

    def _serve_parked(self) -> None:
        for base, address in self.addresses.items():
            free = address.pod is None and not address.cooling and address.state == "open"
            if self.waiting and free and not self.wait_ready:
                address.pod = self.waiting.pop(0)
                if self.on_assign is not None:
                    self.on_assign(address.eni_id, base)

    def _fail_in_vain(self) -> None:
        """When no address can come, as many wait as cool-downs end, and the others fail, the last come first."""
        told = self.outlook
        if told is None or told.can_grow or self.wait_ready:
            return
        open_ones = [address for address in self.addresses.values() if address.state == "open"]
        hope = sum(address.pod is None for address in open_ones)
        while len(self.waiting) > hope:
            self.waiting.pop()
            self.failed.append(f"{told.code}: {told.text}")

    def left(self) -> None:
        """Wait until it knows that its manager is gone, as a killed process's agent does before any later call."""
        with self._parted:
            assert self._parted.wait_for(lambda: self._manager is None, 15)

    def tell(self) -> None:
        """A test has changed something."""
        with self.lock:
            self._serve_parked()
            self._tell(list(self.addresses))

    # --- protocol ---------------------------------------------------------------------------------------------

    def _pool(self) -> control.Pool:
        there = [a for a in self.addresses.values() if a.state == "open"]
        used = sum(a.pod is not None for a in there)
        cooling = sum(a.cooling for a in there)
        return control.Pool(len(there), used, cooling, len(there) - used - cooling, len(self.waiting))

    def _block(self, base: str) -> control.Block:
        a = self.addresses[base]
        return control.Block(a.eni_id, base, 32, "address", a.state, int(a.pod is not None), int(a.cooling), 1)

    def _tell(self, bases: list[str], gone: tuple[str, ...] = ()) -> None:
        self._seq += 1
        update = control.Update(self._seq, self._pool(), [self._block(b) for b in bases], [f"{b}/32" for b in gone])
        for watcher in list(self._watchers):
            try:
                watcher.sendall(control.encode(control.ReplyFrame(0, update)))
            except OSError:
                self._watchers.remove(watcher)

    def _carry_out(self, request: control.Request, client: socket.socket) -> control.Reply:
        match request:
            case control.GetSnapshot(watch):
                if watch:
                    self._watchers.append(client)
                blocks = [self._block(base) for base in self.addresses]
                return control.Snapshot(self._seq, "boot", 0.0, self.ready, self._pool(), [*self.enis.values()], blocks)
            case control.SetEni(eni):
                self.enis[eni.eni_id] = eni
            case control.DropEni(eni_id):
                if any(a.eni_id == eni_id for a in self.addresses.values()):
                    return control.Refused("busy", eni_id)
                self.enis.pop(eni_id, None)
            case control.AddBlock(eni_id, base, state=state):
                if eni_id not in self.enis:
                    return control.Refused("unknown-eni", eni_id)
                if base in self.addresses:
                    same = self.addresses[base].eni_id == eni_id
                    return control.Done() if same else control.Refused("overlap", base)
                self.addresses[base] = Address(eni_id, state)
                self._serve_parked()
                self._tell([base])
            case control.SetBlockState(base, _, state):
                if base not in self.addresses:
                    return control.Refused("unknown-block", base)
                self.addresses[base].state = state
                self._serve_parked()
                self._tell([base])
            case control.DropBlock(base):
                address = self.addresses.get(base)
                if address and (address.pod is not None or address.cooling or address.state == "quarantined"):
                    return control.Refused("busy", base)
                self.addresses.pop(base, None)
                self._tell([], (base,))
            case control.Outlook():
                self.outlook = request
                before = len(self.failed)
                self._fail_in_vain()
                if len(self.failed) > before:
                    self._tell([])
            case control.Report(report):
                self.report = report
            case control.Ready():
                self.ready, self.wait_ready = True, False
                self._serve_parked()
                self._tell(list(self.addresses))
            case control.Hello(role="manager"):
                self._manager = client
            case _:
                return control.Refused("unsupported", type(request).__name__)
        return control.Done()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self.lock:
                self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._talk(client)
        with self.lock:
            if client is self._manager:
                # Whether more can come is the next manager's to say.
                self._manager, self.outlook = None, None
                self._parted.notify_all()

    def _talk(self, client: socket.socket) -> None:
        buffer = bytearray()
        while True:
            try:
                data = client.recv(65536)
            except OSError:
                return
            if not data:
                return
            buffer += data
            while len(buffer) >= 4 and len(buffer) >= 4 + (length := control.LENGTH.unpack_from(buffer)[0]):
                frame = control.decode_request(bytes(buffer[4 : 4 + length]))
                del buffer[: 4 + length]
                with self.lock:
                    answer = self._carry_out(frame.body, client)
                    self.commands.append(type(frame.body).__name__)
                    if self.deaf_after(frame.body):
                        self._listener.shutdown(socket.SHUT_RDWR)
                        # What is in its queue can still be read.
                        client.shutdown(socket.SHUT_RD)
                    if isinstance(answer, control.Refused):
                        self.refused.append(f"{type(frame.body).__name__} {answer.code} {answer.text}")
                    try:
                        client.sendall(control.encode(control.ReplyFrame(frame.id, answer)))
                    except OSError:
                        return

    def stop(self) -> None:
        """As if killed: connections break, state stays in the object for a successor."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Whom it has accepted is known when it has ended.
        self._threads[0].join()
        with self.lock:
            for client in self._clients:
                try:
                    client.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join()
        self.path.unlink(missing_ok=True)
