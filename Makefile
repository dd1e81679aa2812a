# Everything runs in .venv, which the first target that needs it makes; `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq -c constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

# Stamps: what .venv holds. They are made again when what they were made from is newer.
VENV := .venv/.made
RUN := .venv/.installed
DEV := .venv/.installed-dev
SOURCES := pyproject.toml constraints.txt src/offramp/version.py

.DEFAULT_GOAL := help
.PHONY: help demo test fix check bench docs

help:  ## list the targets
	@echo "make TARGET [PYTHON=python3.12]   (the Python that makes .venv, 3.11 or newer)"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-6s %s\n", $$1, $$2 }' Makefile

demo: $(RUN)  ## fetch the small default model once and show what an exit is for
	@$(BIN)/python examples/demo.py

# Checking the types and shapes of every call takes these folders thrice the time, and they run whole
# programs and long loops; the code under them is checked so by all the others.
UNCHECKED := tests/cli tests/decoding tests/fuzz tests/scale tests/server

test: check  ## all of check, then every test: what CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 $(UNCHECKED:%=--ignore=%)
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 --jaxtyping-packages= $(UNCHECKED)

fix: $(DEV)  ## format, and repair what the linter can repair
	@status=0; $(BIN)/ruff check --fix . || status=$$?; $(BIN)/ruff format . && exit $$status

check: $(DEV)  ## formatting, lint, types, import layers, documentation; no tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "mkdocs build --strict"  # not --quiet: that silences the warnings which strict counts
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && \
		$(BIN)/mkdocs build --strict --site-dir "$$site"

bench: $(RUN)  ## measure contrast against plain decoding on this machine
	@$(BIN)/python benchmarks/contrast.py

docs: $(DEV)  ## build the documentation: open site/index.html
	@$(BIN)/mkdocs build --strict --site-dir site

# A Python without ensurepip (Debian without python3-venv) lends its own pip for the first install.
$(VENV):
	@command -v $(PYTHON) > /dev/null || \
		{ echo "offramp needs Python 3.11 or newer, but there is no $(PYTHON); try: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("offramp needs Python 3.11 or newer, but $(PYTHON) is %d.%d; try: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@if $(PYTHON) -c 'import ensurepip' 2> /dev/null; then $(PYTHON) -m venv .venv; else \
		$(PYTHON) -m venv --without-pip .venv && \
		$(PYTHON) -m pip --python $(BIN)/python install -qq pip; fi
	@touch $@

$(RUN): $(VENV) $(SOURCES)
	@echo "installing offramp into .venv (minutes the first time, nothing after that)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV): $(VENV) $(SOURCES)
	@echo "installing offramp and its development tools into .venv (minutes the first time, nothing after that)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(RUN) $@
