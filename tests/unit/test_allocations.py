"""Pool and journal allocate nothing in the life of a pod: counted, with the allocator wrapped.

The kernel writer cannot allocate at all (tests/kernel/test_netlink_counts.py); the journal neither.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
WRAP = ["-Wl,--wrap=malloc", "-Wl,--wrap=calloc", "-Wl,--wrap=realloc"]


def test_no_allocation_in_the_life_of_a_pod(tmp_path: Path) -> None:
    program = tmp_path / "allocations"
    sources = [ROOT / "tests" / "unit" / "allocations.c", ROOT / "ext" / "pool.c", ROOT / "ext" / "journal.c"]
    subprocess.run(["cc", *FLAGS, *WRAP, "-o", program, *sources], check=True, timeout=120)
    command = [program, tmp_path / "journal.0", tmp_path / "journal.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    before, lives = map(int, done.stdout.split())
    assert before > 0, "the count is blind"
    assert lives == 0
