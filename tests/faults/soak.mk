# The soak: faults by a seeded schedule against real workers and a real cluster (docs/faults.md).
SEED ?= 1
SECONDS ?= 300

.PHONY: soak
soak: .venv/dev ## workers, brokers and networks hurt for SECONDS, by the schedule of SEED; then everything is checked
	nice -n 10 $(BIN)/python -m tests.faults.soak --seed $(SEED) --seconds $(SECONDS)
