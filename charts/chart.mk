# The chart's part of the Makefile. The tools are built by Go into a cache outside the repository, once.
.PHONY: chart-tools chart-check chart-docs

test: chart-tools

chart-tools: .venv/dev # what the tests use: helm, kubeconform, kube-score, helm-docs and the schemas
	$(BIN)/python charts/tools.py test

chart-docs: chart-tools # write what is generated: values.schema.json and the chart's README
	$(BIN)/python charts/schema.py
	$(BIN)/python charts/tools.py run helm-docs --chart-search-root charts --log-level warning

chart-check: .venv/dev # with the slower half: Helm 4, promtool, checkov, and real API servers of two versions
	$(BIN)/python charts/tools.py check
	ROLLCALL_CHART_CHECK=1 $(BIN)/pytest tests/charts
