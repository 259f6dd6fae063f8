#!/usr/bin/env bash
# Draws a first picture: installs what the build needs, builds the program alone, draws with the embedded model on two ranks.
# Standard output is the picture's path and nothing else; all progress goes to standard error.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec 3>&1 1>&2

install_packages "${PACKAGES[@]}"
build_preset cpu nostos

mkdir -p out
picture=$PWD/out/crowded-beach.png
build/cpu/bin/nostos generate --prompt "A crowded beach" --width 720 --height 1280 \
  --seed 42 --num-inference-steps 9 --guidance-scale 4 --num-gpus 2 --output "$picture"
echo "$picture" >&3
