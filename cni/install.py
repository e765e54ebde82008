"""Puts the plugin's files onto the host: the shim into the runtime's plugin folder, the list into its conf folder.

A runtime may start the plugin, and read the list, at any moment. So each file is complete, synced and has its
final mode before it bears its final name, and a file that is right already is not touched. The list comes last,
when its owner says so, because its presence makes the node ready (data plane specification, 17).
"""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import Final

from cni import conflist
from core.errors import EnidError
from core.settings import Settings

SHIM_NAME: Final = "aws-cni"
SHIM_MODE: Final = 0o755
CONFLIST_MODE: Final = 0o644
# Neither a runtime (.conf, .conflist, .json) nor a search for plugins takes it for a file of its own.
TEMPORARY: Final = ".{}.enid-tmp"


class InstallFailed(EnidError):
    """A file of the plugin could not be put onto the host; the one that was there is as it was."""

    code = "install"
    remedy = "check the folder's mount, its space and its permissions"


def shim_bytes() -> bytes:
    """The shim's program out of this installation. Raises InstallFailed if it was not built."""
    resource = importlib.resources.files("cni") / "bin" / SHIM_NAME
    try:
        return resource.read_bytes()
    except OSError as error:
        raise InstallFailed(f"the shim {resource} is not in this installation", cause=str(error)) from error


def install_shim(settings: Settings) -> bool:
    """Puts the shim into `settings.cni_bin_dir`. Returns whether anything was written. Raises InstallFailed."""
    return replace_file(Path(settings.cni_bin_dir) / SHIM_NAME, shim_bytes(), SHIM_MODE)


def install_conflist(settings: Settings) -> bool:
    """Writes the list into `settings.cni_conf_dir`, or our part of it. Call it when a first address can be given.

    Returns whether anything was written. Raises InstallFailed.
    """
    target = Path(settings.cni_conf_dir) / conflist.FILE_NAME
    try:
        existing = target.read_bytes()
    except FileNotFoundError:
        existing = None
    except OSError as error:
        raise InstallFailed(f"{target} cannot be read", cause=str(error)) from error
    content = conflist.merge(existing, settings)
    return content is not None and replace_file(target, content, CONFLIST_MODE)


def remove_conflist(settings: Settings) -> list[str]:
    """Takes our list away; what was done, in words. Raises InstallFailed.

    A list in which others have their plugins stays, and is named: without its first plugin it would be worth nothing,
    and whoever takes the node over writes it anew.
    """
    target = Path(settings.cni_conf_dir) / conflist.FILE_NAME
    try:
        existing = target.read_bytes()
        if not conflist.ours(existing):
            return []
        if not conflist.ours_alone(existing):
            return [f"left as it is, since others have plugins in it: {target}"]
        target.unlink()
        _sync_folder(target.parent)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InstallFailed(f"{target} cannot be removed", cause=str(error)) from error
    return [f"conflist {target}"]


def replace_file(target: Path, content: bytes, mode: int) -> bool:
    """Gives `target` this content and mode in one step. Returns False, and touches nothing, if it has them.

    The folder is made if it is missing. The new file is synced before, its folder after the rename. A temporary
    file that a crash left is overwritten by the next call. Raises InstallFailed; then nothing is left behind.
    """
    temporary = target.with_name(TEMPORARY.format(target.name))
    try:
        if _has(target, content, mode):
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, content, mode)
            os.rename(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise InstallFailed(f"{target} cannot be written", cause=str(error)) from error
    return True


def _has(target: Path, content: bytes, mode: int) -> bool:
    """Whether the file is as wanted; a link is not, whatever it leads to."""
    try:
        status = target.lstat()
        return status.st_mode == (0o100000 | mode) and status.st_size == len(content) and target.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(temporary: Path, content: bytes, mode: int) -> None:
    temporary.unlink(missing_ok=True)
    # Not executable until complete: a process could be started from a half written file otherwise.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
