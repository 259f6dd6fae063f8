"""What the makers of reference data share, whatever the family: hooks, files, and a measure of pictures.

Not a program. Needs the packages of requirements.txt.
"""

import contextlib
import json
import math
from pathlib import Path

import diffusers
import transformers
from safetensors.torch import save_file

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


def load_pipeline(pipeline_class, folder, dtype):
    """The pipeline of a diffusers folder on the CPU, every part in `dtype`."""
    pipe = pipeline_class.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextlib.contextmanager
def hooks(*handles):
    """Removes torch hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def image_psnr_db(decoded, reference):
    """PSNR of two decoded images after clamp(x / 2 + 0.5, 0, 1), before rounding to 8 bits; peak 1."""
    a, b = ((x.double() / 2 + 0.5).clamp(0, 1) for x in (decoded, reference))
    return -10 * math.log10((a - b).square().mean().item())


def save(tensors, path, metadata=None):
    """Writes a safetensors file and returns {name: shape}."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata)
    Path(path).chmod(0o644)  # safetensors makes it 0600
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def write_json(value, path):
    """Writes indented JSON with a final newline; innermost lists of numbers stay on one line."""
    Path(path).write_text(_json_text(value, 0) + "\n", encoding="utf-8")


def _json_text(value, depth):
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        items = (f"{pad}{json.dumps(k, ensure_ascii=False)}: {_json_text(v, depth + 1)}" for k, v in value.items())
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list)) for item in value):
        return "[\n" + ",\n".join(pad + _json_text(item, depth + 1) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)
