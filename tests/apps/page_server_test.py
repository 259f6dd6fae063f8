"""Uses the web page of `nostos serve` itself, in headless Chromium.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos page_server_test.py [Server]. Exits with 77 if everything was skipped. Draws with the embedded
model. Needs a browser (page_case.py).
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

from page_case import Keys, PageTest, run_tests


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
    run_tests()
