"""Makes what Pillow 13 says of pictures: resampled ones, the sizes of prepared references, and files to decode.

Use: python tests/data/io/make_pictures.py   (Pillow and NumPy installed; writes beside itself)
Of resampled pictures there is the SHA-256 of the pixels; resample_test.cc makes the same pictures to begin with.
`pictures/NAME.EXT` is to be decoded to the pixels of `pictures/NAME.EXT.png`.
"""
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

here = Path(__file__).parent


def noise(height: int, width: int, hard: bool) -> np.ndarray:
    """Returns pixels of a linear congruential generator: all values, or (hard) 0 and 255 alone, which overshoot."""
    count = height * width * 3
    state = np.empty(count, np.uint64)
    value = height * 65537 + width
    for i in range(count):
        value = (value * 1664525 + 1013904223) & 0xFFFFFFFF
        state[i] = value
    values = (state >> 31) * 255 if hard else state >> 24
    return values.astype(np.uint8).reshape(height, width, 3)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def prepared(width: int, height: int, pixels: int, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the resampled and the cropped size, as diffusers 0.42.1 computes them (Flux2KleinPipeline)."""
    if width * height > pixels:
        scale = math.sqrt(pixels / (width * height))
        width, height = int(width * scale), int(height * scale)
    return (width, height), (width // multiple * multiple, height // multiple * multiple)


def write_resampled() -> None:
    sources = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (16, 16), (37, 53), (64, 100), (255, 127), (300, 301)]
    targets = [(1, 1), (1, 9), (2, 3), (5, 4), (16, 16), (17, 31), (53, 37), (63, 100), (64, 99), (128, 200), (299, 300)]
    lines = ["# hard, source height and width, target height and width, SHA-256 of the pixels that Pillow makes"]
    for height, width in sources:
        for hard in (False, True):
            image = Image.fromarray(noise(height, width, hard))
            for to_height, to_width in targets:
                made = image.resize((to_width, to_height), Image.Resampling.LANCZOS)
                lines.append(f"{int(hard)} {height} {width} {to_height} {to_width} {digest(made)}")
    (here / "lanczos.txt").write_text("\n".join(lines) + "\n")


def write_prepared() -> None:
    generator = np.random.default_rng(1)
    sizes = [(1024, 1024), (1024, 1025), (1536, 1152), (64, 64), (64, 512), (512, 64), (4096, 512), (8000, 1000), (1023, 1025),
             (79, 65), (16384, 4096), (2048, 2048), (1448, 1448), (1449, 724), (6000, 4000), (4000, 6000), (1920, 1080)]
    while len(sizes) < 300:
        width, height = (int(2 ** generator.uniform(6, 13.5)) for _ in range(2))
        if max(width, height) <= 8 * min(width, height):
            sizes.append((width, height))
    lines = ["# width, height, most pixels, multiple, prepared width and height"]
    for i, (width, height) in enumerate(sizes):
        pixels, multiple = [(1024 * 1024, 16), (256 * 256, 8), (2024 * 2024, 16)][0 if i < 17 else i % 3]
        lines.append(" ".join(map(str, (width, height, pixels, multiple, *prepared(width, height, pixels, multiple)[1]))))
    (here / "prepared_sizes.txt").write_text("\n".join(lines) + "\n")

    lines = ["# height, width, most pixels, multiple, SHA-256 of the prepared pixels"]
    for height, width, pixels, multiple in [(100, 190, 128 * 128, 16), (301, 97, 96 * 96, 8), (65, 79, 1024 * 1024, 16)]:
        image = Image.fromarray(noise(height, width, False))
        resampled, cropped = prepared(width, height, pixels, multiple)
        if resampled != image.size:
            image = image.resize(resampled, Image.Resampling.LANCZOS)
        left, top = (image.width - cropped[0]) // 2, (image.height - cropped[1]) // 2
        image = image.crop((left, top, left + cropped[0], top + cropped[1]))
        lines.append(f"{height} {width} {pixels} {multiple} {digest(image)}")
    (here / "prepared_pixels.txt").write_text("\n".join(lines) + "\n")


def scene(height: int = 23, width: int = 37) -> np.ndarray:
    """Returns a picture with soft and hard edges, of which no two rows, columns or channels are alike."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * 7 + y * 13) % 256], axis=-1).astype(np.uint8)
    rgb[5:12, 8:20] = (250, 20, 60)
    return rgb


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[bytes], width: int, height: int, depth: int, colour: int, extra: bytes = b"", interlace: int = 0) -> bytes:
    """Returns a PNG of unfiltered rows: what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def interlaced_rows(pixels: np.ndarray) -> list[bytes]:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = (pixels[y::dy, x::dx] for y, x, dy, dx in passes)
    return [row.tobytes() for part in parts if part.size for row in part]


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    colour, weight = rgb.astype(np.int64), alpha.astype(np.int64)[..., None]
    return ((255 * (255 - weight) + colour * weight + 127) // 255).astype(np.uint8)


def rounded(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def write_picture(name: str, data: bytes, expected: np.ndarray | None = None) -> None:
    """Writes a file and its pixels: those given, else Pillow's of the first frame, upright and in RGB."""
    (here / "pictures" / name).write_bytes(data)
    if expected is None:
        image = Image.open(io.BytesIO(data))
        image = ImageOps.exif_transpose(image)
        expected = np.asarray(image.convert("RGB"))
    Image.fromarray(expected).save(here / "pictures" / f"{name}.png", optimize=True)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def write_pngs() -> None:
    rgb = scene()
    height, width = rgb.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    alpha = ((x * 11 + y * 5) % 256).astype(np.uint8)
    write_picture("alpha.png", saved(Image.fromarray(np.dstack([rgb, alpha])), "PNG"), over_white(rgb, alpha))
    grey = rgb[..., 2].copy()
    write_picture("grey_alpha.png", saved(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG"),
                  over_white(np.dstack([grey] * 3), alpha))
    write_picture("interlaced.png", png(interlaced_rows(rgb), width, height, 8, 2, interlace=1), rgb)

    wide = (x[..., None] * 1717 + y[..., None] * 911 + np.array([0, 20000, 40000]) + (x * y)[..., None]) % 65536
    big = wide.astype(">u2")
    write_picture("rgb16.png", png([row.tobytes() for row in big], width, height, 16, 2), rounded(wide))
    deep_alpha = (x * 1200 + y * 777) % 65536
    deep = np.dstack([wide, deep_alpha]).astype(">u2")
    write_picture("rgba16.png", png([row.tobytes() for row in deep], width, height, 16, 6),
                  over_white(rounded(wide), rounded(deep_alpha)))
    write_picture("grey16.png", png([row[:, 0].tobytes() for row in big], width, height, 16, 0),
                  np.dstack([rounded(wide[..., 0])] * 3))
    for bits in (1, 2, 4):
        values = (x + 3 * y) % (1 << bits)
        packed = [np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits:].reshape(-1)).tobytes()
                  for row in values]
        write_picture(f"grey{bits}.png", png(packed, width, height, bits, 0),
                      np.dstack([(values * 255 // ((1 << bits) - 1)).astype(np.uint8)] * 3))

    palette = np.array([[i * 16, 255 - i * 16, i * i % 256] for i in range(16)], np.uint8)
    index = ((x + y) % 16).astype(np.uint8)
    opaque = np.array([0, 40, 128] + [255] * 13, np.uint8)
    extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", opaque[:3].tobytes())
    write_picture("palette_alpha.png", png([row.tobytes() for row in index], width, height, 8, 3, extra),
                  over_white(palette[index], opaque[index]))
    write_picture("palette4.png", png([(row[:36:2] << 4 | row[1::2]).tobytes() + bytes([row[36] << 4]) for row in index],
                                      width, height, 4, 3, chunk(b"PLTE", palette.tobytes())), palette[index])
    keyed = rgb.copy()
    keyed[12:] = (1, 2, 3)
    clear = np.where((keyed == (1, 2, 3)).all(-1), 0, 255).astype(np.uint8)
    write_picture("colour_key.png", png([row.tobytes() for row in keyed], width, height, 8, 2,
                                        chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))), over_white(keyed, clear))
    write_picture("turned.png", saved(Image.fromarray(rgb), "PNG", exif=orientation(6)))
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    write_picture("animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), rgb)


def write_jpegs() -> None:
    image = Image.fromarray(scene())
    write_picture("baseline.jpg", saved(image, "JPEG", quality=90))
    write_picture("whole_colour.jpg", saved(image, "JPEG", quality=90, subsampling=0))
    write_picture("half_colour.jpg", saved(image, "JPEG", quality=90, subsampling=1))
    write_picture("progressive.jpg", saved(image, "JPEG", quality=80, progressive=True))
    write_picture("restarts.jpg", saved(image, "JPEG", quality=80, restart_marker_rows=1))
    write_picture("grey.jpg", saved(image.convert("L"), "JPEG", quality=90))
    write_picture("rgb.jpg", saved(image, "JPEG", quality=95, keep_rgb=True))
    cmyk = np.dstack([scene(), (scene()[..., 0] // 3)])
    write_picture("cmyk.jpg", saved(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95))
    for value in range(1, 9):
        write_picture(f"turned{value}.jpg", saved(image, "JPEG", quality=90, exif=orientation(value)))
    write_picture("settings.jpg", saved(image, "JPEG", quality=60, optimize=True, comment=b"a comment", dpi=(72, 72)))
    # Bytes behind the end are none of the picture's.
    write_picture("trailing.jpg", saved(image, "JPEG", quality=70) + b"trailing bytes" * 9)


def write_webps() -> None:
    image = Image.fromarray(scene())
    rgb = scene()
    height, width = rgb.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    alpha = ((x * 11 + y * 5) % 256).astype(np.uint8)
    write_picture("lossy.webp", saved(image, "WEBP", quality=80))
    write_picture("lossless.webp", saved(image, "WEBP", lossless=True), rgb)
    write_picture("alpha.webp", saved(Image.fromarray(np.dstack([rgb, alpha])), "WEBP", lossless=True, exact=True),
                  over_white(rgb, alpha))
    write_picture("turned.webp", saved(image, "WEBP", lossless=True, exif=orientation(8)))
    frames = [image, Image.fromarray(255 - rgb)]
    write_picture("animated.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), rgb)


if __name__ == "__main__":
    (here / "pictures").mkdir(exist_ok=True)
    write_pngs()
    write_jpegs()
    write_webps()
    write_resampled()
    write_prepared()
