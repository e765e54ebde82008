"""Every system call of an ADD and a DEL fails once, in a build with fault hooks and sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `ext/netlink` built with ENID_FAULTS and ENID_SANITIZE; the checkout's own build stays as it is."""
    place = tmp_path_factory.mktemp("faults")
    (place / "ext").mkdir()
    for source in [ROOT / "ext" / "__init__.py", *(ROOT / "ext").glob("*netlink*")]:
        if source.suffix != ".so" and source.name != "_netlink.c":
            shutil.copy(source, place / "ext")
    shutil.copy(ROOT / "setup.py", place)
    env = os.environ | {"ENID_BUILD_ONLY": "netlink", "ENID_FAULTS": "1", "ENID_SANITIZE": "1"}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=place, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def libasan() -> str:
    """The sanitizer's run time, which must be loaded before Python."""
    return subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("scenario", ["adds4", "adds6", "foreign_holder", "interrupted_calls", "dels"])
def test_every_call_may_fail(build: Path, scenario: str) -> None:
    """See the scenarios' own words in netlink_faults_subject.py."""
    env = os.environ | {
        "PYTHONPATH": f"{build}:{ROOT}",
        "LD_PRELOAD": libasan(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subject = ROOT / "tests" / "kernel" / "netlink_faults_subject.py"
    done = subprocess.run(
        [sys.executable, "-P", str(subject), scenario],
        cwd=build, env=env, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
