"""Batches made by worker processes: scenes with their token ids, and crops for the autoencoder, as numpy arrays.

Workers are forked, so a feed is started before CUDA is.
"""

import multiprocessing
import queue
import random
import threading

import numpy as np
import torch

import captions
import scenes
from models import TOKEN_MULTIPLE

# Image tokens with pads -> the canvas that is drawn most, in tokens (rows, columns), and its share.
BUCKETS = {
    256: (((16, 16),), 0.6),
    384: (((16, 24), (24, 16)), 0.7),
    576: (((24, 24),), 0.6),
    1024: (((32, 32),), 0.6),
    2048: (((45, 45),), 0.6),
    3616: (((45, 80), (80, 45)), 0.8),
    4096: (((64, 64),), 0.6),
}
# Share of batches by progress: early, middle, late.
SCHEDULE = (
    (0.25, {256: 62, 384: 10, 576: 12, 1024: 16}),
    (0.55, {256: 26, 384: 6, 576: 8, 1024: 30, 2048: 13, 3616: 14, 4096: 3}),
    (1.01, {256: 16, 384: 4, 576: 6, 1024: 30, 2048: 17, 3616: 22, 4096: 5}),
)
LONG_CAPTIONS = {256: 0.06, 1024: 0.06}  # share of a bucket's batches whose captions take 33 to 64 tokens


def bucket_of(rows, columns):
    """Image tokens with pads."""
    return -(-rows * columns // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


def shapes(bucket, widest=2.0):
    """Every canvas (rows, columns) of a bucket whose sides differ by no more than a factor of widest."""
    found = [
        (r, c)
        for r in range(8, 97)
        for c in range(8, 97)
        if bucket_of(r, c) == bucket and max(r, c) <= widest * min(r, c)
    ]
    if not found:
        raise ValueError(f"no canvas has {bucket} image tokens")
    return found


def weights_at(progress, schedule=SCHEDULE):
    """The schedule's shares at a progress in [0, 1]."""
    return next(shares for until, shares in schedule if progress < until)


class Feed:
    """Runs make(seed), an endless generator of picklable items, in worker processes."""

    def __init__(self, make, workers, depth=32, seed=0):
        context = multiprocessing.get_context("fork")
        self.queue = context.Queue(depth)
        self.processes = [
            context.Process(target=self._work, args=(make, 1000003 * seed + 7919 * k + 1), daemon=True)
            for k in range(workers)
        ]
        for process in self.processes:
            process.start()

    def _work(self, make, seed):
        torch.set_num_threads(1)
        for item in make(seed):
            self.queue.put(item)

    def get(self):
        return self.queue.get()

    def stop(self):
        for process in self.processes:
            process.terminate()


class CropFeed(Feed):
    """(height, width, top, left, packed scenes): one crop place for a batch of scenes of one size."""

    SIZES = [(256, 256)] * 4 + [
        (320, 320),
        (384, 512),
        (512, 384),
        (512, 512),
        (512, 512),
        (720, 720),
        (720, 1280),
        (1280, 720),
    ]

    def __init__(self, workers, batch, crop, seed):
        def make(seed):
            generator, pick = scenes.Generator(seed), random.Random(seed)
            while True:
                height, width = pick.choice(self.SIZES)
                packed = scenes.pack([generator.sample(width, height)[1] for _ in range(batch)])
                yield height, width, pick.randint(0, height - crop), pick.randint(0, width - crop), packed

        super().__init__(make, workers, seed=seed)


class SceneFeed(Feed):
    """(rows, columns, ids, lengths, packed scenes) by the schedule; set_progress() moves along it."""

    def __init__(self, tokenizer_folder, workers, tokens_per_batch, seed, buckets=None, schedule=SCHEDULE):
        self.progress = multiprocessing.get_context("fork").Value("d", 0.0)
        buckets = buckets or BUCKETS

        def make(seed):
            tokenizer = captions.load(tokenizer_folder)
            generator, pick = scenes.Generator(seed), random.Random(seed)
            while True:
                shares = weights_at(self.progress.value, schedule)
                bucket = pick.choices(list(shares), list(shares.values()))[0]
                main, share = buckets[bucket]
                rows, columns = pick.choice(main if pick.random() < share else shapes(bucket))
                length = 64 if pick.random() < LONG_CAPTIONS.get(bucket, 0) else 32
                batch = batch_size(tokens_per_batch, bucket, length)
                texts, drawn = [], []
                while len(texts) < batch:
                    caption, scene = generator.sample(columns * scenes.GRID, rows * scenes.GRID)
                    for _ in range(pick.randint(1, 5) if length > 32 else 0):
                        caption = generator.lengthen(caption)
                    if length - TOKEN_MULTIPLE < len(tokenizer.encode(captions.chat(caption)).ids) <= length:
                        texts.append(caption)
                        drawn.append(scene)
                ids, lengths = captions.encode(tokenizer, texts)
                yield rows, columns, ids, lengths, scenes.pack(drawn)

        super().__init__(make, workers, seed=seed)

    def set_progress(self, progress):
        self.progress.value = progress


def batch_size(tokens_per_batch, bucket, length):
    """Items of a bucket that make about so many tokens."""
    return max(1, tokens_per_batch // (bucket + length))


class Prefetch(threading.Thread):
    """Moves a feed's arrays to the device on a stream of its own, so that training never waits for a copy."""

    def __init__(self, get, device, depth=6):
        super().__init__(daemon=True)
        self.source, self.device, self.ready = get, device, queue.Queue(depth)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.start()

    def _move(self, item):
        if isinstance(item, tuple):
            return tuple(self._move(v) for v in item)
        if not isinstance(item, np.ndarray):
            return item
        tensor = torch.from_numpy(item)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.stream else tensor

    def run(self):
        while True:
            item = self.source()
            if self.stream is None:
                self.ready.put(self._move(item))
                continue
            with torch.cuda.stream(self.stream):
                moved = self._move(item)
            self.stream.synchronize()
            self.ready.put(moved)

    def get(self):
        """The next item, its tensors safe to use on the current stream."""
        item = self.ready.get()
        if self.stream is not None:
            self._record(item, torch.cuda.current_stream(self.device))
        return item

    def _record(self, item, stream):
        if isinstance(item, tuple):
            for v in item:
                self._record(v, stream)
        elif torch.is_tensor(item):
            item.record_stream(stream)
