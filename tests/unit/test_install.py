"""Installation: whole files under their final names only, nothing touched that is right, nothing left on failure."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from cni import conflist, install
from core.settings import Settings


def settings(folder: Path) -> Settings:
    return Settings(cni_bin_dir=str(folder / "bin"), cni_conf_dir=str(folder / "conf"), run_dir=str(folder / "run"))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_shim_runs_where_it_is_put(tmp_path: Path) -> None:
    assert install.install_shim(settings(tmp_path))
    assert names(tmp_path / "bin") == ["aws-cni"]
    done = subprocess.run(
        [tmp_path / "bin" / "aws-cni"],
        env={"CNI_COMMAND": "VERSION"},
        input=b"{}",
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert b"supportedVersions" in done.stdout
    assert (tmp_path / "bin" / "aws-cni").stat().st_mode == 0o100755
    assert not install.install_shim(settings(tmp_path))


def test_the_list_appears_when_told_and_is_merged_later(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    assert install.install_conflist(wanted)
    file = tmp_path / "conf" / "10-aws.conflist"
    assert names(tmp_path / "conf") == [file.name]
    assert file.read_bytes() == conflist.render(wanted)
    assert file.stat().st_mode == 0o100644
    before = file.stat()
    assert not install.install_conflist(wanted)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    file.write_text('{"plugins": [{"type": "istio-cni"}]}')
    assert install.install_conflist(wanted)
    assert b"istio-cni" in file.read_bytes()


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_mode_and_content_are_restored(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"other")
    target.chmod(mode)
    assert install.replace_file(target, b"content", 0o755)
    assert (target.read_bytes(), target.stat().st_mode) == (b"content", 0o100755)
    target.chmod(mode)
    assert install.replace_file(target, b"content", 0o755)
    assert target.stat().st_mode == 0o100755
    assert names(tmp_path) == ["file"]


def test_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install.replace_file(tmp_path / "file", b"x", 0o755)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode == 0o100755


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"content")
    (tmp_path / "precious").chmod(0o755)
    (tmp_path / "file").symlink_to("precious")
    assert install.replace_file(tmp_path / "file", b"content", 0o755)
    assert not (tmp_path / "file").is_symlink()


def test_leftover_of_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    leftover = tmp_path / install.TEMPORARY.format("file")
    leftover.write_bytes(b"half")
    leftover.chmod(0o000)
    assert install.replace_file(tmp_path / "file", b"whole", 0o644)
    assert names(tmp_path) == ["file"]
    leftover.symlink_to(tmp_path / "elsewhere")
    assert install.replace_file(tmp_path / "file", b"new", 0o644)
    assert names(tmp_path) == ["file"]


def test_a_running_program_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "program"
    install.replace_file(target, Path("/bin/cat").read_bytes(), 0o755)
    with subprocess.Popen([target], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert install.replace_file(target, b"#!/bin/sh\n", 0o755)
        assert running.communicate(b"still here", timeout=20)[0] == b"still here"


@pytest.mark.parametrize("step", ["fsync", "fchmod", "rename"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def broken(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(install.InstallFailed, match=r"file cannot be written") as caught:
        install.replace_file(target, b"new", 0o644)
    assert "No space left" in caught.value.cause
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "bin").write_text("")
    (tmp_path / "conf" / "10-aws.conflist").mkdir(parents=True)
    with pytest.raises(install.InstallFailed, match="bin/aws-cni cannot be written"):
        install.install_shim(settings(tmp_path))
    with pytest.raises(install.InstallFailed, match=r"10-aws\.conflist cannot be read"):
        install.install_conflist(settings(tmp_path))


def test_whoever_looks_sees_a_whole_executable_file(tmp_path: Path) -> None:
    """A runtime that starts the plugin during its replacement gets the old or the new one, never half of it."""
    target = tmp_path / "program"
    versions = [b"#!/bin/sh\nexit 7\n" + b"#" * 40000 * n for n in (1, 2)]
    install.replace_file(target, versions[0], 0o755)
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            descriptor = os.open(target, os.O_RDONLY)
            with os.fdopen(descriptor, "rb") as file:
                mode, content = os.fstat(descriptor).st_mode, file.read()
            if mode != 0o100755 or content not in versions:
                wrong.append((mode, len(content)))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(200):
        install.replace_file(target, versions[number % 2], 0o755)
    done.set()
    watcher.join()
    assert wrong == []
    assert names(tmp_path) == ["program"]
