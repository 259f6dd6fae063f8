#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests; the last thing printed is ctest's summary.
#   scripts/test.sh          all tests but those labelled `long`
#   scripts/test.sh --long   also the long ones, every fuzz target for 60 seconds, the suite under ASan and UBSan, the
#                            thread ranks and the server under ThreadSanitizer, the packages on a bare Debian 12, Slurm, the
#                            Python wheels, and the CUDA kernels compiled for every GPU generation
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1-}" in
  "") long=no ;;
  --long) long=yes ;;
  *)
    echo "usage: scripts/test.sh [--long]" >&2
    exit 2
    ;;
esac

# OpenMP's waiting threads would otherwise spin against the tests that run beside them.
export OMP_WAIT_POLICY=passive

install_packages "${PACKAGES[@]}" groff-base zsh fish  # which read manual pages and completions
install_python_packages
if has_cuda_toolkit; then
  build_preset cuda nostos cuda_host_test cuda_ops_test cuda_test nccl_gpu_test cuda_fault_test cuda_pipeline_test cuda_noise \
    cuda_bandwidth cuda_library_rates cuda_decoder_rates cuda_batch_rates
  ctest --preset cuda --label-regex cuda
else
  echo "Skipped: compiling the CUDA backend (no CUDA toolkit with cuDNN here)"
fi
if [ $long = no ]; then
  build_preset cpu
  ctest --preset cpu --label-exclude long --parallel "$(nproc)"
  exit
fi

if has_cuda_toolkit; then
  build_preset cuda-all nostos_ops nostos_parallel
fi
install_schemathesis
install_packages clang libclang-rt-14-dev libomp-dev chromium chromium-driver python3-selenium python3-venv
build_preset fuzz
for target in build/fuzz/fuzz/fuzz_*; do
  name=${target##*/fuzz_}
  corpora=(build/fuzz/corpus/"$name")
  mkdir -p "${corpora[0]}"
  [ ! -d tests/fuzz/corpus/"$name" ] || corpora+=(tests/fuzz/corpus/"$name")
  echo "Fuzzing $name"
  "$target" -max_total_time=60 -timeout=10 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ "${corpora[@]}"
done
build_preset cpu-asan
ctest --preset cpu-asan --parallel "$(nproc)"
# Without OpenMP and oneDNN, which the thread sanitizer does not understand, the large cases would take too long.
build_preset cpu-tsan parallel_communicator_test nn_test ranks_test lanes_test models_test pipeline_test server_test nostos
ctest --preset cpu-tsan --parallel "$(nproc)"
scripts/package_test.sh || [ $? -eq 77 ]
scripts/slurm_test.sh || [ $? -eq 77 ]
build_preset cpu
scripts/build_wheels.sh
ctest --preset cpu --parallel "$(nproc)"
