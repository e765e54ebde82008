"""The README of the sandbox, as a new user would follow it: every command runs, and what it shows comes out.

Blocks `sh` and `python` are run in order, in one folder; a block `text` after one is what it printed (`…` stands for
anything). Standard error, where progress goes, is not compared.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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
    """Standard output of a block; it must succeed. The set-up block is run in the checkout, where it stands."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ENID_"))},
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    argv = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-W", "error", "-c", code]
    where = ROOT if "setup.sh" in code else folder
    done = subprocess.run(argv, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.root
def test_as_a_new_user(tmp_path: Path) -> None:
    try:
        for language, code, shown in blocks():
            printed = run(language, code, tmp_path)
            if shown is not None:
                assert fits(printed, shown), f"{code}\n--- printed\n{printed}\n--- shown\n{shown}"
    finally:
        run("sh", "enid sandbox down; enid sandbox --dir ./api down", tmp_path)


def test_the_comparison_can_fail() -> None:
    assert fits("a   1\nb [2]? 3*\n", "a 1\nb [2]? 3*\n")
    assert fits("a 17 x\nb\n", "a … x\n…\n")
    for printed in ("a 1", "a 1\nb", "a 2\nb [2]? 3*"):
        assert not fits(printed, "a 1\nb [2]? 3*\n")


def test_every_block_is_run_or_shown() -> None:
    """No other language, no command outside of a block, and what is printed is shown for most."""
    found = blocks()
    assert {language for language, _, _ in found} == {"sh", "python"}
    text = BLOCK.sub("", (ROOT / "sandbox" / "README.md").read_text())
    assert not re.search(r"^(    |\$ )", text, re.MULTILINE)
    assert sum(shown is not None for _, _, shown in found) >= 10
