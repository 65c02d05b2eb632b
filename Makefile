# Everything runs in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --disable-pip-version-check --quiet --no-compile
# pip works on one core, so two of them install the locked packages and this one, 45 at a time.
INSTALL = (cat $< && echo -e.) | xargs -d '\n' -n 45 -P 2 $(PIP) --no-deps
# Only for the tests: modules compile themselves when they are first imported, but each process of the tests would do it.
RARE := .*/tests/|torch/(_inductor|ao|testing)/|transformers/models/|onnxruntime/(quantization|tools|transformers)/
RARE := $(RARE)|(cfnlint|future|graphql|moto|mypy|mypyc|networkx|pip|pyroute2|setuptools)/
COMPILE := $(VENV)/bin/python -m compileall -qq -j 0 -x 'site-packages/($(RARE))' $(VENV)/lib || true
LVR := $(VENV)/bin/lvr
OUT ?= .demo

# Deployment machines may forbid byte-code; Airflow starts twice as fast with it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo ui test check lock clean libgomp

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

setup: $(VENV)/.run ## Install what building needs: the pipeline, Airflow, the embedded models
demo: $(VENV)/.run ## Build a dataset from demo films, under a real Airflow
	$(LVR) demo --out $(OUT)

ui: $(VENV)/.run ## Keep Airflow up on 127.0.0.1; prints address, user and password
	$(LVR) ui

# Three at a time on two cores: many tests wait, for an Airflow to start or for a process to end.
test: $(VENV)/.dev ## Run the tests
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## Lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --num-workers 2

lock: ## Resolve the lock files in requirements/ again (needs uv)
	bash requirements/lock.sh

clean: ## Remove what the demo and Airflow wrote; the environment stays
	rm -rf $(OUT) .airflow

# llama.cpp is linked against the OpenMP runtime, which no wheel carries; most machines have it with their compiler.
libgomp:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq libgomp1; } || \
	  { echo "libgomp.so.1 is missing: sudo apt install libgomp1" >&2; exit 1; }

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv --upgrade-deps $(VENV) # Python 3.11's own pip takes twice as long

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python libgomp
	$(INSTALL)
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/torch.txt pyproject.toml | $(VENV)/bin/python libgomp
	$(INSTALL)
	$(PIP) -r requirements/torch.txt
	$(COMPILE)
	@touch $@ $(VENV)/.run
