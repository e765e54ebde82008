"""The shim's readers under sanitizers, on damaged configurations and replies; and that the check can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cni import wire

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOLDEN = ROOT / "tests" / "cni" / "golden"
ROUNDS = 60000
CONFIG = {
    "agentSocket": "/run/x/cni.sock",
    "cniVersion": "0.4.0",
    "name": "aws-cni",
    "addWait": 120,
    "ipv6": True,
    "runtimeConfig": {
        "io.kubernetes.cri.pod-annotations": {"a": '{"b": [1, 2, "\\"]"]}', "caf\u00e9": "\U0001f600"},
        "portMappings": [{"hostPort": 80, "containerPort": 8080}],
    },
    "prevResult": {"interfaces": [{"name": "eth0"}], "x": [[[[[[None, False, -1.5e3]]]]]]},
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    out = tmp_path_factory.mktemp("fuzz") / "shim_fuzz"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, *sanitize, "-o", out, HERE / "shim_fuzz.c"], check=True, timeout=120)
    return out


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "indented.json").write_text(json.dumps(CONFIG, indent=3, ensure_ascii=False), encoding="utf-8")
    (folder / "small.json").write_text('{"name":"","runtimeConfig":{"portMappings":[]}}')
    (folder / "deep.json").write_text('{"prevResult":' + "[" * 63 + "]" * 63 + "}")
    (folder / "reply.frame").write_bytes(wire.encode_reply(0, b"x" * 500))
    return [*folder.iterdir(), *GOLDEN.iterdir()]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_damage_leads_outside(program: Path, inputs: list[Path], seed: int) -> None:
    done = subprocess.run(
        [program, str(seed), str(ROUNDS // 3), *inputs], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"repeat with: {seed} {ROUNDS // 3}\n{done.stderr[-4000:]}"


def test_the_sanitizers_are_awake(tmp_path: Path, program: Path) -> None:
    """A reader that takes one byte too many is caught, so the test above can fail."""
    source = (HERE / "shim_fuzz.c").read_text()
    spoiled = source.replace("read_config((const char *)block, size);", "read_config((const char *)block, size + 1);")
    assert spoiled != source
    (tmp_path / "spoiled.c").write_text(spoiled.replace("../../cni/", f"{ROOT}/cni/"))
    out = tmp_path / "spoiled"
    subprocess.run(
        [
            shutil.which("gcc") or "clang",
            "-std=c11",
            "-D_GNU_SOURCE",
            "-fsanitize=address",
            "-o",
            out,
            tmp_path / "spoiled.c",
        ],
        check=True,
        timeout=120,
    )
    (tmp_path / "cut.json").write_text('{"name":1 ')
    done = subprocess.run(
        [out, "1", "200", tmp_path / "cut.json"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
