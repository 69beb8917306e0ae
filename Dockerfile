# samplerbench in a container: on processors, or on CUDA with another base. docs/cluster.md has the commands.
ARG BASE=ubuntu:24.04
FROM ${BASE}

# The index that has the wheels of torch for the processor or a version of CUDA; empty, which pip ignores, is its own.
ARG TORCH_INDEX=""
ARG EXTRAS=""

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/venv \
    && PIP_INDEX_URL=$TORCH_INDEX pip install "torch>=2.10"

COPY . /opt/samplerbench
RUN pip install "/opt/samplerbench${EXTRAS}"

# Nobody needs to be root to draw; results are written where the user mounts a folder.
RUN useradd --uid 10001 --create-home drawer && install --directory --owner=drawer /runs
USER 10001
WORKDIR /runs
ENTRYPOINT ["samplerbench"]
CMD ["--help"]
