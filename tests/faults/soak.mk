# The soak: faults by a seeded schedule against real workers and a real cluster (docs/faults.md).
SEED ?= 1
SEEDS ?= 1 2 3 4 5
SECONDS ?= 300
SOAK := nice -n 10 $(BIN)/python -m tests.faults.soak --seconds $(SECONDS)

.PHONY: soak soaks
soak: .venv/dev ## workers, brokers and networks hurt for SECONDS, by the schedule of SEED; then everything is checked
	$(SOAK) --seed $(SEED)

soaks: .venv/dev ## one soak after another, of SEEDS, and their report side by side
	mkdir -p .rollcall/soaks
	wrong=0; for seed in $(SEEDS); do $(SOAK) --seed $$seed --write .rollcall/soaks/$$seed.json || wrong=1; done; \
	$(BIN)/python -m tests.faults.report $(SEEDS:%=.rollcall/soaks/%.json); exit $$wrong
