"""Tests the Python package: built over an installed library, or as the wheels that scripts/build_wheels.sh made.

Usage: python_test.py Package       builds nostos._core over the library of NOSTOS_BUILD; needs nanobind, numpy and pillow
       python_test.py Wheels        installs each wheel of build/wheels into an environment and runs Package there
       python_test.py --installed   tests the package that Python finds
With NOSTOS_BUILD and NOSTOS_BINARY set as ctest does.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77
ASKED = {"width": 256, "height": 256, "seed": 7, "num_inference_steps": 2}


def run(*command, **options) -> str:
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def build_package(folder: Path) -> None:
    """Puts a package into `folder` that is linked with an installed library there."""
    for component in ("library", "development"):
        run("cmake", "--install", os.environ["NOSTOS_BUILD"], "--prefix", folder / "prefix", "--component", component)
    run("cmake", "-S", ROOT / "python", "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}",
        f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--build", folder / "build")
    shutil.copytree(ROOT / "python/nostos", folder / "nostos", ignore=shutil.ignore_patterns("__pycache__"))
    for made in (folder / "build/nostos").iterdir():
        shutil.copy(made, folder / "nostos")


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import numpy
        import nostos

        cls.np, cls.nostos = numpy, nostos
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.pipeline = nostos.Pipeline()

    def test_it_writes_the_bytes_of_the_command(self):
        by_command = self.folder / "command.png"
        run(os.environ["NOSTOS_BINARY"], "generate", "--prompt", "A lion on a beach", "--width", "256", "--height", "256",
            "--seed", "7", "--num-inference-steps", "2", "--output", by_command, env={**os.environ, "NOSTOS_MODELS_DIR": str(ROOT / "models")})
        image = self.pipeline.generate("A lion on a beach", **ASKED)[0]
        image.save(self.folder / "package.png")
        self.assertEqual((self.folder / "package.png").read_bytes(), by_command.read_bytes())
        self.assertEqual(image.encode(), by_command.read_bytes())

    def test_images_are_arrays_and_pillows(self):
        result = self.pipeline.generate("A lion", num_outputs=2, **ASKED)
        self.assertEqual([image.seed for image in result], [7, 8])
        self.assertEqual([len(result), len(result[:1]), result[-1].seed], [2, 1, 8])
        with self.assertRaises(IndexError):
            result[2]
        array = result[0].array
        self.assertEqual((array.shape, array.dtype), ((256, 256, 3), self.np.uint8))
        self.assertFalse(array.flags.writeable)
        self.assertTrue((self.np.asarray(result[0].pillow()) == array).all())
        self.assertTrue((self.np.asarray(result[0]) == array).all())
        self.assertEqual(result[1].latents.dtype, self.np.float32)
        del result
        self.assertGreater(int(array.max()), int(array.min()))  # the array keeps the result
        self.assertEqual(self.pipeline.info["version"], self.nostos.__version__)

    def test_images_go_in_in_every_form(self):
        image = self.pipeline.generate("A lion", **ASKED)[0]
        image.save(self.folder / "in.png")
        forms = (image.array, image.pillow(), self.folder / "in.png", str(self.folder / "in.png"), [image.array])
        drawn = [self.pipeline.generate("A lion", image=form, strength=0.5)[0].array.tobytes() for form in forms]
        self.assertEqual(len(set(drawn)), 1)
        grey = self.np.zeros((256, 256), self.np.uint8)
        for wrong in (grey, grey.astype(float), self.np.zeros((4, 4, 4), self.np.uint8)):
            with self.assertRaisesRegex(self.nostos.InvalidInputError, "height, width, 3"):
                self.pipeline.generate("A lion", image=wrong)
        turned = image.array[:, ::-1]  # not in one piece
        self.assertEqual(len(self.pipeline.generate("A lion", image=turned, strength=0.5)), 1)

    def test_callbacks_are_called(self):
        stages, steps, previews, lines = [], [], [], []
        with self.nostos.Pipeline(on_log=lambda *line: lines.append(line), log_level="debug") as pipeline:
            pipeline.generate("A lion <lora:x:1>", **ASKED, on_stage=stages.append, on_step=lambda *step: steps.append(step),
                              on_preview=lambda *preview: previews.append(preview))
        self.assertEqual([step[:2] for step in steps], [(1, 2), (2, 2)])
        self.assertIn("denoise", stages)
        self.assertEqual([preview[:2] for preview in previews], [(0, 1)])
        self.assertEqual(previews[0][2].shape[2], 3)
        self.assertIn("warning", {level for level, _ in lines})
        with self.assertRaisesRegex(self.nostos.InvalidInputError, "closed"):
            pipeline.generate("A lion")

    def test_what_a_callback_raises_comes_out(self):
        def fail(*_):
            raise LookupError("enough")

        for name in ("on_step", "on_stage", "on_preview"):
            with self.assertRaisesRegex(LookupError, "enough"):
                self.pipeline.generate("A lion", **ASKED, **{name: fail})
        with self.assertRaises(KeyboardInterrupt):
            self.pipeline.generate("A lion", **ASKED, on_step=lambda *_: os.kill(os.getpid(), 2))

    def test_other_threads_run_and_cancel(self):
        cancel, ticks = self.nostos.Cancel(), []
        ended = threading.Event()

        def tick():
            while not ended.is_set():
                ticks.append(1)
                if len(ticks) == 5:
                    cancel.set()
                time.sleep(0.02)

        thread = threading.Thread(target=tick)
        thread.start()
        with self.assertRaises(self.nostos.Cancelled):
            self.pipeline.generate("A long story", num_inference_steps=1000, cancel=cancel)
        ended.set()
        thread.join()
        self.assertGreaterEqual(len(ticks), 5)
        self.assertTrue(cancel.is_set())

    def test_threads_draw_with_one_pipeline(self):
        drawn: dict[int, bytes] = {}

        def draw(place):
            drawn[place] = self.pipeline.generate("A lion", **ASKED)[0].array.tobytes()

        threads = [threading.Thread(target=draw, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(drawn), len(set(drawn.values()))), (3, 1))

    def test_errors_are_exceptions(self):
        nostos = self.nostos
        with self.assertRaisesRegex(nostos.InvalidInputError, "width") as caught:
            self.pipeline.generate("A lion", width=-1)
        self.assertIsInstance(caught.exception, ValueError)
        self.assertEqual(caught.exception.status, 1)
        with self.assertRaisesRegex(nostos.ModelError, "nowhere"):
            nostos.Pipeline("/nowhere")
        with self.assertRaises(nostos.InvalidInputError):
            nostos.Pipeline(precision="f8")
        with self.assertRaises(nostos.InvalidInputError):
            nostos.Pipeline(log_level="loud")
        with self.assertRaises(TypeError):
            self.pipeline.generate("A lion", widht=1)
        with self.assertRaises(TypeError):
            self.pipeline.generate("A lion", seed=-1)
        with self.assertRaises(nostos.Error):
            self.pipeline.generate("A lion", loras=[("/nowhere.safetensors", 0.5)])

    def test_the_stubs_name_what_there_is(self):
        package = Path(self.nostos.__file__).parent
        self.assertTrue((package / "py.typed").exists())
        stub = (package / "_core.pyi").read_text()
        for name in ("Options", "Request", "Result", "Pipeline", "Cancel"):
            self.assertRegex(stub, rf"class {name}\b")

    def test_the_tutorial_runs(self):
        out = run(sys.executable, ROOT / "examples/python/tutorial.py", self.folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        self.assertIn("The drawing was cancelled", out)
        for name in ("lion.png", "lion_rotated.png", "night.jpg", "half.webp"):
            self.assertGreater((self.folder / name).stat().st_size, 0)

    def test_comfyui_draws_with_it(self):
        test = ROOT / "tests/integrations/comfyui_test.py"
        run(sys.executable, test, "InProcess", env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_wheels() -> int:
    wheels = sorted((ROOT / "build/wheels").glob("nostos-*manylinux*.whl"))
    if not wheels:
        print("Skipped: no wheels in build/wheels; scripts/build_wheels.sh makes them")
        return SKIPPED
    for wheel in wheels:
        version = re.search(r"-cp3(\d+)-", wheel.name).group(1)
        python = shutil.which(f"python3.{version}") or next(iter(sorted(Path.home().glob(f".pyenv/versions/3.{version}.*/bin/python"))), None)
        if python is None:
            print(f"Skipped: {wheel.name}, for which there is no Python")
            continue
        with tempfile.TemporaryDirectory() as folder:
            run(python, "-m", "venv", folder)
            run(f"{folder}/bin/pip", "install", "-q", f"{wheel}[pillow]")
            environment = {name: value for name, value in os.environ.items() if name not in ("NOSTOS_MODELS_DIR", "PYTHONPATH")}
            run(f"{folder}/bin/python", __file__, "--installed", env=environment, cwd=folder)
            print(f"{wheel.name}: passed")
    return 0


def main() -> int:
    if sys.argv[1:] == ["Wheels"]:
        return test_wheels()
    if sys.argv[1:] == ["--installed"]:
        return 0 if unittest.main(argv=[sys.argv[0]], exit=False).result.wasSuccessful() else 1
    missing = [name for name in ("nanobind", "numpy", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Skipped: {sys.executable} has no {', '.join(missing)}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        build_package(Path(folder))
        sys.path.insert(0, folder)
        os.environ["NOSTOS_MODELS_DIR"] = str(ROOT / "models")
        return 0 if unittest.main(argv=[sys.argv[0]], exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
