# Two commands for a fresh clone: `make demo` and `make test`. Both set up `.venv` first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-machines lint types docs results benchmark clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hyperrep needs Python 3.11 or newer; set PYTHON=python3.12, say."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## the whole story on the digits that ship in scikit-learn, in minutes on a CPU
	$(BIN)/python scripts/demo.py --output demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest -m 'not slow' -n 2 --dist loadfile

test-machines: setup  ## the tests as other processors would run them, one after the other
	scripts/check_machines.sh

docs: setup  ## the pages of docs/ and a reference made from the docstrings, into site/
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

results: setup  ## the numbers of the README and the cards, from the result files in model_cards
	$(BIN)/python scripts/fill_results.py

benchmark: setup
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/busy.py
	$(BIN)/python benchmarks/sampling.py

clean:
	rm -rf $(VENV) demo site .mypy_cache .pytest_cache .ruff_cache
