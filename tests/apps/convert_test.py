"""Runs `nostos convert` and `nostos inspect` with files of weights, adapters and folders.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos convert_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "models" / "mini"
ZIMAGE = ROOT / "tests" / "data" / "tiny" / "varied"
KLEIN = ROOT / "tests" / "data" / "klein_tiny" / "base"
ADAPTERS = ROOT / "tests" / "data" / "adapters"
PARTS = ("transformer", "text_encoder", "vae")


def read_tensors(path: Path) -> tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]]:
    """Returns {name: (dtype, shape, bytes)} and the texts of a file, or of a folder's files together."""
    if path.is_dir():
        tensors = {}
        for file in sorted(path.glob("*.safetensors")):
            tensors.update(read_tensors(file)[0])
        return tensors, {}
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    texts = header.pop("__metadata__", {})
    return {name: (entry["dtype"], entry["shape"], data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in header.items()}, texts


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], texts: dict[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    header, end = {"__metadata__": texts} if texts else {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def floats(tensor: tuple[str, list[int], bytes]) -> list[float]:
    dtype, _, data = tensor
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    return list(struct.unpack(f"<{len(data) // {'F32': 4, 'F16': 2}[dtype]}{ {'F32': 'f', 'F16': 'e'}[dtype]}", data))


def widened(tensors: dict) -> dict:
    """Returns the tensors as float32, which has all numbers of the shorter types; counts stay."""
    return {name: tensor if tensor[0] in ("F32", "I64") else ("F32", tensor[1], struct.pack(f"<{len(floats(tensor))}f", *floats(tensor)))
            for name, tensor in tensors.items()}


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def e4m3(code: int) -> float:
    """Returns the number of an 8-bit code, as the OCP specification has it."""
    exponent, mantissa = code >> 3 & 15, code & 7
    value = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0**(exponent - 7)
    return -value if code & 128 else value


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def run_nostos(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=120)

    def done(self, *arguments) -> subprocess.CompletedProcess:
        run = self.run_nostos(*arguments)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run

    def refused(self, *arguments) -> str:
        run = self.run_nostos(*arguments)
        self.assertEqual(run.returncode, 2, run.stderr)
        return run.stderr

    def inspected(self, *arguments) -> dict:
        """Returns what --json says of the only file."""
        return json.loads(self.done("inspect", "--json", *arguments).stdout)["files"][0]

    def assert_same_tensors(self, made: dict, source: dict) -> None:
        # assertEqual would take minutes to show how they differ.
        self.assertEqual(sorted(made), sorted(source))
        self.assertEqual([name for name in source if made[name] != source[name]], [])

    def assert_same_model(self, made: Path, source: Path, is_f32: bool = False) -> None:
        """Compares two folders: every tensor's bytes, every config, the tokenizer."""
        for part in PARTS:
            wanted = read_tensors(source / part)[0]
            self.assert_same_tensors(read_tensors(made / part)[0], widened(wanted) if is_f32 else wanted)
            found = json.loads((made / part / "config.json").read_text())
            wanted = json.loads((source / part / "config.json").read_text())
            self.assertEqual({**found, "dtype": None}, {**wanted, "dtype": None})
        for file in ("model_index.json", "scheduler/scheduler_config.json"):
            self.assertEqual(json.loads((made / file).read_text()), json.loads((source / file).read_text()))
        for file in (source / "tokenizer").iterdir():
            self.assertEqual((made / "tokenizer" / file.name).read_bytes(), file.read_bytes())


class Convert(Case):
    def test_a_folder_becomes_one_file_and_a_folder_again_bit_for_bit(self):
        for source, dtype in ((MINI, "bf16"), (ZIMAGE, "f32"), (KLEIN, "f32")):
            with self.subTest(source=source.name):
                one, folder = self.dir / f"{source.name}.safetensors", self.dir / source.name
                run = self.done("convert", "--model-path", source, "--output", one, "--dtype", dtype)
                self.assertEqual(run.stdout, f"{one}\n")
                self.assertIn("MB in", run.stderr)
                self.done("convert", "--model-path", one, "--tokenizer", source / "tokenizer", "--output", folder, "--dtype", dtype)
                made = json.loads((folder / "model_index.json").read_text())
                wanted = json.loads((source / "model_index.json").read_text())
                # What a single file does not say: of which version it is, and a class of the tokenizer of the same files.
                wanted.pop("_diffusers_version", None)
                made["tokenizer"] = wanted["tokenizer"]
                if "Klein" in wanted["_class_name"]:
                    wanted.setdefault("is_distilled", False)
                self.assertEqual(made, wanted)
                shutil.copy(source / "model_index.json", folder)
                self.assert_same_model(folder, source, dtype == "f32")

    def test_a_folder_becomes_a_folder(self):
        self.done("convert", "--model-path", MINI, "--output", "made")
        self.assert_same_model(self.dir / "made", MINI)
        self.assertEqual((self.dir / "made/generation_config.json").read_bytes(), (MINI / "generation_config.json").read_bytes())

    def test_a_single_file_has_the_names_that_other_programs_read(self):
        self.done("convert", "--model-path", ZIMAGE, "--output", "all.safetensors", "--dtype", "f32")
        tensors, texts = read_tensors(self.dir / "all.safetensors")
        source = widened(read_tensors(ZIMAGE / "transformer")[0])
        for layer in ("layers.0", "noise_refiner.0"):
            fused = b"".join(source[f"{layer}.attention.to_{x}.weight"][2] for x in "qkv")
            self.assertEqual(tensors[f"model.diffusion_model.{layer}.attention.qkv.weight"][2], fused)
        self.assertIn("text_encoders.qwen3_4b.transformer.model.layers.0.self_attn.q_proj.weight", tensors)
        self.assertEqual(len(tensors["vae.decoder.mid.attn_1.q.weight"][1]), 4)
        self.assertEqual(json.loads(texts["config.vae"]), json.loads((ZIMAGE / "vae/config.json").read_text()))
        self.done("convert", "--model-path", KLEIN, "--output", "one.safetensors", "--dtype", "f32", "--parts", "transformer")
        tensors, texts = read_tensors(self.dir / "one.safetensors")
        scale_shift = widened(read_tensors(KLEIN / "transformer")[0])["norm_out.linear.weight"][2]
        half = len(scale_shift) // 2
        self.assertEqual(tensors["final_layer.adaLN_modulation.1.weight"][2], scale_shift[half:] + scale_shift[:half])
        self.assertEqual(texts["is_distilled"], "false")

    def test_what_is_converted_draws_the_same(self):
        self.done("convert", "--model-path", MINI, "--output", "all.safetensors")
        draw = ["generate", "--prompt", "a cat", "--height", "64", "--width", "64", "--num-inference-steps", "2", "--seed", "1"]
        for model, latents in (([MINI], "a"), (["all.safetensors", "--tokenizer", MINI / "tokenizer"], "b")):
            self.done(*draw, "--model-path", *model, "--save-latents", latents, "--output", "x.png")
        self.assertEqual((self.dir / "a").read_bytes(), (self.dir / "b").read_bytes())

    def test_quantised_numbers_become_what_they_stand_for(self):
        source = widened(read_tensors(ZIMAGE / "transformer")[0])
        name = "layers.0.feed_forward.w1.weight"
        _, shape, data = source[name]
        codes = bytes(i * 37 % 127 for i in range(len(data) // 4))
        config = (ZIMAGE / "transformer/config.json").read_text()
        write_tensors(self.dir / "f8.safetensors",
                      {**source, name: ("F8_E4M3", shape, codes), name + "_scale": ("F32", [], struct.pack("<f", 0.1))},
                      {"config.transformer": config})
        file = self.inspected("f8.safetensors")
        self.assertEqual(file["parts"][0]["config_from"], "in the file")
        stored = {tensor["name"]: tensor for tensor in file["tensors"]}
        self.assertEqual(stored[name]["format"], "F8_E4M3, one scale")
        self.assertEqual(stored[name + "_scale"]["role"], "scale")
        self.done("convert", "--transformer", "f8.safetensors", "--output", "made", "--dtype", "f32")
        made = read_tensors(self.dir / "made/transformer")[0]
        scale = float32(0.1)
        self.assertEqual(floats(made[name]), [float32(e4m3(code) * scale) for code in codes])
        self.assert_same_tensors({**made, name: None}, {**source, name: None})

    def test_what_no_file_says_is_what_the_family_says(self):
        klein = (KLEIN, {"_class_name": "Flux2KleinPipeline"}, {"shift": 3, "use_dynamic_shifting": True})
        zimage = (ZIMAGE, {"_class_name": "ZImagePipeline"}, {"shift": 3, "use_dynamic_shifting": False})
        for source, index, scheduler in (klein, zimage):
            config = (source / "transformer/config.json").read_text()
            file = self.dir / f"{source.name}.safetensors"
            write_tensors(file, read_tensors(source / "transformer")[0], {"config.transformer": config})
            for flags in ([], ["--base-model"]):
                made = self.dir / f"{source.name}{len(flags)}"
                self.done("convert", "--transformer", file, *flags, "--output", made)
                is_zimage_base = bool(flags) and source == ZIMAGE
                if source == KLEIN:
                    index["is_distilled"] = not flags
                self.assertLessEqual(index.items(), json.loads((made / "model_index.json").read_text()).items())
                wanted = {**scheduler, "shift": 6} if is_zimage_base else scheduler
                self.assertLessEqual(wanted.items(), json.loads((made / "scheduler/scheduler_config.json").read_text()).items())
                defaults = made / "generation_config.json"
                self.assertEqual(defaults.exists(), is_zimage_base)
                if is_zimage_base:
                    self.assertEqual(json.loads(defaults.read_text()), {"num_inference_steps": 50, "guidance_scale": 4})

    def test_rounding_is_to_the_nearest_even(self):
        config = (ZIMAGE / "transformer/config.json").read_text()
        source = widened(read_tensors(ZIMAGE / "transformer")[0])
        name = "layers.0.attention_norm1.weight"
        numbers = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 3 * 2**-25, 65519.0, -0.0]
        dtype, shape, data = source[name]
        source[name] = (dtype, shape, struct.pack("<8f", *numbers) + data[32:])
        write_tensors(self.dir / "x.safetensors", source, {"config.transformer": config})
        wanted = {"bf16": [1.0, 1 + 2**-6, 1.0, 1.0, 2**-25, 3 * 2**-25, 65536.0, -0.0],
                  "f16": [1 + 2**-8, 1 + 3 * 2**-8, 1.0, 1 + 2**-9, 0.0, 2**-23, 65504.0, -0.0]}
        for dtype, rounded in wanted.items():
            self.done("convert", "--transformer", "x.safetensors", "--output", dtype, "--dtype", dtype)
            self.assertEqual(floats(read_tensors(self.dir / dtype / "transformer")[0][name])[:8], rounded)
        source[name] = (*source[name][:2], struct.pack("<f", 65520.0) + source[name][2][4:])
        write_tensors(self.dir / "x.safetensors", source, {"config.transformer": config})
        for output in ("large", "large.safetensors"):
            self.assertIn(f"1 numbers are beyond the 65504 that f16 holds, the first of them in '{name}'",
                          self.refused("convert", "--transformer", "x.safetensors", "--output", output, "--dtype", "f16"))
        self.assertEqual(sorted(path.name for path in self.dir.iterdir()), ["bf16", "f16", "x.safetensors"])

    def test_numbers_that_are_not_finite_are_refused_by_name(self):
        config = (ZIMAGE / "transformer/config.json").read_text()
        source = read_tensors(ZIMAGE / "transformer")[0]
        name, fused = "layers.1.attention_norm1.weight", "layers.0.attention.to_k.weight"
        refused = {("F32", 4, struct.pack("<f", float("nan"))), ("F32", 4, struct.pack("<f", float("-inf"))),
                   ("F16", 2, struct.pack("<e", float("inf"))), ("BF16", 2, b"\xc0\x7f")}
        for dtype, size, number in refused:
            count = len(floats(source[name]))
            data = {"F32": b"\0\0\0\0", "F16": b"\0\0", "BF16": b"\0\0"}[dtype] * (count - 1) + number
            write_tensors(self.dir / "x.safetensors", {**source, name: (dtype, source[name][1], data)}, {"config.transformer": config})
            for output in ("bf16", "f16", "f32"):
                error = self.refused("convert", "--transformer", "x.safetensors", "--output", "made", "--dtype", output)
                self.assertIn(f"x.safetensors: tensor '{name}' would have 1 numbers that are NaN or infinite", error)
        source = widened(source)
        dtype, shape, data = source[fused]
        write_tensors(self.dir / "x.safetensors", {**source, fused: (dtype, shape, data[:-4] + struct.pack("<f", float("nan")))},
                      {"config.transformer": config})
        error = self.refused("convert", "--transformer", "x.safetensors", "--output", "one.safetensors")
        self.assertIn(f"'layers.0.attention.qkv.weight', made of {fused}, would have 1 numbers", error)
        # The largest number of float32 is infinite in the others.
        write_tensors(self.dir / "x.safetensors", {**source, fused: (dtype, shape, data[:-4] + struct.pack("<I", 0x7f7fffff))},
                      {"config.transformer": config})
        error = self.refused("convert", "--transformer", "x.safetensors", "--output", "made")
        self.assertIn(f"1 numbers are beyond the 3.39e38 that bf16 holds, the first of them in '{fused}': use --dtype f32", error)
        self.assertEqual([path.name for path in self.dir.iterdir()], ["x.safetensors"])
        self.done("convert", "--transformer", "x.safetensors", "--output", "made", "--dtype", "f32")

    def test_adapters_are_merged(self):
        lora = ADAPTERS / "zimage" / "kohya.safetensors"
        run = self.done("convert", "--model-path", ZIMAGE, "--lora", f"{lora}:0.5", "--output", "made", "--dtype", "f32")
        self.assertIn("9 modules (9 LoRA) change 9 weights", run.stderr)
        made, source = (widened(read_tensors(folder / "transformer")[0]) for folder in (self.dir / "made", ZIMAGE))
        factors = read_tensors(lora)[0]
        module = "lora_unet_all_x_embedder_2-1"
        up, down = factors[module + ".lora_up.weight"], factors[module + ".lora_down.weight"]
        rank, columns = down[1]
        scale = 0.5 * floats(factors[module + ".alpha"])[0] / rank
        name = "all_x_embedder.2-1.weight"
        up, down, base = floats(up), floats(down), floats(source[name])
        merged = [base[i * columns + j] + scale * sum(up[i * rank + k] * down[k * columns + j] for k in range(rank))
                  for i in range(len(base) // columns) for j in range(columns)]
        for found, wanted in zip(floats(made[name]), merged, strict=True):
            # One rounding; the sums' own, in float64, are far smaller.
            self.assertLessEqual(abs(found - wanted), 2.0**-24 * (1 + 1e-6) * abs(wanted))
        changed = {name for name in source if made[name] != source[name]}
        self.assertEqual(len(changed), 9)
        self.done("convert", "--model-path", ZIMAGE, "--lora", f"{lora}:0.5", "--output", "one.safetensors", "--dtype", "f32",
                  "--parts", "transformer")
        self.done("convert", "--transformer", "one.safetensors", "--output", "again", "--dtype", "f32")
        self.assert_same_tensors(read_tensors(self.dir / "again/transformer")[0], made)

    def test_outputs_that_are_there_stay(self):
        parts = ["convert", "--model-path", ZIMAGE, "--parts", "vae", "--output"]
        self.done(*parts, "a.safetensors")
        before = (self.dir / "a.safetensors").read_bytes()
        self.assertIn("--overwrite", self.refused(*parts, "a.safetensors", "--dtype", "f32"))
        self.assertEqual((self.dir / "a.safetensors").read_bytes(), before)
        self.done(*parts, "a.safetensors", "--dtype", "f32", "--overwrite")
        self.assertNotEqual((self.dir / "a.safetensors").read_bytes(), before)
        (self.dir / "empty").mkdir()
        self.done(*parts, "empty")
        self.assertIn("--overwrite", self.refused(*parts, "empty"))
        self.done(*parts, "empty", "--overwrite")
        (self.dir / "empty" / "letters").mkdir()
        self.assertIn("'letters', which is no part of a model", self.refused(*parts, "empty", "--overwrite"))
        self.assertTrue((self.dir / "empty" / "letters").is_dir())
        self.assertIn("cannot write", self.refused(*parts, "a.safetensors/b"))
        self.done(*parts, "slash/")
        self.assertTrue((self.dir / "slash" / "vae").is_dir())
        shutil.rmtree(self.dir / "slash")
        self.assertEqual(sorted(path.name for path in self.dir.iterdir()), ["a.safetensors", "empty"])

    def test_the_ending_says_what_is_written(self):
        parts = ["convert", "--model-path", ZIMAGE, "--parts", "vae", "--output"]
        for name in ("x.gguf", "x.GGUF", "x.sft", "x.pt", "x.pth", "x.bin", "x.ckpt", "x.gguf/", "x.safetensors/"):
            self.assertIn(f"cannot write '{name}': nostos writes", self.refused(*parts, name))
        self.assertEqual(list(self.dir.iterdir()), [])
        self.done(*parts, "X.SafeTensors")
        self.assertTrue((self.dir / "X.SafeTensors").is_file())
        self.done(*parts, "z-image-v1.5")
        self.assertTrue((self.dir / "z-image-v1.5").is_dir())

    def test_what_cannot_be_converted_is_named(self):
        self.assertIn("'head' is no part", self.refused("convert", "--model-path", ZIMAGE, "--parts", "head", "--output", "x"))
        self.assertIn("unknown; use bf16", self.refused("convert", "--model-path", ZIMAGE, "--dtype", "f8", "--output", "x"))
        self.done("convert", "--model-path", ZIMAGE, "--parts", "text_encoder", "--output", "te.safetensors")
        error = self.refused("convert", "--text-encoder", "te.safetensors", "--parts", "vae", "--output", "x")
        self.assertIn("have no part 'vae'", error)
        lora = ADAPTERS / "flux2" / "bfl.safetensors"
        self.assertIn("bfl.safetensors", self.refused("convert", "--model-path", ZIMAGE, "--lora", lora, "--output", "x"))
        self.assertEqual([path.name for path in self.dir.iterdir()], ["te.safetensors"])


class Inspect(Case):
    def test_what_a_file_is(self):
        self.done("convert", "--model-path", ZIMAGE, "--output", "all.safetensors")
        file = self.inspected("all.safetensors")
        self.assertEqual((file["kind"], file["format"]), ("all-in-one", "safetensors"))
        parts = {part["name"]: part for part in file["parts"]}
        self.assertEqual({name: (part["names"], part["prefix"]) for name, part in parts.items()},
                         {"transformer": ("Z-Image's own", "model.diffusion_model."),
                          "text_encoder": ("transformers", "text_encoders.qwen3_4b.transformer.model."),
                          "vae": ("latent diffusion", "vae.")})
        for part in parts.values():
            self.assertEqual(part["problems"], [])
            self.assertEqual([group["format"] for group in part["formats"]], ["BF16"])
            self.assertEqual(part["formats"][0]["bits_per_number"], 16)
        names = {tensor["name"]: tensor for tensor in file["tensors"]}
        self.assertEqual(names["model.diffusion_model.layers.0.attention.qkv.weight"]["names"],
                         [f"layers.0.attention.to_{x}.weight" for x in "kqv"])
        text = self.done("inspect", "all.safetensors", "--layers").stdout
        self.assertIn("= transformer layers.0.attention.to_k.weight + layers.0.attention.to_q.weight", text)

    def test_scales_of_a_folder_are_no_weights(self):
        shutil.copytree(ZIMAGE, self.dir / "model")
        folder = self.dir / "model" / "transformer"

        def transformer() -> dict:
            parts = json.loads(self.done("inspect", "model", "--json").stdout)["parts"]
            return next(part for part in parts if part["name"] == "transformer")

        tensors = widened(read_tensors(folder)[0])
        for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
            file.unlink()
        file = folder / "diffusion_pytorch_model.safetensors"
        write_tensors(file, tensors)
        plain = transformer()
        scaled, marked = "layers.0.feed_forward.w1", "layers.1.feed_forward.w1"
        marker = json.dumps({"format": "float8_e4m3fn"}).encode()
        for layer in (scaled, marked):
            _, shape, data = tensors[layer + ".weight"]
            tensors[layer + ".weight"] = ("F8_E4M3", shape, bytes(len(data) // 4))
        count = sum(shape[0] * shape[1] for _, shape, _ in (tensors[scaled + ".weight"], tensors[marked + ".weight"]))
        one = struct.pack("<f", 0.5)
        write_tensors(file, {**tensors, scaled + ".weight_scale": ("F32", [1], one), scaled + ".input_scale": ("F32", [1], one),
                             marked + ".weight_scale": ("BF16", [], b"\0\x3f"), marked + ".comfy_quant": ("U8", [len(marker)], marker)})
        found = transformer()
        self.assertEqual((found["tensors"], found["parameters"]), (plain["tensors"], plain["parameters"]))
        self.assertEqual(found["dtypes"], {"F32": plain["tensors"] - 2, "F8_E4M3": 2})
        self.assertEqual(found["bytes"], plain["bytes"] - 3 * count + 4 + 4 + 2 + len(marker))
        groups = {group["format"]: (group["tensors"], group["numbers"], group["bytes"]) for group in found["formats"]}
        self.assertEqual(groups["F8_E4M3, one scale"], (2, count, count + 4 + 2))
        self.assertEqual(sorted(groups), ["F32", "F8_E4M3, one scale"])

    def test_foreign_texts_give_a_terminal_no_orders(self):
        orders = "a\x1b[31mred\x07"
        write_tensors(self.dir / "x.safetensors", {orders: ("F32", [1], b"\0\0\0\0")}, {orders: orders})
        shown = self.done("inspect", "x.safetensors", "--layers").stdout
        self.assertEqual(shown.count("a?[31mred?"), 3, shown)
        self.assertNotIn("\x1b", shown)
        self.assertEqual(self.inspected("x.safetensors")["tensors"][0]["name"], orders)
        error = self.refused("convert", "--vae", "x.safetensors", "--parts", "vae", "--output", "y")
        self.assertIn("a?[31mred?", error)

    def test_pipes_are_refused_by_name(self):
        os.mkfifo(self.dir / "pipe")
        for flags in (("convert", "--lora", "pipe", "--output", "x"), ("generate", "--prompt", "a cat", "--lora", "pipe"),
                      ("generate", "--from", "pipe"), ("generate", "--config", "pipe")):
            self.assertIn("cannot read 'pipe': it is no file but a pipe", self.refused(*flags))

    def test_what_nobody_uses_and_what_is_amiss(self):
        tensors, texts = read_tensors(self.made("vae"))
        lost = "decoder.conv_in.weight"
        number = ("F32", [1], b"\0\0\0\0")
        write_tensors(self.dir / "x.safetensors", {**{n: t for n, t in tensors.items() if n != lost}, "letters": number}, texts)
        file = self.inspected("x.safetensors")
        self.assertEqual([tensor["name"] for tensor in file["tensors"] if tensor["role"] == "unknown"], ["letters"])
        self.assertEqual(file["not_used"][0]["tensors"], 1)
        self.assertIn(f"{lost} is missing", file["parts"][0]["problems"][0])
        self.assertIn("of no part of the model: letters", self.done("inspect", "x.safetensors").stdout)
        write_tensors(self.dir / "y.safetensors", {"letters": number})
        self.assertEqual(self.inspected("y.safetensors")["kind"], "unknown")
        cut = (self.dir / "x.safetensors").read_bytes()[:-100]
        (self.dir / "cut.safetensors").write_bytes(cut)
        self.assertRegex(self.refused("inspect", "cut.safetensors"), r"cut.safetensors: tensor '\S+': .*truncated")

    def made(self, part: str) -> Path:
        """Returns a single file of a part."""
        self.done("convert", "--model-path", ZIMAGE, "--parts", part, "--output", f"{part}.safetensors")
        return self.dir / f"{part}.safetensors"

    def test_adapters(self):
        lora = ADAPTERS / "zimage" / "kohya.safetensors"
        transformer = self.made("transformer")
        for model in (["--model-path", ZIMAGE], ["--transformer", transformer]):
            fit, = self.inspected(lora, *model)["adapter"]
            self.assertTrue(fit["fits"])
            self.assertEqual((fit["kinds"], fit["ranks"], fit["modules"], fit["weights"]), ({"LoRA": 9}, [4], 9, 9))
            self.assertEqual(fit["prefixes"], ["lora_unet_"])
        fits = {fit["model"]: fit for fit in self.inspected(lora)["adapter"]}
        self.assertLessEqual({"flux2-klein-4b", "flux2-klein-9b", "z-image-turbo"}, set(fits))
        self.assertIn("made for another model", fits["z-image-turbo"]["problem"])
        self.assertIn("does not fit z-image-turbo", self.done("inspect", lora).stdout)
        self.assertIn("is no adapter", self.refused("inspect", transformer, "--model-path", ZIMAGE))


if __name__ == "__main__":
    run_tests()
