# Each target does its own set-up. `make demo` and `make test` are all a newcomer needs.

VENV := .venv
PYTHON := $(VENV)/bin/python
SEED ?= 1
RUNS ?= 20000
# On cgroup v2 a sandbox needs a delegated group that it shares with nobody, not even make.
SCOPE := sh examples/scope.sh

.PHONY: demo test lint bench fuzz kernels clean

demo: $(VENV)/ready
	$(SCOPE) $(VENV)/bin/sandbox doctor
	$(SCOPE) $(PYTHON) examples/quickstart.py

test: $(VENV)/ready
	sh examples/runtimes.sh
	$(SCOPE) $(VENV)/bin/pytest

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(CC) -std=gnu11 -O2 -Wall -Wextra -Wshadow -Wvla -Werror -fsyntax-only worker/native/*.c

bench: $(VENV)/ready
	$(SCOPE) $(PYTHON) benchmarks/run.py

fuzz: $(VENV)/ready
	$(PYTHON) fuzz/fuzz_wire.py --runs $(RUNS) --seed $(SEED)
	$(PYTHON) fuzz/fuzz_requests.py --runs $(RUNS) --seed $(SEED)
	$(PYTHON) fuzz/fuzz_policy.py --runs $(RUNS) --seed $(SEED)

# The suite on other kernels, under user-mode Linux (root only, no KVM needed).
kernels: $(VENV)/ready
	$(PYTHON) tests/kernels/suite.py

$(VENV)/ready: pyproject.toml setup.py examples/setup.sh $(wildcard worker/native/*)
	sh examples/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) worker/_native.abi3.so build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .kernels
