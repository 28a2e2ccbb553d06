# All commands of a checkout. `make` without a target prints this list.
# The environment is created in .venv. Paths are quoted, because a path may contain a space.

SHELL := /bin/sh
.DEFAULT_GOAL := help
ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
# DVC's site cache (known hashes) is kept in the checkout. Its path must be absolute.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site-cache
export DVC_NO_ANALYTICS := 1
STAMP := .venv/.synced

.PHONY: help setup run benchmark table cross-domain ui test test-all check lint types flow docs docs-serve lock clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-15s %s\n", $$1, $$2 }'

setup: $(STAMP) ## create .venv from requirements.lock (needs Python 3.11 to 3.13)

$(STAMP): requirements.lock requirements-uv.lock
	@sh scripts/setup.sh

run: $(STAMP) ## run the pipeline (dvc repro) and print the result
	@$(ENV) sh scripts/run.sh

benchmark: $(STAMP) ## run or resume the method benchmark, ten minutes per cell
	@cd benchmarks/methods && $(ENV) sh -c 'dvc repro --keep-going; status=$$?; \
		dvc repro --single-item table && exit $$status'

table: benchmark

cross-domain: $(STAMP) ## train on one dataset and test on others (benchmarks/cross_domain/matrix.yaml)
	@cd benchmarks/cross_domain && $(ENV) sh -c 'dvc repro --keep-going; status=$$?; \
		dvc repro --single-item table && exit $$status'

flow: $(STAMP) ## run the pipeline as a Prefect flow
	@$(ENV) python -m flows.pipeline

ui: $(STAMP) ## start Prefect's UI with the deployments of prefect.yaml; Ctrl-C to stop
	@$(ENV) python -m flows.ui

test: $(STAMP) ## run the tests, except long-running ones
	@$(ENV) python -m pytest

test-all: $(STAMP) ## run all tests
	@$(ENV) python -m pytest -m "slow or not slow"

lint: $(STAMP) ## check style and formatting (ruff)
	@$(ENV) ruff check . && $(ENV) ruff format --check .

types: $(STAMP) ## check types (mypy)
	@$(ENV) mypy

check: lint types test ## run lint, types and test

docs: $(STAMP) ## build the documentation into site/ (strict)
	@$(ENV) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict && echo "documentation: site/index.html"

docs-serve: $(STAMP) ## serve the documentation, with live reload
	@$(ENV) NO_MKDOCS_2_WARNING=1 mkdocs serve --dev-addr 127.0.0.1:8000

lock: $(STAMP) ## update requirements.lock and requirements-uv.lock from pyproject.toml
	@sh scripts/lock.sh

clean: ## delete .venv, DVC's caches and all generated files (results in git stay)
	git clean -fdXq data models reports benchmarks/methods benchmarks/cross_domain
	rm -rf .venv .dvc/cache .dvc/tmp .dvc/resume .prefect site
