# undial on a CPU:   docker build -t undial .
# undial on a GPU:   docker build -t undial:cuda --build-arg TORCH=cuda .
# and then:          docker run --rm -v undial-cache:/cache -v "$PWD:/work" undial unlearn
#                    docker run --rm --gpus all --shm-size 8g ... undial:cuda unlearn model=llama1b data=tofu
# The wheels of torch bring CUDA with them, so that both images need no more than Python; BASE takes
# another image that has it, such as one of nvidia/cuda with python3 and python3-venv.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG TORCH=cpu
ARG EXTRAS=qlora,harness
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/undial
ENV PATH=/opt/undial/bin:$PATH
WORKDIR /source
# First what seldom changes: torch, in the version that is tested, for a CPU from PyTorch's own index.
COPY constraints.txt ./
RUN case "${TORCH}" in \
      cpu) export PIP_INDEX_URL=https://download.pytorch.org/whl/cpu \
        PIP_EXTRA_INDEX_URL=https://pypi.org/simple ;; \
      cuda) ;; \
      *) echo "TORCH=${TORCH}: must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && pip install "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY undial_cli ./undial_cli
COPY configs ./configs
RUN pip install -c constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
# Not root: run folders belong to uid 1000, or to the one that --user names; it needs no entry.
RUN mkdir --mode 1777 /cache /work
COPY --from=build /opt/undial /opt/undial
ENV PATH=/opt/undial/bin:$PATH USER=undial \
    HOME=/cache XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
# Models, data sets and what runs share; it holds text of forget sets, as `undial list` says.
VOLUME /cache
ENTRYPOINT ["undial"]
CMD ["--help"]
