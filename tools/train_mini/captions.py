"""The tokenizer: a byte-level BPE in Qwen2's format trained on the caption grammar, and the one chat message it is
used in.

python tools/train_mini/captions.py TOKENIZER_DIR [--vocabulary 1088]
"""

import argparse
import json
import os


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--vocabulary", type=int, default=1088)
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import scenes
from sprites import SPRITES

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- set messages = messages[1:] %}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


def chat(prompt):
    """The prompt as the pipeline's chat template renders it."""
    return f"{START}user\n{prompt}{END}\n{START}assistant\n"


def load(folder):
    """The tokenizer of a folder that build() wrote."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def encode(tokenizer, prompts, multiple=32):
    """ids [B, L] with L padded to a multiple, and their real lengths, as numpy int64. All prompts must need the same
    L."""
    import numpy as np

    rows = [tokenizer.encode(chat(p)).ids for p in prompts]
    padded = {-(-len(r) // multiple) * multiple for r in rows}
    if len(padded) != 1:
        raise ValueError(f"prompts of one batch need one padded length, these need {sorted(padded)}")
    ids = np.full((len(rows), padded.pop()), tokenizer.token_to_id(PAD), np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    return ids, np.array([len(r) for r in rows], np.int64)


def _corpus(count, seed):
    generator = scenes.Generator(seed)
    for k in range(count):
        caption, _ = generator.sample(512, 512)
        yield generator.lengthen(caption) if k % 20 == 0 else caption
        if k % 5 == 0:
            yield "user\n"
            yield "assistant\n"
    for sprite in SPRITES:
        for name in (word for pair in sprite.names for word in pair):
            for _ in range(30):
                yield "a " + name
    yield from ("system", "think")


def build(folder, vocabulary=1088, count=40000, seed=1):
    """Trains the tokenizer and writes tokenizer.json, vocab.json, merges.txt and tokenizer_config.json."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    special = (PAD, START, END)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(special), initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(count, seed), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if tokenizer.get_vocab_size() > vocabulary:
        raise RuntimeError(f"vocabulary of {tokenizer.get_vocab_size()} tokens is larger than {vocabulary}")

    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "tokenizer.json")
    tokenizer.save(path)
    with open(path) as f:
        whole = json.load(f)
    with open(os.path.join(folder, "vocab.json"), "w") as f:
        json.dump(whole["model"]["vocab"], f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n")
        f.writelines((m if isinstance(m, str) else " ".join(m)) + "\n" for m in whole["model"]["merges"])
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in fields} for t in whole["added_tokens"]},
        "additional_special_tokens": [START, END],
        "bos_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 131072,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "chat_template": CHAT_TEMPLATE,
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=2)
    return tokenizer


def main(args):
    tokenizer = build(args.folder, args.vocabulary)
    print("vocabulary", tokenizer.get_vocab_size(), "template tokens", len(tokenizer.encode(chat("")).ids))


if __name__ == "__main__":
    main(OPTIONS)
