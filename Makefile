# Every target sets up what it needs; nothing is installed outside .venv.
PYTHON ?= python3
UV_VERSION := 0.13.9
SEEDS ?= 20
BIN := .venv/bin

.PHONY: demo test test-all lint format bench bench-merge chaos hosts oracle lock clean-venv
.DEFAULT_GOAL := help
ORACLE := .venv-oracle

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Compiled at once: where PYTHONDONTWRITEBYTECODE is set, every process would compile torch anew, for
# 3.4 of the 5.9 CPU-seconds that its import then takes.
.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "mergesweep needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes \
	  -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The peers, in an environment of their own: nothing of the project depends on them.
$(ORACLE)/ready: .venv/ready tests/oracle/requirements.txt
	$(PYTHON) -m venv $(ORACLE)
	$(BIN)/uv pip install --quiet --python $(ORACLE)/bin/python --compile-bytecode --require-hashes \
	  -r tests/oracle/requirements.txt
	@touch $@

demo: .venv/ready  ## Run a real study on real data (deploy/studies/demo.yaml)
	$(BIN)/mergesweep run deploy/studies/demo.yaml

test: .venv/ready  ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-all: .venv/ready  ## Run the tests, and those that take minutes each
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder \
	  -m "large or not large"

lint: .venv/ready  ## Check style, types, floors and sizes; never rewrites
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/lint/house_rules.py

format: .venv/ready  ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready  ## Measure figures of docs/benchmarks.md
	$(BIN)/python tests/benchmarks/run_all.py

bench-merge: .venv/ready $(ORACLE)/ready  ## Measure merging beside the peers; MERGE="--experts 8" for options
	$(BIN)/python tests/benchmarks/merge_speed.py $(MERGE)

oracle: .venv/ready $(ORACLE)/ready  ## Check the merging methods against the peers' own
	$(BIN)/python -m pytest -o "pythonpath=tests/oracle tests/support" \
	  tests/oracle/check_peers.py tests/oracle/check_scores.py

chaos: .venv/ready  ## Kill the parts of a real study, compare how it ends; SEEDS=20 times
	$(BIN)/python tests/chaos/chaos.py --seeds $(SEEDS)

hosts: .venv/ready  ## Submit a study to three hosts, as root; one is cut off, the head dies
	$(BIN)/python tests/chaos/across_hosts.py

lock: .venv/ready  ## Pin the dependencies again, with hashes and without addresses
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" -c requirements.txt tests/oracle/requirements.in \
	  -o tests/oracle/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" -c requirements-dev.txt docker/requirements-mlflow.in \
	  -o docker/requirements-mlflow.txt
