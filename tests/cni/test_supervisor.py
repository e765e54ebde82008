"""The supervisor with children of a few lines: who is started with what, who is started again, who may not start.

PYTHON is a small program here that looks at `-m MODULE` and then acts as the test's file for this module says.
Each child writes a line with its facts into `MODULE.log` at every start, so that lives are counted there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cni.conftest import ROOT, wait_for

SUPERVISOR = ROOT / "agent" / "bin" / "enid-supervisor"
AGENT, MANAGER = "agent.fastpath.main", "agent.manager.main"
STAND_IN = """#!{python} -ISB
import json, os, signal, socket, stat, sys
folder = {folder!r}
module = sys.argv[sys.argv.index("-m") + 1]
masked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
descriptors = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n))
facts = dict(pid=os.getpid(), parent=os.getppid(), arguments=sys.argv[1:], environment=dict(os.environ),
             descriptors=descriptors, masked=[int(s) for s in masked], group=os.getpgid(0),
             socket=stat.S_ISSOCK(os.fstat(3).st_mode) if 3 in descriptors else False)
log = os.open(folder + "/" + module + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def note(**fields):
    os.write(log, (json.dumps(fields) + "\\n").encode())
def tell(number, frame):
    open(folder + "/order", "a").write(module + " " + str(int(number)) + "\\n")
    if number != signal.SIGHUP:
        sys.exit(0)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, tell)
note(**facts)
script = folder + "/" + module + ".py"
if os.path.exists(script):
    exec(open(script).read())
while True:
    signal.pause()
"""


class Tree:
    """One supervisor and what its children have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.python = folder / "python"
        self.python.write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
        self.python.chmod(0o755)
        self.started: list[subprocess.Popen[bytes]] = []

    def script(self, module: str, code: str) -> None:
        (self.folder / f"{module}.py").write_text(code)

    def start(self, *, log: str = "supervisor.err", **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as err:
            process = subprocess.Popen(
                [SUPERVISOR, self.run_dir, self.python],
                env={"PATH": os.environ["PATH"], **environment},
                stdin=subprocess.PIPE,
                stderr=err,
            )
        self.started.append(process)
        return process

    def lives(self, module: str) -> list[dict[str, Any]]:
        file = self.folder / f"{module}.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def life(self, module: str, number: int = 0) -> dict[str, Any]:
        """The facts of the n-th life, once it has begun."""
        wait_for(lambda: len(self.lives(module)) > number)
        return self.lives(module)[number]

    def order(self) -> list[str]:
        file = self.folder / "order"
        return file.read_text().splitlines() if file.exists() else []

    def log(self, log: str = "supervisor.err") -> list[dict[str, str]]:
        lines = [json.loads(line) for line in (self.folder / log).read_text().splitlines()]
        assert all(set(line) == {"level", "ts", "msg"} for line in lines)
        return lines

    def messages(self, level: str, log: str = "supervisor.err") -> list[str]:
        return [line["msg"] for line in self.log(log) if line["level"] == level]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    assert SUPERVISOR.exists(), "build the native programs first: python setup.py build_ext --inplace"
    tree = Tree(tmp_path)
    yield tree
    for process in tree.started:
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        process.wait(20)
    pids = [life["pid"] for module in (AGENT, MANAGER) for life in tree.lives(module) if "pid" in life]
    wait_for(lambda: all(gone(pid) for pid in pids))


# --- start --------------------------------------------------------------------------------------------


def test_agent_gets_the_socket_and_no_credentials(tree: Tree) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_SESSION_TOKEN": "c",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "d",
        "AWS_ROLE_ARN": "e",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "f",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "g",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "h",
        "AWS_PROFILE": "i",
        "AWS_SHARED_CREDENTIALS_FILE": "j",
        "AWS_CONFIG_FILE": "k",
    }
    harmless = {"AWS_REGION": "x", "AWS_VPC_ENI_MTU": "9001", "AWS_ROLE_ARN_NOT": "y", "ENID_RUN_DIR": "/z"}
    process = tree.start(**secrets, **harmless, ENID_LISTEN_FD="17")
    agent, manager = tree.life(AGENT), tree.life(MANAGER)
    path = {"PATH": os.environ["PATH"]}
    # Python adds LC_CTYPE where the locale is C.
    for facts in (agent, manager):
        facts["environment"].pop("LC_CTYPE", None)
    assert agent["environment"] == {**path, **harmless, "ENID_LISTEN_FD": "3"}
    assert manager["environment"] == {**path, **harmless, **secrets}
    assert agent["arguments"] == ["-I", "-m", AGENT]
    assert manager["arguments"] == ["-I", "-m", MANAGER]
    assert agent["socket"]
    assert (agent["descriptors"], manager["descriptors"]) == ([0, 1, 2, 3], [0, 1, 2])
    assert agent["masked"] == manager["masked"] == []
    assert agent["parent"] == manager["parent"] == process.pid
    assert agent["group"] == agent["pid"]
    status = (tree.run_dir / "cni.sock").stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_callers_queue_while_the_agent_is_away(tree: Tree) -> None:
    answers = 'import socket\ns = socket.socket(fileno=3)\ns.setblocking(True)\nc, _ = s.accept()\nc.send(b"here")\n'
    tree.script(AGENT, f"if not os.path.exists({str(tree.folder / 'now')!r}): sys.exit(1)\n{answers}")
    tree.start()
    tree.life(AGENT, 1)
    callers = []
    for _ in range(200):
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(20)
        caller.connect(str(tree.run_dir / "cni.sock"))
        callers.append(caller)
    (tree.folder / "now").touch()
    assert callers[0].recv(9) == b"here"
    for caller in callers:
        caller.close()


@pytest.mark.parametrize(
    "arguments", [[], ["/tmp/x"], ["relative", "/bin/true"], ["/tmp/x", "/no/python"], ["/tmp/x", "/bin/true", "more"]]
)
def test_wrong_arguments(arguments: list[str]) -> None:
    done = subprocess.run([SUPERVISOR, *arguments], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 64
    assert json.loads(done.stderr)["level"] == "error"


# --- who may not start --------------------------------------------------------------------------------


def test_second_supervisor_is_refused_by_the_lock(tree: Tree) -> None:
    first = tree.start()
    tree.life(AGENT)
    assert tree.start(log="second.err").wait(20) == 69
    (text,) = tree.messages("error", "second.err")
    assert text == f"another daemon runs: process {first.pid} (enid-supervisor) holds {tree.run_dir}/supervisor.lock"
    assert len(tree.lives(AGENT)) == 1
    assert first.poll() is None


@pytest.mark.parametrize("name", ["cni.sock", "ipamd.sock"])
def test_foreign_daemon_is_refused_by_its_answer(tree: Tree, name: str) -> None:
    tree.run_dir.mkdir()
    path = tree.run_dir / name
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen(8)
        assert tree.start().wait(20) == 69
        (text,) = tree.messages("error")
        assert f"another daemon runs: process {os.getpid()} (" in text
        assert text.endswith(f"answers on {path}")
        assert path.exists()
    assert tree.lives(AGENT) == []


@pytest.mark.root
def test_daemon_of_an_old_release_is_refused_by_its_port(tree: Tree) -> None:
    """In a namespace of its own: the port is one of the machine's."""
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 50051)); print(flush=True); sys.stdin.read()"
    script = f'ip link set lo up; exec {sys.executable} -c "{listen}"'
    old = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert old.stdout is not None
        assert old.stdout.readline()
        command = ["nsenter", f"--net=/proc/{old.pid}/ns/net", str(SUPERVISOR), str(tree.run_dir), str(tree.python)]
        done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=20, check=False)
    finally:
        old.kill()
        old.communicate()
    assert done.returncode == 69
    assert "another daemon runs: it answers on 127.0.0.1:50051" in done.stderr
    assert tree.lives(AGENT) == []


@pytest.mark.parametrize("name", ["cni.sock", "ipamd.sock"])
def test_stale_socket_is_no_obstacle(tree: Tree, name: str) -> None:
    tree.run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tree.run_dir / name))
    tree.start()
    assert tree.life(AGENT)["socket"]
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tree.run_dir / "cni.sock"))


def test_what_is_no_socket_is_not_removed(tree: Tree) -> None:
    tree.run_dir.mkdir()
    (tree.run_dir / "cni.sock").write_text("precious")
    assert tree.start().wait(20) == 73
    assert tree.messages("error") == [f"{tree.run_dir}/cni.sock is in the way: it is no socket"]
    assert (tree.run_dir / "cni.sock").read_text() == "precious"


def test_lock_of_a_dead_supervisor_is_no_obstacle(tree: Tree) -> None:
    first = tree.start()
    agent = tree.life(AGENT)
    first.kill()
    first.wait(20)
    second = tree.start()
    assert tree.life(AGENT, 1)["parent"] == second.pid
    assert gone(agent["pid"])


# --- death --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name", "other"), [(AGENT, "agent", MANAGER), (MANAGER, "manager", AGENT)])
def test_killed_child_is_started_again_at_once(tree: Tree, module: str, name: str, other: str) -> None:
    process = tree.start()
    first = tree.life(module)
    tree.life(other)
    os.kill(first["pid"], signal.SIGKILL)
    second = tree.life(module, 1)
    assert second["pid"] != first["pid"]
    assert second["parent"] == process.pid
    assert len(tree.lives(other)) == 1
    assert tree.messages("warn") == [
        f"{name} (process {first['pid']}) was killed by signal 9 (Killed); it is started again in 0.0 s"
    ]


def test_the_wait_before_a_restart_grows(tree: Tree) -> None:
    tree.script(AGENT, "sys.exit(7)")
    tree.start()
    tree.life(AGENT, 3)
    wait_for(lambda: len(tree.messages("warn")) >= 4)
    texts = tree.messages("warn")[:4]
    assert [text.rpartition(" in ")[2] for text in texts] == ["0.0 s", "0.1 s", "0.2 s", "0.4 s"]
    assert all("ended with status 7; it is started again" in text for text in texts)


def test_children_die_with_a_killed_supervisor(tree: Tree) -> None:
    # They ignore what can be ignored.
    for module in (AGENT, MANAGER):
        tree.script(module, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    process = tree.start()
    pids = [tree.life(module)["pid"] for module in (AGENT, MANAGER)]
    process.kill()
    process.wait(20)
    wait_for(lambda: all(gone(pid) for pid in pids))


@pytest.mark.parametrize(("module", "name"), [(AGENT, "agent"), (MANAGER, "manager")])
def test_bad_setting_ends_everything(tree: Tree, module: str, name: str) -> None:
    other = MANAGER if module == AGENT else AGENT
    go = tree.folder / "go"
    tree.script(module, f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.002)\nsys.exit(78)")
    process = tree.start()
    pids = [tree.life(which)["pid"] for which in (module, other)]
    go.touch()
    assert process.wait(20) == 78
    assert all(gone(pid) for pid in pids)
    assert tree.messages("error") == [
        f"{name} (process {pids[0]}) found a bad setting and ended with status 78; everything ends"
    ]
    assert tree.order() == [f"{other} 15"]


def test_orphans_are_reaped(tree: Tree) -> None:
    orphan = tree.folder / "orphan"
    tree.script(
        MANAGER,
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        f"        open({str(orphan)!r} + '.tmp', 'w').write(str(os.getpid()))\n"
        f"        os.rename({str(orphan)!r} + '.tmp', {str(orphan)!r})\n"
        f"        os.read(os.open({str(tree.folder / 'fifo')!r}, os.O_RDONLY), 1)\n"
        "    os._exit(0)\n"
        "os.wait()\n",
    )
    os.mkfifo(tree.folder / "fifo")
    process = tree.start()
    wait_for(orphan.exists)
    pid = int(orphan.read_text())
    stat = Path(f"/proc/{pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(") ")[2].split()[1] == str(process.pid))
    with (tree.folder / "fifo").open("w"):
        pass
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert tree.messages("warn") == []


def test_the_manager_gives_way_to_the_agent(tree: Tree) -> None:
    """Policy and niceness as the kernel tells them; the agent has those of the supervisor."""
    process = tree.start()
    agent, manager = (tree.life(module)["pid"] for module in (AGENT, MANAGER))
    assert os.sched_getscheduler(manager) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, manager) == os.getpriority(os.PRIO_PROCESS, process.pid) + 10
    assert os.sched_getscheduler(agent) == os.sched_getscheduler(process.pid)
    assert os.getpriority(os.PRIO_PROCESS, agent) == os.getpriority(os.PRIO_PROCESS, process.pid)


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_manager_is_ended_before_the_agent(tree: Tree, number: int) -> None:
    process = tree.start()
    pids = [tree.life(module)["pid"] for module in (AGENT, MANAGER)]
    process.send_signal(number)
    assert process.wait(20) == 0
    assert tree.order() == [f"{MANAGER} 15", f"{AGENT} 15"]
    assert all(gone(pid) for pid in pids)
    assert tree.messages("warn") == []


def test_child_that_does_not_end_is_killed(tree: Tree) -> None:
    tree.script(MANAGER, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnote(ready=True)")
    process = tree.start()
    pid = tree.life(MANAGER)["pid"]
    tree.life(MANAGER, 1)
    tree.life(AGENT)
    process.terminate()
    assert process.wait(20) == 0
    assert tree.messages("warn") == [f"manager (process {pid}) did not end within 5 s and is killed"]
    assert tree.order() == [f"{AGENT} 15"]


def test_end_during_a_wait_for_a_restart(tree: Tree) -> None:
    tree.script(AGENT, "sys.exit(1)")
    process = tree.start()
    tree.life(MANAGER)
    wait_for(lambda: len(tree.messages("warn")) >= 5)
    process.terminate()
    assert process.wait(20) == 0
    assert tree.order() == [f"{MANAGER} 15"]


def test_hangup_is_forwarded(tree: Tree) -> None:
    process = tree.start()
    tree.life(AGENT), tree.life(MANAGER)
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: sorted(tree.order()) == [f"{AGENT} 1", f"{MANAGER} 1"])
    assert process.poll() is None


def test_ctrl_c_reaches_the_supervisor_alone(tree: Tree) -> None:
    """A terminal signals its foreground group; children outside it are ended in order."""
    run: Callable[[], None] = os.setsid
    with (tree.folder / "supervisor.err").open("ab") as err:
        process = subprocess.Popen(
            [SUPERVISOR, tree.run_dir, tree.python], env={}, stdin=subprocess.PIPE, stderr=err, preexec_fn=run
        )
    tree.started.append(process)
    tree.life(AGENT), tree.life(MANAGER)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    assert tree.order() == [f"{MANAGER} 15", f"{AGENT} 15"]
