# Two commands: `make run` serves on 127.0.0.1:8080, `make test` checks everything. Neither needs root or a service.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test install dev lint types unit bench clean
run: $(VENV)/.installed
	$(BIN)/gatehook serve

test: lint types unit

install dev: $(VENV)/.dev

# The stamps are redone when pyproject.toml changes: entry points are a snapshot taken at install time.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Gatehook needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV) \
	    || { rm -rf $(VENV); echo 'Python lacks its venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/pytest

bench: $(VENV)/.dev
	$(BIN)/python tests/bench/run.py

# Local models; takes some minutes.
.PHONY: bench-gguf
bench-gguf: $(VENV)/.dev
	$(BIN)/python tests/bench/gguf.py

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .hypothesis
