# Everything that a user or CI runs. `make help` lists the targets.
# The set-up installs the tested versions (constraints.txt) into .venv once; later calls find it there.

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
CONSTRAINTS ?= constraints.txt
# Processes for the tests; each runs one torch thread.
JOBS ?= 2

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Real data where it lies beside the checkout; examples and tests do with shipped data otherwise.
ifneq ($(wildcard ../shared/data/.),)
GRAFTKIT_DATA ?= $(abspath ../shared/data)
export GRAFTKIT_DATA
endif

ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(RUN) -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-oldest lint format bench report constraints clean clean-venv

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

venv: $(STAMP) ## Create .venv with the tested versions of everything

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "graftkit needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	    "Say which to use: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the tested versions into $(VENV) (minutes the first time, seconds later) ..."
	$(RUN) -m pip install --quiet --constraint $(CONSTRAINTS) pip
	$(RUN) -m pip install --quiet --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Run the tour: all ten methods, one table, one figure a method, one page
	$(RUN) examples/tour.py

test: $(STAMP) ## Run the suite (without slow tests)
	$(PYTEST) -m "not slow and not gpu"

test-all: $(STAMP) ## Run the suite with slow tests, and GPU tests where there is a GPU
	$(PYTEST)

test-oldest: $(STAMP) ## Run the suite with the oldest supported versions, in an environment of its own
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) pip
	$(RUN) tests/house/versions.py oldest > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt \
	  --build-constraint $(CONSTRAINTS) --editable '.[all,examples,test,bench]'
	$(ONE_THREAD) $(OLDEST)/bin/python -m pytest -n $(JOBS) -m "not slow and not gpu" \
	  --override-ini filterwarnings=ignore

lint: $(STAMP) ## Check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP) ## Put the code into shape
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(STAMP) ## Run every benchmark (long; each can be run alone)
	set -e; for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(RUN) "$$script"; done

report: $(STAMP) ## Render RESULTS.md and what README and CONTRIBUTING quote of it from the JSON files
	$(RUN) tests/benchmarks/report.py

constraints: $(STAMP) ## Write constraints.txt from what .venv holds
	$(RUN) -m pip freeze --all --exclude-editable > $(VENV)/frozen.txt
	{ sed '/^[^#]/,$$d' constraints.txt; cat $(VENV)/frozen.txt; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	@touch $(STAMP)

clean: ## Remove caches, builds and what the examples wrote
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache build dist out
	find plugins adapters tests examples -type d -name __pycache__ -prune -exec rm -rf {} +

clean-venv: ## Remove .venv
	rm -rf $(VENV)
