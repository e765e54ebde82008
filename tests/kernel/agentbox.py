"""The hot process alone in a network namespace of its own, with a manager that is played and pods that are real.

`AgentBox` does what the supervisor does (it holds the listening CNI socket), `Manager` what the manager does over the
control socket, `Pod` is a network namespace with the two descriptors that the shim would send. Nothing needs cleaning:
namespaces go with their descriptors.

    with AgentBox(tmp_path) as box:
        box.manager.give(box.eni(1), ["10.0.1.10", "10.0.1.11"])
        pod = box.pod("web-0")
        result = pod.add()
"""

from __future__ import annotations

import array
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from agent import control
from cni import wire
from ext import netlink
from tests.kernel.namespaces import TIMEOUT_S, in_namespace, new_namespace, until

# What Python prints by itself when something was not caught.
TRACES: Final = ("Traceback (most recent call last)", "Exception ignored", "Exception in thread")


class CniError(Exception):
    """A CNI error object."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body))
        self.body = body
        self.code: int = body["code"]


class Manager:
    """The manager's end of the control socket. `updates` collects what came unasked."""

    def __init__(self, path: Path, role: str = "manager") -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self._ids = itertools.count(1)
        self._unread = b""
        self.updates: list[control.Update] = []
        try:
            self.sock.connect(str(path))
            self.ask(control.Hello(role=role))  # type: ignore[arg-type]  # tests play wrong roles too
        except BaseException:
            self.sock.close()
            raise

    def ask(self, body: control.Request) -> Any:
        """The reply, Refused included."""
        number = next(self._ids)
        self.sock.sendall(control.encode(control.RequestFrame(number, body)))
        while True:
            frame = self.receive()
            if frame.id == number:
                return frame.body

    def do(self, body: control.Request) -> None:
        """A command that must be done."""
        reply = self.ask(body)
        assert isinstance(reply, control.Done), reply

    def receive(self) -> control.ReplyFrame:
        """The next frame; updates are collected on the way. Raises ConnectionError at the end."""
        while True:
            if len(self._unread) >= 4:
                (length,) = control.LENGTH.unpack_from(self._unread)
                if len(self._unread) >= 4 + length:
                    body, self._unread = self._unread[4 : 4 + length], self._unread[4 + length :]
                    frame = control.decode_reply(body)
                    if isinstance(frame.body, control.Update):
                        self.updates.append(frame.body)
                    return frame
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the agent hung up")
            self._unread += data

    def snapshot(self, watch: bool = False) -> control.Snapshot:
        """State as of now."""
        reply = self.ask(control.GetSnapshot(watch=watch))
        assert isinstance(reply, control.Snapshot), reply
        return reply

    def pods(self) -> dict[str, control.Pod]:
        """The living and the parked by container id."""
        reply = self.ask(control.GetPods())
        assert isinstance(reply, control.Pods), reply
        return {pod.container_id: pod for pod in reply.pods}

    def explain(self, pod: str, namespace: str = "default") -> list[control.Pod]:
        """All records of a pod."""
        reply = self.ask(control.Explain(namespace, pod))
        assert isinstance(reply, control.Pods), reply
        return reply.pods

    def give(self, eni: control.Eni, addresses: Iterable[str], ready: bool = True) -> None:
        """An ENI and its addresses; then the manager is ready."""
        self.do(control.SetEni(eni))
        for address in addresses:
            self.do(control.AddBlock(eni.eni_id, address, 32, "address"))
        if ready:
            self.do(control.Ready())

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


class Pod:
    """One sandbox: a namespace, a container id, and the calls of its runtime."""

    def __init__(self, box: AgentBox, name: str, namespace: str = "default") -> None:
        self.box = box
        self.name = name
        self.namespace = namespace
        self.container_id = uuid.uuid4().hex * 2
        self.netns = new_namespace()
        self.socket = in_namespace(self.netns, netlink.Socket.open)
        self.path = f"/var/run/netns/cni-{self.container_id[:8]}"
        self.result: dict[str, Any] = {}

    def request(self, verb: str, *, flags: int = 0, **changes: Any) -> wire.Request:
        """The frame's content; `changes` are fields of wire.Request, or `conf` for the configuration's fields."""
        conf = {"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001"}
        conf.update(changes.pop("conf", {}))
        fields: dict[str, Any] = {
            "container_id": self.container_id.encode(),
            "netns": self.path.encode(),
            "ifname": b"eth0",
            "args": (
                f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name};"
                f"K8S_POD_INFRA_CONTAINER_ID={self.container_id};K8S_POD_UID={uuid.UUID(self.container_id[:32])}"
            ).encode(),
            "path": b"/opt/cni/bin",
            "config": json.dumps(conf).encode(),
        }
        fields.update(changes)
        return wire.Request(wire.Kind[verb], flags=flags, **fields)

    def send(self, verb: str, descriptors: bool = True, **changes: Any) -> socket.socket:
        """Send a request and return the connection."""
        flags = wire.HAS_DESCRIPTORS if descriptors else 0
        data = wire.encode_request(self.request(verb, flags=flags, **changes))
        return self.box.send(data, [self.netns, self.socket.fileno()] if descriptors else [])

    def call(self, verb: str, descriptors: bool = True, **changes: Any) -> dict[str, Any]:
        """Send and wait. Raises CniError."""
        return answer(self.send(verb, descriptors, **changes))

    def add(self, **changes: Any) -> dict[str, Any]:
        """ADD; the result is kept for `address` and `delete`."""
        self.result = self.call("ADD", **changes)
        return self.result

    def delete(self, descriptors: bool = True, **changes: Any) -> None:
        """DEL."""
        assert self.call("DEL", descriptors, **changes) == {}

    @property
    def address(self) -> str:
        """What the result said."""
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    @property
    def host_veth(self) -> str:
        """What the result said."""
        return str(self.result["interfaces"][0]["name"])

    def addresses(self) -> set[str]:
        """IPv4 addresses that the namespace really has, loopback left out."""
        found = self.socket.addresses(socket.AF_INET)
        return {socket.inet_ntoa(a.address) for a in found if a.ifindex != 1}

    def close(self) -> None:
        """Give the namespace up: its veth goes with it."""
        if self.netns >= 0:
            self.socket.close()
            os.close(self.netns)
            self.netns = -1


def answer(connection: socket.socket) -> dict[str, Any]:
    """The result on a connection; {} for an empty one. Raises CniError, or ConnectionError if there is no answer."""
    decoder = wire.Decoder()
    with connection:
        while True:
            data = connection.recv(1 << 16)
            if not data:
                raise ConnectionError("the agent hung up without an answer")
            frame = decoder.feed(data)
            if frame is not None:
                break
    reply = wire.parse_reply(frame)
    assert isinstance(reply, wire.Reply), reply
    body: dict[str, Any] = json.loads(reply.text) if reply.text else {}
    if reply.status:
        raise CniError(body)
    return body


class AgentBox:
    """The running agent. `setup` is Python text that is run before its `main`, for spans that a test cannot wait."""

    def __init__(
        self, folder: Path, *, setup: str = "", start: bool = True, environ: dict[str, str] | None = None
    ) -> None:
        # A tmpfs, as on a node; and sun_path is short, but the folders of pytest are long.
        self.folder = folder
        self.run_dir = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"enid-{uuid.uuid4().hex[:12]}"
        self.run_dir.mkdir(mode=0o700)
        self.log = folder / "agent.log"
        self.setup = setup
        self.netns = new_namespace()
        self.host = in_namespace(self.netns, netlink.Socket.open)
        self.pods: list[Pod] = []
        self.environ = {
            "PATH": os.environ["PATH"], "ENABLE_IPv4": "true", "ENABLE_IPv6": "false", "MY_NODE_NAME": "box",
            "ENID_RUN_DIR": str(self.run_dir), "ENID_LOG_DIR": str(folder / "log"), "IP_COOLDOWN_PERIOD": "0",
            "AWS_VPC_K8S_CNI_LOG_FILE": "stderr", **(environ or {}),
        }  # fmt: skip
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.run_dir / "cni.sock"))
        self._listener.listen(4096)
        self.process: subprocess.Popen[bytes]
        self._manager: Manager | None = None
        if start:
            self.start()

    # --- the process ------------------------------------------------------------------------------------

    def start(self, wait: bool = True) -> None:
        """Start the agent; `wait` until its control socket answers."""
        fd = self._listener.fileno()
        code = ["-m", "agent.fastpath.main"]
        if self.setup:
            code = ["-c", f"import sys\n{self.setup}\nfrom agent.fastpath.main import main\nsys.exit(main())"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.netns}", sys.executable, "-I", *code],
                env={**self.environ, "ENID_LISTEN_FD": str(fd)}, pass_fds=(fd,), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        if wait:
            until(self._answers, "the agent answers")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with {self.process.returncode}: {self.text()[-2000:]}")
        try:
            self.client("command").close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """kill -9."""
        self._hang_up()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._hang_up()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)

    def restart(self, kill: bool = True) -> None:
        """A new agent on the same sockets and files."""
        self.kill() if kill else self.stop()
        self.start()

    def text(self) -> str:
        """The log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # --- clients ------------------------------------------------------------------------------------------

    def client(self, role: str = "manager") -> Manager:
        """A new control connection."""
        return Manager(self.run_dir / "control.sock", role)

    @property
    def manager(self) -> Manager:
        """The one manager, connected when first used."""
        if self._manager is None:
            self._manager = self.client()
        return self._manager

    def _hang_up(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    @staticmethod
    def eni(device: int = 0) -> control.Eni:
        """An ENI of card 0; addresses 10.0.DEVICE.x."""
        return control.Eni(
            f"eni-{device:017x}", f"0a:00:00:00:00:{device:02x}", f"ens{5 + device}", 100 + device, 0, device,
            device + 1 if device else 254, f"10.0.{device}.4", f"10.0.{device}.1", device == 0,
        )  # fmt: skip

    def pod(self, name: str, namespace: str = "default") -> Pod:
        """A new sandbox."""
        pod = Pod(self, name, namespace)
        self.pods.append(pod)
        return pod

    def send(self, data: bytes, fds: list[int] | None = None) -> socket.socket:
        """Bytes and descriptors to the CNI socket; returns the connection."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(self.run_dir / "cni.sock"))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = connection.sendmsg([data], ancillary)
        if sent < len(data):
            connection.sendall(data[sent:])
        return connection

    # --- what is there ------------------------------------------------------------------------------------

    def ip(self, *words: str) -> str:
        """`ip` in the host namespace."""
        command = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.netns}", "ip", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout

    def state(self) -> tuple[set[str], set[str], set[str]]:
        """Links, routes of main, rules of the host, as text without what the kernel made itself."""
        links = {link.name for link in self.host.links() if link.ifindex != 1}
        names = {link.ifindex: link.name for link in self.host.links()}
        routes = {
            f"{socket.inet_ntoa(r.dst)}/{r.length} dev {names.get(r.ifindex, '?')}"
            for r in self.host.routes(socket.AF_INET, 254)
            if r.dst
        }
        rules = {
            f"{r.priority}: from {_net(r.src)} to {_net(r.dst)} lookup {r.table}"
            for r in self.host.rules(socket.AF_INET)
            if r.priority not in (0, 32766, 32767)
        }
        return links, routes, rules

    def checkpoint(self) -> dict[str, str]:
        """ipam.json: container id to address."""
        body = json.loads((self.run_dir / "ipam.json").read_text())
        assert body["version"] == "vpc-cni-ipam/1"
        return {entry["containerID"]: entry["ipv4"] for entry in body["allocations"]}

    def descriptors(self) -> int:
        """How many the agent has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> None:
        """End everything."""
        self._hang_up()
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pod in self.pods:
            pod.close()
        self._listener.close()
        self.host.close()
        os.close(self.netns)
        for path in sorted(self.run_dir.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.run_dir.rmdir()

    def __enter__(self) -> AgentBox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            print(self.text()[-8000:])
        self.close()
        if error is None:
            told = [mark for mark in TRACES if mark in self.text()]
            assert not told, self.text()[-8000:]


def _net(address: bytes) -> str:
    return socket.inet_ntoa(address) if len(address) == 4 else "all"


HEADER = struct.Struct("<4sHBBII")
