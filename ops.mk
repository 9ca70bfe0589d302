# Operating: the tables of the reference.
.PHONY: reference

reference: .venv/dev ## write the tables of docs/metrics.md and docs/logs.md anew
	$(BIN)/python -m worker.reference
