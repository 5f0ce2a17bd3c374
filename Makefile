# Every target first installs what this machine lacks: see tools/setup.

.DEFAULT_GOAL := help
.PHONY: help setup run test lint unit guest fmt wheel clean
# The targets share one machine, one .venv and one terminal.
.NOTPARALLEL:

BIN := .venv/bin
# Further arguments for pytest: make unit PYTEST_ARGS='-k fpu -x'
PYTEST_ARGS ?=

help: ## say what there is
	@awk -F ': *[a-z ]*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: Debian packages, and Python packages into .venv
	@tools/setup

run: setup ## reproduce a bug of the ppc64le kernel in a real guest, from nothing
	@$(BIN)/osvtriage run ppc64le-save-fpu --variant fp-fix-reverted --expect reproduced

test: lint unit guest ## everything that CI runs

lint: setup ## formatting, lint, types, and the order of the packages
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: setup ## the tests that start no process
	@$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

guest: setup ## the tests that start QEMU, gdb and compilers
	@$(BIN)/python -m pytest tests/guest $(PYTEST_ARGS)

fmt: setup ## format the code, and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

wheel: setup ## build a wheel into dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean: ## remove what the other targets made in this directory
	@rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
