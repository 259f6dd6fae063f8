"""Checks the shard plan (plan.js) and the settings read from PNG files (png.js) as the web page computes and shows them.

Usage: page_modules_test.py [Plan] [Pictures]. Exits with 77 if everything was skipped. Needs a browser (page_case.py); runs against
page_stand_in.py.
"""

import json
import struct
import tempfile
import zlib

from page_case import PageTest, run_tests
from page_stand_in import MODEL, ROOT, chunk, png

TOKEN_MULTIPLE = MODEL["token_multiple"]  # of the models whose plans sp_plan.json holds, too


class Plan(PageTest):
    """The shard plan in JavaScript is that of the engine."""

    def test_rules(self):
        self.open()
        cases = json.loads((ROOT / "tests" / "data" / "sp_plan.json").read_text())
        self.assertGreater(len(cases), 100)
        plan = "return input[0].map(({width, height, ranks}) => page.makePlan(width, height, ranks, input[1]))"
        plans = self.module("plan.js", plan, cases, TOKEN_MULTIPLE)
        for case, plan in zip(cases, plans, strict=True):
            name = f"{case['width']}x{case['height']} on {case['ranks']}"
            self.assertEqual(plan["axis"], case["axis"], name)
            self.assertEqual(plan["sizes"], case["sizes"], name)
            self.assertEqual(plan["target"], case["target_tokens"], name)
            self.assertEqual(plan["cost"], case["padding_tokens"], name)
            self.assertEqual(plan["pads"], case["single_rank_padding_tokens"], name)
            self.assertEqual(plan["ranges"], case["token_ranges"], name)

    def test_the_model_says_what_is_padded(self):
        self.open()
        for multiple, pads in ((1, 0), (8, 7), (TOKEN_MULTIPLE, 31)):
            self.assertEqual(self.module("plan.js", "return page.makePlan(16, 16, 1, input[0]).pads", multiple), pads)

    def test_every_token_is_drawn_once(self):
        self.open()
        for width, height, ranks in ((720, 1280, 3), (1280, 720, 8), (16, 1024, 5), (48, 32, 8), (100, 70, 4)):
            for kind in ("token", "axis"):
                plan, shares = self.module(
                    "plan.js", "const plan = page.makePlan(...input[0]); return [plan, page.shares(plan, input[1])]",
                    [width, height, ranks, TOKEN_MULTIPLE], kind)
                cells = []
                for rank, share in enumerate(shares):
                    held = [(x, y) for part in share["parts"] for x in range(part["x"], part["x"] + part["width"])
                            for y in range(part["y"], part["y"] + part["height"])]
                    self.assertEqual(len(held), share["tokens"], (width, height, ranks, kind, rank))
                    cells += held
                self.assertEqual(sorted(cells), [(x, y) for x in range(-(-width // 16)) for y in range(-(-height // 16))])
                self.assertEqual(sum(share["pads"] for share in shares), plan["pads"])
                if kind == "axis":
                    for size, share in zip(plan["sizes"], shares, strict=True):
                        self.assertEqual(sum(share[part] for part in ("tokens", "pads", "idle")), plan["target"] if size else 0)

    def test_diagram(self):
        self.open()
        self.one("#plan summary").click()
        self.assertEqual(self.one("#ranks").get_attribute("value"), "2")
        self.fill(width=1280, height=720)
        self.run_script("const k = document.getElementById('plan-kind'); k.value = 'axis'; k.dispatchEvent(new Event('change'))")
        self.assertIn("Cut along the width, at most 40 of 80 a rank; 48 padding tokens", self.one("#plan-summary").text)
        boxes = [[int(box.get_attribute(side)) for side in ("x", "y", "width", "height")] for box in self.all("#plan-drawing rect")]
        self.assertEqual(boxes, [[0, 0, 40, 45], [40, 0, 40, 45]])
        self.assertEqual([row.text for row in self.all("#plan-shares tr")], ["0 1,800 16 8", "1 1,800 0 24"])


TEXT = {
    "tEXt": lambda key, text: chunk(b"tEXt", key + b"\0" + text.encode("latin-1")),
    "zTXt": lambda key, text: chunk(b"zTXt", key + b"\0\0" + zlib.compress(text.encode("latin-1"))),
    "iTXt": lambda key, text: chunk(b"iTXt", key + b"\0\0\0de\0T\xc3\xbcr\0" + text.encode()),
    "iTXt compressed": lambda key, text: chunk(b"iTXt", key + b"\0\1\0\0\0" + zlib.compress(text.encode())),
}
RECORD = {"prompt": 'A boat, "two" sails\n日本', "negative_prompt": "fog", "height": 720, "width": 1280, "num_inference_steps": 9,
          "guidance_scale": 4.5, "seed": 7, "num_outputs": 1}
WEBUI = ("A boat\nin the bay\nNegative prompt: fog\nSteps: 9, Sampler: Euler, CFG scale: 5.5, Seed: 18446744073709551615, "
         'Size: 720x1280, Model: "a, Seed: 1", Guidance scale: 4.5, Version: nostos 0')


class Pictures(PageTest):
    """Settings are read from PNG files, and bad files are refused in words."""

    def texts(self, data: bytes) -> dict[str, str]:
        return self.module("png.js", "return page.pngTexts(new Uint8Array(input[0]).buffer)", list(data))

    def settings(self, **texts) -> dict:
        return self.module("png.js", "return page.pictureSettings(input[0])", texts)

    def test_text_chunks(self):
        self.open()
        for kind, make in TEXT.items():
            text = "é: " + "a" * 3000 + ("" if kind in ("tEXt", "zTXt") else " 日本")
            self.assertEqual(self.texts(png(16, 16, (1, 2, 3), [make(b"nostos", text), make(b"other", "")])), {"nostos": text, "other": ""}, kind)
        self.assertEqual(self.texts(png(16, 16, (1, 2, 3))), {})

    def test_bad_files(self):
        self.open()
        good = png(16, 16, (1, 2, 3), [TEXT["tEXt"](b"nostos", "{}")])
        bomb = TEXT["zTXt"](b"nostos", "a" * (2 << 20))
        bad = {
            "no PNG file": [b"", b"GIF89a", b"\x89PNG\r\n"],
            "cut off": [good[:-20], good[:40], good[:33] + struct.pack(">I", 0xFFFFFFFF) + good[37:]],
            "damaged": [png(16, 16, (1, 2, 3), [chunk(b"tEXt", b"no end")]), png(16, 16, (1, 2, 3), [chunk(b"iTXt", b"k\0\0\0")])],
            "larger than 1 MB": [png(16, 16, (1, 2, 3), [bomb])],
        }
        for message, files in bad.items():
            for data in files:
                with self.assertRaisesRegex(ValueError, message, msg=data[:60]):
                    self.texts(data)
        with self.assertRaises(ValueError):
            self.texts(png(16, 16, (1, 2, 3), [chunk(b"zTXt", b"k\0\0no zlib stream")]))

    def test_settings(self):
        self.open()
        found = self.settings(nostos=json.dumps(RECORD), parameters="of another tool")
        self.assertEqual(found, RECORD | {"image": [], "loras": []})
        images = [{"file": "cat.png", "sha256": "12"}]
        self.assertEqual(self.settings(nostos=json.dumps(RECORD | {"images": images}))["image"], images)
        # Beyond what a JavaScript number holds.
        big = json.dumps(RECORD | {"seed": 9223372036854775807, "prompt": '"seed": 1234567890123456789'})
        found = self.settings(nostos=big)
        self.assertEqual((found["seed"], found["prompt"]), ("9223372036854775807", '"seed": 1234567890123456789'))
        self.assertEqual(self.settings(parameters=WEBUI), {
            "prompt": "A boat\nin the bay", "negative_prompt": "fog", "width": "720", "height": "1280", "num_inference_steps": "9",
            "guidance_scale": "4.5", "seed": "18446744073709551615"})
        self.assertEqual(self.settings(parameters="Steps are here\nSteps: 4, Seed: 5")["prompt"], "Steps are here")
        self.assertEqual(self.settings(parameters="only words")["prompt"], "only words")
        # The usual scale is one more than Z-Image's; the first versions of nostos wrote their own in its place.
        for settings, guidance in (("CFG scale: 7", "6"), ("CFG scale: 1.01", "0.01"), ("CFG scale: 1", "0"), ("CFG scale: 0", "0"),
                                   ("CFG scale: 4, Version: v1.9", "3"), ("CFG scale: 4, Version: nostos 0.1.0", "4"), ("Seed: 1", None)):
            found = self.settings(parameters=f"a\nSteps: 4, {settings}")
            self.assertEqual(found.get("guidance_scale"), guidance, settings)
        for bad in ({}, {"nostos": "{"}, {"title": "x"}):
            with self.assertRaises(ValueError, msg=bad):
                self.settings(**bad)

    def test_drop(self):
        self.open()
        self.drop("boat.png", png(16, 16, (1, 2, 3), [TEXT["iTXt compressed"](b"nostos", json.dumps(RECORD, ensure_ascii=False))]))
        self.toast("Settings read from boat.png")
        self.assertEqual(self.values(), {"prompt": RECORD["prompt"], "negative": "fog", "width": "1280", "height": "720", "steps": "9",
                                         "guidance": "4.5", "seed": "7", "count": "1"})
        self.assertEqual(self.one("#lock").get_attribute("aria-pressed"), "true")
        self.drop("cat.png", png(16, 16, (1, 2, 3)))
        self.toast("cat.png: this picture does not say how it was drawn")
        self.drop("cat.jpg", b"\xff\xd8\xff")
        self.toast("cat.jpg: this is no PNG file")
        self.assertEqual(self.values()["seed"], "7")

    def test_chosen_file(self):
        self.open()
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(png(16, 16, (1, 2, 3), [TEXT["tEXt"](b"parameters", WEBUI)]))
            file.flush()
            self.one("#file").send_keys(file.name)
            self.toast("Settings read from")
        self.assertEqual(self.values()["prompt"], "A boat\nin the bay")


if __name__ == "__main__":
    run_tests()
