"""Draws pictures with the torch modules, as the pipeline does: shift-3 Euler steps, pred = pos + g * (pos - neg)."""

import numpy as np
import torch

import captions
from models import PATCH, patchify, unpatchify

SHIFT = 3.0
PIXELS = 8  # per latent


def sigmas(steps, shift=SHIFT):
    """The steps + 1 noise levels of a run, from 1 down to 0."""
    s = np.linspace(1, 1 / steps, steps)
    return [float(v) for v in shift * s / (1 + (shift - 1) * s)] + [0.0]


class Artist:
    """Transformer, text encoder, autoencoder and tokenizer on one device, ready to draw batches of prompts."""

    def __init__(self, transformer, text_encoder, autoencoder, tokenizer, device, dtype):
        self.transformer, self.text_encoder, self.autoencoder = transformer.eval(), text_encoder.eval(), autoencoder
        self.tokenizer, self.device, self.dtype = tokenizer, device, dtype
        self.tables = {}

    def features(self, prompts):
        ids, lengths = (torch.from_numpy(a).to(self.device) for a in captions.encode(self.tokenizer, prompts))
        return self.text_encoder(ids, self.dtype), lengths

    def predict(self, tokens, t, caption, lengths, rows, columns):
        key = (caption.shape[1], rows, columns)
        if key not in self.tables:
            self.tables[key] = self.transformer.tables(*key, self.device)
        return self.transformer(tokens.to(self.dtype), t, caption, lengths, self.tables[key]).float()

    @torch.no_grad()
    def latents(self, prompts, height, width, steps=9, guidance=4.0, seeds=None):
        """Normalised latents [B, 16, H/8, W/8], float32; picture i starts from noise of seeds[i], made on the CPU."""
        rows, columns = height // (PIXELS * PATCH), width // (PIXELS * PATCH)
        seeds = seeds or [42] * len(prompts)
        noise = torch.cat(
            [
                torch.randn(1, 16, height // PIXELS, width // PIXELS, generator=torch.Generator().manual_seed(s))
                for s in seeds
            ]
        )
        tokens = patchify(noise.to(self.device))
        caption, lengths = self.features(prompts)
        empty, empty_lengths = self.features([""] * len(prompts))
        levels = sigmas(steps)
        for now, after in zip(levels, levels[1:]):
            t = torch.full((len(prompts),), 1 - now, device=self.device)
            prediction = self.predict(tokens, t, caption, lengths, rows, columns)
            if guidance > 0:
                prediction = prediction + guidance * (
                    prediction - self.predict(tokens, t, empty, empty_lengths, rows, columns)
                )
            tokens = tokens - (after - now) * prediction
        return unpatchify(tokens, rows, columns)

    def draw(self, prompts, height, width, steps=9, guidance=4.0, seeds=None):
        """Images uint8 [B, height, width, 3] on the CPU."""
        latents = self.latents(prompts, height, width, steps, guidance, seeds)
        images = torch.cat([self.autoencoder.decode(part) for part in latents.split(8)])
        return ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()


def sheet(images, columns):
    """Images uint8 [B, H, W, 3] as one PIL picture, columns side by side."""
    from PIL import Image

    rows = [
        np.concatenate([*images[k : k + columns]], 1) for k in range(0, len(images) - len(images) % columns, columns)
    ]
    return Image.fromarray(np.concatenate(rows))
