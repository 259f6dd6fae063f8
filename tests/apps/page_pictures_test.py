"""Draws from pictures as visitors do, in headless Chromium: pictures to begin with, masks painted over them, before and after.

Usage: page_pictures_test.py [Begin] [Mask] [Compare]. Exits with 77 if everything was skipped. Needs a browser (page_case.py); runs
against page_stand_in.py.
"""

import base64

from page_case import PHONE, ActionBuilder, ActionChains, Keys, PageTest, PointerInput, run_tests
from page_stand_in import png

BEGINS = {"image_to_image": True, "max_reference_images": 0}
EDITS = {"image_to_image": True, "max_reference_images": 3}
RED, BLUE = png(320, 160, (200, 10, 20)), png(200, 200, (10, 20, 200))
USE, AGAIN, INPUT, COMPARE = "Use these settings", "The same settings, a new seed", "Use as input", "Compare before and after"


class PicturesTest(PageTest):
    def start(self, model: dict, *files: bytes):
        """Opens the page with pictures chosen."""
        self.server.model = model
        self.open()
        if files:
            self.drop_references(*[(f"{i}.png", data) for i, data in enumerate(files)])
            self.wait_for_references(len(files))

    def draw(self) -> dict:
        """Returns what the page sends."""
        count = len(self.server.bodies)
        self.generate()
        self.wait_for_pictures(count + 1)
        return self.server.bodies[count]

    def act(self, title: str, card: int = 0):
        self.cards("picture")[card].find_element("css selector", f"[title='{title}']").click()

    def sent(self, body: dict) -> list[bytes]:
        return [base64.b64decode(text.removeprefix("data:image/png;base64,")) for text in body["image"]]

    def paste(self, data: bytes, text: str = "", into: str = "prompt") -> bool:
        """Returns whether the page leaves it to the browser."""
        return self.run_script(
            "const data = new DataTransfer(); data.items.add(new File([new Uint8Array(arguments[0])], 'image.png', {type: 'image/png'}));"
            "if (arguments[1]) data.setData('text/plain', arguments[1]);"
            "return document.getElementById(arguments[2]).dispatchEvent("
            "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}))", list(data), text, into)

    def focused(self) -> str:
        return self.run_script("return document.activeElement.id")

    def pixels(self, url: str, points: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
        """Returns the size of a mask, a PNG that has no colours and hides nothing, and what it has at the points."""
        self.assertTrue(url.startswith("data:image/png;base64,"), url[:40])
        size, found = self.module("strokes.js", """
            const image = new Image(), canvas = document.createElement("canvas");
            image.src = input[0];
            await image.decode();
            Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const at = ([x, y]) => [...context.getImageData(x, y, 1, 1).data];
            return [[canvas.width, canvas.height], input[1].map(at)];""", url, points)
        for red, green, blue, alpha in found:
            self.assertEqual((green, blue, alpha), (red, red, 255))
        return size, [pixel[0] for pixel in found]

    def open_painter(self):
        self.one("#paint-mask").click()
        self.wait(lambda: self.one("#painter").is_displayed(), "the painter is open")

    def offset(self, x: float, y: float) -> tuple[int, int]:
        """Returns where a place of the 320 x 160 picture is on the canvas, from its centre."""
        scale = self.one("#painter-mask").size["width"] / 320
        return round((x - 160) * scale), round((y - 80) * scale)

    def stroke(self, *points: tuple[int, int], kind: str = "mouse"):
        """Moves a pointer, pressed, along places of the picture."""
        canvas = self.one("#painter-mask")
        builder = ActionBuilder(self.browser, mouse=PointerInput(kind, f"the {kind}"), duration=20)
        pointer = builder.pointer_action
        pointer.move_to(canvas, *self.offset(*points[0])).pointer_down()
        for point in points[1:]:
            pointer.move_to(canvas, *self.offset(*point))
        pointer.pointer_up()
        builder.perform()

    def use_mask(self) -> str:
        self.one("#painter-done").click()
        self.wait(lambda: not self.one("#painter").is_displayed(), "the painter is closed")
        return self.run_script("const i = document.getElementById('mask-image'); return i.hidden ? '' : i.src")

    def set_size(self, pixels: int):
        self.run_script("const s = document.getElementById('painter-size'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", pixels)


class Begin(PicturesTest):
    """Which pictures a drawing is made from, and what for."""

    def test_a_model_without_references_begins_with_its_picture(self):
        self.start(BEGINS)
        self.assertEqual(self.one("#references legend").text, "Picture to begin with")
        self.assertFalse(self.one("#begin").is_displayed())
        self.assertNotIn("strength", self.draw())
        self.drop_references(("red.png", RED))
        self.wait_for_references(1)
        self.assertEqual((self.values()["width"], self.values()["height"]), ("320", "160"))
        self.assertFalse(self.one("#begin-choice").is_displayed())
        body = self.draw()
        self.assertEqual(self.sent(body), [RED])
        self.assertEqual((body["strength"], body["image_fit"]), (0.6, "crop"))
        self.assertEqual({"mask", "mask_blur"} & set(body), set())
        self.assertIn("strength 0.6", self.cards("picture")[0].text)
        self.drop_references(("a.png", RED), ("b.png", BLUE))
        self.toast("takes one picture")
        self.drop_references(("blue.png", BLUE))  # in its place
        self.wait(lambda: self.values()["width"] == "192", "the other picture's size is taken")  # 200 in multiples of 16
        self.assertEqual(self.sent(self.draw()), [BLUE])
        self.one("#reference-list button").click()
        self.assertEqual({"image", "strength", "image_fit"} & set(self.draw()), set())

    def test_a_model_that_edits_looks_unless_told_to_begin(self):
        self.start(EDITS, RED)
        labels = lambda: [label.text.split("\n")[0] for label in self.all("#begin-choice span")]
        self.assertEqual(labels(), ["Look at this picture", "Begin with this picture"])
        self.assertFalse(self.one("#begin-settings").is_displayed())
        self.assertEqual({"strength", "image_fit"} & set(self.draw()), set())
        self.run_script("document.getElementById('look-at').focus()")
        self.press(Keys.ARROW_DOWN, Keys.TAB, Keys.ARROW_LEFT, Keys.ARROW_LEFT)  # begin with it; less strength
        self.assertEqual(self.one("#strength").get_attribute("value"), "0.5")
        self.assertIn("4 of 8 steps", self.one("#strength-note").text)
        self.fill(steps=9)
        self.assertIn("5 of 9 steps", self.one("#strength-note").text)
        self.drop_references(("blue.png", BLUE))
        self.wait_for_references(2)
        self.assertEqual(labels(), ["Look at these pictures", "Begin with the first picture"])
        body = self.draw()
        self.assertEqual((body["strength"], self.sent(body)), (0.5, [RED, BLUE]))
        self.act(USE, 1)  # of the picture for which the model looked
        self.wait_for_references(1)
        self.assertTrue(self.one("#look-at").is_selected())
        self.act(USE)
        self.wait_for_references(2)
        self.assertTrue(self.one("#begin-with").is_selected())
        self.assertEqual(self.draw(), body)

    def test_a_server_that_cannot_begin_offers_nothing_of_it(self):
        self.start({"max_reference_images": 2}, RED)
        self.assertFalse(self.one("#begin").is_displayed())
        self.assertNotIn("strength", self.draw())
        self.start({})
        self.wait_for_pictures(1)
        self.assertEqual(self.all(f"[title='{INPUT}']"), [])

    def test_strength_that_would_be_refused(self):
        self.start(BEGINS, RED)
        for text, words in (("0.01", "from 0.05 to 1"), ("1.5", "from 0.05 to 1"), ("", "must be a number")):
            self.fill(strength=text)
            self.generate()
            self.wait(lambda: words in self.one("#form-error").text, f"a strength of {text} is refused")
            self.assertEqual((self.one("#strength").get_attribute("aria-invalid"), self.focused()), ("true", "strength"))
            self.fill(strength=0.3)
        self.assertEqual(self.server.bodies, [])
        self.assertEqual(self.draw()["strength"], 0.3)

    def test_paste(self):
        self.start(BEGINS)
        self.assertTrue(self.paste(RED, "a table's cells, which come with a picture"))
        self.assertFalse(self.paste(BLUE))
        self.wait_for_references(1)
        self.assertEqual(self.sent(self.draw()), [BLUE])

    def test_pictures_of_the_gallery(self):
        self.expected_errors = [" 401 ", "v1/jobs - .* 400"]
        self.server.key = "a secret"
        for width in (320, 64):
            self.server.add({"prompt": "drawn before", "width": width, "height": 160, "num_inference_steps": 1})
        self.server.model = BEGINS
        self.browser.get(self.server.url)
        self.wait(lambda: self.one("#key").is_displayed(), "the key is asked for")
        self.press("a secret", Keys.ENTER)
        self.wait_for_pictures(2)
        self.act(INPUT, 1)
        self.assertEqual(self.drawn("#reference-list img"), (320, 160))
        self.assertEqual((self.values()["width"], self.values()["height"], self.focused()), ("320", "160", "prompt"))
        wide, tall = [job["images"][0]["id"] for job in self.server.jobs]
        self.open_painter()
        self.stroke((160, 80))
        mask = self.use_mask()
        self.assertEqual(self.pixels(mask, [(160, 80), (20, 20)]), ([320, 160], [255, 0]))
        self.server.bodies.clear()
        self.generate()
        self.wait_for_pictures(3)
        self.assertEqual((self.server.bodies[0]["image"], self.server.bodies[0]["mask"]), ([wide], mask))
        self.cards("picture")[1].find_element("css selector", ".frame").click()
        self.one(f"#viewer [title='{INPUT}']").click()
        self.wait(lambda: self.values()["width"] == "64", "another one is taken")
        self.assertFalse(self.one("#viewer").is_displayed())
        self.act(AGAIN)
        self.wait_for_pictures(4)
        self.assertEqual(self.server.bodies[1]["image"], [wide])
        del self.server.images[tall]
        self.generate()
        self.wait(lambda: tall in self.one("#form-error").text, "the server's words are shown")

    def test_phone(self):
        self.show_as(*PHONE)
        self.start(EDITS, RED, BLUE)
        self.one("#begin-with").click()
        wide = ("return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility() && getComputedStyle(e).position !== 'absolute'"
                " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))")
        self.open_painter()
        self.stroke((160, 80), kind="touch")
        self.assertEqual(self.run_script(wide, "#painter *"), [])
        self.assertNotEqual(self.use_mask(), "")
        self.assertEqual(self.run_script(wide, "main *"), [])
        self.assertEqual(self.run_script("return document.documentElement.scrollWidth"), PHONE[0])


class Mask(PicturesTest):
    """Masks are painted, sent and taken back."""

    def test_mouse(self):
        self.start(BEGINS, RED)
        self.open_painter()
        self.set_size(40)
        self.stroke((60, 80), (160, 80), (260, 80))
        self.stroke((160, 20))
        self.one("#painter-undo").click()
        self.one("#painter-erase").click()
        self.set_size(20)
        self.stroke((160, 80))
        mask = self.use_mask()
        places = [(60, 80), (60, 97), (60, 103), (43, 80), (37, 80), (110, 80), (260, 80), (160, 80), (152, 80), (146, 80), (160, 20)]
        self.assertEqual(self.pixels(mask, places), ([320, 160], [255, 255, 0, 255, 0, 255, 255, 0, 0, 255, 0]))
        self.fill(**{"mask-blur": 6})
        body = self.draw()
        self.assertEqual((body["mask"], body["mask_blur"], body["strength"]), (mask, 6, 1))

        self.open_painter()  # goes on with the mask that there is
        self.one("#painter-paint").click()
        self.stroke((160, 20))
        both = self.use_mask()
        self.assertEqual(self.pixels(both, [(160, 20), (60, 80), (160, 80), (5, 5)])[1], [255, 255, 0, 0])
        self.open_painter()
        self.one("#painter-clear").click()
        self.one("#painter-undo").click()
        self.assertEqual(self.pixels(self.use_mask(), [(160, 20), (5, 5)])[1], [255, 0])
        self.open_painter()
        self.one("#painter-clear").click()
        self.assertEqual(self.use_mask(), "")
        body = self.draw()
        self.assertEqual((body["strength"], {"mask", "mask_blur"} & set(body)), (0.6, set()))

    def test_keys_alone(self):
        self.start(BEGINS, RED)
        self.run_script("document.getElementById('paint-mask').focus()")
        self.press(Keys.ENTER)
        self.wait(lambda: self.focused() == "painter-mask", "the canvas has the focus")
        self.assertEqual(self.one("#painter-size").get_attribute("value"), "20")  # an eighth of the shorter side
        for key, size in (("]", "25"), ("]", "31"), ("[", "25"), ("[", "20")):
            self.press(key)
            self.assertEqual(self.one("#painter-size").get_attribute("value"), size)
        self.press(Keys.SPACE, *[Keys.ARROW_RIGHT] * 4, Keys.SPACE)  # 20 pixels to the right of the centre
        self.assertEqual(self.one("#painter-said").get_attribute("textContent"), "Brush up")
        ActionChains(self.browser).key_down(Keys.SHIFT).send_keys(*[Keys.ARROW_DOWN] * 3).key_up(Keys.SHIFT).perform()  # 60 down
        self.press(Keys.SPACE, Keys.SPACE, *[Keys.ARROW_LEFT] * 8, Keys.SPACE, Keys.SPACE)
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
        self.press("e")
        self.assertEqual(self.one("#painter-erase").get_attribute("aria-pressed"), "true")
        self.press(*[Keys.ARROW_UP] * 12, Keys.SPACE, Keys.SPACE)  # 20 to the left of the centre: its end is 10 away
        self.press("b")
        self.generate()  # Ctrl Enter is done, too
        self.wait(lambda: self.focused() == "paint-mask", "the focus is back where it was")
        mask = self.run_script("return document.getElementById('mask-image').src")
        places = [(160, 80), (180, 80), (188, 80), (192, 80), (152, 80), (148, 80), (180, 140), (140, 140)]
        self.assertEqual(self.pixels(mask, places)[1], [255, 255, 255, 0, 255, 0, 255, 0])
        self.assertEqual(self.server.bodies, [])

    def test_touch_and_pen(self):
        self.start(BEGINS, RED)
        self.open_painter()
        self.set_size(20)
        self.stroke((60, 40), (100, 40), kind="touch")
        self.stroke((60, 120), (100, 120), kind="pen")
        self.assertEqual(self.pixels(self.use_mask(), [(80, 40), (80, 120), (80, 80)])[1], [255, 255, 0])

    def test_a_pens_eraser_and_a_second_finger(self):
        self.start(BEGINS, RED)
        self.open_painter()
        self.set_size(40)
        self.stroke((100, 80), (200, 80))
        self.run_script("""
            const canvas = document.getElementById('painter-mask'), box = canvas.getBoundingClientRect(), scale = box.width / 320;
            canvas.setPointerCapture = () => {};  // there are no such pointers
            const send = (type, pointerId, [x, y], more) => canvas.dispatchEvent(new PointerEvent(type, {
              pointerId, clientX: box.left + x * scale, clientY: box.top + y * scale, bubbles: true, cancelable: true, ...more }));
            send('pointerdown', 7, [100, 80], { pointerType: 'pen', button: 5, buttons: 32 });
            send('pointerup', 7, [100, 80], { pointerType: 'pen', button: 5 });
            send('pointerdown', 8, [30, 30], { pointerType: 'touch', buttons: 1 });
            send('pointerdown', 9, [290, 130], { pointerType: 'touch', buttons: 1 });
            send('pointermove', 9, [290, 80], { pointerType: 'touch', buttons: 1 });
            send('pointerup', 9, [290, 80], { pointerType: 'touch' });
            send('pointermove', 8, [60, 30], { pointerType: 'touch', buttons: 1 });
            send('pointercancel', 8, [60, 30], { pointerType: 'touch' });
            send('pointermove', 8, [300, 30], { pointerType: 'touch' });""")
        self.assertEqual(self.pixels(self.use_mask(), [(100, 80), (190, 80), (60, 30), (290, 130), (300, 30)])[1], [0, 255, 255, 0, 0])

    def test_leaving_asks_for_what_was_painted(self):
        self.start(BEGINS, RED)
        self.open_painter()
        self.press(Keys.ESCAPE)
        self.wait(lambda: not self.one("#painter").is_displayed(), "nothing was painted")
        self.open_painter()
        self.stroke((160, 80))
        self.one("#painter-cancel").click()
        self.browser.switch_to.alert.dismiss()
        self.assertTrue(self.one("#painter").is_displayed())
        self.press(Keys.ESCAPE)
        self.browser.switch_to.alert.accept()
        self.wait(lambda: not self.one("#painter").is_displayed(), "the painter is closed")
        self.assertNotIn("mask", self.draw())

    def test_a_mask_belongs_to_its_picture_and_its_job(self):
        self.start(BEGINS, RED)
        self.open_painter()
        self.stroke((160, 80))
        mask = self.use_mask()
        self.fill(strength=0.8)
        first = self.draw()
        self.drop_references(("blue.png", BLUE))
        self.wait(lambda: not self.one("#mask-image").is_displayed(), "another picture has no mask")
        self.assertEqual(self.one("#strength").get_attribute("value"), "0.6")
        self.assertNotIn("mask", self.draw())
        self.act(AGAIN, 1)
        self.wait_for_pictures(3)
        self.assertEqual({**self.server.bodies[2], "seed": 0}, {**self.server.bodies[2], **first, "seed": 0})
        self.act(USE, 2)
        self.wait(lambda: self.one("#mask-image").is_displayed(), "the mask is back")
        self.assertEqual(self.draw(), first)
        self.one("#take-mask").click()
        self.assertEqual(self.focused(), "paint-mask")
        self.assertEqual({"mask", "mask_blur"} & set(self.draw()), set())
        # A picture's file tells of its mask, too.
        data = self.server.images[self.server.jobs[0]["images"][0]["id"]]
        self.drop("drawn.png", data)
        self.wait(lambda: self.one("#mask-image").is_displayed(), "the mask is back")
        self.assertEqual(self.draw()["mask"], mask)

        self.start(BEGINS, RED)  # another tab has not got it
        self.drop("drawn.png", data)
        self.toast("add them again")
        self.wait_for_references(0)

    def test_every_control_of_the_painter_has_a_name(self):
        self.start(EDITS, RED)
        self.one("#begin-with").click()
        nodes = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        self.open_painter()
        nodes += self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"button", "spinbutton", "slider", "radio", "radiogroup", "image", "dialog", "application"}
        controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        self.assertLessEqual({"radiogroup", "dialog", "application", "slider"}, {node["role"]["value"] for node in controls})
        self.assertEqual([node for node in controls if not node.get("name", {}).get("value")], [])


class Compare(PicturesTest):
    """What a picture was made from, over it."""

    def place(self) -> tuple[str, int]:
        """Returns what the slider says, and where it stands, in per cent of the picture's width."""
        at = self.run_script(
            "const box = document.getElementById('compare-pair').getBoundingClientRect(), handle = document.getElementById('compare-handle');"
            "const {left, width} = handle.getBoundingClientRect(); return (left + width / 2 - box.left) / box.width * 100")
        return self.one("#compare-handle").get_attribute("aria-valuenow"), round(at)

    def test_by_keys_and_pointer(self):
        self.start(BEGINS, RED)
        self.draw()
        self.one("#reference-list button").click()
        self.draw()
        self.assertEqual(len(self.all(f"[title='{COMPARE}']")), 1)
        self.act(COMPARE, 1)
        self.wait(lambda: self.focused() == "compare-handle", "the slider has the focus")
        self.assertEqual((self.drawn("#compare-before"), self.drawn("#compare-after")), ((320, 160), (320, 160)))
        self.assertEqual(self.one("#viewer [aria-pressed]").get_attribute("aria-pressed"), "true")
        self.assertEqual(self.place(), ("50", 50))
        for key, at in ((Keys.ARROW_RIGHT, 52), (Keys.ARROW_LEFT, 50), (Keys.PAGE_DOWN, 40), (Keys.HOME, 0), (Keys.ARROW_DOWN, 0),
                        (Keys.PAGE_UP, 10), (Keys.END, 100), (Keys.ARROW_UP, 100)):
            self.press(key)
            self.assertEqual(self.place(), (str(at), at))
        self.assertEqual(self.one("#compare-handle").get_attribute("aria-valuetext"), "100 % before, 0 % after")
        pair = self.one("#compare-pair")
        quarter = pair.size["width"] // 4
        ActionChains(self.browser).move_to_element(pair).click_and_hold().move_by_offset(quarter, 0).perform()
        self.assertEqual(self.place(), ("75", 75))
        ActionChains(self.browser).move_by_offset(-2 * quarter, 0).release().move_by_offset(quarter, 0).perform()
        self.assertEqual(self.place(), ("25", 25))
        self.one("#viewer [aria-pressed]").click()
        self.assertFalse(self.one("#compare").is_displayed())
        self.one("#viewer [aria-pressed]").click()
        self.wait(lambda: self.one("#compare").is_displayed(), "it is compared again")
        self.one("#viewer-previous").click()  # of the picture that was made from none
        self.assertFalse(self.one("#compare").is_displayed())
        self.assertEqual(self.all(f"#viewer [title='{COMPARE}']"), [])
        self.press(Keys.ESCAPE)
        self.open()  # another tab has not got the picture
        self.wait_for_pictures(2)
        self.assertEqual(self.all(f"[title='{COMPARE}']"), [])


if __name__ == "__main__":
    run_tests()
