# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`. Both set up the
# environment in .venv first and skip that when nothing changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check bench schema clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): a minute or two, once"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): a minute or two, once"
	$(PIP) -e '.[dev,hf,openvino]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed  ## Compress the model that the package carries and show what it saved.
	$(BIN)/python -m compressor demo

test: lint  ## Check and test everything.
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev  ## Style, types, layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed  ## Measure the suite; hours on a quiet machine.
	$(BIN)/python -m benchmarks

schema: $(VENV)/.installed  ## Write the published JSON Schemas anew.
	$(BIN)/python -m compressor.store.records
	$(BIN)/python -m compressor.recipe

clean:  ## Remove the environment and what the tools left.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
