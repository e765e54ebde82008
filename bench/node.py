"""An agent without a manager: one made-up ENI with as many single addresses as a benchmark wants.

So the figures are those of the plugin and the agent alone, with the pool never empty. The starter does what the
supervisor does (it holds the listening socket) and what the manager does over the control socket.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from agent import control
from bench.build import ROOT
from cli.control_client import ControlClient
from core.errors import AgentGone

ENI = control.Eni(
    eni_id="eni-0bench", mac="02:00:00:00:00:77", ifname="eth1", ifindex=0, card=0, device=1, table=2,
    primary_ip="10.64.0.4", subnet_gateway="10.64.0.1",
)  # fmt: skip
FIRST_ADDRESS = ipaddress.IPv4Address("10.64.0.16")
PLUGIN = ROOT / "cni" / "bin" / "aws-cni"


def missing() -> str:
    """What is not built; empty if all is there."""
    if not PLUGIN.exists():
        return "cni/bin/aws-cni is not built"
    if not (ROOT / "agent" / "fastpath" / "main.py").exists():
        return "agent/fastpath/main.py is not there"
    return ""


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process (proc(5), schedstat: ns on the processor)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def memory_bytes(rollup: str) -> tuple[int, int]:
    """Pss and Rss from the text of a smaps_rollup (proc(5)): what is shared counted by its share, and as if it were
    not shared. Raises ValueError if it has none."""
    fields = dict(line.split(":", 1) for line in rollup.splitlines() if ":" in line)
    try:
        pss, rss = (int(fields[name].split()[0]) * 1024 for name in ("Pss", "Rss"))
    except KeyError as error:
        raise ValueError(f"no {error} in {rollup[:100]!r}") from error
    return pss, rss


class Node:
    """The running agent, as a context manager. `log` holds its standard error."""

    def __init__(self, folder: Path, *, addresses: int) -> None:
        self.run_dir = folder / "run"
        self.log = folder / "agent.log"
        self.plugin = PLUGIN
        self._addresses = addresses
        for path in (self.run_dir, folder / "log", folder / "bin", folder / "net.d"):
            path.mkdir(parents=True)
        self._environment = {
            "PATH": os.environ["PATH"], "ENABLE_IPv4": "true", "MY_NODE_NAME": "bench",
            "ENID_RUN_DIR": str(self.run_dir), "ENID_LOG_DIR": str(folder / "log"),
            "ENID_CNI_BIN_DIR": str(folder / "bin"), "ENID_CNI_CONF_DIR": str(folder / "net.d"),
            "AWS_VPC_K8S_CNI_LOG_FILE": "stderr", "AWS_VPC_K8S_CNI_LOGLEVEL": "info",
        }  # fmt: skip

    def __enter__(self) -> Node:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.run_dir / "cni.sock"))
        listener.listen(4096)
        fd = listener.fileno()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "agent.fastpath.main"],
                env={**self._environment, "ENID_LISTEN_FD": str(fd)}, pass_fds=(fd,), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        listener.close()
        try:
            self._manage()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._manager.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Of the agent."""
        return self._process.pid

    def config(self, folder: Path) -> Path:
        """The configuration that the runtime gives the plugin on standard input."""
        path = folder / "aws-cni.json"
        body = {
            "cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001",
            "podSGEnforcingMode": "strict", "agentSocket": str(self.run_dir / "cni.sock"), "pluginLogFile": "",
            "pluginLogLevel": "info", "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        }  # fmt: skip
        path.write_text(json.dumps(body))
        return path

    def _manage(self) -> None:
        self._manager = self._connect(deadline=time.monotonic() + 20)
        self._manager.do(control.SetEni(ENI))
        for number in range(self._addresses):
            base = str(FIRST_ADDRESS + number)
            self._manager.do(control.AddBlock(ENI.eni_id, base, 32, "address"))
        self._manager.do(control.Outlook(can_grow=False, code="bench", text="a benchmark has a fixed pool"))
        self._manager.do(control.Ready())

    def _connect(self, deadline: float) -> ControlClient:
        while True:
            try:
                return ControlClient(self.run_dir / "control.sock", role="manager", timeout_s=10)
            except AgentGone as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AgentGone("the agent did not start", cause=self.log.read_text()[-2000:]) from error
                time.sleep(0.01)
