"""Runs a command under another, older kernel: User-mode Linux, an ordinary process that needs no privilege and no KVM.

Nodes run kernels that the tests' machine does not have. The guest sees this machine's root under an overlay in memory,
so that the checkout and its virtual environment are there and nothing that it does stays. It has one processor, no
network to the outside and no nftables. What takes how long in it says nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

INIT: Final = Path(__file__).with_name("init.sh")
MODULES: Final = Path("/usr/lib/uml/modules")
PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MEMORY_MIB: Final = 768
TIMED_OUT: Final = 124
BEGIN, END = "guest: begin\n", "guest: end\n"


class Result(NamedTuple):
    """What became of the command. `status` is its exit status, or 124 if it ran out of time; `output` is all that it
    wrote, standard error included, as far as it came."""

    status: int
    output: str


class GuestFailed(Exception):
    """The guest did not come as far as the command, or died below it. The text is its console's."""


def kernel() -> str:
    """The guest kernel's program, empty if it is not installed."""
    return shutil.which("linux.uml", path=PATH) or ""


def release() -> tuple[int, int]:
    """The guest kernel's version, as far as it decides about features. It is not booted for that."""
    said = subprocess.run([kernel(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.match(r"(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def missing() -> str:
    """What of Debian's packages is missing for a guest, by name; empty if nothing is."""
    wanted = {
        "user-mode-linux (amd64 only)": bool(kernel()) and MODULES.is_dir(),
        "kmod": bool(shutil.which("modprobe", path=PATH)),
    }
    return ", ".join(package for package, there in wanted.items() if not there)


def memory_folder() -> str:
    """Where the file that is the guest's memory goes: a tmpfs if it has room."""
    shm = "/dev/shm"
    if os.path.isdir(shm) and os.access(shm, os.W_OK):
        room = os.statvfs(shm)
        if room.f_bavail * room.f_frsize > MEMORY_MIB << 20:
            return shm
    return tempfile.gettempdir()


def run(command: Sequence[str], *, limit_s: float, folder: Path | None = None) -> Result:
    """Boot, run the command as the guest's root in the current folder, turn off.

    `folder` is writable in the guest as /mnt/folder, and what is written there stays. Raises GuestFailed.
    """
    # Short, as there will be a unix socket in it.
    with tempfile.TemporaryDirectory(prefix="guest-") as own:
        shared = folder or Path(own)
        status = shared / "status"
        status.unlink(missing_ok=True)
        (shared / "command").write_text(f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}\n")
        words = [
            kernel(), f"mem={MEMORY_MIB}M", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "loglevel=3",
            "con=null", "con0=null,fd:1", "ssl=null", "random.trust_cpu=1", "umid=guest", f"uml_dir={own}/",
            f"init={INIT}", f"GUEST_FOLDER={shared}",
        ]  # fmt: skip
        # The kernel and its processes take turns; on one processor a turn costs a third of what it costs on two.
        words = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *words]
        process = subprocess.Popen(
            words, env={**os.environ, "TMPDIR": memory_folder()}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        timed_out = False
        try:
            data, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # Its processes are processes here too, in the same group.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if timed_out:
            data, _ = process.communicate()
        console = data.decode(errors="replace").replace("\r\n", "\n")
        _, begun, output = console.partition(BEGIN)
        output = output.rpartition(END)[0] if END in output else output
        if timed_out:
            return Result(TIMED_OUT, output if begun else console)
        if not begun or not status.exists():
            raise GuestFailed(console)
        return Result(int(status.read_text()), output)
