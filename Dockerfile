# thrifty-jax in a container, on a CPU:
#   docker build -t thrifty-jax .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" thrifty-jax run --config=folder:small ...
# and on an NVIDIA GPU:
#   docker build -t thrifty-jax:cuda --build-arg EXTRAS="cuda dicom export" .
#   docker run --rm --gpus all -u "$(id -u):$(id -g)" -v "$PWD:/work" thrifty-jax:cuda run ...

FROM python:3.13-slim AS wheel
WORKDIR /source
COPY LICENSE README.md pyproject.toml requirements*.txt ./
COPY configs configs
COPY data_prep data_prep
COPY thrifty_jax thrifty_jax
RUN --mount=type=cache,target=/root/.cache/pip \
  python -m pip wheel --no-deps --wheel-dir=/wheels .

FROM python:3.13-slim
# A requirements-NAME.txt each; see "Start" in README.md.
ARG EXTRAS="dicom export hub openvino"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The requirements come first, in a layer that a change of the program leaves as it is.
COPY requirements*.txt /requirements/
# "$@" are files of requirements.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
  set -- -r /requirements/requirements.txt \
  && for extra in $EXTRAS; do set -- "$@" -r "/requirements/requirements-$extra.txt"; done \
  && python -m pip install "$@"
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
  python -m pip install --no-cache-dir --no-deps /wheels/*.whl

RUN useradd --uid=1000 --create-home thrifty && install --directory --owner=thrifty /work
USER 1000
WORKDIR /work
# Prepared slices and compiled programs outlive the container where a folder is mounted on /work.
ENV TFDS_DATA_DIR=/work/.thrifty_jax/slices XDG_CACHE_HOME=/work/.thrifty_jax/cache
ENTRYPOINT ["thrifty-jax"]
CMD ["--help"]
