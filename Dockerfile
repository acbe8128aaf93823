# One target per plane, and one for the demo's models and traffic:
#   docker build --target worker -t sponge-worker .
# Where no image registry is reachable, scripts/base-image builds a base to pass as BASE.
ARG BASE=python:3.11-slim

FROM ${BASE} AS base
# A virtual environment of its own: Debian's Python takes no packages, and both bases look the same from here on.
ENV PATH=/opt/sponge/bin:${PATH} PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# ONNX Runtime's wheels since 1.29 report names and hashes of models to Microsoft unless told not to before they load.
ENV ORT_DISABLE_TELEMETRY=1
RUN python3 -m venv /opt/sponge \
    && useradd --create-home --uid 10001 sponge \
    && install -d -o sponge -g sponge /models
WORKDIR /home/sponge

# Each file changes only when its own requirements do, whatever else changes in pyproject.toml.
FROM base AS requirements
COPY pyproject.toml /src/
COPY scripts/requirements /src/scripts/
RUN cd /src \
    && scripts/requirements --build > build.txt \
    && scripts/requirements dataplane > worker.txt \
    && scripts/requirements controlplane kubernetes > control.txt \
    && scripts/requirements demo > demo.txt

FROM base AS wheel
# Only where the package index is not the public one.
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY --from=requirements /src/build.txt /src/
RUN pip install -r /src/build.txt
COPY . /src
RUN pip wheel --no-build-isolation --no-deps --wheel-dir /dist /src

FROM base AS worker-requirements
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY --from=requirements /src/worker.txt /tmp/
RUN pip install -r /tmp/worker.txt

FROM worker-requirements AS worker
COPY deploy/healthcheck.py /opt/sponge/healthcheck.py
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-deps /tmp/dist/*.whl
USER sponge
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s CMD ["python", "-IS", "/opt/sponge/healthcheck.py", "8001"]
ENTRYPOINT ["python", "-m", "dataplane"]
CMD ["--config", "/etc/sponge/worker.toml"]

FROM base AS control
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY --from=requirements /src/control.txt /tmp/
RUN pip install -r /tmp/control.txt
COPY deploy/healthcheck.py /opt/sponge/healthcheck.py
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-deps /tmp/dist/*.whl \
    && install -d /var/lib/sponge
# Stays root: this image also runs as the socket proxy, and the Docker socket belongs to root and to a group whose number
# differs from host to host. compose.yaml takes every capability away from both.
EXPOSE 8500 8501
HEALTHCHECK --interval=10s --timeout=5s CMD ["python", "-IS", "/opt/sponge/healthcheck.py", "8500"]
ENTRYPOINT ["python", "-m", "controlplane"]
CMD ["--config", "/etc/sponge/control.toml"]

FROM worker-requirements AS demo
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY --from=requirements /src/demo.txt /tmp/
RUN pip install -r /tmp/demo.txt
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-deps /tmp/dist/*.whl
USER sponge
ENTRYPOINT ["sponge"]
CMD ["--help"]
