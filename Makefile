# Every command that a developer types. `make run` and `make test` set up what they need.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
SCALE ?= 20
SEED ?= random
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR)

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python requirements/run.txt pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# The peers of the benches too: each bench runs, tiny, as a test.
$(VENV)/.test: $(VENV)/.run requirements/test.txt requirements/bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/test.txt -r requirements/bench.txt
	@touch $@

$(VENV)/.mutation: $(VENV)/.test requirements/mutation.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/mutation.txt
	@touch $@

run: $(VENV)/.run ## Open the box office on http://127.0.0.1:8000 (ONEFOLD_URL=postgresql://... for PostgreSQL).
	$(BIN)/python -m examples.boxoffice run

load: $(VENV)/.test ## Send 10,000 buyers over HTTP, then audit every seat and cent.
	$(BIN)/python -m examples.boxoffice load

crash: $(VENV)/.test ## The same while the server is killed with -9 again and again, with every fault of the provider.
	$(BIN)/python -m examples.boxoffice crash

# Three at a time on two cores: a third of the time a test waits for a disk or for another process.
test: lint $(VENV)/.test ## All tests, on SQLite and on a real PostgreSQL.
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: $(VENV)/.test ## Style, types and import contracts.
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/basedpyright --level error

soak: $(VENV)/.test ## The long crash tests: twenty rounds each.
	$(BIN)/python -m pytest --override-ini addopts= -m soak --timeout 3600

sim: $(VENV)/.test ## The proofs, SCALE (20) times as long as in `make test`: simulations, models, kills. SEED=7 repeats.
	$(BIN)/python -m pytest -n 2 -m onefold_scaled --onefold-scale $(SCALE) --onefold-seed $(SEED) --timeout 3600 -rP

MUTANTS ?= 100

mutants: SEED = 1
mutants: $(VENV)/.mutation ## Change the engine in a hundred small ways and name those that no test notices (MUTANTS=, SEED=).
	$(BIN)/python -m tests.mutation --mutants $(MUTANTS) --seed $(SEED)

bench: $(VENV)/.test ## Every bench beside its peer; writes the tables into the blocks' pages.
	$(BIN)/python -m benches

held: $(VENV)/.test ## Claims while another transaction holds a snapshot for ten minutes of work.
	$(BIN)/python -m benches messaging/held --minutes 10

.PHONY: help run load crash test lint soak sim mutants bench held
