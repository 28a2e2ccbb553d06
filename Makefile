# Everything a checkout can do. `make` alone prints this list.
# The environment is created in .venv; paths are quoted, since the path of a checkout may hold a space.

SHELL := /bin/sh
.DEFAULT_GOAL := help
ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
# DVC keeps its store of known hashes in the checkout too; its path must be absolute.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site-cache
export DVC_NO_ANALYTICS := 1
STAMP := .venv/.synced

.PHONY: help setup run benchmark table ui test test-all check lint types flow docs docs-serve lock clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-15s %s\n", $$1, $$2 }'

setup: $(STAMP) ## make .venv from requirements.lock (needs Python 3.11 to 3.13)

$(STAMP): requirements.lock requirements-uv.lock
	@sh scripts/setup.sh

run: $(STAMP) ## run what params.yaml says (dvc repro) and print the result
	@$(ENV) sh scripts/run.sh

benchmark: $(STAMP) ## the method benchmark: every method on Omniglot, ten minutes per cell; resumes where it stopped
	@cd benchmarks/methods && $(ENV) sh -c 'dvc repro --keep-going; ended=$$?; dvc repro --single-item table && exit $$ended'

table: benchmark

flow: $(STAMP) ## the same as `make run`, as a Prefect flow
	@$(ENV) python -m flows.pipeline

ui: $(STAMP) ## Prefect's UI on this machine, with the deployments of prefect.yaml; Ctrl-C ends it
	@$(ENV) python -m flows.ui

test: $(STAMP) ## run the tests, apart from long campaigns
	@$(ENV) python -m pytest

test-all: $(STAMP) ## run all tests
	@$(ENV) python -m pytest -m "slow or not slow"

lint: $(STAMP) ## ruff: style and format
	@$(ENV) ruff check . && $(ENV) ruff format --check .

types: $(STAMP) ## mypy
	@$(ENV) mypy

check: lint types test ## lint, types and tests

docs: $(STAMP) ## build the documentation into site/; a broken link or a missing docstring is an error
	@$(ENV) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict && echo "documentation: site/index.html"

docs-serve: $(STAMP) ## show the documentation on this machine while you write it
	@$(ENV) NO_MKDOCS_2_WARNING=1 mkdocs serve --dev-addr 127.0.0.1:8000

lock: $(STAMP) ## renew requirements.lock and requirements-uv.lock from pyproject.toml
	@sh scripts/lock.sh

clean: ## delete .venv, DVC's caches and everything that runs and make benchmark made (results in git stay)
	git clean -fdXq data models reports benchmarks/methods
	rm -rf .venv .dvc/cache .dvc/tmp .dvc/resume .prefect site
