"""A small container runtime: sandboxes, and the node's CNI chain as the specification has a runtime call it.

There are no containers in it, only what a network plugin meets: a namespace bound to a path, the calls, their
environment, order and repetitions. Whose habits these are is a profile. Cached results lie in `cni/cache/results` of
the node's folder, which stands for /var/lib/cni.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import CniError, Completed, Pod, PodAnswer
from sandbox.net import netns
from sandbox.runtime import conflist, profiles
from sandbox.runtime.conflist import Network, Plugin, Verb

IFNAME: Final = "eth0"
LOOPBACK: Final = Network("cni-loopback", "0.3.1", (Plugin("loopback", {"type": "loopback"}),))
LOOPBACK_NAME: Final = "loopback"
RunPlugin = Callable[[Sequence[str], Mapping[str, str], bytes, float], Completed]


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...


class PluginFailed(Exception):
    """A plugin said no, or nothing that can be understood."""

    def __init__(self, error: CniError) -> None:
        super().__init__(f"plugin type={error.plugin} failed: {error.msg}; {error.details}")
        self.error = error


@dataclass
class Sandbox:
    """One pod's sandbox; guarded by its own lock, as a runtime serialises calls for one sandbox."""

    namespace: str
    name: str
    uid: str
    container_id: str
    netns_name: str
    network: Network
    capability_args: dict[str, Any]
    state: str = "starting"
    result: dict[str, Any] | None = None
    stderr: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def netns(self) -> str:
        return netns.path(self.netns_name)


class Runtime:
    """The runtime of one node. `run_plugin(argv, env, stdin, timeout)` starts a process in the node's namespace."""

    def __init__(
        self,
        node: str,
        folder: Path,
        env: Mapping[str, str],
        run_plugin: RunPlugin,
        clock: Clock,
        rng: random.Random,
        profile: str = "spec",
    ) -> None:
        self._node = node
        self._conf = folder / "cni" / "conf"
        self._bin = folder / "cni" / "bin"
        self._cache = folder / "cni" / "cache"
        self._env = dict(env)
        self._run_plugin = run_plugin
        self._rng = rng
        self._lock = threading.Lock()
        self._sandboxes: dict[tuple[str, str], Sandbox] = {}
        self._clock = clock
        self.profile = profiles.named(profile)

    # --- pods -----------------------------------------------------------------------------------------

    def create(
        self,
        namespace: str,
        name: str,
        uid: str,
        annotations: Mapping[str, str],
        port_mappings: Sequence[Mapping[str, Any]],
        timeout: float,
    ) -> PodAnswer:
        """Namespace, ADD chain; after a failed ADD one DEL, and nothing stays. Raises SandboxFailure exists, cni."""
        network = conflist.load(self._conf, self.profile.negotiates)
        box = Sandbox(
            namespace,
            name,
            uid,
            container_id=f"{self._rng.getrandbits(256):064x}",
            netns_name=f"cni-{uuid.UUID(int=self._rng.getrandbits(128), version=4)}",
            network=network,
            capability_args={
                "portMappings": [dict(mapping) for mapping in port_mappings],
                "io.kubernetes.cri.pod-annotations": dict(annotations),
            },
        )
        with self._lock:
            if (namespace, name) in self._sandboxes:
                raise SandboxFailure("exists", f"pod {namespace}/{name} has a sandbox on {self._node} already")
            self._sandboxes[(namespace, name)] = box
        begun = self._clock.now()
        error: CniError | None = None
        with box.lock:
            try:
                netns.create(box.netns_name)
                called = self._clock.now()
                try:
                    self._add(box, timeout)
                except PluginFailed as failed:
                    error = failed.error
                took = self._clock.now() - called
                if error is None:
                    box.state = "up"
                else:
                    self._undo(box, timeout)
            except BaseException:
                netns.remove(box.netns_name)
                self._forget(box)
                raise
        return self._answer(box, error, took, begun)

    def delete(self, namespace: str, name: str, timeout: float) -> PodAnswer:
        """DEL, then the namespace goes; after a failed DEL the sandbox stays. Raises SandboxFailure unknown."""
        box = self._find(namespace, name)
        begun = self._clock.now()
        error: CniError | None = None
        with box.lock:
            if self._sandboxes.get((namespace, name)) is not box:
                raise SandboxFailure("unknown", f"pod {namespace}/{name} has no sandbox on {self._node}")
            box.state = "stopping"
            box.stderr.clear()
            called = self._clock.now()
            try:
                self._del(box, box.netns, box.result, timeout)
                netns.remove(box.netns_name)
                if self.profile.second_del:
                    self._del(box, "", None, timeout)
            except PluginFailed as failed:
                error = failed.error
            took = self._clock.now() - called
            if error is None:
                self._forget(box)
            else:
                box.state = "failed-delete"
        return self._answer(box, error, took, begun, with_result=False)

    def verb(self, verb: str, namespace: str, name: str, timeout: float) -> CniError | None:
        """CHECK of a pod, or STATUS, GC, VERSION of the network. Raises SandboxFailure bad-request."""
        network = conflist.load(self._conf, self.profile.negotiates)
        if verb == "CHECK":
            box = self._find(namespace, name)
            network = box.network
        if verb not in ("CHECK", "STATUS", "GC", "VERSION") or not network.knows(verb):
            raise SandboxFailure(
                "bad-request", f"{verb}: not for cniVersion {network.version}, or switched off in the list"
            )
        try:
            if verb == "CHECK":
                with box.lock:
                    for plugin in network.plugins:
                        self._call("CHECK", box, network, plugin, box.netns, box.result, timeout)
            elif verb == "GC":
                with self._lock:
                    alive = [{"containerID": box.container_id, "ifname": IFNAME} for box in self._sandboxes.values()]
                for plugin in network.plugins:
                    config = conflist.execution_config(network, plugin, None, {}, {"cni.dev/valid-attachments": alive})
                    self._invoke("GC", plugin, config, {}, timeout, [])
            else:
                for plugin in network.plugins:
                    self._invoke(verb, plugin, conflist.execution_config(network, plugin, None, {}), {}, timeout, [])
        except PluginFailed as failed:
            return failed.error
        return None

    def poll(self, timeout: float) -> CniError | None:
        """What the kubelet's poll of the runtime's status finds wrong with the network; None also where nobody asks."""
        try:
            network = conflist.load(self._conf, self.profile.negotiates)
        except SandboxFailure as failure:
            return CniError("", 999, failure.text)
        if not self.profile.polls_status or not network.knows("STATUS"):
            return None
        return self.verb("STATUS", "", "", timeout)

    def abandon(self) -> list[Pod]:
        """The node is no more: namespaces go without a DEL. The pods that were."""
        with self._lock:
            boxes = list(self._sandboxes.values())
            self._sandboxes.clear()
        for box in boxes:
            netns.remove(box.netns_name)
        return [self._describe(box) for box in boxes]

    def pods(self) -> list[Pod]:
        with self._lock:
            boxes = list(self._sandboxes.values())
        return [self._describe(box) for box in boxes]

    def find(self, namespace: str, name: str) -> Pod:
        """Raises SandboxFailure unknown."""
        return self._describe(self._find(namespace, name))

    # --- chains ---------------------------------------------------------------------------------------

    def _add(self, box: Sandbox, timeout: float) -> None:
        beside: list[threading.Thread] = []
        if self.profile.loopback and (self._bin / LOOPBACK_NAME).exists():
            beside.append(threading.Thread(target=self._loopback, args=(box, timeout)))
            beside[0].start()
        try:
            result: dict[str, Any] | None = None
            for plugin in box.network.plugins:
                said = self._call("ADD", box, box.network, plugin, box.netns, result, timeout)
                result = _object(plugin, said)
                version = conflist.result_version(box.network, result)
                if version not in self.profile.versions:
                    raise PluginFailed(CniError(plugin.type, 1, f"unsupported CNI result version {version!r}"))
            assert result is not None
            box.result = result
            self._write_cache(box)
            if not conflist.addresses(result, IFNAME):
                raise PluginFailed(
                    CniError(
                        box.network.plugins[-1].type, 999, f"failed to find network info for {IFNAME} in the result"
                    )
                )
        finally:
            for thread in beside:
                thread.join()

    def _undo(self, box: Sandbox, timeout: float) -> None:
        try:
            self._del(box, box.netns, None, timeout)
        except PluginFailed as failed:
            box.stderr.append(f"cleaning up: {failed}\n")
        netns.remove(box.netns_name)
        self._forget(box)

    def _del(self, box: Sandbox, where: str, result: dict[str, Any] | None, timeout: float) -> None:
        known = result if box.network.number >= conflist.PREV_RESULT_IN_DEL else None
        for plugin in reversed(box.network.plugins):
            self._call("DEL", box, box.network, plugin, where, known, timeout)
        self._cache_file(box).unlink(missing_ok=True)

    def _loopback(self, box: Sandbox, timeout: float) -> None:
        try:
            self._call("ADD", box, LOOPBACK, LOOPBACK.plugins[0], box.netns, None, timeout, ifname="lo")
        except PluginFailed as failed:
            box.stderr.append(f"{failed}\n")

    def _call(
        self,
        verb: Verb,
        box: Sandbox,
        network: Network,
        plugin: Plugin,
        where: str,
        prev_result: dict[str, Any] | None,
        timeout: float,
        ifname: str = IFNAME,
    ) -> bytes:
        env = {
            "CNI_CONTAINERID": box.container_id,
            "CNI_NETNS": where,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": conflist.cni_args(box.namespace, box.name, box.container_id, box.uid, self._rng),
        }
        config = conflist.execution_config(network, plugin, prev_result, box.capability_args)
        return self._invoke(verb, plugin, config, env, timeout, box.stderr)

    def _invoke(
        self, verb: str, plugin: Plugin, config: bytes, env: Mapping[str, str], timeout: float, stderr: list[str]
    ) -> bytes:
        argv = [str(self._bin / plugin.type)]
        try:
            done = self._run_plugin(
                argv, {**self._env, "CNI_COMMAND": verb, "CNI_PATH": str(self._bin), **env}, config, timeout
            )
        except SandboxFailure as failure:
            raise PluginFailed(CniError(plugin.type, 999, failure.text)) from failure
        if done.stderr:
            stderr.append(done.error_text)
        if done.rc == 0:
            return done.stdout
        try:
            said = json.loads(done.stdout)
            error = CniError(plugin.type, int(said["code"]), str(said["msg"]), str(said.get("details", "")))
        except (ValueError, KeyError, TypeError):
            how = f"signal {-done.rc}" if done.rc < 0 else f"exit status {done.rc}"
            text = (done.text or done.error_text).strip()[:500]
            error = CniError(plugin.type, 999, f"netplugin failed with no error message ({how}): {text!r}")
        raise PluginFailed(error)

    # --- records --------------------------------------------------------------------------------------

    def _cache_file(self, box: Sandbox) -> Path:
        return self._cache / "results" / f"{box.network.name}-{box.container_id}-{IFNAME}"

    def _write_cache(self, box: Sandbox) -> None:
        """The cached result, in the form that CNI's own library keeps (`kind` cniCacheV1), for whoever looks there."""
        file = self._cache_file(box)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = {
            "kind": "cniCacheV1",
            "containerId": box.container_id,
            "ifName": IFNAME,
            "networkName": box.network.name,
            "netns": box.netns,
            "capabilityArgs": box.capability_args,
            "result": box.result,
        }
        file.write_text(json.dumps(text))

    def _find(self, namespace: str, name: str) -> Sandbox:
        with self._lock:
            box = self._sandboxes.get((namespace, name))
        if box is None:
            raise SandboxFailure("unknown", f"pod {namespace}/{name} has no sandbox on {self._node}")
        return box

    def _forget(self, box: Sandbox) -> None:
        with self._lock:
            self._sandboxes.pop((box.namespace, box.name), None)

    def _describe(self, box: Sandbox) -> Pod:
        ips = conflist.addresses(box.result, IFNAME) if box.result else []
        return Pod(self._node, box.namespace, box.name, box.uid, box.container_id, box.netns, box.state, ips)

    def _answer(
        self, box: Sandbox, error: CniError | None, took: float, begun: float, *, with_result: bool = True
    ) -> PodAnswer:
        return PodAnswer(
            pod=self._describe(box),
            result=box.result if with_result and error is None else None,
            error=error,
            took_us=int(took * 1e6),
            total_us=int((self._clock.now() - begun) * 1e6),
            stderr="".join(box.stderr),
        )


def _object(plugin: Plugin, said: bytes) -> dict[str, Any]:
    try:
        result = json.loads(said)
    except ValueError as error:
        raise PluginFailed(CniError(plugin.type, 6, f"result of ADD is not JSON: {error}", repr(said[:200]))) from error
    if not isinstance(result, dict):
        raise PluginFailed(CniError(plugin.type, 6, "result of ADD is not a JSON object", repr(said[:200])))
    return result
