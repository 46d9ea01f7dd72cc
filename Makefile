# Everything sets itself up: only Python >= 3.11 with venv is needed.
PYTHON ?= python3
VENV ?= .venv
SGLANG ?= .venv-sglang
LOCK ?= .venv-lock
PEER ?= .venv-pgai
RUN := $(VENV)/bin/python -m
# Three processes on two cores, because a test waits half of its time. One without tests left takes some of another's.
PARALLEL := -n 3 --dist worksteal
PIP := $(RUN) pip install --quiet --disable-pip-version-check
# Exact versions, each file checked against the hashes of locks/; nothing is built from source with unlocked tools.
BY_HASH := --require-hashes --only-binary :all:
LOCKED := $(PIP) $(BY_HASH)
LOCK_PIP := $(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check
KEEP ?=

MINUTES ?= 10
VERSION ?= 18
SEED ?=

BENCHMARKS := backfill freshness writes queries queries_in_sql hybrid indexes scale client
RECORD ?=
ARGS ?=

# Tests in which a worker follows changes: with --polling it hears of none and has to look.
POLLING := whole_way version_guard triggers altered_source chunking failures identity many_embeddings repair transactions \
	truncation view server_faults worker_life

.PHONY: help demo unit test test-long test-polling test-sglang lint docs lock audit bench bench-page $(BENCHMARKS:%=bench-%) bench-worker peer chaos clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name purpose; do \
		printf '%-14s %s\n' "$$name" "$$purpose"; \
	done
	@printf '%-14s %s\n' 'bench-NAME' 'one of them: $(BENCHMARKS)'

demo: $(VENV)/installed ## watch vectors follow text; KEEP=1 leaves it running
	$(RUN) pg_qwen_embed demo $(if $(KEEP),--keep)

unit: $(VENV)/installed-dev ## what needs no I/O, in five seconds
	$(RUN) pytest -q -m 'not long' --hypothesis-profile quick tests/unit

test: $(VENV)/installed-dev ## the suite, on PostgreSQL 16 and 18
	$(RUN) pytest $(PARALLEL) -m 'not long'

test-long: $(VENV)/installed-dev ## the tests that take long
	$(RUN) pytest $(PARALLEL) -m long

test-polling: $(VENV)/installed-dev ## all that follows changes, without notifications
	$(RUN) pytest $(PARALLEL) -m 'not long' --polling $(POLLING:%=tests/*/test_%.py)

test-sglang: $(VENV)/installed-dev $(SGLANG)/installed ## our client and our server against a real SGLang on the CPU
	SGLANG_PYTHON=$(SGLANG)/bin/python $(RUN) pytest tests/contract --timeout 600

lint: $(VENV)/installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint docker/Dockerfile

docs: $(VENV)/installed-dev ## write the generated parts of the documentation again
	$(RUN) tools.generate_docs

lock: $(LOCK)/installed ## resolve all dependencies again, within pyproject.toml's ranges, and write locks/ and docs/licences.md
	$(LOCK)/bin/python tools/lock.py
	$(LOCK_PIP) $(BY_HASH) $(patsubst %,-r %,$(wildcard locks/*.txt))
	$(LOCK_PIP) --no-deps --no-build-isolation --editable .
	$(LOCK)/bin/python -m tools.generate_docs

audit: $(LOCK)/installed ## look for known vulnerabilities of the locked versions; needs a registry that knows them
	$(LOCK)/bin/python tools/audit.py

chaos: $(VENV)/installed-dev ## faults for MINUTES, then moves for MINUTES, on PostgreSQL VERSION (16 or 18); SEED=N draws them again
	PYTHONPATH=tests/support $(VENV)/bin/python -W ignore tests/faults/chaos.py --minutes $(MINUTES) --version $(VERSION) $(if $(SEED),--seed $(SEED))
	PYTHONPATH=tests/support TESTS_FORK=1 $(VENV)/bin/python -W ignore tests/faults/lives.py --minutes $(MINUTES) --version $(VERSION) $(if $(SEED),--seed $(SEED))

bench: $(BENCHMARKS:%=bench-%) bench-worker ## every benchmark; RECORD=1 keeps the results for docs/benchmarks.md

$(BENCHMARKS:%=bench-%): bench-%: $(VENV)/installed ## one of them; ARGS='--rounds 1' hands its options on, ARGS=--help names them
	$(VENV)/bin/python -W ignore benchmarks/$*.py $(if $(RECORD),--record) $(ARGS)

bench-worker: $(VENV)/installed ## the smaller ones, about one part each
	for script in start backlog bulk_load chunk_reuse chunking serve_throughput store_lock trigger_function document_rights policy outage saturation hiccups; do \
		$(VENV)/bin/python -W ignore benchmarks/$$script.py || exit 1; \
	done

peer: $(VENV)/installed ## pgai, with which the benchmarks compare where it is there; several GB
	$(VENV)/bin/python benchmarks/peer.py --folder $(PEER)

bench-page: $(VENV)/installed-bench ## write docs/benchmarks.md and its plots from the results that were kept
	$(VENV)/bin/python benchmarks/page.py

clean:
	rm -rf $(VENV) $(SGLANG) $(PEER) $(LOCK)

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or later is needed; name one: make PYTHON=python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml locks/run.txt locks/build.txt
	$(LOCKED) -r locks/run.txt -r locks/build.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed locks/dev.txt
	$(LOCKED) -r locks/dev.txt
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed locks/bench.txt
	$(LOCKED) -r locks/bench.txt
	@touch $@

$(LOCK)/installed: locks/lock.txt
	$(PYTHON) -m venv $(LOCK)
	$(LOCK_PIP) $(BY_HASH) -r $<
	@touch $@

$(SGLANG)/installed: tests/contract/requirements.txt
	$(PYTHON) -m venv $(SGLANG)
	$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@
