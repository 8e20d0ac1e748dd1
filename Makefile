# Two commands matter: `make run` shows the connector at work, `make test` proves it. Both start from a bare
# Debian with Python and make, and leave nothing in the checkout that git does not ignore.

# The one that .venv was made by, until another one is named.
PYTHON ?= $(shell cat .venv/.made-by 2>/dev/null || echo python3)
# make test ARGS='-k journal'
ARGS ?=
# Files of tests that run side by side; make test JOBS=0 ARGS=-s for one process, to look or to debug.
JOBS ?= 2
# make run BUS=host:port BUS_USER=name BUS_PASSWORD=secret RUN_FOR=seconds
BUS ?=
BUS_USER ?=
BUS_PASSWORD ?=
RUN_FOR ?=
# make chaos SEED=n RUNS=m CLUSTER=k FUZZ=inputs
SEED ?=
RUNS ?= 10
CLUSTER ?= 1
FUZZ ?= 1000000
# What `make check` does; a suite that needs more programs adds its target here.
CHECKS ?= lint test test-nagios test-page

VENV := .venv
BIN := $(VENV)/bin
export BUS BUS_USER BUS_PASSWORD RUN_FOR

.DEFAULT_GOAL := help
.PHONY: help venv rabbitmq nagios chromium run test test-nagios test-page chaos lint check bench bench-peers syslog-ng clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=python3.12  ARGS='pytest arguments' JOBS=2  BUS=host:port BUS_USER= BUS_PASSWORD= RUN_FOR=seconds"
	@echo "           SEED=n RUNS=m CLUSTER=k FUZZ=inputs"

venv: ## make the virtual environment in .venv, again when setup.py has changed
	@sh tests/support/make-venv.sh "$(PYTHON)" $(VENV)

rabbitmq: ## install Debian's RabbitMQ when it is missing, without starting it
	@sh tests/support/install-rabbitmq.sh

nagios: ## install Debian's Nagios when it is missing, without starting it
	@sh tests/support/install-nagios.sh

chromium: ## install Debian's Chromium when it is missing
	@sh tests/support/install-chromium.sh

run: venv $(if $(BUS),,rabbitmq) ## start a private RabbitMQ and a connector, send sample lines, show what arrives
	@$(BIN)/python -m examples.demo

test: venv rabbitmq ## run all tests, on RabbitMQ nodes that the tests start themselves
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-nagios: venv rabbitmq nagios ## run the tests with a real Nagios, which the tests start themselves
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS) tests/nagios

test-page: venv chromium ## look at the page in a headless Chromium
	@$(BIN)/python -m pytest $(ARGS) tests/page

chaos: venv rabbitmq ## put the promise on trial: RUNS=10 runs of faults and FUZZ=1000000 random inputs, by SEED=n
	@$(BIN)/python -m tests.chaos --runs=$(RUNS) $(if $(SEED),--seed=$(SEED)) $(ARGS)
	@$(if $(filter-out 0,$(CLUSTER)),$(BIN)/python -m tests.chaos --only=cluster --runs=$(CLUSTER) $(if $(SEED),--seed=$(SEED)))
	@$(if $(filter-out 0,$(FUZZ)),$(BIN)/python -m tests.chaos.fuzzing --count=$(FUZZ) $(if $(SEED),--seed=$(SEED)))

lint: venv ## ruff on everything, mypy --strict on vigiloconn
	@$(BIN)/ruff check . $(wildcard bin/vigilo-*)
	@$(BIN)/mypy

check: $(CHECKS) ## lint and all tests

syslog-ng: ## install Debian's syslog-ng when it is missing, without starting it
	@sh tests/support/install-syslog-ng.sh

bench: venv rabbitmq ## measure against baselines of the same run; ARGS='--quick rates' for less
	@$(BIN)/python -m bench $(ARGS)

bench-peers: venv rabbitmq syslog-ng ## measure beside py-amqp, pika, aio-pika and syslog-ng
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m bench $(ARGS) peers handler

clean: ## remove what the other targets made
	rm -rf $(VENV) .run .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
