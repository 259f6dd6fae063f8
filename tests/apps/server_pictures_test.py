"""Has `nostos serve` draw from pictures: image to image and inpainting as jobs, as OpenAI's clients and as those of A1111's web UI send them.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_pictures_test.py [Jobs] [WebUi] [Edits] [KleinEdits] [Control]. Draws with the embedded model, a tiny
FLUX.2-klein and a tiny Z-Image with a control network. Needs Python 3.11 alone.
"""

import base64
import hashlib
import json
import os
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

from server_case import BOUNDARY, ServerTest, check_png, form, run_tests
from server_process import BINARY, ENDLESS, Server

DATA = Path(__file__).resolve().parents[1] / "data"
KLEIN = DATA / "klein_tiny" / "distilled"
FIELDS = {"prompt": "a boat", "seed": 7, "num_inference_steps": 4, "guidance_scale": 0}


def png(pixel, width: int, height: int, colour_type: int = 2) -> bytes:
    """Returns a PNG whose pixel at x, y is pixel(x, y), a tuple: RGB, or RGBA for colour type 6."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PICTURE = png(lambda x, y: (x * 3 % 256, y * 4 % 256, (x * y) % 256), 80, 64)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# The right half is drawn anew: white on black, black on white, and as transparency of two kinds.
MASK = png(lambda x, y: WHITE if x >= 40 else BLACK, 80, 64)
INVERTED = png(lambda x, y: BLACK if x >= 40 else WHITE, 80, 64)
TRANSPARENT = png(lambda x, y: (7, 7, 7, 0) if x >= 40 else (250, 250, 250, 255), 80, 64, 6)
PAINTED = png(lambda x, y: (7, 7, 7, 255) if x >= 40 else (250, 250, 250, 0), 80, 64, 6)


def rows_of(data: bytes) -> list[bytes]:
    """Returns the rows of an 8-bit RGB PNG."""
    offset, compressed = 8, b""
    width, height = struct.unpack_from(">II", data, 16)
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        if data[offset + 4 : offset + 8] == b"IDAT":
            compressed += data[offset + 8 : offset + 8 + length]
        offset += 12 + length
    raw, stride, rows = zlib.decompress(compressed), width * 3, []
    above = bytearray(stride)
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for i in range(stride):
            left, up, corner = row[i - 3] if i >= 3 else 0, above[i], above[i - 3] if i >= 3 else 0
            by = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
            paeth = left if by[0] <= by[1] and by[0] <= by[2] else up if by[1] <= by[2] else corner
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
        rows.append(bytes(row))
        above = row
    return rows


class PictureTest(ServerTest):
    model: tuple[str, ...] = ()  # flags of the command line that name the server's
    def left(self) -> list[str]:
        return sorted(path.name for path in (self.server.data_dir / "references").iterdir())

    def drawn(self, **fields) -> bytes:
        answer = self.server.post("/v1/jobs", {**FIELDS, **fields})
        self.assertEqual(answer.status, 202, answer.body)
        job = self.server.wait_for(answer.json()["id"])
        self.assertEqual(job["status"], "completed", job)
        self.assertEqual(self.left(), [])
        self.job = job
        return self.server.get(job["images"][0]["url"]).body

    def edit(self, *parts) -> bytes:
        fields = [(name, None, str(value)) for name, value in FIELDS.items()]
        answer = self.server.post("/v1/images/edits", form(*fields, *parts), {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.left(), [])
        return base64.b64decode(answer.json()["data"][0]["b64_json"])

    def by_command(self, *flags: str, images: tuple[str, ...] = ("beach.png",)) -> bytes:
        """Returns the picture that the command line draws from PICTURE with the same fields."""
        with tempfile.TemporaryDirectory() as folder:
            for name, data in (("beach.png", PICTURE), ("where.png", MASK)):
                (Path(folder) / name).write_bytes(data)
            command = [BINARY, "generate", *self.model, "--prompt", "a boat", "--seed", "7", "--num-inference-steps", "4", "--guidance-scale", "0",
                       "--output", "out.png", *[flag for image in images for flag in ("--image", image)], *flags]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
            self.assertEqual(run.returncode, 0, run.stderr)
            return (Path(folder) / "out.png").read_bytes()


class Jobs(PictureTest):
    def test_the_picture_of_the_command_line(self):
        for fields, flags in (({}, ()), ({"strength": 0.3}, ("--strength", "0.3")),
                              ({"strength": 0.8, "width": 96, "height": 96, "image_fit": "pad"},
                               ("--strength", "0.8", "--width", "96", "--height", "96", "--image-fit", "pad")),
                              ({"mask": text(MASK)}, ("--mask-image", "where.png")),
                              ({"mask": "data:image/png;base64," + text(MASK), "mask_blur": 4, "strength": 0.9},
                               ("--mask-image", "where.png", "--mask-blur", "4", "--strength", "0.9"))):
            with self.subTest(flags=flags):
                self.assertEqual(rows_of(self.drawn(image=text(PICTURE), **fields)), rows_of(self.by_command(*flags)))

    def test_the_job_says_what_it_began_with(self):
        self.drawn(image=text(PICTURE), mask=text(MASK), mask_blur=2, strength=0.5, image_fit="stretch")
        request = self.job["request"]
        self.assertEqual((request["strength"], request["image_fit"], request["image"][0]["width"]), (0.5, "stretch", 80))
        self.assertEqual(request["mask"], {"file": "", "sha256": hashlib.sha256(MASK).hexdigest(), "width": 80, "height": 64, "blur": 2.0})
        model = self.server.get("/v1/models").json()["data"][0]["nostos"]
        self.assertEqual((model["image_to_image"], model["default_strength"], model["max_reference_images"]), (True, 0.6, 0))
        self.drawn(image=[text(PICTURE)])
        self.assertEqual((self.job["request"]["strength"], self.job["request"]["mask"]), (0.6, None))
        self.drawn()
        self.assertEqual([self.job["request"][field] for field in ("strength", "image_fit", "mask")], [None] * 3)

    def test_the_servers_own_pictures_may_be_named(self):
        first = self.drawn(image=text(PICTURE))
        image = self.job["images"][0]["id"]
        by_name = self.drawn(image=image, mask=image, strength=0.5)
        self.assertEqual(self.job["request"]["image"][0]["sha256"], hashlib.sha256(first).hexdigest())
        self.assertEqual(self.job["request"]["image"][0]["file"], image + ".png")
        self.assertEqual(rows_of(by_name), rows_of(self.drawn(image=text(first), mask=text(first), strength=0.5)))
        for fields, param in (({"image": "img_none_0"}, "image"), ({"image": [image, "img_none_0"]}, "image"),
                              ({"image": image, "mask": "img_none_0"}, "mask")):
            answer = self.server.post("/v1/jobs", {**FIELDS, **fields})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, param))

    def test_masks_of_any_size_are_taken_and_what_is_none_is_refused(self):
        small = png(lambda x, y: WHITE if x >= 4 else BLACK, 8, 8)
        self.drawn(image=text(PICTURE), mask=text(small))
        header = struct.pack(">IIBBBBB", 16_000, 16_000, 8, 2, 0, 0, 0)
        bomb = MASK[:8] + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + MASK[33:]
        for mask, words in ((b"GIF89a" + bytes(50), "no PNG, JPEG or WebP"), (bomb, "in all"), (MASK[:-20], "ends early"),
                            (bytes(3), "no PNG, JPEG or WebP"), (bytes(49 << 20), "larger than")):
            with self.subTest(words=words):
                body = {**FIELDS, "image": text(PICTURE), "mask": text(mask)}
                if len(mask) > 48 << 20:
                    body["mask"] = body["mask"][: 64 << 20]
                for path in ("/v1/jobs", "/v1/images/generations"):
                    answer = self.server.post(path, body)
                    self.assertIn(answer.status, (400, 413) if len(mask) > 1 << 20 else (400,))
                    if answer.status == 400:
                        self.assertEqual(answer.json()["error"]["param"], "mask", answer.body)
                        self.assertIn(words, answer.json()["error"]["message"])
                self.assertEqual(self.left(), [])

    def test_a_key_stands_for_the_same_mask(self):
        post = lambda mask: self.server.post("/v1/jobs", {**FIELDS, "image": text(PICTURE), "mask": text(mask)}, {"Idempotency-Key": "k"})
        first = post(MASK)
        self.assertEqual(post(MASK).json()["id"], first.json()["id"])
        self.assertEqual(post(INVERTED).status, 409)
        self.server.wait_for(first.json()["id"])
        self.assertEqual(self.left(), [])

    def test_a_job_survives_kill_9_with_its_mask(self):
        body = {**FIELDS, "image": text(PICTURE), "mask": text(MASK)}
        with tempfile.TemporaryDirectory() as folder:
            server = Server(data_dir=folder)
            blocker = server.submit(**ENDLESS)
            job = server.post("/v1/jobs", body).json()["id"]
            kept = lambda: sorted(path.name for path in (Path(folder) / "references").iterdir())
            self.assertEqual(kept(), [f"{job}_0", f"{job}_mask"])
            server.kill()
            server.__exit__()
            with Server(data_dir=folder) as server:
                server.request("DELETE", f"/v1/jobs/{blocker}")
                ended = server.wait_for(job)
                self.assertEqual(ended["status"], "completed", ended)
                picture = server.get(ended["images"][0]["url"]).body
                self.assertEqual(kept(), [])
        self.assertEqual(rows_of(picture), rows_of(self.drawn(image=text(PICTURE), mask=text(MASK))))


class WebUi(PictureTest):
    # The fields that a web UI's own page sends, and clients with it.
    BODY = {"prompt": "a boat", "negative_prompt": "", "seed": 7, "subseed": -1, "subseed_strength": 0, "sampler_name": "Euler", "steps": 4,
            "cfg_scale": 1, "batch_size": 1, "n_iter": 1, "restore_faces": False, "tiling": False, "override_settings": {}, "styles": [],
            "denoising_strength": 0.6, "resize_mode": 0, "image_cfg_scale": 1.5, "mask": None, "mask_blur": 4, "inpainting_fill": 1,
            "inpaint_full_res": False, "inpaint_full_res_padding": 32, "inpainting_mask_invert": 0, "initial_noise_multiplier": 1,
            "include_init_images": False, "script_args": [], "send_images": True, "save_images": False, "alwayson_scripts": {}}

    def send(self, **fields):
        answer = self.server.post("/sdapi/v1/img2img", {**self.BODY, "init_images": [text(PICTURE)], **fields})
        self.assertEqual(self.left(), [])
        return answer

    def picture(self, **fields) -> bytes:
        answer = self.send(**fields)
        self.assertEqual(answer.status, 200, answer.body)
        return base64.b64decode(answer.json()["images"][0])

    def test_img2img_is_a_job_with_strength(self):
        answer = self.send()
        self.assertEqual(answer.status, 200, answer.body)
        result = answer.json()
        picture = base64.b64decode(result["images"][0])
        check_png(picture, (80, 64))
        self.assertEqual(picture, self.drawn(image=text(PICTURE), strength=0.6, image_fit="stretch"))
        info = json.loads(result["info"])
        self.assertEqual((info["denoising_strength"], info["all_seeds"], info["width"], info["steps"]), (0.6, [7], 80, 4))
        self.assertEqual(result["parameters"], {**self.BODY, "init_images": None, "mask": None})
        self.assertEqual(self.send(include_init_images=True).json()["parameters"]["init_images"], [text(PICTURE)])
        self.assertEqual(self.send(send_images=False).json()["images"], [])
        self.assertEqual(len(self.send(batch_size=2).json()["images"]), 2)

    def test_what_short_clients_send(self):
        body = {"init_images": ["data:image/png;base64," + text(PICTURE)], "prompt": "a boat", "seed": 7, "steps": 4, "cfg_scale": 1}
        answer = self.server.post("/sdapi/v1/img2img", body)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(json.loads(answer.json()["info"])["denoising_strength"], 0.75)
        self.assertEqual(base64.b64decode(answer.json()["images"][0]), self.picture(denoising_strength=0.75))

    def test_sillytaverns_request(self):
        # It has no image to image over this interface: a field of that name is for its second pass, which is off.
        answer = self.server.post("/sdapi/v1/txt2img", {
            "prompt": "a boat", "negative_prompt": "blurry", "sampler_name": "Euler", "scheduler": "Simple", "steps": 4, "cfg_scale": 1,
            "width": 96, "height": 64, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2,
            "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": 7, "override_settings": {"CLIP_stop_at_last_layers": 1},
            "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True, "do_not_save_grid": False,
            "do_not_save_samples": False})
        self.assertEqual(answer.status, 200, answer.body)
        check_png(base64.b64decode(answer.json()["images"][0]), (96, 64))

    def test_resize_modes(self):
        for mode, fit in enumerate(("stretch", "crop", "pad")):
            size = {"width": 96, "height": 96}
            self.assertEqual(self.picture(resize_mode=mode, **size), self.drawn(image=text(PICTURE), strength=0.6, image_fit=fit, **size), fit)

    def test_masks(self):
        own = lambda blur: rows_of(self.drawn(image=text(PICTURE), mask=text(MASK), mask_blur=blur, strength=0.6, image_fit="stretch"))
        self.assertEqual(rows_of(self.picture(mask=text(MASK))), own(4))
        sharp = own(0)
        for fields in ({"mask": text(MASK)}, {"mask": text(INVERTED), "inpainting_mask_invert": 1}, {"mask": text(PAINTED)},
                       {"mask": "data:image/png;base64," + text(TRANSPARENT), "inpainting_mask_invert": True}):
            self.assertEqual(rows_of(self.picture(mask_blur=0, **fields)), sharp)
        self.assertNotEqual(sharp, rows_of(self.picture(mask_blur=0, mask=text(INVERTED))))

    def test_refusals_have_its_shape_and_leave_nothing(self):
        for fields, word in (({"init_images": None}, "init_images"), ({"init_images": []}, "init_images"), ({"init_images": ["x"]}, "init_images[0]"),
                             ({"init_images": [text(PICTURE)] * 2}, "init_images"), ({"denoising_strength": 0}, "denoising_strength"),
                             ({"resize_mode": 3}, "resize_mode"), ({"mask": text(MASK), "inpaint_full_res": True}, "inpaint_full_res"),
                             ({"mask": text(b"GIF89a")}, "mask"), ({"mask": text(MASK[:-20])}, "mask")):
            with self.subTest(fields=str(fields)[:60]):
                answer = self.send(**fields)
                self.assertEqual(answer.status, 400, answer.body)
                self.assertLessEqual({"error", "detail", "errors"}, set(answer.json()))
                self.assertRegex(answer.json()["errors"], rf"^{re.escape(word)}(:| )")
        big = "data:image/png;base64," + text(PICTURE) + " " * (4 << 20)
        self.assertEqual(self.send(init_images=[big]).status, 200)
        self.assertIn("include_init_images", self.send(init_images=[big], include_init_images=True).json()["errors"])


class Edits(PictureTest):
    """OpenAI's clients, with the embedded model, which takes no references."""

    def test_both_kinds_of_mask(self):
        image, mask = ("image", "beach.png", PICTURE), ("mask", "where.png", MASK)
        # Files have the same names, so that the records are the same, too.
        self.assertEqual(self.edit(image, mask), self.by_command("--mask-image", "where.png"))
        wanted = rows_of(self.edit(image, mask))
        self.assertEqual(rows_of(self.edit(image, ("mask", "m.png", TRANSPARENT))), wanted)
        self.assertNotEqual(rows_of(self.edit(image, ("mask", "m.png", PAINTED))), wanted)

    def test_open_webuis_request(self):
        body = form(("model", None, "gpt-image-1"), ("prompt", None, "a boat"), ("n", None, "1"), ("size", None, "96x96"),
                    ("background", None, "opaque"), ("response_format", None, "b64_json"), ("image", "image.png", PICTURE))
        answer = self.server.post("/v1/images/edits", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        self.assertEqual(answer.status, 200, answer.body)
        check_png(base64.b64decode(answer.json()["data"][0]["b64_json"]), (96, 96))
        self.assertEqual(self.left(), [])

    def test_without_a_mask_all_of_it_is_drawn_anew(self):
        image = ("image", "beach.png", PICTURE)
        self.assertEqual(self.edit(image), self.by_command())
        self.assertEqual(self.edit(image, ("strength", None, "0.9"), ("size", None, "96x96"), ("image_fit", None, "pad")),
                         self.by_command("--strength", "0.9", "--width", "96", "--height", "96", "--image-fit", "pad"))
        self.assertEqual(self.edit(image, ("mask", "where.png", MASK), ("mask_blur", None, "3")),
                         self.by_command("--mask-image", "where.png", "--mask-blur", "3"))


class KleinEdits(PictureTest):
    """The same with a model that takes references."""

    flags = model = ("--model-path", str(KLEIN), "--device", "cpu")

    def test_the_picture_of_the_command_line(self):
        image = ("image", "beach.png", PICTURE)
        for parts, flags, images in (((image,), (), 1), ((image, ("strength", None, "0.5")), ("--strength", "0.5"), 1),
                                     ((image, ("mask", "where.png", MASK)), ("--mask-image", "where.png"), 1),
                                     ((image, image, ("mask", "where.png", MASK)), ("--mask-image", "where.png"), 2)):
            with self.subTest(flags=flags, images=images):
                self.assertEqual(rows_of(self.edit(*parts)), rows_of(self.by_command(*flags, images=("beach.png",) * images)))


class Control(PictureTest):
    """Pictures that a drawing follows."""

    flags = model = ("--model-path", str(DATA / "tiny" / "diffusers_test"), "--controlnet", str(DATA / "control_drawings" / "union_2.1.safetensors"),
                     "--device", "cpu")

    def test_the_picture_of_the_command_line(self):
        control, flags = {"image": text(PICTURE)}, ("--control-image", "beach.png")
        for more, fields, given, images in (
                ({}, {}, (), ()),
                ({"scale": 0.5, "start": 0.25, "end": 1, "preprocessor": "canny"}, {"width": 48, "height": 48, "image_fit": "pad"},
                 ("--control-scale", "0.5", "--control-start", "0.25", "--control-end", "1", "--control-preprocessor", "canny",
                  "--width", "48", "--height", "48", "--image-fit", "pad"), ()),
                ({}, {"image": text(PICTURE), "mask": text(MASK)}, ("--mask-image", "where.png"), ("beach.png",))):
            with self.subTest(flags=given):
                drawn = self.drawn(control={**control, **more}, **fields)
                self.assertEqual(rows_of(drawn), rows_of(self.by_command(*flags, *given, images=images)))
                self.assertEqual(self.job["request"]["control"]["image"]["sha256"], hashlib.sha256(PICTURE).hexdigest())
        told = self.drawn(control={"scale": 0.5}, image=text(PICTURE), mask=text(MASK))
        self.assertIsNone(self.job["request"]["control"]["image"])
        self.assertEqual(rows_of(told), rows_of(self.by_command("--mask-image", "where.png", "--control-scale", "0.5", images=("beach.png",))))
        plain = self.drawn(width=80, height=64)
        self.assertIsNone(self.job["request"]["control"])
        self.assertNotEqual(rows_of(plain), rows_of(self.drawn(control=control)))
        model = self.server.get("/v1/models").json()["data"][0]["nostos"]
        self.assertEqual((model["control"], model["control_sees_mask"]), (True, True))

    def test_web_uis_send_a_unit(self):
        body = {**WebUi.BODY, "cfg_scale": 1, "alwayson_scripts": {"ControlNet": {"args": [
            {"enabled": False}, {"enabled": True, "image": text(PICTURE), "weight": 0.8, "module": "canny", "model": "None", "control_mode": 0}]}}}
        answer = self.server.post("/sdapi/v1/txt2img", body)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertIsNone(answer.json()["parameters"]["alwayson_scripts"])
        job = self.drawn(control={"image": text(PICTURE), "scale": 0.8, "preprocessor": "canny"})
        self.assertEqual(rows_of(base64.b64decode(answer.json()["images"][0])), rows_of(job))

    def test_refusals_name_the_field(self):
        for control, param in (({}, "control"), ({"image": text(b"GIF89a")}, "control.image"), ({"image": text(PICTURE), "scale": 11}, "control.scale")):
            answer = self.server.post("/v1/jobs", {**FIELDS, "control": control})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, param))
        self.assertEqual(self.left(), [])


if __name__ == "__main__":
    run_tests()
