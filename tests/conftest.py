"""What every test shares: a header that says what was tested on which machine, the privilege marks, and where
Hypothesis keeps its examples."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

LONGEST = ("e2e", "guest", "fuzz")
EXAMPLES = Path(__file__).parents[1] / ".hypothesis"


def namespaces() -> str:
    """Empty if network namespaces can be made here, else why not."""
    made = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, text=True, check=False)
    return "" if made.returncode == 0 else made.stderr.strip()


def pytest_configure() -> None:
    """Hypothesis warns of a folder that it cannot write, as when another user runs the tests, and that is a failure."""
    folder = EXAMPLES / "examples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    if os.access(folder, os.W_OK | os.X_OK):
        # Not the current folder, which may be another one.
        set_hypothesis_home_dir(EXAMPLES)
        return
    hypothesis.settings.register_profile("nothing kept", database=None)
    hypothesis.settings.load_profile("nothing kept")


def pytest_report_header() -> list[str]:
    """Kernel, privilege and tools, so that a log explains its own skips."""
    tools = {name: shutil.which(name) or "missing" for name in ("ip", "nft", "containerd", "runc", "strace", "clang")}
    return [
        f"kernel {platform.release()}, uid {os.getuid()}, namespaces: {namespaces() or 'yes'}",
        "tools: " + ", ".join(f"{name} {path}" for name, path in tools.items()),
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process is left alone with it at the end. Tests marked `root` are
    skipped, by name of what is missing, where namespaces cannot be made."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)
    if not any(item.get_closest_marker("root") for item in items):
        return
    why = "not root" if os.getuid() != 0 else namespaces()
    if why:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=f"needs root and network namespaces: {why}"))
