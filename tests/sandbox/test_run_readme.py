"""The README of the sandbox, as a new user would follow it: every command runs, and what it shows comes out.

Blocks `sh` and `python` are run in order, in one folder; a block `text` after one is what it printed (`…` stands for
anything). Standard error, where progress goes, is not compared. The set-up block is not run, since other tests share
the checkout; the port that the README names becomes a free one.
"""

from __future__ import annotations

import fnmatch
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SET_UP = "./setup.sh demo"
PORT = "48211"


def blocks() -> list[tuple[str, str, str | None]]:
    """Language, code and what it prints."""
    found = BLOCK.findall((ROOT / "sandbox" / "README.md").read_text())
    paired: list[tuple[str, str, str | None]] = []
    for kind, text in found:
        if kind == "text":
            language, code, _ = paired.pop()
            paired.append((language, code, text))
        else:
            paired.append((kind, text, None))
    return paired


def fits(printed: str, shown: str) -> bool:
    """Line by line, without regard to the width of columns; `…` also stands for the spaces around it."""
    pattern = "\n".join(" ".join(re.sub(r"([\[?])", r"[\1]", line).split()) for line in shown.splitlines())
    text = "\n".join(" ".join(line.split()) for line in printed.splitlines())
    return fnmatch.fnmatchcase(text, re.sub(" ?… ?", "*", pattern.replace("*", "[*]")))


def run(language: str, code: str, folder: Path) -> str:
    """Standard output of a block; it must succeed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ENID_"))},
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    argv = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def free_port() -> str:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def home() -> Iterator[Path]:
    """A user's: short, as paths of sockets are bounded."""
    with tempfile.TemporaryDirectory(prefix="enid-") as folder:
        yield Path(folder)


@pytest.mark.root
def test_as_a_new_user(home: Path) -> None:
    port = free_port()
    try:
        for language, code, shown in blocks():
            if code.startswith(SET_UP):
                continue
            printed = run(language, code.replace(PORT, port), home)
            shown = shown.replace(PORT, port) if shown else shown
            if shown is not None:
                assert fits(printed, shown), f"{code}\n--- printed\n{printed}\n--- shown\n{shown}"
    finally:
        run("sh", "enid sandbox down; enid sandbox --dir ./api down", home)


def test_the_comparison_can_fail() -> None:
    assert fits("a   1\nb [2]? 3*\n", "a 1\nb [2]? 3*\n")
    assert fits("a 17 x\nb\n", "a … x\n…\n")
    for printed in ("a 1", "a 1\nb", "a 2\nb [2]? 3*"):
        assert not fits(printed, "a 1\nb [2]? 3*\n")


def test_the_set_up_is_one_that_there_is() -> None:
    first, *rest = blocks()
    assert first[1].startswith(SET_UP)
    assert not any("setup.sh" in code for _, code, _ in rest)
    usage = subprocess.run([ROOT / "setup.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {SET_UP.split()[1]} ", usage, re.MULTILINE)


def test_a_server_that_does_not_come_ends_the_wait(tmp_path: Path) -> None:
    """As where the port is taken: the block fails, in a time that it names, and leaves nothing behind."""
    code = next(code for _, code, _ in blocks() if " serve " in code)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = code.replace(PORT, str(taken.getsockname()[1])).replace("timeout 20 ", "timeout 1 ")
        with pytest.raises(AssertionError, match="Address already in use"):
            run("sh", code, tmp_path)


def test_nothing_of_a_block_stays_in_the_shell(tmp_path: Path) -> None:
    code = next(code for _, code, _ in blocks() if " serve " in code)
    said = run("sh", f"{code.replace(PORT, free_port())}echo afterwards; env | grep ^AWS_ || true", tmp_path)
    assert said.endswith("afterwards\n")


def test_every_block_is_run_or_shown() -> None:
    """No other language, no command outside of a block, no wait without end, and what is printed is shown for most."""
    found = blocks()
    assert all(
        "until " not in line or line.lstrip().startswith("timeout ") for _, c, _ in found for line in c.splitlines()
    )
    assert {language for language, _, _ in found} == {"sh", "python"}
    text = BLOCK.sub("", (ROOT / "sandbox" / "README.md").read_text())
    assert not re.search(r"^(    |\$ )", text, re.MULTILINE)
    assert sum(shown is not None for _, _, shown in found) >= 10
