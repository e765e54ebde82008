"""Pool and journal under the address and undefined-behaviour sanitizers, with faults, and fuzzed.

The ordinary tests run on the ordinary build; here they run once more in a process whose compiled parts are built with
ENID_SANITIZE=1 ENID_FAULTS=1 into a folder of their own. The fuzz targets run for a few seconds from a seed that is
in the output when they fail; with libFuzzer installed, the same sources build with `clang -fsanitize=fuzzer`.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *SANITIZE]
SECONDS = 3

pytestmark = pytest.mark.slow


def run(command: list[str], **environment: str) -> str:
    """Standard output; fails the test with all that was said if the command fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return done.stdout


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both parts, sanitized and with fault hooks."""
    folder = tmp_path_factory.mktemp("sanitized")
    sources = folder / "source"  # the generated C must not be written twice at once in the checkout
    shutil.copytree(ROOT / "ext", sources / "ext", ignore=shutil.ignore_patterns("*.so", "_*.c", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, sources / name)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(folder / "lib")]
    done = subprocess.run(
        [*command, "--build-temp", str(folder / "temp")],
        cwd=sources,
        env={**os.environ, "ENID_SANITIZE": "1", "ENID_FAULTS": "1", "ENID_BUILD_ONLY": "pool,journal"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "lib" / "ext"


def preload() -> str:
    """The sanitizers' libraries and the C++ one that they look into, as LD_PRELOAD wants them."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    return " ".join(run(["gcc", f"-print-file-name={name}"]).strip() for name in names)


@pytest.mark.parametrize(
    "tests",
    [
        ["tests/fuzz/journal_faults.py"],
        ["tests/model/test_journal_machine.py", "tests/unit/test_journal.py"],
        ["tests/model/test_pool_machine.py", "tests/unit/test_pool.py"],
    ],
    ids=["journal-faults", "journal", "pool"],
)
def test_under_sanitizers(sanitized: Path, tests: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.fuzz.sanitized", "-p", "no:cacheprovider"]
    # Python itself keeps memory at exit, so leaks are looked for in the fuzz targets. The tests that start programs
    # of their own, and the one that is only about size, gain nothing here.
    left_out = "not kill_9 and not system_call and not full_file_system and not hundred_thousand"
    out = run(
        [*command, "-k", left_out, f"--basetemp={tmp_path / 'inner'}", *tests],
        LD_PRELOAD=preload(),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        ENID_SANITIZED=str(sanitized),
        ENID_EXAMPLES="40",
        PYTHONMALLOC="malloc",
    )
    assert " passed" in out
    assert " failed" not in out


@pytest.mark.parametrize("part", ["pool", "journal"])
def test_fuzz(part: str, tmp_path: Path) -> None:
    target = str(tmp_path / part)
    run(["gcc", *FLAGS, str(HERE / f"{part}_fuzz.c"), str(HERE / "driver.c"), "-o", target])
    out = run([target, str(SECONDS), str(random.getrandbits(63))], ASAN_OPTIONS="abort_on_error=1")
    assert int(out.split()[0]) > 10, out


def test_the_ordinary_build_has_no_fault_hook() -> None:
    from ext import _journal

    assert b"journal_faults" not in Path(str(_journal.__file__)).read_bytes()
