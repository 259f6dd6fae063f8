"""Runs a server whose model takes reference pictures, and sends it pictures: as OpenAI's clients do, as jobs, and hostile ones.

Usage: NOSTOS_BINARY=build/cpu/tests/stand_in_server server_edits_test.py [Edits] [References] [Hostile] [Busy]. Needs Python 3.11 alone; the
OpenAI package's own test is skipped, saying so, without it (scripts/test.sh installs it).
"""

import base64
import concurrent.futures
import hashlib
import json
import os
import struct
import tempfile
import time
import unittest
import zlib
from pathlib import Path

from server_case import BOUNDARY, ServerTest, check_png, form, run_tests
from server_process import Server, events, status_of

PICTURES = Path(__file__).resolve().parents[1] / "data" / "io" / "pictures"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour: tuple[int, int, int], width: int = 80, height: int = 64) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(colour) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def half_mask(above: tuple[int, int, int, int], below: tuple[int, int, int, int], width: int = 80, height: int = 64) -> bytes:
    """Returns a PNG with alpha of two colours."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    rows = (b"\0" + bytes(above) * width) * (height // 2) + (b"\0" + bytes(below) * width) * (height - height // 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def first_pixels(data: bytes, count: int) -> list[tuple[int, ...]]:
    """Returns the first pixels of an 8-bit RGB PNG, whose first row needs no row above it."""
    offset, compressed = 8, b""
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        if data[offset + 4 : offset + 8] == b"IDAT":
            compressed += data[offset + 8 : offset + 8 + length]
        offset += 12 + length
    row = bytearray(zlib.decompress(compressed)[: 1 + 3 * count])
    for i in range(4, len(row)):
        row[i] = (row[i] + (row[i - 3] if row[0] in (1, 4) else row[i - 3] // 2 if row[0] == 3 else 0)) & 255
    return [tuple(row[1 + 3 * i : 4 + 3 * i]) for i in range(count)]


class PictureTest(ServerTest):
    def send(self, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}"):
        return self.server.post("/v1/images/edits", body, {"Content-Type": content_type})

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.server.data_dir / "references").iterdir())

    def assert_refused(self, answer, status: int, param: str | None = None, words: str = ""):
        self.assertEqual(answer.status, status, answer.body)
        error = answer.json()["error"]
        self.assertEqual(error["param"], param, error)
        self.assertIn(words, error["message"])
        self.assertEqual(self.left(), [])


class Edits(PictureTest):
    def test_an_edit_from_form_to_picture(self):
        body = form(("image[]", "red.png", png((200, 10, 20))), ("image[]", "blue.png", png((1, 2, 250), 100, 90)),
                    ("prompt", None, "make it new"), ("n", None, "2"), ("seed", None, "7"), ("quality", None, "high"))
        answer = self.send(body)
        self.assertEqual(answer.status, 200, answer.body)
        result = answer.json()
        self.assertEqual((len(result["data"]), result["size"], result["output_format"]), (2, "80x64", "png"))
        for entry in result["data"]:
            picture = base64.b64decode(entry["b64_json"])
            check_png(picture, (80, 64))
            self.assertEqual(first_pixels(picture, 3), [(200, 10, 20), (1, 2, 250), (0, 0, 0)])
        self.assertEqual(self.left(), [])
        record = self.server.get("/v1/jobs?limit=1").json()["data"][0]["request"]["image"]
        self.assertEqual(record[0], {"file": "red.png", "sha256": hashlib.sha256(png((200, 10, 20))).hexdigest(),
                                     "width": 80, "height": 64})

    def test_sizes_urls_formats_and_streams(self):
        image = ("image", "x.png", png((9, 9, 9)))
        answer = self.send(form(image, ("prompt", None, "x"), ("size", None, "96x64"), ("response_format", None, "url"),
                                ("output_format", None, "jpeg")))
        picture = self.server.get(answer.json()["data"][0]["url"].split("/", 3)[3].join(("/", "")))
        self.assertEqual((picture.status, picture.headers["content-type"]), (200, "image/jpeg"))
        told = events(self.send(form(image, ("prompt", None, "x"), ("stream", None, "true"))).body)
        self.assertEqual([(name, data["type"], data["size"]) for name, data in told],
                         [("image_edit.completed", "image_edit.completed", "80x64")])

    def test_every_format_is_taken(self):
        for name in ("rgba16.png", "palette_alpha.png", "progressive.jpg", "cmyk.jpg", "turned6.jpg", "lossy.webp", "animated.webp"):
            with self.subTest(name=name):
                answer = self.send(form(("image", name, (PICTURES / name).read_bytes()), ("prompt", None, "x")))
                # They are too small for the model, which is said of what was decoded.
                self.assert_refused(answer, 400, "image[0]", f"image[0] ({name}) is {'23x37' if name == 'turned6.jpg' else '37x23'} pixels")

    def test_a_mask_says_what_is_drawn_anew(self):
        image, prompt = ("image", "x.png", png((1, 2, 3))), ("prompt", None, "x")
        drawn = lambda mask: first_pixels(base64.b64decode(self.send(form(image, ("mask", "m.png", mask), prompt)).json()["data"][0]["b64_json"]), 4)
        black, white = (0, 0, 0), (255, 255, 255)
        # The upper half is transparent, or white.
        self.assertEqual(drawn(half_mask((9, 9, 9, 0), (200, 200, 200, 255))), [(1, 2, 3), white, black, black])
        self.assertEqual(drawn(half_mask((9, 9, 9, 127), (200, 200, 200, 128))), [(1, 2, 3), white, black, black])
        self.assertEqual(drawn(half_mask((250, 250, 250, 255), (5, 5, 5, 255))), [(1, 2, 3), (250, 250, 250), (5, 5, 5), black])
        request = self.server.get("/v1/jobs?limit=1").json()["data"][0]["request"]
        mask = half_mask((250, 250, 250, 255), (5, 5, 5, 255))
        self.assertEqual(request["mask"], {"file": "m.png", "sha256": hashlib.sha256(mask).hexdigest(), "width": 80, "height": 64, "blur": 0.0})
        self.assertEqual((request["strength"], request["image_fit"]), (1.0, "crop"))
        self.assertEqual(self.left(), [])


class OpenAiPackage(PictureTest):
    def test_openais_own_client(self):
        try:
            import openai
        except ImportError:
            self.skipTest("the openai package is not installed for this Python")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0)
        result = client.images.edit(image=("cat.png", png((5, 6, 7))), prompt="a boat", model="stand-in", size="auto", n=1)
        self.assertEqual(first_pixels(base64.b64decode(result.data[0].b64_json), 2), [(5, 6, 7), (0, 0, 0)])
        result = client.images.edit(image=[("a.png", png((5, 6, 7))), ("b.png", png((7, 6, 5)))], prompt="a boat",
                                    input_fidelity="high", output_format="png", extra_body={"seed": 3, "bogus": {"a": [1, 2]}})
        self.assertEqual(first_pixels(base64.b64decode(result.data[0].b64_json), 2), [(5, 6, 7), (7, 6, 5)])
        stream = client.images.edit(image=png((5, 6, 7)), prompt="a boat", stream=True)
        self.assertEqual([event.type for event in stream], ["image_edit.completed"])
        with self.assertRaises(openai.BadRequestError) as caught:
            client.images.edit(image=b"no picture", prompt="a boat")
        self.assertEqual(caught.exception.param, "image[0]")


class References(PictureTest):
    def text(self, data: bytes) -> str:
        return base64.b64encode(data).decode()

    def test_a_job_with_pictures(self):
        body = {"prompt": "x", "image": [self.text(png((1, 2, 3))), "data:image/png;base64," + self.text(png((4, 5, 6), 96, 70))]}
        answer = self.server.post("/v1/jobs", body)
        self.assertEqual(answer.status, 202, answer.body)
        job = self.server.wait_for(answer.json()["id"])
        self.assertEqual(job["status"], "completed", job)
        self.assertEqual([(image["width"], image["height"]) for image in job["request"]["image"]], [(80, 64), (96, 70)])
        self.assertEqual(first_pixels(self.server.get(job["images"][0]["url"]).body, 2), [(1, 2, 3), (4, 5, 6)])
        self.assertEqual(self.left(), [])
        self.assertEqual(self.server.get("/v1/models").json()["data"][0]["nostos"]["max_reference_images"], 4)

    def test_large_ones_are_made_smaller_and_generations_take_them_too(self):
        noise = os.urandom(1500 * 3)  # rows that do not compress into a body of the usual size
        big = b"".join(b"\0" + noise[i % 1400 :] + noise[: i % 1400] for i in range(1200))
        header = struct.pack(">IIBBBBB", 1500, 1200, 8, 2, 0, 0, 0)
        picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(big, 0)) + chunk(b"IEND", b"")
        self.assertGreater(len(picture), 5_000_000)
        answer = self.server.post("/v1/images/generations", {"prompt": "x", "image": self.text(picture)})
        self.assertEqual(answer.status, 200, answer.body[:500])
        self.assertEqual(answer.json()["size"], "272x224")  # 286x228 in multiples of 16

    def test_a_key_stands_for_the_same_pictures(self):
        post = lambda colour: self.server.post("/v1/jobs", {"prompt": "x", "seed": 1, "image": self.text(png(colour))}, {"Idempotency-Key": "k"})
        first = post((1, 1, 1))
        self.assertEqual(post((1, 1, 1)).json()["id"], first.json()["id"])
        self.assertEqual(post((2, 1, 1)).status, 409)
        self.server.wait_for(first.json()["id"])
        self.assertEqual(self.left(), [])

    def test_they_are_kept_as_long_as_their_job_waits_and_survive_kill_9(self):
        body = {"prompt": "wait", "image": self.text(png((7, 8, 9)))}
        with tempfile.TemporaryDirectory() as folder:
            server = Server(data_dir=folder)
            jobs = [server.post("/v1/jobs", {**body, "seed": seed}).json()["id"] for seed in range(3)]
            waiting = server.post("/v1/jobs", {"prompt": "x", "width": 160, "image": self.text(png((3, 2, 1)))}).json()["id"]
            leaver = server.connect()
            leaver.request("POST", "/v1/images/edits", form(("image", "a.png", png((1, 1, 1))), ("prompt", None, "wait")),
                           {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            kept = lambda: {path.name.rsplit("_", 1)[0] for path in (Path(folder) / "references").iterdir()}
            server.wait_until(lambda: len(kept()) == 5)
            server.kill()
            leaver.close()
            server.__exit__()
            (Path(folder) / "references" / "job_of_nobody_0").write_bytes(b"left half written")
            with Server(data_dir=folder) as server:
                self.assertEqual(kept(), {*jobs, waiting})
                for job in jobs:
                    server.request("DELETE", f"/v1/jobs/{job}")
                ended = server.wait_for(waiting)
                self.assertEqual(ended["status"], "completed", ended)
                self.assertEqual(first_pixels(server.get(ended["images"][0]["url"]).body, 1), [(3, 2, 1)])
                for job in jobs:
                    server.wait_for(job, "cancelled")
                self.assertEqual(kept(), set())

    def test_a_client_that_leaves_takes_its_pictures_along(self):
        leaver = self.server.connect()
        leaver.request("POST", "/v1/images/edits", form(("image", "a.png", png((1, 1, 1))), ("prompt", None, "wait")),
                       {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        self.server.wait_until(lambda: len(self.left()) == 1)
        leaver.close()
        self.server.wait_until(lambda: not self.left())

    def test_many_at_once(self):
        def edit(number: int):
            colour = (number, 255 - number, 3)
            answer = self.send(form(("image", "a.png", png(colour)), ("prompt", None, "x")))
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(first_pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]), 1), [colour])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(edit, range(40)))
        self.assertEqual(self.left(), [])


class Hostile(PictureTest):
    def test_pictures(self):
        good = png((1, 2, 3))
        header = lambda width, height: good[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + good[33:]
        wrong_sum = bytearray(good)
        wrong_sum[-14] ^= 1
        lossy = (PICTURES / "lossy.webp").read_bytes()
        for data, words in ((good[:-20], "ends early"), (header(0, 64), "0x64"), (header(100_000, 100_000), "at most 16384"),
                            (header(16_000, 16_000), "in all"), (header(300, 300), "damaged PNG"), (bytes(wrong_sum), "damaged PNG"),
                            (b"", "empty"), (b"\0" * 1000, "no PNG, JPEG or WebP"), (b"GIF89a" + bytes(50), "no PNG, JPEG or WebP"),
                            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG or WebP"), (lossy[:-9], "damaged WebP"),
                            (large_jpeg(128, 128)[:-40], "damaged JPEG"), (header(64, 8000), "8 times"), (png((1, 1, 1), 64, 600), "8 times"),
                            (png((1, 1, 1), 63, 64), "at least 64"), (b"\x89PNG\r\n\x1a\n" + os.urandom(3000), "PNG")):
            with self.subTest(words=words):
                self.assert_refused(self.send(form(("image", "x", data), ("prompt", None, "x"))), 400, "image[0]", words)
                text = base64.b64encode(data).decode()
                answer = self.server.post("/v1/jobs", {"prompt": "x", "image": ["data:x/y;base64," + text]})
                self.assert_refused(answer, 400, "image[0]", words if data else "base64")
                # A mask may have any shape, and what is no picture is no mask.
                if "8 times" not in words and "at least 64" not in words:
                    parts = ("image", "x", good), ("mask", "m.png", data), ("prompt", None, "x")
                    self.assert_refused(self.send(form(*parts)), 400, "mask", words)
                    answer = self.server.post("/v1/jobs", {"prompt": "x", "image": base64.b64encode(good).decode(), "mask": text})
                    self.assert_refused(answer, 400, "mask", words if data else "base64")

    def test_forms(self):
        whole = form(("image", "x.png", png((1, 2, 3))), ("prompt", None, "x"))
        named = f"multipart/form-data; boundary={BOUNDARY}"
        for body, content_type, status in (
            (whole, "multipart/form-data", 400), (whole, "multipart/form-data; boundary=", 400), (whole, "application/json", 415),
            (whole, "multipart/mixed; boundary=" + BOUNDARY, 415), (whole, "text/plain", 415), (whole, "", 415),
            (whole, "multipart/form-data; boundary=another", 400), (whole[:-20], named, 400), (whole[:60], named, 400), (b"", named, 400),
            (b"{}", named, 400), (b"\r\n" + whole[:-20], named, 400), (b"preamble" + whole, named, 400),
            (whole.replace(b"Content-Disposition", b"Content-Type: multipart/mixed; boundary=b\r\nContent-Disposition", 1), named, 400),
            (whole.replace(b"Content-Disposition", b"A: b\r\n" * 100_000 + b"Content-Disposition", 1), named, 400),
            (whole.replace(b"Content-Disposition", b"A: " + b"b" * 900_000 + b"\r\nContent-Disposition", 1), named, 400),
            (whole.replace(b"Content-Disposition", b"Content-Transfer-Encoding: base64\r\nContent-Disposition", 1), named, 400),
            (form(*[("x", None, "y")] * 10_000), named, 400), (form(*[("image", "x.png", png((1, 2, 3)))] * 60, ("prompt", None, "x")), named, 400),
            (form(("prompt", None, "x")), named, 400), (form(("image", "x.png", png((1, 2, 3)))), named, 400),
            (form(("image", None, png((1, 2, 3))), ("prompt", None, "x")), named, 400),
            (form(("image", "x.png", b""), ("prompt", None, "x")), named, 400)):
            with self.subTest(type=content_type, body=body[:80]):
                answer = self.send(body, content_type)
                self.assertEqual(answer.status, status, answer.body)
                self.assertEqual(self.left(), [])

    def test_what_others_serve_is_named_with_what_serves_here(self):
        answer = self.server.post("/v1/images/variations", {})
        self.assertEqual(answer.status, 501)
        self.assertIn("/v1/images/variations is not served here: to have a picture drawn anew or edited by a prompt, POST it to /v1/images/edits",
                      answer.body.decode())

    def test_the_type_of_a_file_does_not_matter(self):
        body = form(("image", "x.txt", png((1, 2, 3))), ("prompt", None, "x"))
        for kind in (b"text/html", b"application/x-php", b"image/gif"):
            answer = self.send(body.replace(b'"x.txt"', b'"x.txt"\r\nContent-Type: ' + kind))
            self.assertEqual(answer.status, 200, answer.body)

    def test_bodies_are_limited_before_they_are_read(self):
        head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n"
        raw = lambda path, length: status_of(self.server.raw(head.format(path, length).encode() + b"--x", half_close=True))
        self.assertEqual(raw("/v1/images/edits", (64 << 20) + 1), 413)
        self.assertEqual(raw("/v1/jobs", 10**15), 413)
        for path, length, most in (("/v1/images/edits", (256 << 20) + 1, 64 << 20), ("/v1/jobs", 10**15, 64 << 20),
                                   ("/sdapi/v1/options", 10**9, 1 << 20)):
            answer = self.server.raw(head.format(path, length).encode() + b"--x", half_close=True)
            self.assertEqual(status_of(answer), 413)
            self.assertIn(b'"the body is larger than %d bytes"' % most, answer)
        self.assertEqual(raw("/sdapi/v1/options", (1 << 20) + 1), 413)
        self.assertEqual(raw("/v1/images/edits", 64 << 20), 400)  # it ends before its length
        # Four of the largest are read at once, and then it is enough for now.
        slow = [self.server.connect() for _ in range(4)]
        for connection in slow:
            connection.connect()
            connection.sock.sendall(head.format("/v1/images/edits", 64 << 20).encode() + b"--x")
        self.server.wait_until(lambda: raw("/v1/images/edits", 64 << 20) == 503)
        self.assertEqual(self.server.post("/v1/jobs", {"prompt": "x"}).status, 202)
        for connection in slow:
            connection.close()
        self.server.wait_until(lambda: raw("/v1/images/edits", 64 << 20) == 400)

    def test_chunked_bodies_are_limited_as_they_come(self):
        head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"%x\r\n" % (8 << 20) + b" " * (8 << 20) + b"\r\n"
        self.assertEqual(status_of(self.server.raw(head + piece * 9)), 413)


def large_jpeg(height: int, width: int = 8192) -> bytes:
    """Returns the picture of its size that costs most to decode: progressive, of four colours, none smaller than another.

    The height is a multiple of 128, so that the last run of blocks is whole."""
    segment = lambda marker, data: struct.pack(">BBH", 255, marker, len(data) + 2) + data
    colours = range(1, 5)
    frame = struct.pack(">BHHB", 8, height, width, 4) + b"".join(bytes((colour, 0x11, 0)) for colour in colours)
    table = lambda number, symbol: segment(0xC4, bytes((number, 1)) + bytes(15) + bytes((symbol,)))  # its code is one bit, 0
    scan = lambda which, first, last, data: (segment(0xDA, bytes((len(which),)) + b"".join(bytes((colour, 0)) for colour in which) +
                                                     bytes((first, last, 0))) + data)
    blocks = (height // 8) * (width // 8)
    # No difference in the first scan; in the others no coefficient, 2^14 blocks at a time.
    scans = scan(colours, 0, 0, bytes(blocks * 4 // 8)) + b"".join(
        scan([colour], first, first, bytes(blocks // 2**14 * 15 // 8 + 1)) for colour in colours for first in range(1, 4))
    return (b"\xff\xd8" + segment(0xDB, bytes(1) + bytes([1]) * 64) + segment(0xC2, frame) + table(0x00, 0) + table(0x10, 0xE0) + scans +
            b"\xff\xd9")


class Busy(PictureTest):
    """What a server does for others while it reads the largest pictures."""

    def peak_mb(self) -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) >> 10

    def test_others_are_answered_and_memory_is_bounded(self):
        pictures, damaged = [large_jpeg(8192), large_jpeg(8064)], bytearray(png((1, 2, 3)))
        damaged[-14] ^= 1  # so that the end is a refusal, and nothing is drawn
        form_body = form(*(("image[]", "a", picture) for picture in pictures), ("image[]", "b", bytes(damaged)), ("prompt", None, "x"))
        text = lambda data: base64.b64encode(data).decode()
        job_body = {"prompt": "x", "image": [text(picture) for picture in (*pictures, bytes(damaged))]}
        before = self.peak_mb()
        posts = [lambda: self.send(form_body), lambda: self.server.post("/v1/jobs", job_body),
                 lambda: self.server.post("/v1/images/generations", job_body), lambda: self.send(form_body)]
        slowest = {"/health/live": 0.0, "/health/ready": 0.0, "/v1/jobs": 0.0}
        with concurrent.futures.ThreadPoolExecutor(len(posts)) as pool:
            start = time.monotonic()
            answers = [pool.submit(post) for post in posts]
            while not all(answer.done() for answer in answers):
                for path in slowest:
                    begin = time.monotonic()
                    answer = self.server.get(path) if path != "/v1/jobs" else self.server.post(path, {"prompt": "\u00e9"})
                    slowest[path] = max(slowest[path], time.monotonic() - begin)
                    self.assertLess(answer.status, 300, answer.body)
                if answer.status == 202:
                    self.server.wait_for(answer.json()["id"])
            took = time.monotonic() - start
        for answer in answers:
            self.assert_refused(answer.result(), 400, "image[2]", "damaged PNG")
        print(f"4 uploads in {took:.1f} s, slowest answers {slowest}, {self.peak_mb() - before} MB at most")
        self.assertGreater(took, 1)  # or nothing was in the way
        self.assertLess(max(slowest.values()), 1)
        self.assertLess(self.peak_mb() - before, 1100)


if __name__ == "__main__":
    run_tests()
