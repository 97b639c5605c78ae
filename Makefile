# Each target first sets up what it needs.
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench chaos table conformance interop proto release clean

PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.tools/bin
export PATH
# Where it is set, each of the many processes compiles Billet and its libraries again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## install uv, the locked Python packages, etcd and containerd into this folder
	@sh scripts/setup

demo: setup ## run a whole cluster on this machine; ARGS="--hosts 8 --keep"
	@billet demo $(ARGS)

# Slow tests mostly wait, so four at a time are faster even on two cores.
PYTEST := pytest --numprocesses 4 --dist worksteal

test: setup ## run all tests; ARGS="-k auction"; ARGS="--randomly-seed=1" repeats an order
	@# Meanwhile the tests are compiled, once and not by each worker.
	@pytest --collect-only --quiet >/dev/null 2>&1 & python -m tests.interop.toolchain && wait
	$(PYTEST) $(ARGS)

check: setup ## check format, lint, types, import rules, names, sizes, generated code, advisories; run the fast tests
	ruff format --check
	ruff check
	mypy
	lint-imports
	python -m scripts.check_private
	python -m scripts.check_size
	python -m scripts.check_words
	sh scripts/proto --check
	python -m scripts.check_advisories
	$(PYTEST) -m "not slow" $(ARGS)

bench: setup ## measure creates per second and latency, compared with a single flintlockd
	python -m benchmarks $(ARGS)

chaos: setup ## inject faults for ten minutes and check every promise; ARGS="failover --times 5"
	python -m chaos $(ARGS)

table: setup ## print the central table of docs/lab/score-comparison.md from generated workloads; ARGS="all" for the others
	@python -m workloads table $(ARGS)

conformance: setup ## check any Flintlock endpoint: TARGET=host:port ARGS="--token T --ca ca.pem"; without TARGET: usage
	@python -m tests.conformance $(TARGET) $(ARGS)

interop: setup ## test against grpc-go, grpcurl, ghz, grpc-js and h2spec; needs Go; ARGS="-k streams"
	@python -m tests.interop.toolchain
	pytest tests/interop --numprocesses 2 --dist worksteal $(ARGS)

proto: setup ## generate Python code from the .proto files
	sh scripts/proto

release: setup ## make dist/: a wheel, requirements.txt with hashes, and an SBOM
	sh scripts/release

clean: ## remove what setup and the tools have created
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
