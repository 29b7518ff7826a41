PYTHON ?= python3
PYTHON_MINIMUM ?= python3.10
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help test test-all test-minimum bad-inputs test-browser test-latex test-slurm test-ray test-export-cpp demo reproduce lint docs bench bench-guard bench-line clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: lint  ## lint, then the tests (CPU, no network); installs into .venv first
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-all: lint  ## as `test`, and all of what it has a sample of: slower
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "" --hypothesis-profile all

MINIMUM := .venv-minimum

$(MINIMUM)/installed: pyproject.toml scripts/lowest_versions.py
	$(PYTHON_MINIMUM) -m venv $(MINIMUM)
	$(MINIMUM)/bin/pip install --quiet --disable-pip-version-check tomli
	$(MINIMUM)/bin/python scripts/lowest_versions.py dev > $(MINIMUM)/constraints.txt
	$(MINIMUM)/bin/pip install --quiet --disable-pip-version-check --constraint $(MINIMUM)/constraints.txt --editable '.[dev]'
	@touch $@

test-minimum: $(MINIMUM)/installed  ## the tests with the lowest versions that pyproject.toml allows: PYTHON_MINIMUM=python3.10
	$(MINIMUM)/bin/python -m pytest --numprocesses auto --dist loadfile

bad-inputs: .venv/installed  ## every bad input of tests/bad_inputs through the real command; writes docs/bad_inputs.md
	$(BIN)/python tests/bad_inputs/table.py --write docs/bad_inputs.md

test-browser: .venv/installed  ## the report in a real browser (root on Debian, where Chromium is missing)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[browser]'
	$(BIN)/python -m pytest tests/html_report/test_browser.py

test-latex: .venv/installed  ## report.tex through pdflatex (root on Debian, where TeX Live is missing)
	command -v pdflatex >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends texlive-latex-base texlive-latex-recommended; }
	$(BIN)/python -m pytest tests/results/test_paper_tables.py

.venv/engines: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,ray,slurm]' 'ray[data]'
	@touch $@

test-slurm: .venv/engines  ## a sweep with faults on a real SLURM of one node (root on Debian; installs it)
	scripts/engines/slurm.sh run $(BIN)/python scripts/engines/check_sweep.py slurm

test-ray: .venv/engines  ## the same sweep on a local Ray; 20,000 images through examples/score_with_ray.py with faults
	$(BIN)/python scripts/engines/check_sweep.py ray
	$(BIN)/python scripts/engines/check_score_with_ray.py

test-export-cpp: .venv/installed  ## examples/cpp beside Python: ORT_HEADERS=DIR (root on Debian, where libstb-dev is missing)
	test -e /usr/include/stb/stb_image.h || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libstb-dev cmake g++; }
	$(BIN)/python scripts/engines/check_score_cpp.py "$(ORT_HEADERS)"

demo: .venv/installed  ## first runs: grey values alone and two methods on generated images, offline, within 90 seconds
	$(BIN)/bench train
	$(BIN)/bench report
	@echo "next: the page above; outputs/us_fast/demo/gravel_matched/*/heatmaps; bench train method=us_fast dataset=folder dataset.root=my_parts"

reproduce: .venv/installed  ## the papers' tables beside ours: EXPERIMENTS='rd_mvtec ...' OVERRIDES='KEY=VALUE ...' PRESET=smoke
	$(BIN)/bench reproduce $(EXPERIMENTS) $(if $(PRESET),preset=$(PRESET)) $(OVERRIDES)

lint: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@touch $@

docs: .venv/docs  ## the site: guides, reference, API from the docstrings; writes site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/installed  ## measure speed; writes docs/benchmarks
	$(BIN)/python scripts/benchmark_start.py
	$(BIN)/python scripts/benchmark_rd_step.py --write
	$(BIN)/python scripts/benchmark_metrics.py --write
	$(BIN)/python scripts/benchmark_dense.py --write
	$(BIN)/python scripts/benchmark_csflow_step.py --write
	$(BIN)/python scripts/benchmark_glf_windows.py --write
	$(BIN)/python scripts/benchmark_end_to_end.py --write

bench-guard: .venv/installed  ## which small workloads are slower than docs/benchmarks/guard.json says (quiet machine!)
	$(BIN)/python scripts/benchmark_guard.py

bench-line: .venv/installed  ## time small runs from a file to a decision (quiet machine!); writes docs/benchmarks/line.md
	$(BIN)/python scripts/benchmark_line.py
	$(BIN)/python scripts/benchmark_exported.py --write

clean:  ## remove the environments and the tools' caches; outputs/ stays
	rm -rf .venv $(MINIMUM) .mypy_cache .pytest_cache .ruff_cache dist site
