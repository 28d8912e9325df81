# Everything a newcomer or CI runs. Each target creates .venv when there is none; a second call installs nothing.

PYTHON ?= python3
VENV   ?= .venv
# One thread unless told otherwise: two torch threads on two cores collapse when anything else wants a core.
THREADS ?= 1

BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
INSTALLED := pyproject.toml constraints.txt

DEMO_IMAGE  ?= $(firstword $(sort $(wildcard src/livetalk/assets/portraits/*.png)))
DEMO_AUDIO  ?= src/livetalk/assets/speech/hello.flac
DEMO_OUTPUT ?= output/demo.mp4

.DEFAULT_GOAL := help
.PHONY: help demo test test-processors check lint install install-dev install-eval clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 24

demo: $(VENV)/.core ## a portrait and a sentence in, output/demo.mp4 out
	$(BIN)/livetalk generate --image $(DEMO_IMAGE) --audio $(DEMO_AUDIO) -o $(DEMO_OUTPUT) \
		--preview $(basename $(DEMO_OUTPUT)).png --overwrite

test: $(VENV)/.dev ## the test suite with its coverage
	OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) BIN=$(BIN) scripts/test

test-processors: $(VENV)/.dev ## the numerical tests as other processors run them
	BIN=$(BIN) scripts/test_processors

check: $(VENV)/.dev ## lint, format, types, import contracts, file lengths, asset hashes
	BIN=$(BIN) scripts/check

lint: $(VENV)/.dev ## mend what can be mended by a tool
	BIN=$(BIN) scripts/lint

install: $(VENV)/.core ## the package alone
install-dev: $(VENV)/.dev ## the package with the tools of its developers
install-eval: $(VENV)/.eval ## the package with what `livetalk evaluate` needs

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) scripts/create_venv.py $(VENV)

$(VENV)/.core: $(INSTALLED) | $(BIN)/python
	$(PIP) install -qq --editable .
	@touch $@

$(VENV)/.dev: $(INSTALLED) | $(BIN)/python
	$(PIP) install -qq --editable '.[dev,download,flashtalk]'
	@touch $@ $(VENV)/.core

$(VENV)/.eval: $(INSTALLED) | $(BIN)/python
	$(PIP) install -qq --editable '.[eval]'
	@touch $@ $(VENV)/.core
