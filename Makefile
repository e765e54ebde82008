# One command each; CI calls the same ones.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
# Tests wait more than they compute. Not more than eight: each holds a world of its own.
WORKERS ?= $(shell nproc | awk '{print $$1 < 8 ? $$1 + 1 : 8}')
.DEFAULT_GOAL := help

.PHONY: help setup build demo test check bench format sanitize clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## what the demo needs: virtual environment, compiled parts, Debian packages where missing
	@./setup.sh demo

build: ## compiled parts and native programs, in place
	@$(PY) setup.py --quiet build_ext --inplace

demo: setup ## three nodes, sixty pods, a crash of every daemon, and no trace left
	@$(PY) -m cli.main demo

test: ## all tests
	@./setup.sh test
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: ## style, types, import contracts
	@./setup.sh check
	@./check.sh

bench: ## the benchmark suite: table, JSON, plot
	@./setup.sh bench
	@$(PY) -m bench

format: ## rewrite Python and C in the project's style
	@./setup.sh check
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix . && $(VENV)/bin/clang-format -i $$(git ls-files '*.c' '*.h')

clean: ## remove what was built
	@rm -rf build dist *.egg-info .venv ext/*.so ext/_*.c cni/bin agent/bin .cache
