"""What an ADD and a DEL cost, counted and fixed: system calls, netlink messages, allocations.

The numbers are a budget. A change that needs more must say so here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel import features

ROOT = Path(__file__).resolve().parents[2]

# Of the three sysctls only accept_ra differs from what a link is born with, where the node does not forward IPv6.
ADD = Counter(sendto=4, recvfrom=5, openat=3, read=3, pwrite64=1, close=3)
# A missing from-rule is one answer more, but needs no second try; each deleted rule needs one.
DEL = Counter(sendto=3, recvfrom=5)
DEL_TABLE = Counter(sendto=4, recvfrom=5)
# Without other writers' rules a DEL is one batch; a from-rule that is missing is an answer more.
DROP = Counter(sendto=1, recvfrom=2)
DROP_TABLE = Counter(sendto=1, recvfrom=1)
MESSAGES = {
    ("add", "v4", "main"): 11,
    ("add", "v4", "table"): 12,
    ("add", "v6", "main"): 12,
    ("add", "v6", "table"): 13,
    ("del", "v4", "main"): 6,
    ("del", "v4", "table"): 7,
    ("del", "v6", "main"): 6,
    ("del", "v6", "table"): 7,
    ("drop", "v4", "main"): 4,
    ("drop", "v4", "table"): 4,
    ("drop", "v6", "main"): 4,
    ("drop", "v6", "table"): 4,
}


@pytest.mark.root
@pytest.mark.parametrize(("what", "family", "table"), MESSAGES)
def test_system_calls_and_messages(what: str, family: str, table: str, tmp_path: Path) -> None:
    """By strace, which knows nothing of ours, and by our own counters."""
    trace = tmp_path / "trace"
    subject = ROOT / "tests" / "kernel" / "netlink_counts_subject.py"
    done = subprocess.run(
        ["unshare", "-n", "-m", "strace", "-f", "-o", str(trace), sys.executable, str(subject), what, family, table],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r"^\d+ +", "", line) for line in trace.read_text().splitlines()]
    first, last = (n for n, line in enumerate(lines) if "netlink-counts-mark" in line)
    calls = Counter(line.partition("(")[0] for line in lines[first + 1 : last])
    # A system call only where the kernel offers no clock in user space (vdso(7)).
    calls.pop("clock_gettime", None)
    budgets = {"add": (ADD, ADD), "del": (DEL, DEL_TABLE), "drop": (DROP, DROP_TABLE)}
    expected, messages = budgets[what][table == "table"], MESSAGES[what, family, table]
    if what == "add" and not features.echoes_new_links():
        # The link is asked for; what comes back takes the echo's place.
        expected, messages = expected + Counter(sendto=1), messages + 1
    if what == "add" and not features.activates_when_asked():
        again = calls["ppoll"]
        expected, messages = expected + Counter(sendto=again, recvfrom=again, ppoll=again), messages + again
    assert calls == expected, "\n".join(lines[first : last + 1])
    assert done.stdout.split() == [str(sum(expected.values())), str(messages)]


def test_the_c_part_allocates_nothing(tmp_path: Path) -> None:
    """It cannot: no allocator is among what it calls. The list is whole, so that an addition is seen."""
    out = tmp_path / "netlink.o"
    source = ROOT / "ext" / "netlink.c"
    subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-c", "-o", str(out), str(source)], check=True)
    listing = subprocess.run(["nm", "-u", str(out)], capture_output=True, text=True, check=True).stdout
    used = {
        line.split()[-1].removeprefix("__").removesuffix("_chk").removesuffix("64").partition("@")[0]
        for line in listing.splitlines()
    }
    system = {
        "bind",
        "clock_gettime",
        "close",
        "getsockname",
        "getsockopt",
        "open",
        "ppoll",
        "pwrite",
        "read",
        "recvfrom",
        "send",
    }
    system |= {"setsockopt", "socket"}
    pure = {"errno_location", "memcmp", "memcpy", "memset", "snprintf", "stack_chk_fail", "strnlen"}
    assert used <= system | pure | {"_GLOBAL_OFFSET_TABLE_"}, used
