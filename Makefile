# The two commands: `make demo` and `make test`. Both build .venv first when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# With this set, every start of a Python process takes three times as long: each kb command, each Dagster run.
unexport PYTHONDONTWRITEBYTECODE

# Models are on the machine or they are an error; nothing is fetched at run time.
export HF_HUB_OFFLINE := 1

DOCUMENTS ?=
FORMATS ?=
RETRIEVAL ?=

.PHONY: demo test test-sources test-slow bench check format dev clean

demo: $(STAMP)
	$(BIN)/python demo/demo.py

# A file's tests stay in one process; two processes, because each kb command under test uses a core of its own.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not sources"

# The real kb on a bucket and on Postgres: servers that the tests start on this machine.
test-sources: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "sources and not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest

# Measures on the demo's handbook unless told otherwise; writes benchmarks/results and docs/performance.md.
bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py $(if $(DOCUMENTS),--documents $(DOCUMENTS)) \
		$(if $(FORMATS),--formats $(FORMATS)) $(if $(RETRIEVAL),--retrieval $(RETRIEVAL))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dev: $(STAMP)
	$(BIN)/kb --config demo/kb.yaml dev

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .kb-demo
