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

.PHONY: help demo test test-fast test-all lint types docs docs-execute benchmark clean python

help:
	@echo "make demo       install, then the main job: a table and a figure"
	@echo "make test       install, lint, then the fast tests and one slow test of twelve in float64, then the fast in float32"
	@echo "make build      wheel and sdist, in dist; make check-package also tries them, in an empty environment"
	@echo "make test-fast  the fast part alone"
	@echo "make test-all   everything, the nightly tests too"
	@echo "make types      pyright (needs node)"
	@echo "make docs       the site, in docs/_build/html; make docs-execute runs its notebooks first"
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

$(VENV)/.docs: $(VENV)/.base
	$(PIP) install '.[docs]'
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

# on a second interpreter: everything is imported, and a quarter of the fast tests run, of every folder
test-part: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(PYTEST) -m "not slow" --one-fast-test-in 4

test-all: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(MAKE) lint
	EMALIGN_NIGHTLY=1 $(PYTEST) --durations=15
	EMALIGN_TEST_X64=0 $(PYTEST) --durations=15 -m "not host_only"

.PHONY: test-part build check-package check-tag

build: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m build

check-package: build
	$(PIP) install --no-deps --force-reinstall .
	EMALIGN_NIGHTLY=1 EMALIGN_DIST=$(abspath dist) $(BIN)/pytest tests/house/test_distribution.py tests/house/test_release.py

# make check-tag TAG=v0.1.0: the tag names the version
check-tag: | python
	test "$$TAG" = "v$$($(PYTHON) -c 'import runpy; print(runpy.run_path("emalign_jax/internal/version.py")["VERSION"])')"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

# warnings are errors, and so are names and links that lead nowhere
docs: $(VENV)/.docs
	$(PIP) install --no-deps --force-reinstall .
	mkdir -p docs/_build
	rm -f docs/_build/explorer.html
	$(BIN)/emalign explore --no-open --out docs/_build/explorer.html || echo "the site has no explorer"
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -q -E -b html -n -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-execute:
	EMALIGN_DOCS_EXECUTE=1 $(MAKE) docs

benchmark: $(VENV)/.test
	$(PIP) install --no-deps --force-reinstall .
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist docs/_build docs/gallery
