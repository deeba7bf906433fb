# make run    everything that is needed, then LeNet-5 on the built-in digits
# make test   everything that tests need, then all of them (under 15 minutes on two cores)
# make check  format, lint, types, import direction
# make bench  speed against the ordinary training loop, quick form
# make proofs the long proofs: 400 kills, 10,000 mutated files for each format, the largest networks

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check bench proofs clean

run: $(VENV)/.installed
	$(BIN)/convworks train digits --model lenet5 --epochs 40

# In the order of tests/conftest.py. By their number of tests, long files came last, for one process alone.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not proof"

check: $(VENV)/.installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_floors.py

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/train_speed.py --quick

proofs: $(VENV)/.installed-test
	$(BIN)/python -m tests.faults.kill --points 200
	$(BIN)/python -m tests.faults.kill --points 200 --of transfer
	$(BIN)/python -m tests.data.fuzz --files 10000
	$(BIN)/python -m pytest -m proof

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "convworks needs Python 3.11 or newer: make run PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

# torchvision is an oracle in tests, never a dependency: without it those tests are skipped, and in CI they fail.
# It comes without its own dependencies, which would replace the installed torch by another build.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	-$(PIP) --no-deps torchvision
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-check: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test,check]'
	-$(PIP) --no-deps torchvision
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
