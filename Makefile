# `make` sets everything up, runs the main job and prints where its page is.
#
#   make PYTHON=python3.12   use another interpreter (3.11 or newer) for .venv
#   make UV=                 install with pip even where uv is present

PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)

VENV := .venv
PY := $(VENV)/bin/python
VERSION_OF := -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'
PYTHON_VERSION := $(shell $(PYTHON) $(VERSION_OF) 2>/dev/null)
# The interpreter's version is part of the stamp's name: another one, another setup.
STAMP := $(VENV)/.stamp-$(PYTHON_VERSION)

PYTEST := $(PY) -m pytest -n 2 --dist loadfile --durations=20
FAST := not slow and not long
SLOW := slow and not long

# Compiled programs are kept between runs, the small ones too: most of a test is the compilation of small programs.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.DEFAULT_GOAL := all
.PHONY: all setup setup-pods test test-fast test-slow test-long lint format tiny docs audit clean

all: setup
	$(PY) -m papers nash-md
	@echo "$(CURDIR)/out/index.html"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON_VERSION)" || { \
	  echo "error: '$(PYTHON)' does not run; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is Python $(PYTHON_VERSION), but 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@if [ "$$($(PY) $(VERSION_OF) 2>/dev/null)" != "$(PYTHON_VERSION)" ]; then \
	  echo "creating $(VENV) with Python $(PYTHON_VERSION)"; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) || { \
	    rm -rf $(VENV); echo "error: '$(PYTHON) -m venv' failed; is its venv module installed?" >&2; exit 1; }; \
	fi
	@echo "installing the pinned dependencies into $(VENV); the first time this takes about a minute"
	@install_with_uv() { \
	  test -n "$(UV)" && \
	  "$(UV)" pip install -q --python $(PY) -c constraints.txt setuptools wheel && \
	  "$(UV)" pip install -q --python $(PY) -c constraints.txt --no-build-isolation -e '.[dev]'; }; \
	install_with_pip() { \
	  $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt setuptools wheel && \
	  $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'; }; \
	install_with_uv || install_with_pip
	@rm -f $(VENV)/.stamp-*
	@touch $@

# libtpu (200 MB), so that `python -m tpu plan` compiles for TPU slices that are not here. Other scripts do not notice it.
setup-pods: setup
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt 'jax[tpu]'
	@$(PY) -c 'import libtpu; print("libtpu", libtpu.__version__)'

# The tests want eight virtual CPU devices, whatever else the machine has.
test test-fast test-slow test-long: export JAX_PLATFORMS := cpu

test: setup
	$(PYTEST) -m "$(FAST)"
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PYTEST) -m "$(SLOW)"

test-fast: setup
	$(PYTEST) -m "$(FAST)"

test-slow: setup
	$(PYTEST) -m "$(SLOW)"

# Optimised programs (see tests/conftest.py). Status 5 means that no test bears the mark.
test-long: export ALIGNJAX_TEST_OPTIMISED := 1
test-long: setup
	$(PYTEST) -m "long" || test $$? -eq 5

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: setup
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# The built-in tiny model: warmed up, trained with DPO, evaluated beside its reference, and asked.
tiny: setup
	$(PY) -m tpu train --method sft --model tiny --data tpu/examples/unpaired.jsonl --steps 200 --lr 0.005 --out out/sft --overwrite
	$(PY) -m tpu train --method dpo --model out/sft --data tpu/examples/pairs.jsonl --steps 50 --lr 0.0001 --out out/tiny --overwrite
	$(PY) -m tpu eval --model out/tiny out/sft --reference out/sft --data tpu/examples/pairs.jsonl \
	  --num-prompts 16 --max-new-tokens 32
	$(PY) -m tpu generate --model out/tiny --prompt "Please add 5 and 10." --max-new-tokens 32

docs: setup
	$(PY) -m papers docs

# Every method times every property: about five minutes.
audit: setup
	$(PY) -m theory audit all --docs

clean:
	rm -rf $(VENV) .cache out build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
