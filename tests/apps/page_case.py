"""What the files page_*_test.py share: a headless Chromium for a class of tests, and run_tests.

The browser needs Debian's chromium, chromium-driver and python3-selenium; without them the tests are skipped.
"""

import re
import shutil
import sys
import unittest
from pathlib import Path

from page_stand_in import StandIn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402, F401

# Debian's packages are out of sight of an interpreter that came from elsewhere.
sys.path.append("/usr/lib/python3/dist-packages")
try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = ActionBuilder = ActionChains = Keys = PointerInput = None

WAIT_S = 20
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = (1280, 800), (390, 844)


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
        self.browser.get("about:blank")  # the page of the case before would miss its server
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

    def drop_references(self, *files: tuple[str, bytes], padding_bytes: int = 0, selector: str = "#references"):
        self.run_script(
            "const data = new DataTransfer(), padding = new Uint8Array(arguments[1]);"
            "for (const [name, bytes] of arguments[0]) data.items.add(new File([new Uint8Array(bytes), padding], name, {type: 'image/png'}));"
            "for (const type of ['dragover', 'drop']) document.querySelector(arguments[2]).dispatchEvent("
            "new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}))", [[name, list(data)] for name, data in files], padding_bytes, selector)

    def drag_over(self, selector: str, event: str = "dragover"):
        self.run_script(
            "const data = new DataTransfer(); data.items.add(new File(['x'], 'x'));"
            "document.querySelector(arguments[0]).dispatchEvent("
            "new DragEvent(arguments[1], {dataTransfer: data, bubbles: true, cancelable: true}))", selector, event)

    def wait_for_references(self, count: int):
        self.wait(lambda: len(self.all("#reference-list img")) == count, f"{count} references are there")
