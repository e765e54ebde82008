"""The daemon's control socket: one JSON line in, one JSON line out, any number of connections at a time.

What can be asked are the public methods of `Requests`; names and types of the fields are taken from them, so a
wrong field is refused by name and the protocol cannot drift from the code. Two requests are the connection's last:
`down`, and `exec` (attended.py), which comes with descriptors and takes signals while it runs.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.base.wire import Lines, send
from sandbox.ec2.errors import Ec2Error
from sandbox.world import place
from sandbox.world.attended import Exec, execute
from sandbox.world.replies import ReplyError
from sandbox.world.requests import Requests
from sandbox.world.scenario import parse
from sandbox.world.telling import say
from sandbox.world.world import World, unix_listener

BREATH_SECONDS: Final = 0.1
Then: TypeAlias = Literal["go on", "hang up", "end"]
Table: TypeAlias = dict[str, tuple[type[msgspec.Struct], Callable[..., object]]]


def serve(folder: Path, tell: int, user_namespace: bool) -> None:
    """Build the world, say when it is ready, and serve until `down`. Raises SandboxFailure if it cannot be built."""
    scenario = parse((folder / place.SCENARIO).read_bytes())
    world = World(folder, scenario, lambda text: say(tell, step=text))
    world.build()
    ended = threading.Event()
    listen(folder, Served(Requests(world, user_namespace), world), ended)
    say(tell, ready=True)
    os.close(tell)
    ended.wait()


def listen(folder: Path, served: Served, ended: threading.Event) -> None:
    """Answer on the folder's control socket in threads; `ended` is set by `down`."""
    listener = unix_listener(folder, "control.sock")

    def accept() -> None:
        while True:
            try:
                link, _ = listener.accept()
                threading.Thread(target=_talk, args=(link, served, ended), daemon=True).start()
            except (OSError, RuntimeError):
                # Out of descriptors or threads for a moment: whoever asks next may be luckier.
                traceback.print_exc()
                time.sleep(BREATH_SECONDS)

    threading.Thread(target=accept, name="control", daemon=True).start()


def _table(requests: object) -> Table:
    """By name: the shape of the fields, and the method."""
    found: Table = {}
    for name, method in inspect.getmembers(requests, inspect.ismethod):
        if not name.startswith("_"):
            hints = typing.get_type_hints(method)
            hints.pop("return", None)
            shape = msgspec.defstruct(f"Ask_{name}", list(hints.items()), forbid_unknown_fields=True)
            found[name] = (shape, method)
    return found


def _talk(link: socket.socket, served: Served, ended: threading.Event) -> None:
    lines, then = Lines(link), "go on"
    with link:
        try:
            while then == "go on" and (line := lines.next()):
                reply, then = served.answer(line, lines)
                lines.close_descriptors()
                send(link, msgspec.json.encode(reply) + b"\n")
        except OSError:
            pass
        finally:
            lines.close_descriptors()
            if then == "end":
                ended.set()


class Served:
    """What is answered, from any thread: the public methods of `requests`, and `exec` if there is a world to run in."""

    def __init__(self, requests: object, world: World | None = None) -> None:
        self._world = world
        self._requests = _table(requests)

    def answer(self, line: bytes, lines: Lines) -> tuple[dict[str, Any], Then]:
        """The reply, and what follows on it."""
        try:
            message = msgspec.json.decode(line, type=dict[str, Any])
            do = message.pop("do", None)
            if do == "down":
                return {"ok": None}, "end"
            if do == "exec" and self._world is not None:
                return {"ok": execute(self._world, msgspec.convert(message, Exec), lines)}, "hang up"
            if do not in self._requests:
                raise self._unknown(str(do))
            shape, method = self._requests[do]
            # JSON's bytes are base64 text, which the conversion undoes.
            fields = msgspec.structs.asdict(msgspec.convert(message, shape))
            return {"ok": method(**fields)}, "go on"
        except SandboxFailure as failure:
            return {"error": ReplyError(failure.code, failure.text, failure.remedy)}, "go on"
        except Ec2Error as refusal:
            # The user asked for what EC2 does not do; that is no fault of the sandbox.
            return _failed("bad-request", f"EC2 refuses it: {refusal}"), "go on"
        except msgspec.MsgspecError as failure:
            return _failed("bad-request", str(failure)), "go on"
        except Exception as failure:
            traceback.print_exc()
            return _failed("internal", f"{type(failure).__name__}: {failure}"), "go on"

    def _unknown(self, do: str) -> SandboxFailure:
        if self._world is None and (do == "exec" or (not do.startswith("_") and hasattr(Requests, do))):
            text = "this world of `enid sandbox serve` has no data plane: no packets, and no nodes to run in"
            return SandboxFailure("bad-request", text, remedy="`enid sandbox up` makes a world that has one")
        own = ["down"] if self._world is None else ["exec", "down"]
        known = ", ".join(sorted([*self._requests, *own]))
        return SandboxFailure("bad-request", f"request {do!r} is not known; there are: {known}")


def _failed(code: str, text: str) -> dict[str, Any]:
    return {"error": ReplyError(code, text)}
