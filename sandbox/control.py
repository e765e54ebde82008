"""The daemon's control socket: one JSON line in, one JSON line out, any number of connections at a time.

What can be asked are the public methods of `Requests`; names and types of the fields are taken from them, so a
wrong field is refused by name and the protocol cannot drift from the code.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from sandbox import daemon, lifetime
from sandbox.client import ReplyError
from sandbox.failures import SandboxFailure
from sandbox.requests import Requests
from sandbox.scenario import parse
from sandbox.world import World, unix_listener

MAX_LINE: Final = 64 << 20
Table: TypeAlias = dict[str, tuple[type[msgspec.Struct], Callable[..., object]]]


def serve(folder: Path, tell: int, user_namespace: bool) -> None:
    """Build the world, say when it is ready, and serve until `down`. Raises SandboxFailure if it cannot be built."""
    scenario = parse((folder / lifetime.MARK).read_bytes())
    world = World(folder, scenario, lambda text: daemon.say(tell, step=text))
    world.build()
    listener = unix_listener(folder, "control.sock")
    requests = _table(Requests(world, user_namespace))
    ended = threading.Event()

    def accept() -> None:
        while True:
            link, _ = listener.accept()
            threading.Thread(target=_talk, args=(link, requests, ended), daemon=True).start()

    threading.Thread(target=accept, name="control", daemon=True).start()
    daemon.say(tell, ready=True)
    os.close(tell)
    ended.wait()


def _table(requests: Requests) -> Table:
    """By name: the shape of the fields, and the method."""
    found: Table = {}
    for name, method in inspect.getmembers(requests, inspect.ismethod):
        if not name.startswith("_"):
            hints = typing.get_type_hints(method)
            hints.pop("return", None)
            shape = msgspec.defstruct(f"Ask_{name}", list(hints.items()), forbid_unknown_fields=True)
            found[name] = (shape, method)
    return found


def _talk(link: socket.socket, requests: Table, ended: threading.Event) -> None:
    with link, link.makefile("rb") as lines:
        while True:
            try:
                line = lines.readline(MAX_LINE)
            except OSError:
                return
            if not line:
                return
            reply, last = _answer(line, requests)
            try:
                link.sendall(msgspec.json.encode(reply) + b"\n")
            except OSError:
                pass
            if last:
                ended.set()
                return


def _answer(line: bytes, requests: Table) -> tuple[dict[str, Any], bool]:
    """The reply, and whether it is the last."""
    try:
        message = msgspec.json.decode(line, type=dict[str, Any])
        do = message.pop("do", None)
        if do == "down":
            return {"ok": None}, True
        if do not in requests:
            known = ", ".join(sorted([*requests, "down"]))
            raise SandboxFailure("bad-request", f"request {do!r} is not known; there are: {known}")
        shape, method = requests[do]
        # JSON's bytes are base64 text, which the conversion undoes.
        fields = msgspec.structs.asdict(msgspec.convert(message, shape))
        return {"ok": method(**fields)}, False
    except SandboxFailure as failure:
        return _failed(failure.code, failure.text), False
    except msgspec.MsgspecError as failure:
        return _failed("bad-request", str(failure)), False
    except Exception as failure:
        traceback.print_exc()
        return _failed("internal", f"{type(failure).__name__}: {failure}"), False


def _failed(code: str, text: str) -> dict[str, Any]:
    return {"error": ReplyError(code, text)}
