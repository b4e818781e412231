# Everything runs in .venv, which is made from requirements-dev.txt when it is missing or older than that lock.
# Needed: Python 3.11 or later, git, make.   make help   lists what there is.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

.PHONY: serve
serve: $(STAMP) ## run the server with the Lua sample script; more options: make serve ARGS="--listen udp:127.0.0.1:5070"
	@$(BIN)/polykemi serve --engine lua routes/lua/basic.lua $(ARGS)

.PHONY: test
test: $(STAMP) ## run the tests; some of them: make test ARGS="tests/test_cli.py -k version"
	$(BIN)/pytest $(ARGS)

.PHONY: lint
lint: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint test ## what has to pass before a change goes in: lint and test

.PHONY: bench
bench: $(STAMP) ## measure the server; options through ARGS
	$(BIN)/python bench/run.py $(ARGS)

.PHONY: scale
scale: $(STAMP) ## measure what a million contacts and 10,000 open calls cost; options through ARGS
	$(BIN)/python bench/scale.py $(ARGS)

.PHONY: format
format: $(STAMP) ## format the sources and repair what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(STAMP) ## write the locks anew; newer versions: make lock ARGS=--upgrade
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --output-file requirements.txt $(ARGS) pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --output-file requirements-dev.txt $(ARGS) \
		--extra dev --allow-unsafe --constraint requirements.txt pyproject.toml

# no registry's name and no path of this machine goes into a lock; extras stay, or an old pip takes the newest
# coverage[toml] for one that is not pinned
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: clean
clean: ## remove what make and the tools made, .venv too
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage dist
	find polykemi tests bench routes -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polykemi needs Python 3.11 or later; say which: make PYTHON=...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
