# Everything runs in .venv, which is made from requirements-dev.txt when it is missing or older than that lock.
# Needed: Python 3.11 or later, git, make.   make help   lists what there is.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
COMPILED := build/compiled
ARGS ?=
STORIES ?= 50

# once it has been built, the compiled form is what runs; it is built anew when a source has changed
ifneq ($(wildcard $(COMPILED)/.made),)
RUNNING := $(COMPILED)/.made
serve bench soak reloads: export PYTHONPATH := $(CURDIR)/$(COMPILED)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

.PHONY: serve
serve: $(STAMP) $(RUNNING) ## run the server with the Lua sample script; more options: make serve ARGS="--listen udp:127.0.0.1:5070"
	@$(BIN)/polykemi serve --engine lua routes/lua/basic.lua $(ARGS)

.PHONY: compile
compile: $(COMPILED)/.made ## build the compiled form (a C compiler is needed); `make serve` runs it from then on

.PHONY: test
test: $(STAMP) ## run the tests; some of them: make test ARGS="tests/test_cli.py -k version"
	$(BIN)/pytest --ignore=tests/oracle $(ARGS)

.PHONY: oracle
oracle: $(STAMP) ## play the cases on Kamailio (5.6, installed) and on polykemi, and compare; some: make oracle ARGS="-k tmx"
	$(BIN)/pytest tests/oracle $(ARGS)

.PHONY: testcompiled
testcompiled: $(COMPILED)/.made ## run the tests on the compiled form
	PYTHONPATH=$(CURDIR)/$(COMPILED) PYTHONSAFEPATH=1 $(BIN)/pytest --ignore=tests/oracle -o pythonpath="$(COMPILED) ." $(ARGS)

.PHONY: reloads
reloads: $(STAMP) $(RUNNING) ## reload good and broken scripts under load, in each language; nobody may notice
	@$(BIN)/python -m bench.reloads $(ARGS)

.PHONY: stories
stories: $(STAMP) ## play some hundred calls over bad links, and one through thousands of sequences of events; minutes
	POLYKEMI_STORIES=$(STORIES) $(BIN)/pytest tests/modules/test_tm_link.py tests/modules/test_tm_stories.py $(ARGS)

.PHONY: kills
kills: $(STAMP) ## kill -9 a server under load, 50 times: nothing that was confirmed is lost; more: make kills ARGS="--rounds 200"
	$(BIN)/python -m tests.e2e.kills $(ARGS)

.PHONY: lint
lint: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint test ## what has to pass before a change goes in: lint and test

.PHONY: bench
bench: $(STAMP) $(RUNNING) ## measure the server, and Kamailio beside it where it is installed; options: make bench ARGS=--help
	$(BIN)/python -m bench $(ARGS)

.PHONY: micro
micro: $(STAMP) ## time the parts: parser, digest, storage, a KSR call; some of them: make micro ARGS="-k uri"
	$(BIN)/pytest bench/micro --benchmark-max-time=0.4 --benchmark-sort=name --benchmark-columns=median,iqr,min,rounds $(ARGS)

.PHONY: guard
guard: $(STAMP) ## count the instructions of the REGISTER path, and fail when they have grown; make guard ARGS=--update
	$(BIN)/python -m bench.guard $(ARGS)

.PHONY: scale
scale: $(STAMP) ## measure what a million contacts and 10,000 open calls cost; options through ARGS
	$(BIN)/python bench/scale.py $(ARGS)

.PHONY: soak
soak: $(STAMP) $(RUNNING) ## mixed load for ten minutes: nothing leaks, nothing is stuck; longer: make soak ARGS="--minutes 60"
	$(BIN)/python -m bench.soak $(ARGS)

.PHONY: reference
reference: $(STAMP) ## write docs/reference anew from the sources
	$(BIN)/python -m polykemi.reference

.PHONY: fuzz
fuzz: $(STAMP) ## change messages until something breaks: a running server, then the parsers; longer: make fuzz ARGS="--seconds 600"
	$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: format
format: $(STAMP) ## format the sources and repair what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(STAMP) ## write the locks anew; newer versions: make lock ARGS=--upgrade
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --output-file requirements.txt $(ARGS) pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --output-file requirements-dev.txt $(ARGS) \
		--extra dev --extra peers --allow-unsafe --constraint requirements.txt pyproject.toml

# no registry's name and no path of this machine goes into a lock; extras stay, or an old pip takes the newest
# coverage[toml] for one that is not pinned
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: clean
clean: ## remove what make and the tools made, .venv too
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks .coverage dist
	find polykemi tests bench routes -name __pycache__ -type d -prune -exec rm -rf {} +

$(COMPILED)/.made: $(STAMP) hatch_build.py $(shell find polykemi -name '*.py' -o -name '*.lua' -o -name '*.js')
	@command -v $${CC:-cc} >/dev/null || { echo "make compile needs a C compiler (Debian: gcc libc6-dev)"; exit 2; }
	@echo "compiling into $(COMPILED), this takes a minute or two ..."
	@rm -rf build
	@POLYKEMI_COMPILE=1 $(BIN)/python -m hatchling build --target wheel --directory build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) build/*.whl
	@touch $@

$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polykemi needs Python 3.11 or later; say which: make PYTHON=...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
