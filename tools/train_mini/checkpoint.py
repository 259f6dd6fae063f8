"""Training state on disk: float32 weights, their moving average and the optimisers in full, or a small bf16 copy to
carry.

A checkpoint is a folder: state.json (steps, seconds, history) and safetensors files under 16 MB each.
"""

import json
import os

import torch
from safetensors.torch import load_file, save_file

SHARD_BYTES = 15_000_000


def shards(tensors, limit=SHARD_BYTES):
    """The tensors as a list of dicts, each at most limit bytes unless one tensor alone is larger."""
    groups, size = [{}], 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * tensor.element_size()
        if groups[-1] and size + bytes_ > limit:
            groups.append({})
            size = 0
        groups[-1][name] = tensor.detach().cpu().contiguous()
        size += bytes_
    return groups


def save(folder, info, weights, average, optimiser=None):
    """Writes a checkpoint; without the optimiser state everything is stored as bf16, to be small."""
    os.makedirs(folder, exist_ok=True)
    dtype = torch.float32 if optimiser else torch.bfloat16
    parts = {"weights": weights, "average": average}
    if optimiser:
        parts["optimiser"] = optimiser
    for part, tensors in parts.items():
        tensors = {k: v.to(dtype) for k, v in tensors.items()}
        limit = SHARD_BYTES if dtype == torch.bfloat16 else 1 << 40
        for k, shard in enumerate(shards(tensors, limit)):
            path = os.path.join(folder, f"{part}-{k}.safetensors")
            save_file(shard, path + ".tmp")
            os.replace(path + ".tmp", path)
    with open(os.path.join(folder, "state.json"), "w") as f:
        json.dump(info, f, indent=1)


def load(folder, part):
    """One part ("weights", "average", "optimiser") of a checkpoint, {} when it was not stored."""
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith(part + "-") and name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    return tensors


def info(folder):
    """steps, seconds and history of a checkpoint."""
    with open(os.path.join(folder, "state.json")) as f:
        return json.load(f)
