"""A pytest plugin that takes the compiled parts from ENID_SANITIZED, a build with sanitizers and fault hooks.

Loaded with `-p tests.fuzz.sanitized` in a process that has the sanitizer's library preloaded; it refuses to start
with the ordinary build, so that nothing passes by mistake.
"""

from __future__ import annotations

import ctypes
import os

import ext

FOLDER = os.environ["ENID_SANITIZED"]
ext.__path__.insert(0, FOLDER)

from ext import _journal, _pool  # noqa: E402  the path must be set before

for module in (_journal, _pool):
    if os.path.dirname(str(module.__file__)) != FOLDER:
        raise RuntimeError(f"{module.__name__} comes from {module.__file__}, not from {FOLDER}")


class Faults(ctypes.Structure):
    """`struct journal_faults` of journal.h."""

    _fields_ = [
        ("calls", ctypes.c_long),
        ("at", ctypes.c_long),
        ("action", ctypes.c_int),
        ("error", ctypes.c_int),
        ("bytes", ctypes.c_long),
    ]


SHORT, ERRNO, DIE = range(3)


def journal_faults() -> Faults:
    """The fault hook of the loaded journal."""
    return Faults.in_dll(ctypes.CDLL(str(_journal.__file__)), "journal_faults")
