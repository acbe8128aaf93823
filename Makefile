# Every target does its own set-up; none needs more than Python 3.11 and, where it says so, Docker.

# The first that is new enough; PYTHON=/path/to/python overrides the search.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# ONNX Runtime's wheels since 1.29 report to Microsoft unless told not to before they load.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help venv demo bench-serving bench-endurance bench-overload faults soak fuzz test lint images up down

help:
	@echo 'make demo    serve two models to clients with deadlines on this machine, and report; two minutes'
	@echo 'make bench-serving  Sponge beside other servers, each installed below .bench; twenty-five minutes'
	@echo 'make bench-endurance  a worker resized every second under load, and its memory; eleven minutes'
	@echo 'make bench-overload   2, 5 and 10 times the capacity, beside other servers; ten minutes'
	@echo 'make faults  every fault that Sponge is to survive, made on purpose; fifteen minutes'
	@echo 'make soak    the demo'"'"'s services for twenty minutes, and what grows; ARGS="--seconds 7200" two hours'
	@echo 'make test    all tests; those of the containers only where a Docker engine answers'
	@echo 'make fuzz    a million bad requests to the decoder, and twenty thousand bad calls to a worker; twenty minutes'
	@echo 'make lint    ruff, mypy, import-linter'
	@echo 'make images  the container images'
	@echo 'make up      the control plane and two workers in containers; make down stops them'

venv: .venv/installed

# Installing also generates the code of the .proto files, hence they are prerequisites.
.venv/installed: pyproject.toml hatch_build.py $(wildcard protos/*.proto)
	@test -n '$(PYTHON)' || { echo 'Sponge needs Python 3.11 or newer, and no python3 on PATH is:' \
		'install one, or say make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'Sponge needs the venv module of $(PYTHON);' \
		'on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: venv
	.venv/bin/sponge demo $(ARGS)

bench-serving: venv
	.venv/bin/python -m evaluation.serving $(ARGS)

bench-endurance: venv
	.venv/bin/sponge experiment endurance --output evaluation/results $(ARGS)

bench-overload: venv
	.venv/bin/sponge experiment overload --output evaluation/results $(ARGS)

faults: venv
	.venv/bin/sponge experiment faults --output evaluation/results $(ARGS)

soak: venv
	.venv/bin/sponge experiment soak --output evaluation/results $(ARGS)

test: venv
	.venv/bin/pytest $(ARGS)

fuzz: venv
	.venv/bin/python -m tests.fuzz $(ARGS)

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Needs a Docker engine and Compose, v2 or 1.29. Where python:3.11-slim cannot be pulled, a base image is built (as root).
images:
	scripts/compose --profile demo build $(SERVICES)

up:
	scripts/compose up --build --detach

down:
	scripts/compose --profile demo --profile observability down
