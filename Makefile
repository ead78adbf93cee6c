# Everything a developer or CI runs. Each target does its own set-up: a fresh Debian with Python 3.11 and Go will do.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER := $(PYTHON) e2e/cluster
CACHE := $(or $(RYZANSTEIN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ryzanstein)
# Tests that need no cluster but programs of its build (a real API server, Helm), a browser, or time (real ranks).
LATER := apiserver or helm or ranks or slow or browser
export RYZANSTEIN_KUBE_BIN ?= $(CACHE)/bin
# Compiled modules are kept, also where a shell forbids it: without them each process of the tests, and each that it
# starts, compiles torch and the tests anew, which is half of the time that it takes to begin.
export PYTHONDONTWRITEBYTECODE :=
# More arguments for python3 e2e/cluster, such as --mode offline or --kubeconfig FILE --registry PREFIX.
CLUSTER_ARGS ?=

.PHONY: help
help: ## What can be made (this list)
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A kind cluster, the chart, a model served, a completion streamed (CLUSTER_ARGS="--mode offline" forces a mode)
	$(CLUSTER) demo $(CLUSTER_ARGS)

.PHONY: demo-down
demo-down: ## Removes all that demo and e2e made, but for the caches
	$(CLUSTER) down

# Of schemathesis, which takes a second to load, the later stage alone has a test.
FAST := $(BIN)/python -m pytest tests -m "not gpu and not ($(LATER))" -p no:schemathesis -n 4 --dist loadfile --durations=10

.PHONY: test
test: lint verify coverage e2e later ## All of it, in CI's order: lint, verify, fast tests, the stories on a cluster, what takes longer

.PHONY: test-fast
test-fast: venv ## Tests that need no cluster; under two minutes
	$(FAST)

.PHONY: coverage
coverage: venv ## The same, measured: fails when a part's coverage is below its floor
	$(BIN)/coverage erase
	$(FAST) --cov --cov-report=
	$(BIN)/python scripts/coverage_gate.py

.PHONY: lint
lint: ## ruff, mypy --strict, the import law, the chart's linters, promtool on each rule and its tests
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-python lint-chart

# Side by side: mypy's first run takes a minute of one core, and all the rest together half of that.
.PHONY: lint-python
lint-python: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	MYPYPATH=e2e/cluster $(BIN)/mypy $(wildcard e2e/cluster/*.py)

.PHONY: lint-chart
lint-chart: venv tools
	PATH="$(CACHE)/bin:$$PATH" scripts/lint_chart.sh
	PATH="$(CACHE)/bin:$$PATH" promtool check rules --lint=all --lint-fatal helm/ryzanstein/files/rules/*.yaml
	PATH="$(CACHE)/bin:$$PATH" promtool test rules tests/rules/*.yaml

.PHONY: format
format: venv ## Formats all Python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: crds
crds: venv tools ## Writes what is generated: crds/, references in docs/, the chart's copies, install.yaml, code of proto/
	PATH="$(CURDIR)/$(BIN):$(CACHE)/bin:$$PATH" scripts/generate.sh

.PHONY: verify
verify: crds ## Generates everything anew and fails on a difference
	scripts/no_difference.sh crds docs/reference.md docs/troubleshooting.md docs/api-reference.md docs/openapi.json docs/metrics.md \
	  helm/ryzanstein/files manifests/install.yaml manifests/grafana proto tests/contract/schemas

.PHONY: image
image: ## Builds the images of operator, gateway, worker and Prometheus, and prints their names
	$(CLUSTER) images $(CLUSTER_ARGS)

.PHONY: e2e
e2e: venv ## Brings the cluster up, then the stories
	$(CLUSTER) up $(CLUSTER_ARGS)
	$(BIN)/python -m pytest e2e -m e2e --durations=10

.PHONY: later
later: venv kube-programs ## The tests that need no cluster but a real API server, Helm, or time
	$(BIN)/python -m pytest tests -m "$(LATER)" -n 2 --dist loadfile --durations=10

.PHONY: bench
bench: venv ## Two ranks against one, sixteen requests together against one after another
	$(BIN)/python -m bench.worker

.PHONY: bench-protocols
bench-protocols: venv ## gRPC and WebSocket against REST: bytes on the wire and CPU time, per token
	$(BIN)/python -m bench.protocols

.PHONY: bench-gateway
bench-gateway: venv ## The gateway against nginx and LiteLLM's proxy: latency, throughput, memory (BENCH_ARGS="--rounds 5")
	bench/gateway_tools.sh
	$(BIN)/python -m bench.gateway $(BENCH_ARGS)

.PHONY: bench-operator
bench-operator: venv ## 1,000 services against 1,000 Deployments on a real API server (BENCH_ARGS="--services 100")
	PYTHONPATH=tests/support $(BIN)/python -m bench.operator $(BENCH_ARGS)

.PHONY: bench-autoscaling
bench-autoscaling: venv ## Our sizes against HPA's and KEDA's over the same loads, simulated (BENCH_ARGS="--only burst")
	PYTHONPATH=tests/support $(BIN)/python -m bench.autoscaling $(BENCH_ARGS)

.PHONY: tools
tools: ## Helm, from its Go module; prometheus and promtool, from Debian's package
	@$(CLUSTER) tools helm prometheus promtool >/dev/null || $(CLUSTER) tools helm prometheus promtool

.PHONY: kube-programs
kube-programs:
	$(CLUSTER) tools helm etcd kube-apiserver kube-controller-manager prometheus promtool chromium

.PHONY: requirements
requirements: venv ## Pins all dependencies anew from pyproject.toml
	$(BIN)/python scripts/compile_requirements.py

.PHONY: venv
venv: $(VENV)/.made ## The virtual environment, from hash-pinned requirements

$(VENV)/.made: requirements/dev.txt pyproject.toml
	@scripts/make_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@
