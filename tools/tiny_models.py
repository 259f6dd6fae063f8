"""What the makers of tiny random models share, whatever the family: weights, a small tokenizer, stored dtypes.

Used by make_tiny_models.py and the families' modules; not a program.
"""

import json

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3Config

import reference

ADDITIONAL_SPECIAL_TOKENS = ["<|im_start|>", "<|im_end|>"]
# Qwen3's template for the messages that the pipelines send.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined "
    "and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


def randomize(module, generator):
    """Fills every parameter from one generator: norms near 1, biases and pad tokens small, matrices of unit gain."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1 and "pad_token" not in name and "embed_tokens" not in name:
                values /= parameter[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            else:
                values *= 0.3
            # Eight bits and a sign: exact in every stored type, and compresses well.
            step = 1 / 64 if parameter.dim() == 1 else 1 / 512
            parameter.copy_((values / step).round().clamp(-255, 255) * step)
    return module


def write_tokenizer(folder, with_tokenizer_json, text, added_tokens):
    """A byte-level BPE of about 300 tokens in Qwen2's files, trained on `text`; returns the vocabulary size.

    added_tokens: {text: whether it is special}, in the order of their ids.
    """
    folder.mkdir(parents=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bare = Qwen2Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = bare.backend_tokenizer.normalizer, bare.backend_tokenizer.pre_tokenizer
    trained.train_from_iterator(text, trainer)
    model = json.loads(trained.to_str())["model"]
    size = len(model["vocab"])
    added = {
        str(size + i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                        "special": special}
        for i, (token, special) in enumerate(added_tokens.items())
    }
    config = {
        "add_prefix_space": False, "added_tokens_decoder": added,
        "additional_special_tokens": ADDITIONAL_SPECIAL_TOKENS, "bos_token": None,
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }
    reference.write_json(config, folder / "tokenizer_config.json")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    if with_tokenizer_json:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
    return size + len(added_tokens)


def store_as(folder, prefix, dtype):
    """Rewrites the folder's tensors whose names start with `prefix` in `dtype` (of those that hold floats), and
    corrects the index's byte count."""
    saved = 0
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.startswith(prefix) and tensor.is_floating_point():
                saved += tensor.nbytes - tensor.numel() * dtype.itemsize
                assert torch.equal(tensor.to(dtype).float(), tensor), f"{name} is not exact in {dtype}"
                tensors[name] = tensor.to(dtype)
        reference.save(tensors, file, {"format": "pt"})
    for file in folder.glob("*.index.json"):
        index = json.loads(file.read_text())
        index["metadata"]["total_size"] -= saved
        file.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def write_text_encoder(folder, spec, vocabulary, generator):
    """A random text encoder of the class, the config and the shard size that `spec` names."""
    config = Qwen3Config(vocab_size=vocabulary, **spec["text_encoder"])
    text_encoder = randomize(spec["text_encoder_class"](config), generator)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=spec["text_encoder_shard_size"])
