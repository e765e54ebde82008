#!/usr/bin/env bash
# Style, types and import contracts; every tool runs even if one before it fails, so one call shows all.
set -uo pipefail
cd "$(dirname "$0")"
bin=.venv/bin
export PATH=$PWD/$bin:$PATH
failed=()
run() { local name=$1; shift; if "$@"; then printf 'ok    %s\n' "$name"; else failed+=("$name"); printf 'FAIL  %s\n' "$name"; fi; }
mapfile -t c_files < <(git ls-files '*.c' '*.h')
mapfile -t pyx_files < <(git ls-files '*.pyx' '*.pxd')
run "ruff (lint)" $bin/ruff check --quiet .
run "ruff (format)" $bin/ruff format --quiet --check .
run "mypy --strict" $bin/mypy --no-error-summary
run "import contracts" $bin/lint-imports --no-cache
[ ${#pyx_files[@]} -eq 0 ] || run "cython-lint" $bin/cython-lint --max-line-length 120 "${pyx_files[@]}"
[ ${#c_files[@]} -eq 0 ] || run "clang-format" $bin/clang-format --dry-run -Werror "${c_files[@]}"
if [ ${#failed[@]} -gt 0 ]; then printf 'check: failed: %s\n' "${failed[*]}" >&2; exit 1; fi
