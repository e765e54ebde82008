"""The journal on a file system that is full, which takes a mount of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FULL_DISK = """
import errno, os, sys
from ext.journal import Full, Journal, encode
folder = sys.argv[1] + "/journal"
journal = Journal.open(folder, bytes(16), size=16384).journal
with open(sys.argv[1] + "/filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
written = 0
for n in range(2000):
    frame = encode(1, bytes(20), b"addr", n, b"m" * 50)
    try:
        journal.append(frame)
    except Full:
        journal.compact([frame])
assert journal.generation > 5
try:
    Journal.open(sys.argv[1] + "/second", bytes(16), size=16384)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("there is no space for a second journal")
journal.close()
opened = Journal.open(folder, bytes(16), size=16384)
assert opened.records[-1].when_ns == 1999 and opened.damage is None
"""


@pytest.mark.root
def test_a_full_file_system_fails_no_append_and_no_compaction(tmp_path: Path) -> None:
    mounted = f'mount -t tmpfs -o size=128k none "{tmp_path}" && exec "{sys.executable}" -c "$1" "{tmp_path}"'
    subprocess.run(["unshare", "-m", "sh", "-c", mounted, "sh", FULL_DISK], check=True, cwd=ROOT)
