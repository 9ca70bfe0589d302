# Two stages: what builds stays behind. The result has Python, Rollcall (what each record passes through is compiled) and
# the locked libraries, and no way to install anything; it runs as nobody in particular, on a read-only root.
# tests/charts/test_image.py runs these very steps. BUILD is the same Python with a C compiler.
ARG PYTHON=python:3.11-slim-bookworm
ARG BUILD=python:3.11-bookworm

FROM ${BUILD} AS build
ENV VENV=/opt/rollcall
WORKDIR /src
COPY requirements/run.txt requirements/compile.txt requirements/
# The libraries, as locked; a library without a wheel is refused.
RUN python -m venv --without-pip "$VENV" \
 && python -m pip --python "$VENV/bin/python" install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r requirements/run.txt
# What builds is locked, too.
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
    --require-hashes --only-binary :all: -r requirements/compile.txt
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY handlers handlers
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=true python -m hatchling build -t wheel -d dist \
 && python -m pip --python "$VENV/bin/python" install --no-cache-dir --disable-pip-version-check \
    --no-deps --no-index dist/rollcall_cdc-*.whl

FROM ${PYTHON}
RUN python -m pip uninstall --quiet --yes --disable-pip-version-check --root-user-action ignore pip setuptools wheel
COPY --from=build /opt/rollcall /opt/rollcall
ENV PATH=/opt/rollcall/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["rollcall"]
