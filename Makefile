# Two commands matter: `make paper` (set up and trade on a venue of this machine) and `make test` (set up and test).
# Options travel in ARGS:  make paper ARGS="--seconds 60 --json"

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys,venv,ensurepip; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' \
  >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RIVAL := .venv-rival
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary=:all: --no-deps
ARGS ?=

.PHONY: setup paper venue test test-long lint bench docs rival lock clean
.SILENT:

setup: $(VENV)/.ready

$(VENV)/.python:
	test -n "$(PYTHON)" || { echo "mmjax needs Python 3.11, 3.12 or 3.13 with venv: install one, or set PYTHON=/path/to/python" >&2; exit 2; }
	echo "setup: creating $(VENV) with $(PYTHON)" >&2
	$(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/.ready: $(VENV)/.python requirements.lock pyproject.toml
	start=$$(date +%s); echo "setup: installing locked wheels (a minute or two the first time)" >&2; \
	$(PIP) -r requirements.lock && \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e . && \
	touch $@ && echo "setup: done in $$(($$(date +%s) - start)) s" >&2

$(VENV)/.ready-test: $(VENV)/.ready requirements-test.lock
	start=$$(date +%s); echo "setup: installing locked test tools" >&2; \
	$(PIP) -r requirements-test.lock && touch $@ && echo "setup: done in $$(($$(date +%s) - start)) s" >&2

$(VENV)/.ready-docs: $(VENV)/.ready requirements-docs.lock
	start=$$(date +%s); echo "setup: installing locked drawing tools" >&2; \
	$(PIP) -r requirements-docs.lock && touch $@ && echo "setup: done in $$(($$(date +%s) - start)) s" >&2

paper: setup
	$(BIN)/mmjax paper $(ARGS)

venue: setup
	$(BIN)/mmjax venue $(ARGS)

test: $(VENV)/.ready-test
	start=$$(date +%s); echo "test: running the suite" >&2; \
	$(BIN)/python -m pytest -q -m "not long" -n auto --maxprocesses 4 --dist loadfile $(ARGS) && echo "test: passed in $$(($$(date +%s) - start)) s" >&2

test-long: $(VENV)/.ready-test
	$(BIN)/python -m pytest -q -m long $(ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: setup
	for name in step_latency device_parity frame_to_wire fast_clock startup venue sweep; do $(BIN)/python -m benchmarks.$$name --json; done

# hftbacktest, to compare with, in an environment of its own; then `python -m benchmarks.rival SRC`.
rival: $(RIVAL)/.ready

$(RIVAL)/.ready: requirements-rival.lock
	test -n "$(PYTHON)" || { echo "mmjax needs Python 3.11, 3.12 or 3.13 with venv: install one, or set PYTHON=/path/to/python" >&2; exit 2; }
	start=$$(date +%s); echo "setup: creating $(RIVAL) and installing locked wheels" >&2; \
	$(PYTHON) -m venv $(RIVAL) && $(subst $(BIN)/,$(RIVAL)/bin/,$(PIP)) -r requirements-rival.lock && \
	touch $@ && echo "setup: done in $$(($$(date +%s) - start)) s" >&2

docs: $(VENV)/.ready-docs
	$(BIN)/python -m benchmarks.market_realism --draw $(ARGS)

lock: $(VENV)/.python
	$(BIN)/python -m pip --disable-pip-version-check install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-annotate --no-header --output-file=requirements.lock requirements.in
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-annotate --no-header --output-file=requirements-test.lock requirements-test.in
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-annotate --no-header --output-file=requirements-docs.lock requirements-docs.in
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-annotate --no-header --output-file=requirements-rival.lock requirements-rival.in

clean:
	rm -rf $(VENV) $(RIVAL)
