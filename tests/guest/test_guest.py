"""The guest itself: what it hands back, and that nothing of it stays."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from tests.guest import guest
from tests.kernel.namespaces import until

pytestmark = pytest.mark.skipif(bool(guest.missing()), reason=f"needs Debian's {guest.missing()}")
LIMIT_S = 200


def processes(word: str) -> list[str]:
    """The command lines of this machine's processes that hold this word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def test_status_output_and_folder_come_back_and_nothing_else_stays(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    script = f"""
echo out; echo err >&2; uname -r; id -u; pwd
echo 1 >/{mark}; echo 2 >/tmp/{mark}; echo 3 >/mnt/folder/kept
ip link add {mark[:8]} type veth && ip link show {mark[:8]} >/dev/null && exit 7
"""
    result = guest.run(["sh", "-c", script], limit_s=LIMIT_S, folder=tmp_path)
    lines = result.output.splitlines()
    assert (result.status, lines[:2], lines[3:]) == (7, ["out", "err"], ["0", os.getcwd()])
    assert lines[2].startswith(".".join(map(str, guest.release())))
    assert (tmp_path / "kept").read_text() == "3\n"
    assert not Path(f"/{mark}").exists()
    assert not Path(f"/tmp/{mark}").exists()
    assert not Path(f"/sys/class/net/{mark[:8]}").exists()
    until(lambda: not processes(str(tmp_path)), "its processes are gone")


def test_a_guest_that_hangs_is_ended(tmp_path: Path) -> None:
    result = guest.run(["sleep", "1000"], limit_s=5, folder=tmp_path)
    assert result.status == guest.TIMED_OUT
    until(lambda: not processes(str(tmp_path)), "its processes are gone")


def test_a_guest_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = tmp_path / "init"
    init.write_text("#!/bin/sh\necho no more\nexit 1\n")
    init.chmod(0o755)
    monkeypatch.setattr(guest, "INIT", init)
    with pytest.raises(guest.GuestFailed, match=r"no more(.|\n)*Kernel panic"):
        guest.run(["true"], limit_s=LIMIT_S, folder=tmp_path)
