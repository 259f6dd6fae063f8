"""Trains the transformer and the text encoder together, in legs that continue from a checkpoint.

    python tools/train_mini/train.py --atlas ATLAS.npz --vae VAE_DIR --tokenizer TOKENIZER_DIR \\
        --state STATE_DIR --total 1200 --until 560 [--carry SMALL_STATE_DIR]

--total is the training time in seconds that the schedules span, --until where this leg stops; a leg starts where the
checkpoint in --state ended. On CUDA every batch shape is one CUDA graph (forward and backward) and the optimisers are
another.
Once warm, a step costs the host two launches and a few copies.
"""

import argparse
import collections
import math
import os
import random
import time
from dataclasses import dataclass, field


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("atlas", "vae", "tokenizer", "state"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--total", type=float, required=True, help="seconds that the schedules span")
    parser.add_argument("--until", type=float, required=True, help="seconds at which this leg ends, all legs counted")
    parser.add_argument("--carry", default="", help="also write a small bf16 checkpoint here")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--fresh", type=float, default=0.3)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import torch

import captions
import checkpoint
import feed
import models
import render
import sampler
import sprites
import vae


@dataclass
class Options:
    """What a leg needs to know; times are seconds, shares are fractions."""

    atlas: str
    vae: str
    tokenizer: str
    state: str
    total: float
    until: float
    carry: str = ""
    workers: int = 8
    tokens: int = 65536  # a batch
    fresh: float = 0.3  # share of steps on new scenes; the others draw from the last ones again
    keep: int = 400  # batches kept per shape
    muon_rate: float = 2.5e-3
    adam_rate: float = 1.2e-3
    decay_from: float = 0.45  # progress at which the rate starts to fall
    average: float = 0.999
    drop: float = 0.1  # share of captions left out
    focus_from: float = 0.7  # progress from which noise levels gather on the grids of 8 and 9 steps
    focus: float = 0.6
    rehearse_from: float = 0.8  # progress from which steps start where guided sampling itself leads
    rehearse: float = 0.5
    guidance: float = 4.5  # the largest scale rehearsed
    seed: int = 2
    compile: bool = True
    transformer: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    buckets: dict = field(default_factory=lambda: feed.BUCKETS)
    schedule: tuple = feed.SCHEDULE


def is_matrix(name, parameter):
    """Whether Muon trains it: the matrices inside blocks."""
    return parameter.ndim == 2 and any(
        s in name for s in (".to_q.", ".to_k.", ".to_v.", ".to_out.", "feed_forward.", "_proj.")
    )


def rehearsal_pairs(device):
    """(from, to) noise levels one or two steps apart on the grids of 8 and 9 steps: float32 [P, 2]."""
    pairs = []
    for steps in (8, 9):
        levels = sampler.sigmas(steps)[:-1]
        pairs += [(levels[k], levels[k + stride]) for stride in (1, 2) for k in range(len(levels) - stride)]
    return torch.tensor(pairs, device=device)


class Shape:
    """The fixed inputs of one batch shape, and the graphs captured over them."""

    def __init__(self, entry, tables):
        self.tokens, self.ids, self.lengths = (torch.empty_like(v) for v in entry[:3])
        self.tables = tuple(torch.empty_like(v) for v in tables)
        self.graphs = {}

    def load(self, entry, tables):
        torch._foreach_copy_([self.tokens, self.ids, self.lengths, *self.tables], [*entry[:3], *tables])


class Trainer:
    def __init__(self, options, device):
        self.o, self.device = options, device
        self.cuda = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.feed = feed.SceneFeed(
            options.tokenizer, options.workers, options.tokens, options.seed, options.buckets, options.schedule
        )
        torch.manual_seed(options.seed)
        self.random = random.Random(options.seed)
        self.texels = render.pack_atlas(sprites.load_atlas(options.atlas), device)
        self.vae = vae.load(options.vae, device, self.dtype)
        self.transformer = models.Transformer(options.transformer).to(device)
        self.text = models.TextEncoder(options.text).to(device)
        self.named = {
            **{f"transformer.{n}": p for n, p in self.transformer.named_parameters()},
            **{f"text.{n}": p for n, p in self.text.trained()},
        }
        self.parameters = list(self.named.values())
        for p in self.text.layers[-1].parameters():
            p.requires_grad_(False)
        self._prepare_optimisers()
        ids, lengths = captions.encode(captions.load(options.tokenizer), [""])
        self.empty_ids, self.empty_lengths = torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)
        self.pairs = rehearsal_pairs(device)
        self.grid = torch.tensor(sampler.sigmas(8)[:-1] + sampler.sigmas(9)[:-1], device=device)
        self.rate, self.focus = torch.zeros((), device=device), torch.zeros((), device=device)
        self.loss_sum = {False: torch.zeros((), device=device), True: torch.zeros((), device=device)}
        self.loss_count = collections.Counter()
        self.kept, self.shapes, self.tables = collections.defaultdict(list), {}, {}
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self.optimiser_graph = None
        self.info = {"steps": 0, "images": 0, "fresh_images": 0, "seconds": 0.0, "legs": [], "history": []}
        self._resume()
        self.info.update(transformer=self.transformer.config, text=self.text.config)
        if options.compile:
            # Only the batch and the tokens vary; everything else is worth compiling in as constants.
            torch._dynamo.config.recompile_limit = 64
            models.Block.core = staticmethod(compiled_block())
        self.batches = feed.Prefetch(self.feed.get, device)

    def _prepare_optimisers(self):
        from optimizers import Adam, Muon

        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.gradients = [p.grad for p in self.parameters]
        self.muon = Muon([p for n, p in self.named.items() if is_matrix(n, p)])
        self.adam = Adam([p for n, p in self.named.items() if not is_matrix(n, p)])
        self.average = [p.detach().clone() for p in self.parameters]

    # ---- checkpoints ----
    def _resume(self):
        if not os.path.exists(os.path.join(self.o.state, "state.json")):
            return
        self.info = checkpoint.info(self.o.state)
        optimiser = {**self.muon.state(), **self.adam.state()}
        targets = {"weights": self.named, "average": dict(zip(self.named, self.average)), "optimiser": optimiser}
        with torch.no_grad():
            for part, tensors in targets.items():
                stored = checkpoint.load(self.o.state, part)
                if stored.keys() != tensors.keys() and (stored or part != "optimiser"):
                    raise ValueError(
                        f"{self.o.state}: {part} holds other tensors than this model: "
                        f"{sorted(stored.keys() ^ tensors.keys())[:4]}"
                    )
                for name, value in stored.items():
                    tensors[name].copy_(value)
        print("resumed at step", self.info["steps"], flush=True)

    def save(self):
        average = dict(zip(self.named, self.average))
        checkpoint.save(self.o.state, self.info, self.named, average, {**self.muon.state(), **self.adam.state()})
        if self.o.carry:
            checkpoint.save(self.o.carry, self.info, self.named, average)

    # ---- batches ----
    def next_entry(self, progress):
        """(tokens, ids, lengths, rows, columns): a new batch, or one drawn before."""
        shares = feed.weights_at(progress, self.o.schedule)
        bucket = self.random.choices(list(shares), list(shares.values()))[0]
        length = 64 if self.random.random() < feed.LONG_CAPTIONS.get(bucket, 0) else 32
        kept = self.kept[bucket, length]
        if len(kept) >= 8 and self.random.random() > self.o.fresh:
            return self.random.choice(kept)
        rows, columns, ids, lengths, packed = self.batches.get()
        height, width = rows * models.PATCH * sampler.PIXELS, columns * models.PATCH * sampler.PIXELS
        at_once = max(1, (1 << 24) // (height * width))
        tokens = []
        for start in range(0, len(ids), at_once):
            image = render.render(self.texels, *(v[start : start + at_once] for v in packed), height, width)
            tokens.append(
                models.patchify(self.vae.encode(image.contiguous(memory_format=torch.channels_last))).to(self.dtype)
            )
        entry = (torch.cat(tokens), ids, lengths, rows, columns)
        kept = self.kept[tokens[0].shape[1], ids.shape[1]]
        kept.append(entry)
        if len(kept) > self.o.keep:
            kept.pop(0)
        self.info["fresh_images"] += len(ids)
        return entry

    def table(self, length, rows, columns):
        key = (length, rows, columns)
        if key not in self.tables:
            self.tables[key] = self.transformer.tables(*key, self.device)
        return self.tables[key]

    # ---- one step ----
    def _sigma(self, batch):
        u = (torch.rand(batch, device=self.device).argsort() + torch.rand(batch, device=self.device)) / batch
        wide = torch.where(torch.rand(batch, device=self.device) < 0.75, 3 * u / (1 + 2 * u), u)
        on_grid = self.grid[(u * len(self.grid)).long().clamp(max=len(self.grid) - 1)]
        return torch.where(torch.rand(batch, device=self.device) < self.focus, on_grid, wide)

    def _predict(self, x, sigma, caption, lengths, tables):
        return self.transformer(x.to(self.dtype), 1 - sigma, caption, lengths, tables).float()

    def _rehearsed(self, data, noise, caption, lengths, tables):
        """Where one guided Euler step from a true noisy picture arrives, and the noise level there.

        Guidance overshoots; a model that only ever saw true noisy pictures does not know how to come back (night scenes
        turned black). The step's target stays the true picture, so the model learns to.
        """
        batch = len(data)
        start, end = self.pairs[
            (torch.rand(batch, device=self.device) * len(self.pairs)).long().clamp(max=len(self.pairs) - 1)
        ].unbind(1)
        with torch.no_grad():
            x = torch.lerp(data, noise, start[:, None, None])
            empty = self.text(self.empty_ids, self.dtype).expand(batch, -1, -1)
            prediction = self._predict(x, start, caption.detach(), lengths, tables)
            if caption.shape[1] == empty.shape[1]:
                unconditional = self._predict(x, start, empty, self.empty_lengths.expand(batch), tables)
                scale = self.o.guidance * torch.rand(batch, 1, 1, device=self.device)
                prediction = prediction + scale * (prediction - unconditional)
            return x - (end - start)[:, None, None] * prediction, end

    def forward_backward(self, shape, rehearse):
        """Gradients of one batch, in place; the loss is added to loss_sum."""
        torch._foreach_zero_(self.gradients)
        data, ids, lengths = shape.tokens.float(), shape.ids, shape.lengths
        batch = len(data)
        if ids.shape[1] == self.empty_ids.shape[1]:
            drop = torch.rand(batch, device=self.device) < self.o.drop
            ids = torch.where(drop[:, None], self.empty_ids, ids)
            lengths = torch.where(drop, self.empty_lengths, lengths)
        caption = self.text(ids, self.dtype)
        noise = torch.randn_like(data)
        if rehearse:
            x, sigma = self._rehearsed(data, noise, caption, lengths, shape.tables)
            target = (data - x) / sigma[:, None, None]
        else:
            sigma = self._sigma(batch)
            x, target = torch.lerp(data, noise, sigma[:, None, None]), data - noise
        error = (self._predict(x, sigma, caption, lengths, shape.tables) - target).square()
        real = ~shape.tables[2]
        loss = (error * real[None, :, None]).sum() / (real.sum() * batch * error.shape[-1])
        loss.backward()
        self.loss_sum[rehearse] += loss.detach()

    def optimise(self):
        self.muon.step(self.rate * self.o.muon_rate)
        self.adam.step(self.rate * self.o.adam_rate)

    def _captured(self, work):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            work()
        return graph

    def step(self, entry, rehearse):
        tokens, ids, _, rows, columns = entry
        key = (tokens.shape[:2], ids.shape[1])
        tables = self.table(ids.shape[1], rows, columns)
        if key not in self.shapes:
            self.shapes[key] = Shape(entry, tables)
        shape = self.shapes[key]
        shape.load(entry, tables)
        if not self.cuda:
            self.forward_backward(shape, rehearse)
            self.optimise()
        else:
            if rehearse not in shape.graphs:
                began = time.time()
                before = self.loss_sum[rehearse].clone()
                shape.graphs[rehearse] = self._captured(lambda: self.forward_backward(shape, rehearse))
                self.loss_sum[rehearse].copy_(before)
                print(
                    f"captured {tuple(key[0])} + {key[1]} {'rehearsed' if rehearse else ''} {time.time() - began:.1f} s",
                    flush=True,
                )
            if self.optimiser_graph is None:
                self.optimiser_graph = self._capture_optimiser()
            shape.graphs[rehearse].replay()
            self.optimiser_graph.replay()
        self.loss_count[rehearse] += 1
        self.info["steps"] += 1
        self.info["images"] += len(tokens)

    def _capture_optimiser(self):
        # The warm-up runs really step, so the state is put back afterwards.
        state = [*self.parameters, *self.muon.state().values(), *self.adam.state().values()]
        saved = [t.detach().clone() for t in state]
        graph = self._captured(self.optimise)
        with torch.no_grad():
            torch._foreach_copy_(state, saved)
        return graph

    def run(self):
        """Steps until the leg's end, then saves."""
        o, began, offset = self.o, time.time(), self.info["seconds"]
        logged, logged_steps, events = began, self.info["steps"], collections.deque()
        self.info["legs"].append(
            {
                "from_step": self.info["steps"],
                "device": torch.cuda.get_device_name() if self.cuda else "cpu",
                "began": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        while True:
            elapsed = offset + time.time() - began
            if elapsed >= o.until:
                break
            progress = min(1.0, elapsed / o.total)
            self.feed.set_progress(progress)
            warm = min(1.0, (self.info["steps"] + 1) / 300)
            falling = (progress - o.decay_from) / (1 - o.decay_from)
            self.rate.fill_(warm * min(1.0, max(0.01, 1 - falling)))
            self.focus.fill_(o.focus if progress >= o.focus_from else 0.0)
            rehearse = progress >= o.rehearse_from and self.random.random() < o.rehearse
            self.step(self.next_entry(progress), rehearse)
            if self.info["steps"] % 4 == 0:
                decay = min(o.average, (self.info["steps"] + 1) / (self.info["steps"] + 20)) ** 4
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
            if self.cuda:
                # The host may be at most a few steps ahead, or the clock above would mean nothing.
                events.append(torch.cuda.Event())
                events[-1].record()
                if len(events) > 8:
                    events.popleft().synchronize()
            if time.time() - logged > 10:
                self._log(elapsed, (self.info["steps"] - logged_steps) / (time.time() - logged))
                logged, logged_steps = time.time(), self.info["steps"]
        self.info["seconds"] = offset + time.time() - began
        self._log(self.info["seconds"], 0.0)
        self.info["legs"][-1].update(to_step=self.info["steps"], seconds=round(time.time() - began, 1))
        self.feed.stop()
        self.save()

    def _log(self, elapsed, pace):
        losses = {k: self.loss_sum[k].item() / self.loss_count[k] for k in (False, True) if self.loss_count[k]}
        for k in losses:
            self.loss_sum[k].zero_()
        self.loss_count.clear()
        memory = torch.cuda.max_memory_allocated() >> 30 if self.cuda else 0
        shown = " ".join(f"{'rehearsed ' if k else 'loss '}{v:.4f}" for k, v in losses.items())
        print(
            f"{elapsed:.0f} s step {self.info['steps']} {shown} {pace:.1f} steps/s "
            f"images {self.info['images']} fresh {self.info['fresh_images']} rate {self.rate.item():.3f} queue {self.feed.queue.qsize()} {memory} GiB",
            flush=True,
        )
        self.info["history"].append([round(elapsed), self.info["steps"], *(round(v, 4) for v in losses.values())])
        if any(not math.isfinite(v) for v in losses.values()):
            raise RuntimeError(f"the loss is {losses} at step {self.info['steps']}")


def compiled_block():
    """block_forward compiled once for all batch sizes and token counts."""
    compiled = torch.compile(models.block_forward)

    def core(x, cos, sin, *rest):
        torch._dynamo.maybe_mark_dynamic(x, 0)
        torch._dynamo.maybe_mark_dynamic(x, 1)
        for table in (cos, sin):
            torch._dynamo.maybe_mark_dynamic(table, 0)
        for modulation in rest[:4]:
            if modulation is not None:
                torch._dynamo.maybe_mark_dynamic(modulation, 0)
        return compiled(x, cos, sin, *rest)

    return core


def main(args):
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    Trainer(Options(**vars(args)), torch.device("cuda" if torch.cuda.is_available() else "cpu")).run()


if __name__ == "__main__":
    main(OPTIONS)
    # A compile worker or the prefetch thread may still hold the interpreter; everything is on disk.
    os._exit(0)
