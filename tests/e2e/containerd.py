"""A real containerd as one node's runtime: a private instance with its CRI plugin, and a client for it.

The small runtime of the sandbox must behave like the real one; the tests that run on both keep it honest. Each
instance has a folder, socket and state of its own and runs inside a node's network namespace, so several stand
side by side. Needs Debian's containerd and runc, and a C compiler for the pause image.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAUSE_C = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void bye(int sig) { (void)sig; _exit(0); }
static void reap(int sig) { (void)sig; while (waitpid(-1, 0, WNOHANG) > 0) { } }
int main(void) { signal(SIGTERM, bye); signal(SIGINT, bye); signal(SIGCHLD, reap); for (;;) pause(); }
"""
PAUSE_REF = "localhost/pause:1"


def pause_image(folder: Path) -> Path:
    """An OCI archive with one static binary, made in `folder`; returns its path."""
    binary, out = folder / "pause", folder / "pause.tar"
    source = folder / "pause.c"
    source.write_text(PAUSE_C)
    subprocess.run(["cc", "-static", "-Os", "-s", "-o", str(binary), str(source)], check=True)
    layer = _tar({"pause": (binary.read_bytes(), 0o755)}, folders=("proc", "sys", "dev", "etc", "tmp"))
    packed = gzip.compress(layer, mtime=0)
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[_machine()],
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described("application/vnd.oci.image.config.v1+json", config),
            "layers": [_described("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }
    ).encode()
    entry = _described("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": PAUSE_REF, "org.opencontainers.image.ref.name": "1"}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs = {f"blobs/sha256/{_digest(b)[7:]}": (b, 0o644) for b in (config, packed, manifest)}
    out.write_bytes(
        _tar({"oci-layout": (b'{"imageLayoutVersion":"1.0.0"}', 0o644), "index.json": (index, 0o644), **blobs})
    )
    return out


def _machine() -> str:
    import platform

    return platform.machine()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _described(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _tar(files: Mapping[str, tuple[bytes, int]], folders: Sequence[str] = ()) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in folders:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, (data, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return raw.getvalue()


CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  enable_selinux = false
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{conf}"
    bin_dir = "{bin}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def write_config(folder: Path, conf: Path, binaries: Path) -> Path:
    """containerd's configuration for one node; returns the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text(CONFIG.format(folder=folder, pause=PAUSE_REF, conf=conf, bin=binaries))
    return path


def messages(folder: Path) -> Any:
    """The generated message classes of cri.proto."""
    from grpc_tools import protoc

    if "cri_pb2" not in sys.modules:
        if protoc.main(["protoc", f"-I{HERE}", f"--python_out={folder}", "cri.proto"]):
            raise RuntimeError("protoc refused cri.proto")
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module("cri_pb2")
        finally:
            sys.path.remove(str(folder))
    return sys.modules["cri_pb2"]


class Cri:
    """Makes and removes pod sandboxes through containerd's CRI socket. Errors are grpc.RpcError."""

    def __init__(self, socket: Path, folder: Path, timeout: float = 120) -> None:
        import grpc

        self.pb = messages(folder)
        self.channel = grpc.insecure_channel(f"unix://{socket}")
        self.timeout = timeout

    def close(self) -> None:
        self.channel.close()

    def call(self, method: str, request: Any, reply: Any) -> Any:
        """One unary call of runtime.v1.RuntimeService."""
        stub = self.channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return stub(request, timeout=self.timeout, wait_for_ready=True)

    def run(self, name: str, namespace: str = "default", ports: Sequence[tuple[int, int]] = ()) -> str:
        """RunPodSandbox; `ports` are (host, container) TCP pairs; returns the sandbox id."""
        pb, uid = self.pb, str(uuid.uuid4())
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            hostname=name,
            labels={
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            linux=pb.LinuxPodSandboxConfig(
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(pid=1))
            ),
        )
        for host, container in ports:
            config.port_mappings.add(host_port=host, container_port=container)
        made: str = self.call(
            "RunPodSandbox", pb.RunPodSandboxRequest(config=config), pb.RunPodSandboxResponse
        ).pod_sandbox_id
        return made

    def stop(self, sandbox: str) -> None:
        self.call("StopPodSandbox", self.pb.PodSandboxRequest(pod_sandbox_id=sandbox), self.pb.Nothing)

    def remove(self, sandbox: str) -> None:
        self.call("RemovePodSandbox", self.pb.PodSandboxRequest(pod_sandbox_id=sandbox), self.pb.Nothing)

    def info(self, sandbox: str) -> dict[str, Any]:
        """ip, netns path and the CNI result as containerd keeps them."""
        request = self.pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        status = self.call("PodSandboxStatus", request, self.pb.PodSandboxStatusResponse)
        info = json.loads(status.info["info"])
        spaces = info["runtimeSpec"]["linux"]["namespaces"]
        netns = next(n["path"] for n in spaces if n["type"] == "network")
        return {"ip": status.status.network.ip, "netns": netns, "cni": info["cniResult"]}

    def network_ready(self) -> bool:
        """Whether containerd has loaded a CNI configuration."""
        status = self.call("Status", self.pb.StatusRequest(), self.pb.StatusResponse)
        return any(c.type == "NetworkReady" and c.status for c in status.status.conditions)
