"""The world's life: up, asked, down, killed in every way, and without privilege. Looked at from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sandbox.base.failures import SandboxFailure
from sandbox.face import lifetime
from sandbox.face.client import Sandbox, default_folder
from sandbox.world import place, scenario
from sandbox.world.scenario import NodeSpec, Scenario, SubnetSpec
from tests.sandbox.conftest import SIGNED, until

root = pytest.mark.root
SMALL = Scenario.simple(1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "s"
    yield place
    if place.exists():
        lifetime.stop(place, 5)


def family(pid: int) -> list[int]:
    """A process and all its descendants, as seen from here."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue  # a thread that ended meanwhile
    return found


def mentioned(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and _state(int(entry)) != "Z":
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in line:
                found.append(line.decode())
    return found


def everything() -> dict[str, object]:
    """What a sandbox could leave on this machine outside its folder."""
    links = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    return {
        "links": sorted(link["ifname"] for link in json.loads(links)),
        "mounts": sorted(line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "netns": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}/ns/net") and _state(pid) != "Z"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@root
def test_up_status_down(folder: Path) -> None:
    before = everything()
    steps: list[str] = []
    with Sandbox.up(folder, Scenario.simple(2), progress=steps.append) as world:
        status = world.status()
        assert [node.name for node in status.nodes] == ["node-1", "node-2"]
        assert [node.zone for node in status.nodes] == ["us-west-2a", "us-west-2b"]
        assert (status.enis, status.pods, status.drops, status.faults) == (2, 0, {}, {})
        assert place.running(folder)
        assert everything() == before
        pids = family(status.pid)
        assert len(pids) == 3
    assert everything() == before
    assert not alive(pids)
    assert not place.running(folder)
    assert [step for step in steps if "node-2" in step]
    assert {entry.name for entry in folder.iterdir()} <= {"daemon.log", "lock", "nodes", "scenario.json"}
    assert (folder / "daemon.log").read_text() == ""
    Sandbox(folder).down()


@root
def test_one_seed_gives_one_world(folder: Path) -> None:
    seen = []
    for seed in (1, 1, 2):
        with Sandbox.up(folder, Scenario.simple(2, seed=seed)) as world:
            seen.append(world.ledger())
    assert seen[0] == seen[1]
    assert [entry.mac for entry in seen[0]] != [entry.mac for entry in seen[2]]


@root
@pytest.mark.parametrize("who", ["outer", "init", "world"])
def test_sigkill_of_any_of_its_processes_leaves_nothing(folder: Path, who: str) -> None:
    before = everything()
    world = Sandbox.up(folder, SMALL, attached=False)
    world.node_spawn("node-1", "stay", ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"])
    outer = world.status().pid
    pids = until(lambda: family(outer) if len(family(outer)) == 5 else [], "five processes")
    os.kill(pids[("outer", "init", "world").index(who)], signal.SIGKILL)
    until(lambda: not place.running(folder), "lock free")
    assert not alive(pids)
    assert everything() == before
    assert not mentioned(folder)
    with pytest.raises(SandboxFailure) as caught:
        Sandbox.connect(folder)
    assert caught.value.code == "stale"
    with Sandbox.up(folder, SMALL) as again:
        assert again.processes() == []


@root
def test_attached_world_dies_with_its_starter(folder: Path) -> None:
    code = f"""
        import sys, time
        from sandbox.face.client import Sandbox
        from sandbox.world.scenario import Scenario
        Sandbox.up({str(folder)!r}, Scenario.simple(1))
        print("up", flush=True)
        time.sleep(1000)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as starter:
        try:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"up\n"
            pids = family(Sandbox.connect(folder).status().pid)
        finally:
            starter.kill()
    until(lambda: not place.running(folder), "lock free")
    assert not alive(pids)


@root
def test_down_ends_a_world_that_does_not_answer(folder: Path) -> None:
    world = Sandbox.up(folder, SMALL, attached=False)
    pids = family(world.status().pid)
    os.kill(pids[2], signal.SIGSTOP)
    lifetime.stop(folder, 0.1)
    assert not alive(pids)


@root
def test_processes_of_a_node(folder: Path) -> None:
    with Sandbox.up(folder, SMALL) as world:
        made = world.node_spawn(
            "node-1", "echo", ["sh", "-c", "echo $MY_NODE_NAME $X; exec sleep 1000"], env={"X": "y"}
        )
        log = world.node_folder("node-1") / "log" / "echo.out"
        until(lambda: log.read_text() == "node-1 y\n", "output in the log")
        with pytest.raises(SandboxFailure) as caught:
            world.node_spawn("node-1", "echo", ["true"])
        assert caught.value.code == "exists"
        found = until(lambda: [p for p in world.processes("node-1") if p.comm == "sleep"], "exec of sleep")
        assert [(p.name, p.pid, p.argv) for p in found] == [("echo", made.pid, ["sleep", "1000"])]
        world.node_signal("node-1", "echo", signal.SIGUSR1)
        until(lambda: [p.rc for p in world.processes("node-1")] == [-signal.SIGUSR1], "ended by the signal")
        with pytest.raises(SandboxFailure) as caught:
            world.node_signal("node-1", "echo", signal.SIGUSR1)
        assert caught.value.code == "unknown"
        world.node_spawn("node-1", "deaf", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
        deaf = world.node_folder("node-1") / "log" / "deaf.out"
        until(lambda: deaf.read_text() == "ready\n", "trap set")
        assert world.node_stop("node-1", "deaf", timeout=0.1) == -signal.SIGKILL
        made = world.node_spawn("node-1", "echo", ["sleep", "1000"])
        world.kill(made.pid)
        until(lambda: {p.name: p.rc for p in world.processes()}["echo"] == -signal.SIGKILL, "killed by pid")
        with pytest.raises(SandboxFailure) as caught:
            world.kill(1)
        assert caught.value.code == "bad-request"


@root
def test_commands_and_what_is_wrong_with_them(folder: Path) -> None:
    with Sandbox.up(folder, SMALL) as world:
        done = world.node_exec("node-1", ["sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"\xff\x00in")
        assert (done.rc, done.stdout, done.error_text) == (3, b"\xff\x00in", "no\n")
        assert world.node_exec("node-1", ["sh", "-c", "kill -9 $$"]).rc == -9
        for code, call in (
            ("unknown", lambda: world.node_exec("nope", ["true"])),
            ("no-program", lambda: world.node_exec("node-1", ["/no/such/program"])),
            ("not-executable", lambda: world.node_exec("node-1", ["/etc/passwd"])),
            ("bad-request", lambda: world.node_exec("node-1", [])),
            ("timeout", lambda: world.node_exec("node-1", ["sleep", "1000"], timeout=0.1)),
            ("unknown", lambda: world.node_stop("node-1", "never")),
            ("unknown", lambda: world.pod_exec("node-1", "a", "b", ["true"])),
            ("unknown", lambda: world.kill(999_999)),
            ("bad-request", lambda: world.node_spawn("node-1", "../x", ["true"])),
            ("bad-request", lambda: world.fault("nonsense", "1")),
            ("bad-request", lambda: world.fault("net-lag", "soon")),
            ("bad-request", lambda: world.fault("ec2", '{"action": "*"}')),
            ("bad-request", lambda: world.runtime_profile("node-1", "docker")),
            ("bad-request", lambda: world.node_add("node-2", "m99.huge")),
            ("bad-request", lambda: world.node_add("Node_2", "m5.large")),
            ("exists", lambda: world.node_add("node-1", "m5.large")),
        ):
            with pytest.raises(SandboxFailure) as caught:
                call()
            assert caught.value.code == code, caught.value
        assert [node.name for node in world.nodes()] == ["node-1"]


@root
def test_nonsense_on_the_control_socket_gets_an_error_and_harms_nobody(folder: Path) -> None:
    with Sandbox.up(folder, SMALL) as world:
        for line, word in (
            (b"\n", "bad-request"),
            (b"{\n", "bad-request"),
            (b"[]\n", "bad-request"),
            (b'{"do": 7}\n', "bad-request"),
            (b'{"do": "dance"}\n', "dance"),
            (b'{"do": "node"}\n', "node"),
            (b'{"do": "node", "node": 3}\n', "bad-request"),
            (b'{"do": "status", "extra": 3}\n', "extra"),
        ):
            with lifetime.dial(folder, "control.sock") as link:
                link.sendall(line)
                answer = json.loads(link.makefile().readline())
            assert word in json.dumps(answer["error"])
        with lifetime.dial(folder, "control.sock") as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            link.sendall(b'{"do": "status"')
        assert world.status().enis == 1


@root
def test_faults_are_set_shown_and_cleared(folder: Path) -> None:
    with Sandbox.up(folder, SMALL) as world:
        rule = '{"action": "DescribeVpcs", "error": "RequestLimitExceeded", "times": 1}'
        assert world.fault("ec2", rule) == {"ec2": rule}
        ask = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            *SIGNED,
            "http://198.18.0.2/?Action=DescribeVpcs&Version=2016-11-15",
        ]
        assert [world.node_exec("node-1", ask).text for _ in range(2)] == ["503", "200"]
        assert world.status().faults["hits:DescribeVpcs"] == "1"
        assert "ec2" not in world.fault("ec2", "")
        world.fault("kube", "away")
        probe = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://198.18.0.3/version"]
        assert world.node_exec("node-1", probe).text == "000"
        world.fault("kube", "")
        assert world.node_exec("node-1", probe).text == "200"


@root
def test_second_world_in_one_folder_is_refused_and_in_another_is_fine(folder: Path, tmp_path: Path) -> None:
    with Sandbox.up(folder, SMALL) as first, Sandbox.up(tmp_path / "t", SMALL) as second:
        with pytest.raises(SandboxFailure) as caught:
            Sandbox.up(folder, SMALL)
        assert caught.value.code == "already-running"
        assert first.node_exec("node-1", ["true"]).rc == second.node_exec("node-1", ["true"]).rc == 0


@root
def test_scenario_that_ec2_refuses_is_told_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(SandboxFailure, match=r"m99\.huge") as caught:
        Sandbox.up(folder, Scenario.simple(1, "m99.huge"))
    assert caught.value.code == "bad-request"
    assert not place.running(folder)


def test_unusable_folders(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("")
    for bad, why in (
        (tmp_path / "mine", "thesis.txt"),
        (tmp_path / "file", "not a folder"),
        (Path("/run/somewhere"), "below /run"),
        (tmp_path / ("x" * 100), "bytes too long"),
    ):
        with pytest.raises(SandboxFailure, match=why) as caught:
            Sandbox.up(bad, SMALL)
        assert caught.value.code == "bad-request"
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_interrupted_in_its_first_moment_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Between the lock's making and the return of the step that made it nobody knows yet that it has to go."""
    claim, coming = place.claim, [number]

    def interrupted(where: Path) -> int:
        made = claim(where)
        while coming:
            os.kill(os.getpid(), coming.pop())
        return made

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    monkeypatch.setattr(place, "claim", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            Sandbox.up(folder, Scenario.simple(1))
    finally:
        signal.signal(number, before)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure) as caught:
        Sandbox.connect(tmp_path)
    assert caught.value.code == "not-running"
    Sandbox(tmp_path).down()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"vpc_cidr": "10.0.0.0"}, "subnet 10.0.0.0/18 is not inside"),
        ({"vpc_cidr": "10.0.0.1/16"}, "host bits"),
        ({"vpc_cidr": "198.18.0.0/16"}, "which the sandbox itself uses"),
        ({"subnets": []}, "at least one"),
        ({"subnets": [{"cidr": "10.0.0.0/24"}, {"cidr": "10.0.0.128/25"}]}, "overlap"),
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, "two nodes"),
        ({"nodes": [{"name": "router"}]}, "router"),
        ({"nodes": [{"name": "a", "subnet": 9}]}, "subnet 9 does not exist"),
        ({"nodes": [{"name": "a", "hop_limit": 0}]}, "hop_limit 0"),
        ({"types": [{"name": "x", "enis": 0, "ipv4_per_eni": 1}]}, "at least 1"),
        ({"region": "moon"}, "region 'moon' is not of the form us-west-2"),
        ({"color": "red"}, "color"),
    ],
)
def test_scenarios_are_checked(change: dict[str, object], why: str) -> None:
    with pytest.raises(SandboxFailure, match=why) as caught:
        scenario.parse(json.dumps({"nodes": [{"name": "n"}], **change}))
    assert caught.value.code == "bad-request"


def test_simple_scenarios_are_good_and_survive_json(tmp_path: Path) -> None:
    made = Scenario((NodeSpec("a", labels={"x": "y"}),), subnets=(SubnetSpec("10.0.0.0/24", "c"),))
    lifetime.check_folder(tmp_path, made)
    made.check()
    assert scenario.parse(msgspec.json.encode(made)) == made
    Scenario.simple(0).check()


def test_default_folder_follows_the_environment() -> None:
    assert default_folder({"ENID_SANDBOX_DIR": "/x/y"}) == Path("/x/y")
    assert default_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/enid/sandbox")
    assert default_folder({"HOME": "/h"}) == Path("/h/.local/state/enid/sandbox")


@root
def test_unprivileged_user_gets_two_nodes_that_ping(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As nobody, with an interpreter that nobody may run (Debian's, if ours lies in root's home)."""
    place = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        place.chmod(0o777)
        python = place / "venv" / "bin" / "python"
        made = subprocess.run(
            ["/usr/bin/python3", "-m", "venv", "--without-pip", str(python.parent.parent)], check=False
        )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = python.parent.parent / "lib" / version / "site-packages"
        if made.returncode != 0 or not packages.is_dir():
            pytest.skip(f"needs a {version} in /usr/bin that any user may run")
        (packages / "all.pth").write_text("\n".join(entry for entry in sys.path if entry.endswith("-packages")))
        (packages / "checkout.pth").write_text(str(Path(lifetime.__file__).parents[2]))
        code = f"""
            from sandbox.face.client import Sandbox
            from sandbox.world.scenario import Scenario
            with Sandbox.up({str(place / "s")!r}, Scenario.simple(2)) as world:
                status = world.status()
                assert status.user_namespace
                target = status.nodes[1].primary_ip
                print(world.node_exec("node-1", ["ping", "-c1", "-W2", target]).rc)
                print(world.node_exec("node-1", ["ping", "-c1", "-W1", "-I", "lo", "10.0.99.99"]).rc)
                print(world.to_internet({{"n": status.nodes[0].netns}}, ifname="ens5"), status.nodes[0].primary_ip)
        """
        drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]
        done = subprocess.run(
            [*drop, str(python), "-I", "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(place)},
        )
        if "privilege" in done.stderr or "neither root nor a user namespace" in done.stderr:
            pytest.skip(f"user namespaces are not to be had: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        reached, _, seen = done.stdout.splitlines()
        assert reached == "0"
        mapping, _, own = seen.rpartition(" ")
        assert mapping == str({"n": own})
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)
