"""Runs ComfyUI's nodes against a nostos server, and in process, with what stands in for ComfyUI (comfyui_stand_in.py).

Usage: NOSTOS_BINARY=build/cpu/bin/nostos comfyui_test.py [Contract] [Conversions] [OnServer] [Environment] [InProcess]. Needs numpy and
pillow, and for InProcess the package nostos: tests/api/python_test.py runs that.
"""

import contextlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/apps"), str(Path(__file__).parent)]
from run_tests import SKIPPED_EXIT, run_tests  # noqa: E402

if missing := [name for name in ("numpy", "PIL") if importlib.util.find_spec(name) is None]:
    print(f"Skipped: {sys.executable} has no {', '.join(missing)}")
    sys.exit(SKIPPED_EXIT)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import comfyui_stand_in  # noqa: E402
from comfyui_stand_in import COMFY, InterruptProcessingException, Tensor, load_pack, run_workflow  # noqa: E402
from server_case import ServerTest  # noqa: E402
from server_process import BINARY, Server  # noqa: E402

comfyui_stand_in.install()
PACK = ROOT / "integrations/comfyui"
NODES = load_pack(PACK)
conversions, drawing = (sys.modules[f"{NODES.__name__}.{name}"] for name in ("conversions", "drawing"))
WORKFLOW = json.loads((PACK / "api_workflows/text_to_image.json").read_text())

DATA = ROOT / "tests/data"
MODEL = DATA / "tiny/varied"
EDITOR = DATA / "klein_tiny/distilled"
LORA = DATA / "adapters/zimage/kohya.safetensors"
KEY = "the-key-of-the-test"
SMALL = {"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 0, "seed": 7}
# Never waited for. The model draws nothing larger.
ENDLESS = {**SMALL, "width": 192, "height": 192, "num_inference_steps": 1000, "num_outputs": 10}


def generated(*flags: str | Path, model: Path = MODEL, **fields) -> np.ndarray:
    """Returns the pixels that `nostos generate` writes."""
    with tempfile.TemporaryDirectory() as folder:
        named = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        file = Path(folder) / "image.png"
        subprocess.run([BINARY, "generate", "--model-path", model, *named, *flags, "--output", file], check=True, capture_output=True)
        return np.asarray(Image.open(file).convert("RGB"))


def some_image(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def tensor(*arrays: np.ndarray) -> Tensor:
    return Tensor(np.stack(arrays).astype(np.float32) / 255)


def node(kind_name: str, **inputs):
    """Runs a node and returns its output."""
    kind = NODES.NODE_CLASS_MAPPINGS[kind_name]
    (output,) = getattr(kind(), kind.FUNCTION)(**inputs)
    return output


def draw(nostos, **inputs) -> np.ndarray:
    """Returns the images that Nostos Generate gives, its widgets being as they are where nobody touches them."""
    COMFY.begin()
    return draw_on(nostos, **inputs)


def draw_on(nostos, **inputs) -> np.ndarray:
    required = NODES.NODE_CLASS_MAPPINGS["NostosGenerate"].INPUT_TYPES()["required"]
    untouched = {name: declared[1].get("default", "") for name, declared in required.items() if len(declared) > 1}
    images = node("NostosGenerate", **{**untouched, **SMALL, **inputs}, nostos=nostos).numpy()
    return np.rint(images * 255).astype(np.uint8)


class Contract(unittest.TestCase):
    def test_nodes_are_what_comfyui_wants(self):
        classes = NODES.NODE_CLASS_MAPPINGS
        self.assertEqual(classes.keys(), NODES.NODE_DISPLAY_NAME_MAPPINGS.keys())
        outputs = {kind for one in classes.values() for kind in one.RETURN_TYPES}
        for name, one in classes.items():
            with self.subTest(node=name):
                self.assertTrue(callable(getattr(one, one.FUNCTION)))
                self.assertEqual(one.CATEGORY, "nostos")
                for declared in [input_ for group in one.INPUT_TYPES().values() for input_ in group.values()]:
                    self.assertIn(declared[0], {"STRING", "INT", "FLOAT", "IMAGE", "MASK"} | outputs)
        seed = classes["NostosGenerate"].INPUT_TYPES()["required"]["seed"]
        self.assertEqual((seed[0], seed[1]["max"], seed[1]["control_after_generate"]), ("INT", 2**64 - 1, True))

    def test_its_version_is_the_projects(self):
        version = re.search(r"VERSION (\d+\.\d+\.\d+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        self.assertEqual(tomllib.loads((PACK / "pyproject.toml").read_text())["project"]["version"], version)

    def test_loras_are_a_chain(self):
        first = node("NostosLora", name="one", strength=0.5)
        self.assertEqual(node("NostosLora", name="two", strength=-1.0, loras=first), [("one", 0.5), ("two", -1.0)])
        self.assertEqual(first, [("one", 0.5)])  # other nodes may have it, too

    def test_what_is_left_open_is_not_asked_for(self):
        class Source:
            def begin(self, request: dict):
                self.request = request
                return mock.Mock(run=lambda tell: [some_image(8, 8)])

        source, open_ = Source(), dict.fromkeys(("width", "height", "num_inference_steps"), 0)
        draw(source, **open_, guidance_scale=-1.0, seed=0, negative_prompt="", strength=0.0)
        self.assertEqual(source.request, {"prompt": "a boat", "seed": 0, "num_outputs": 1})
        draw(source, prompt="", guidance_scale=0.0)
        self.assertEqual((source.request["prompt"], source.request["guidance_scale"]), ("", 0.0))

    def test_what_is_told_is_shown_in_its_order(self):
        preview = Image.new("RGB", (8, 8))

        def run(tell):
            for event in (drawing.Step(1, 3), drawing.Preview(preview), drawing.Step(3, 3)):
                tell(event)
            return [some_image(8, 8)]

        COMFY.begin()
        self.assertEqual(len(drawing.watch(mock.Mock(run=run))), 1)
        self.assertEqual(COMFY.progress, [(1, 3), (1, 3), (3, 3)])
        self.assertEqual(COMFY.previews, [("JPEG", preview, drawing.PREVIEW_SIDE)])

    def test_what_fails_is_not_cancelled(self):
        failing = mock.Mock(run=mock.Mock(side_effect=LookupError("enough")))
        with self.assertRaisesRegex(LookupError, "enough"):
            drawing.watch(failing)
        failing.cancel.assert_not_called()

    def test_without_the_package_the_pipeline_says_what_is_missing(self):
        with mock.patch.dict(sys.modules, {"nostos": None}), self.assertRaisesRegex(drawing.NostosError, "Nostos Server"):
            node("NostosPipeline", model_path="")


class Conversions(unittest.TestCase):
    def test_8_bits_survive_there_and_back(self):
        every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
        images = conversions.images_of_arrays([every, every[::-1]])
        self.assertEqual((images.numpy().shape, images.numpy().dtype), ((2, 16, 16, 3), np.float32))
        back = conversions.arrays_of_images(images)
        self.assertTrue((back[0] == every).all() and (back[1] == every[::-1]).all())
        saved = comfyui_stand_in.SaveImage().save_images(images, "")["images"][0]
        self.assertTrue((saved == every).all())
        self.assertTrue((conversions.array_of_png(conversions.png_of_array(every)) == every).all())

    def test_what_is_no_image_of_8_bits(self):
        values = np.array([-0.5, 0.499 / 255, 0.501 / 255, 2.0], np.float32).reshape(1, 2, 2, 1).repeat(4, axis=3)
        (array,) = conversions.arrays_of_images(Tensor(values))
        self.assertEqual(array.shape, (2, 2, 3))
        self.assertEqual(array[..., 0].tolist(), [[0, 0], [1, 255]])
        for shape in ((64, 64, 3), (1, 64, 64, 1)):
            with self.assertRaisesRegex(ValueError, "^image: .*use"):
                conversions.arrays_of_images(Tensor(np.zeros(shape, np.float32)))

    def test_masks(self):
        mask = np.array([[0, 1], [0.5, 1]], np.float32)
        for shape in ((2, 2), (1, 2, 2)):
            array = conversions.array_of_mask(Tensor(mask.reshape(shape)))
            self.assertEqual((array.shape, array.dtype, array[..., 2].tolist()), ((2, 2, 3), np.uint8, [[0, 255], [128, 255]]))
        with self.assertRaisesRegex(ValueError, "^mask_image: .*use one mask"):
            conversions.array_of_mask(Tensor(np.zeros((2, 8, 8), np.float32)))


class Draws:
    """What holds wherever nostos draws: cases for a class with `nostos`, what the nodes that choose the place give, and `lora`, its name there."""

    def test_text_to_image_draws_the_commands_pixels(self):
        images = draw(self.nostos)
        self.assertEqual(images.shape, (1, 64, 64, 3))
        self.assertTrue((images[0] == generated(**SMALL)).all())

    def test_a_batch_has_consecutive_seeds(self):
        images = draw(self.nostos, num_outputs=2)
        self.assertEqual(images.shape, (2, 64, 64, 3))
        self.assertTrue((images[0] == draw(self.nostos)[0]).all())
        self.assertTrue((images[1] == draw(self.nostos, seed=8)[0]).all())
        self.assertFalse((images[0] == images[1]).all())

    def test_guidance_and_a_negative_prompt(self):
        fields = {**SMALL, "negative_prompt": "night", "guidance_scale": 4.0}
        drawn = draw(self.nostos, **fields)[0]
        self.assertTrue((drawn == generated(**fields)).all())
        self.assertFalse((drawn == draw(self.nostos)[0]).all())

    def test_image_to_image_and_masks(self):
        image, mask = some_image(64, 64), np.zeros((64, 64), np.uint8)
        mask[:, 32:] = 255
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{name}.png" for name in ("image", "mask")}
            Image.fromarray(image).save(files["image"])
            Image.fromarray(mask).save(files["mask"])
            by_command = generated("--image", files["image"], "--strength", "0.5", **SMALL)
            masked_by_command = generated("--image", files["image"], "--mask-image", files["mask"], **SMALL)
        drawn = draw(self.nostos, image=tensor(image), strength=0.5)[0]
        self.assertTrue((drawn == by_command).all())
        masked = draw(self.nostos, image=tensor(image), mask_image=tensor(mask))[0]
        self.assertTrue((masked == masked_by_command).all())
        self.assertFalse((masked == drawn).all())
        self.assertEqual(draw(self.nostos, image=tensor(some_image(64, 96)), width=0, height=0).shape, (1, 96, 64, 3))

    def test_loras(self):
        loras = node("NostosLora", name=self.lora, strength=0.75)
        drawn = draw(self.nostos, loras=loras)[0]
        self.assertTrue((drawn == generated("--lora", f"{LORA}:0.75", **SMALL)).all())
        self.assertFalse((drawn == draw(self.nostos)[0]).all())

    def test_progress_and_previews_are_shown(self):
        # What takes milliseconds may be drawn before anything is told of it.
        COMFY.begin()
        COMFY.on_progress = lambda: COMFY.previews and COMFY.progress[-1][0] > 1 and COMFY.interrupt()
        with self.assertRaises(InterruptProcessingException):
            draw_on(self.nostos, **ENDLESS)
        self.assertEqual(COMFY.progress, sorted(COMFY.progress))
        self.assertEqual({total for _, total in COMFY.progress}, {10_000})
        kind, preview, side = COMFY.previews[0]
        self.assertEqual((kind, side, preview.size, preview.mode), ("JPEG", 512, (48, 48), "RGB"))

    def test_refusals_name_the_input(self):
        for fields, words in (({"width": -64}, "width"), ({"num_inference_steps": -1}, "num_inference_steps"),
                              ({"strength": 0.5}, "strength"), ({"loras": [("nowhere", 1.0)]}, "lora")):
            with self.subTest(**fields), self.assertRaisesRegex(Exception, words):
                draw(self.nostos, **fields)


class OnServer(Draws, ServerTest):
    """One server, which wants a key."""

    lora = "styles/kohya"

    @classmethod
    def setUpClass(cls):
        own = tempfile.TemporaryDirectory()
        cls.addClassCleanup(own.cleanup)
        cls.folder = Path(own.name)
        (cls.folder / "key").write_text(KEY + "\n")
        (cls.folder / "loras/styles").mkdir(parents=True)
        shutil.copy(LORA, cls.folder / "loras/styles")
        cls.flags = ("--model-path", str(MODEL), "--lora-dir", str(cls.folder / "loras"), "--api-key-file", str(cls.folder / "key"))
        super().setUpClass()
        cls.url = f"http://127.0.0.1:{cls.server.port}"
        environment = mock.patch.dict(os.environ, {"NOSTOS_URL": cls.url, "NOSTOS_API_KEY": KEY})
        environment.start()
        cls.addClassCleanup(environment.stop)
        cls.nostos = node("NostosServer", url="")

    def newest_job(self) -> dict:
        return self.server.get("/v1/jobs?limit=1", Authorization=f"Bearer {KEY}").json()["data"][0]

    def test_the_example_workflow_runs(self):
        COMFY.begin()
        workflow = json.loads(json.dumps(WORKFLOW))
        workflow["2"]["inputs"].update(SMALL)
        saved = run_workflow(workflow, NODES.NODE_CLASS_MAPPINGS)["3"]["images"]
        self.assertTrue((saved[0] == generated(**SMALL)).all())
        self.assertEqual({name for name in WORKFLOW["2"]["inputs"]},
                         set(NODES.NODE_CLASS_MAPPINGS["NostosGenerate"].INPUT_TYPES()["required"]))

    def test_cancelling_cancels_a_running_job(self):
        COMFY.begin()
        COMFY.on_progress = COMFY.interrupt
        with self.assertRaises(InterruptProcessingException):
            draw_on(self.nostos, **ENDLESS)
        self.server.wait_until(lambda: self.newest_job()["status"] == "cancelled")
        self.assertEqual(self.newest_job()["request"]["n"], ENDLESS["num_outputs"])

    def test_cancelling_cancels_a_waiting_job(self):
        before = self.nostos.begin(ENDLESS)
        self.server.wait_until(lambda: self.newest_job()["status"] == "running")
        COMFY.begin()
        threading.Timer(0.5, COMFY.interrupt).start()
        start = time.monotonic()
        with self.assertRaises(InterruptProcessingException):
            draw_on(self.nostos, **SMALL)
        self.assertGreater(time.monotonic() - start, 0.4)
        waiting = self.newest_job()
        self.assertEqual((waiting["request"]["prompt"], waiting["status"], COMFY.progress), ("a boat", "cancelled", []))
        before.cancel()

    def test_a_job_that_is_cancelled_elsewhere_is_an_error(self):
        COMFY.begin()
        COMFY.on_progress = lambda: self.server.request(
            "DELETE", f"/v1/jobs/{self.newest_job()['id']}", headers={"Authorization": f"Bearer {KEY}"})
        with self.assertRaisesRegex(drawing.NostosError, "cancelled on the nostos server"):
            draw_on(self.nostos, **ENDLESS)

    def test_refusals_have_the_inputs_name(self):
        for fields, words in (({"num_outputs": 11}, "^num_outputs: "), ({"mask_image": tensor(some_image(64, 64)[..., 0])}, "^mask_image: "),
                              ({"loras": [("kohyo", 1.0)]}, r"^loras\[0\] .*kohya"), ({"width": -64}, "^width ")):
            with self.subTest(words=words), self.assertRaisesRegex(drawing.NostosError, words):
                draw(self.nostos, **fields)

    def test_keys(self):
        for environment, refused in (({"NOSTOS_API_KEY": "wrong"}, True), ({"NOSTOS_API_KEY": ""}, True),
                                     ({"NOSTOS_API_KEY": "wrong", "NOSTOS_API_KEY_FILE": str(self.folder / "key")}, False)):
            with self.subTest(**environment), mock.patch.dict(os.environ, environment):
                nostos = node("NostosServer", url=self.url + "/")
                if refused:
                    with self.assertRaisesRegex(drawing.NostosError, "NOSTOS_API_KEY_FILE"):
                        draw(nostos)
                else:
                    self.assertEqual(draw(nostos).shape, (1, 64, 64, 3))


class Environment(unittest.TestCase):
    """What is not there, or not what it should be."""

    def test_nobody_listens(self):
        with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
            url = f"http://127.0.0.1:{server.server_port}"
        with self.assertRaisesRegex(drawing.NostosError, f"{url} is not there: .*refused"):
            draw(node("NostosServer", url=url))

    def test_a_server_that_dies(self):
        with Server("--model-path", str(MODEL)) as server:
            COMFY.begin()
            COMFY.on_progress = server.kill
            with self.assertRaisesRegex(drawing.NostosError, f"127.0.0.1:{server.port}"):
                draw_on(node("NostosServer", url=f"http://127.0.0.1:{server.port}"), **ENDLESS)

    def test_a_model_that_edits_looks_at_a_batch(self):
        images, one = [some_image(64, 96), some_image(64, 96)[::-1]], {**SMALL, "width": 0, "height": 0}
        with tempfile.TemporaryDirectory() as folder, Server("--model-path", str(EDITOR)) as server:
            files = [Path(folder) / f"{number}.png" for number in range(2)]
            for image, file in zip(images, files):
                Image.fromarray(image).save(file)
            fields = {name: SMALL[name] for name in ("prompt", "num_inference_steps", "guidance_scale", "seed")}
            by_command = generated("--image", files[0], "--image", files[1], model=EDITOR, **fields)
            drawn = draw(node("NostosServer", url=f"http://127.0.0.1:{server.port}"), image=tensor(*images), **one)[0]
        self.assertTrue((drawn == by_command).all())

    def test_urls_and_keys_that_are_none(self):
        for url in ("localhost:30000", "ftp://host", "http://", "http://host:port", "http://host/?a=b", "http://me@host"):
            with self.subTest(url=url), self.assertRaisesRegex(drawing.NostosError, "^url: "):
                node("NostosServer", url=url)
        for environment in ({"NOSTOS_API_KEY": "two\nlines"}, {"NOSTOS_API_KEY_FILE": "/nowhere/key"}):
            with mock.patch.dict(os.environ, environment), self.assertRaisesRegex(drawing.NostosError, "NOSTOS_API_KEY_FILE") as caught:
                node("NostosServer", url="")
            self.assertNotIn("two", str(caught.exception))

    def test_the_key_goes_to_its_own_server_alone(self):
        with stranger() as (url, seen):
            for own, path in (("http://127.0.0.1:1", ""), (url, "/behind/a/proxy")):
                with mock.patch.dict(os.environ, {"NOSTOS_URL": own, "NOSTOS_API_KEY": KEY}):
                    with self.assertRaisesRegex(drawing.NostosError, "status 502"):
                        draw(node("NostosServer", url=url + path))
        self.assertEqual(seen, [("/v1/jobs", None), ("/behind/a/proxy/v1/jobs", f"Bearer {KEY}")])

    def test_certificates_are_checked(self):
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = Path(folder) / "key.pem", Path(folder) / "certificate.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                            "-days", "2", "-subj", "/CN=nostos", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                           check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            with stranger(context) as (url, seen), mock.patch.dict(os.environ, {"NOSTOS_URL": url, "NOSTOS_API_KEY": KEY}):
                with self.assertRaisesRegex(drawing.NostosError, f"{url} .*certificate"):
                    draw(node("NostosServer", url=""))
                self.assertEqual(seen, [])
                with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(certificate)}), self.assertRaisesRegex(drawing.NostosError, "status 502"):
                    draw(node("NostosServer", url=""))
                self.assertEqual(seen, [("/v1/jobs", f"Bearer {KEY}")])


@contextlib.contextmanager
def stranger(context: ssl.SSLContext | None = None):
    """Gives the url of a server that is none of nostos, and the path and the key of each request that it gets."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, self.headers["Authorization"]))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(502)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # a client that goes away
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}", seen
        server.shutdown()


class InProcess(Draws, unittest.TestCase):
    """The package in this process."""

    lora = "kohya.safetensors"

    @classmethod
    def setUpClass(cls):
        if importlib.util.find_spec("nostos") is None:
            raise unittest.SkipTest("the package nostos is not installed")
        COMFY.lora_files["kohya.safetensors"] = str(LORA)
        cls.nostos = node("NostosPipeline", model_path=str(MODEL))

    def test_loras_may_be_paths(self):
        drawn = [draw(self.nostos, loras=node("NostosLora", name=name, strength=1.0)) for name in (str(LORA), self.lora)]
        self.assertTrue((drawn[0] == drawn[1]).all())

    def test_cancelling_ends_the_drawing(self):
        COMFY.begin()
        COMFY.on_progress = COMFY.interrupt
        with self.assertRaises(InterruptProcessingException):
            draw_on(self.nostos, **ENDLESS)
        self.assertEqual(draw(self.nostos).shape, (1, 64, 64, 3))  # which waits for the first to end


if __name__ == "__main__":
    run_tests()
