"""Builds the compiled parts and the native programs.

Switches, read from the environment: ENID_SANITIZE=1 (address and undefined-behaviour sanitizers),
ENID_COVERAGE=1 (gcov), ENID_DEBUG=1 (no optimisation, Cython bound checks), ENID_FAULTS=1 (fault hooks for
tests), ENID_BUILD_ONLY=pool,netlink (some parts only). Warnings are errors everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PARTS = ("pool", "journal", "netlink")
PROGRAMS = {"cni/aws-cni.c": "cni/bin/aws-cni", "agent/supervisor.c": "agent/bin/enid-supervisor"}
WARN = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Wvla", "-Wformat=2"]


def flag(name: str) -> bool:
    """Whether the build switch is on."""
    return os.environ.get(name, "0") not in ("", "0")


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags that the switches ask for."""
    compile_args, link_args = ["-std=c11", "-D_GNU_SOURCE"], []
    if flag("ENID_SANITIZE"):
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
        compile_args += [*sanitize, "-g", "-O1"]
        link_args += sanitize
    elif flag("ENID_DEBUG"):
        compile_args += ["-g", "-O0"]
    else:
        compile_args += ["-O2"]
    if flag("ENID_COVERAGE"):
        compile_args += ["--coverage"]
        link_args += ["--coverage"]
    if flag("ENID_FAULTS"):
        compile_args += ["-DENID_FAULTS"]
    return compile_args, link_args


def only() -> set[str]:
    """The parts to build; all without the switch."""
    chosen = {name for name in os.environ.get("ENID_BUILD_ONLY", "").split(",") if name}
    unknown = chosen - set(PARTS) - {"programs"}
    if unknown:
        raise SystemExit(f"ENID_BUILD_ONLY names {sorted(unknown)}; the parts are {[*PARTS, 'programs']}")
    return chosen or {*PARTS, "programs"}


def extensions() -> list[Extension]:
    """One extension a part: the plain C kernel, compiled with all warnings, under its thin Cython module."""
    compile_args, link_args = flags()
    # Cython's generated code does not pass our strictest warnings; the C kernels are checked with them below.
    return [
        Extension(
            f"ext._{part}",
            [f"ext/_{part}.pyx", f"ext/{part}.c"],
            depends=sorted(
                str(p.relative_to(HERE)) for p in HERE.glob(f"ext/*{part}*.[hp]*") if p.suffix in (".h", ".pxd", ".pxi")
            ),
            extra_compile_args=[*compile_args, "-Wall", "-Werror", "-Wno-unused-function", "-Wno-maybe-uninitialized"],
            extra_link_args=link_args,
            define_macros=[("CYTHON_USE_TYPE_SPECS", "0")],
        )
        for part in PARTS
        if part in only()
    ]


def compiler() -> list[str]:
    """The C compiler that built Python, or $CC."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[:1]


def static_compiler() -> list[str]:
    """The compiler of the native programs, with what makes its output small and static.

    musl, because glibc asks the processor for its features (some forty CPUID, each an exit to the hypervisor) and
    relocates itself before `main`: two thirds of what a small program costs, and every pod starts ours twice.
    `ENID_STATIC_CC` names another compiler; sanitizers need the ordinary one.
    """
    if flag("ENID_SANITIZE"):
        return compiler()
    chosen = os.environ.get("ENID_STATIC_CC", "musl-gcc").split()
    if shutil.which(chosen[0]) is None:
        raise SystemExit(f"{chosen[0]} is needed for the native programs (Debian: musl-tools); or set ENID_STATIC_CC")
    # The kernel's own headers, which musl does not bring.
    kernel = ["/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"]
    return [*chosen, "-static", "-s", *(word for folder in kernel for word in ("-idirafter", folder))]


def build_programs(root: Path) -> None:
    """The native programs: static, so that they start in a quarter of a millisecond and need nothing on the host."""
    compile_args, link_args = flags()
    command = static_compiler()
    for source, target in PROGRAMS.items():
        out = root / target
        out.parent.mkdir(parents=True, exist_ok=True)
        newest = max(p.stat().st_mtime for p in [HERE / source, *(HERE / source).parent.glob("*.h")])
        stamp = out.with_name(out.name + ".flags")
        wanted = " ".join([*command, *compile_args])
        if out.exists() and out.stat().st_mtime > newest and stamp.exists() and stamp.read_text() == wanted:
            continue
        subprocess.run([*command, *compile_args, *WARN, "-o", str(out), str(HERE / source), *link_args], check=True)
        stamp.write_text(wanted)


class BuildExt(build_ext):
    """Checks the plain C kernels with all warnings as errors, then builds as usual."""

    def run(self) -> None:
        compile_args, _ = flags()
        for part in PARTS:
            if part in only():
                subprocess.run(
                    [*compiler(), *compile_args, *WARN, "-fsyntax-only", f"ext/{part}.c"], check=True, cwd=HERE
                )
        super().run()
        if self.inplace and "programs" in only():
            build_programs(HERE)


class BuildPy(build_py):
    """Puts the native programs into the built tree, so that a wheel holds them."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False) and "programs" in only():
            build_programs(Path(self.build_lib))


setup(
    ext_modules=cythonize(
        extensions(),
        compiler_directives={
            "language_level": 3,
            "boundscheck": flag("ENID_DEBUG"),
            "wraparound": False,
            "embedsignature": True,
        },
        quiet=True,
    ),
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    has_ext_modules=lambda: True,  # type: ignore[arg-type]
)
