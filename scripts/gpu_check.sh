#!/usr/bin/env bash
# Checks the CUDA backend on a machine with a GPU: every CUDA test, then the tables of bandwidth and ceilings.
#   scripts/gpu_check.sh           builds what is missing (or, where there is one, unpacks build/gpu), checks
#   scripts/gpu_check.sh --pack    builds, and packs into build/gpu all that a GPU machine without the build's packages needs:
#                                  carry that folder there
#   scripts/gpu_check.sh --quick   checks alone, without the tables
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TESTS=(cuda_host_test cuda_test cuda_ops_test)
TABLES=(cuda_bandwidth cuda_library_rates)
BUILD=build/cuda
PACK=build/gpu

# Packs the programs, stripped, and the libraries that a bare machine with CUDA lacks.
pack() {
  local folder program library
  folder=$(mktemp -d)
  mkdir "$folder"/bin "$folder"/lib
  for program in "${TESTS[@]}" "${TABLES[@]}"; do strip -o "$folder/bin/$program" "$BUILD/tests/$program"; done
  strip -o "$folder"/bin/nostos "$BUILD"/bin/nostos
  for library in $(ldd "$folder"/bin/* | awk '/=> \// {print $3}' | sort -u); do
    case $(basename "$library") in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libstdc++.so.* | libgcc_s.so.*) ;;
      libcuda.so.* | libcublas* | libcudnn* | libnvrtc*) ;;
      *) cp "$library" "$folder"/lib/ ;;
    esac
  done
  rm -rf "$PACK"
  mkdir -p "$PACK"
  tar -C "$folder" -cJf "$PACK"/programs.tar.xz bin lib
  rm -r "$folder"
  du -h "$PACK"/programs.tar.xz
}

# The folders of CUDA's libraries: those of PyTorch's packages where there are any.
cuda_library_folders() {
  python3 - <<'PYTHON'
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
places = spec.submodule_search_locations if spec else []
print(":".join(str(folder) for place in places for folder in pathlib.Path(place).glob("**/lib")))
PYTHON
}

case "${1-}" in
  --pack)
    build_preset cuda "${TESTS[@]}" "${TABLES[@]}" nostos
    pack
    exit
    ;;
  "" | --quick) ;;
  *)
    echo "usage: scripts/gpu_check.sh [--pack | --quick]" >&2
    exit 2
    ;;
esac

if ! command -v nvidia-smi >/dev/null; then
  echo "error: there is no NVIDIA GPU here (nvidia-smi is missing)" >&2
  exit 1
fi
if [ -f "$PACK"/programs.tar.xz ]; then
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$PACK"/programs.tar.xz "$PACK"
  programs=$PACK/bin
  LD_LIBRARY_PATH=$PWD/$PACK/lib:$(cuda_library_folders):${LD_LIBRARY_PATH-}
  export LD_LIBRARY_PATH
else
  build_preset cuda "${TESTS[@]}" "${TABLES[@]}"
  programs=$BUILD/tests
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
failed=()
for program in "${TESTS[@]}"; do
  "$programs/$program" --gtest_brief=1 || failed+=("$program")
done
if [ "${1-}" != --quick ]; then
  for program in "${TABLES[@]}"; do "$programs/$program" || failed+=("$program"); done
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "All CUDA checks passed"
