"""Uses the web page as visitors do, in headless Chromium, and looks at it.

Usage: page_use_test.py [Drawing] [Viewer] [States] [References] [Loras] [Look]. Exits with 77 if everything was skipped. Needs a browser (page_case.py); runs
against page_stand_in.py.
"""

import base64
import re
import struct
import tempfile
from pathlib import Path

from page_case import DESKTOP, PHONE, Keys, PageTest, run_tests
from page_stand_in import WEB, StandIn, chunk, png

MAX_PAGE_BYTES = 108 * 1024  # of which pictures to begin with, their masks and the comparison take 28 KB, control 9 KB
GIF = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


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

    def test_seeds_of_64_bits_are_not_rounded(self):
        self.open()
        self.press("x")
        self.one("#lock").click()
        self.fill(seed=18446744073709551615)
        self.generate()
        self.wait_for_pictures(1)
        self.assertEqual(self.server.bodies[0]["seed"], "18446744073709551615")  # a JavaScript number would be another one
        self.assertIn("seed 18446744073709551615", self.one("article").text)

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
        for name, text, words in (("seed", "-1", "whole number"), ("seed", "18446744073709551616", "whole number"),
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

    def test_what_is_kept_and_a_full_disk_are_told(self):
        self.open()
        facts = "1,234 pictures, 5 MB · 3 GB free · the oldest are deleted beyond 100,000 pictures or 100 GB"
        self.wait(lambda: self.one("#storage").text == facts, "the storage is told")
        self.assertFalse(self.one("#banner").is_displayed())
        self.server.storage |= {"writable": False, "reason": "No space left on device", "free_bytes": None}
        self.browser.refresh()
        self.wait(lambda: "No space left on device" in self.one("#banner").text, "the full disk is told")
        self.assertNotIn("free", self.one("#storage").text)

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


class References(PageTest):
    """Pictures that the model is to look at."""

    COLOURS = [(200, 10, 20), (20, 200, 10), (10, 20, 200)]

    def test_a_model_of_text_alone_shows_no_zone(self):
        self.open()
        self.assertFalse(self.one("#references").is_displayed())

    def test_they_are_dropped_sent_taken_away_and_sent_again(self):
        self.server.model = {"max_reference_images": 2}
        self.open()
        pictures = [png(width, height, colour) for (width, height), colour in zip(((600, 400), (100, 100), (64, 64)), self.COLOURS)]
        self.drop_references(("a.png", pictures[0]), ("b.png", pictures[1]))
        self.wait_for_references(2)
        self.assertEqual((self.values()["width"], self.values()["height"]), ("304", "208"))  # 313x209 in multiples of 16
        self.assertFalse(self.one("#add-reference").is_enabled())
        self.assertFalse(self.one("#drop").is_displayed())
        self.drop_references(("c.png", pictures[2]))
        self.toast("at most 2")
        self.fill(prompt="make it new", steps=1)
        self.generate()
        self.wait_for_pictures(1)
        sent = [base64.b64decode(text.removeprefix("data:image/png;base64,")) for text in self.server.bodies[0]["image"]]
        self.assertEqual(sent, pictures[:2])

        self.all("#reference-list button")[0].click()
        self.wait_for_references(1)
        self.generate()
        self.wait_for_pictures(2)
        self.assertEqual(self.server.bodies[1]["image"], self.server.bodies[0]["image"][1:])
        self.all("article [title='The same settings, a new seed']")[1].click()
        self.wait_for_pictures(3)
        self.assertEqual(self.server.bodies[2]["image"], self.server.bodies[0]["image"])

        self.open()  # another tab has not got them
        self.wait_for_pictures(3)
        self.all("article [title='The same settings, a new seed']")[0].click()
        self.toast("add them again")
        self.assertEqual(len(self.server.bodies), 3)

    def test_used_settings_bring_their_pictures(self):
        self.server.model = {"max_reference_images": 2}
        self.open()
        use = lambda card: self.all("article.picture [title='Use these settings']")[card].click()
        pictures = [png(64, 64, colour) for colour in self.COLOURS]
        self.drop_references(("a.png", pictures[0]), ("b.png", pictures[1]))
        self.wait_for_references(2)
        self.fill(prompt="an edit", steps=1)
        self.generate()
        self.wait_for_pictures(1)
        for _ in range(2):
            self.one("#reference-list button").click()
        self.fill(prompt="no edit")
        self.generate()
        self.wait_for_pictures(2)
        self.assertNotIn("image", self.server.bodies[1])
        self.drop_references(("c.png", pictures[2]))
        self.wait_for_references(1)
        use(1)
        self.wait_for_references(2)
        self.assertEqual(self.values()["prompt"], "an edit")
        self.generate()
        self.wait_for_pictures(3)
        self.assertEqual(self.server.bodies[2], self.server.bodies[0])
        use(1)  # of a picture without references
        self.wait_for_references(0)
        # A picture's file tells of them, too.
        edited = next(job for job in self.server.jobs if job["request"]["image"])["images"][0]
        self.drop("edit.png", self.server.images[edited["id"]])
        self.wait_for_references(2)

        self.open()  # another tab has not got them
        self.wait_for_pictures(3)
        self.drop_references(("c.png", pictures[2]))
        self.wait_for_references(1)
        use(0)
        self.toast("add them again")
        self.wait_for_references(0)
        self.assertEqual(self.values()["prompt"], "an edit")

    def test_what_the_server_would_refuse_is_told(self):
        self.server.model = {"max_reference_images": 3}
        self.open()
        colour = self.COLOURS[0]
        before = self.values()
        bmp = b"BM" + struct.pack("<IIIIiiHHIIIIII", 54 + 64 * 64 * 3, 0, 54, 40, 64, 64, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64 * 64 * 3)
        for name, data, words in (
                ("x.gif", GIF, "x.gif is no PNG, JPEG or WebP picture"), ("x.bmp", bmp, "x.bmp is no PNG, JPEG or WebP picture"),
                ("cut.png", png(64, 64, colour)[:40], "cut.png is no PNG, JPEG or WebP picture"), ("empty.png", b"", "empty.png is no PNG"),
                ("one.png", png(1, 1, colour), "one.png is 1 × 1 pixels"), ("small.png", png(63, 64, colour), "63 × 64 pixels"),
                ("long.png", png(64, 513, colour), "64 × 513 pixels"), ("wide.png", png(513, 64, colour), "513 × 64 pixels"),
                ("side.png", png(16385, 2049, colour), "16385 × 2049 pixels")):
            self.drop_references((name, data))
            self.toast(words)
        self.assertEqual(self.all("#reference-list img"), [])
        self.assertEqual(self.values(), before)

        good = png(64, 512, colour)
        self.drop_references(*[("good.png", good)] * 4)
        self.toast("at most 3")
        self.assertEqual(self.all("#reference-list img"), [])
        self.drop_references(("huge.png", good), padding_bytes=47 << 20)
        self.toast("huge.png is too large: all pictures of a drawing have at most 47 MB together")
        self.drop_references(("half.png", good), ("other.png", good), padding_bytes=24 << 20)
        self.toast("other.png is too large")
        self.wait_for_references(1)
        self.drop_references(("one.png", png(1, 1, colour)), ("good.png", good))
        self.toast("one.png is 1 × 1 pixels")
        self.wait_for_references(2)
        self.assertEqual((self.values()["width"], self.values()["height"]), ("64", "512"))

    def test_a_refusal_is_shown_until_the_pictures_change(self):
        self.expected_errors = [r"v1/jobs - .* 400"]
        self.server.model = {"max_reference_images": 2}
        self.open()
        for change in (lambda: self.drop_references(("a.png", png(64, 64, self.COLOURS[0]))), lambda: self.one("#reference-list button").click()):
            self.server.refusal = (400, {}, {"message": "image[0] is damaged", "param": "image[0]"})
            self.generate()
            self.wait(lambda: "damaged" in self.one("#form-error").text, "the refusal is shown")
            change()
            self.wait(lambda: not self.one("#form-error").is_displayed(), "the refusal is gone")

    def test_a_drag_lights_up_what_takes_it(self):
        self.server.model = {"max_reference_images": 2}
        self.open()
        words = lambda: self.run_script("return getComputedStyle(document.querySelector('#references'), '::after').content")
        page = lambda: self.one("#drop").is_displayed() and self.one("#drop").text
        self.drag_over("#reference-list")
        self.assertEqual((words(), page()), ('"Drop pictures to edit"', False))
        self.drag_over("#gallery")
        self.assertEqual((words(), page()), ("none", "Drop a PNG to read its settings, or any picture to edit"))
        self.drag_over("#references")
        self.drag_over("#references", "dragleave")
        self.assertEqual((words(), page()), ("none", False))

    def test_a_model_of_text_alone_reads_settings_from_what_is_dropped(self):
        self.open()
        self.drag_over("#gallery")
        self.assertEqual(self.one("#drop").text, "Drop a PNG to read its settings")
        self.drop("cat.png", png(64, 64, self.COLOURS[0]))
        self.toast("does not say how it was drawn")
        self.assertFalse(self.one("#drop").is_displayed())

    def test_what_is_dropped_beside_the_zone_is_added_unless_it_has_settings(self):
        self.server.model = {"max_reference_images": 4}
        self.open()
        picture = png(64, 64, self.COLOURS[0])
        self.drop("cat.png", picture)
        self.wait_for_references(1)
        jpeg = self.browser.execute_async_script(
            "const done = arguments[0];"
            "document.createElement('canvas').toBlob(async (b) => done([...new Uint8Array(await b.arrayBuffer())]), 'image/jpeg')")
        self.drop("cat.jpg", bytes(jpeg))
        self.wait_for_references(2)
        self.drop("x.gif", GIF)
        self.toast("x.gif is no PNG, JPEG or WebP")
        drawn = png(64, 64, self.COLOURS[1], [chunk(b"tEXt", b"parameters\0a boat\nSteps: 7, Seed: 3")])
        self.drop("boat.png", drawn)
        self.toast("Settings read from boat.png")
        self.assertEqual((self.values()["prompt"], self.values()["steps"]), ("a boat", "7"))
        self.assertEqual(len(self.all("#reference-list img")), 2)
        self.drop_references(("boat.png", drawn), ("cat.png", picture), selector="#gallery")
        self.wait_for_references(4)

    def test_a_model_without_guidance_offers_none(self):
        self.server.model = {"has_guidance": False}
        self.open()
        for name in ("negative", "guidance", "guidance-range", "negative-note"):
            self.assertFalse(self.one(f"#{name}").is_displayed(), name)
        self.assertTrue(self.one("#steps").is_displayed())
        self.press("x")
        self.generate()
        self.wait_for_pictures(1)
        self.assertEqual({"negative_prompt", "guidance_scale"} & set(self.server.bodies[0]), set())

    def test_every_stage_is_told(self):
        self.server.model, self.server.stage_s = {"max_reference_images": 1}, 1.0
        self.open()
        self.drop_references(("a.png", png(64, 64, self.COLOURS[0])))
        self.wait_for_references(1)
        self.generate()
        for words in ("Loading the model", "Reading the prompt", "Reading the pictures"):
            self.wait(lambda: self.one("article .state").text == words, f"it says {words}")
        self.wait_for_pictures(1)

    def test_what_was_sent_is_kept_within_bounds(self):
        self.open()
        kept = self.module("pictures.js", """
            page.startPictures({}, () => {});
            const job = (i) => ({ request: { image: [{ sha256: `hash ${i}` }] } });
            const had = (i) => page.sentFields(job(i).request)?.image[0][0] === String(i);
            const send = (i) => page.remember(job(i), { image: [String(i).padEnd(60 << 20)] });
            for (let i = 0; i < 4; ++i) send(i);
            const before = had(0);
            send(0);  // again: now 1 is the oldest
            send(4);
            return [before, ...[0, 1, 2, 3, 4].map(had)];""")
        self.assertEqual(kept, [True, True, False, True, True, True])

    def test_what_is_no_picture_is_told(self):
        self.server.model = {"max_reference_images": 2}
        self.open()
        self.drop_references(("text.png", b"no picture"))
        self.toast("text.png is no PNG, JPEG or WebP picture")
        self.press("x")
        self.one("#steps").send_keys(Keys.CONTROL, "a", "1")
        self.generate()
        self.wait_for_pictures(1)
        self.assertNotIn("image", self.server.bodies[0])


class Loras(PageTest):
    """LoRAs are chosen, sent, shown, remembered and taken from a picture."""

    def chosen(self) -> list[tuple[str, float]]:
        rows = self.all("#lora-list .lora")
        return [(row.text.split("\n")[0], float(row.find_element("css selector", "[type=number]").get_attribute("value"))) for row in rows]

    def options(self) -> list[str]:
        return [option.text for option in self.all("#lora-names option")]

    def add(self, name: str):
        self.run_script("document.getElementById('lora-names').value = arguments[0]; document.getElementById('add-lora').click()", name)

    def test_without_any_there_is_no_picker(self):
        self.open()
        self.assertFalse(self.one("#loras").is_displayed())
        self.press("x")
        self.generate()
        self.wait_for_pictures(1)
        self.assertNotIn("loras", self.server.bodies[0])

    def test_by_keyboard_from_the_list_to_the_picture_and_back(self):
        self.server.loras = ["detail", "styles/ink"]
        self.open()
        self.wait(lambda: self.options() == ["detail", "styles/ink"], "they are listed")
        self.press("x")
        self.run_script("document.getElementById('lora-names').focus()")
        self.press(Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)
        self.wait(lambda: self.chosen() == [("styles/ink", 1)], "one is chosen")
        self.assertEqual(self.run_script("return document.activeElement.type"), "range")
        self.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        self.assertEqual(self.chosen(), [("styles/ink", 0.9)])
        self.add("detail")
        number = self.all("#lora-list [type=number]")[1]
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("-3.5")
        self.assertEqual(self.options(), [])
        self.assertFalse(self.one("#add-lora").is_enabled())
        self.generate()
        self.wait_for_pictures(1)
        sent = [{"name": "styles/ink", "scale": 0.9}, {"name": "detail", "scale": -3.5}]
        self.assertEqual(self.server.bodies[0]["loras"], sent)
        self.assertIn("styles/ink 0.9 · detail -3.5 · seed", self.one("article .facts").text)
        self.browser.refresh()
        self.wait(lambda: self.chosen() == [("styles/ink", 0.9), ("detail", -3.5)], "they are remembered")
        self.wait_for_pictures(1)
        self.cards("picture")[0].find_element("css selector", "[title^='The same settings']").click()
        self.wait_for_pictures(2)
        self.assertEqual(self.server.bodies[1]["loras"], [{"sha256": "0" * 64, **lora} for lora in sent])  # the same file, or none

        self.one("#lora-list [title='Remove styles/ink']").click()
        self.one("#lora-list [title='Remove detail']").click()
        self.generate()
        self.wait_for_pictures(3)
        self.assertNotIn("loras", self.server.bodies[2])
        self.cards("picture")[1].find_element("css selector", "[title='Use these settings']").click()
        self.assertEqual(self.chosen(), [("styles/ink", 0.9), ("detail", -3.5)])
        self.cards("picture")[0].find_element("css selector", "[title='Use these settings']").click()
        self.assertEqual(self.chosen(), [])
        self.drop("a.png", self.server.images[self.server.jobs[0]["images"][0]["id"]])
        self.toast("Settings read from a.png")
        self.assertEqual(self.chosen(), [("styles/ink", 0.9), ("detail", -3.5)])

    def test_files_come_and_go(self):
        self.expected_errors = [r"v1/jobs - .* 400"]
        self.server.loras = ["detail"]
        self.open()
        self.wait(lambda: self.options() == ["detail"], "it is listed")
        self.server.loras = ["detail", "new <b>&"]
        self.add("detail")
        self.run_script("document.getElementById('lora-names').focus()")
        self.wait(lambda: self.options() == ["new <b>&"], "the new one is listed")
        self.server.loras = []
        self.browser.refresh()
        self.wait(lambda: self.chosen() == [("detail", 1)], "what was chosen can still be taken away")
        self.server.refusal = (400, {}, {"message": 'loras[0] names the LoRA "detail", which this server has not', "param": "loras[0]"})
        self.press("x")
        self.generate()
        self.wait(lambda: "which this server has not" in self.one("#form-error").text, "the server's words are shown")
        self.one("#lora-list button").click()
        self.assertFalse(self.one("#loras").is_displayed())


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


if __name__ == "__main__":
    run_tests()
