"""The typed face of a running world: start it, talk to it, end it.

Each call is one connection to `FOLDER/control.sock` with one JSON line each way, so any number of threads may
use one `Sandbox` at the same time. The daemon's own view of paths, pids and namespaces is private to it; what a
caller can use outside is the folder.
"""

from __future__ import annotations

import math
import os
import signal as signals
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from sandbox.base import shapes, wire
from sandbox.base.failures import SandboxFailure
from sandbox.face import lifetime
from sandbox.face.attach import Execution
from sandbox.face.steering import Steering
from sandbox.world import replies
from sandbox.world.scenario import Scenario

T = TypeVar("T")


class Sandbox(Steering):
    """A world that runs in `folder`. Make one with `up` or `connect`; as a context manager it goes down at the end."""

    def __init__(self, folder: Path | str, *, patience: float | None = None) -> None:
        """`patience`: seconds that any answer may take; None: what the request itself may take, and half a minute."""
        self.folder = Path(folder).absolute()
        self._patience = patience

    @classmethod
    def up(
        cls,
        folder: Path | str,
        scenario: Scenario | None = None,
        *,
        attached: bool = True,
        timeout: float = 120.0,
        progress: Callable[[str], None] | None = None,
    ) -> Sandbox:
        """Start a world in `folder` (made if missing) and wait until every node is up.

        `attached`: the world dies with the calling process, even by SIGKILL (and with the calling *thread*, so call it
        from one that stays). Otherwise it stays until `down`. `progress` is told each step in words.
        Raises SandboxFailure: already-running, privilege (no namespaces here), bad-request (folder or scenario),
        timeout, internal.
        """
        lifetime.start(Path(folder).absolute(), scenario or Scenario.simple(), attached, timeout, progress)
        return cls(folder)

    @classmethod
    def connect(cls, folder: Path | str, *, patience: float | None = None) -> Sandbox:
        """A world that is up already; `patience` as in the class.

        Raises SandboxFailure `not-running`, or `stale` if it was killed.
        """
        lifetime.require_running(Path(folder).absolute())
        return cls(folder, patience=patience)

    def down(self, *, timeout: float = 30.0) -> None:
        """End the world and all in it; returns when nothing of it is left. Does nothing if it is not up."""
        lifetime.stop(self.folder, timeout)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- the world ------------------------------------------------------------------------------------

    def status(self) -> shapes.Status:
        return self._ask(shapes.Status, "status")

    def node(self, name: str) -> shapes.Node:
        """Raises SandboxFailure `unknown`."""
        return self._ask(shapes.Node, "node", node=name)

    def nodes(self) -> list[shapes.Node]:
        return self.status().nodes

    def node_add(self, name: str, instance_type: str, subnet: int = 0) -> shapes.Node:
        """One more instance, with its Kubernetes node object; booted, unless the network is late (net-lag, nic-lag)."""
        return self._ask(shapes.Node, "node_add", node=name, instance_type=instance_type, subnet=subnet)

    def node_folder(self, name: str) -> Path:
        """`run`, `cni/bin`, `cni/conf`, `cni/cache`, `log`, `kubeconfig` of a node; one path inside and outside."""
        return self.folder / "nodes" / name

    def node_env(self, name: str) -> dict[str, str]:
        """What a node daemon needs in its environment: endpoints, credentials, names and folders."""
        return self._ask(dict[str, str], "node_env", node=name)

    def counters(self) -> list[shapes.Drop]:
        """What the router dropped since the start, per reason, ENI and address."""
        return self._ask(list[shapes.Drop], "counters")

    def reboot(self, node: str) -> None:
        """Processes, pods and network namespace of a node are gone; its ENIs and files stay.

        Raises SandboxFailure: unknown, stopped.
        """
        self._tell("reboot", node=node)

    # --- processes ------------------------------------------------------------------------------------

    def node_exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
    ) -> shapes.Completed:
        """Run a command in the node's network namespace, in the folder `/`, and wait.

        Its environment: `node_env` with a fixed PATH, plus `env`.

        Raises SandboxFailure: unknown, stopped, timeout (the command is killed), no-program, not-executable.
        """
        return self._ask(
            shapes.Completed,
            "node_exec",
            timeout,
            node=node,
            argv=list(argv),
            env=dict(env or {}),
            stdin=stdin,
            timeout=timeout,
        )

    def exec(
        self,
        where: str,
        argv: Sequence[str],
        *,
        files: tuple[int, int, int] = (0, 1, 2),
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        terminal: bool = False,
        timeout: float | None = None,
    ) -> Execution:
        """Start a command with these descriptors as its standard input, output and error. It dies with its Execution.

        `where`: a node, NODE/NAMESPACE/POD, `internet` or `router`. Nothing is taken over from the caller unasked: its
        environment is that of the place (a node's has `node_env`), a fixed PATH among it, plus `env`, and it begins in
        the folder `cwd`, in `/` if the world has none such (its /run and /proc are its own). `terminal`: standard input
        is a terminal that becomes the command's controlling one. `timeout` in seconds (none by default), then it is
        killed.
        The Execution raises SandboxFailure: unknown, stopped, no-program, not-executable, timeout, not-running.
        """
        command = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "terminal": terminal, "timeout": timeout}
        link = lifetime.dial(self.folder, "control.sock")
        try:
            wire.send(link, msgspec.json.encode({"do": "exec", "where": where, **command}) + b"\n", files)
        except OSError as error:
            link.close()
            raise SandboxFailure("not-running", f"exec: the sandbox in {self.folder} went away: {error}") from error
        return Execution(link)

    def node_spawn(
        self, node: str, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> shapes.Process:
        """Start a long-running process; its output goes to `log/NAME.out` of the node's folder.

        Raises SandboxFailure `exists` while one of that name runs, `stopped`.
        """
        return self._ask(shapes.Process, "node_spawn", node=node, name=name, argv=list(argv), env=dict(env or {}))

    def node_signal(self, node: str, name: str, sig: int | signals.Signals) -> None:
        """Signal a spawned process (itself only). Raises `unknown` if it does not run."""
        self._tell("node_signal", node=node, name=name, sig=int(sig))

    def node_stop(self, node: str, name: str, *, timeout: float = 10.0) -> int:
        """SIGTERM, then after `timeout` seconds SIGKILL to its process group. The exit status (negative: signal)."""
        return self._ask(int, "node_stop", timeout, node=node, name=name, timeout=timeout)

    def kill(self, pid: int, sig: int | signals.Signals = signals.SIGKILL) -> None:
        """Signal any process of the world by the pid that `processes` shows."""
        self._tell("kill", pid=pid, sig=int(sig))

    def processes(self, node: str = "") -> list[shapes.Process]:
        """All processes in the node's network namespace (no node: in all), spawned ones that have ended too."""
        return self._ask(list[shapes.Process], "processes", node=node)

    def internet_exec(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> shapes.Completed:
        """Run a command on the internet host (203.0.113.10)."""
        return self._ask(shapes.Completed, "internet_exec", timeout, argv=list(argv), stdin=stdin, timeout=timeout)

    def router_exec(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> shapes.Completed:
        """Run a command in the VPC router's namespace (for looking, not for changing)."""
        return self._ask(shapes.Completed, "router_exec", timeout, argv=list(argv), stdin=stdin, timeout=timeout)

    def outside_exec(
        self, name: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> shapes.Completed:
        """Run a command on the host of one of the scenario's outside networks. Raises SandboxFailure `unknown`."""
        fields = {"name": name, "argv": list(argv), "stdin": stdin, "timeout": timeout}
        return self._ask(shapes.Completed, "outside_exec", timeout, **fields)

    def group_create(
        self, name: str, *, ingress: Sequence[shapes.Rule] = (), egress: Sequence[shapes.Rule] = ()
    ) -> str:
        """A security group of the VPC, past EC2's API; its id. Without rules nothing passes. Raises `bad-request`."""
        return self._ask(str, "group_create", name=name, ingress=list(ingress), egress=list(egress))

    def group_rules(
        self,
        group: str,
        *,
        ingress: Sequence[shapes.Rule] | None = None,
        egress: Sequence[shapes.Rule] | None = None,
    ) -> None:
        """Replace a security group's rules in one direction or both (None: as they are). Raises `bad-request`."""
        rules = {"ingress": ingress, "egress": egress}
        self._tell("group_rules", group=group, **{way: None if r is None else list(r) for way, r in rules.items()})

    def public_address(self, address: str, *, on: bool = True) -> str:
        """Give a private IPv4 address a public one, by which the internet reaches it; `on` False takes it away.

        Of the network only: EC2's API and the metadata know nothing of it. Raises SandboxFailure bad-request, unknown.
        """
        return self._ask(str, "public_address", address=address, on=on)

    def capture(
        self, where: str, file: int, *, count: int | None = None, seconds: float | None = None, told: int = 2
    ) -> Execution:
        """Write each frame of an ENI, both ways, to the descriptor `file`, as pcap.

        `where`: an ENI's id, a node (its primary ENI) or NODE/DEVICE. It ends after `count` frames or `seconds`, or
        with its Execution. A line on the descriptor `told` says that it has begun. Raises SandboxFailure `unknown`.
        """
        argv = [sys.executable, "-I", "-m", "sandbox.net.pcap", self._ask(str, "port", where=where)]
        argv += [f"--count={count}"] if count is not None else []
        argv += [f"--seconds={seconds:g}"] if seconds is not None else []
        with open(os.devnull, "rb") as nothing:
            return self.exec("router", argv, files=(nothing.fileno(), file, told))

    # --- pods -----------------------------------------------------------------------------------------

    def pod_create(
        self,
        node: str,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        annotations: Mapping[str, str] | None = None,
        port_mappings: Sequence[Mapping[str, Any]] = (),
        timeout: float = 120.0,
    ) -> shapes.PodAnswer:
        """A sandbox by the small runtime: new namespace, then the node's conflist.

        The pod appears in the Kubernetes stand-in first, bound to the node. A CNI failure is in the answer, not raised.
        Raises SandboxFailure `exists`, `unknown`, `stopped`, `cni` (no conflist).
        """
        return self._ask(
            shapes.PodAnswer,
            "pod_create",
            timeout,
            node=node,
            namespace=namespace,
            name=name,
            uid=uid,
            annotations=dict(annotations or {}),
            port_mappings=[dict(mapping) for mapping in port_mappings],
            timeout=timeout,
        )

    def pod_delete(self, node: str, namespace: str, name: str, *, timeout: float = 120.0) -> shapes.PodAnswer:
        """DEL as the runtime's profile does it, then namespace and Kubernetes object go.

        After a failed DEL the pod stays, for another try. A pod whose create failed has only its object left to delete.
        """
        return self._ask(
            shapes.PodAnswer, "pod_delete", timeout, node=node, namespace=namespace, name=name, timeout=timeout
        )

    def pod_exec(
        self, node: str, namespace: str, name: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> shapes.Completed:
        """Run a command in the pod's network namespace."""
        return self._ask(
            shapes.Completed,
            "pod_exec",
            timeout,
            node=node,
            namespace=namespace,
            name=name,
            argv=list(argv),
            stdin=stdin,
            timeout=timeout,
        )

    def pods(self, node: str = "") -> list[shapes.Pod]:
        return self._ask(list[shapes.Pod], "pods", node=node)

    def runtime_verb(
        self, node: str, verb: str, namespace: str = "", name: str = "", *, timeout: float = 60.0
    ) -> shapes.CniError | None:
        """CHECK (of one pod), STATUS, GC or VERSION through the node's chain; None if it succeeded."""
        fields = {"node": node, "verb": verb, "namespace": namespace, "name": name, "timeout": timeout}
        raw = self._raw("runtime_verb", timeout, fields)
        return None if bytes(raw) == b"null" else msgspec.json.decode(raw, type=shapes.CniError)

    def runtime_profile(self, node: str, profile: str) -> None:
        """`spec` (one DEL) or `containerd-1.6` (loopback beside, a second DEL without namespace and prevResult)."""
        self._tell("runtime_profile", node=node, profile=profile)

    # --- truth from inside ----------------------------------------------------------------------------

    def probe(
        self, targets: Mapping[str, str] | None = None, *, ifname: str = "eth0", timeout: float = 20.0
    ) -> shapes.ProbeReport:
        """Echo random payloads between all pairs. `targets`: name to namespace path in the world; None: all pods."""
        return self._ask(
            shapes.ProbeReport,
            "probe",
            timeout,
            targets=dict(targets) if targets is not None else None,
            ifname=ifname,
            timeout=timeout,
        )

    def to_internet(
        self, targets: Mapping[str, str] | None = None, *, ifname: str = "eth0", timeout: float = 10.0
    ) -> dict[str, str]:
        """For each target the source address that the internet host saw (empty if nothing arrived)."""
        return self._ask(
            dict[str, str],
            "to_internet",
            timeout,
            targets=dict(targets) if targets is not None else None,
            ifname=ifname,
            timeout=timeout,
        )

    # --- the wire -------------------------------------------------------------------------------------

    def _ask(self, answer: type[T], do: str, patience: float = 60.0, **fields: object) -> T:
        return msgspec.json.decode(self._raw(do, patience, fields), type=answer)

    def _tell(self, do: str, **fields: object) -> None:
        self._raw(do, 60.0, fields)

    def _raw(self, do: str, patience: float, fields: Mapping[str, object]) -> msgspec.Raw:
        for name, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
                raise SandboxFailure("bad-request", f"{do}: {name}={value}: it must be a finite number")
        patience = patience + 30.0 if self._patience is None else self._patience
        with lifetime.dial(self.folder, "control.sock") as link:
            link.settimeout(patience)
            try:
                link.sendall(msgspec.json.encode({"do": do, **fields}) + b"\n")
                line = _read_line(link)
            except TimeoutError:
                raise SandboxFailure("timeout", f"{do}: no answer from the sandbox in {patience:g} s") from None
            except OSError as error:
                raise SandboxFailure("not-running", f"{do}: the sandbox in {self.folder} went away: {error}") from error
        if not line:
            raise SandboxFailure("not-running", f"{do}: the sandbox in {self.folder} went away before it answered")
        return replies.raw(line)


def _read_line(link: socket.socket) -> bytes:
    parts: list[bytes] = []
    while True:
        data = link.recv(1 << 16)
        if not data:
            return b""
        parts.append(data)
        if data.endswith(b"\n"):
            return b"".join(parts)


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where a world lives if nobody says: ENID_SANDBOX_DIR, else a folder of the user's state."""
    if environ.get("ENID_SANDBOX_DIR"):
        return Path(environ["ENID_SANDBOX_DIR"])
    state = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/tmp")) / ".local" / "state")
    return Path(state) / "enid" / "sandbox"
