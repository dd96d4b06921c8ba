# `make demo` and `make test` install the project into a virtual environment first, when that is missing or out of date.
# VENV names the environment, PYTHON the interpreter it is made from.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test fuzz

demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

# The property tests on inputs that no run before has drawn.
fuzz: $(VENV)/installed
	SPIKELOOP_INPUTS=fuzz $(BIN)/pytest -n 2 -m hypothesis

$(VENV)/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c .ci/constraints.txt -e ".[dev,zoo,plot,render,mujoco,box2d,evolution]"
	touch $@
