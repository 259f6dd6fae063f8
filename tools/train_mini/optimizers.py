"""Muon for matrices and Adam for the rest, written with foreach operations so that a step can live in a CUDA graph.

Both read gradients in place, allocate their state once, and take the learning rate as a number or a device tensor.
"""

import torch


def _to_orthogonal(x, steps=5):
    """Newton-Schulz: pulls the singular values of a batch of matrices towards one, on CUDA in bf16."""
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).to(torch.bfloat16 if x.is_cuda else x.dtype)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, made orthogonal; matrices of one shape are handled as one batch. Convolutions count as matrices."""

    def __init__(self, parameters, momentum=0.95, weight_decay=0.1):
        self.momentum, self.weight_decay, self.groups = momentum, weight_decay, {}
        for p in parameters:
            self.groups.setdefault((p.shape[0], p[0].numel()), []).append(p)
        self.buffers = {s: torch.zeros(len(ps), *s, device=ps[0].device) for s, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate):
        for shape, parameters in self.groups.items():
            gradient = torch.stack([p.grad.reshape(shape) for p in parameters])
            buffer = self.buffers[shape].lerp_(gradient, 1 - self.momentum)
            update = _to_orthogonal(gradient.lerp(buffer, self.momentum)) * (0.2 * max(shape) ** 0.5 * rate)
            keep = 1 - rate * self.weight_decay
            torch._foreach_mul_(parameters, keep)
            torch._foreach_sub_(parameters, [u.reshape(p.shape) for u, p in zip(update, parameters)])

    def state(self):
        """Tensors to save and restore, by name."""
        return {f"muon.{a}x{b}": t for (a, b), t in self.buffers.items()}


class Adam:
    """Adam with gradients clipped to a total norm of one. Its step count is a device tensor, for CUDA graphs."""

    def __init__(self, parameters, betas=(0.9, 0.98), eps=1e-10):
        self.parameters, self.betas, self.eps = list(parameters), betas, eps
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)

    @torch.no_grad()
    def step(self, rate):
        gradients = [p.grad for p in self.parameters]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        gradients = torch._foreach_mul(gradients, 1 / norm.clamp(min=1.0))
        self.count += 1
        b1, b2 = self.betas
        torch._foreach_lerp_(self.first, gradients, 1 - b1)
        torch._foreach_mul_(self.second, b2)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - b2)
        scale = torch._foreach_sqrt(self.second)
        torch._foreach_add_(scale, self.eps)
        update = torch._foreach_div(self.first, scale)
        torch._foreach_mul_(update, rate * (1 - b2**self.count).sqrt() / (1 - b1**self.count))
        torch._foreach_sub_(self.parameters, update)

    def state(self):
        """Tensors to save and restore, by name."""
        moments = {
            f"adam.{name}.{k}": t
            for name, ts in (("first", self.first), ("second", self.second))
            for k, t in enumerate(ts)
        }
        return {"adam.count": self.count, **moments}
