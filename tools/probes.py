"""What layer probes share, whatever the family: named intermediate tensors of one small forward, in order.

A test compares them one after another, so that a mismatch names the first sub-step that is wrong. Not a program.
"""

import contextlib

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import reference


class Recorder:
    """Collects tensors by name in the order in which they are computed."""

    def __init__(self):
        self.tensors = {}
        self.handles = []

    def put(self, name, tensor):
        """Keeps a float32 copy without the batch axis."""
        assert name not in self.tensors, name
        assert tensor.shape[0] == 1, name
        self.tensors[name] = tensor[0].detach().clone()

    def output(self, module, name):
        """Records the module's output."""
        self.handles.append(module.register_forward_hook(lambda m, args, out: self.put(name, out)))

    def input(self, module, name):
        """Records the module's first argument."""
        hook = lambda m, args, kwargs: self.put(name, args[0] if args else kwargs["hidden_states"])  # noqa: E731
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def active(self):
        """A context that removes the hooks at its end."""
        return reference.hooks(*self.handles)


@contextlib.contextmanager
def wrapped_attention(owner, key, record):
    """Replaces owner[key], an attention function, by one that also calls record(q, k, v, out) for each call."""
    original = owner[key]

    def attention(*args, **kwargs):
        result = original(*args, **kwargs)
        record(args, kwargs, result)
        return result

    owner[key] = attention
    try:
        yield
    finally:
        owner[key] = original


def probe_rows(count, padded):
    """A few rows that cover both ends, the middle and the pads of a padded sequence."""
    rows = {0, 1, count // 3, 2 * count // 3, count - 1, count, padded - 1}
    return torch.tensor(sorted(row for row in rows if row < padded))


def probe_text_layer(rec, layer, name):
    """Hooks for the sub-steps of one layer of a Qwen3 text encoder around its attention, which watch_text_attention
    records."""
    rec.output(layer.input_layernorm, f"{name}.input_layernorm")
    rec.output(layer.self_attn.o_proj, f"{name}.o_proj")
    rec.input(layer.post_attention_layernorm, f"{name}.residual1")
    rec.output(layer.post_attention_layernorm, f"{name}.post_attention_layernorm")
    rec.output(layer.mlp, f"{name}.mlp")


def watch_text_attention(rec, model, layer, name):
    """A context in which the attention of one layer of a Qwen3 text encoder is recorded: q, k, v and its result."""

    def record(args, kwargs, result):
        if args[0] is layer.self_attn:
            for part, tensor in zip(("query", "key", "value"), args[1:4]):
                rec.put(f"{name}.{part}", tensor.transpose(1, 2))
            rec.put(f"{name}.attention", result[0].flatten(2))

    return wrapped_attention(ALL_ATTENTION_FUNCTIONS, model.config._attn_implementation, record)


def probe_vae_halves(rec, model):
    """Hooks for the stages of an autoencoder's decoder and encoder."""
    for side, half, stages in (("decoder", model.decoder, "up_blocks"), ("encoder", model.encoder, "down_blocks")):
        rec.output(half.conv_in, f"vae.{side}.conv_in")
        for index, resnet in enumerate(half.mid_block.resnets):
            rec.output(resnet, f"vae.{side}.mid_block.resnets.{index}")
        rec.output(half.mid_block.attentions[0], f"vae.{side}.mid_block.attentions.0")
        first = getattr(half, stages)[0]
        for index, resnet in enumerate(first.resnets):
            rec.output(resnet, f"vae.{side}.{stages}.0.resnets.{index}")
        for index, block in enumerate(getattr(half, stages)):
            rec.output(block, f"vae.{side}.{stages}.{index}")
        rec.output(half.conv_act, f"vae.{side}.conv_act")
        rec.output(half.conv_out, f"vae.{side}.conv_out")


def record_all(pipe, folder, parts):
    """Writes probes_<name>.safetensors for each function of {name: function}; returns their description."""
    described = {}
    for name, part in parts.items():
        tensors = part(pipe)
        file = f"probes_{name}.safetensors"
        shapes = reference.save(tensors, folder / file)
        described[name] = {"file": file, "order": list(tensors), "tensors": shapes}
    return described
