"""A control server for tests of the commands: a thread that speaks `agent.control` from canned state.

It keeps the one property that clients rely on (a `Hello` first, one reply per request with its id) and can be told
to misbehave: send an update in between, hang, hang up, or answer with rubbish.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Literal

from agent import control

Fault = Literal["", "hang", "hang-up", "rubbish", "huge", "wrong-type", "update-first"]


def a_pod(name: str, **changes: object) -> control.Pod:
    """A pod that is up; `changes` are fields."""
    fields: dict[str, object] = {
        "namespace": "default", "pod": name, "container_id": name * 4, "ifname": "eth0", "network": "aws-cni",
        "state": "up", "addresses": ["10.0.1.20/32"], "eni_id": "eni-0b", "device": 1, "table": 2,
        "host_veth": "eni0123456789a", "netns": "/var/run/netns/cni-1", "since_unix": 1_700_000_000.0,
        "phases": {"assigned": 120, "journaled": 150, "wired": 900, "answered": 1010},
        "rules": ["512: to 10.0.1.20/32 lookup main", "1536: from 10.0.1.20/32 lookup 2"],
        "routes": ["10.0.1.20/32 dev eni0123456789a scope link"],
    }  # fmt: skip
    return control.Pod(**{**fields, **changes})


def a_snapshot(**changes: object) -> control.Snapshot:
    """Two ENIs with three blocks, one of them quarantined."""
    fields: dict[str, object] = {
        "seq": 7, "boot_id": "b", "started_unix": 1_700_000_000.0, "ready": True,
        "pool": control.Pool(total=18, used=3, cooling=1, free=14, parked=0),
        "enis": [
            control.Eni("eni-0b", "02:00:00:00:00:02", "eth1", 5, 0, 1, 2, "10.0.1.5"),
            control.Eni("eni-0a", "02:00:00:00:00:01", "eth0", 2, 0, 0, 254, "10.0.0.5", primary=True),
        ],
        "blocks": [
            control.Block("eni-0a", "10.0.0.20", 32, "address", "open", 1, 0, 1),
            control.Block("eni-0b", "10.0.1.16", 28, "prefix", "open", 2, 1, 16),
            control.Block("eni-0b", "10.0.1.9", 32, "address", "quarantined", 0, 0, 1),
        ],
        "report": {
            "phase": "running", "targets": {"warm_ip_target": 5, "short": None}, "unmanaged": [],
            "steps": ["12:00:00 assign 5 to eni-0b: done in 120 ms"], "cards": [{"card": 0, "zones": ["a", "b"]}],
        },
        "counters": {"add_ok": 12},
        "last_errors": ["12:00:01 AssignPrivateIpAddresses: InsufficientFreeAddressesInSubnet"],
    }  # fmt: skip
    return control.Snapshot(**{**fields, **changes})


class FakeAgent:
    """Serves `RUN_DIR/control.sock` until `close`; `received` lists the request bodies in order."""

    def __init__(self, run_dir: Path) -> None:
        self.snapshot = a_snapshot()
        self.pods: list[control.Pod] = []
        self.gone: list[control.Pod] = []
        self.fault: Fault = ""
        self.received: list[control.Request] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(run_dir / "control.sock"))
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Hang up on all, and wait for the threads."""
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in list(self._threads):
            thread.join()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while len(header := stream.read(control.LENGTH.size)) == control.LENGTH.size:
                frame = control.decode_request(stream.read(control.LENGTH.unpack(header)[0]))
                first = not self.received or isinstance(frame.body, control.Hello)
                self.received.append(frame.body)
                if not first and self.fault and not self._misbehave(connection, frame):
                    return
                if self.fault in ("", "update-first") or first:
                    connection.sendall(control.encode(control.ReplyFrame(frame.id, self._answer(frame.body))))

    def _misbehave(self, connection: socket.socket, frame: control.RequestFrame) -> bool:
        """Whether the connection goes on."""
        if self.fault == "hang-up":
            connection.shutdown(socket.SHUT_RDWR)
            return False
        if self.fault == "rubbish":
            connection.sendall(control.LENGTH.pack(3) + b"abc")
        elif self.fault == "huge":
            connection.sendall(control.LENGTH.pack(control.MAX_FRAME + 1))
        elif self.fault == "wrong-type":
            connection.sendall(control.encode(control.ReplyFrame(frame.id, control.Done())))
        elif self.fault == "update-first":
            connection.sendall(control.encode(control.ReplyFrame(0, control.Update(8, self.snapshot.pool))))
        return True

    def _answer(self, body: control.Request) -> control.Reply:
        if isinstance(body, control.GetSnapshot):
            return self.snapshot
        if isinstance(body, control.GetPods):
            return control.Pods(self.pods)
        if isinstance(body, control.Explain):
            known = [*self.pods, *self.gone]
            return control.Pods([pod for pod in known if (pod.namespace, pod.pod) == (body.namespace, body.pod)])
        if isinstance(body, control.DropEni):
            return control.Refused("busy", f"{body.eni_id} has 2 blocks")
        return control.Done()
