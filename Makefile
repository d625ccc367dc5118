# One command each: the environment in .venv is made at first use from nothing but Python >=3.11 with venv,
# and again only when a lock or pyproject.toml has changed.
#
#   make demo      a provider, an API, two users and the gateway, on loopback, offline
#   make test      the tests, file by file in two processes (JOBS=4 for four); make test ARGS="tests/proxy -k refresh"
#                  for some of them, in one
#   make check     format, lint, types, import contracts, Dockerfile
#   make bench     the gateway beside nginx, HAProxy, Envoy and others, ten minutes (BENCH=quick half a one, BENCH=full an
#                  hour); make bench-peers fetches those of them that are not installed
#   make bench-guard   instructions of the hot path for one request, against those stored (two minutes; ARGS=--store)
#   make soak      10,000 idle strangers, overload, storms and kill -9 on the vault's refresh, on SQLite and PostgreSQL
#                  (ten minutes)
#   make bench-vault   fetches a second through the token API, among 100 and 100,000 tokens
#   make format    rewrite the sources as `make check` wants them
#   make lock      pin the newest versions that pyproject.toml allows (needs uv)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-guard bench-peers bench-vault soak format lock

ARGS ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SOURCES := gateway tests bench soak
PROVIDER := tests/oidc_provider
NODE_SDK := tests/node_sdk

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

# The locks are complete, so pip has nothing to resolve; what is never imported need not be compiled.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --no-deps --no-compile

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.runtime
	@$(BIN)/gateway demo $(ARGS)

test: $(VENV)/.dev $(PROVIDER)/node_modules/.installed $(NODE_SDK)/node_modules/.installed
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n $(JOBS) --dist loadfile --no-loadscope-reorder)

check: $(VENV)/.dev
	@$(BIN)/python -m ruff format --check --quiet --output-format concise $(SOURCES) \
		|| { echo "Not formatted as the house does it: run 'make format'." >&2; exit 1; }
	@$(BIN)/python -m ruff check --quiet $(SOURCES)
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/hadolint docker/Dockerfile
	@echo "make check: format, lint, types, import contracts and Dockerfile are in order."

bench: $(VENV)/.dev
	@$(BIN)/python -m bench.run $(ARGS)

bench-peers: $(VENV)/.dev
	@$(BIN)/python -m bench.peers $(ARGS)

bench-guard: $(VENV)/.dev
	@$(BIN)/python -m bench.guard $(ARGS)

soak: $(VENV)/.dev $(PROVIDER)/node_modules/.installed
	@$(BIN)/python -m soak.run $(ARGS)

bench-vault: $(VENV)/.dev
	@$(BIN)/python -m bench.vault

format: $(VENV)/.dev
	@$(BIN)/python -m ruff format $(SOURCES)
	@$(BIN)/python -m ruff check --fix $(SOURCES)

COMPILE := compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: $(VENV)/.dev
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	"$$uv" --version >/dev/null 2>&1 || { echo "make lock needs uv: $(BIN)/python -m pip install uv" >&2; exit 1; }; \
	"$$uv" pip $(COMPILE) --all-extras pyproject.toml -o requirements-dev.lock && \
	"$$uv" pip $(COMPILE) --extra postgres --extra otel -c requirements-dev.lock pyproject.toml -o requirements.lock && \
	printf 'hatchling\neditables\n' | "$$uv" pip $(COMPILE) -c requirements-dev.lock - -o requirements-build.lock
	@echo "Locked. Read the differences, then run 'make check' and 'make test'."

# --- the environment -------------------------------------------------------------------------------------------

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

define MAKE_VENV
if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	python=; \
	for candidate in $(PYTHON); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "This needs Python 3.11 or newer. Found: $$(for candidate in $(PYTHON); do "$$candidate" --version 2>/dev/null; done || true)" >&2; \
		echo "Install one (Debian 12 or Ubuntu 24.04: apt-get install python3 python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python comes without venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV) && "$$python" -m venv $(VENV); \
fi
endef

$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml
	@$(MAKE_VENV)
	@echo "Installing what the gateway needs into $(VENV) (once, about 20 seconds) ..." >&2
	@$(INSTALL) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "Installing what checks and tests need into $(VENV) (once, about 30 seconds) ..." >&2
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# Without npm this is no error: the tests that need these packages are then skipped by name.
%/node_modules/.installed: %/package-lock.json %/package.json
	@if command -v npm >/dev/null 2>&1; then \
		echo "Installing what $* needs with npm (once) ..." >&2; \
		npm ci --prefix $* --silent --no-audit --no-fund --no-update-notifier && touch $@; \
	fi
