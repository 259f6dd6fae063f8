"""Looks at the web page of `nostos serve` in headless Chromium, and uses it as visitors do.

Usage: [NOSTOS_BINARY=build/cpu/bin/nostos] page_test.py [TestCase ...]. Exits with 77 if everything was skipped. Needs Debian's
chromium, chromium-driver and python3-selenium. All but `Server` run against page_stand_in.py.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import zlib
from pathlib import Path

from page_stand_in import ROOT, WEB, StandIn, chunk, png

# Debian's packages are out of sight of an interpreter that came from elsewhere.
sys.path.append("/usr/lib/python3/dist-packages")
try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None

SKIPPED_EXIT = 77
WAIT_S = 20
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = (1280, 800), (390, 844)
MAX_PAGE_BYTES = 60 * 1024


def missing() -> str | None:
    for what, found in (("chromium", CHROMIUM), ("chromium-driver", DRIVER), ("python3-selenium", webdriver)):
        if not found:
            return f"{what} is not installed"
    return None


class PageTest(unittest.TestCase):
    """One browser for all cases of a class; each test has a server, and with it an origin, of its own."""

    @classmethod
    def setUpClass(cls):
        if missing():
            raise unittest.SkipTest(missing())
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--lang=en"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        cls.browser = webdriver.Chrome(service=webdriver.chrome.service.Service(DRIVER), options=options)
        cls.addClassCleanup(cls.browser.quit)
        cls.browser.set_script_timeout(WAIT_S)

    def setUp(self):
        self.show_as(*DESKTOP)
        self.server = StandIn()
        self.addCleanup(self.server.close)
        self.expected_errors = []  # patterns of what the console may say
        self.browser.get_log("browser")

    def tearDown(self):
        said = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        unexpected = [text for text in said if not any(re.search(pattern, text) for pattern in self.expected_errors)]
        self.assertEqual(unexpected, [])

    def show_as(self, width: int, height: int, scheme: str = "light"):
        phone = width < 600
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone})
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self):
        self.browser.get(self.server.url)
        self.wait(lambda: self.one("#model").get_attribute("data-state") == "ready", "the page is ready")

    def wait(self, condition, what: str):
        try:
            return WebDriverWait(self.browser, WAIT_S, 0.05, ignored_exceptions=[Exception]).until(lambda _: condition())
        except Exception:
            self.fail(f"waited {WAIT_S} s in vain until {what}")

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def run_script(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def module(self, path: str, script: str, *arguments):
        """Returns what the script returns; in it `page` is the module and `input` the arguments."""
        result = self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1], input = [...arguments].slice(0, -1);"
            f"import('/{path}').then(async (page) => {{ {script} }}).then((value) => done({{value}}), (error) => done({{error: error.message}}))",
            *arguments)
        if "error" in result:
            raise ValueError(result["error"])
        return result.get("value")

    def fill(self, **values):
        for name, value in values.items():
            field = self.one(f"#{name}")
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(Keys.DELETE, str(value), *([Keys.TAB] if name in ("width", "height") else []))

    def values(self) -> dict[str, str]:
        return {name: self.one(f"#{name}").get_attribute("value")
                for name in ("prompt", "negative", "width", "height", "steps", "guidance", "seed", "count")}

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def generate(self):
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    def cards(self, kind: str):
        return self.all(f"article.{kind}")

    def wait_for_pictures(self, count: int):
        self.wait(lambda: len(self.cards("picture")) == count, f"{count} pictures are there")

    def drawn(self, selector: str) -> tuple[int, int]:
        """Waits for an image and returns its natural size: (0, 0) is never drawn."""
        script = "const i = document.querySelector(arguments[0]); return i && i.complete ? [i.naturalWidth, i.naturalHeight] : [0, 0]"
        return tuple(self.wait(lambda: (size := self.run_script(script, selector))[0] and size, f"{selector} is loaded"))

    def drop(self, name: str, data: bytes):
        self.run_script(
            "const file = new File([new Uint8Array(arguments[1])], arguments[0], {type: 'image/png'}), data = new DataTransfer();"
            "data.items.add(file);"
            "for (const type of ['dragover', 'drop']) document.body.dispatchEvent("
            "new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}))", name, list(data))

    def toast(self, pattern: str):
        self.wait(lambda: not self.one("#toast").get_attribute("hidden") and re.search(pattern, self.one("#toast").text), f"the page says {pattern}")


class Plan(PageTest):
    """The shard plan in JavaScript is that of the engine."""

    def test_rules(self):
        self.open()
        cases = json.loads((ROOT / "tests" / "data" / "sp_plan.json").read_text())
        self.assertGreater(len(cases), 100)
        plans = self.module("plan.js", "return input[0].map(({width, height, ranks}) => page.makePlan(width, height, ranks))", cases)
        for case, plan in zip(cases, plans, strict=True):
            name = f"{case['width']}x{case['height']} on {case['ranks']}"
            self.assertEqual(plan["axis"], case["axis"], name)
            self.assertEqual(plan["sizes"], case["sizes"], name)
            self.assertEqual(plan["target"], case["target_tokens"], name)
            self.assertEqual(plan["cost"], case["padding_tokens"], name)
            self.assertEqual(plan["pads"], case["single_rank_padding_tokens"], name)
            self.assertEqual(plan["ranges"], case["token_ranges"], name)

    def test_every_token_is_drawn_once(self):
        self.open()
        for width, height, ranks in ((720, 1280, 3), (1280, 720, 8), (16, 1024, 5), (48, 32, 8), (100, 70, 4)):
            for kind in ("token", "axis"):
                plan, shares = self.module(
                    "plan.js", "const plan = page.makePlan(...input[0]); return [plan, page.shares(plan, input[1])]", [width, height, ranks], kind)
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
WEBUI = ("A boat\nin the bay\nNegative prompt: fog\nSteps: 9, Sampler: Euler, CFG scale: 4.5, Seed: 9007199254740991, "
         "Size: 720x1280, Model: m, Version: nostos 0")


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
        self.assertEqual(found, {name: RECORD[name] for name in RECORD if name != "num_outputs"})
        # Beyond what a JavaScript number holds.
        big = json.dumps(RECORD | {"seed": 9223372036854775807, "prompt": '"seed": 1234567890123456789'})
        found = self.settings(nostos=big)
        self.assertEqual((found["seed"], found["prompt"]), ("9223372036854775807", '"seed": 1234567890123456789'))
        self.assertEqual(self.settings(parameters=WEBUI), {
            "prompt": "A boat\nin the bay", "negative_prompt": "fog", "width": "720", "height": "1280", "num_inference_steps": "9",
            "guidance_scale": "4.5", "seed": "9007199254740991"})
        self.assertEqual(self.settings(parameters="Steps are here\nSteps: 4, Seed: 5")["prompt"], "Steps are here")
        self.assertEqual(self.settings(parameters="only words")["prompt"], "only words")
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


class Drawing(PageTest):
    """From a prompt to a picture in the gallery."""

    def test_keyboard_alone(self):
        self.open()
        self.press("A red boat")  # the prompt has the focus
        self.assertTrue(self.one("#empty").is_displayed())
        self.generate()
        self.wait_for_pictures(1)
        seed = int(self.values()["seed"])
        self.assertEqual(self.server.bodies, [{
            "prompt": "A red boat", "negative_prompt": "", "width": 96, "height": 64, "num_inference_steps": 8, "guidance_scale": 4,
            "seed": seed, "n": 1}])
        self.assertEqual(self.drawn("article img"), (96, 64))
        self.assertIn(f"seed {seed}", self.one("article").text)
        self.assertFalse(self.one("#empty").is_displayed())
        self.assertTrue(self.cards("picture")[0].get_attribute("class").find("hero") >= 0)

    def test_seed_rolls_unless_locked(self):
        self.open()
        self.press("x")
        for _ in range(2):
            self.one("#generate").click()
            self.wait(lambda: self.one("#generate").is_enabled(), "the job is taken")
        self.one("#lock").click()
        locked = int(self.values()["seed"])
        for _ in range(2):
            self.one("#generate").click()
            self.wait(lambda: self.one("#generate").is_enabled(), "the job is taken")
        self.wait_for_pictures(4)
        seeds = [body["seed"] for body in self.server.bodies]
        self.assertNotEqual(seeds[0], seeds[1])
        self.assertEqual(seeds[1:], [locked] * 3)
        self.one("#reroll").click()
        self.assertNotEqual(int(self.values()["seed"]), locked)

    def test_progress_preview_and_cancel(self):
        self.server.step_s, self.server.preview = 0.15, True
        self.open()
        self.fill(prompt="slow", steps=60)
        self.generate()
        self.wait(lambda: re.search(r"Step \d+ of 60 · [\d.]+ s left", self.one("article").text), "the steps are told")
        bar = self.one("article [role=progressbar]")
        first = int(bar.get_attribute("aria-valuenow"))
        self.wait(lambda: int(bar.get_attribute("aria-valuenow")) > first, "the bar moves on")
        self.assertEqual(bar.get_attribute("aria-valuemax"), "60")
        self.assertRegex(self.browser.title, r"^\d+/60 · nostos$")
        self.assertEqual(self.drawn("article .preview"), (1, 1))
        self.fill(prompt="second", steps=1)
        self.generate()
        self.wait(lambda: "Waiting: 1 job before it" in self.cards("live")[1].text, "the second one waits")
        self.assertTrue(self.one("#cancel").is_displayed())
        self.press(Keys.ESCAPE)
        self.wait_for_pictures(1)
        self.assertEqual([job["status"] for job in self.server.jobs], ["cancelled", "completed"])
        self.wait(lambda: "Cancelled" in self.cards("ended")[0].text, "the first one is shown as cancelled")
        self.assertFalse(self.one("#cancel").is_displayed())
        self.assertEqual(self.browser.title, "nostos")

    def test_several_pictures_of_one_job(self):
        self.open()
        self.fill(prompt="three", count=3)
        self.generate()
        self.wait_for_pictures(3)
        seed = self.server.bodies[0]["seed"]
        self.assertEqual([int(facts.get_attribute("textContent").split()[-1]) for facts in self.all("article .facts")], [seed, seed + 1, seed + 2])

    def test_again_use_download_delete(self):
        self.open()
        body = {"prompt": "A lion <b>&", "negative_prompt": "rain", "width": 64, "height": 96, "num_inference_steps": 3, "guidance_scale": 2.5,
                "seed": 11, "n": 2}
        self.server.add(body)
        self.open()
        self.wait_for_pictures(2)
        second = self.cards("picture")[1]
        self.assertIn("A lion <b>&", second.text)
        second.find_element("css selector", "[title='Use these settings']").click()
        self.assertEqual(self.values(), {"prompt": "A lion <b>&", "negative": "rain", "width": "64", "height": "96", "steps": "3",
                                         "guidance": "2.5", "seed": "12", "count": "1"})
        self.assertEqual(self.one("#lock").get_attribute("aria-pressed"), "true")
        self.cards("picture")[1].find_element("css selector", "[title^='The same settings']").click()
        self.wait_for_pictures(3)
        again = self.server.bodies[1]
        self.assertEqual({**body, "n": 1, "seed": again["seed"]}, {name: again[name] for name in body})
        self.assertNotIn(again["seed"], (11, 12))

        with tempfile.TemporaryDirectory() as folder:
            self.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder})
            self.cards("picture")[2].find_element("css selector", "[title=Download]").click()
            path = Path(folder) / "nostos-12.png"
            self.wait(path.exists, "the picture is downloaded")
            self.wait(lambda: path.read_bytes() == self.server.images[self.server.jobs[0]["images"][1]["id"]], "it has the right bytes")

        self.cards("picture")[2].find_element("css selector", "[title=Delete]").click()
        self.assertIn("2 pictures", self.browser.switch_to.alert.text)
        self.browser.switch_to.alert.dismiss()
        self.assertEqual(len(self.cards("picture")), 3)
        self.cards("picture")[2].find_element("css selector", "[title=Delete]").click()
        self.browser.switch_to.alert.accept()
        self.wait_for_pictures(1)
        self.assertEqual([job["request"]["seed"] for job in self.server.jobs], [again["seed"]])

    def test_gallery_survives_reload_and_goes_back_in_time(self):
        for seed in range(60):
            self.server.add({"prompt": f"picture {seed}", "seed": seed, "num_inference_steps": 1, "width": 32, "height": 32})
        self.wait(lambda: all(job["status"] == "completed" for job in self.server.jobs), "the server has drawn")
        self.open()
        self.fill(prompt="kept over a reload", width=320, guidance=3)
        self.wait_for_pictures(50)
        self.browser.refresh()
        self.wait_for_pictures(50)
        self.assertEqual({**self.values(), "seed": ""}, {"prompt": "kept over a reload", "negative": "", "width": "320", "height": "64",
                                                         "steps": "8", "guidance": "3", "seed": "", "count": "1"})
        self.assertIn("picture 59", self.cards("picture")[0].text)
        unloaded = "return [...document.querySelectorAll('article img')].filter((i) => !i.getAttribute('src')).length"
        self.assertGreater(self.run_script(unloaded), 0, "pictures far below are not fetched yet")
        self.run_script("document.getElementById('more').click()")
        self.wait_for_pictures(60)
        self.assertFalse(self.one("#more").is_displayed())
        shown = [int(card.get_attribute("title").split()[1]) for card in self.all("article .prompt")]
        self.assertEqual(shown, list(range(59, -1, -1)))
        # A poll of the newest ones leaves the older ones where they are.
        self.server.add({"prompt": "picture 60", "seed": 60, "num_inference_steps": 1, "width": 32, "height": 32})
        self.run_script("document.dispatchEvent(new Event('visibilitychange'))")
        self.wait_for_pictures(61)
        self.run_script("scrollTo(0, document.body.scrollHeight)")
        self.drawn("article:last-of-type img")

    def test_sizes(self):
        self.open()
        self.fill(width=1000, height=500)
        self.assertEqual((self.values()["width"], self.values()["height"]), ("1008", "496"))
        size = lambda: [int(self.values()[side]) for side in ("width", "height")]
        self.run_script("const s = document.getElementById('long-side'); s.value = '1280'; s.dispatchEvent(new Event('change'))")
        for aspect, expected in {"9:16": [720, 1280], "3:4": [960, 1280], "1:1": [1280, 1280], "4:3": [1280, 960], "16:9": [1280, 720]}.items():
            self.one(f"#aspects input[value='{aspect}']").click()
            self.assertEqual(size(), expected, aspect)
        self.one("#swap").click()
        self.assertEqual(size(), [720, 1280])
        self.assertTrue(self.one("#aspects input[value='9:16']").is_selected())


class Viewer(PageTest):
    def test_keys_and_focus(self):
        for seed in (1, 2, 3):
            self.server.add({"prompt": f"number {seed}", "seed": seed, "negative_prompt": "fog"})
        self.open()
        self.wait_for_pictures(3)
        viewer = lambda: self.one("#viewer-prompt").text
        self.cards("picture")[1].find_element("css selector", ".frame").click()
        self.assertEqual(viewer(), "number 2")
        self.assertEqual(self.drawn("#viewer-image"), (96, 64))
        self.assertIn("without: fog", self.one("#viewer-facts").text)
        self.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        self.assertEqual(viewer(), "number 1")
        self.assertFalse(self.one("#viewer-next").is_enabled())
        self.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        self.assertEqual(viewer(), "number 3")
        self.press(Keys.ESCAPE)
        self.wait(lambda: not self.one("#viewer").is_displayed(), "Escape closes the viewer")
        focused = "return document.activeElement.getAttribute('aria-label')"
        self.assertEqual(self.run_script(focused), "Open: number 3")
        self.press(Keys.ENTER)
        self.assertEqual(viewer(), "number 3")
        self.one("#viewer [title=Delete]").click()
        self.browser.switch_to.alert.accept()
        self.wait(lambda: not self.one("#viewer").is_displayed(), "the viewer of a deleted picture closes")
        self.assertEqual(len(self.cards("picture")), 2)


class States(PageTest):
    """What goes wrong is said."""

    def test_refused_field(self):
        self.expected_errors = [r"v1/jobs - .* 400"]
        self.server.refusal = (400, {}, {"message": "width must be at most 8192 pixels, not 9008", "param": "width"})
        self.open()
        self.fill(prompt="x", width=9008)
        self.generate()
        self.wait(lambda: "at most 8192" in self.one("#form-error").text, "the server's words are shown")
        self.assertEqual(self.one("#width").get_attribute("aria-invalid"), "true")
        self.assertEqual(self.run_script("return document.activeElement.id"), "width")
        self.server.refusal = None
        self.fill(width=96)
        self.assertFalse(self.one("#form-error").is_displayed())
        self.one("#lock").click()
        for name, text, words in (("seed", "-1", "whole number"), ("seed", "9007199254740993", "whole number"),
                                  ("steps", "", "Steps must be a number")):
            self.fill(**{name: text})
            self.generate()
            self.wait(lambda: words in self.one("#form-error").text, f"{name} {text} is refused")
            self.fill(seed=1, steps=2)
        self.assertEqual(self.server.bodies, [])

    def test_full_queue(self):
        self.expected_errors = [r"v1/jobs - .* 503"]
        self.server.refusal = (503, {"Retry-After": "7"}, {"message": "The queue is full.", "code": "queue_full"})
        self.open()
        self.fill(prompt="x")
        self.generate()
        self.wait(lambda: self.one("#form-error").text == "The queue is full. Try again in 7 s.", "the wait is told")
        self.assertTrue(self.one("#generate").is_enabled())

    def test_failed_job(self):
        self.server.failure = "out of memory: 12 GiB wanted"
        self.open()
        self.fill(prompt="too large")
        self.generate()
        self.wait(lambda: "Failed: out of memory: 12 GiB wanted" in self.cards("ended")[0].text, "the reason is shown")

    def test_loading(self):
        self.expected_errors = [r"v1/models - .* 503"]
        self.server.loading = True
        self.browser.get(self.server.url)
        self.wait(lambda: self.one("#model").text == "Loading the model", "it says that it loads")
        self.server.loading = False
        self.wait(lambda: self.one("#model").text == "stand-in · cpu · f32 · 2 ranks", "the model is named")
        self.assertEqual(self.values()["steps"], "8")

    def test_offline_and_back(self):
        self.expected_errors = [r"ERR_CONNECTION_REFUSED", r"ERR_CONNECTION_RESET", r"ERR_EMPTY_RESPONSE"]
        self.open()
        port = self.server.server_port
        self.server.close()
        self.run_script("document.dispatchEvent(new Event('visibilitychange'))")
        self.wait(lambda: "does not answer" in self.one("#banner").text, "the loss is told")
        self.assertEqual(self.one("#model").text, "Offline")
        again = StandIn(port)
        self.addCleanup(again.close)
        again.add({"prompt": "drawn meanwhile"})
        self.wait_for_pictures(1)
        self.assertFalse(self.one("#banner").is_displayed())

    def test_key(self):
        self.expected_errors = [r" 401 "]
        self.server.key = "a secret"
        self.server.add({"prompt": "behind the key"})
        self.browser.get(self.server.url)
        self.wait(lambda: self.one("#key").is_displayed(), "the key is asked for")
        self.press("wrong", Keys.ENTER)
        self.wait(lambda: "does not accept" in self.one("#key").text, "a wrong key is told")
        self.press("a secret", Keys.ENTER)
        self.wait_for_pictures(1)
        self.assertEqual(self.drawn("article img"), (96, 64))
        stored = self.run_script("return [sessionStorage.getItem('nostos.key'), document.cookie, JSON.stringify(localStorage)]")
        self.assertEqual(stored[:2], ["a secret", ""])
        self.assertNotIn("a secret", stored[2])
        self.browser.refresh()
        self.wait_for_pictures(1)
        self.fill(prompt="with the key")
        self.generate()
        self.wait_for_pictures(2)
        # The copy in memory goes with its picture.
        copy = self.one("article:last-of-type img").get_attribute("src")
        self.assertRegex(copy, "^blob:")
        self.run_script("window.freed = []; URL.revokeObjectURL = (url) => window.freed.push(url)")
        self.one("article:last-of-type [title=Delete]").click()
        self.browser.switch_to.alert.accept()
        self.wait_for_pictures(1)
        self.wait(lambda: self.run_script("return window.freed") == [copy], "the copy is freed")


class Look(PageTest):
    def test_small_and_alone(self):
        files = list(WEB.iterdir())
        self.assertLess(sum(file.stat().st_size for file in files), MAX_PAGE_BYTES)
        for file in files:
            addresses = set(re.findall(r"https?://[^\s\"')]+", file.read_text()))
            self.assertLessEqual(addresses, {"http://www.w3.org/2000/svg"}, file.name)
        self.server.add({"prompt": "x"})
        self.open()
        self.wait_for_pictures(1)
        self.drawn("article img")
        fetched = self.run_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        self.assertEqual([name for name in fetched if not name.startswith((self.server.url, "data:"))], [])

    def test_every_control_has_a_name(self):
        self.server.add({"prompt": "x"})
        self.open()
        self.wait_for_pictures(1)
        self.one(".frame").click()
        nodes = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        self.run_script("document.getElementById('viewer').close()")
        nodes += self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"button", "textbox", "spinbutton", "slider", "combobox", "radio", "img", "image", "progressbar", "dialog"}
        controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        self.assertGreater(len(controls), 25)
        self.assertEqual([node for node in controls if not node.get("name", {}).get("value")], [])

    def test_schemes(self):
        paper = lambda: self.run_script("return getComputedStyle(document.body).backgroundColor")
        self.show_as(*DESKTOP, scheme="dark")
        self.open()
        dark = paper()
        self.show_as(*DESKTOP, scheme="light")
        self.wait(lambda: paper() != dark, "the page follows the system")
        light = paper()
        self.one("#theme").click()
        self.assertEqual(paper(), dark)
        self.browser.refresh()
        self.assertEqual(paper(), dark)
        self.one("#theme").click()
        self.assertEqual(paper(), light)
        self.show_as(*DESKTOP, scheme="dark")
        self.wait(lambda: paper() == dark, "the page follows the system again, since what was chosen was its scheme")

    def test_contrast(self):
        """WCAG AA: 4.5 to 1 for every pair of colours that text and its ground can have."""
        self.open()
        names = ("paper", "panel", "ink", "soft", "accent", "on-accent", "bad")
        for scheme in ("light", "dark"):
            self.run_script("document.documentElement.dataset.theme = arguments[0]", scheme)
            style = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
            hexes = {name: self.run_script(style, f"--{name}") for name in names}

            def luminance(name):
                digits = hexes[name][1:]
                parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)] if len(digits) == 6 else [int(digit * 2, 16) / 255 for digit in digits]
                red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
                return 0.2126 * red + 0.7152 * green + 0.0722 * blue

            texts = [(text, ground) for text in ("ink", "soft", "bad", "accent") for ground in ("paper", "panel")]
            for text, ground in [("on-accent", "accent"), *texts]:
                light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
                self.assertGreaterEqual((light + 0.05) / (dark + 0.05), 4.5, (scheme, text, ground))

    def test_phone(self):
        self.server.add({"prompt": "a long word " + "w" * 300, "width": 1280, "height": 720, "num_inference_steps": 1})
        self.show_as(*PHONE)
        self.open()
        self.wait_for_pictures(1)
        self.one("#plan summary").click()
        self.assertEqual(self.run_script("return document.documentElement.scrollWidth"), PHONE[0])
        wide = self.run_script(
            "return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility() "
            "&& getComputedStyle(e).position !== 'absolute').map((e) => e.outerHTML.slice(0, 80))")
        self.assertEqual(wide, [])


class Server(PageTest):
    """The same page from `nostos serve` itself."""

    @classmethod
    def setUpClass(cls):
        binary = os.environ.get("NOSTOS_BINARY")
        if not binary:
            raise unittest.SkipTest("NOSTOS_BINARY is not set")
        if subprocess.run([binary, "serve", "--help"], capture_output=True).returncode != 0:
            raise unittest.SkipTest("this nostos has no serve")
        if subprocess.run([binary, "inspect"], capture_output=True).returncode != 0:
            raise unittest.SkipTest("the embedded model is missing (models/mini)")
        super().setUpClass()

    def serve(self, folder: str, *flags: str):
        """Starts the server on a free port and waits until it can draw."""
        with tempfile.TemporaryFile("w+") as log:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            command = [os.environ["NOSTOS_BINARY"], "serve", "--port", str(port), "--data-dir", folder, *flags]
            process = subprocess.Popen(command, stderr=log, stdout=log)
            self.addCleanup(process.wait, 60)
            self.addCleanup(process.send_signal, signal.SIGTERM)
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            try:
                if urllib.request.urlopen(url + "health/ready", timeout=5).status == 200:
                    return url
            except OSError:
                time.sleep(0.1)
        self.fail("the server is not ready after a minute")

    def draw_one(self):
        self.fill(prompt="A lion on a beach", width=64, height=96, steps=2, guidance=2)
        self.generate()
        self.wait_for_pictures(1)
        self.assertEqual(self.drawn("article img"), (64, 96))

    def test_draw_reload_drop(self):
        self.expected_errors = ["favicon"]
        with tempfile.TemporaryDirectory() as folder:
            url = self.serve(folder)
            self.browser.get(url)
            self.wait(lambda: self.one("#model").get_attribute("data-state") == "ready", "the page is ready")
            self.draw_one()
            seed = self.values()["seed"]
            self.browser.refresh()
            self.wait_for_pictures(1)
            self.drawn("article img")
            with urllib.request.urlopen(self.one("article img").get_property("src")) as picture:
                data = picture.read()
            self.fill(prompt="something else", seed=1)
            self.drop("lion.png", data)
            self.toast("Settings read from lion.png")
            self.assertEqual((self.values()["prompt"], self.values()["seed"]), ("A lion on a beach", seed))
            # Slow enough to be cancelled.
            self.fill(width=256, height=256, steps=500)
            self.generate()
            self.wait(lambda: re.search(r"Step \d+ of 500", self.cards("live")[0].text), "its steps are told")
            self.assertEqual(self.drawn("article .preview"), (32, 32))
            self.press(Keys.ESCAPE)
            self.wait(lambda: "Cancelled" in self.cards("ended")[0].text, "it is cancelled")
            self.cards("ended")[0].find_element("css selector", "[title=Delete]").click()
            self.wait(lambda: not self.cards("ended"), "it is gone")
            self.fill(width=9008)
            self.expected_errors += ["v1/jobs - .* 400"]
            self.generate()
            self.wait(lambda: self.one("#width").get_attribute("aria-invalid") == "true", "the width is refused")

    def test_key(self):
        self.expected_errors = [" 401 "]
        with tempfile.TemporaryDirectory() as folder:
            key = Path(folder) / "key"
            key.write_text("open-sesame\n")
            self.browser.get(self.serve(folder, "--api-key-file", str(key)))
            self.wait(lambda: self.one("#key").is_displayed(), "the key is asked for")
            self.press("open-sesame", Keys.ENTER)
            self.wait(lambda: self.one("#model").get_attribute("data-state") == "ready", "the key is taken")
            self.draw_one()


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=2)
    if not program.result.wasSuccessful():
        sys.exit(1)
    sys.exit(0 if program.result.testsRun else SKIPPED_EXIT)  # classes are skipped before a test of theirs is counted
