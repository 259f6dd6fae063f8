#!/usr/bin/env bash
# Checks the CUDA backend on a machine with a GPU: every CUDA test and whole drawings, then tables: bandwidth, ceilings, and
# the engine's stages beside the ceilings of the same run, also as JSON (build/gpu_check.json, or the file in OUTPUT_JSON).
#   scripts/gpu_check.sh           builds what is missing (or, where there is one, unpacks build/gpu), checks
#   scripts/gpu_check.sh --pack    builds, and packs into build/gpu all that a GPU machine without the build's packages needs:
#                                  carry that folder there
#   scripts/gpu_check.sh --quick   checks alone, without the tables
#   scripts/gpu_check.sh --portable  the op tests and drawings with a build for compute_80 alone, which has no Hopper kernels:
#                                  what other GPUs run
#   scripts/gpu_check.sh --walk    a server's memory over hundreds of sizes and prompt lengths
#   scripts/gpu_check.sh --engine  the engine's table alone, with diffusers beside it where Python has it
#   scripts/gpu_check.sh --memcheck  small drawings under compute-sanitizer, on one rank and two that share the GPU, and
#                                  Hopper's attention and convolutions; then tests of our kernels for races between their threads
#   scripts/gpu_check.sh --multi [PART...]  all GPUs together: NCCL's tests, then all of bench/multi_gpu.py or the
#                                  parts that are named (equality mpirun sockets scaling failures), figures to build/multi_gpu.json
# Where Open MPI is, ranks can be processes, too.
# What each process said and how it ended stays in build/gpu_logs; one that crashes says where.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TESTS=(cuda_host_test cuda_test cuda_ops_test nccl_gpu_test cuda_fault_test)
TABLES=(cuda_bandwidth cuda_library_rates cuda_block_rates cuda_decoder_rates cuda_batch_rates)
PROGRAMS=("${TESTS[@]}" "${TABLES[@]}" cuda_pipeline_test cuda_noise)
BUILD=build/cuda
PORTABLE=build/cuda-portable
PORTABLE_PROGRAMS=(cuda_test cuda_ops_test cuda_pipeline_test)
PACK=build/gpu
LOGS=build/gpu_logs
OUTPUT_JSON=${OUTPUT_JSON:-build/gpu_check.json}

# Builds all programs. Elsewhere than on Debian 12 the packages go by other names: CMake says which of them are missing.
build() {
  install_packages "${PACKAGES[@]}" || echo "Building with the packages that are there"
  CONFIGURE_FLAGS=(-DNOSTOS_MPI=$(command -v ompi_info >/dev/null && command -v mpicc >/dev/null && echo ON || echo OFF))
  build_preset cuda "${PROGRAMS[@]}" crash_report nostos
}

build_portable() {
  CONFIGURE_FLAGS=()
  build_preset cuda-portable "${PORTABLE_PROGRAMS[@]}" nostos
}

# Packs the programs, stripped, and the libraries that a bare machine with CUDA lacks.
pack() {
  local folder program library
  folder=$(mktemp -d)
  mkdir -p "$folder"/bin "$folder"/lib/mpi
  for program in "${PROGRAMS[@]}"; do strip -o "$folder/bin/$program" "$BUILD/tests/$program"; done
  strip -o "$folder"/bin/nostos "$BUILD"/bin/nostos
  cp "$BUILD"/tests/libcrash_report.so "$folder"/bin/
  mkdir "$folder"/portable
  for program in "${PORTABLE_PROGRAMS[@]}"; do strip -o "$folder/portable/$program" "$PORTABLE/tests/$program"; done
  strip -o "$folder"/portable/nostos "$PORTABLE"/bin/nostos
  for library in $(ldd "$folder"/bin/* | awk '/=> \// {print $3}' | sort -u); do
    case $(basename "$library") in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libstdc++.so.* | libgcc_s.so.*) ;;
      libcuda.so.* | libcublas* | libcudnn* | libnccl* | libnvrtc*) ;;
      # Launcher and library of MPI belong together: these serve where the GPU machine has neither.
      libmpi.so.* | libopen-pal.so.* | libopen-rte.so.* | libhwloc.so.* | libevent_* | libpmix.so.* | libudev.so.*)
        cp "$library" "$folder"/lib/mpi/
        ;;
      *) cp "$library" "$folder"/lib/ ;;
    esac
  done
  mkdir -p "$PACK"
  XZ_OPT=-9 tar -C "$folder" -cJf "$PACK"/programs.tar.xz bin portable lib
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
    build
    build_portable
    pack
    exit
    ;;
  "" | --quick | --portable | --walk | --engine | --memcheck | --multi) ;;
  *)
    echo "usage: scripts/gpu_check.sh [--pack | --quick | --portable | --walk | --engine | --memcheck | --multi [PART...]]" >&2
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
  nostos=$PACK/bin/nostos
  portable=$PACK/portable
  crash_report=$PACK/bin/libcrash_report.so
  LD_LIBRARY_PATH=$PWD/$PACK/lib:$(cuda_library_folders):${LD_LIBRARY_PATH-}
  command -v mpirun >/dev/null || LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$PWD/$PACK/lib/mpi
  export LD_LIBRARY_PATH
else
  build
  programs=$BUILD/tests
  nostos=$BUILD/bin/nostos
  portable=$PORTABLE/tests
  crash_report=$BUILD/tests/libcrash_report.so
  [ "${1-}" != --portable ] || build_portable
fi
rm -rf "$LOGS"
mkdir -p "$LOGS"
# What the first process finds out about products serves the others, but none of a run before.
NOSTOS_CACHE_DIR=$(mktemp -d)
trap 'rm -rf "$NOSTOS_CACHE_DIR"' EXIT
export NOSTOS_CACHE_DIR NOSTOS_SOURCE_DIR=$PWD NOSTOS_MODELS_DIR=$PWD/models NOSTOS_BINARY=$PWD/$nostos
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# logged NAME COMMAND...: runs a command, keeps what it says and how it ended in a file of that name, and says so where it
# ended badly.
logged() {
  local name=$1 log=$LOGS/$1.log status=0 ending
  shift
  LD_PRELOAD=$PWD/$crash_report "$@" > >(tee "$log") 2> >(tee -a "$log" >&2) || status=$?
  ending="ended with $status"
  [ $status -le 128 ] || ending="was ended by SIG$(kill -l $((status - 128)))"
  echo "$name $ending" >>"$log"
  [ $status -eq 0 ] || [ $status -eq 77 ] || echo "$name $ending; $log has what it said" >&2
  return $status
}

# check NAME COMMAND...: runs a check; status 77 says that it could not be made here.
failed=()
check() {
  local status=0
  logged "$@" || status=$?
  [ $status -eq 0 ] || [ $status -eq 77 ] || failed+=("$1")
}

# Whole drawings, in processes side by side: most of their time is the compilation of cuDNN's plans on the host. One alone
# has the full size, so that its weights are there once; ranks that wait for each other on the GPU would wait for ever if
# they failed.
check_drawings() {
  local folder=$1 name=$2 shard pid pids=() status=0
  local drawings=("$folder"/cuda_pipeline_test --gtest_brief=1)
  logged "${name}_full_size" timeout -s KILL 900 "${drawings[@]}" --gtest_filter='CudaFullSize*' &
  pids+=($!)
  for shard in 0 1 2 3; do
    GTEST_TOTAL_SHARDS=4 GTEST_SHARD_INDEX=$shard logged "${name}_$shard" "${drawings[@]}" \
      --gtest_filter='-CudaMemory*:CudaFullSize*' &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  # This one takes all of the GPU's memory.
  logged "${name}_memory" "${drawings[@]}" --gtest_filter='CudaMemory*' || status=1
  [ $status -eq 0 ] || failed+=("$name")
}

# Draws 64x64 pixels in two guided steps.
small_drawing=("$nostos" generate --device cuda --prompt "A cat" --height 64 --width 64 --num-inference-steps 2
  --guidance-scale 4 --output build/memcheck.png)

sanitize() {
  compute-sanitizer --error-exitcode 9 --tool "$@"
}
# Our kernels alone, or it would not come to an end. Beside kernels of the libraries it looks into, racecheck (CUDA 13.0)
# loses the GPU by itself: no whole drawing, and only tests that call none.
racecheck() {
  sanitize racecheck --kernel-name kernel_substring=nostos "$programs/$1" --gtest_brief=1 --gtest_filter="$2"
}

if [ "${1-}" = --memcheck ]; then
  check memcheck sanitize memcheck "${small_drawing[@]}"
  check memcheck_of_2_ranks sanitize memcheck "${small_drawing[@]}" --num-gpus 2 --allow-shared-gpu
  check memcheck_of_attention sanitize memcheck "$programs"/cuda_test --gtest_brief=1 \
    --gtest_filter='CudaAttention.PackedGives*:CudaAttention.HeadsOf128*'
  check memcheck_of_convolutions sanitize memcheck "$programs"/cuda_test --gtest_brief=1 --gtest_filter='CudaConv*'
  check racecheck_of_convolutions racecheck cuda_test 'CudaConv.AddingToZeros*'
  check racecheck_of_attention racecheck cuda_test 'CudaAttention.PackedGives*'
  check racecheck_of_ops racecheck cuda_ops_test '*Norm*:SplitHeads*:Silu*'
elif [ "${1-}" = --multi ]; then
  check nccl_gpu_test "$programs"/nccl_gpu_test --gtest_brief=1
  check ranks_on_gpus "$programs"/cuda_pipeline_test --gtest_brief=1 --gtest_filter='CudaGpus*'
  check multi_gpu python3 bench/multi_gpu.py --nostos "$nostos" --json build/multi_gpu.json --parts "${@:2}"
elif [ "${1-}" = --portable ]; then
  for program in cuda_test cuda_ops_test; do check "portable_$program" "$portable/$program" --gtest_brief=1; done
  check_drawings "$portable" portable_drawings
elif [ "${1-}" = --walk ]; then
  check walk env NOSTOS_WALK_DEVICE=cuda python3 tests/apps/server_walk_test.py
elif [ "${1-}" != --engine ]; then
  for program in "${TESTS[@]}"; do check "$program" "$programs/$program" --gtest_brief=1; done
  check_drawings "$programs" drawings
  check noise_against_torch python3 tests/cuda/noise_against_torch.py "$programs"/cuda_noise
  check command_line python3 tests/cuda/cli_test.py
fi
if [ -z "${1-}" ]; then
  for program in "${TABLES[@]}"; do check "$program" "$programs/$program"; done
fi
if [ "${1-}" = "" ] || [ "$1" = --engine ]; then
  check engine_table python3 bench/gpu_table.py --nostos "$nostos" --rates "$programs"/cuda_library_rates --json "$OUTPUT_JSON"
  if python3 -c 'import diffusers' 2>/dev/null; then
    check diffusers python3 bench/diffusers_gpu.py --nostos "$OUTPUT_JSON"
  else
    echo "Skipped: diffusers beside it (no diffusers here)"
  fi
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "All CUDA checks passed"
