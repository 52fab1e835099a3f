# Each target makes its own virtual environment on first use; nothing has to be installed beforehand but Python and make.
#
#   make demo                        build a patch from 50 facts, apply it, show the answers before and after
#   make test PYTEST_ARGS="-k patch" part of the tests
#   make demo PYTHON=python3.12      another interpreter
#   make test TORCH=torch            the newest torch instead of the tested one
#   make test VENV=/tmp/venv         another place for the environment

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRANSFORMERS ?= transformers
PYTEST_ARGS ?=
OUT ?= build/demo

BIN := $(VENV)/bin
FACTS := recipes/facts/50.jsonl
BENCHMARKS = $(patsubst recipes/benchmarks/%.py,%,$(wildcard recipes/benchmarks/[a-z]*.py))

.PHONY: demo test lint bench clean help
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet "$(TRANSFORMERS)" --editable ".[dev]"
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/moe-patch build --edits $(FACTS) --out $(OUT)/50.safetensors
	$(BIN)/moe-patch inspect $(OUT)/50.safetensors
	$(BIN)/moe-patch ask --edits $(FACTS) --limit 10 --max-tokens 5 --patch $(OUT)/50.safetensors
	$(BIN)/moe-patch eval $(OUT)/50.safetensors --edits $(FACTS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m moe_patch_recipes.benchmarks.$$name; \
	done

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
