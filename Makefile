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
# A plugin that says `heavy = true` under [tool.modelrack] depends on what is compiled, or contradicts what others depend on. VENV holds
# it without its dependencies; with them, it has an environment of its own. ONLY="name ..." chooses among these.
HEAVY := $(patsubst %/pyproject.toml,%,$(shell grep -lx 'heavy = true' $(PROJECTS) </dev/null))
LIGHT := $(filter-out $(HEAVY),$(PLUGINS))
ENGINES := .venv-engines
ONLY ?= $(notdir $(HEAVY))
PACKAGES := $(wildcard plugins/*/modelrack_*)
TESTED := $(patsubst %/,%,$(sort $(dir $(wildcard plugins/*/tests/*.py))))
EXTRA := $(wildcard bench scripts)

.PHONY: help setup run test test-engines lint format bench docs links clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev links ## Make .venv with the core, its plugins and the tools of development
	@echo "Ready: $(BIN)/modelrack --help"

run: $(VENV)/.run ## Start a server with the model demo-chat and ask it a question (PORT=9997)
	@exec $(BIN)/python scripts/run_demo.py $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev links ## Run every test (ARGS="-k name -x" go to pytest)
	@$(BIN)/python -m pytest $(ARGS)

# A summary for each run; the exit status is that of the last run that failed.
test-engines: $(ONLY:%=$(ENGINES)/%/.ready) links ## Test the plugins whose engines are compiled, each in its own environment (ARGS, ONLY="name ...")
	@status=0; for name in $(ONLY); do \
	  echo "plugins/$$name, in $(ENGINES)/$$name:"; \
	  $(ENGINES)/$$name/bin/python -m pytest plugins/$$name/tests $(ARGS) || status=$$?; \
	done; exit $$status

lint: $(VENV)/.dev links ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@if grep -rnE --include='*.py' '^[[:space:]]*(from|import) core([.[:space:]]|$$)' core plugins tests $(EXTRA); then echo 'Import `modelrack`; `core` is only the folder it lies in.' >&2; exit 1; fi
	@$(BIN)/mypy build/typing tests $(EXTRA) | sed -e 's#^build/typing/modelrack/#core/#'
	@for folder in $(TESTED); do echo "$$folder:"; MYPYPATH="$$folder" $(BIN)/mypy "$$folder"; done

format: $(VENV)/.dev ## Mend what lint can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev $(ENGINES)/llm_gguf/.ready ## Measure, and print the figures of docs/performance.md
	@for script in gateway end_to_end footprint; do echo "== bench/$$script.py"; $(BIN)/python bench/$$script.py; done
	@echo "== bench/llm_engines.py"; $(ENGINES)/llm_gguf/bin/python bench/llm_engines.py

docs: $(VENV)/.dev links ## Check the documentation: links, hook sections, settings, every code block
	@$(BIN)/python -m pytest tests/docs tests/repo/test_docs.py $(ARGS)

clean: ## Remove what make made: .venv, .venv-engines, build, caches
	rm -rf $(VENV) $(ENGINES) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Type checkers and editors find `modelrack` and the plugins' packages under build/typing.
links:
	@mkdir -p build/typing
	@ln -sfn ../../core build/typing/modelrack
	@for package in $(PACKAGES); do ln -sfn "../../$$package" "build/typing/$${package##*/}"; done

# Environments are made by the chosen Python, and only by one that is new enough.
define make_environment
	@test -n "$(PYTHON)" || { echo "modelrack needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info < (3, 11) and sys.exit("modelrack needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (PYTHON=...).")'
	@echo "Making $(@D) ($$("$(PYTHON)" --version)) ..."
	@"$(PYTHON)" -m venv $(@D)
endef

$(VENV)/pyvenv.cfg:
	$(make_environment)

# Builds need no isolation: the build requirement is put into the environment once instead of once for each project. That heavy
# plugins lack their dependencies is meant, and no conflict to warn of.
$(VENV)/.run: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt $(PROJECTS)
	@echo "Installing modelrack and its plugins ..."
	@$(PIP) install -c constraints.txt "setuptools>=77"
	@$(PIP) install -c constraints.txt --no-build-isolation --no-warn-conflicts -e . $(addprefix -e ./,$(LIGHT))
	@$(if $(HEAVY),$(PIP) install --no-deps --no-build-isolation $(addprefix -e ./,$(HEAVY)))
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the tools of development ..."
	@$(PIP) install -c constraints.txt --no-build-isolation --no-warn-conflicts -e ".[dev]"
	@touch $@

$(ENGINES)/%/pyvenv.cfg:
	$(make_environment)

# What is compiled names its own build requirements, so this build is isolated; pip says each minute that it is still at it, and
# keeps the wheel in its cache. CMAKE_ARGS choose the accelerator, as users do it.
$(ENGINES)/%/.ready: $(ENGINES)/%/pyvenv.cfg pyproject.toml constraints.txt $(PROJECTS)
	@echo "Installing plugins/$* and its dependencies; what has to be compiled takes some minutes ..."
	@CMAKE_BUILD_PARALLEL_LEVEL="$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(getconf _NPROCESSORS_ONLN)}" \
	  $(@D)/bin/python -m pip --disable-pip-version-check install --progress-bar off -c constraints.txt -e . -e ./plugins/$*
	@echo "Installing the other plugins and the tools of development ..."
	@$(@D)/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt "setuptools>=77"
	@$(@D)/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt --no-build-isolation \
	  -e ".[dev]" $(addprefix -e ./,$(LIGHT))
	@$(@D)/bin/python -m pip --disable-pip-version-check check
	@touch $@

.PRECIOUS: $(ENGINES)/%/pyvenv.cfg
