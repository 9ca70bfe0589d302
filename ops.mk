# Operating: the tables of the reference; what is in a release, and whether something in it is known to be vulnerable.
.PHONY: reference sbom audit

OPS := .cache/ops
SBOM := dist/rollcall.cdx.json

reference: .venv/dev ## write the tables of docs/metrics.md and docs/logs.md anew
	$(BIN)/python -m worker.reference

# The tools have an environment of their own, and so has what is described: just what requirements/run.txt installs.
$(OPS)/tools: requirements/ops.txt
	$(PYTHON) -m venv --clear $(OPS)/tool
	$(OPS)/tool/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/ops.txt
	touch $@

$(OPS)/release: $(OPS)/tools requirements/run.txt
	$(PYTHON) -m venv --clear --without-pip $(OPS)/run
	$(OPS)/tool/bin/pip --python $(OPS)/run/bin/python install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/run.txt
	touch $@

sbom: $(OPS)/release ## write dist/rollcall.cdx.json: everything that a worker runs (CycloneDX)
	mkdir -p dist
	$(OPS)/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON --output-file $(SBOM) $(OPS)/run/bin/python
	@echo "$(SBOM): $$(grep -c '"bom-ref"' $(SBOM)) components"

audit: $(OPS)/tools ## look up known vulnerabilities of what a worker runs (needs the network)
	@$(OPS)/tool/bin/python tests/secure/audit.py requirements/run.txt
