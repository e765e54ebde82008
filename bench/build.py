"""Compiles the benchmark's own C programs, into a folder that git ignores.

They are built apart from the product's parts (`setup.py`), because they are never shipped, and with the same
warnings as errors.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = ROOT / ".cache" / "bench"
WARN = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Wvla", "-Wformat=2"]


def program(name: str, folder: Path = FOLDER, *, musl: bool = False) -> Path:
    """The path of `bench/NAME.c`, compiled if it is not newer than its source. Raises CalledProcessError.

    Static, as the plugin is, so that the dynamic linker's time is in none of the contenders. `musl`: linked with musl,
    as the plugin is, too; else with the library that the machine's compiler brings.
    """
    source, target = HERE / f"{name}.c", folder / (f"{name}-musl" if musl else name)
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    compiler = "musl-gcc" if musl else os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-s", *WARN, "-o", str(fresh), str(source)],
        check=True,
    )
    fresh.replace(target)
    return target
