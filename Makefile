# Finery, from a clean checkout. Needed: Python 3.11, git, make. `make demo` and `make test` are all a newcomer types.
PYTHON ?= python3
VENV := .venv
FINERY := $(VENV)/bin/finery
ML := .engines/ml/bin/python
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
STAMP := $(VENV)/.installed
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
LOCK := libs/finery_kit/locks/control.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint schemas simulate bench chaos clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and the engine environment; done already is done at once
	@$(FINERY) engines install ml

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Finery needs Python 3.11; say PYTHON=… to make")'
	@echo "control plane: making $(VENV)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "control plane: installing what $(LOCK) pins"
	@$(PIP) -r $(LOCK)
	@$(PIP) --no-deps -e .
	@touch $@

demo: setup ## the main job: data to a tuned, evaluated, called model
	@$(FINERY) demo

test: setup ## all tests, the quick ones first; WORKERS=2 run them
	$(VENV)/bin/python $(PYTEST) tests/architecture tests/contracts tests/kit tests/services tests/cli
	$(VENV)/bin/python $(PYTEST) tests/flows tests/e2e
	$(VENV)/bin/python -m pytest tests/chaos tests/simulation
	$(ML) $(PYTEST) tests/engines

quick: setup ## the tests that take seconds
	$(VENV)/bin/python $(PYTEST) tests/architecture tests/contracts tests/kit tests/services tests/cli

lint: setup ## style, types, import rules, schema drift
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python -m finery.render_api --check

schemas: setup ## render contracts/schemas and the catalogue anew
	$(VENV)/bin/python -m finery.render_api

simulate: setup ## the event-driven heart under simulated faults, and planted bugs; SEEDS=10000
	@$(VENV)/bin/python -m tests.simulation --seeds $(or $(SEEDS),10000)

bench: setup ## figures, one line each, last of all; NAME=… for one
	@$(VENV)/bin/python -m tests.bench $(NAME)

chaos: setup ## kill everything at random, KILLS=1000 times; SEED= repeats a schedule, DATABASE=sqlite or postgres
	@$(VENV)/bin/python -m tests.chaos --kills $(or $(KILLS),1000) $(if $(SEED),--seed $(SEED)) --database $(or $(DATABASE),both)

clean: ## remove the environments and the demo's state
	rm -rf $(VENV) .engines .finery-demo
