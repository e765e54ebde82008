"""The reader of kernel answers under hostile input and sanitizers; bounded, with a seed that is printed."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz target, built with sanitizers."""
    out = tmp_path_factory.mktemp("fuzz") / "netlink_fuzz"
    source = ROOT / "tests" / "fuzz" / "netlink_fuzz.c"
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *SANITIZE]
    subprocess.run([*command, "-o", str(out), str(source)], check=True)
    return out


@pytest.mark.parametrize("run", ["fixed", "random"])
def test_hostile_answers_do_no_harm(target: Path, run: str) -> None:
    """300,000 inputs each: no bad access, no undefined behaviour, no broken promise."""
    seed = 20260 if run == "fixed" else random.SystemRandom().getrandbits(48)
    done = subprocess.run([str(target), str(seed), "300000"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
