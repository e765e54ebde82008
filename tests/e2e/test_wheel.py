"""A built wheel holds the compiled parts and the native programs, and runs outside the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = """
import pathlib, subprocess, sys
import agent, cni, core, ext, sandbox
for package in (agent, cni, core, ext, sandbox):
    assert pathlib.Path(package.__file__).is_relative_to(sys.argv[1]), package.__file__
from ext.pool import Pool
import ext.journal, ext.netlink, core.limits, agent.fastpath.main, agent.manager.main, sandbox.ec2.truth
out = subprocess.run([pathlib.Path(cni.__file__).parent / "bin" / "aws-cni"], env={"CNI_COMMAND": "VERSION"},
                     input="{}", capture_output=True, text=True, check=True).stdout
assert "supportedVersions" in out, out
assert (pathlib.Path(agent.__file__).parent / "bin" / "enid-supervisor").exists()
from cli.main import enid
enid(["version"], standalone_mode=False)
"""


@pytest.mark.slow
def test_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("enid-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"bench", "tests", "docs"}, tops
    assert not [name for name in names if name.endswith((".c", ".h", ".pyx", ".pxd"))]
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            target = Path(archive.extract(info, site))
            if info.external_attr >> 16 & 0o111:
                target.chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
        + CHECK
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
