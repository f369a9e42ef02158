# `make repro` runs the pipeline, `make test` the tests; both set up .venv first. `make` alone lists what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # pip leaves it to the first import, of what is imported at all

RUNTIME := .venv/.runtime$(if $(GPU),-gpu)
DEV := .venv/.dev
COMPILE := uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --custom-compile-command "make requirements"

.PHONY: help repro predict demo test faults cluster-test lint format ui experiments plots track promote bench requirements
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-14s%s\n' "$$name" "$$text"; done

repro: $(RUNTIME)  ## train, evaluate and compare the detectors; GPU=1 installs NVIDIA's libraries first
	@test -s .dvc/tmp/rwlock || rm -f .dvc/tmp/rwlock # a DVC that was killed may leave it empty, and the next refuses
	@dvc repro && echo "dvc repro took $$((SECONDS / 60)) min $$((SECONDS % 60)) s"

predict: $(RUNTIME)  ## judge photos: make predict IMAGES="holiday.jpg album/"
	@test -n "$$IMAGES" || { echo "error: name photos, folders or zips: make predict IMAGES=\"holiday.jpg album/\""; exit 1; }
	@if test -e "$$IMAGES"; then python -m stages.predict -- "$$IMAGES"; else eval "python -m stages.predict $$IMAGES"; fi

demo: $(RUNTIME)  ## serve a page where a photo is dropped and judged, at http://127.0.0.1:8000
	@python -m stages.demo

test: $(DEV)  ## run the tests, with coverage of stages/
	@pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

faults: $(DEV)  ## try what `make test` has no time for: a hundred kills, full disks, 20,000 damaged images and hostile files
	@KILLS=100 MUTATIONS=20000 pytest -n 0 -s tests/faults tests/faces/test_shards.py

cluster-test: .venv/.cluster  ## run the tests of what needs Ray, S3 or PostgreSQL; what pip can install is installed first
	@pytest -n 0 tests/cluster

lint: $(DEV)  ## check style and types
	@ruff check . && ruff format --check . && mypy

format: $(DEV)  ## mend style where a machine can
	@ruff check --fix --quiet . ; ruff format .

ui: $(RUNTIME)  ## serve the runs in MLflow, at http://127.0.0.1:5000; PORT=5001 takes another port
	@python -m stages.tracking.ui $(if $(PORT),--port $(PORT))

experiments: $(RUNTIME)  ## list the experiments: a column for each parameter and figure in which they differ
	@dvc exp show --md --only-changed --drop '(data|plots|stages)/|(params.yaml|metrics/data.json|State|Executor)$$|.*:(n|average_precision|roc_auc_low|roc_auc_high)$$'

plots: $(RUNTIME)  ## draw all plots, in dvc_plots/index.html
	@dvc plots show

track: $(RUNTIME)  ## send to MLflow what it lacks
	@python -m stages.tracking

promote: $(RUNTIME)  ## make the winner the registered champion, whatever the champion is
	@python -m stages.tracking --promote

bench: $(RUNTIME)  ## measure speed against other ways of doing it: all measures, or MEASURES="input noop"
	@python -m bench.run $(or $(MEASURES),--slow)

requirements: $(DEV)  ## pin the newest versions that go together
	@$(COMPILE) requirements.in -o requirements.txt
	@$(COMPILE) requirements-dev.in -o requirements-dev.txt
	@$(COMPILE) requirements-gpu.in -o requirements-gpu.txt
	@$(COMPILE) requirements-cluster.in -o requirements-cluster.txt

.venv/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; install one, or name it with make PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -m venv .venv

.venv/.runtime: requirements.txt | .venv/bin/python
	@echo "installing what requirements.txt pins into .venv (about 2 minutes, once)"
	@python -m pip install --quiet --no-compile -r requirements.txt && touch $@

.venv/.runtime-gpu: requirements.txt requirements-gpu.txt | .venv/bin/python
	@echo "installing what requirements.txt and requirements-gpu.txt pin into .venv (some minutes, once)"
	@python -m pip install --quiet --no-compile -r requirements.txt -r requirements-gpu.txt && touch $@ .venv/.runtime

.venv/.cluster: requirements-cluster.txt | $(DEV)
	@echo "installing what requirements-cluster.txt pins into .venv"
	@python -m pip install --quiet --no-compile -r requirements-cluster.txt && touch $@

.venv/.dev: requirements-dev.txt | .venv/.runtime
	@python -m pip install --quiet --no-compile -r requirements-dev.txt && touch $@
