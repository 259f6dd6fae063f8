"""The transformer and the text encoder as plain torch modules with the parameter names of diffusers and transformers.

Written for training: batches of one size without attention masks, weights kept in float32 and used in `dtype`. The
result
equals ZImageTransformer2DModel and Qwen3Model (checked by `export.py --check`).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

TOKEN_MULTIPLE = 32  # image and caption tokens are each padded to a multiple of this
PATCH = 2
ADALN_WIDTH = 256

TRANSFORMER_CONFIG = {
    "_class_name": "ZImageTransformer2DModel",
    "_diffusers_version": "0.40.0.dev0",
    "all_f_patch_size": [1],
    "all_patch_size": [PATCH],
    "axes_dims": [16, 16, 16],
    "axes_lens": [1536, 512, 512],
    "cap_feat_dim": 192,
    "dim": 288,
    "in_channels": 16,
    "n_heads": 6,
    "n_kv_heads": 6,
    "n_layers": 6,
    "n_refiner_layers": 1,
    "norm_eps": 1e-05,
    "qk_norm": True,
    "rope_theta": 256.0,
    "siglip_feat_dim": None,
    "t_scale": 1000.0,
}
TEXT_CONFIG = {
    "architectures": ["Qwen3Model"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "dtype": "bfloat16",
    "eos_token_id": None,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.05,
    "intermediate_size": 448,
    "layer_types": ["full_attention"] * 3,
    "max_position_embeddings": 4096,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "pad_token_id": None,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 1088,
}


def rms_norm(x, weight, eps):
    """RMSNorm over the last axis, computed in float32."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def linear(layer, x):
    """The layer in x's own dtype."""
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


class Norm(nn.Module):
    """Holds an RMSNorm weight."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


# ---- transformer ----
class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=False)])
        self.norm_q, self.norm_k = Norm(dim // heads), Norm(dim // heads)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, hidden, bias=False),
            nn.Linear(hidden, dim, bias=False),
            nn.Linear(dim, hidden, bias=False),
        )


def _rotate_pairs(x, cos, sin):
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def block_forward(x, cos, sin, scale1, gate1, scale2, gate2, n1, n2, f1, f2, nq, nk, wq, wk, wv, wo, w1, w2, w3, eps):
    """One block on x [B, S, dim]; cos and sin [S, 1, head_dim / 2]; scales and gates [B, 1, dim] or None. Weights as
    parameters."""
    dtype, (batch, tokens, dim) = x.dtype, x.shape
    head_dim = nq.shape[0]
    h = rms_norm(x, n1, eps)
    if scale1 is not None:
        h = h * (1 + scale1)
    q, k, v = F.linear(h, torch.cat([wq, wk, wv]).to(dtype)).view(batch, tokens, 3, -1, head_dim).unbind(2)
    q, k = _rotate_pairs(rms_norm(q, nq, 1e-5), cos, sin), _rotate_pairs(rms_norm(k, nk, 1e-5), cos, sin)
    h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    h = rms_norm(F.linear(h.transpose(1, 2).reshape(batch, tokens, dim), wo.to(dtype)), n2, eps)
    x = x + (h if gate1 is None else gate1 * h)
    h = rms_norm(x, f1, eps)
    if scale2 is not None:
        h = h * (1 + scale2)
    up, across = F.linear(h, torch.cat([w1, w3]).to(dtype)).chunk(2, -1)
    h = rms_norm(F.linear(F.silu(up) * across, w2.to(dtype)), f2, eps)
    return x + (h if gate2 is None else gate2 * h)


class Block(nn.Module):
    core = staticmethod(block_forward)  # train.py puts the compiled one here

    def __init__(self, dim, heads, eps, modulated):
        super().__init__()
        self.attention, self.feed_forward, self.eps = Attention(dim, heads), FeedForward(dim, int(dim / 3 * 8)), eps
        self.attention_norm1, self.attention_norm2, self.ffn_norm1, self.ffn_norm2 = (Norm(dim) for _ in range(4))
        if modulated:
            self.adaLN_modulation = nn.ModuleList([nn.Linear(min(dim, ADALN_WIDTH), 4 * dim)])

    def forward(self, x, cos, sin, condition=None):
        modulation = (None,) * 4
        if condition is not None:
            s1, g1, s2, g2 = linear(self.adaLN_modulation[0], condition).unsqueeze(1).chunk(4, 2)
            modulation = (s1, g1.tanh(), s2, g2.tanh())
        a, f = self.attention, self.feed_forward
        return Block.core(
            x,
            cos,
            sin,
            *modulation,
            self.attention_norm1.weight,
            self.attention_norm2.weight,
            self.ffn_norm1.weight,
            self.ffn_norm2.weight,
            a.norm_q.weight,
            a.norm_k.weight,
            a.to_q.weight,
            a.to_k.weight,
            a.to_v.weight,
            a.to_out[0].weight,
            f.w1.weight,
            f.w2.weight,
            f.w3.weight,
            self.eps,
        )


class TimestepEmbedder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.ModuleList([nn.Linear(256, 1024), nn.SiLU(), nn.Linear(1024, width)])

    def forward(self, t, dtype):
        freqs = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        angles = t[:, None].float() * freqs
        return linear(self.mlp[2], F.silu(linear(self.mlp[0], torch.cat([angles.cos(), angles.sin()], -1).to(dtype))))


class FinalLayer(nn.Module):
    def __init__(self, dim, width, out):
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.adaLN_modulation = nn.ModuleList([nn.SiLU(), nn.Linear(width, dim)])


class Transformer(nn.Module):
    """ZImageTransformer2DModel for batches of one latent size and one padded caption length."""

    def __init__(self, config=None):
        super().__init__()
        c = self.config = {**TRANSFORMER_CONFIG, **(config or {})}
        dim, heads, eps, width = c["dim"], c["n_heads"], c["norm_eps"], min(c["dim"], ADALN_WIDTH)
        features = PATCH * PATCH * c["in_channels"]
        self.all_x_embedder = nn.ModuleDict({"2-1": nn.Linear(features, dim)})
        self.all_final_layer = nn.ModuleDict({"2-1": FinalLayer(dim, width, features)})
        self.noise_refiner = nn.ModuleList([Block(dim, heads, eps, True) for _ in range(c["n_refiner_layers"])])
        self.context_refiner = nn.ModuleList([Block(dim, heads, eps, False) for _ in range(c["n_refiner_layers"])])
        self.layers = nn.ModuleList([Block(dim, heads, eps, True) for _ in range(c["n_layers"])])
        self.t_embedder = TimestepEmbedder(width)
        self.cap_embedder = nn.ModuleList([Norm(c["cap_feat_dim"]), nn.Linear(c["cap_feat_dim"], dim)])
        self.x_pad_token, self.cap_pad_token = nn.Parameter(torch.empty(1, dim)), nn.Parameter(torch.empty(1, dim))
        self._initialise()

    @torch.no_grad()
    def _initialise(self):
        for name, p in self.named_parameters():
            if "pad_token" in name:
                nn.init.normal_(p, std=0.02)
            elif "adaLN_modulation.0.bias" in name:  # gates start a little open, scales at one
                _, gate1, _, gate2 = p.zero_().chunk(4)
                gate1.fill_(0.3)
                gate2.fill_(0.3)
            elif "adaLN_modulation" in name or "all_final_layer" in name or name.endswith("bias"):
                p.zero_()
            elif p.ndim == 2:
                inner = ".attention." in name or ".feed_forward." in name
                nn.init.normal_(p, std=(0.7 if inner else 1.0) * p.shape[1] ** -0.5)

    def rope(self, positions):
        """cos and sin float32 [S, 1, head_dim / 2] for positions [S, 3]; angles in float64 rounded to float32."""
        angles = []
        for axis, dims in enumerate(self.config["axes_dims"]):
            freqs = self.config["rope_theta"] ** -(torch.arange(0, dims, 2, dtype=torch.float64) / dims)
            angles.append((positions[:, axis, None].double() * freqs).float())
        angles = torch.cat(angles, 1)[:, None]
        return angles.cos(), angles.sin()

    def tables(self, caption_tokens, rows, columns, device):
        """What depends on the shape alone: cos and sin for [image | caption], and which image tokens are pads."""
        count = rows * columns
        pads = -count % TOKEN_MULTIPLE
        grid = torch.stack(
            torch.meshgrid(
                torch.tensor([caption_tokens + 1]), torch.arange(rows), torch.arange(columns), indexing="ij"
            ),
            -1,
        )
        caption = torch.zeros(caption_tokens, 3, dtype=torch.long)
        caption[:, 0] = torch.arange(1, caption_tokens + 1)
        cos, sin = self.rope(torch.cat([grid.reshape(-1, 3), torch.zeros(pads, 3, dtype=torch.long), caption]))
        return cos.to(device), sin.to(device), (torch.arange(count + pads) >= count).to(device)

    def forward(self, tokens, t, caption, lengths, tables):
        """tokens [B, N, 64] with pads, t [B] = 1 - sigma, caption [B, L, features], lengths [B] real caption tokens,
        tables().

        Returns the predicted (data - noise) per token, [B, N, 64] in the dtype of tokens; rows of pads mean nothing.
        """
        cos, sin, is_pad = tables
        dtype, count = tokens.dtype, tokens.shape[1]
        condition = self.t_embedder(t * self.config["t_scale"], dtype)
        image = torch.where(
            is_pad[None, :, None], self.x_pad_token.to(dtype), linear(self.all_x_embedder["2-1"], tokens)
        )
        for block in self.noise_refiner:
            image = block(image, cos[:count], sin[:count], condition)
        text = linear(
            self.cap_embedder[1], rms_norm(caption.to(dtype), self.cap_embedder[0].weight, self.config["norm_eps"])
        )
        is_text_pad = torch.arange(text.shape[1], device=text.device) >= lengths[:, None]
        text = torch.where(is_text_pad[..., None], self.cap_pad_token.to(dtype), text)
        for block in self.context_refiner:
            text = block(text, cos[count:], sin[count:])
        x = torch.cat([image, text], 1)
        for block in self.layers:
            x = block(x, cos, sin, condition)
        final = self.all_final_layer["2-1"]
        x = F.layer_norm(x[:, :count].float(), (x.shape[-1],), eps=1e-6).to(dtype)
        return linear(final.linear, x * (1 + linear(final.adaLN_modulation[1], F.silu(condition))[:, None]))


def patchify(latents):
    """[B, C, H, W] -> tokens [B, N, 4 C] with zero rows up to a multiple of TOKEN_MULTIPLE."""
    b, c, h, w = latents.shape
    tokens = (
        latents.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(b, h * w // PATCH**2, -1)
    )
    return F.pad(tokens, (0, 0, 0, -tokens.shape[1] % TOKEN_MULTIPLE))


def unpatchify(tokens, rows, columns):
    """The inverse of patchify for rows x columns tokens."""
    b, c = tokens.shape[0], tokens.shape[2] // PATCH**2
    tokens = tokens[:, : rows * columns].view(b, rows, columns, PATCH, PATCH, c)
    return tokens.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * PATCH, columns * PATCH)


# ---- text encoder ----
class SelfAttention(nn.Module):
    def __init__(self, hidden, heads, kv_heads, head_dim):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(hidden, n * head_dim, bias=False) for n in (heads, kv_heads, kv_heads)
        )
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        self.q_norm, self.k_norm = Norm(head_dim), Norm(head_dim)


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            nn.Linear(hidden, inner, bias=False),
            nn.Linear(hidden, inner, bias=False),
            nn.Linear(inner, hidden, bias=False),
        )


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = SelfAttention(
            c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        )
        self.mlp = Mlp(c["hidden_size"], c["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = Norm(c["hidden_size"]), Norm(c["hidden_size"])

    def forward(self, x, cos, sin, eps):
        a, (batch, length, _) = self.self_attn, x.shape
        head_dim = a.q_norm.weight.shape[0]
        h = rms_norm(x, self.input_layernorm.weight, eps)
        q, k, v = (linear(p, h).view(batch, length, -1, head_dim) for p in (a.q_proj, a.k_proj, a.v_proj))
        q, k = (_rotate_halves(rms_norm(y, n.weight, eps), cos, sin) for y, n in ((q, a.q_norm), (k, a.k_norm)))
        k, v = (y.repeat_interleave(q.shape[2] // y.shape[2], 2) for y in (k, v))
        h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + linear(a.o_proj, h.transpose(1, 2).reshape(batch, length, -1))
        h = rms_norm(x, self.post_attention_layernorm.weight, eps)
        return x + linear(self.mlp.down_proj, F.silu(linear(self.mlp.gate_proj, h)) * linear(self.mlp.up_proj, h))


def _rotate_halves(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class TextEncoder(nn.Module):
    """Qwen3Model up to hidden_states[-2]. The last layer and the final norm are never run: they stay zero and one."""

    def __init__(self, config=None):
        super().__init__()
        c = self.config = {**TEXT_CONFIG, **(config or {})}
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList([TextLayer(c) for _ in range(c["num_hidden_layers"])])
        self.norm = Norm(c["hidden_size"])
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.5 if "embed" in name else 0.7 * p.shape[1] ** -0.5)
        for p in self.layers[-1].parameters():
            nn.init.zeros_(p)

    def trained(self):
        """The named parameters that take part in the features."""
        unused = f"layers.{len(self.layers) - 1}."
        return [(n, p) for n, p in self.named_parameters() if not n.startswith(unused) and n != "norm.weight"]

    def forward(self, ids, dtype):
        """Caption features [B, L, hidden] of ids [B, L]; causal, so pads behind a caption do not matter to it."""
        length, head_dim, eps = ids.shape[1], self.config["head_dim"], self.config["rms_norm_eps"]
        freqs = self.config["rope_theta"] ** -(torch.arange(0, head_dim, 2, device=ids.device).float() / head_dim)
        angles = (torch.arange(length, device=ids.device).float()[:, None] * freqs)[:, None]
        x = F.embedding(ids, self.embed_tokens.weight.to(dtype))
        for layer in self.layers[:-1]:
            x = layer(x, angles.cos(), angles.sin(), eps)
        return x
