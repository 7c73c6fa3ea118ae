# The first of these that runs and is 3.11 or newer; override with `make PYTHON=...`
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadscope
# what was compiled once is not compiled again: by another worker, by a command in a process of its own, the next time
export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/jax-cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: help demo test test-fast test-all lint types benchmark clean python

help:
	@echo "make demo       install, then the main job: a table and a figure"
	@echo "make test       install, lint, then the fast tests and one slow test of twelve in float64, then the fast in float32"
	@echo "make test-fast  the fast part alone"
	@echo "make test-all   everything, the nightly tests too"
	@echo "make types      pyright (needs node)"
	@echo "make benchmark  all benchmarks (an hour): rates, and ratios to other software and to the machine's floor"

python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; say make PYTHON=/path/to/python3.11" >&2; exit 2; }

$(VENV)/.base: pyproject.toml | python
	$(PYTHON) -m venv $(VENV)
	$(PIP) install .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) install '.[test]'
	@touch $@

# the package itself is installed anew each time, as users get it, and tests run on that
demo: $(VENV)/.base
	$(PIP) install --no-deps --force-reinstall .
	$(BIN)/emalign search --out demo --force

test: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(MAKE) lint
	$(PYTEST) --durations=15 --one-slow-test-in 12
	EMALIGN_TEST_X64=0 $(PYTEST) --durations=15 -m "not slow and not host_only"

test-fast: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(MAKE) lint
	EMALIGN_NIGHTLY=1 $(PYTEST) --durations=15
	EMALIGN_TEST_X64=0 $(PYTEST) --durations=15 -m "not host_only"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

benchmark: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist
