# Everything runs in .venv, which is made of the hashed requirements; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test check format lock clean

demo: .venv/demo ## run all of it here for a minute, and check the result
	$(BIN)/rollcall demo

test: .venv/dev ## all tests but the soaks, two files at a time
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/dev ## the inner loop: lint, types, import layers, unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/pip:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/pip requirements/demo.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/demo.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: .venv/pip requirements/dev.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@ .venv/demo

# The locks, made anew by uv; they name no package index.
COMPILE = $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header pyproject.toml
lock:
	$(COMPILE) --extra telemetry -o requirements/run.txt
	$(COMPILE) --extra telemetry --extra embedded --extra build -o requirements/demo.txt
	$(COMPILE) --extra telemetry --extra embedded --extra build --extra test -o requirements/dev.txt

clean:
	rm -rf .venv .rollcall dist build

include charts/chart.mk tests/faults/soak.mk benchmarks/bench.mk ops.mk
