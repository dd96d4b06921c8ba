# `make demo` and `make test` install the project into a virtual environment first, when that is missing or out of date.
# VENV names the environment, PYTHON the interpreter it is made from.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test

demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

$(VENV)/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c .ci/constraints.txt -e ".[dev,zoo,plot,render]"
	touch $@
