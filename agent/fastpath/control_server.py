"""The control socket: the manager's commands, and what the commands of people ask (`agent/control.py`).

Nothing here may hold an ADD up: sends do not block, changes are gathered for 20 ms, and a client that does not read
is cut off and starts over with a snapshot. Only that somebody waits for an address is told at once.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

import msgspec

from agent import control
from agent.fastpath.commands import Commands
from agent.fastpath.loop import READ, WRITE, Timer, now_ns
from agent.fastpath.messages import block_message, eni_message, pool_message
from agent.fastpath.node import Node
from agent.fastpath.parked import ParkingLot
from ext import pool

GATHER_NS: Final = 20_000_000
EXPIRY_NS: Final = 200_000_000
READ_SIZE: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("iII")


class _Id(msgspec.Struct):
    id: int = 0


_id = msgspec.msgpack.Decoder(_Id)


class Client:
    """One connection. `dirty` are blocks to tell of, `cooling` those told of with cooling addresses; one that is `deaf`
    gets no answers any more."""

    __slots__ = ("cooling", "deaf", "dirty", "gone", "role", "sock", "unread", "unsent", "wants_write", "watching")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.role = ""
        self.watching = self.deaf = False
        self.unread = bytearray()
        self.unsent = bytearray()
        self.wants_write = False
        self.dirty: set[int] = set()
        self.cooling: set[int] = set()
        self.gone: list[str] = []


class ControlServer:
    """Serves `path`, mode 0600. Raises OSError if it cannot be bound."""

    def __init__(self, node: Node, lot: ParkingLot, path: str) -> None:
        self._node = node
        self._lot = lot
        self._path = path
        self._commands = Commands(node, lot)
        self._clients: dict[int, Client] = {}
        self._manager: Client | None = None
        self._flush: Timer | None = None
        self._expiry: Timer | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        Path(path).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(64)
        node.loop.watch(self._listener.fileno(), READ, self._accept)
        node.block_changed = self._block_changed
        node.block_gone = self._block_gone

    # --- connections --------------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != 0:
            self._node.log.warn("control", f"a process of uid {uid} is refused; only uid 0 is served")
            sock.close()
            return
        client = Client(sock)
        self._clients[sock.fileno()] = client
        self._node.loop.watch(sock.fileno(), READ, lambda events: self._ready(client, events))

    def _ready(self, client: Client, events: int) -> None:
        if events & WRITE:
            self._pour(client)
        if events & READ and client.sock.fileno() >= 0:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        client.unread += data
        at = 0
        while len(client.unread) - at >= control.LENGTH.size and client.sock.fileno() >= 0:
            (length,) = control.LENGTH.unpack_from(client.unread, at)
            if length > control.MAX_FRAME:
                text = f"a frame of {length} bytes is above the bound of {control.MAX_FRAME}"
                self._send(client, 0, control.Refused("bad-message", text))
                self._close(client)
                return
            if len(client.unread) - at - control.LENGTH.size < length:
                break
            at += control.LENGTH.size
            self._frame(client, bytes(memoryview(client.unread)[at : at + length]))
            at += length
        del client.unread[:at]

    def _frame(self, client: Client, body: bytes) -> None:
        try:
            frame = control.decode_request(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            try:
                number = _id.decode(body).id
            except (msgspec.MsgspecError, UnicodeDecodeError):
                number = 0
            self._send(client, number, control.Refused("bad-message", str(error)))
            return
        request = frame.body
        if isinstance(request, control.Hello):
            reply: control.Reply = self._hello(client, request)
        elif not client.role:
            reply = control.Refused("bad-message", "the first frame of a connection is Hello")
        elif isinstance(request, control.GetSnapshot):
            reply = self.snapshot()
            if request.watch:
                client.watching = True
                client.dirty.clear()
                client.gone.clear()
            client.cooling = {info.block for info in self._node.pool.blocks() if info.cooling}
        elif client.role == "command" and not isinstance(request, control.GetPods | control.Explain):
            reply = control.Refused("unsupported", "only the manager changes the pool")
        else:
            reply = self._commands.carry_out(request)
        self._send(client, frame.id, reply)
        if isinstance(reply, control.Refused) and reply.code == "unsupported" and isinstance(request, control.Hello):
            self._close(client)

    def _hello(self, client: Client, hello: control.Hello) -> control.Reply:
        if hello.protocol != control.PROTOCOL:
            return control.Refused("unsupported", f"protocol {hello.protocol} is not spoken, only {control.PROTOCOL}")
        client.role = hello.role
        if hello.role == "manager" and self._manager is not client:
            if self._manager is not None:
                self._node.log.info("control", "a newer manager takes over")
                self._close(self._manager)
            self._manager = client
            self._node.manager_here = True
        return control.Done()

    def _close(self, client: Client) -> None:
        fd = client.sock.fileno()
        if fd < 0:
            return
        self._node.loop.forget(fd)
        self._clients.pop(fd, None)
        client.sock.close()
        if client is self._manager:
            self._manager = None
            self._node.manager_here = False
            # Whether a refill can come is the next manager's to say; who waits goes on waiting.
            self._node.outlook = None

    # --- sending ------------------------------------------------------------------------------------------

    def _send(self, client: Client, number: int, body: control.Reply) -> None:
        if client.sock.fileno() < 0 or client.deaf:
            return
        client.unsent += control.encode(control.ReplyFrame(number, body))
        self._pour(client)

    def _pour(self, client: Client) -> None:
        try:
            while client.unsent:
                sent = client.sock.send(client.unsent)
                del client.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            # It hears no more, as a manager that was killed. What it has sent before is carried out, up to its end.
            client.deaf = True
            client.unsent.clear()
        if len(client.unsent) > control.MAX_UNSENT:
            self._node.log.warn("control", f"a {client.role or 'client'} does not read its answers and is cut off")
            self._close(client)
            return
        if bool(client.unsent) != client.wants_write:
            client.wants_write = bool(client.unsent)
            events = READ | WRITE if client.wants_write else READ
            self._node.loop.change(client.sock.fileno(), events, lambda ready: self._ready(client, ready))

    # --- changes ------------------------------------------------------------------------------------------

    def _block_changed(self, block: int) -> None:
        if block < 0:
            return
        for client in self._clients.values():
            if client.watching:
                client.dirty.add(block)
        self._flush_later()

    def _block_gone(self, name: str) -> None:
        for client in self._clients.values():
            if client.watching:
                client.gone.append(name)
        self._flush_later()

    def _flush_later(self) -> None:
        if self._flush is None:
            self._flush = self._node.loop.at(now_ns() + GATHER_NS, self.flush)

    def flush(self) -> None:
        """Tell the watching clients what has changed, now."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._node.seq += 1
        watching = [client for client in self._clients.values() if client.watching]
        if watching:
            totals = pool_message(self._node.pool.stats(), len(self._lot))
            for client in watching:
                self._update(client, totals)
        self._watch_expiry()

    def _update(self, client: Client, totals: control.Pool) -> None:
        if client.unsent:
            # It is behind: what is dirty now goes with a later update.
            self._flush_later()
            return
        blocks: list[control.Block] = []
        for handle in client.dirty:
            try:
                block = block_message(self._node.book, self._node.pool.block_info(handle))
            except pool.UnknownBlock:
                client.cooling.discard(handle)
                continue
            blocks.append(block)
            if block.cooling:
                client.cooling.add(handle)
            else:
                client.cooling.discard(handle)
        # What went and came back within the pause is not gone.
        there = {f"{block.base}/{block.length}" for block in blocks}
        gone, client.gone = [name for name in client.gone if name not in there], []
        client.dirty.clear()
        self._send(client, 0, control.Update(self._node.seq, totals, blocks, gone))

    def _watch_expiry(self) -> None:
        next_free = self._node.pool.stats().next_free_ns
        if self._expiry is None and next_free is not None:
            self._expiry = self._node.loop.at(max(next_free, now_ns()) + EXPIRY_NS, self._expired)

    def _expired(self) -> None:
        self._expiry = None
        self._node.pool.expire(now_ns())
        for client in self._clients.values():
            if client.watching:
                client.dirty |= client.cooling
        self.flush()

    # --- the snapshot -------------------------------------------------------------------------------------

    def snapshot(self) -> control.Snapshot:
        """Everything, as of now."""
        node = self._node
        node.pool.expire(now_ns())
        node.counters["parked_now"] = len(self._lot)
        node.counters["reaper_pending"] = len(node.reaper)
        node.counters["log_lines_lost"] = node.log.lost
        node.counters["journal_room"] = node.journal.room
        node.counters["addresses_held"] = len(node.book.held)
        node.counters["addresses_unplaced"] = len(node.book.unplaced)
        return control.Snapshot(
            seq=node.seq,
            boot_id=node.boot_id,
            started_unix=node.started_unix,
            ready=node.ready,
            pool=pool_message(node.pool.stats(), len(self._lot)),
            enis=[eni_message(entry) for entry in node.book.enis.values()],
            blocks=[block_message(node.book, info) for info in node.pool.blocks()],
            outlook=node.outlook,
            report=node.report,
            counters=dict(node.counters),
            last_errors=list(node.last_errors),
        )

    def close(self) -> None:
        """Hang up on all; the path stays for the next agent, which replaces it."""
        self._node.loop.forget(self._listener.fileno())
        self._listener.close()
        for client in list(self._clients.values()):
            self._close(client)
