# Every target makes its own .venv from a hash-pinned lock and is quick when nothing changed.
# Another interpreter: make demo PYTHON=python3.12      More for pytest: make test PYTEST_ARGS="-k refund"
# One test at a time, for a debugger: make test PYTEST_ARGS="-n0 --pdb"

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
MUTANTS_ARGS ?=
CHAOS_ARGS ?=
SEED ?= 1
SAGAS ?= 3000
MINUTES ?= 5

export PYTHON
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Tests wait more than they compute, so more processes than cores help; each has its own Postgres and Valkey, so not many.
PARALLEL := -n 4 --dist worksteal
INSTALL := @sh requirements/install.sh
LOCK := $(BIN)/uv pip compile pyproject.toml --no-config --universal --python-version 3.11 --generate-hashes --no-header --quiet

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check chaos chaos-full chaos-short lies mutants simulation advice bench lock wheel format clean

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Start real servers, run checkouts, kill workers, watch the books balance
	$(INSTALL) run
	@$(BIN)/amends demo

test: ## Run every test but the chaos ones, on real servers
	$(INSTALL) dev
	@$(PYTEST) --ignore=tests/chaos -m "not long" $(PARALLEL) $(PYTEST_ARGS)

check: ## Format, lint, types, import contracts and the fast tests
	$(INSTALL) dev
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports
	@$(PYTEST) --quiet tests/unit tests/architecture -m "not long" $(PYTEST_ARGS)

chaos: ## Checkouts under faults from outside, and a verdict: SEED=1 SAGAS=15000 MINUTES=20
	$(INSTALL) dev
	@$(BIN)/python -m tests.chaos.black_box --seed $(SEED) --sagas $(SAGAS) --minutes $(MINUTES) $(CHAOS_ARGS)

chaos-full: ## Every chaos test at its full size: crash at every point, kill, stop, flush, restart (long)
	$(INSTALL) dev
	@$(PYTEST) tests/chaos tests/acceptance tests/unit/test_simulation.py tests/integration/http $(CHAOS_ARGS)

chaos-short: ## A slice of chaos that fits into CI
	$(INSTALL) dev
	@$(PYTEST) tests/chaos -m "not long" $(CHAOS_ARGS)
	@$(BIN)/python -m tests.chaos.black_box --seed 1 --sagas 400 --minutes 1 --rate 20

simulation: ## Sagas in a simulated world, judged by what truly happened: N=20000 SEED=1
	$(INSTALL) dev
	@$(BIN)/python -m tests.simulation --sagas $(or $(N),20000) --seed $(or $(SEED),1) $(SIMULATION_ARGS)

lies: ## False assertions of operators about money, and what became of them: N=1000 SEED=1
	$(INSTALL) dev
	@$(BIN)/python -m tests.lies --n $(or $(N),1000) --seed $(or $(SEED),1)

mutants: ## Take each protection out, one at a time, and see its test fail
	$(INSTALL) dev
	@$(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

advice: ## For every reason to be parked: do what is recommended in a healed world, and see the saga end
	$(INSTALL) dev
	@$(BIN)/python -m tests.advice

bench: ## Measure sagas per second and CPU per saga
	$(INSTALL) dev
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

format: ## Format and mend what ruff can mend
	$(INSTALL) dev
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet

lock: ## Resolve the newest versions into requirements/*.txt
	$(INSTALL) dev
	@$(LOCK) --upgrade --all-extras --group dev --output-file requirements/dev.txt
	@$(LOCK) --upgrade --extra local --group build --constraints requirements/dev.txt --output-file requirements/run.txt
	@$(LOCK) --upgrade --extra http --extra sandbox --group build --constraints requirements/dev.txt --output-file requirements/image.txt

wheel: ## Build dist/amends-*.whl
	$(INSTALL) dev
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean: ## Remove the environment, caches and builds
	rm -rf .venv dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
