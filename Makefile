# Everything runs in an environment of its own, $(VENV), which is built at the first call and whenever what it is
# made from has changed. Needed: Python 3.10 or newer with venv, make and git.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help install train test test-hosts snapshots lint format bench constraints docs clean

help:
	@echo "make train        LASE beside A2C in a sequential social dilemma (a few minutes)"
	@echo "make test         ruff, mypy and the whole test suite"
	@echo "make test-hosts   a cluster of several hosts (network namespaces; needs root): used, cut, torn down; ten minutes"
	@echo "make snapshots    record anew what training comes to, bit for bit, where a change is meant to change it"
	@echo "make bench        the benchmarks, as tables"
	@echo "make docs         the docs site, in site/"
	@echo "make lint         ruff and mypy only;  make format: let ruff mend what it can"
	@echo "make install      only the environment, in $(VENV);  make clean: remove it and all that was built"
	@echo "make constraints  pin the dependencies that setup.cfg has come to name"
	@echo "Another interpreter: PYTHON=python3.12. Another environment: VENV=path. For pytest: PYTEST_ARGS='-k cleanup'."
	@echo "Tests run in two processes; in one, for a debugger: PYTEST_ARGS='-n 0 --pdb'."

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is missing, older than 3.10, or without venv (on Debian: apt install python3-venv)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Building the environment in $(VENV): a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

train: install
	$(BIN)/rllib-empathy tune tune_configs/quickstart.yaml

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-hosts: install
	$(BIN)/python -m pytest -m hosts tests/cluster/test_hosts.py $(PYTEST_ARGS)

snapshots: install
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m tests.snapshots.training --record

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install
	$(BIN)/rllib-empathy bench

docs: install
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The docs site: site/index.html"

constraints: install
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --extra test --extra docs --universal --python-version 3.10 --no-annotate \
	  --custom-compile-command "make constraints" --output-file constraints.txt setup.cfg

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
