# `make help` says what there is. Needs only Python 3.11+ and make; up, down, ... need docker compose.
PYTHON ?= python3
from_env = $(shell sed -n 's/^$(1)=\([^ \#]\{1,\}\).*/\1/p' .env 2>/dev/null | tail -n 1)
GATEWAY_HOST ?= $(or $(call from_env,GATEWAY_HOST),127.0.0.1)
# On make's command line HOST is this too. In the environment it is not: some shells export a HOST that means something else.
HOST = $(GATEWAY_HOST)
PORT ?= $(or $(call from_env,PORT),8000)
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PIP_COMPILE := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
UVICORN := $(BIN)/uvicorn app.main:application --http app.gateway.http.connection:Connection \
	--no-server-header --no-proxy-headers --no-access-log --timeout-keep-alive 75

.PHONY: help install run run-kafka test test-all chaos bench bench-compare check format deps env up down logs restart build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile

install: .venv/installed ## make .venv with the pinned requirements, and nothing else

# The stamps: what is older than the pins is installed again, else nothing is done.
.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python " + sys.version.split()[0] + \
	", 3.11 or newer is needed; for example: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv
	@echo "installing the requirements into .venv"
	@$(PIP) install --require-hashes -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@echo "installing the development requirements into .venv"
	@$(PIP) install --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@

run: .venv/installed ## serve on http://127.0.0.1:8000 (HOST, PORT) with everything in one process: no Kafka, no key
	@BUS=memory exec $(UVICORN) --host $(HOST) --port $(PORT)

run-kafka: .venv/installed ## gateway (HOST, PORT) and workers as processes of their own, on BOOTSTRAP_SERVERS (localhost:9093)
	@exec $(BIN)/python -m scripts.run_kafka $(UVICORN) --host $(HOST) --port $(PORT)

test: .venv/installed-dev ## the tests that need no server
	@$(BIN)/pytest -m "not servers"

test-all: .venv/installed-dev ## all tests; starts and stops what they need: Kafka, vLLM, nginx (ONLY=servers: without those of make test)
	@scripts/test_servers.sh $(BIN)/pytest $(if $(ONLY),-m "$(ONLY)")

DURATION ?= 300
SEED ?= 1
chaos: .venv/installed-dev ## kill gateways, workers and Kafka under load and reckon what was kept (DURATION=300 SEED=1)
	@SERVERS= scripts/test_servers.sh $(BIN)/python -m tests.chaos --duration $(DURATION) --seed $(SEED)

bench: .venv/installed ## rates, latencies, CPU and memory of a stack that it starts (QUICK=1, DURATION=3, ARGS="--json FILE --compare FILE")
	@$(BIN)/python -m bench.stack $(ARGS) -- $(UVICORN)

bench-compare: .venv/installed ## the same beside LiteLLM and vllm-router, which it fetches; writes docs/benchmarks.md (ARGS="--rounds 5")
	@$(BIN)/python -m bench.compare $(ARGS) -- $(UVICORN)

check: .venv/installed-dev ## linters, types, the floors between packages, the house's own rules; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pytest -q tests/test_house.py

format: .venv/installed-dev ## format the code and repair what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

deps: .venv/installed-dev ## pin requirements*.in to requirements*.txt and install them (UPGRADE=--upgrade: newest versions)
	$(PIP_COMPILE) $(UPGRADE) requirements.in
	$(PIP_COMPILE) $(UPGRADE) requirements-dev.in
	$(PIP_COMPILE) $(UPGRADE) requirements-vllm.in
	$(BIN)/pip-sync --quiet requirements.txt requirements-dev.txt
	@touch .venv/installed .venv/installed-dev

env: ## make .env (mode 600) where there is none, and the passwords that compose asks for
	@scripts/env.sh

up: env ## start everything in containers (COMPOSE_FILE=docker-compose.llm.yml: only that file's services)
	$(COMPOSE) up --detach --build

down: ## stop and remove the containers; the volumes stay
	$(COMPOSE) down

logs: ## follow the containers' logs
	$(COMPOSE) logs --follow --tail 100

restart: env ## make the containers anew, with the code and .env as they are now
	$(COMPOSE) up --detach --build --force-recreate

build: ## build the images
	$(COMPOSE) build

clean: ## remove .venv and the caches (the test servers' .kafka and .vllm stay)
	rm -rf .venv .run .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.vllm/*' -prune -exec rm -rf {} +
