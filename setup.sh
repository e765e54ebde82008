#!/usr/bin/env bash
# Brings a fresh Debian machine to where `make demo`, `make check`, `make test` and `make bench` run: Debian packages,
# a virtual environment in .venv, the compiled parts. Each purpose brings what it needs and leaves what is there; safe
# to call again, and a call that has nothing to do takes a second. No Debian package is ever removed: one that could
# only be had by removing another is named instead, and so is everything else that is missing.
set -euo pipefail
cd "$(dirname "$0")"
venv=.venv

usage() {
    cat <<'TEXT'
./setup.sh [demo|check|test|bench]...     several purposes add up; demo if none is named

  demo     what the demo and `enid` need: compiler, iproute2, nftables, the runtime's Python packages
  check    also ruff, mypy and their like
  test     also pytest and its like, real containerd, strace, ping, clang; where Debian has it, the kernel for
            the tests on an older one
  bench    also matplotlib, the plugins to compare with

Missing Debian packages are named first; root installs them, any other user is told which they are.
TEXT
}
say() { if [ -t 2 ]; then printf '\033[2m== %s\033[0m\n' "$*" >&2; else printf '== %s\n' "$*" >&2; fi; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

purposes=()
for word in "$@"; do
    case "$word" in
        demo | check | test | bench) purposes+=("$word") ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; printf '\nsetup: unknown purpose: %s\n' "$word" >&2; exit 2 ;;
    esac
done
wanted_for() { # wanted_for PURPOSE...: whether one of them is wanted
    local purpose
    for purpose in "$@"; do [[ " ${purposes[*]-} " == *" $purpose "* ]] && return 0; done
    return 1
}

# --- Debian packages -----------------------------------------------------------------------------------
# command or file -> package
missing=()
optional=()
there() { # there TEST: TEST is a command name, or a path (a glob is allowed)
    case "$1" in
        /*) compgen -G "$1" >/dev/null ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}
need() { there "$1" || missing+=("$2"); } # need TEST PACKAGE
want() { there "$1" || optional+=("$2"); } # want TEST PACKAGE: only where Debian has it
add_optional() { # those that apt knows become missing ones
    local package
    for package in "${optional[@]}"; do
        if apt-cache show "$package" >/dev/null 2>&1; then missing+=("$package"); fi
    done
    optional=()
}
need gcc gcc
need make make
need "/usr/lib/*/libc.a" libc6-dev
need musl-gcc musl-tools
need ip iproute2
need nft nftables
need unshare util-linux
need ping iputils-ping
if wanted_for test; then
    need containerd containerd
    need runc runc
    need strace strace
    need clang clang
    # Of amd64 only; without them the tests in a guest are skipped, by these names.
    want linux.uml user-mode-linux
    want modprobe kmod
fi
if wanted_for test bench; then
    need /usr/lib/cni/portmap containernetworking-plugins
fi
python=
# The system's own first: another user than root can run it too, which one below /root cannot be.
for candidate in /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3.13 python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(command -v "$candidate")
        break
    fi
done
if [ -z "$python" ]; then
    missing+=(python3 python3-venv python3-dev)
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" - <<'PY' || missing+=(python3-dev)
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
PY
fi
if [ ${#missing[@]} -eq 0 ] && [ "$(id -u)" = 0 ]; then add_optional; fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "these Debian packages are missing and only root can install them: ${missing[*]}"
    fi
    say "installing Debian packages on this machine: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null || say "apt-get update failed; trying with the lists that are here"
    add_optional
    plan=$(apt-get install -s --no-install-recommends "${missing[@]}" 2>&1) ||
        die "cannot install ${missing[*]}: $(printf '%s\n' "$plan" | grep -m1 '^E:' || echo 'see apt-get install -s')"
    if removed=$(printf '%s\n' "$plan" | awk '/^Remv /{print $2}' | xargs) && [ -n "$removed" ]; then
        die "installing ${missing[*]} would remove: $removed; please decide yourself, then call again"
    fi
    apt-get install -y -q --no-install-recommends "${missing[@]}" | sed -un 's/^Setting up \([^ ]*\).*/   \1/p' >&2
    [ -n "$python" ] || python=$(command -v python3)
fi

# --- the virtual environment ----------------------------------------------------------------------------
# Another Python or another place makes it anew; a list of packages that changes only adds to it.
identity="$python $("$python" -V 2>&1) $PWD"
if [ "$(cat $venv/.enid-python 2>/dev/null || true)" != "$identity" ] || [ ! -x $venv/bin/python ]; then
    say "making the virtual environment in $PWD/$venv"
    rm -rf $venv && "$python" -m venv $venv
    # The checkout itself, so that every program started with -I finds it.
    $venv/bin/python - <<'PY'
import pathlib, sysconfig
pathlib.Path(sysconfig.get_paths()["purelib"], "enid-checkout.pth").write_text(f"{pathlib.Path.cwd()}\n")
PY
    printf '#!/bin/sh\nexec "%s/%s/bin/python" -I -m cli.main "$@"\n' "$PWD" "$venv" >$venv/bin/enid && chmod 755 $venv/bin/enid
    echo "$identity" >$venv/.enid-python
fi
# The first line says how many of the lists' packages are not here yet; the others are all that shall be here.
mapfile -t packages < <("$python" - "$venv/.enid-packages" "${purposes[@]}" <<'PY'
import pathlib, re, sys, tomllib
have_file, *purposes = sys.argv[1:]
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
extras = project["project"]["optional-dependencies"]
wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
# Types are checked, and tests run, on the benchmarks too.
for name in dict.fromkeys([*purposes, *(["bench"] if {"check", "test"} & set(purposes) else [])]):
    wanted += extras.get(name, [])
name_of = lambda line: re.split(r"[^A-Za-z0-9._-]", line)[0].lower()
file = pathlib.Path(have_file)
have = file.read_text().splitlines() if file.exists() else []
names = {name_of(line) for line in wanted}
print(len(set(wanted) - set(have)), *sorted({*wanted, *(line for line in have if name_of(line) not in names)}), sep="\n")
PY
)
[ ${#packages[@]} -gt 0 ] || die "the lists of Python packages in pyproject.toml cannot be read; see the lines above"
if [ "${packages[0]}" != 0 ]; then
    say "installing ${packages[0]} Python packages and what they need into $venv (a minute or so)"
    $venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "${packages[@]:1}" 2>&1 |
        tee $venv/pip.log | sed -un 's/^Collecting \([A-Za-z0-9._-]*\).*/   \1/p' >&2 ||
        die "pip could not install them: $(tail -n 5 $venv/pip.log)"
    printf '%s\n' "${packages[@]:1}" >$venv/.enid-packages
fi

# --- the compiled parts ---------------------------------------------------------------------------------
stamp=$venv/.enid-built
newest=$(find setup.py ext cni agent \( -name '*.pyx' -o -name '[a-z]*.c' -o -name '*.h' -o -name '*.pxd' -o -name setup.py \) ! -path 'ext/_*.c' -newer "$stamp" -print -quit 2>/dev/null || echo all)
if [ ! -e "$stamp" ] || [ -n "$newest" ] || [ ! -x cni/bin/aws-cni ] || [ ! -x agent/bin/enid-supervisor ] || ! compgen -G 'ext/_netlink*.so' >/dev/null; then
    say "building the compiled parts (half a minute)"
    touch "$stamp.new"
    $venv/bin/python setup.py --quiet build_ext --inplace || die "the build failed; see the lines above"
    mv "$stamp.new" "$stamp"
fi
