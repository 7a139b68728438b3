# Each target does its own set-up. `make demo` and `make test` are all a newcomer needs.

VENV := .venv
PYTHON := $(VENV)/bin/python
SEED ?= 1
RUNS ?= 20000

.PHONY: demo test lint bench fuzz kernels clean

demo: $(VENV)/ready
	$(VENV)/bin/sandbox doctor
	$(PYTHON) examples/quickstart.py

test: $(VENV)/ready
	$(VENV)/bin/pytest

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/ready
	$(PYTHON) benchmarks/run.py

fuzz: $(VENV)/ready
	$(PYTHON) fuzz/fuzz_wire.py --runs $(RUNS) --seed $(SEED)
	$(PYTHON) fuzz/fuzz_requests.py --runs $(RUNS) --seed $(SEED)
	$(PYTHON) fuzz/fuzz_policy.py --runs $(RUNS) --seed $(SEED)

# The suite on other kernels, under user-mode Linux (root only, no KVM needed).
kernels: $(VENV)/ready
	$(PYTHON) tests/kernels/suite.py

$(VENV)/ready: pyproject.toml examples/setup.sh
	sh examples/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .kernels
