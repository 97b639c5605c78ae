# Everything starts here: each target sets up what it needs first.
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench chaos table conformance proto clean

PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.tools/bin
export PATH
# Where it is set, each of the many processes compiles Billet and its libraries again.
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: uv, Python packages as locked, etcd, containerd (into this folder)
	@sh scripts/setup

demo: setup ## a whole cluster on this machine, beside the static list; ARGS="--hosts 8 --keep"
	@billet demo $(ARGS)

# Most of the time of the slow tests is waiting, so that four at once are faster also where there are two cores.
PYTEST := pytest --numprocesses 4 --dist worksteal

test: setup ## every test; ARGS="-k auction", ARGS="--randomly-seed=1" for the same order again
	$(PYTEST) $(ARGS)

check: setup ## format, lint, types, import rules, private names, sizes, old words, generated code, and the fast tests
	ruff format --check
	ruff check
	mypy
	lint-imports
	python -m scripts.check_private src scripts benchmarks chaos workloads
	python -m scripts.check_size
	python -m scripts.check_words
	sh scripts/proto --check
	$(PYTEST) -m "not slow" $(ARGS)

bench: setup ## creates per second and milliseconds, beside the floor of a single flintlockd
	python -m benchmarks $(ARGS)

chaos: setup ## ten minutes of everything going wrong, every promise checked; ARGS="failover --times 5"
	python -m chaos $(ARGS)

table: setup ## the central table of docs/lab/score-comparison.md, on freshly generated workloads; ARGS="all" for the other two
	@python -m workloads table $(ARGS)

conformance: setup ## check any Flintlock endpoint: TARGET=host:port ARGS="--token T --ca ca.pem"; without TARGET: usage
	@python -m tests.conformance $(TARGET) $(ARGS)

proto: setup ## generate the Python code of the .proto files
	sh scripts/proto

clean: ## take away all that setup and the tools made
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
