# `make demo` and `make test` do all of their own set-up: they create .venv once and reuse it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-all tensorrt-cpu lint format typecheck clean

demo: $(VENV)/.ready
	$(BIN)/memvp-export demo demo-out --overwrite

test: $(VENV)/.ready tensorrt-cpu lint typecheck
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/.ready tensorrt-cpu lint typecheck
	$(BIN)/pytest -n 2 --dist loadfile

# Builds engines without a GPU. Where it cannot be had, the tests that need it are skipped; in CI this fails.
tensorrt-cpu: $(VENV)/.ready
	$(BIN)/python tests/install_tensorrt_cpu.py $(VENV)/tensorrt-cpu

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The packages lie in the top folder: mypy sees them as memvp_export through a link.
typecheck: $(VENV)/.ready
	@mkdir -p .typecheck && ln -sfn .. .typecheck/memvp_export
	cd .typecheck && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml \
	  -p memvp_export.calibration -p memvp_export.exporter -p memvp_export.plugins -p memvp_export.examples -m memvp_export.cli

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .typecheck .mypy_cache .ruff_cache .pytest_cache demo-out build *.egg-info
