#!/usr/bin/env bash
# Brings a fresh Debian machine to where `make demo` and `make test` run: Debian packages, a virtual environment,
# the compiled parts. Safe to call again; a second call takes a second. Nothing is ever removed: a package that
# could only be had by removing another one is named instead, and so is everything else that is missing.
#
#   ./setup.sh [demo|test]      demo (default): what the demo and the checks need; test: also real containerd and,
#                               where Debian has it, the kernel for the tests on an older one
set -euo pipefail
cd "$(dirname "$0")"
what=${1:-demo}
venv=.venv
say() { printf '\033[2m== %s\033[0m\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

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
if [ "$what" = test ]; then
    need containerd containerd
    need runc runc
    need strace strace
    need ping iputils-ping
    need clang clang
    need /usr/lib/cni/portmap containernetworking-plugins
    # Of amd64 only; without them the tests in a guest are skipped, by these names.
    want linux.uml user-mode-linux
    want modprobe kmod
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
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null || say "apt-get update failed; trying with the lists that are here"
    add_optional
    plan=$(apt-get install -s --no-install-recommends "${missing[@]}" 2>&1) ||
        die "cannot install ${missing[*]}: $(printf '%s\n' "$plan" | grep -m1 '^E:' || echo 'see apt-get install -s')"
    if removed=$(printf '%s\n' "$plan" | awk '/^Remv /{print $2}' | xargs) && [ -n "$removed" ]; then
        die "installing ${missing[*]} would remove: $removed; please decide yourself, then call again"
    fi
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ -n "$python" ] || python=$(command -v python3)
fi

# --- the virtual environment ----------------------------------------------------------------------------
extras="test,check,bench"
want="$(sha256sum pyproject.toml | cut -c1-16)-$extras-$python-$("$python" -V 2>&1)-$PWD"
if [ "$(cat $venv/.enid-ready 2>/dev/null || true)" != "$want" ]; then
    say "making the virtual environment (a minute or two)"
    rm -rf $venv && "$python" -m venv $venv
    mapfile -t packages < <($venv/bin/python - "$extras" <<'PY'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
wanted = list(project["build-system"]["requires"]) + list(project["project"]["dependencies"])
for extra in sys.argv[1].split(","):
    wanted += project["project"]["optional-dependencies"][extra]
print("\n".join(dict.fromkeys(wanted)))
PY
    )
    $venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}" ||
        die "pip could not install the Python packages; see the lines above"
    # The checkout itself, so that every program started with -I finds it.
    $venv/bin/python - <<'PY'
import pathlib, sysconfig
pathlib.Path(sysconfig.get_paths()["purelib"], "enid-checkout.pth").write_text(f"{pathlib.Path.cwd()}\n")
PY
    printf '#!/bin/sh\nexec "%s/%s/bin/python" -I -m cli.main "$@"\n' "$PWD" "$venv" >$venv/bin/enid && chmod 755 $venv/bin/enid
    echo "$want" >$venv/.enid-ready
fi

# --- the compiled parts ---------------------------------------------------------------------------------
stamp=$venv/.enid-built
newest=$(find setup.py ext cni agent \( -name '*.pyx' -o -name '[a-z]*.c' -o -name '*.h' -o -name '*.pxd' -o -name setup.py \) ! -path 'ext/_*.c' -newer "$stamp" -print -quit 2>/dev/null || echo all)
if [ ! -e "$stamp" ] || [ -n "$newest" ] || [ ! -x cni/bin/aws-cni ] || [ ! -x agent/bin/enid-supervisor ] || ! compgen -G 'ext/_netlink*.so' >/dev/null; then
    say "building the compiled parts"
    touch "$stamp.new"
    $venv/bin/python setup.py --quiet build_ext --inplace || die "the build failed; see the lines above"
    mv "$stamp.new" "$stamp"
fi
