"""Runs `nostos serve` with a folder of LoRAs, and names them as clients of each API do, and as hostile ones.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_loras_test.py [Loras] [Hostile] [Life] [Processes]. Draws with a tiny model of the tests, whose
adapters are those of tests/data/adapters. Needs Python 3.11 alone, and for Processes Open MPI's mpirun.
"""

import base64
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import server_process
from server_case import ServerTest, check_png, run_tests
from server_process import BINARY, SMALL, Server, events

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mpirun import MPIRUN, why_not  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data"
MODEL = ("--model-path", str(DATA / "tiny" / "varied"))
ADAPTERS = DATA / "adapters"
# The model draws nothing larger.
ENDLESS = {**server_process.ENDLESS, "width": 192, "height": 192, "n": 10}
KOHYA = {"name": "styles/kohya", "scale": 0.75}


def texts(data: bytes) -> dict[str, str]:
    """Returns the texts of a PNG by keyword."""
    found, offset = {}, 8
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        if kind in (b"tEXt", b"iTXt"):
            keyword, text = body.split(b"\0", 1)
            found[keyword.decode()] = text.lstrip(b"\0").decode()
        offset += 12 + length
    return found


def with_nan(file: bytes) -> bytes:
    """Returns the safetensors file with NaN in the place of the first number of its first factor."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    factor = next(entry for name, entry in header.items() if name.endswith(".lora_down.weight"))
    at, size = start + factor["data_offsets"][0], {"F32": 4, "F16": 2, "BF16": 2}[factor["dtype"]]
    return file[:at] + b"\xff" * size + file[at + size:]


class Folder(ServerTest):
    """A server with a folder of some LoRAs, of which one is another model's."""

    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.own.cleanup)
        cls.folder = Path(cls.own.name) / "loras"
        cls.fill(cls.folder)
        cls.flags = (*MODEL, "--lora-dir", str(cls.folder))
        super().setUpClass()

    @staticmethod
    def fill(folder: Path):
        (folder / "styles").mkdir(parents=True)
        for name in ("ai_toolkit", "lokr_whole"):
            shutil.copy(ADAPTERS / "zimage" / f"{name}.safetensors", folder)
        shutil.copy(ADAPTERS / "zimage" / "kohya.safetensors", folder / "styles")
        shutil.copy(ADAPTERS / "flux2" / "bfl.safetensors", folder)

    def draw(self, **fields) -> tuple[dict, bytes]:
        """Returns a job that was drawn, and its picture."""
        job = self.server.wait_for(self.server.submit(**fields))
        self.assertEqual(job["status"], "completed", job)
        return job, self.server.get(job["images"][0]["url"]).body

    def refused(self, body: dict, path: str = "/v1/jobs") -> dict:
        answer = self.server.post(path, {"prompt": "a boat", **SMALL, **body})
        self.assertEqual(answer.status, 400, answer.body)
        return answer.json()["error"]

    def pixels(self, picture: bytes) -> bytes:
        """Returns the compressed pixels, which equal pictures have alike."""
        found, offset = b"", 8
        while offset < len(picture):
            length = int.from_bytes(picture[offset : offset + 4], "big")
            if picture[offset + 4 : offset + 8] == b"IDAT":
                found += picture[offset + 8 : offset + 8 + length]
            offset += 12 + length
        return found

    def listed(self) -> dict[str, dict]:
        return {entry["name"]: entry for entry in self.server.get("/v1/loras").json()["data"]}


class Loras(Folder):
    def test_a_job_has_them_in_its_record_and_its_picture(self):
        plain, changed, off = (self.draw(loras=loras) for loras in ([], [KOHYA], [{**KOHYA, "scale": 0}]))
        self.assertNotEqual(self.pixels(plain[1]), self.pixels(changed[1]))
        self.assertEqual(self.pixels(plain[1]), self.pixels(off[1]))
        self.assertEqual(plain[0]["request"]["loras"], [])
        (used,) = changed[0]["request"]["loras"]
        self.assertEqual({name: used[name] for name in KOHYA}, KOHYA)
        check_png(changed[1], (64, 64))
        written = texts(changed[1])
        (record,) = json.loads(written["nostos"])["loras"]
        self.assertEqual(record, {**used, "file": str(self.folder.resolve() / "styles" / "kohya.safetensors")})
        self.assertIn("a boat <lora:styles/kohya:0.75>\n", written["parameters"])
        # The job's own request draws it again, and so does the command line from the picture.
        again = self.draw(loras=changed[0]["request"]["loras"])
        self.assertEqual(again[1], changed[1])
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "from.png").write_bytes(changed[1])
            subprocess.run([BINARY, "generate", "--from", f"{folder}/from.png", "--output", f"{folder}/to.png"], check=True, capture_output=True)
            self.assertEqual(self.pixels((Path(folder) / "to.png").read_bytes()), self.pixels(changed[1]))

    def test_several_add_up_in_the_order_that_is_asked_for(self):
        both = [KOHYA, {"name": "lokr_whole", "scale": -0.5}]
        one, two = self.draw(loras=both), self.draw(loras=both)
        self.assertEqual(one[1], two[1])
        self.assertNotEqual(self.pixels(one[1]), self.pixels(self.draw(loras=both[:1])[1]))
        self.assertNotEqual(self.pixels(one[1]), self.pixels(self.draw(loras=both[1:])[1]))

    def test_jobs_with_others_are_drawn_apart_and_those_with_the_same_together(self):
        sets = [[KOHYA], [], [{"name": "ai_toolkit"}], [{**KOHYA, "scale": 0.5}]]
        expected = [self.pixels(self.draw(loras=loras, seed=3)[1]) for loras in sets]
        self.assertEqual(len(set(expected)), len(sets))
        blocker = self.server.submit(**ENDLESS)
        self.server.wait_for(blocker, "running")
        jobs = [[self.server.submit(loras=loras, seed=3) for loras in sets] for _ in range(3)]
        self.server.request("DELETE", f"/v1/jobs/{blocker}")
        for row in jobs:
            for job, picture in zip(row, expected, strict=True):
                done = self.server.wait_for(job)
                self.assertEqual(self.pixels(self.server.get(done["images"][0]["url"]).body), picture)
        ended = {line["job"]: line["together"] for line in map(json.loads, self.server.log) if line.get("message") == "job ended"}
        self.assertEqual({ended[job] for row in jobs for job in row}, {3})

    def test_openai(self):
        expected = self.pixels(self.draw(loras=[KOHYA])[1])
        body = {"prompt": "a boat", **SMALL, "loras": [KOHYA]}
        answer = self.server.post("/v1/images/generations", body)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.pixels(base64.b64decode(answer.json()["data"][0]["b64_json"])), expected)
        told = events(self.server.post("/v1/images/generations", {**body, "stream": True}).body)
        self.assertEqual(self.pixels(base64.b64decode(told[-1][1]["b64_json"])), expected)
        self.assertEqual(self.refused({"loras": [{"name": "none"}]}, "/v1/images/generations")["param"], "loras[0]")

    def test_a1111(self):
        (self.folder / "new.safetensors").write_bytes((ADAPTERS / "zimage" / "lycoris.safetensors").read_bytes())
        self.addCleanup((self.folder / "new.safetensors").unlink)
        listed = self.server.get("/sdapi/v1/loras").json()
        self.assertEqual([entry["name"] for entry in listed], ["ai_toolkit", "bfl", "lokr_whole", "new", "styles/kohya"])
        self.assertEqual({name: listed[-1][name] for name in ("name", "alias", "path")},
                         {"name": "styles/kohya", "alias": "kohya", "path": str(self.folder.resolve() / "styles" / "kohya.safetensors")})
        self.assertIsInstance(listed[-1]["metadata"], dict)
        answer = self.server.post("/sdapi/v1/refresh-loras", {})
        self.assertEqual((answer.status, answer.json()), (200, None))

        def draw(prompt: str) -> tuple[bytes, dict]:
            answer = self.server.post("/sdapi/v1/txt2img", {"prompt": prompt, "seed": 7, "steps": 1, "width": 64, "height": 64, "cfg_scale": 1})
            self.assertEqual(answer.status, 200, answer.body)
            return self.pixels(base64.b64decode(answer.json()["images"][0])), json.loads(answer.json()["info"])

        expected = self.pixels(self.draw(loras=[KOHYA])[1])
        for prompt in ("a boat <lora:styles/kohya:0.75>", "<lora:kohya:0.75> a boat", "a <lora:kohya:1:0.75> boat", "a boat<LORA:kohya:te=0:unet=.75>"):
            picture, info = draw(prompt)
            self.assertEqual(picture, expected, prompt)
            self.assertEqual((info["prompt"], info["warnings"]), ("a boat", []))
            self.assertTrue(info["infotexts"][0].startswith("a boat <lora:styles/kohya:0.75>\n"))
        self.assertEqual(draw("a boat <lora:kohya:0.75><lora:ai_toolkit>")[0],
                         self.pixels(self.draw(loras=[KOHYA, {"name": "ai_toolkit"}])[1]))
        for prompt, words in (("<lora:kohia:1>", "styles/kohya"), ("<lora:bfl:1>", "made for another model"), ("<lora:kohya:x>", "must be a number")):
            answer = self.server.post("/sdapi/v1/txt2img", {"prompt": prompt})
            self.assertEqual(answer.status, 400, answer.body)
            self.assertIn(words, answer.json()["detail"])

    def test_the_list_says_what_was_found(self):
        self.assertEqual(set(self.listed()), {"ai_toolkit", "bfl", "lokr_whole", "styles/kohya"})
        self.draw(loras=[{"name": "ai_toolkit"}])
        self.refused({"loras": [{"name": "bfl"}]})
        listed = self.listed()
        self.assertEqual(listed["ai_toolkit"]["bytes"], (self.folder / "ai_toolkit.safetensors").stat().st_size)
        self.assertIn("9", listed["ai_toolkit"]["summary"])
        self.assertEqual(len(listed["ai_toolkit"]["sha256"]), 64)
        self.assertIn("made for another model", listed["bfl"]["error"])
        self.assertGreaterEqual(int(self.metric("nostos_jobs_with_loras_total")), 1)

    def metric(self, name: str) -> float:
        return next(float(line.split()[1]) for line in self.server.get("/metrics").body.decode().splitlines() if line.startswith(name + " "))

    def test_what_is_refused_when_it_comes(self):
        for loras, param, code, words in (
            ([{"name": "kohia"}], "loras[0]", "unknown_lora", '"kohia"'),
            ([KOHYA, {"name": "bfl"}], "loras[1]", "unfit_lora", "made for another model"),
            ([{**KOHYA, "sha256": "0" * 64}], "loras[0]", "changed_lora", "SHA-256"),
            ([{"name": "kohya", "strength": 1}], "loras[0]", "unknown_field", "strength"),
            ([{**KOHYA, "scale": 1000}], "loras[0]", "out_of_range", "scale"),
            ("kohya", "loras", "invalid_type", "list"), ([KOHYA] * 65, "loras", "out_of_range", "65")):
            error = self.refused({"loras": loras})
            self.assertEqual((error["param"], error["code"]), (param, code), error)
            self.assertIn(words, error["message"])

    def test_many_at_once(self):
        def draw(_):
            answer = self.server.post("/v1/images/generations", {"prompt": "a boat", **SMALL, "loras": [KOHYA]})
            return answer.status, len(answer.body)

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            self.assertEqual({status for status, _ in pool.map(draw, range(40))}, {200})


class Hostile(Folder):
    def test_names_that_lead_out_name_nothing(self):
        outside = self.folder.parent / "secret.safetensors"
        shutil.copy(ADAPTERS / "zimage" / "kohya.safetensors", outside)
        for link in ("link.safetensors", "styles/link.safetensors"):
            (self.folder / link).symlink_to(outside)
        (self.folder / "up").symlink_to("..")
        for name in ("link", "styles/link", "up/secret", "../secret", "styles/../../secret", str(outside), str(outside.with_suffix("")), "",
                     "/", "..", "%2e%2e/secret", "styles\0", "a" * 1000, "\ud83d\ude00", "<script>", "kohya.safetensors/.."):
            error = self.refused({"loras": [{"name": name}]})
            self.assertEqual((error["param"], error["code"]), ("loras[0]", "unknown_lora"), error)
            self.assertLess(len(error["message"]), 400)
        self.assertNotIn("link", {Path(name).name for name in self.listed()})

    def test_files_that_are_no_adapters(self):
        good = (ADAPTERS / "zimage" / "kohya.safetensors").read_bytes()
        bad = {"empty": b"", "short": good[:-1], "shorter": good[:100], "text": b"no adapter " * 100, "zeros": bytes(1000),
               "long_header": (1 << 40).to_bytes(8, "little") + good[8:], "no_json": good[:8] + b"[" * (len(good) - 8),
               "other": (ADAPTERS / "zimage" / "expected.safetensors").read_bytes(), "nan": with_nan(good)}
        for name, data in bad.items():
            path = self.folder / f"{name}.safetensors"
            path.write_bytes(data)
            self.addCleanup(path.unlink)
            for _ in range(2):
                error = self.refused({"loras": [{"name": name}]})
                self.assertEqual((error["param"], error["code"]), ("loras[0]", "unfit_lora"), error)
        os.mkfifo(self.folder / "pipe.safetensors")
        self.assertEqual(self.refused({"loras": [{"name": "pipe"}]})["code"], "unknown_lora")
        self.assertIn("must be finite", self.refused({"loras": [{"name": "nan"}]})["message"])
        # One that is mended is taken.
        (self.folder / "short.safetensors").write_bytes(good)
        self.draw(loras=[{"name": "short"}])
        self.assertEqual(self.server.get("/sdapi/v1/loras").status, 200)

    def test_others_are_answered_while_large_files_are_read(self):
        header = json.dumps({"x": {"dtype": "U8", "shape": [128 << 20], "data_offsets": [0, 128 << 20]}}).encode()
        names = [f"large{i}" for i in range(4)]
        for name in names:
            with (self.folder / f"{name}.safetensors").open("wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                file.truncate(8 + len(header) + (128 << 20))
            self.addCleanup((self.folder / f"{name}.safetensors").unlink)
        slowest, answered = 0.0, 0
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            begin = time.monotonic()
            posts = [pool.submit(self.refused, {"loras": [{"name": name}]}) for name in names]
            while not all(post.done() for post in posts):
                start = time.monotonic()
                self.assertEqual(self.server.get("/v1/loras").status, 200)
                self.server.wait_for(self.server.submit())
                slowest, answered = max(slowest, time.monotonic() - start), answered + 1
            took = time.monotonic() - begin
        self.assertEqual({post.result()["code"] for post in posts}, {"unfit_lora"})
        print(f"4 files of 128 MB in {took:.2f} s, meanwhile {answered} jobs, the slowest in {slowest:.2f} s")
        self.assertLess(slowest, max(took / 2, 0.5))

    def test_bodies(self):
        for body in (b'{"prompt": "x", "loras": [' + b"[" * 100 + b"]" * 100 + b"]}", b'{"prompt": "x", "loras": [{"name": "\\ud800"}]}',
                     b'{"prompt": "x", "l\\u006fras": [{"name": "none"}]}', b'{"prompt": "x", "loras": [' + b"{}," * 10_000 + b"{}]}",
                     b'{"prompt": "x", "loras": [{"name": "kohya", "scale": 1e999}]}'):
            answer = self.server.post("/v1/jobs", body)
            self.assertEqual(answer.status, 400, (body[:60], answer.body))
        for prompt in ("<lora:kohya:1>" * 65, "<lora:" * 5000, "<lora:" + ":" * 30_000 + ">", "<lora:kohya:" + "9" * 30_000 + ">"):
            answer = self.server.post("/sdapi/v1/txt2img", {"prompt": prompt, **SMALL, "steps": 1})
            self.assertIn(answer.status, (200, 400), answer.body)

    def test_without_a_folder(self):
        with Server(*MODEL) as server:
            self.assertEqual(server.get("/v1/loras").json(), {"object": "list", "data": []})
            self.assertEqual(server.get("/sdapi/v1/loras").json(), [])
            answer = server.post("/v1/jobs", {"prompt": "x", "loras": [KOHYA]})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "loras"))
            self.assertIn("--lora-dir", answer.json()["error"]["message"])
            job = server.submit(prompt="a boat <lora:kohya:1>", loras=[])
            self.assertIn("no LoRA", server.wait_for(job)["warnings"][0])
        for flag in (str(self.folder / "nowhere"), str(self.folder / "bfl.safetensors")):
            ended = subprocess.run([BINARY, "serve", "--port", "0", "--lora-dir", flag], capture_output=True, text=True)
            self.assertEqual(ended.returncode, 2, ended.stderr)
            self.assertIn("--lora-dir", ended.stderr)


class Life(unittest.TestCase):
    def test_jobs_outlive_kill_9_and_know_their_files(self):
        kept, changed, gone = KOHYA, {"name": "ai_toolkit"}, {"name": "lokr_whole"}
        with tempfile.TemporaryDirectory() as own:
            loras, data = Path(own) / "loras", Path(own) / "data"
            Folder.fill(loras)
            flags = (*MODEL, "--lora-dir", str(loras))
            with Server(*flags, data_dir=data) as server:
                expected = server.get(server.wait_for(server.submit(loras=[kept]))["images"][0]["url"]).body
                blocker = server.submit(**ENDLESS)
                server.wait_for(blocker, "running")
                jobs = [server.submit(loras=[lora]) for lora in (kept, changed, gone)]
                server.kill()
            shutil.copy(ADAPTERS / "zimage" / "kohya.safetensors", loras / "ai_toolkit.safetensors")
            (loras / "lokr_whole.safetensors").unlink()
            with Server(*flags, data_dir=data, ready=False) as server:
                server.wait_until(lambda: server.get("/health/ready").status == 200)
                server.request("DELETE", f"/v1/jobs/{blocker}")
                ended = [server.wait_for(job) for job in jobs]
                self.assertEqual([job["status"] for job in ended], ["completed", "failed", "failed"], ended)
                self.assertEqual(server.get(ended[0]["images"][0]["url"]).body, expected)
                self.assertIn("lora 'ai_toolkit'", ended[1]["error"]["message"])
                self.assertIn("another file", ended[1]["error"]["message"])
                self.assertIn("lora 'lokr_whole'", ended[2]["error"]["message"])
                self.assertIn("No such file", ended[2]["error"]["message"])
                # The server goes on, with the file as it is now.
                self.assertEqual(server.wait_for(server.submit(loras=[changed]))["status"], "completed")


class Processes(unittest.TestCase):
    """Two ranks that are processes of mpirun."""

    @classmethod
    def setUpClass(cls):
        if reason := why_not():
            raise unittest.SkipTest(reason)

    def test_they_draw_the_same_and_outlive_a_file_that_is_gone(self):
        with tempfile.TemporaryDirectory() as folder:
            loras = Path(folder) / "loras"
            Folder.fill(loras)
            flags, pictures = (*MODEL, "--lora-dir", str(loras)), []
            for launcher in ((), (*MPIRUN, "-n", "2")):
                with Server(*flags, launcher=launcher) as server:
                    job = server.wait_for(server.submit(loras=[KOHYA], num_inference_steps=2))
                    self.assertEqual(job["status"], "completed", job)
                    pictures.append(server.get(job["images"][0]["url"]).body)
                    if not launcher:
                        continue
                    blocker = server.submit(**ENDLESS)
                    server.wait_for(blocker, "running")
                    doomed = server.submit(loras=[{"name": "lokr_whole"}])
                    (loras / "lokr_whole.safetensors").unlink()
                    server.request("DELETE", f"/v1/jobs/{blocker}")
                    self.assertIn("lora 'lokr_whole'", server.wait_for(doomed)["error"]["message"])
                    self.assertEqual(server.wait_for(server.submit(loras=[KOHYA]))["status"], "completed")
            self.assertEqual(pictures[0], pictures[1])


if __name__ == "__main__":
    run_tests()
