# The same words for people and for CI; each is one line to a script or module.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint types proto dashboards chaos test-hostile soak-reward simulate-pods images bench-plane bench-reward test-gpu test-vllm bench-kernels bench-rollout bench-trainer
TEST_JOBS ?= 2
GPU_PYTHON ?= .venv/bin/python
VLLM_PYTHON ?= .venv-vllm/bin/python
VLLM_MARKS ?= not gpu

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: ## Make .venv with everything installed (nothing to do when nothing changed)
	@PYTHON="$(PYTHON)" bash infra/python/setup.sh

demo: setup ## Teach a tiny model arithmetic on this machine
	@.venv/bin/forklight demo

up: setup ## Start the whole system of a run file: make up RUN=run.toml
	@.venv/bin/forklight up $(RUN)

test: setup ## Run all tests that need no GPU and no cluster
	@.venv/bin/python -m pytest -n $(TEST_JOBS) --dist loadfile

lint: setup ## Style and import floors
	@bash infra/python/lint.sh

types: setup ## Static types, strict
	@.venv/bin/python -m mypy

proto: ## Generate libs/core/forklight from proto/
	@bash infra/python/proto.sh

dashboards: setup ## Write the Grafana dashboards from the registry of metrics
	@.venv/bin/python -m infra.grafana.build

chaos: setup ## Kill every kind of process in 20 seeded runs (about 20 minutes)
	@.venv/bin/python -m tests.chaos.torture --seeds 20

test-hostile: setup ## The slow rows of the tables of hostile programs, in real jails (a minute)
	@.venv/bin/python -m pytest -m hostile services/reward/tests

soak-reward: setup ## 10,000 verdicts while workers are killed: none lost, double or wrong, memory flat (about 8 minutes)
	@.venv/bin/python -m tests.soak.soak $(SOAK_OPTIONS)

simulate-pods: setup ## 500 rollout pods without GPUs against a real buffer and Redis, with faults (9 minutes; SIMULATE_OPTIONS=--dry-run)
	@.venv/bin/python -m tests.scale.simulate $(SIMULATE_OPTIONS)

bench-plane: setup ## Trajectories a second through queue, ledger and blobs
	@.venv/bin/python -m tests.bench.plane

bench-reward: setup ## Verdicts a second, latency and CPU of every class of work (BENCH_OPTIONS=--quick for less)
	@.venv/bin/python -m services.reward.bench.all $(BENCH_OPTIONS)

images: ## Build the images of all services with the local container engine, and print their sizes
	@ENGINE="$(ENGINE)" python3 infra/docker/build.py $(IMAGES_OPTIONS)

test-gpu: ## On an NVIDIA GPU: every kernel against float64, golden numbers, rollout's bits against the trainer's
	@$(GPU_PYTHON) -m pytest -m gpu kernels/tests/gpu libs/model/tests/gpu services/trainer/tests/gpu tests/gpu

test-vllm: ## Where vLLM and our plugin are installed (libs/vllm_plugin/README.md): the engine over it
	@$(VLLM_PYTHON) -m pytest -m "vllm and $(VLLM_MARKS)" -o timeout=900 -W default \
		--confcutdir=services/rollout/tests/vllm services/rollout/tests/vllm

bench-kernels: ## On an NVIDIA GPU: kernels and the whole model beside their peers, with targets (about 8 minutes)
	@$(GPU_PYTHON) kernels/bench/all.py

bench-rollout: ## On an NVIDIA GPU: the rollout engine beside its peers, with targets (all parts; BENCH_OPTIONS=--quick for less)
	@$(GPU_PYTHON) services/rollout/bench/all.py $(BENCH_OPTIONS)

bench-trainer: ## On an NVIDIA GPU: training steps, several GPUs, publication, checkpoints, beside their peers (all parts)
	@$(GPU_PYTHON) services/trainer/bench/all.py $(BENCH_OPTIONS)
