# Two stages: what builds stays behind. The result has Python, Rollcall and the locked libraries, and no way to install
# anything; it runs as nobody in particular, on a read-only root. tests/charts/test_image.py runs these very steps.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV VENV=/opt/rollcall
WORKDIR /src
COPY requirements/run.txt requirements/demo.txt requirements/
# The libraries, as locked; a library without a wheel would need a compiler, and is refused.
RUN python -m venv --without-pip "$VENV" \
 && python -m pip --python "$VENV/bin/python" install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r requirements/run.txt
# The build back end comes out of the same locks, so that its hashes are checked too.
RUN sed -nE '/^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/,/[^\\]$/p' requirements/demo.txt >build.txt \
 && python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
    --require-hashes --only-binary :all: -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY handlers handlers
RUN python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist . \
 && python -m pip --python "$VENV/bin/python" install --no-cache-dir --disable-pip-version-check \
    --no-deps --no-index dist/rollcall_cdc-*.whl

FROM ${PYTHON}
RUN python -m pip uninstall --quiet --yes --disable-pip-version-check --root-user-action ignore pip setuptools wheel
COPY --from=build /opt/rollcall /opt/rollcall
ENV PATH=/opt/rollcall/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["rollcall"]
