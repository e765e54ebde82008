"""The same through real containerd: two nodes, 30 pods each over at least two ENIs, made and removed at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.stage import Stage, wait_for
from sandbox.world.scenario import Scenario
from tests.e2e import containerd
from tests.e2e.conftest import MakeStage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PODS = 30


@pytest.fixture
def runtimes(make_stage: MakeStage, short_folder: Path) -> Iterator[tuple[Stage, dict[str, containerd.Cri]]]:
    """Two nodes, each with enid and a containerd that has loaded enid's conflist."""
    for program in ("containerd", "runc"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing; ./setup.sh test installs it")
    stage = make_stage(Scenario.simple(2, "m5.xlarge"))
    image = containerd.pause_image(short_folder)
    clients: dict[str, containerd.Cri] = {}
    for node in ("node-1", "node-2"):
        home = short_folder / f"ctd-{node}"
        files = stage.world.node_folder(node) / "cni"
        config = containerd.write_config(home, files / "conf", files / "bin")
        for plugin in ("loopback", "portmap"):
            if not (files / "bin" / plugin).exists():
                shutil.copy(f"/usr/lib/cni/{plugin}", files / "bin" / plugin)
        stage.world.node_spawn(node, "containerd", ["containerd", "-c", str(config)], env={"PATH": PATH})
        ctr = ["ctr", "-a", f"{home}/c.sock"]
        wait_for(
            f"{node}: containerd",
            lambda n=node, c=ctr: stage.world.node_exec(n, [*c, "version"], env={"PATH": PATH}).rc == 0,
        )
        done = stage.world.node_exec(
            node,
            [*ctr, "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", str(image)],
            env={"PATH": PATH},
        )
        assert done.rc == 0, done.error_text
        clients[node] = containerd.Cri(home / "c.sock", short_folder)
        wait_for(f"{node}: containerd has the conflist", clients[node].network_ready)
    yield stage, clients
    for client in clients.values():
        client.close()


def test_sixty_pods_through_containerd(runtimes: tuple[Stage, dict[str, containerd.Cri]]) -> None:
    stage, clients = runtimes
    names = [(node, f"p{i}") for i in range(PODS) for node in clients]
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: clients[n[0]].run(n[1], "web"), names))
        infos = list(pool.map(lambda n: clients[n[0][0]].info(n[1]), zip(names, ids, strict=True)))
    addresses = {f"{node}/{name}": (node, info["ip"]) for (node, name), info in zip(names, infos, strict=True)}
    assert len({address for _, address in addresses.values()}) == 2 * PODS
    assert stage.ledger_problems(addresses) == []
    used = stage.enis_used(addresses)
    assert all(len(devices) >= 2 and sum(devices.values()) == PODS for devices in used.values()), used

    targets = {f"{node}/{name}": info["netns"] for (node, name), info in zip(names, infos, strict=True)}
    report = stage.world.probe(targets)
    assert report.failures == []
    assert report.ok == report.sent == 2 * PODS * (2 * PODS - 1)
    assert report.first_lost == 0
    assert {label: [address] for label, (_, address) in addresses.items()} == report.seen_source
    primary = {node.name: node.primary_ip for node in stage.world.nodes()}
    assert stage.world.to_internet(targets) == {label: primary[node] for label, (node, _) in addresses.items()}
    assert stage.spoofed() == 0

    # Removal and creation at the same time, as a rollout does it.
    with ThreadPoolExecutor(16) as pool:
        old = list(zip(names, ids, strict=True))

        def replace(item: tuple[tuple[str, str], str]) -> tuple[str, str]:
            (node, name), sandbox = item
            clients[node].stop(sandbox)
            clients[node].remove(sandbox)
            return node, clients[node].run(f"{name}-next", "web")

        fresh = list(pool.map(replace, old[:20]))
        list(pool.map(lambda item: (clients[item[0]].stop(item[1]), clients[item[0]].remove(item[1])), fresh))
        rest = [(node, sandbox) for (node, _), sandbox in old[20:]]
        list(pool.map(lambda item: (clients[item[0]].stop(item[1]), clients[item[0]].remove(item[1])), rest))
    for node in clients:
        wait_for(f"{node}: no trace of a pod", lambda node=node: stage.pod_traces(node) == [], 20)
    assert stage.spoofed() == 0


def test_host_port_through_containerd(runtimes: tuple[Stage, dict[str, containerd.Cri]]) -> None:
    stage, clients = runtimes
    sandbox = clients["node-1"].run("ported", "web", ports=[(18080, 80)])
    rules = stage.world.node_exec("node-1", ["nft", "list", "ruleset"]).text
    legacy = stage.world.node_exec("node-1", ["iptables-save"]).text
    assert "18080" in rules + legacy
    clients["node-1"].stop(sandbox)
    clients["node-1"].remove(sandbox)
    rules = stage.world.node_exec("node-1", ["nft", "list", "ruleset"]).text
    assert "18080" not in rules + stage.world.node_exec("node-1", ["iptables-save"]).text
