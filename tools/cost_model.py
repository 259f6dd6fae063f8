"""Predicts the time of one denoising step on 1 to 8 GPUs from one GPU's figures and the links between them.

Usage: tools/cost_model.py [--caption 32] [WIDTHxHEIGHT ...]. Needs Python 3.11 alone. Prints the Markdown table
of docs/sequence-parallel.md. Compute times come from library ceilings measured on one H200; everything about links is an
assumption, named below, until it is measured.
"""

import argparse
from dataclasses import dataclass

# Z-Image-Turbo
HEADS, HEAD_DIM, LAYERS, REFINERS, ELEMENT_BYTES = 30, 128, 30, 2, 2

# Measured on one H200 in bf16 (docs/lab-notes.md): all matrix products of a block at 4128 rows, and its attention.
PRODUCTS_MS, ATTENTION_MS, AT_ROWS = 0.463 + 0.169 + 0.810 + 0.455, 0.480, 4128
COPY_GB_S = 4260.0  # read + write


@dataclass
class Link:
    """What carries bytes between ranks: GB/s that one rank sends while all do, and the cost of starting an exchange."""

    name: str
    gb_s: float
    start_us: float


# Assumptions: NVLink 4 gives 450 GB/s a direction, of which an all-to-all of NCCL sends reaches about 3/4; an InfiniBand
# adapter of 400 Gb/s a GPU reaches 9/10 of 50 GB/s. Starting a grouped send and receive takes 15 us, over the net 30 us.
NVLINK = Link("NVLink", 340.0, 15.0)
NETWORK = Link("two hosts", 45.0, 30.0)


def split(count: int, parts: int) -> list[int]:
    return [count // parts + (part < count % parts) for part in range(parts)]


def exchange_ms(rows: int, ranks: int, links: list[tuple[Link, float]]) -> float:
    """Both exchanges of a layer on the rank that sends most; `links` with the share of a rank's peers behind each."""
    if ranks == 1:
        return 0.0
    row_counts, head_counts = split(rows, ranks), split(HEADS, ranks)
    head_bytes = HEAD_DIM * ELEMENT_BYTES
    worst = 0.0
    for of_rows, heads in zip(row_counts, head_counts):
        qkv = 3 * of_rows * (HEADS - heads) * head_bytes
        output = (rows - of_rows) * heads * head_bytes
        # Heads are read where they arrive; the output is written once more, into the columns of its heads.
        copied = 2 * of_rows * HEADS * head_bytes
        wire = max((qkv + output) * share / link.gb_s for link, share in links) / 1e6
        start = 2 * max(link.start_us for link, _ in links) / 1e3
        worst = max(worst, wire + start + copied / COPY_GB_S / 1e6)
    return worst


def step_ms(tokens: int, caption: int, ranks: int, links: list[tuple[Link, float]]) -> tuple[float, float]:
    """One prediction: milliseconds in all, and those of them in exchanges, none of which is hidden."""
    total = exposed = 0.0
    for layers, rows in ((REFINERS, tokens), (LAYERS, tokens + caption)):
        products = PRODUCTS_MS * split(rows, ranks)[0] / AT_ROWS
        attention = ATTENTION_MS * (rows / AT_ROWS) ** 2 * split(HEADS, ranks)[0] / HEADS
        exchange = exchange_ms(rows, ranks, links)
        total += layers * (products + attention + exchange)
        exposed += layers * exchange
    return total, exposed


def pixels(text: str) -> tuple[int, int]:
    """Returns width and height of WIDTHxHEIGHT."""
    width, height = map(int, text.split("x"))
    if width < 16 or height < 16:
        raise ValueError(text)
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--caption", type=int, default=32, help="padded caption rows")
    parser.add_argument("sizes", nargs="*", type=pixels, metavar="WIDTHxHEIGHT",
                        default=[(1024, 1024), (720, 1280), (2048, 2048)], help="pixels")
    args = parser.parse_args()
    print("| size | ranks | links | step ms | of it exchanges | speed-up | efficiency |\n|---|---|---|---|---|---|---|")
    for width, height in args.sizes:
        tokens = -(-(height // 16) * (width // 16) // 32) * 32
        one, _ = step_ms(tokens, args.caption, 1, [])
        for ranks, name, links in ((1, "-", []), (2, "NVLink", [(NVLINK, 1)]), (4, "NVLink", [(NVLINK, 1)]),
                                   (8, "NVLink", [(NVLINK, 1)]),
                                   (8, "two hosts of 4", [(NVLINK, 3 / 7), (NETWORK, 4 / 7)])):
            total, exposed = step_ms(tokens, args.caption, ranks, links)
            print(f"| {width}x{height} | {ranks} | {name} | {total:.1f} | {exposed:.1f} | {one / total:.2f} | {one / total / ranks:.0%} |")


if __name__ == "__main__":
    main()
