# What demo.sh and test.sh share: the Debian packages, and configuring and building one CMake preset. Sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Everything that the build and the tests need on a bare Debian 12.
PACKAGES=(
  g++ cmake ninja-build pkg-config libc6-dev
  libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev
  libpng-dev libjpeg62-turbo-dev libwebp-dev libpcre2-dev libutf8proc-dev
  openssl libssl-dev libcurl4-openssl-dev libdnnl-dev ocl-icd-opencl-dev
  libopenmpi-dev openmpi-bin
  libboost1.81-dev libsqlite3-dev
  libgtest-dev python3 python3-dev python3-pip
)

# install_packages NAME...: installs those that are missing, as root or with sudo.
install_packages() {
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "error: these packages are missing and there is no sudo; as root run: apt-get install ${missing[*]}" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  echo "Installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# install_python_packages: puts the packages that tests use where their Python finds them: OpenAI's client, the hub's, what the Python package
# is built and used with, and what checks the OpenAPI document.
install_python_packages() {
  local folder=$PWD/build/python package
  for package in openai=openai==3.57.0 huggingface_hub=huggingface_hub==2.4.0 nanobind=nanobind==3.1.0 numpy=numpy PIL=pillow \
    jsonschema=jsonschema==4.26.0; do
    [ -d "$folder/${package%%=*}" ] || python3 -m pip install -q --root-user-action=ignore --target "$folder" "${package#*=}" ||
      echo "Skipped: the tests with ${package#*=}, which pip could not install"
  done
  export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}
}

# install_schemathesis: the same of schemathesis, which makes requests of the OpenAPI document.
install_schemathesis() {
  local folder=$PWD/build/python
  [ -d "$folder/schemathesis" ] || python3 -m pip install -q --root-user-action=ignore --target "$folder" schemathesis==4.32.5 ||
    echo "Skipped: the test with schemathesis, which pip could not install"
}

# has_cuda_toolkit: whether the CUDA backend can be compiled here, with cuDNN.
has_cuda_toolkit() {
  command -v nvcc >/dev/null && echo '#include <cudnn.h>' | nvcc -E -x cu - >/dev/null 2>&1
}

# build_preset PRESET [TARGET...]: configures build/PRESET, with the flags in CONFIGURE_FLAGS, and builds the targets, or
# everything.
CONFIGURE_FLAGS=()
build_preset() {
  local preset=$1
  shift
  if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  fi
  cmake --preset "$preset" "${CONFIGURE_FLAGS[@]}"
  cmake --build --preset "$preset" --parallel "$(nproc)" ${1:+--target "$@"}
}
