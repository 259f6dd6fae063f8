"""Runs the program as users do and checks files, standard output, messages and exit codes.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos cli_test.py [TestCase ...]. Exits with 77 if everything was skipped. What draws needs the
embedded model and is skipped, saying so, where it is missing. Needs Python 3.11 alone.
"""

import http.client
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
QUICK = ["--num-inference-steps", "2", "--guidance-scale", "2"]
SMALL = ["--height", "64", "--width", "64", *QUICK]
ROOT = Path(__file__).resolve().parents[2]
NO_OUTPUT = r"(^|\n)error: standard output cannot be written(: \w[\w ]+)?\n"
FULL_SIZE = ROOT / "models" / "z-image-turbo"  # configs without weights


def have_embedded_model() -> bool:
    return subprocess.run([BINARY, "inspect"], capture_output=True).returncode == 0


def png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    chunks, offset = [], 8
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks


def png_texts(path: Path) -> dict[str, str]:
    texts = {}
    for kind, body in png_chunks(path):
        if kind == b"tEXt":
            keyword, text = body.split(b"\0", 1)
            texts[keyword.decode()] = text.decode("latin-1")
        elif kind == b"iTXt":
            keyword, rest = body.split(b"\0", 1)
            compressed, text = rest[0], rest[2:].split(b"\0", 2)[2]
            texts[keyword.decode()] = (zlib.decompress(text) if compressed else text).decode()
    return texts


def png_size(path: Path) -> tuple[int, int]:
    """Returns (width, height)."""
    return struct.unpack(">II", png_chunks(path)[0][1][:8])


def png_rows(path: Path) -> list[bytes]:
    """Decodes an 8-bit RGB PNG without interlace to its rows."""
    width, height = png_size(path)
    data = zlib.decompress(b"".join(body for kind, body in png_chunks(path) if kind == b"IDAT"))
    stride, rows, above = 3 * width, [], bytearray(3 * width)
    for y in range(height):
        kind, row = data[y * (stride + 1)], bytearray(data[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left, up, corner = (row[x - 3], above[x], above[x - 3]) if x >= 3 else (0, above[x], 0)
            paeth = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
        rows.append(bytes(row))
        above = row
    return rows


class CliTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)

    def run_nostos(self, *arguments, **options):
        return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, cwd=self.dir, timeout=300, **options)

    def run_redirected(self, redirection, *arguments):
        """Runs the program as bash does with `redirection` behind it; "| false" is a pipe that nobody reads."""
        if redirection.endswith("| false"):
            stream = "stderr" if redirection.startswith("2") else "stdout"
            read_end, write_end = os.pipe()
            os.close(read_end)
            with open(write_end, "wb") as broken:
                streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: broken}
                return subprocess.run([BINARY, *map(str, arguments)], text=True, cwd=self.dir, timeout=300, **streams)
        return subprocess.run(["bash", "-c", f'exec "$0" "$@" {redirection}', BINARY, *map(str, arguments)],
                              capture_output=True, text=True, cwd=self.dir, timeout=300)

    def assert_refused(self, arguments, *fragments, code=2):
        run = self.run_nostos(*arguments)
        self.assertEqual(run.returncode, code, (arguments, run.stderr))
        self.assertEqual(run.stdout, "", arguments)
        self.assertRegex(run.stderr, r"(^|\n)error: \S", arguments)
        for fragment in fragments:
            self.assertIn(fragment, run.stderr, arguments)
        self.assertEqual([p for p in self.dir.rglob("*.png") if p.is_file()], [], arguments)

    def draw(self, *arguments, **options):
        """Draws a small picture and returns the JSON that describes it."""
        run = self.run_nostos("generate", *SMALL, *arguments, "--json", **options)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)


class ModelTest(CliTest):
    @classmethod
    def setUpClass(cls):
        if not have_embedded_model():
            raise unittest.SkipTest("the embedded model is missing (models/mini)")


class CommandLine(CliTest):
    """Everything that is refused or answered before a model is loaded."""

    def test_version_and_help(self):
        run = self.run_nostos("--version")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertRegex(run.stdout, r"^nostos \d+\.\d+\.\d+\ncommit (unknown|[0-9a-f]{12}(-dirty)?)\nfeatures \w+(, \w+)*\n$")
        for command in ([], ["generate"], ["inspect"], ["convert"], ["bench"], ["plan"], ["pull"], ["serve"]):
            with self.subTest(command=command):
                run = self.run_nostos(*command, "--help")
                self.assertEqual((run.returncode, run.stderr), (0, ""))
                self.assertIn("Usage: nostos", run.stdout)
                # What draws, and from what: no command knows less of it than another.
                if command != ["pull"]:
                    self.assertIn("a file (safetensors or GGUF" if command else "Z-Image and FLUX.2-klein", run.stdout)

    def test_command_line_errors(self):
        for arguments in ([], ["paint"], ["generate", "--bogus"], ["generate", "--prompt"], ["--bogus"], ["inspect", "x"]):
            self.assert_refused(arguments)

    def test_a_prompt_is_wanted(self):
        self.assert_refused(["generate"], "--prompt")

    def test_values_out_of_range_are_named(self):
        wrong = {
            "--height": ["0", "-16", "12.5", "tall", "", "99999999999999999999"],
            "--width": ["0", "-1"],
            "--num-inference-steps": ["0", "-3", "100000", "many"],
            "--guidance-scale": ["nan", "inf", "-1", "x"],
            "--cfg-truncation": ["0", "1.5", "nan"],
            "--cfg-normalization": ["-1", "nan"],
            "--num-outputs": ["0", "-1", "100000"],
            "--seed": ["-1", "99999999999999999999", "x"],
            "--max-sequence-length": ["0", "-1", "x"],
            "--sigmas": ["0.5,1", "2", "nan", "1,x", "0"],
            "--rng": ["dice"],
            "--precision": ["f16"],
            "--attention-precision": ["fp8", "f32"],
            "--threads": ["-1", "1.5"],
            "--device": ["tpu"],
            "--memory": ["some"],
            "--memory-limit": ["-1", "much"],
            "--log-level": ["loud"],
        }
        for flag, values in wrong.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    # A name that no cache holds: whatever is refused here is refused before a model is looked for.
                    self.assert_refused(["generate", "--prompt", "x", "--model-path", "no/model", flag, value])
                    run = self.run_nostos("generate", "--prompt", "x", "--model-path", "no/model", flag, value)
                    self.assertNotIn("nostos pull", run.stderr)

    def test_a_memory_limit_is_for_gpus(self):
        self.assert_refused(["generate", "--prompt", "x", "--device", "cpu", "--memory-limit", "12"], "--memory-limit")

    def test_cuda_is_refused_clearly(self):
        self.assert_refused(["generate", "--prompt", "x", "--device", "cuda"], "no CUDA backend")

    def test_contradictory_degrees_are_refused_with_the_arithmetic(self):
        for flags, message in (
                ("--num-gpus 8 --ulysses-degree 3 --cfg-parallel-degree 2",
                 "--num-gpus 8 is not --cfg-parallel-degree 2 x --ring-degree 1 x --ulysses-degree 3 = 6"),
                ("--num-gpus 3 --cfg-parallel-degree 2",
                 "--num-gpus 3 is no multiple of --cfg-parallel-degree 2 x --ring-degree 1 = 2"),
                ("--num-gpus 0", "--num-gpus 0 is out of range"),
                ("--num-gpus some", "'some' is no whole number"),
                ("--num-gpus auto --ulysses-degree 2", "leave out --ulysses-degree"), ("--ulysses-degree 65", "1 to 64"),
                ("--ring-degree 8 --ulysses-degree 16", "= 128 ranks are too many"),
                ("--cfg-parallel-degree 3", "1 to 2"), ("--sp-plan rows", "token or axis"), ("--exchange ring", "auto or nccl"),
                ("--comm-timeout -1", "--comm-timeout")):
            self.assert_refused(["generate", "--prompt", "x", *flags.split()], message)

    def test_guidance_halves_want_guidance(self):
        self.assert_refused(["generate", "--prompt", "x", "--cfg-parallel-degree", "2", "--guidance-scale", "0"],
                            "--cfg-parallel-degree 2")

    def test_unwritable_output_is_found_before_the_model(self):
        (self.dir / "file").write_text("")
        (self.dir / "folder.png").mkdir()
        for name in ("missing/a.png", "file/a.png"):
            for flag in ("--output", "--save-latents", "--perf-dump-path"):
                with self.subTest(flag=flag, name=name):
                    self.assert_refused(["generate", "--prompt", "x", "--model-path", "no/model", flag, name], name.split("/")[0])
        self.assert_refused(["generate", "--prompt", "x", "--model-path", "no/model", "--output", "folder.png"], "folder.png")
        self.assert_refused(["generate", "--prompt", "x", "--model-path", "no/model", "--output", "a.gif"], ".png")

    def test_a_missing_model_says_how_to_get_it(self):
        environment = {**os.environ, "HF_HUB_CACHE": str(self.dir)}
        run = self.run_nostos("generate", "--prompt", "x", "--model-path", "Tongyi-MAI/Z-Image-Turbo", env=environment)
        self.assertEqual(run.returncode, 2)
        self.assertIn("nostos pull Tongyi-MAI/Z-Image-Turbo", run.stderr)

    def test_a_missing_embedded_model_is_named(self):
        for folder in (self.dir / "nowhere", self.dir):
            run = self.run_nostos("inspect", env={**os.environ, "NOSTOS_MODELS_DIR": str(folder)})
            self.assertEqual(run.returncode, 2)
            self.assertIn(str(folder), run.stderr)

    def test_an_installed_program_finds_its_models_beside_itself(self):
        models = self.dir / "share" / "nostos" / "models"
        models.mkdir(parents=True)
        (self.dir / "bin").mkdir()
        program = shutil.copy(BINARY, self.dir / "bin")
        environment = {name: value for name, value in os.environ.items() if name != "NOSTOS_MODELS_DIR"}
        run = subprocess.run([program, "inspect"], capture_output=True, text=True, env=environment)
        self.assertEqual(run.returncode, 2)
        self.assertIn(str(models / "mini"), run.stderr)

    def test_a_picture_without_record_is_refused(self):
        (self.dir / "text.txt").write_text("no picture")
        self.assert_refused(["generate", "--from", "text.txt"], "text.txt")
        self.assert_refused(["generate", "--from", "missing.png"], "missing.png")

    def test_standard_output_that_cannot_be_written_is_an_error(self):
        for arguments in (["--version"], ["generate", "--help"], ["plan", "--model-path", FULL_SIZE],
                          ["plan", "--model-path", FULL_SIZE, "--json"]):
            for redirection in (">/dev/full", ">&-", "| false"):
                with self.subTest(arguments=arguments, redirection=redirection):
                    run = self.run_redirected(redirection, *arguments)
                    self.assertEqual(run.returncode, 1, run.stderr)
                    self.assertRegex(run.stderr, NO_OUTPUT)


class Plan(CliTest):
    """`nostos plan`, which needs a model's configs alone."""

    def plan(self, *arguments):
        run = self.run_nostos("plan", "--model-path", FULL_SIZE, *arguments, "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def test_equals_the_reference_plans(self):
        wanted = json.loads((ROOT / "tests" / "data" / "sp_plan.json").read_text())
        self.assertEqual(len(wanted), 104)
        for index, want in enumerate(wanted):
            kind = ("token", "axis")[index % 2]
            with self.subTest(width=want["width"], height=want["height"], ranks=want["ranks"], plan=kind):
                got = self.plan("--height", want["height"], "--width", want["width"], "--sp-degree", want["ranks"],
                                "--sp-plan", kind)
                self.assertEqual({name: got[name] for name in want}, want)

    def test_json_has_every_field(self):
        plan = self.plan("--height", "720", "--width", "1280", "--sp-degree", "4", "--sp-plan", "axis")
        self.assertEqual(set(plan), {"width", "height", "drawn_width", "drawn_height", "ranks", "plan", "model_path", "heads", "caption_rows", "references", "control_blocks",
                                     "head_dim", "token_height", "token_width", "tokens", "single_rank_padding_tokens", "axis",
                                     "reason", "sizes", "target_tokens", "padding_tokens", "axes", "token_ranges", "shares",
                                     "output", "version"})
        self.assertEqual((plan["heads"], plan["head_dim"], plan["output"], plan["caption_rows"], plan["references"]), (30, 128, None, 32, []))
        self.assertEqual([(cut["axis"], cut["padding_tokens"]) for cut in plan["axes"]], [("height", 240), ("width", 112)])
        self.assertEqual([share["heads"] for share in plan["shares"]], [8, 8, 7, 7])
        self.assertEqual(plan["shares"][1]["latent_bounds"], {"row": 0, "column": 40, "rows": 90, "columns": 40})
        # 900 tokens and 8 caption rows of rank 3 give 23 heads away, the others' 2740 rows get 7 back: 128 wide, 2 bytes.
        exchanged = plan["shares"][3]["bytes_per_layer"]["bf16"]
        self.assertEqual(exchanged["qkv_sent"], 3 * 908 * 23 * 128 * 2)
        self.assertEqual(exchanged["output_sent"], 2740 * 7 * 128 * 2)
        for kind in ("f32", "bf16"):
            parts = [share["bytes_per_layer"][kind] for share in plan["shares"]]
            for what in ("qkv", "output"):
                self.assertEqual(sum(p[what + "_sent"] for p in parts), sum(p[what + "_received"] for p in parts))

    def test_defaults(self):
        plan = self.plan()
        self.assertEqual((plan["ranks"], plan["plan"], plan["width"], plan["height"]), (1, "token", 1024, 1024))
        self.assertEqual([(s["rows"], s["heads"]) for s in plan["shares"]], [(4096, 30)])

    def test_other_sizes_round_up(self):
        run = self.run_nostos("plan", "--model-path", FULL_SIZE, "--height", "500", "--width", "333", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("336x512", run.stderr)
        plan = json.loads(run.stdout)
        self.assertEqual([plan[key] for key in ("width", "height", "drawn_width", "drawn_height", "token_width",
                                                "token_height")], [333, 500, 336, 512, 21, 32])

    def test_more_ranks_than_tokens_and_heads(self):
        for kind in ("token", "axis"):
            plan = self.plan("--height", "16", "--width", "16", "--sp-degree", "40", "--sp-plan", kind)
            self.assertEqual(plan["shares"][39]["rows"], 0)
            self.assertEqual(plan["shares"][39]["heads"], 0)
            self.assertEqual(sum(share["image_tokens"] for share in plan["shares"]), 1)
            self.assertEqual(sum(share["pad_tokens"] for share in plan["shares"]), 31)

    def test_text(self):
        run = self.run_nostos("plan", "--model-path", FULL_SIZE, "--height", "1344", "--width", "768", "--sp-degree", "8",
                              "--sp-plan", "axis")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertRegex(run.stdout, r"(?m)^width +512 +64  6 6 6 6 6 6 6 6  <- smallest cost$")
        self.assertRegex(run.stdout, r"(?m)^height +544 +320  11 11 11 11 10 10 10 10$")
        self.assertRegex(run.stdout, r"(?m)^   7 +3584-4095 +504 +0 +8 +0-83 +42-47 +0-167 +84-95 +27-29 ")

    def test_the_drawing(self):
        plan = self.plan("--height", "720", "--width", "720", "--sp-degree", "3", "--output", "plan.png")
        self.assertEqual(plan["output"], "plan.png")
        colours = {}
        for row in png_rows(self.dir / "plan.png"):
            for x in range(0, len(row), 3):
                colours[row[x : x + 3]] = colours.get(row[x : x + 3], 0) + 1
        # White, black and for each rank its colour and a darker shade for lines between tokens.
        self.assertEqual(len(colours), 8)
        self.assertEqual([p.name for p in self.dir.iterdir()], ["plan.png"])

    def test_refusals(self):
        wrong = {
            "--sp-degree": ["0", "-2", "513", "2.5", "", "99999999999999999999"],
            "--sp-plan": ["rows", ""],
            "--reference-images": ["-1", "100000", "two"],
            "--height": ["0", "tall", "99999999999999999999"],
            "--width": ["-16", ""],
            "--output": ["missing/a.png", "a.gif"],
            "--bogus": ["x"],
        }
        for flag, values in wrong.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    arguments = ["plan", "--model-path", "no/model", flag, value]
                    self.assert_refused(arguments, value or flag.split("-")[-1])
                    self.assertNotIn("nostos pull", self.run_nostos(*arguments).stderr)
        self.assert_refused(["plan", "--model-path", "no/model"], "nostos pull no/model")
        for size in ("8193", "9999999999"):
            self.assert_refused(["plan", "--model-path", FULL_SIZE, "--height", size], size, "at most 8192 pixels a side")
        self.assert_refused(["plan", "--model-path", self.dir], "config.json")

    def test_a_damaged_model_is_named(self):
        model = shutil.copytree(FULL_SIZE, self.dir / "model")
        config = model / "transformer" / "config.json"
        good = json.loads(config.read_text())
        for field, value in (("n_heads", 7), ("n_heads", 0), ("dim", "wide"), ("axes_lens", [512]), ("all_patch_size", [2, 4])):
            with self.subTest(field=field):
                config.write_text(json.dumps({**good, field: value}))
                self.assert_refused(["plan", "--model-path", "model"], "config.json", field)


class ConfigFile(CliTest):
    def refused(self, text, *fragments):
        (self.dir / "c.toml").write_text(text)
        self.assert_refused(["generate", "--prompt", "x", "--model-path", "no/model", "--config", "c.toml"], *fragments)

    def test_errors(self):
        self.refused("heigth = 64\n", "c.toml:1", "heigth")
        self.refused("height = \n", "c.toml:1")
        self.refused("height = 0\n", "height")
        self.refused("json = 1\n", "json")
        self.assert_refused(["generate", "--prompt", "x", "--config", "missing.toml"], "missing.toml")

    def test_flags_from_the_file_reach_the_request(self):
        # The file's model is looked for, so it was read; the command line's goes first.
        (self.dir / "c.toml").write_text('prompt = "a # b, c"\nmodel-path = "from/file"\n')
        run = self.run_nostos("generate", "--config", "c.toml")
        self.assertIn("nostos pull from/file", run.stderr)
        run = self.run_nostos("generate", "--config", "c.toml", "--model-path", "from/line")
        self.assertIn("nostos pull from/line", run.stderr)


class Drawing(ModelTest):
    def test_json_has_every_field(self):
        drawn = self.draw("--prompt", "a cat", "--output", "a.png")
        self.assertEqual(set(drawn), {"pictures", "model_path", "precision", "request", "drawn_height", "drawn_width",
                                      "prompt_truncated", "negative_prompt_truncated", "warnings", "report", "version"})
        self.assertEqual(drawn["pictures"], [{"path": "a.png", "seed": 42, "height": 64, "width": 64, "latents_path": None}])
        self.assertEqual(set(drawn["request"]), {"prompt", "negative_prompt", "height", "width", "num_inference_steps",
                                                 "guidance_scale", "cfg_normalization", "cfg_truncation", "seed", "num_outputs",
                                                 "rng", "sigmas", "latents", "max_sequence_length"})
        self.assertEqual(len(drawn["report"]["step_ms"]), 2)
        self.assertEqual(png_size(self.dir / "a.png"), (64, 64))

    def test_standard_output_is_the_path_alone(self):
        run = self.run_nostos("generate", *SMALL, "--prompt", "a cat")
        self.assertEqual((run.returncode, run.stdout), (0, "nostos.png\n"), run.stderr)
        self.assertEqual([p.name for p in self.dir.iterdir()], ["nostos.png"])

    def test_the_picture_says_how_it_was_drawn(self):
        self.draw("--prompt", "a cat", "--negative-prompt", "雨", "--output", "a.png")
        texts = png_texts(self.dir / "a.png")
        self.assertRegex(texts["parameters"], r"^a cat\nNegative prompt: 雨\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 42, "
                                              r"Size: 64x64, Model: nostos-mini, Guidance scale: 2, Version: nostos \d+\.\d+\.\d+$")
        self.assertEqual(json.loads(texts["nostos"])["negative_prompt"], "雨")

    def test_from_draws_the_same_bytes_again(self):
        self.draw("--prompt", "a cat", "--negative-prompt", "rain", "--seed", "18446744073709551615", "--cfg-truncation", "0.9",
                  "--cfg-normalization", "1.5", "--rng", "torch-cuda", "--max-sequence-length", "10", "--output", "a.png")
        run = self.run_nostos("generate", "--from", "a.png", "--output", "b.png")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((self.dir / "a.png").read_bytes(), (self.dir / "b.png").read_bytes())

    def test_from_with_other_flags(self):
        self.draw("--prompt", "a cat", "--sigmas", "1,0.6", "--output", "a.png")
        run = self.run_nostos("generate", "--from", "a.png", "--seed", "8", "--num-inference-steps", "3", "--width", "80",
                              "--output", "b.png", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        request = json.loads(run.stdout)["request"]
        self.assertEqual((request["prompt"], request["seed"], request["width"], request["height"]), ("a cat", 8, 80, 64))
        self.assertEqual((request["num_inference_steps"], request["sigmas"]), (3, []))

    def test_the_picture_names_the_folder_that_a_dot_stands_for(self):
        snapshot = self.dir / "hub" / "models--Some-Org--Z-Mini.v1" / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(ROOT / "models" / "mini")
        self.draw("--prompt", "a cat", "--model-path", snapshot, "--output", "a.png")
        self.assertIn("Model: Z-Mini.v1,", png_texts(self.dir / "a.png")["parameters"])
        run = subprocess.run([BINARY, "generate", *SMALL, "--prompt", "a cat", "--model-path", ".", "--output", self.dir / "b.png"],
                             capture_output=True, text=True, cwd=ROOT / "models" / "mini")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("Model: mini,", png_texts(self.dir / "b.png")["parameters"])

    def test_several_pictures_equal_their_single_selves(self):
        drawn = self.draw("--prompt", "a cat", "--num-outputs", "2", "--output", "many.png")
        self.assertEqual([(p["path"], p["seed"]) for p in drawn["pictures"]], [("many_0.png", 42), ("many_1.png", 43)])
        self.draw("--prompt", "a cat", "--seed", "43", "--output", "one.png")
        self.assertEqual((self.dir / "many_1.png").read_bytes(), (self.dir / "one.png").read_bytes())
        self.assertNotEqual(png_rows(self.dir / "many_0.png"), png_rows(self.dir / "many_1.png"))

    def test_gpus_chosen_by_the_program_are_told_and_change_nothing(self):
        self.assert_refused(["bench", *SMALL, "--num-gpus", "auto"], "auto is for generate")
        flags = ["--prompt", "x", *SMALL, "--device", "cpu"]
        plain = self.run_nostos("generate", *flags, "--output", "plain.png")
        chosen = self.run_nostos("generate", *flags, "--num-gpus", "auto", "--output", "chosen.png")
        self.assertEqual((plain.returncode, chosen.returncode), (0, 0), chosen.stderr)
        self.assertIn("--num-gpus auto: one rank, for without GPUs ranks share the cores", chosen.stderr)
        self.assertEqual((self.dir / "chosen.png").read_bytes(), (self.dir / "plain.png").read_bytes())

    def test_threads_do_not_change_the_picture(self):
        self.draw("--prompt", "a cat", "--threads", "1", "--output", "one.png")
        self.draw("--prompt", "a cat", "--threads", "2", "--output", "two.png")
        self.assertEqual((self.dir / "one.png").read_bytes(), (self.dir / "two.png").read_bytes())

    def test_an_empty_prompt_is_drawn(self):
        self.assertEqual(self.draw("--prompt", "")["request"]["prompt"], "")

    def test_a_huge_prompt_is_cut_with_a_warning(self):
        run = self.run_nostos("generate", *SMALL, "--prompt", "sand and sea " * 8000, "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertTrue(json.loads(run.stdout)["prompt_truncated"])
        self.assertIn("warning", run.stderr)
        short = self.draw("--prompt", "short <lora:x:1>")
        self.assertEqual((short["prompt_truncated"], short["negative_prompt_truncated"], len(short["warnings"])), (False, False, 1))
        self.assertIn("<lora:", short["warnings"][0])
        run = self.run_nostos("generate", *SMALL, "--prompt", "a", "--negative-prompt", "b " * 90, "--max-sequence-length", "20", "--json")
        self.assertEqual([json.loads(run.stdout)[key] for key in ("prompt_truncated", "negative_prompt_truncated")], [False, True])
        self.assertIn("warning: the negative prompt was cut to its first 20 tokens", run.stderr)

    def test_other_sizes_are_cropped_evenly(self):
        # 72x56 is drawn at 80x64: 4 pixels are cut on every side.
        cut = self.run_nostos("generate", *QUICK, "--prompt", "a cat", "--width", "72", "--height", "56", "--output", "cut.png",
                              "--json")
        self.assertEqual(cut.returncode, 0, cut.stderr)
        self.assertIn("80x64", cut.stderr)
        self.assertEqual([json.loads(cut.stdout)[key] for key in ("drawn_height", "drawn_width")], [64, 80])
        whole = self.run_nostos("generate", *QUICK, "--prompt", "a cat", "--width", "80", "--height", "64", "--output",
                                "whole.png")
        self.assertEqual(whole.returncode, 0, whole.stderr)
        self.assertEqual(png_size(self.dir / "cut.png"), (72, 56))
        self.assertEqual(png_rows(self.dir / "cut.png"), [row[12:-12] for row in png_rows(self.dir / "whole.png")[4:-4]])

    def test_a_size_beyond_the_model_is_refused_with_its_limit(self):
        for size in ("20000", "999999999999", "9223372036854775807"):
            self.assert_refused(["generate", "--prompt", "x", "--height", size], size, "at most 8192 pixels a side")

    def test_latents_in_and_out(self):
        self.draw("--prompt", "a cat", "--save-latents", "final.safetensors", "--output", "a.png")
        data = (self.dir / "final.safetensors").read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        self.assertEqual({name: (t["dtype"], t["shape"]) for name, t in header.items() if name != "__metadata__"},
                         {"latents": ("F32", [1, 16, 8, 8])})
        self.draw("--prompt", "a cat", "--latents", "final.safetensors", "--output", "b.png")
        self.assertNotEqual(png_rows(self.dir / "a.png"), png_rows(self.dir / "b.png"))
        for picture in self.dir.glob("*.png"):
            picture.unlink()
        self.assert_refused(["generate", *QUICK, "--prompt", "x", "--height", "128", "--width", "64", "--latents",
                             "final.safetensors"], "latents")
        self.assert_refused(["generate", *SMALL, "--prompt", "x", "--latents", "missing.safetensors"], "missing.safetensors")
        for name, dtype, values, words in (
            ("noise", "F32", bytes(4096), "no tensor 'latents'"), ("latents", "BF16", bytes(2048), "this size wants F32 [1, 16, 8, 8]"),
            ("latents", "F32", struct.pack("<f", float("nan")) * 1024, "has values that are no numbers"),
        ):
            header = json.dumps({name: {"dtype": dtype, "shape": [1, 16, 8, 8], "data_offsets": [0, len(values)]}}).encode()
            (self.dir / "bad.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
            self.assert_refused(["generate", *SMALL, "--prompt", "x", "--latents", "bad.safetensors"], "bad.safetensors", words)

    def test_a_model_without_references_takes_one_picture(self):
        asked = ["generate", *SMALL, "--prompt", "x", "--image"]
        self.assert_refused([*asked, "missing"], "missing")
        self.assert_refused([*asked, "missing", "--image", "missing"], "--image gives 2 pictures", "takes one, to begin with")
        self.assertEqual(self.run_nostos(*asked, "", "--output", "without.PNG").returncode, 0)

    def test_jpeg_and_webp(self):
        self.draw("--prompt", "a cat", "--output", "a.jpg")
        self.draw("--prompt", "a cat", "--output", "a.WEBP")
        self.assertEqual((self.dir / "a.jpg").read_bytes()[:3], b"\xff\xd8\xff")
        self.assertEqual((self.dir / "a.WEBP").read_bytes()[8:12], b"WEBP")

    def test_a_config_file_draws(self):
        (self.dir / "c.toml").write_text('prompt = "a # b, c"\nseed = 9\nsigmas = [1.0, 0.5]\n')
        run = self.run_nostos("generate", "--height", "64", "--width", "64", "--config", "c.toml", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        request = json.loads(run.stdout)["request"]
        self.assertEqual((request["prompt"], request["seed"], request["sigmas"]), ("a # b, c", 9, [1.0, 0.5]))


class Output(ModelTest):
    """Progress, reports and what happens when a disk is full."""

    def test_plain_progress_is_at_most_one_line_a_second(self):
        start = time.monotonic()
        run = self.run_nostos("generate", "--height", "64", "--width", "64", "--num-inference-steps", "40", "--prompt", "a cat")
        self.assertEqual(run.returncode, 0, run.stderr)
        lines = [line for line in run.stderr.splitlines() if line.startswith("step")]
        self.assertGreaterEqual(len(lines), 1)
        self.assertLessEqual(len(lines), time.monotonic() - start + 1)
        for line in lines:
            self.assertRegex(line, r"^step \d+/40$")
        self.assertNotIn("\x1b", run.stderr)

    def on_terminal(self, columns, *flags, **environment):
        """Draws with standard error on a terminal of `columns` columns and returns what is written there."""
        controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, columns))
        with subprocess.Popen([BINARY, "generate", *SMALL, "--prompt", "a cat", *flags], cwd=self.dir,
                              stdout=subprocess.PIPE, stderr=terminal,
                              env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}) as process:
            os.close(terminal)
            seen = b""
            while True:
                try:
                    part = os.read(controller, 4096)
                except OSError:
                    break
                if not part:
                    break
                seen += part
        os.close(controller)
        self.assertEqual(process.returncode, 0, seen)
        return seen.decode()

    def test_a_terminal_gets_a_bar(self):
        self.assertRegex(self.on_terminal(80), r"2/2 \[#{30}\] +\d+\.\d\d s/it  ETA 0:00")
        self.assertRegex(self.on_terminal(0), r"2/2 \[#{30}\] ")  # the width is unknown

    def test_a_narrow_terminal_gets_lines_that_fit(self):
        for columns in (40, 20, 8, 1):
            drawn = [part for part in re.split(r"\r\x1b\[K|\r\n", self.on_terminal(columns)) if not part.startswith("\x1b")]
            self.assertGreaterEqual(len(drawn), 4)
            for line in drawn:
                self.assertLess(len(line), columns, (columns, drawn))

    def test_colours_and_escape_sequences_are_for_terminals_that_want_them(self):
        self.assertIn("\x1b[32minfo", self.on_terminal(80))
        without = self.on_terminal(80, NO_COLOR="1")
        self.assertRegex(without, r"\r\x1b\[K  2/2 \[#+\]")
        self.assertRegex(without, r"\r\x1b\[Kinfo: drew")
        for plain in (self.on_terminal(80, TERM="dumb", COLORTERM="truecolor"), self.on_terminal(80, TERM="")):
            self.assertNotIn("\x1b", plain)
            self.assertRegex(plain, r"^step 1/2\r\n(step 2/2\r\n)?info: drew")

    def test_streams_that_cannot_be_written_lose_no_picture(self):
        self.draw("--prompt", "a cat", "--num-outputs", "2", "--output", "wanted.png")
        for redirection, code in (("2>/dev/full", 0), ("2>&-", 0), ("2| false", 0), ("<&-", 0), (">/dev/full", 1), (">&-", 1),
                                  ("| false", 1), ("<&- >&- 2>&-", 1)):
            for flags in ([], ["--json"]):
                with self.subTest(redirection=redirection, flags=flags):
                    run = self.run_redirected(redirection, "generate", *SMALL, "--prompt", "a cat", "--num-outputs", "2",
                                              "--output", "got.png", "--save-latents", "got.safetensors", *flags)
                    self.assertEqual(run.returncode, code, run.stderr)
                    if code == 0:
                        self.assertIn("got_1.png", run.stdout)
                    elif "2>" not in redirection:
                        self.assertRegex(run.stderr, NO_OUTPUT)
                    for i in range(2):
                        got = self.dir / f"got_{i}.png"
                        self.assertEqual(png_rows(got), png_rows(self.dir / f"wanted_{i}.png"))
                        got.unlink()

    def test_a_server_without_streams_serves(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen(["bash", "-c", 'exec "$0" "$@" <&- >&- 2>&-', BINARY, "serve", "--port", str(port),
                                   "--data-dir", str(self.dir / "data")])
        self.addCleanup(server.kill)

        def ask(method, path, body=None):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            self.addCleanup(connection.close)
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            return connection.getresponse().status

        def is_ready():
            try:
                return ask("GET", "/health/ready") == 200
            except OSError:
                return False

        deadline = time.monotonic() + 60
        while not is_ready():
            self.assertIsNone(server.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        order = json.dumps({"prompt": "x", "size": "64x64", "num_inference_steps": 1})
        self.assertEqual(ask("POST", "/v1/images/generations", order), 200)
        for descriptor in range(3):  # no file of the server has these numbers
            self.assertEqual(os.readlink(f"/proc/{server.pid}/fd/{descriptor}"), "/dev/null")
        server.terminate()
        self.assertEqual(server.wait(timeout=60), 0)
        self.assertEqual((self.dir / "data" / "lock").read_bytes(), b"")


    def test_quiet(self):
        run = self.run_nostos("generate", *SMALL, "--prompt", "a cat", "--log-level", "error")
        self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_two_outputs_of_one_name_are_refused(self):
        (self.dir / "link.json").symlink_to("b_1.png")
        for flags, named in ((("--output", "a.png", "--save-latents", "./a.png"), ("--output", "--save-latents", "a.png")),
                             (("--output", "b.png", "--num-outputs", "2", "--perf-dump-path", "link.json"), ("--output", "--perf-dump-path", "b_1.png"))):
            run = self.run_nostos("generate", *SMALL, "--prompt", "a cat", *flags)
            self.assertEqual(run.returncode, 2, run.stderr)
            for part in named:
                self.assertIn(part, run.stderr)
        self.assertEqual([entry.name for entry in self.dir.iterdir()], ["link.json"])
        self.draw("--prompt", "a cat", "--perf-dump-path", "/dev/null", "--save-latents", "/dev/null")

    def test_flags_that_change_nothing_are_named(self):
        flags = ("--height", "32", "--width", "32", "--num-inference-steps", "1", "--prompt", "a cat", "--negative-prompt", "rain", "--cfg-normalization", "1")
        run = self.run_nostos("generate", *flags, "--guidance-scale", "0")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("--negative-prompt changes nothing", run.stderr)
        self.assertIn("--cfg-normalization changes nothing", run.stderr)
        run = self.run_nostos("generate", *flags, "--guidance-scale", "2")
        self.assertNotIn("changes nothing", run.stderr)

    def test_perf_dump(self):
        drawn = self.draw("--prompt", "a cat", "--perf-dump-path", "perf.json")
        dump = json.loads((self.dir / "perf.json").read_text())
        self.assertEqual(dump, drawn["report"])
        self.assertEqual(set(dump), {"start_ms", "stages", "steps", "step_ms", "total_ms", "weight_bytes", "adapter_bytes",
                                     "arena_bytes", "peak_host_bytes", "transformer_flop_per_step", "world_size", "ranks"})
        self.assertEqual(dump["world_size"], 1)
        self.assertEqual([set(rank) for rank in dump["ranks"]], [{"rank", "image_tokens", "heads", "bytes_sent"}])
        self.assertEqual(dump["steps"], 2)
        self.assertGreater(dump["weight_bytes"], 1e6)
        self.assertGreaterEqual(dump["total_ms"], sum(dump["step_ms"]))

    def test_a_full_disk_leaves_nothing(self):
        (self.dir / "full.png").symlink_to("/dev/full")
        run = self.run_nostos("generate", *SMALL, "--prompt", "a cat", "--output", "full.png")
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("space", run.stderr)

        def limit_file_size():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        run = self.run_nostos("generate", *SMALL, "--prompt", "a cat", "--output", "a.png", preexec_fn=limit_file_size,
                              restore_signals=False)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("a.png", run.stderr)
        self.assertEqual([p.name for p in self.dir.iterdir()], ["full.png"])


class Interrupts(ModelTest):
    def interrupted_with(self, first):
        process = subprocess.Popen([BINARY, "generate", "--prompt", "a cat", "--height", "256", "--width", "256",
                                    "--num-inference-steps", "1000", "--output", "a.png", "--save-latents", "a.safetensors"],
                                   cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        for line in process.stderr:
            if line.startswith("step"):
                break
        process.send_signal(first)
        return process

    def test_the_first_signal_stops_cleanly(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number):
                process = self.interrupted_with(number)
                self.assertEqual(process.wait(timeout=60), 130)
                self.assertEqual(process.stdout.read(), "")
                self.assertEqual(list(self.dir.iterdir()), [])


class Tools(ModelTest):
    def test_inspect(self):
        run = self.run_nostos("inspect", "--json")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        model = json.loads(run.stdout)
        self.assertEqual(set(model), {"path", "class", "parameters", "bytes", "parts", "generation_config"})
        parts = {part["name"]: part for part in model["parts"]}
        self.assertEqual(set(parts), {"scheduler", "text_encoder", "tokenizer", "transformer", "vae"})
        for part in parts.values():
            self.assertEqual(set(part), {"name", "class", "tensors", "parameters", "dtypes", "formats", "bytes", "config"})
        self.assertEqual(parts["transformer"]["class"], "ZImageTransformer2DModel")
        self.assertEqual(parts["transformer"]["config"]["_class_name"], "ZImageTransformer2DModel")
        self.assertEqual(sum(parts["vae"]["dtypes"].values()), parts["vae"]["tensors"])
        self.assertEqual(model["parameters"], sum(part["parameters"] for part in parts.values()))
        text = self.run_nostos("inspect")
        self.assertEqual(text.returncode, 0)
        self.assertIn(f"{parts['transformer']['parameters']}", text.stdout)

    def test_inspect_refuses_a_damaged_model(self):
        run = self.run_nostos("inspect", "--model-path", self.dir)
        self.assertEqual(run.returncode, 2)
        self.assertIn("model_index.json", run.stderr)

    def test_reports_to_streams_that_cannot_be_written(self):
        for command in (["inspect"], ["inspect", "--json"], ["bench", *SMALL, "--warmup", "0"]):
            for redirection, code in (("2>/dev/full", 0), ("2>&-", 0), ("2| false", 0), (">/dev/full", 1), (">&-", 1),
                                      ("| false", 1)):
                with self.subTest(command=command, redirection=redirection):
                    run = self.run_redirected(redirection, *command)
                    self.assertEqual(run.returncode, code, run.stderr)
                    if code == 1:
                        self.assertRegex(run.stderr, NO_OUTPUT)

    def test_bench(self):
        run = self.run_nostos("bench", *SMALL, "--device", "cpu", "--repeat", "2", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        result = json.loads(run.stdout)
        self.assertEqual(set(result), {"model_path", "precision", "height", "width", "references", "strength", "controlnet",
                                       "num_inference_steps", "guidance_scale",
                                       "num_outputs", "warmup", "repeat", "pause_s", "stages", "step_median_ms", "step_ms", "total_median_ms", "total_ms",
                                       "first_run_ms",
                                       "transformer_flop_per_step", "transformer_gflops", "matmul_gflops", "matmul_share",
                                       "transformer_rows", "world_size", "weight_bytes", "streamed_bytes", "adapter_bytes",
                                       "arena_bytes", "peak_host_bytes",
                                       "picture_digest", "version"})
        self.assertEqual((len(result["step_ms"]), len(result["total_ms"])), (4, 2))
        self.assertGreater(result["transformer_gflops"], 0)
        self.assertGreater(result["matmul_gflops"], 0)
        two = self.run_nostos("bench", *SMALL, "--device", "cpu", "--num-gpus", "2", "--json")
        self.assertEqual(json.loads(two.stdout)["picture_digest"], result["picture_digest"])
        other = self.run_nostos("bench", *SMALL, "--device", "cpu", "--prompt", "A cat", "--json")
        self.assertNotEqual(json.loads(other.stdout)["picture_digest"], result["picture_digest"])
        begun = json.loads(self.run_nostos("bench", *SMALL, "--device", "cpu", "--strength", "0.5", "--json").stdout)
        self.assertEqual((begun["strength"], result["strength"], len(begun["step_ms"])), (0.5, None, 1))
        self.assertIn("vae_encode", [stage["name"] for stage in begun["stages"]])
        self.assertNotEqual(begun["picture_digest"], result["picture_digest"])
        start = time.monotonic()
        rested = self.run_nostos("bench", *SMALL, "--device", "cpu", "--warmup", "0", "--repeat", "2", "--pause", "1", "--json")
        self.assertGreater(time.monotonic() - start, 2)
        self.assertEqual(json.loads(rested.stdout)["first_run_ms"], json.loads(rested.stdout)["total_ms"][0])
        self.assertLess(json.loads(rested.stdout)["total_median_ms"], 1000)
        text = self.run_nostos("bench", *SMALL, "--warmup", "0", "--num-outputs", "2")
        self.assertEqual(text.returncode, 0)
        self.assertTrue(text.stdout.startswith("2 pictures of "), text.stdout)
        self.assertRegex(text.stdout, r"transformer \d+\.\d+ TFLOP/s, \d+\.\d+ %")


if __name__ == "__main__":
    run_tests()
