"""The folder of a world: whose it is, whether a world lives in it, and how it is emptied.

A folder may be named by mistake, and what an ended world left in it is removed at the next start. So a folder is a
sandbox's only if its lock file bears our own words, which are written into an empty folder and nowhere else; anything
else is refused before a single name in it is touched. The folder itself is the user's and is never removed.

The lock is held by the daemon's processes and by nobody else, so "locked" means running and "not locked" means that
nothing of the world is left, however it ended. It is a lock of the open file, which the starter takes, keeps while it
clears the folder, and hands to the daemon; so two starts never meet in one folder. Asking does not take it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path
from typing import Final

from sandbox.base.failures import SandboxFailure

LOCK: Final = "lock"
SCENARIO: Final = "scenario.json"
LOG: Final = "daemon.log"
TRACE: Final = "trace.jsonl"
PID: Final = "pid"
SOCKETS: Final = ("control.sock", "ec2.sock", "kube.sock")
OURS: Final = (*SOCKETS, PID, LOG, TRACE, SCENARIO, "nodes", LOCK)
WORDS: Final = b"enid sandbox, format 1: what is in this folder is removed by `up` and by `down --purge`\n"
# struct flock of fcntl(2): type, whence, start, length, pid; padded as C does. All of the file.
_FLOCK: Final = struct.Struct("hhqqi0q")


def running(folder: Path) -> bool:
    """Whether a world lives in `folder`, by its lock, which is not touched: two who ask do not see each other."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise SandboxFailure("privilege", f"{folder / LOCK}: {error.strerror}; it is another user's sandbox") from error
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock())
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def ours(folder: Path) -> bool:
    """Whether the folder is a sandbox's: its lock bears our words."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _bears_words(descriptor)
    finally:
        os.close(descriptor)


def claim(folder: Path) -> int:
    """Take the folder for a world: made if missing, marked if empty. The descriptor that holds its lock.

    Raises SandboxFailure already-running, or bad-request if it holds anything that is not a sandbox's.
    """
    for _ in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # removed by somebody between the steps
        except (FileExistsError, NotADirectoryError) as error:
            raise SandboxFailure("bad-request", f"sandbox folder {folder} is not a folder") from error
        except OSError as error:
            raise SandboxFailure("bad-request", f"sandbox folder {folder} cannot be used: {error.strerror}") from error
        try:
            if _take(folder, lock):
                _mark(folder, lock)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise SandboxFailure("bad-request", f"sandbox folder {folder} goes away as fast as it is made")


def clear(folder: Path) -> None:
    """Remove what an ended world left, but not the lock, which the caller holds; nothing but a world's own names.

    Raises SandboxFailure bad-request if something will not go.
    """
    for name in OURS:
        if name != LOCK:
            _remove(folder / name)


def purge(folder: Path) -> None:
    """Leave the folder empty. Fine if it is missing or empty already.

    Raises SandboxFailure already-running, or bad-request if it is not a sandbox's; nothing is touched then.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not ours(folder):
        _refuse_foreign(folder)
        raise _foreign(folder, LOCK)
    lock = claim(folder)
    try:
        clear(folder)
        (folder / LOCK).unlink()
    finally:
        os.close(lock)


def tidy(folder: Path) -> None:
    """Remove what an ended world listened on and its pid, which would make it look killed; its logs stay."""
    if not ours(folder):
        return
    try:
        lock = claim(folder)
    except SandboxFailure:
        return  # the next world is there already, and whatever it finds is its own
    try:
        for name in (*SOCKETS, PID):
            _remove(folder / name)
    finally:
        os.close(lock)


def _flock() -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def _take(folder: Path, lock: int) -> bool:
    """Lock it; whether it still is the folder's lock, and not one that was purged meanwhile."""
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _flock())
    except BlockingIOError:
        raise SandboxFailure("already-running", f"a sandbox runs in {folder} already") from None
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder / LOCK, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _mark(folder: Path, lock: int) -> None:
    """Write our words into the lock of an empty folder; refuse any other that lacks them."""
    if _bears_words(lock):
        return
    # An empty lock that is alone is a start's that was killed before its first write; there is nothing to lose in it.
    if os.fstat(lock).st_size or any(entry.name != LOCK for entry in folder.iterdir()):
        raise _foreign(folder, LOCK)
    os.pwrite(lock, WORDS, 0)


def _bears_words(lock: int) -> bool:
    try:
        return os.pread(lock, len(WORDS) + 1, 0) == WORDS
    except OSError:
        return False  # a folder, or a pipe


def _refuse_foreign(folder: Path) -> None:
    """Raises SandboxFailure bad-request, so that nothing is made in such a folder, not even a lock."""
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if name not in OURS] or (names if LOCK not in names else [])
    if foreign:
        raise _foreign(folder, foreign[0])


def _foreign(folder: Path, name: str) -> SandboxFailure:
    return SandboxFailure(
        "bad-request",
        f"{folder} holds something that is not a sandbox's: {name}",
        remedy="name an empty folder, or one that is not there",
    )


def _remove(entry: Path) -> None:
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    except OSError as error:
        raise SandboxFailure("bad-request", f"{entry} cannot be removed: {error}") from error
