"""Runs `nostos pull` against a stand-in for a Hugging Face hub, and has huggingface_hub read what it wrote.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos pull_test.py [TestCase ...]. Needs Python 3.11; one test huggingface_hub, too.
"""

import fcntl
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from run_tests import run_tests  # noqa: E402
from stand_in_hub import COMMIT, Repository, StandInHub, digest  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
TINY = Path(__file__).resolve().parents[2] / "tests" / "data" / "tiny" / "diffusers_test"
NOISE = random.Random(1).randbytes


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class PullCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        self.cache = self.dir / "hub"
        self.tiny = Repository({path: data for path, data in folder_files(TINY).items() if not path.startswith("expected/")})
        self.hub = StandInHub({"a/b": self.tiny})
        self.addCleanup(self.hub.close)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "HUGGING", "XDG_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")}
        return {**kept, "HOME": str(self.dir), "HF_HUB_CACHE": str(self.cache), "HF_ENDPOINT": self.hub.address, **more}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen([BINARY, "pull", *arguments], cwd=self.dir, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=self.environment(**environment))

    def pull(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, "pull", *arguments], cwd=self.dir, text=True, capture_output=True, timeout=120,
                              env=self.environment(**environment))

    def pulled(self, *arguments: str, **environment: str) -> list[str]:
        """Returns the lines of standard output."""
        run = self.pull(*arguments, **environment)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout.splitlines()

    def assert_refused(self, code: int, *fragments: str, arguments=("a/b",), **environment: str):
        run = self.pull(*arguments, **environment)
        self.assertEqual((run.returncode, run.stdout), (code, ""), run.stderr)
        for fragment in fragments:
            self.assertIn(fragment, run.stderr)

    def repository(self, name: str = "a/b") -> Path:
        return self.cache / ("models--" + name.replace("/", "--"))

    def assert_whole(self, name: str = "a/b", paths=None):
        """Checks that the snapshot has these files, or all, with their bytes, and that nothing else is left behind."""
        repository = self.hub.repositories[name]
        snapshot = self.repository(name) / "snapshots" / repository.commit
        wanted = {path: data for path, data in repository.files.items() if paths is None or path in paths}
        self.assertEqual({path: hashlib.sha256(data).hexdigest() for path, data in folder_files(snapshot).items()},
                         {path: hashlib.sha256(data).hexdigest() for path, data in wanted.items()})
        blobs = {path.name for path in (self.repository(name) / "blobs").iterdir()}
        self.assertEqual(blobs, {digest(data) for data in wanted.values()})

    def file_requests(self) -> list[tuple[str, str, dict]]:
        return [request for request in self.hub.requests if not request[1].startswith("/api/")]

    def add(self, name: str, **files: bytes) -> Repository:
        self.hub.repositories[name] = Repository({path.replace("__", "/").replace("_DOT_", "."): data for path, data in files.items()})
        return self.hub.repositories[name]


class Layout(PullCase):
    def test_a_pipeline_is_fetched_and_draws(self):
        extra = {"README.md": b"read me", "transformer/model.bin": b"x" * 9000, "assets/a.png": b"p", "flux.safetensors": b"w" * 9000,
                 "vae/diffusion_pytorch_model.fp16.safetensors": b"w"}
        wanted = set(self.tiny.files)
        self.tiny.files.update(extra)
        snapshot = self.repository() / "snapshots" / COMMIT
        self.assertEqual(self.pulled("a/b"), [str(snapshot)])
        self.assert_whole(paths=wanted)
        self.assertEqual((self.repository() / "refs" / "main").read_text(), COMMIT)
        self.assertIn("8a477f597d28d172789f06886806bc55", (self.cache / "CACHEDIR.TAG").read_text())
        link = snapshot / "transformer" / "config.json"
        self.assertEqual(os.readlink(link), f"../../../blobs/{digest(self.tiny.files['transformer/config.json'])}")
        drawn = subprocess.run([BINARY, "generate", "--model-path", "a/b", "--prompt", "a cat", "--height", "16", "--width", "16",
                                "--num-inference-steps", "1", "--device", "cpu", "--output", "a.png"], cwd=self.dir, text=True,
                               capture_output=True, env=self.environment(HF_ENDPOINT="", HF_HUB_OFFLINE="1"))
        self.assertEqual(drawn.returncode, 0, drawn.stderr)

    def test_a_second_pull_fetches_nothing(self):
        self.pulled("a/b")
        self.hub.requests.clear()
        self.pulled("a/b")
        self.assertEqual(self.file_requests(), [])

    def test_revisions_and_pages(self):
        self.tiny.page_size = 2
        self.tiny.revisions = ("v1.0", "refs/pr/1")
        self.assert_refused(2, "no revision 'main'", "a branch, a tag or a commit")
        for revision in ("v1.0", "refs/pr/1"):
            self.pulled("a/b@" + revision)
            self.assertEqual((self.repository() / "refs" / revision).read_text(), COMMIT)
        self.pulled("a/b", "--revision", COMMIT)
        self.assertFalse((self.repository() / "refs" / COMMIT).exists())
        self.assert_refused(2, "contradicts", arguments=("a/b@v1.0", "--revision", "v2"))
        self.assert_refused(2, "Hugging Face name", arguments=("nothing",))

    def test_shards_of_the_index_alone(self):
        index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
        self.add("a/c", config_DOT_json=b"{}", tokenizer_DOT_json=b"{}", model_DOT_safetensors_DOT_index_DOT_json=index)
        files = self.hub.repositories["a/c"].files
        files.update({"model-1.safetensors": b"1" * 5000, "model-2.safetensors": b"2" * 5000, "model-3.safetensors": b"3"})
        self.pulled("a/c")
        self.assert_whole("a/c", paths=set(files) - {"model-3.safetensors"})
        del files["model-2.safetensors"]
        self.hub.repositories["a/d"] = self.hub.repositories["a/c"]
        self.assert_refused(2, "model-2.safetensors, which is not there", arguments=("a/d",))

    def test_variants(self):
        plain = "vae/diffusion_pytorch_model.safetensors"
        half = "vae/diffusion_pytorch_model.fp16.safetensors"
        self.tiny.files[half] = b"half" * 2000
        self.assert_refused(2, "variant 'bf16'", arguments=("a/b", "--variant", "bf16"))
        self.pulled("a/b", "--variant", "fp16")
        self.assert_whole(paths=set(self.tiny.files) - {plain})

    def test_single_files(self):
        one = self.add("a/one", model__x_DOT_gguf=b"g" * 9000, README_DOT_md=b"r")
        path = self.repository("a/one") / "snapshots" / one.commit / "model" / "x.gguf"
        self.assertEqual(self.pulled("a/one"), [str(path)])
        self.add("a/many", x_Q4_DOT_gguf=b"4" * 9000, x_Q8_DOT_gguf=b"8" * 9000, sub__y_DOT_safetensors=b"y")
        self.assert_refused(2, "choose some with --file", "x_Q4.gguf (0.0 MB)", "sub/y.safetensors", arguments=("a/many",))
        self.assert_refused(2, "'*Q5*' matches no file", arguments=("a/many", "--file", "*Q5*"))
        lines = self.pulled("a/many", "--file", "*Q4*", "--file", "y.safetensors")
        self.assertEqual([Path(line).name for line in lines], ["y.safetensors", "x_Q4.gguf"])
        self.assert_whole("a/many", paths={"x_Q4.gguf", "sub/y.safetensors"})
        self.add("a/none", README_DOT_md=b"r")
        self.assert_refused(2, "no model_index.json", "README.md", arguments=("a/none",))


class HuggingFaceHub(PullCase):
    def test_reads_it_offline(self):
        script = ("import sys, json\nfrom huggingface_hub import snapshot_download, hf_hub_download, scan_cache_dir\n"
                  "folder = snapshot_download('a/b', local_files_only=True)\n"
                  "file = hf_hub_download('a/b', 'vae/config.json', local_files_only=True)\n"
                  "found = scan_cache_dir()\n"
                  "print(json.dumps([folder, file, [str(w) for w in found.warnings], [r.repo_id for r in found.repos]]))")
        if subprocess.run([sys.executable, "-c", "import huggingface_hub"], capture_output=True).returncode != 0:
            self.skipTest("huggingface_hub is not installed")
        self.pulled("a/b")
        run = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True,
                             env=self.environment(HF_HUB_OFFLINE="1"))
        self.assertEqual(run.returncode, 0, run.stderr)
        snapshot = self.repository() / "snapshots" / COMMIT
        self.assertEqual(json.loads(run.stdout), [str(snapshot), str(snapshot / "vae/config.json"), [], ["a/b"]])
        # Where it may ask the hub, it finds nothing to fetch.
        self.hub.requests.clear()
        online = script.split("file =")[0].replace("local_files_only=True", "allow_patterns=['*.json']") + "print(folder)"
        run = subprocess.run([sys.executable, "-c", online], text=True, capture_output=True,
                             env=self.environment(HF_HUB_DISABLE_XET="1"))
        self.assertEqual((run.returncode, run.stdout.strip()), (0, str(snapshot)), run.stderr)
        self.assertEqual([path for host, path, _ in self.hub.requests if host == "store"], [])


class Access(PullCase):
    def tokens(self) -> dict[str, set[str]]:
        """Returns what each host was told."""
        seen: dict[str, set[str]] = {"hub": set(), "store": set()}
        for host, _, headers in self.hub.requests:
            seen[host].add(headers.get("authorization", ""))
        return seen

    def test_the_token_reaches_the_hub_alone(self):
        self.tiny.token = "hf_secret"
        (self.dir / "token").write_text("hf_secret\n")
        for environment in ({"HF_TOKEN": "hf_secret"}, {"HUGGING_FACE_HUB_TOKEN": " hf_secret\n"},
                            {"HF_TOKEN_PATH": str(self.dir / "token")}, {"HF_HOME": str(self.dir)}):
            with self.subTest(environment=environment):
                self.hub.requests.clear()
                subprocess.run(["rm", "-rf", self.cache], check=True)
                run = self.pull("a/b", "--log-level", "debug", **environment)
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertNotIn("hf_secret", run.stderr)
                self.assertEqual(self.tokens(), {"hub": {"Bearer hf_secret"}, "store": {""}})
        self.assert_refused(2, "or it is private", HF_TOKEN="hf_secret", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
        self.assert_refused(2, "the token in HF_TOKEN holds spaces", HF_TOKEN="two words")

    def test_who_may_not(self):
        self.tiny.token, self.tiny.is_gated = "hf_good", True
        self.assert_refused(2, "is gated", "accept its terms at " + self.hub.address + "/a/b", "/settings/tokens", "HF_TOKEN")
        self.assert_refused(2, "is gated", "token is in HF_TOKEN", HF_TOKEN="hf_other")
        self.tiny.is_gated = False
        self.assert_refused(2, "there is no model 'a/b'", "private")
        self.assert_refused(2, "the token in HF_TOKEN", "Invalid credentials", HF_TOKEN="hf_other")
        self.assert_refused(2, "check the model's name 'no/such'", arguments=("no/such",), HF_TOKEN="hf_good")

    def test_the_environment(self):
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            self.assert_refused(2, name + "=yes forbids the network", **{name: "yes"})
        self.assertEqual(self.hub.requests, [])
        self.assert_refused(2, "HF_ENDPOINT is 'hub.example'", HF_ENDPOINT="hub.example")
        self.assert_refused(2, "HF_HUB_DOWNLOAD_TIMEOUT is 'soon'", HF_HUB_DOWNLOAD_TIMEOUT="soon")
        self.pulled("a/b", HF_ENDPOINT=self.hub.address + "/")

    def test_a_proxy(self):
        self.pulled("a/b", HF_ENDPOINT="http://hub.invalid", http_proxy=self.hub.address, no_proxy="127.0.0.1")
        self.assertTrue(all(path.startswith(("http://", "/")) for _, path, _ in self.hub.requests))
        self.assertIn("http://hub.invalid/api/models/a/b/revision/main", [path for _, path, _ in self.hub.requests])


class Secure(PullCase):
    """The hub of every test here has a certificate of its own, which no system knows."""

    def setUp(self):
        super().setUp()
        self.hub.close()
        self.certificate = self.make_certificate("IP:127.0.0.1")
        self.hub = StandInHub({"a/b": self.tiny}, self.certificate)
        self.addCleanup(self.hub.close)

    def make_certificate(self, name: str) -> Path:
        """Returns a PEM file with a key and a certificate of that name, signed by itself."""
        key, certificate = self.dir / "key.pem", self.dir / "certificate.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=hub", "-addext", f"subjectAltName={name}", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
        return certificate

    def test_a_certificate_that_is_trusted(self):
        self.tiny.token = "hf_secret"
        self.pulled("a/b", SSL_CERT_FILE=str(self.certificate), HF_TOKEN="hf_secret")
        self.assert_whole()
        self.assertTrue(self.hub.address.startswith("https://"))

    def test_a_certificate_that_nobody_signed(self):
        self.assert_refused(1, "certificate", "SSL_CERT_FILE")
        self.assertEqual(self.hub.requests, [])

    def test_a_certificate_of_another_host(self):
        self.hub.close()
        self.certificate = self.make_certificate("DNS:hub.example")
        self.hub = StandInHub({"a/b": self.tiny}, self.certificate)
        self.addCleanup(self.hub.close)
        self.assert_refused(1, "127.0.0.1", "SSL_CERT_FILE", SSL_CERT_FILE=str(self.certificate))
        self.assertEqual(self.hub.requests, [])


class Faulty(PullCase):
    def setUp(self):
        super().setUp()
        self.add("a/large", w_DOT_safetensors=NOISE(1_000_000))

    def test_broken_connections_go_on(self):
        self.hub.faults.cut_after = [300_000, 0, 200_000, 1]
        self.pulled("a/large")
        self.assert_whole("a/large")
        begins = [headers.get("range") for host, _, headers in self.hub.requests if host == "store"]
        self.assertEqual((begins[0], begins[1]), (None, "bytes=300000-"))
        self.assertEqual(begins[-1], "bytes=500001-")

    def test_a_connection_that_stalls_is_given_up(self):
        self.hub.faults.stall = 1
        self.pulled("a/large", HF_HUB_DOWNLOAD_TIMEOUT="1")
        self.assert_whole("a/large")

    def test_ranges_that_are_ignored(self):
        self.hub.faults.ignore_ranges = True
        self.hub.faults.cut_after = [300_000]
        self.pulled("a/large")
        self.assert_whole("a/large")

    def test_wrong_checksums(self):
        self.hub.faults.wrong_bytes = 1
        run = self.pull("a/large")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("wrong checksum: it is fetched anew", run.stderr)
        self.assert_whole("a/large")
        self.hub.faults.wrong_bytes = 1000
        self.assert_refused(1, "came with a wrong checksum twice")
        self.assertFalse((self.repository() / "snapshots" / COMMIT).exists())
        self.assertFalse((self.repository() / "refs" / "main").exists())

    def test_a_file_that_changes_in_between(self):
        self.hub.faults.tag = "0" * 64
        self.assert_refused(1, "'w.safetensors'", "has changed on the hub", arguments=("a/large",))
        self.hub.faults.tag, self.hub.faults.commit = "", "f" * 40
        self.assert_refused(1, "has changed on the hub")

    def test_a_new_commit_leaves_the_old_one(self):
        self.pulled("a/large")
        old = self.repository("a/large") / "snapshots" / COMMIT / "w.safetensors"
        before = old.read_bytes()
        repository = self.hub.repositories["a/large"]
        repository.files["w.safetensors"], repository.commit = NOISE(5000), "e" * 40
        self.pulled("a/large")
        self.assertEqual((self.repository("a/large") / "refs" / "main").read_text(), "e" * 40)
        self.assertEqual(old.read_bytes(), before)
        self.assertEqual((self.repository("a/large") / "snapshots" / ("e" * 40) / "w.safetensors").read_bytes(),
                         repository.files["w.safetensors"])

    def test_too_many_requests(self):
        self.hub.faults.statuses = [(429, {"Retry_After": "1"}), (503, {})]
        start = time.monotonic()
        run = self.pull("a/large")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("asks to wait 1 s", run.stderr)
        self.assertGreaterEqual(time.monotonic() - start, 1)
        self.hub.faults.statuses = [(429, {"Retry_After": "9999"})]
        self.assert_refused(1, "too many requests", "asks to wait 9999 s", "with a token in HF_TOKEN")

    def test_a_hub_that_is_not_there(self):
        start = time.monotonic()
        self.assert_refused(1, "cannot fetch", "pull again to go on", HF_ENDPOINT="http://127.0.0.1:9")
        self.assertGreater(time.monotonic() - start, 1, "it tried once")

    def test_answers_that_are_none(self):
        self.hub.faults.statuses = [(200, {})]
        self.assert_refused(2, "sha")
        self.tiny.files["../../evil"] = b"x"
        self.assert_refused(2, "path", "'..'")
        self.assertEqual(list(self.dir.rglob("evil")), [])

    def test_no_room(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        run = subprocess.run([BINARY, "pull", "a/large"], cwd=self.dir, text=True, capture_output=True, timeout=60,
                             env=self.environment(), preexec_fn=limit)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("File too large", run.stderr)
        self.pulled("a/large")
        self.assert_whole("a/large")

    def test_a_disk_that_is_too_small_is_found_out_first(self):
        huge = 1 << 49
        original = self.hub.hub.RequestHandlerClass.answer_json
        self.addCleanup(setattr, self.hub.hub.RequestHandlerClass, "answer_json", original)

        def answer_json(handler, value, **headers):
            if isinstance(value, list):
                value = [{**entry, "lfs": {**entry["lfs"], "size": huge}} if "lfs" in entry else entry for entry in value]
            original(handler, value, **headers)

        self.hub.hub.RequestHandlerClass.answer_json = answer_json
        self.assert_refused(2, "562949.95 GB are to be fetched", "HF_HUB_CACHE", arguments=("a/large",))
        self.assertEqual(self.file_requests(), [])

    def test_a_blob_of_another_size_is_replaced(self):
        self.pulled("a/large")
        blob = next((self.repository("a/large") / "blobs").iterdir())
        os.truncate(blob, 10)
        self.pulled("a/large")
        self.assert_whole("a/large")


class Crash(PullCase):
    """Ends of connections and of the program, as often as NOSTOS_PULL_KILLS says."""

    def setUp(self):
        super().setUp()
        self.random = random.Random(7)
        self.files = {f"part{i}.safetensors": NOISE(self.random.randrange(400_000, 1_500_000)) for i in range(6)}
        self.hub.repositories["a/large"] = Repository(dict(self.files))
        self.arguments = ["a/large", "--file", "*"]

    def test_100_disconnects(self):
        self.hub.faults.cut_after = [self.random.randrange(1, 60_000) for _ in range(100)]
        self.pulled(*self.arguments)
        self.assertEqual(self.hub.faults.cut_after, [])
        self.assert_whole("a/large")

    def test_kills(self):
        kills = 0
        for _ in range(int(os.environ.get("NOSTOS_PULL_KILLS", "5"))):
            self.hub.faults.stall = 2
            process = self.start(*self.arguments)
            time.sleep(self.random.uniform(0.01, 0.4))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
            self.assertFalse((self.repository("a/large") / "refs" / "main").exists())
        self.assertGreater(kills, 0)
        self.hub.faults.stall = 0
        self.pulled(*self.arguments)
        self.assert_whole("a/large")

    def test_an_interrupt_keeps_what_is_there(self):
        self.hub.faults.stall = 100
        process = self.start(*self.arguments)
        blobs = self.repository("a/large") / "blobs"
        for _ in range(600):
            if blobs.exists() and sum(path.stat().st_size for path in blobs.iterdir()) > 800_000:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130, error)
        kept = sum(path.stat().st_size for path in blobs.iterdir())
        self.assertGreater(kept, 800_000)
        self.hub.faults.stall = 0
        self.hub.requests.clear()
        self.pulled(*self.arguments)
        self.assert_whole("a/large")
        self.assertTrue(any("range" in headers for _, _, headers in self.hub.requests))

    def test_two_at_once(self):
        processes = [self.start(*self.arguments) for _ in range(3)]
        for process in processes:
            _, error = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, error)
        self.assert_whole("a/large")
        self.assertEqual(len([path for host, path, _ in self.hub.requests if host == "store"]), len(self.files))

    def test_a_lock_of_another_program_is_waited_for(self):
        name = digest(self.files["part0.safetensors"])
        locks = self.cache / ".locks" / "models--a--large"
        locks.mkdir(parents=True)
        with open(locks / (name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = self.start("a/large", "--file", "part0.safetensors")
            time.sleep(1)
            self.assertIsNone(process.poll())
            self.assertEqual([host for host, *_ in self.hub.requests if host == "store"], [])
        _, error = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, error)
        self.assertIn("waiting for another download", error)


if __name__ == "__main__":
    run_tests()
