"""The manager as a process: what stops it, and that it loads nothing that it need not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)


MAIN = "import sys; from agent.manager.main import main; sys.exit(main())"


def test_bad_settings_end_it_with_78_and_are_all_named() -> None:
    done = run(MAIN, ENABLE_IPv6="true", ENABLE_POD_ENI="true", POD_MTU="x")
    assert done.returncode == 78
    for name in ("ENABLE_IPv6", "ENABLE_POD_ENI", "POD_MTU"):
        assert f"{name}=" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_loads_botocore_and_neither_boto3_nor_what_the_sandbox_uses() -> None:
    code = "import sys, agent.manager.main; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    done = run(code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "botocore" in loaded
    assert not loaded & {"boto3", "pyroute2", "sandbox", "cli", "moto", "rich", "click", "grpc", "prometheus_client"}
