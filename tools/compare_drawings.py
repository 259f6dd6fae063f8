#!/usr/bin/env python3
"""Draws a list of pictures with two builds of nostos and says whether pixels and final latents are the same, bit for bit.

Usage: compare_drawings.py BEFORE AFTER [--device cpu|cuda] [--model-path DIR] [--only WORD] [--work DIR]

BEFORE and AFTER are programs. The list goes over eight sizes (portrait and odd ones included), guidance with its cap and
truncation, both precisions, 1 to 8 ranks with both plans, several pictures at once, both sources of noise and weights that
take turns or are streamed. Previews and the texts of PNGs are not compared. Exit code 1 if any drawing differs, or if more are
refused by both than --most-refused, e.g. bf16 on a CPU without its instructions.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

SIZES = [(512, 512), (720, 512), (512, 720), (333, 517), (517, 333), (256, 1024), (64, 48), (1000, 40)]  # height, width
GUIDANCE = {
    "plain": [],
    "guided": ["--guidance-scale", "4", "--negative-prompt", "rain"],
    "capped": ["--guidance-scale", "4", "--negative-prompt", "rain over the sea, grey, cold", "--cfg-normalization", "1"],
    "cut": ["--guidance-scale", "4", "--negative-prompt", "rain", "--cfg-truncation", "0.6"],
}
RANKS = {
    "one": [],
    "two": ["--num-gpus", "2"],
    "three-axis": ["--num-gpus", "3", "--sp-plan", "axis"],
    "eight": ["--num-gpus", "8"],
    "two-axis": ["--num-gpus", "2", "--sp-plan", "axis"],
    "halves": ["--num-gpus", "4", "--cfg-parallel-degree", "2"],
}
EXTRA = {
    "three pictures": ["--num-outputs", "3"],
    "offload": ["--memory", "offload"],
    "resident": ["--memory", "resident"],
    "cuda noise": ["--rng", "torch-cuda"],
    "own sigmas": ["--sigmas", "1", "0.8", "0.5", "0.2"],
}


def drawings() -> list[tuple[str, list[str]]]:
    """Returns names and arguments: every pair of size and guidance, with ranks, precisions and extras dealt over them."""
    made = []
    ranks, precisions = itertools.cycle(RANKS), itertools.cycle(["f32", "f32", "bf16", "bf16", "f32"])
    for (height, width), guidance in itertools.product(SIZES, GUIDANCE):
        rank, precision = next(ranks), next(precisions)
        if guidance == "plain" and rank == "halves":
            rank = "eight"
        made.append((f"{height}x{width} {guidance} {precision} {rank}",
                     ["--height", str(height), "--width", str(width), "--precision", precision, *GUIDANCE[guidance],
                      *RANKS[rank]]))
    for extra, rank in itertools.product(EXTRA, ["one", "two"]):
        precision = next(precisions)
        made.append((f"264x184 {extra} {precision} {rank}",
                     ["--height", "264", "--width", "184", "--precision", precision, *GUIDANCE["guided"], *RANKS[rank],
                      *EXTRA[extra]]))
    return made


def pixels(png: Path) -> bytes:
    """Returns the filtered rows of a PNG: its pixels, without its texts."""
    data, at, packed = png.read_bytes(), 8, b""
    while at < len(data):
        length, kind = int.from_bytes(data[at:at + 4], "big"), data[at + 4:at + 8]
        if kind == b"IDAT":
            packed += data[at + 8:at + 8 + length]
        at += 12 + length
    return zlib.decompress(packed)


def latents(file: Path) -> bytes:
    """Returns the data of a safetensors file, without its header."""
    data = file.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little"):]


def draw(program: Path, arguments: list[str], folder: Path) -> dict[str, bytes] | str:
    """Returns what a drawing wrote, by file name, or the program's message if it refused."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = subprocess.run([program, "generate", "--prompt", "A crowded beach", "--seed", "7", "--output", folder / "a.png",
                          "--save-latents", folder / "a.safetensors", "--log-level", "error", *arguments],
                         capture_output=True, text=True)
    if run.returncode != 0:
        return f"exit code {run.returncode}: {run.stderr.strip()}"
    return {file.name: (pixels if file.suffix == ".png" else latents)(file) for file in sorted(folder.iterdir())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model-path", help="without it the embedded model draws")
    parser.add_argument("--only", default="", help="draw only what has this word in its name")
    parser.add_argument("--most-refused", type=int, default=1, help="drawings that both may refuse")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "compare_drawings")
    asked = parser.parse_args()
    common = ["--device", asked.device]
    if asked.device == "cuda":
        common += ["--allow-shared-gpu"]
    if asked.model_path:
        common += ["--model-path", asked.model_path]
    same, refused, different = 0, 0, []
    for name, arguments in drawings():
        if asked.only not in name:
            continue
        before, after = (draw(program, common + arguments, asked.work / str(i))
                         for i, program in enumerate([asked.before, asked.after]))
        if before != after:
            different.append(name)
            print(f"DIFFERENT {name}" + "".join(f"\n  {made}" for made in (before, after) if isinstance(made, str)))
        elif isinstance(before, str):
            refused += 1
            print(f"refused by both: {name}: {before}")
        else:
            same += 1
            print(f"same      {name} ({', '.join(before)})")
        sys.stdout.flush()
    print(f"{same} drawings are the same, {refused} refused by both, {len(different)} different")
    return 1 if different or same == 0 or refused > asked.most_refused else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
