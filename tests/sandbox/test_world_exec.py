"""`enid sandbox exec` as a program of its own: its streams, its terminal, its signals and its exit status.

Each call is a process, because what is promised is about descriptors and process groups, which no call inside this
process has of its own.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from sandbox.base import wire
from sandbox.base.failures import SandboxFailure
from sandbox.commands import output
from sandbox.commands.nodes import EXIT_TIMEOUT, execute
from sandbox.face import attach, lifetime
from sandbox.face.client import Sandbox
from tests.sandbox.conftest import Node, until

pytestmark = pytest.mark.root
# A test run in the background has SIGINT ignored, and its children inherit that.
IN_FRONT = ["env", "--default-signal=INT,QUIT"]


def command(world: Sandbox, *words: str) -> list[str]:
    return [*IN_FRONT, sys.executable, "-m", "cli.main", "sandbox", "--dir", str(world.folder), "exec", *words]


def call(world: Sandbox, *words: str, stdin: bytes = b"", **how: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(world, *words), input=stdin, capture_output=True, check=False, timeout=120, **how)


def marked(world: Sandbox, mark: str) -> list[int]:
    """Processes of the world with this word in their command, `exec` itself aside."""
    return [p.pid for p in world.processes() if p.rc is None and any(mark in word for word in p.argv)]


def test_streams_and_exit_status_are_the_commands_own(world: Sandbox) -> None:
    done = call(world, "node-1", "--", "sh", "-c", "cat; echo bad >&2; exit 5", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"in", b"bad\n")
    assert call(world, "node-1", "sh", "-c", "kill -15 $$").returncode == 128 + signal.SIGTERM
    large = os.urandom(3 << 20)
    assert call(world, "node-1", "cat", stdin=large).stdout == large


def test_it_runs_where_it_was_told_to(world: Sandbox, fresh: Node) -> None:
    assert b"203.0.113.10" in call(world, "internet", "ip", "-br", "addr").stdout
    assert b"169.254.169.254" in call(world, "router", "ip", "-br", "addr").stdout
    assert call(world, "node-1", "sh", "-c", "echo $MY_NODE_NAME").stdout == b"node-1\n"
    assert call(world, "-e", "COLOR=red", "node-1", "sh", "-c", "echo $COLOR").stdout == b"red\n"
    made = world.pod_create(fresh.name, "cli", fresh.name)
    assert made.ok
    inside = call(world, f"{fresh.name}/cli/{fresh.name}", "ip", "-br", "addr", "show", "eth0").stdout.decode()
    assert made.pod.ips[0] in inside
    assert world.pod_delete(fresh.name, "cli", fresh.name).ok


def test_it_begins_in_the_callers_folder_with_the_callers_path(world: Sandbox, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\npwd\n")
    tool.chmod(0o755)
    here = f"{tmp_path}\n".encode()
    assert call(world, "node-1", "pwd", cwd=tmp_path).stdout == here
    assert call(world, "node-1", "bin/tool", cwd=tmp_path).stdout == here
    with_path = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    assert call(world, "node-1", "tool", cwd=tmp_path, env=with_path).stdout == here
    assert call(world, "-e", "PATH=/bin", "node-1", "tool", env=with_path).returncode == 127
    # Nothing of the caller's PATH names what a node needs, and it is found.
    poor = {**os.environ, "PATH": "/bin"}
    assert call(world, "node-1", "sh", "-c", "command -v ip python", env=poor, cwd="/run").returncode == 0
    with tempfile.TemporaryDirectory(dir="/run") as elsewhere:
        assert call(world, "node-1", "pwd", cwd=elsewhere, env=poor).stdout == b"/\n"
    with open(tmp_path / "said", "w+b") as said, world.exec("node-1", ["pwd"], files=(0, said.fileno(), 2)) as running:
        assert running.wait() == 0
        assert said.seek(0) == 0
        assert said.read() == b"/\n"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("node-99", "true"), output.EXIT_NOT_FOUND, b"there is no node 'node-99'; there are: "),
        (("node-1/default/nobody", "true"), output.EXIT_NOT_FOUND, b"nobody"),
        (("node-1/x", "true"), output.EXIT_NOT_FOUND, b"NODE/NAMESPACE/POD"),
        (("node-1", "no-such-program"), 127, b"remedy: check its name and PATH"),
        (("node-1", "/etc/passwd"), 126, b"remedy: make it executable"),
        (("--timeout", "0.2", "node-1", "sleep", "1000"), EXIT_TIMEOUT, b"killed after 0.2 s"),
    ],
)
def test_what_cannot_be_run_is_told_with_a_remedy(
    world: Sandbox, words: tuple[str, ...], status: int, text: bytes
) -> None:
    done = call(world, *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert text in done.stderr
    assert b"\n  remedy: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_output_comes_while_the_command_runs_and_input_goes_in(world: Sandbox) -> None:
    with subprocess.Popen(command(world, "node-1", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        for word in (b"one\n", b"two\n"):
            run.stdin.write(word)
            run.stdin.flush()
            assert run.stdout.readline() == word
        run.stdin.close()
        assert run.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_the_command_and_its_status_comes_back(world: Sandbox, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 7' {number.value}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(command(world, "node-1", "sh", "-c", script), stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(number)
        assert run.stdout.read() == b"caught\n"
        assert run.wait(60) == 7


def test_a_signal_that_comes_before_the_start_has_returned_is_not_lost(world: Sandbox) -> None:
    """The command writes to its caller's own output, so it may be answered to before the caller knows of it."""
    reader, writer = os.pipe()
    before = signal.getsignal(signal.SIGTERM)

    def start(files: tuple[int, int, int], terminal: bool) -> attach.Execution:
        script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
        made = world.exec("node-1", ["sh", "-c", script], files=(files[0], writer, files[2]), terminal=terminal)
        assert os.read(reader, 100) == b"ready\n"
        signal.raise_signal(signal.SIGTERM)
        return made

    try:
        assert attach.run(start, terminal=False) == 7
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        os.close(reader)
        os.close(writer)


def test_a_command_whose_caller_is_killed_is_hung_up_on(world: Sandbox) -> None:
    with subprocess.Popen(
        command(world, "node-1", "sh", "-c", "echo ready; exec sleep 1000.25"), stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        until(lambda: marked(world, "1000.25"), "the command is seen")
        run.kill()
    until(lambda: not marked(world, "1000.25"), "hung up")


def test_a_command_that_ignores_hanging_up_is_killed(world: Sandbox) -> None:
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    script = "trap '' HUP; echo ready; while :; do sleep 0.05; : 1000.75; done"
    try:
        running = world.exec("node-1", ["sh", "-c", script], files=(null, writer, writer))
        assert os.read(reader, 100) == b"ready\n"
        running.close()
        until(lambda: not marked(world, "1000.75"), "killed after its grace", 30)
    finally:
        for descriptor in (reader, writer, null):
            os.close(descriptor)


def test_a_signal_that_comes_together_with_the_request_is_not_lost(world: Sandbox) -> None:
    ask = {"do": "exec", "where": "node-1", "argv": ["sleep", "1000"], "env": {}, "terminal": False, "timeout": None}
    both = msgspec.json.encode(ask) + b"\n" + msgspec.json.encode({"do": "signal", "sig": 15}) + b"\n"
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with lifetime.dial(world.folder, "control.sock") as link:
            wire.send(link, both, (null, null, null))
            link.settimeout(60)
            assert msgspec.json.decode(link.makefile().readline()) == {"ok": -15}
    finally:
        os.close(null)


def test_descriptors_that_do_not_fit_are_refused_and_closed(world: Sandbox) -> None:
    reader, writer = os.pipe()
    with (
        pytest.raises(SandboxFailure, match="three descriptors, not 1") as caught,
        world.exec(
            "node-1",
            ["true"],
            files=(writer,),  # type: ignore[arg-type]
        ) as running,
    ):
        running.wait()
    assert caught.value.code == "bad-request"
    os.close(writer)
    assert select.select([reader], [], [], 60)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


# --- in a terminal --------------------------------------------------------------------------------------


class Screen:
    """`exec` in a terminal of its own, as somebody sits before it."""

    def __init__(self, leader: int, pid: int) -> None:
        self.leader = leader
        self.pid = pid
        self.shown = b""

    def type(self, text: bytes) -> None:
        rest = text
        while rest:
            rest = rest[os.write(self.leader, rest) :]

    def until(self, text: bytes, seconds: float = 60.0) -> None:
        """Read until it is shown."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert select.select([self.leader], [], [], max(0.0, end - time.monotonic()))[0], self.shown[-2000:]
            try:
                self.shown += os.read(self.leader, 1 << 16)
            except OSError:
                pytest.fail(f"ended before {text!r}: {self.shown[-2000:]!r}")

    def status(self) -> int:
        """Of the end, as the shell has it; what is shown until then is read."""
        with suppress(OSError):
            while data := os.read(self.leader, 1 << 16):
                self.shown += data
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def screen(
    world: Sandbox, *words: str, rows: int = 24, columns: int = 80, folder: Path | None = None
) -> Iterator[Screen]:
    argv = command(world, *words)
    pid, leader = pty.fork()
    if pid == 0:
        if folder is not None:
            os.chdir(folder)
        os.execvpe(argv[0], argv, {**os.environ, "TERM": "vt220"})
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    try:
        yield Screen(leader, pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(leader)


def test_a_shell_in_a_terminal_has_job_control_and_its_size(world: Sandbox) -> None:
    with screen(world, "node-1", rows=31, columns=97) as sitting:
        sitting.until(b"node-1:")
        sitting.type(b"stty size; echo term=$TERM; tty\n")
        sitting.until(b"31 97")
        sitting.until(b"term=vt220")
        # Ctrl-C ends what runs in the shell, and not the shell.
        sitting.type(b"echo wai''ting; sleep 1000\n")
        sitting.until(b"waiting")
        until(lambda: marked(world, "1000"), "sleep runs")
        sitting.type(b"\x03")
        sitting.type(b"echo al''ive\n")
        sitting.until(b"alive")
        fcntl.ioctl(sitting.leader, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
        sitting.type(b"until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo gr''own\n")
        sitting.until(b"grown")
        sitting.type(b"exit 6\n")
        assert sitting.status() == 6
    assert b"no job control" not in sitting.shown


def test_a_program_of_the_callers_folder_in_a_terminal(world: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("#!/bin/sh\ntty; pwd\n")
    (tmp_path / "here").chmod(0o755)
    with screen(world, "node-1", "./here", folder=tmp_path) as sitting:
        assert sitting.status() == 0
        assert b"/dev/pts/" in sitting.shown
        assert str(tmp_path).encode() in sitting.shown


def test_more_keys_than_a_terminal_holds_while_the_command_prints(world: Sandbox) -> None:
    # It prints more than a terminal holds before it reads, so both directions are full at the same time.
    script = "stty raw -echo; echo rea''dy; head -c 400000 /dev/zero | tr '\\0' x; head -c 300000 | wc -c; echo do''ne"
    with screen(world, "node-1", "sh", "-c", script) as sitting:
        sitting.until(b"ready")
        typing = threading.Thread(target=sitting.type, args=(b"k" * 300_000,))
        typing.start()
        sitting.until(b"done")
        typing.join()
        assert sitting.status() == 0
    assert b"300000" in sitting.shown
    assert sitting.shown.count(b"x") == 400_000


def test_the_callers_terminal_is_as_before_afterwards(world: Sandbox) -> None:
    leader, follower = os.openpty()
    before = termios.tcgetattr(follower)
    argv = ["setsid", "--ctty", "--wait", *command(world, "node-1", "sh", "-c", "test -t 0 && test -t 2")]
    assert subprocess.run(argv, stdin=follower, stdout=follower, stderr=follower, check=False).returncode == 0
    assert termios.tcgetattr(follower) == before
    plain = ["setsid", "--ctty", "--wait", *command(world, "--no-tty", "node-1", "cat", "/proc/self/stat")]
    with subprocess.Popen(plain, stdin=follower, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        # Field 7 is the controlling terminal.
        assert run.stdout.read().rpartition(b")")[2].split()[4] == b"0"
    os.close(leader)
    os.close(follower)


def test_without_a_terminal_of_its_own_the_callers_files_are_handed_over(world: Sandbox) -> None:
    """As they are: a terminal stays one, but none is the command's controlling terminal."""
    script = "test -t 0 && test -t 1 && ! (: </dev/tty) 2>/dev/null && echo as they are"
    with screen(world, "--no-tty", "node-1", "sh", "-c", script) as sitting:
        assert sitting.status() == 0
    assert b"as they are" in sitting.shown
    told = " ".join(CliRunner().invoke(execute, ["--help"]).output.split())
    assert "--no-tty Hand over input and output as they are" in told


def test_a_program_that_cannot_be_executed_in_a_terminal(world: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("#!/bin/sh\n")
    for word, status in (("./here", 126), ("./not-here", 127)):
        with screen(world, "node-1", word, folder=tmp_path) as sitting:
            assert sitting.status() == status


def test_a_terminal_that_is_not_ours_to_control_is_no_obstacle(world: Sandbox) -> None:
    leader, follower = os.openpty()
    argv = ["setsid", "--wait", *command(world, "node-1", "echo", "fine")]
    done = subprocess.run(argv, stdin=follower, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"fine\n")
    os.close(leader)
    os.close(follower)


def test_folder_names_the_world(tmp_path: Path) -> None:
    done = call(Sandbox(tmp_path), "node-1", "true")
    assert done.returncode == output.EXIT_NOT_RUNNING
    assert str(tmp_path).encode() in done.stderr
