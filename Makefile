# The only entrance.  `make demo` and `make test` need Python 3.11+ and nothing else; everything lands in .venv and runs/.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export NO_ALBUMENTATIONS_UPDATE = 1
export WANDB_MODE ?= offline
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## make the environment in .venv with the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@echo "==> Environment: installing into $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY) ## phantom archive -> shards -> pretraining -> evaluation -> index -> report, on the CPU, in runs/demo
	@$(BIN)/vlp demo

test: $(READY) ## run the test suite
	@echo "==> Tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

check: $(READY) ## lint, types, and the direction of imports
	@echo "==> ruff";        $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "==> mypy";        $(BIN)/mypy
	@echo "==> import-linter"; $(BIN)/lint-imports

format: $(READY) ## rewrite the code in the house style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(READY) ## run the programs of benchmarks/ that take minutes; see benchmarks/README.md
	@$(BIN)/python -m benchmarks

clean: ## remove the environment and caches (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
