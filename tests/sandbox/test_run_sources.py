"""Time and chance have one source each: the core reads no clock and no generator of the machine or the interpreter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sandbox

ROOT = Path(sandbox.__file__).parent
SOURCES = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "localtime"},
    "datetime": {"now", "utcnow", "today"},
    "uuid": {"uuid1", "uuid4"},
    "os": {"urandom", "getrandom"},
    "random": {"random", "randrange", "randint", "choice", "choices", "shuffle", "seed", "getrandbits", "SystemRandom"},
    "secrets": {"token_bytes", "token_hex", "token_urlsafe", "choice", "randbelow", "randbits"},
}
# Signatures are made by clients, whose clock is the machine's.
ALLOWED = {("ec2/account/iam.py", "time.time"), ("ec2/account/signature.py", "time.time")}
# The core: what in-process runs are made of.
CORE = (
    "ec2/**/*.py",
    "world/script.py",
    "world/switches.py",
    "world/furnish.py",
    "world/scenario.py",
    "face/inprocess.py",
)


def uses(file: Path) -> Iterator[str]:
    """Every `module.name` of SOURCES that a file reads, called or not, also by `from module import name`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in SOURCES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in SOURCES:
            yield from (f"{node.module}.{one.name}" for one in node.names if one.name in SOURCES[node.module])


def test_no_other_source_of_time_or_chance() -> None:
    files = [file for pattern in CORE for file in sorted(ROOT.glob(pattern))]
    assert len(files) > 20
    found = {(str(file.relative_to(ROOT)), use) for file in files for use in uses(file)}
    assert found <= ALLOWED


def test_the_search_finds_them(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import time, uuid\nfrom os import urandom\nnow = time.time\nuuid.uuid4()\ntime.sleep(1)\n")
    assert sorted(uses(file)) == ["os.urandom", "time.time", "uuid.uuid4"]
