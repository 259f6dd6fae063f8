"""Has drawings follow control images as visitors do, in headless Chromium.

Usage: page_control_test.py [Control]. Exits with 77 if everything was skipped. Needs a browser (page_case.py); runs against
page_stand_in.py.
"""

import tempfile

from page_case import PHONE, Keys, run_tests
from page_pictures_test import AGAIN, BLUE, RED, USE, PicturesTest
from page_stand_in import png

CONTROL = "Use as control"
FOLLOWS = {"control": True, "image_to_image": True, "max_reference_images": 0}
SETTINGS = ("scale", "start", "end", "preprocessor")


class Control(PicturesTest):
    """Control images are chosen, sent, shown, refused and taken back."""

    def follow(self, *files: tuple[str, bytes], **options):
        self.drop_references(*files, selector="#control", **options)

    def wait_for_control(self, count: int = 1):
        self.wait(lambda: len(self.all("#control-list img")) == count, f"{count} control images are there")

    def controlled(self, **model):
        self.start({**FOLLOWS, **model})
        self.follow(("red.png", RED))
        self.wait_for_control()

    def control_values(self) -> dict[str, str]:
        return {name: self.one(f"#control-{name}").get_attribute("value") for name in SETTINGS}

    def test_a_server_without_a_network_offers_nothing_of_it(self):
        self.start({"image_to_image": True})
        self.assertFalse(self.one("#control").is_displayed())
        self.draw()
        self.assertEqual(self.all(f"[title='{CONTROL}']"), [])
        self.assertNotIn("control", self.server.bodies[0])

    def test_dropped_sent_and_taken_away(self):
        self.start(FOLLOWS)
        self.assertTrue(self.one("#add-control").is_displayed())
        self.assertFalse(self.one("#control-settings").is_displayed())
        self.assertNotIn("control", self.draw())
        self.follow(("red.png", RED))
        self.wait_for_control()
        self.assertEqual(self.drawn("#control-list img"), (320, 160))
        self.assertEqual((self.values()["width"], self.values()["height"]), ("320", "160"))
        body = self.draw()
        self.assertEqual(self.sent({"image": [body["control"].pop("image")]}), [RED])
        self.assertEqual(body["control"], {"scale": 0.75, "start": 0, "end": 1, "preprocessor": "none"})
        self.assertEqual({"image", "strength", "image_fit"} & set(body), set())
        self.assertIn("control 0.75", self.cards("picture")[0].text)
        self.follow(("blue.png", BLUE))  # in its place
        self.wait(lambda: self.values()["width"] == "192", "the other picture's size is taken")
        self.wait_for_control()
        self.one("#control-list button").click()
        self.wait_for_control(0)
        self.assertFalse(self.one("#control-settings").is_displayed())
        self.assertNotIn("control", self.draw())

    def test_keys_alone(self):
        self.controlled()
        self.run_script("document.getElementById('control-preprocessor').focus()")
        self.press("its edges", Keys.TAB, *[Keys.ARROW_RIGHT] * 3, Keys.TAB, Keys.TAB, *[Keys.ARROW_RIGHT] * 2, Keys.TAB, Keys.TAB, Keys.ARROW_LEFT)
        self.assertEqual(self.control_values(), {"scale": "0.9", "start": "0.1", "end": "0.95", "preprocessor": "canny"})
        control = self.draw()["control"]
        self.assertEqual({name: control[name] for name in SETTINGS}, {"scale": 0.9, "start": 0.1, "end": 0.95, "preprocessor": "canny"})
        self.browser.refresh()  # the settings are remembered, the picture is not
        self.wait_for_pictures(1)
        self.assertEqual(self.control_values(), {"scale": "0.9", "start": "0.1", "end": "0.95", "preprocessor": "canny"})
        self.wait_for_control(0)

    def test_beside_a_picture_to_begin_with(self):
        self.start(FOLLOWS, BLUE)
        self.follow(("red.png", RED))
        self.wait_for_control()
        self.assertEqual(self.values()["width"], "192")  # the first picture's
        body = self.draw()
        self.assertEqual((self.sent(body), self.sent({"image": [body["control"]["image"]]})), ([BLUE], [RED]))
        self.one("#reference-list button").click()
        self.wait_for_references(0)
        self.assertNotIn("image", self.draw())

    def test_chosen_and_pasted(self):
        self.start(FOLLOWS)
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(RED)
            file.flush()
            self.one("#control-file").send_keys(file.name)
            self.wait_for_control()
        self.assertFalse(self.paste(BLUE, into="add-control"))
        self.wait(lambda: self.drawn("#control-list img") == (200, 200), "the pasted picture is there")
        self.assertFalse(self.paste(RED))  # elsewhere it is a picture to begin with
        self.wait_for_references(1)
        body = self.draw()
        self.assertEqual((self.sent(body), self.sent({"image": [body["control"]["image"]]})), ([RED], [BLUE]))

    def test_a_picture_of_the_gallery(self):
        self.server.add({"prompt": "drawn before", "width": 320, "height": 160, "num_inference_steps": 1})
        self.start(FOLLOWS)
        self.wait_for_pictures(1)
        name = self.server.jobs[0]["images"][0]["id"]
        self.cards("picture")[0].find_element("css selector", ".frame").click()
        self.one(f"#viewer [title='{CONTROL}']").click()
        self.wait_for_control()
        self.assertFalse(self.one("#viewer").is_displayed())
        self.assertEqual((self.drawn("#control-list img"), self.values()["width"], self.focused()), ((320, 160), "320", "prompt"))
        self.wait_for_references(0)
        self.server.bodies.clear()
        self.generate()
        self.wait_for_pictures(2)
        self.assertEqual(self.server.bodies[0]["control"]["image"], name)

    def test_settings_of_a_job_and_of_its_picture_bring_it_back(self):
        self.controlled()
        self.fill(**{"control-scale": 1.25, "control-start": 0.25, "control-end": 0.5})
        self.one("#control-preprocessor").send_keys("its colours")
        first = self.draw()
        self.fill(**{"control-scale": 0.5})
        self.one("#control-list button").click()
        second = self.draw()
        self.assertNotIn("control", second)
        self.act(AGAIN, 1)
        self.wait_for_pictures(3)
        self.assertEqual(self.server.bodies[2]["control"], first["control"])
        self.act(USE, 2)
        self.wait_for_control()
        self.assertEqual(self.draw(), first)
        self.act(USE, 2)  # of the one that followed none
        self.wait_for_control(0)
        data = self.server.images[self.server.jobs[0]["images"][0]["id"]]
        self.drop("drawn.png", data)  # a picture's file tells of it, too
        self.wait_for_control()
        self.assertEqual(self.draw()["control"], first["control"])

        self.controlled()  # another tab has not got the first one's picture
        self.fill(**{"control-scale": 2})
        self.drop("drawn.png", data)
        self.toast("add them again")
        self.wait_for_control(0)
        self.assertEqual(self.control_values(), {"scale": "1.25", "start": "0.25", "end": "0.5", "preprocessor": "tile"})
        self.act(AGAIN, 0)
        self.toast("add them again")

        self.start({**FOLLOWS, "control": False})  # nor does every server follow pictures
        self.drop("drawn.png", data)
        self.toast("no control network")
        self.assertNotIn("control", self.draw())

    def test_what_the_server_would_refuse_is_told(self):
        self.start(FOLLOWS)
        colour = (1, 2, 3)
        for name, data, words in (("text.png", b"no picture", "text.png is no PNG, JPEG or WebP"),
                                  ("side.png", png(16385, 1, colour), "side.png is 16385 × 1 pixels: it must have 1 to 16,384")):
            self.follow((name, data))
            self.toast(words)
        self.follow(("a.png", RED), ("b.png", BLUE))
        self.toast("one control image")
        self.wait_for_control(0)
        self.follow(("thin.png", png(513, 4, colour)))  # of any shape, unlike references
        self.wait_for_control()
        self.assertEqual((self.values()["width"], self.values()["height"]), ("512", "16"))
        self.drop_references(("half.png", RED), padding_bytes=24 << 20)
        self.wait_for_references(1)
        self.follow(("other.png", RED), padding_bytes=24 << 20)
        self.toast("other.png is too large: all pictures")
        self.one("#reference-list button").click()
        self.follow(("other.png", RED), padding_bytes=24 << 20)
        self.wait(lambda: self.values()["width"] == "320", "it is taken alone")
        self.drop_references(("half.png", RED), padding_bytes=24 << 20)
        self.toast("half.png is too large: all pictures")

    def test_a_mask_alone_is_told_to_networks_that_read_it(self):
        self.start({**FOLLOWS, "control_sees_mask": True}, RED)
        self.assertFalse(self.one("#control-mask").is_displayed())
        self.open_painter()
        self.stroke((160, 80))
        mask = self.use_mask()
        self.assertNotIn("control", self.draw())  # unless it is asked for
        self.one("#control-mask").click()
        self.assertFalse(self.one("#control-preprocessor").is_displayed())
        self.fill(**{"control-scale": 0.9})
        body = self.draw()
        self.assertEqual((body["mask"], body["control"]), (mask, {"scale": 0.9, "start": 0, "end": 1}))
        self.follow(("blue.png", BLUE))  # which is more than the mask
        self.wait_for_control()
        self.assertFalse(self.one("#control-mask").is_displayed())
        self.one("#control-list button").click()
        self.one("#take-mask").click()
        self.assertFalse(self.one("#control-settings").is_displayed())
        self.assertNotIn("control", self.draw())
        self.act(USE, 1)
        self.wait(lambda: self.one("#control-mask").is_displayed(), "the mask is back")
        self.assertEqual(self.draw(), body)
        self.act(USE, 3)  # of the one whose mask the network was not told of
        self.wait(lambda: not self.one("#control-mask").is_selected(), "it is not told of it again")
        self.drop("drawn.png", self.server.images[self.server.jobs[1]["images"][0]["id"]])
        self.wait(lambda: self.one("#control-mask").is_selected(), "a picture's file tells of it, too")
        self.assertEqual(self.draw()["control"], body["control"])
        self.act(AGAIN)
        self.wait_for_pictures(6)
        self.assertEqual({name: self.server.bodies[5]["control"][name] for name in body["control"]}, body["control"])

        self.start(FOLLOWS, RED)  # a network of 16 channels reads none
        self.open_painter()
        self.stroke((160, 80))
        self.use_mask()
        self.assertFalse(self.one("#control-mask").is_displayed())

    def test_settings_that_would_be_refused(self):
        self.expected_errors = ["v1/jobs - .* 400"]
        self.controlled()
        good = {"control-scale": 1, "control-start": 0, "control-end": 1}
        for field, text, words, marked in (
                ("control-scale", "10.5", "from 0 to 10", "control-scale"), ("control-scale", "", "scale of the control must be a number", "control-scale"),
                ("control-start", "1", "must start before it ends", "control-start"), ("control-end", "1.5", "must start before it ends", "control-start"),
                ("control-end", "0", "must start before it ends", "control-start")):
            self.fill(**{**good, field: text})
            self.generate()
            self.wait(lambda: words in self.one("#form-error").text, f"{field} of {text} is refused")
            self.assertEqual((self.one(f"#{marked}").get_attribute("aria-invalid"), self.focused()), ("true", marked))
        self.assertEqual(self.server.bodies, [])
        self.fill(**good)
        self.server.refusal = (400, {}, {"message": "control.end is not liked", "param": "control.end"})
        self.generate()
        self.wait(lambda: "not liked" in self.one("#form-error").text, "the server's words are shown")
        self.assertEqual(self.focused(), "control-end")

    def test_a_drag_lights_up_what_takes_it(self):
        self.start(FOLLOWS)
        words = lambda zone: self.run_script("return getComputedStyle(document.querySelector(arguments[0]), '::after').content", zone)
        for selector, shown in (("#add-control", ("none", '"Drop a picture to follow"')), ("#reference-list", ('"Drop pictures to edit"', "none"))):
            self.drag_over(selector)
            self.assertEqual((words("#references"), words("#control")), shown)

    def test_phone(self):
        self.show_as(*PHONE)
        self.controlled()
        wide = self.run_script(
            "return [...document.querySelectorAll('#control *')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map((e) => e.outerHTML.slice(0, 80))")
        self.assertEqual(wide, [])
        self.assertEqual(self.run_script("return document.documentElement.scrollWidth"), PHONE[0])

    def test_every_control_has_a_name(self):
        self.controlled()
        nodes = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"button", "spinbutton", "slider", "combobox", "image"}
        controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        self.assertEqual([node for node in controls if not node.get("name", {}).get("value")], [])
        names = {node["name"]["value"] for node in controls}
        self.assertLessEqual({"Control image", "Follow", "Scale", "Scale of the control", "Start", "End"}, names)


if __name__ == "__main__":
    run_tests()
