PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help test demo lint bench clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: lint  ## lint, then all tests (CPU, no network); installs into .venv first
	$(BIN)/python -m pytest

demo: .venv/installed  ## a first run: Uninformed Students on generated images, offline, in minutes
	$(BIN)/bench train method=us_fast dataset=demo/brick

lint: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed  ## measure speed; writes docs/benchmarks
	$(BIN)/python scripts/benchmark_rd_step.py --write
	$(BIN)/python scripts/benchmark_metrics.py --write
	$(BIN)/python scripts/benchmark_dense.py --write
	$(BIN)/python scripts/benchmark_csflow_step.py --write
	$(BIN)/python scripts/benchmark_glf_windows.py --write

clean:  ## remove the environment and the tools' caches; outputs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dist
