# nostos in a container: built in one stage, run with what it links to in another.
#   docker build -t nostos .
#   docker run --rm -p 30000:30000 -v nostos-data:/data -v "$PWD/key:/run/secrets/nostos-key:ro" nostos
# With CUDA (the base images bring cuDNN and NCCL; a GPU needs --gpus all):
#   docker build -t nostos:cuda --build-arg PRESET=cuda --build-arg BUILD_BASE=nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04 \
#     --build-arg RUN_BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 --build-arg BOOST=libboost1.83-dev .
ARG BUILD_BASE=debian:12-slim
ARG RUN_BASE=debian:12-slim

FROM ${BUILD_BASE} AS build
ARG BOOST=libboost1.81-dev
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      g++ cmake ninja-build pkg-config libc6-dev python3 python3-pip \
      libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev \
      libpng-dev libjpeg-dev libwebp-dev libpcre2-dev libutf8proc-dev libssl-dev libcurl4-openssl-dev libdnnl-dev ocl-icd-opencl-dev \
      ${BOOST} libsqlite3-dev \
    && rm -rf /var/lib/apt/lists/*
ARG PRESET=cpu
# What `nostos --version` says, e.g. --build-arg COMMIT=$(git rev-parse --short=12 HEAD).
ARG COMMIT=""
WORKDIR /src
COPY . .
RUN cmake --preset ${PRESET} -DNOSTOS_TESTS=OFF -DNOSTOS_MPI=OFF -DNOSTOS_COMMIT=${COMMIT} \
    && cmake --build --preset ${PRESET} --target nostos \
    && cmake --install build/${PRESET} --prefix /opt/nostos --strip
# The packages whose libraries the program links to, for the other stage.
RUN ldd /opt/nostos/bin/nostos | awk '$3 ~ /^\// {print $3}' | xargs -n 1 realpath | xargs -n 1 basename | sed 's|^|*/|' \
    | xargs -d '\n' dpkg -S | cut -d : -f 1 | sort -u > /opt/nostos/packages

FROM ${RUN_BASE}
RUN --mount=from=build,source=/opt/nostos/packages,target=/tmp/packages apt-get update \
    && DEBIAN_FRONTEND=noninteractive xargs -a /tmp/packages apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 30000 --no-create-home nostos && install -d -o nostos /data
COPY --from=build /opt/nostos /usr/local
USER nostos
VOLUME /data
EXPOSE 30000
ENV OMP_WAIT_POLICY=passive NOSTOS_CACHE_DIR=/data/cache
HEALTHCHECK --start-period=120s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/30000 && printf 'GET /health/ready HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '^HTTP/1.. 200' <&3"]
ENTRYPOINT ["nostos"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data", "--api-key-file", "/run/secrets/nostos-key"]
