# syntax=docker/dockerfile:1
# git, make, Python and what requirements.txt pins. The clone is mounted when it runs: docs/trouble.md says how.
FROM python:3.12-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes git make \
    && rm -rf /var/lib/apt/lists/*

# With --build-arg UID="$(id -u)", what is made in the clone is yours.
ARG UID=1000
RUN useradd --create-home --non-unique --uid "$UID" --shell /bin/bash me \
    && install --directory --owner="$UID" /home/me/project \
    && git config --system safe.directory /home/me/project
USER me
WORKDIR /home/me/project

# --build-arg GPU=1 installs NVIDIA's libraries too.
ARG GPU
ENV GPU=$GPU
COPY --chown=me Makefile requirements.txt requirements-gpu.txt ./
RUN --mount=type=cache,target=/var/cache/pip,mode=0777 \
    PIP_CACHE_DIR=/var/cache/pip make ".venv/.runtime${GPU:+-gpu}"

ENV PATH=/home/me/project/.venv/bin:$PATH
CMD ["bash"]
