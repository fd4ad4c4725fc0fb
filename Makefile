# Every command that a contributor or the continuous integration runs; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# The installer itself cannot come from the lock that it reads.
UV_RELEASE := uv==0.13.8

# Extras that `make setup` installs: demo, redis, dev, with commas between them.
EXTRAS ?= demo
# What checking needs: with every extra, so that no test is left out.
DEVELOPMENT := $(VENV)/.with-demo,dev,redis
# What the DAG of deploy/airflow is loaded with: an environment of its own, as Airflow's packages are not ours.
AIRFLOW := $(VENV)/airflow/.ready
# More for the program that a target runs: make test ARGS="-k bundle -x"
ARGS ?=

# An interpreter is tried by running it: a version manager's shim may exist and refuse. One that can compile an
# extension and make an environment is preferred; otherwise the first that fits, and its recipe says what is missing.
IS_SUPPORTED := import sys, venv; assert (3, 11) <= sys.version_info[:2] <= (3, 13)
HAS_HEADERS := import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")
CANDIDATES := python3.13 python3.12 python3.11 python3 python
PYTHON ?= $(shell for check in '$(IS_SUPPORTED); import ensurepip; $(HAS_HEADERS)' '$(IS_SUPPORTED)'; do \
	for python in $(CANDIDATES); do "$$python" -c "$$check" >/dev/null 2>&1 && echo "$$python" && exit; done; done)

# TensorFlow Recommenders needs Keras 2; TensorFlow reads this once, before its first import.
export TF_USE_LEGACY_KERAS := 1
export TF_CPP_MIN_LOG_LEVEL ?= 2
# The environment's own interpreter is the one to use; TensorFlow's wheel is large for a slow line.
export UV_PYTHON_DOWNLOADS := never
export UV_HTTP_TIMEOUT ?= 300
unexport VIRTUAL_ENV
# uv uses the package index that pip's variable names.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo '  Variables: PYTHON (interpreter of a new $(VENV)), EXTRAS (for setup), JOBS (for test and test-all), ARGS (for quickstart, tests, mutants)'

.PHONY: setup
setup: $(VENV)/.with-$(EXTRAS) ## install the locked dependencies into .venv (EXTRAS=demo)

.PHONY: quickstart
quickstart: $(VENV)/.with-demo ## run everything once on the built-in data, from raw events to recommendations
	@$(BIN)/twinspire run $(ARGS)

# Tests at a time. A file's tests stay together, as its fixtures are made for it; long files begin first.
JOBS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(DEVELOPMENT) ## run all tests but those marked long: ten minutes on two cores
	@$(PYTEST) -m 'not long' $(ARGS)

.PHONY: test-all
test-all: $(DEVELOPMENT) $(AIRFLOW) ## run all tests, also Beam's other runners, killed nights and Airflow
	@$(PYTEST) $(ARGS)

.PHONY: test-fast
test-fast: $(DEVELOPMENT) ## run the tests that take seconds
	@$(BIN)/pytest -m 'not slow and not end_to_end and not long' $(ARGS)

.PHONY: mutants
mutants: $(DEVELOPMENT) ## put known defects into a copy one by one and see that tests find each (ARGS="--only NAME")
	@$(BIN)/python tests/mutants.py $(ARGS)

.PHONY: lint
lint: $(DEVELOPMENT) ## check style, docstrings, annotations and layout
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(DEVELOPMENT) ## lay the code out and repair what can be repaired safely
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(DEVELOPMENT) ## check types
	@$(BIN)/mypy

.PHONY: imports
imports: $(DEVELOPMENT) ## check that imports follow the architecture and that libraries are declared
	@$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python .ci/declared.py $(VENV)/declared
	$(BIN)/deptry .

.PHONY: bench
bench: ## list the benchmarks
	@for script in benchmarks/*.py; do
		if [ ! -e "$$script" ]; then echo 'No benchmarks yet: a script and its result go into benchmarks/.'; break; fi
		printf '  %s %-40s %s\n' $(BIN)/python "$$script" "$$(sed -n '1s/^"""//p' "$$script" | sed 's/"""$$//')"
	done

.PHONY: benchmark-training
benchmark-training: $(DEVELOPMENT) ## measure training speed, into docs/training_speed.md (ARGS="--repeats 5")
	@$(BIN)/python benchmarks/training_speed $(ARGS)

.PHONY: benchmark-serving
benchmark-serving: $(DEVELOPMENT) ## measure what a request costs, into docs/serving_speed.md (ARGS="--only built-in")
	@$(BIN)/python benchmarks/serving $(ARGS)

# How long `make benchmark-soak` lasts.
MINUTES ?= 10

.PHONY: benchmark-soak
benchmark-soak: $(DEVELOPMENT) ## load the server and inject faults, into docs/soak.md (MINUTES=10)
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

.PHONY: lock
lock: $(UV) ## resolve requirements.lock again, keeping what still fits (ARGS=--upgrade for the newest)
	@$(UV) pip compile setup.py --all-extras --universal --python-version 3.11 --python $(BIN)/python \
		--generate-hashes --no-annotate --custom-compile-command 'make lock' --quiet -o requirements.lock $(ARGS)
	$(UV) pip compile deploy/airflow/requirements.in --universal --python-version 3.11 --python $(BIN)/python \
		--generate-hashes --no-annotate --custom-compile-command 'make lock' --quiet \
		-o deploy/airflow/requirements.lock $(ARGS)

.PHONY: clean
clean: ## remove caches and build output; runs/ and .venv stay
	@rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

.PHONY: clean-venv
clean-venv: ## remove .venv, to start over or to change the interpreter
	@rm -rf $(VENV)

# One stamp for each set of extras. The lock is a constraint, so that exactly the wanted extras are installed, in the
# locked versions, with their hashes verified; hnswlib's build requirements are held by the lock and pyproject.toml.
$(VENV)/.with-%: $(UV) setup.py pyproject.toml requirements.lock
	@echo 'Installing twinspire[$*] and what it needs into $(VENV); the first time it downloads 1.2 GB'
	quiet=$$([ -t 2 ] || echo --quiet)
	$(UV) pip install $$quiet --python $(BIN)/python \
		--constraints requirements.lock --build-constraints requirements.lock --compile-bytecode --editable '.[$*]'
	touch $@

$(AIRFLOW): deploy/airflow/requirements.lock | $(UV)
	@echo 'Installing what the Airflow DAG is tested with into $(VENV)/airflow'
	$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/airflow
	$(UV) pip install --quiet --python $(VENV)/airflow/bin/python --require-hashes -r deploy/airflow/requirements.lock
	touch $@

# pip only fetches the installer. Debian keeps pip and ensurepip in packages of their own, hence three ways.
$(UV):
	@python='$(PYTHON)'
	fail() { printf '%s\n' "$$@" >&2; exit 1; }
	[ -n "$$python" ] || fail 'No Python 3.11, 3.12 or 3.13 was found (tried $(CANDIDATES)).' \
		'Install one, or name it: make setup PYTHON=/path/to/python3.12'
	"$$python" -c '$(IS_SUPPORTED)' 2>/dev/null \
		|| fail "PYTHON=$$python does not run, is not 3.11 to 3.13, or lacks the module venv: $$("$$python" -V 2>&1 | head -1)"
	package=python$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	missing=
	command -v $(firstword $(CXX)) >/dev/null || missing+=' g++'
	"$$python" -c '$(HAS_HEADERS)' 2>/dev/null || missing+=" $$package-dev"
	if "$$python" -c 'import ensurepip' 2>/dev/null; then way=ensurepip
	elif "$$python" -m pip --version >/dev/null 2>&1; then way=pip
	elif command -v uv >/dev/null; then way=uv
	else missing+=" $$package-venv"; fi
	[ -z "$$missing" ] || fail "Set-up needs a C++ compiler and Python's headers (hnswlib is compiled here) and a way to make" \
		"an environment. Missing on this machine, by the names of Debian and Ubuntu:" "    sudo apt-get install$$missing"
	echo "Making $(VENV) with $$("$$python" -V)"
	case $$way in
	ensurepip)
		"$$python" -m venv --clear $(VENV)
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV_RELEASE) ;;
	pip)
		"$$python" -m venv --clear --without-pip $(VENV)
		"$$python" -m pip --python $(BIN)/python install --quiet --disable-pip-version-check $(UV_RELEASE) ;;
	uv)
		uv venv --quiet --clear --python "$$python" $(VENV)
		uv pip install --quiet --python $(BIN)/python $(UV_RELEASE) ;;
	esac
