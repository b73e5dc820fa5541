# modelrack: `make run` starts a server with a small real model; `make` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONPATH

# The first Python that is new enough; PYTHON=... on the command line wins.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14,$(shell $(p) -c 'import sys; sys.version_info < (3, 11) or print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

PROJECTS := $(wildcard plugins/*/pyproject.toml)
PLUGINS := $(PROJECTS:/pyproject.toml=)
PACKAGES := $(wildcard plugins/*/modelrack_*)
TESTED := $(patsubst %/,%,$(sort $(dir $(wildcard plugins/*/tests/*.py))))
EXTRA := $(wildcard bench scripts)

.PHONY: help setup run test lint format bench docs links clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev links ## Make .venv with the core, its plugins and the tools of development
	@echo "Ready: $(BIN)/modelrack --help"

run: $(VENV)/.run ## Start a server with the model demo-chat and ask it a question (PORT=9997)
	@exec $(BIN)/python scripts/run_demo.py $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev links ## Run every test (ARGS="-k name -x" go to pytest)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev links ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@if grep -rnE --include='*.py' '^[[:space:]]*(from|import) core([.[:space:]]|$$)' core plugins tests $(EXTRA); then echo 'Import `modelrack`; `core` is only the folder it lies in.' >&2; exit 1; fi
	@$(BIN)/mypy build/typing tests $(EXTRA) | sed -e 's#^build/typing/modelrack/#core/#'
	@for folder in $(TESTED); do echo "$$folder:"; MYPYPATH="$$folder" $(BIN)/mypy "$$folder"; done

format: $(VENV)/.dev ## Mend what lint can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure, and print the figures of docs/performance.md
	@for script in gateway end_to_end footprint; do echo "== bench/$$script.py"; $(BIN)/python bench/$$script.py; done

docs: $(VENV)/.dev links ## Check the documentation: links, hook sections, settings, every code block
	@$(BIN)/python -m pytest tests/docs tests/repo/test_docs.py $(ARGS)

clean: ## Remove what make made: .venv, build, caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Type checkers and editors find `modelrack` and the plugins' packages under build/typing.
links:
	@mkdir -p build/typing
	@ln -sfn ../../core build/typing/modelrack
	@for package in $(PACKAGES); do ln -sfn "../../$$package" "build/typing/$${package##*/}"; done

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "modelrack needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info < (3, 11) and sys.exit("modelrack needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (PYTHON=...).")'
	@echo "Making $(VENV) ($$("$(PYTHON)" --version)) ..."
	@"$(PYTHON)" -m venv $(VENV)

# Builds need no isolation: the build requirement is put into the environment once instead of once for each project.
$(VENV)/.run: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt $(PROJECTS)
	@echo "Installing modelrack and its plugins ..."
	@$(PIP) install -c constraints.txt "setuptools>=77"
	@$(PIP) install -c constraints.txt --no-build-isolation -e . $(addprefix -e ./,$(PLUGINS))
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the tools of development ..."
	@$(PIP) install -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@
