# Everything runs in .venv, which is made of the hashed requirements; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-compiled check format lock clean

demo: .venv/demo ## run all of it here for a minute, and check the result
	$(BIN)/rollcall demo

# Three files at a time (tests/conftest.py), since much is waited for; in the order of their folders: what takes long comes
# first, unit tests last.
PYTEST := JAVA_TOOL_OPTIONS="-XX:SharedArchiveFile=$(CURDIR)/.cache/kafka.jsa -Xlog:cds=off -Xlog:cds+dynamic=off" \
	$(BIN)/pytest -n 3 --no-loadscope-reorder

test: .venv/dev .cache/kafka.jsa ## all tests but the soaks; where there is a C compiler, on the compiled build too
	$(PYTEST)
	@$(if $(COMPILER),$(MAKE) test-compiled,echo "No C compiler: the compiled build is not tested.")

# Some eighty brokers are started: what they load is kept in a form that Java reads at once.
.cache/kafka.jsa: .venv/dev tests/archive.py worker/embedded/jars.lock
	$(BIN)/python tests/archive.py $@

# The compiled build, where there is a C compiler. It is made in a copy, since it leaves its libraries beside the sources,
# where they would be run. The tests of the image leave their wheel there: what they have compiled is not compiled again.
COMPILER := $(shell command -v cc)
COMPILED := .cache/compiled
NOT_COMPILED := $(foreach part,deletes embedded simulator,--ignore-glob='*$(part)*')
COMPILED_RUN := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED)/site

test-compiled: $(COMPILED)/done ## the tests of what is compiled, on the compiled build
	$(COMPILED_RUN) ROLLCALL_COMPILED=1 $(PYTEST) $(NOT_COMPILED) tests/unit tests/contract tests/flow

$(COMPILED)/done: $(COMPILED)/wheel
	rm -rf $(COMPILED)/site
	$(PIP) --no-deps --no-index --target $(COMPILED)/site $(COMPILED)/dist/*.whl
	touch $@

$(COMPILED)/wheel: .venv/dev pyproject.toml $(shell find worker handlers -name '*.py')
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)/src
	cp -r pyproject.toml README.md LICENSE worker handlers $(COMPILED)/src
	cd $(COMPILED)/src && HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(CURDIR)/$(BIN)/python -m hatchling build -t wheel -d ../dist
	touch $@

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
LOCK = $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header pyproject.toml
lock:
	$(LOCK) --extra telemetry -o requirements/run.txt
	$(LOCK) --extra telemetry --extra embedded --extra build -o requirements/demo.txt
	$(LOCK) --extra telemetry --extra embedded --extra build --extra compile --extra test -o requirements/dev.txt
	$(LOCK) --extra telemetry --extra compile -o requirements/compile.txt

clean:
	rm -rf .venv .rollcall dist build $(COMPILED)

include charts/chart.mk tests/faults/soak.mk benchmarks/bench.mk ops.mk
