"""What the daemon leaves on a host goes by `enid agent --remove`; what is others' stays, and nothing goes too early."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.manager import removal
from agent.manager.host_network import HostNetwork
from clients.clock import SystemClock
from cni import conflist, install
from core.errors import AlreadyRunning
from core.hostnet import NodeRules
from core.settings import Settings
from ext import netlink
from tests.kernel.test_host_network import NAT, PRIMARY, in_namespace, run, second, state

pytestmark = pytest.mark.root


@contextmanager
def node() -> Iterator[tuple[Settings, Path]]:
    """A host as the daemon leaves it, and its conflist; with rules, a table and a link of others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(
            run_dir=str(folder / "run"),
            cni_conf_dir=str(folder / "conf"),
            cni_bin_dir=str(folder / "bin"),
            checkpoint_path=str(folder / "ipam.json"),
        )
        (folder / "run").mkdir()
        run("ip", "rule", "add", "from", "10.0.77.1", "lookup", "9", "priority", "1536", "protocol", "boot")
        run("ip", "rule", "add", "to", "10.9.9.9", "lookup", "9", "priority", "900", "protocol", "kernel")
        run("nft", "add", "table", "ip", "kube-proxy")
        install.install_conflist(settings)
        yield settings, folder / "conf" / conflist.FILE_NAME


def leave() -> None:
    """What the manager and the agent have set up."""
    host = HostNetwork(SystemClock())
    host.primary(PRIMARY, 1500)
    second(host)
    host.set_rules(NodeRules(0x80, True, False, ("172.20.0.0/16",)))
    host.set_nat(NAT)
    host.close()


def wire_pod() -> None:
    """A pod, as the agent leaves it on the host."""
    run("ip", "link", "add", "eni0123456789a", "type", "veth", "peer", "name", "inside")
    run("ip", "link", "set", "eni0123456789a", "up")
    with netlink.Socket.open() as sock:
        index = next(link.ifindex for link in sock.links() if link.name == "eni0123456789a")
        sock.apply([netlink.route_replace("10.0.64.40", index=index, protocol=netlink.KERNEL)])
        sock.apply([netlink.rule_add(512, 254, dst="10.0.64.40"), netlink.rule_add(1536, 2, src="10.0.64.40")])


def rules() -> list[str]:
    return sorted(run("ip", "rule").splitlines())


@in_namespace
def test_what_is_ours_goes_and_what_is_others_stays() -> None:
    with node() as (settings, file):
        before, tables = rules(), run("nft", "list", "ruleset")
        leave()
        # The existing system has been started already: its rule stands beside ours.
        run("ip", "rule", "add", "fwmark", "0x80/0x80", "lookup", "main", "priority", "1024", "protocol", "boot")
        assert len(rules()) == len(before) + 4
        done = removal.remove(settings)
        (theirs,) = set(rules()) - set(before)
        assert theirs.startswith("1024:")
        assert theirs.endswith("proto boot")
        assert set(before) <= set(rules())
        assert run("nft", "list", "ruleset") == tables
        assert not file.exists()
        assert f"conflist {file}" in done
        assert "nftables table enid" in done
        assert "rule 1535 to 172.20.0.0/16 lookup 254" in done
        after = state()
        assert removal.remove(settings) == []
        assert state() == after


@in_namespace
def test_while_pods_live_nothing_goes_and_they_are_named() -> None:
    with node() as (settings, file):
        leave()
        wire_pod()
        Path(settings.checkpoint_path).write_text(
            json.dumps(
                {
                    "version": "vpc-cni-ipam/1",
                    "allocations": [
                        {
                            "networkName": "aws-cni",
                            "containerID": "c1",
                            "ifName": "eth0",
                            "ipv4": "10.0.64.40",
                            "allocationTimestamp": 1,
                            "metadata": {"k8sPodNamespace": "default", "k8sPodName": "web"},
                        }
                    ],
                }
            )
        )
        before = state()
        with pytest.raises(removal.PodsRemain, match=r"1 pods.*default/web \(10.0.64.40, eni0123456789a\)"):
            removal.remove(settings)
        Path(settings.checkpoint_path).unlink()
        run("ip", "rule", "del", "to", "10.0.64.40", "priority", "512")
        with pytest.raises(removal.PodsRemain, match="eni0123456789a"):
            removal.remove(settings)
        run("ip", "rule", "add", "to", "10.0.64.40", "lookup", "main", "priority", "512", "protocol", "kernel")
        assert sorted(state().splitlines()) == sorted(before.splitlines())
        assert file.exists()
        # The link goes, and a rule of the pod is left: that is no pod.
        run("ip", "link", "del", "eni0123456789a")
        assert "rule 512 to 10.0.64.40/32 lookup 254" in removal.remove(settings)
        assert "10.0.64.40" not in run("ip", "rule")


@in_namespace
def test_while_a_daemon_runs_nothing_goes() -> None:
    with node() as (settings, file):
        leave()
        before = state()
        descriptor = os.open(Path(settings.run_dir) / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match=r"supervisor\.lock"):
            removal.remove(settings)
        os.close(descriptor)
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(settings.control_socket)
            agent.listen()
            with pytest.raises(AlreadyRunning, match=r"control\.sock"):
                removal.remove(settings)
        assert state() == before
        assert file.exists()
        assert removal.remove(settings)


@in_namespace
def test_a_list_of_others_stays() -> None:
    with node() as (settings, file):
        chained = json.loads(file.read_bytes())
        chained["plugins"].append({"type": "istio-cni"})
        entry = {"type": "aws-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": True}}
        theirs = {"cniVersion": "0.4.0", "name": "aws-cni", "plugins": [entry]}
        for content, told in ((chained, [f"left as it is, since others have plugins in it: {file}"]), (theirs, [])):
            file.write_text(json.dumps(content))
            assert removal.remove(settings) == told
            assert json.loads(file.read_text()) == content
