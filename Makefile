# Two commands: `make run` serves on 127.0.0.1:8080, `make test` checks everything. Neither needs root or a service.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Not for this machine's processor alone, and without the parts for pictures.
BUILD_GGUF = { echo 'Building llama.cpp for local models: some minutes, the first time.' \
    && c++ --version >/dev/null \
    && CMAKE_ARGS='-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF' $(BIN)/python -m pip install --editable '.[gguf]'; }

.PHONY: run run-local test install dev lint types unit bench bench-gguf clean
run: $(VENV)/.installed
	$(BIN)/gatehook serve

# A real model, without a key and without a download: 660 kB that greet, know three capitals and call a tool.
run-local: $(VENV)/.dev
	GATEHOOK_PLUGINS__VENDOR_GGUF__ENABLED=true GATEHOOK_PLUGINS__VENDOR_GGUF__MODELS_DIR=tests/models $(BIN)/gatehook serve

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
	$(BIN)/python -c 'import llama_cpp' 2>/dev/null || $(BUILD_GGUF) \
	    || echo 'Local models are left out: llama.cpp cannot be built here (on Debian and Ubuntu: apt install g++); their tests are skipped.' >&2
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# One file's tests stay in one process; the long ones of tests/contrib are begun early, as files are taken in their order.
unit: $(VENV)/.dev
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# PEERS=all takes along those gateways of others that are installed; see tests/bench/run.py.
bench: $(VENV)/.dev
	$(BIN)/python tests/bench/start.py
	$(BIN)/python tests/bench/run.py $(if $(PEERS),--peers '$(PEERS)')

bench-gguf: $(VENV)/.dev
	$(BIN)/python -c 'import uvicorn, sse_starlette' 2>/dev/null || $(BIN)/python -m pip install --quiet 'llama-cpp-python[server]'
	$(BIN)/python tests/bench/gguf.py

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .hypothesis
