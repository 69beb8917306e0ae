# samplerbench in a container: on processors, or on CUDA with another base. docs/cluster.md has the commands.
ARG BASE=ubuntu:24.04
FROM ${BASE}

# "cpu", or the wheels of torch for a version of CUDA, as in cu128.
ARG TORCH=cpu
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
    && pip install "torch>=2.10" --index-url "https://download.pytorch.org/whl/${TORCH}"

COPY . /opt/samplerbench
RUN pip install "/opt/samplerbench${EXTRAS}"

# Nobody needs to be root to draw; results are written where the user mounts a folder.
RUN useradd --create-home drawer && install --directory --owner=drawer /work
USER drawer
WORKDIR /work
ENTRYPOINT ["samplerbench"]
CMD ["--help"]
