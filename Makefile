# The project's commands. `make run` and `make test` need nothing but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARY := $(VENV)/.library
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# make run TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch from there: on Linux, PyPI has the CUDA build.
TORCH_INDEX ?=
TORCH = $(if $(TORCH_INDEX),@$(INSTALL) torch --index-url $(TORCH_INDEX))

.PHONY: help setup run test test-slow smoke lint types contract data docs clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"expected Python 3.11 or newer, got {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "Making the environment $(VENV)."
	@$(PYTHON) -m venv $(VENV)

# What `make run` needs is installed by itself: no tools for tests, no JAX, no site.
$(LIBRARY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Secateur and what it needs into $(VENV); PyTorch is most of it. Usually two or three minutes."
	$(TORCH)
	@$(INSTALL) -e .
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Secateur with every extra into $(VENV). Usually five to ten minutes."
	$(TORCH)
	@$(INSTALL) -e ".[all]"
	@touch $@ $(LIBRARY)

setup: $(STAMP)  ## Make .venv with every extra, at pinned versions

data:  ## Install Debian's or Ubuntu's Fashion-MNIST package where that is possible
	@sh scripts/install-fashion-mnist.sh

run: $(LIBRARY) data  ## Install the library, then train, prune and report LeNet: five minutes on two cores, after installing
	@$(BIN)/python scripts/first_run.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contract: setup
	$(BIN)/lint-imports

test: lint types contract  ## Lint, types, import contract, tests and doctests
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 -m "not slow and not gpu"
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --doctest-modules src/secateur

test-slow: setup  ## The tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 -m "slow and not gpu"

smoke:  ## Install into a fresh environment of any Python (make smoke PYTHON=python3.13), and check that it works
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" \
	&& "$$folder/bin/pip" install --disable-pip-version-check -q -c constraints.txt . \
	&& cp scripts/smoke.py "$$folder" && cd "$$folder" && bin/python smoke.py

docs: setup  ## Write the site into site/, without a network; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is the first page. Search needs a server: $(BIN)/python -m http.server -d site"

clean:  ## Remove .venv and caches (never runs)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
