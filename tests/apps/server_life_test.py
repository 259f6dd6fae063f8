"""Starts, stops and kills `nostos serve`, also with several ranks, and checks that nothing is lost.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_life_test.py [Shutdown] [Ranks] [Processes] [Storage] [Busy] [Crash]; NOSTOS_KILLS=50 for the long form
of Crash. Exits with 77 if everything was skipped. Draws with the embedded model. Needs Python 3.11, and for Processes Open MPI's mpirun.
"""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from http.client import HTTPException
from pathlib import Path

from server_case import check_png, run_tests
from server_process import ENDLESS, SMALL, Server

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mpirun import MPIRUN, why_not  # noqa: E402


class Shutdown(unittest.TestCase):
    def test_what_waits_is_drawn_after_the_next_start(self):
        with tempfile.TemporaryDirectory() as folder:
            with Server("--shutdown-grace", "0", data_dir=folder) as server:
                running = server.submit(num_inference_steps=400, width=128, height=128)
                waiting = [server.submit(seed=seed) for seed in range(3)]
                server.wait_for(running, "running")
                stream = server.connect()
                stream.request("GET", f"/v1/jobs/{waiting[0]}/events")
                response = stream.getresponse()
                server.process.send_signal(signal.SIGTERM)
                self.assertEqual(server.process.wait(20), 0)
                self.assertNotIn(b"event: done", response.read())
                stream.close()
            with Server(data_dir=folder) as server:
                for job in (running, *waiting):
                    self.assertEqual(server.wait_for(job)["status"], "completed")

    def test_the_picture_being_drawn_may_end_and_waiting_clients_are_told(self):
        with Server("--shutdown-grace", "60") as server:
            answers = {}
            ask = lambda name, steps: answers.update({name: server.post("/v1/images/generations", {"prompt": name, "size": "128x128", "num_inference_steps": steps})})
            threads = [threading.Thread(target=ask, args=("drawn", 150))]
            threads[0].start()
            server.wait_until(lambda: any(job["status"] == "running" for job in server.get("/v1/jobs").json()["data"]))
            threads.append(threading.Thread(target=ask, args=("waits", 1)))
            threads[1].start()
            server.wait_until(lambda: len(server.get("/v1/jobs").json()["data"]) == 2)
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            self.assertEqual(server.process.wait(20), 0)
            self.assertEqual(answers["drawn"].status, 200)
            self.assertEqual(answers["waits"].status, 503)


class Ranks(unittest.TestCase):
    def test_two_ranks_draw_the_same_and_are_cancelled(self):
        pictures = []
        for flags in ((), ("--num-gpus", "2")):
            with Server(*flags) as server:
                job = server.submit(**{**ENDLESS, "guidance_scale": 2})
                server.wait_for(job, "running")
                server.request("DELETE", f"/v1/jobs/{job}")
                self.assertEqual(server.wait_for(job)["status"], "cancelled")
                done = server.wait_for(server.submit(num_inference_steps=2, guidance_scale=2))
                pictures.append(server.get(done["images"][0]["url"]).body)
        self.assertEqual(pictures[0], pictures[1])

    def test_halves_of_guidance_start_with_a_model_that_has_none_by_default(self):
        model = Path(__file__).resolve().parents[1] / "data" / "tiny" / "diffusers_test"
        with Server("--num-gpus", "2", "--cfg-parallel-degree", "2", "--model-path", str(model)) as server:
            self.assertEqual(server.post("/v1/jobs", {"prompt": "a boat", "width": 16, "height": 16}).status, 400)
            job = server.submit(width=16, height=16, num_inference_steps=1, guidance_scale=2)
            self.assertEqual(server.wait_for(job)["status"], "completed")


class Processes(unittest.TestCase):
    """Two ranks that are processes of mpirun."""

    # Open MPI kills ranks a second after SIGTERM unless told to wait.
    launcher = (*MPIRUN, "-n", "2", "--mca", "odls_base_sigkill_timeout", "3")

    @classmethod
    def setUpClass(cls):
        if reason := why_not():
            raise unittest.SkipTest(reason)

    def test_they_draw_the_same_are_cancelled_and_end_in_good_order(self):
        asked = {"num_inference_steps": 2, "guidance_scale": 2}
        with Server() as server:
            alone = server.get(server.wait_for(server.submit(**asked))["images"][0]["url"]).body
        with tempfile.TemporaryDirectory() as folder:
            with Server("--shutdown-grace", "0", data_dir=folder, launcher=self.launcher) as server:
                job = server.submit(**ENDLESS)
                server.wait_until(lambda: (server.job(job)["progress"] or {}).get("step", 0) >= 2)
                step_ms = server.job(job)["progress"]["step_ms"]
                start = time.monotonic()
                server.request("DELETE", f"/v1/jobs/{job}")
                self.assertEqual(server.wait_for(job)["status"], "cancelled")
                self.assertLess(time.monotonic() - start, 2 * step_ms / 1000 + 0.5)
                told = server.submit(**asked)
                server.wait_for(told)
                self.assertEqual(server.get(server.job(told)["images"][0]["url"]).body, alone)
                running, waiting = server.submit(**ENDLESS), server.submit(**asked)
                server.wait_for(running, "running")
                watched = server.connect()
                watched.request("GET", f"/v1/jobs/{running}/events")
                response, heard = watched.getresponse(), b""
                while b"event: preview" not in heard:
                    heard += response.read1()
                watched.close()
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(30)
                self.assertTrue(any('"message":"stopped"' in line for line in server.log), "".join(server.log[-5:]))
            database = sqlite3.connect(Path(folder) / "jobs.sqlite")
            kept = dict(database.execute("SELECT id, status FROM jobs"))
            database.close()
            self.assertEqual((kept[running], kept[waiting]), ("queued", "queued"))

    def test_what_ranks_that_split_guidance_cannot_draw_ends_no_server(self):
        with tempfile.TemporaryDirectory() as folder:
            with Server("--shutdown-grace", "0", data_dir=folder) as server:
                left = [server.submit(**ENDLESS), server.submit(guidance_scale=0)]
            with Server("--cfg-parallel-degree", "2", data_dir=folder, launcher=self.launcher) as server:
                for path, field, value in (("/v1/jobs", "guidance_scale", 0), ("/v1/images/generations", "guidance_scale", 0),
                                           ("/sdapi/v1/txt2img", "cfg_scale", 1)):
                    answer = server.post(path, {"prompt": "x", "width": 64, "height": 64, field: value})
                    self.assertEqual(answer.status, 400, answer.body)
                    self.assertIn(field, answer.body.decode())
                # Jobs of a server with other flags fail alone.
                for job in left:
                    ended = server.wait_for(job)
                    self.assertEqual(ended["status"], "failed", ended)
                    self.assertIn("--cfg-parallel-degree", ended["error"]["message"])
                self.assertEqual(server.wait_for(server.submit(guidance_scale=2))["status"], "completed")


class FullDisk(unittest.TestCase):
    """The disk is a small file system that the test must be allowed to mount."""

    def mount(self, size: str) -> Path:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder.name], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"no small file system can be mounted: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", folder.name], check=True)
        return Path(folder.name)

    def test_a_full_disk_is_told_and_forgetting_makes_space(self):
        disk = self.mount("600k")
        with Server(data_dir=disk / "data") as server:
            drawing = {"prompt": "x", "size": "256x256", "num_inference_steps": 1}
            for _ in range(30):
                answer = server.post("/v1/images/generations", drawing)
                if answer.status != 200:
                    break
            self.assertEqual(answer.status, 507, answer.body)
            for path, body in (("/v1/jobs", {"prompt": "x"}), ("/sdapi/v1/txt2img", {"prompt": "x"}), ("/v1/images/generations", drawing)):
                refused = server.post(path, body)
                self.assertEqual(refused.status, 507, refused.body)
                self.assertGreater(int(refused.headers["retry-after"]), 0)
            ready = server.get("/health/ready")
            self.assertEqual((ready.status, ready.json()["status"]), (503, "unwritable"))
            self.assertRegex(ready.json()["reason"], "(?i)full|no space")
            self.assertIn(b"nostos_storage_writable 0\n", server.get("/metrics").body)
            kept = server.get("/v1/jobs?status=completed").json()["data"]
            storage = server.get("/v1/storage").json()
            self.assertEqual((storage["writable"], storage["pictures"]), (False, len(kept)))
            self.assertEqual(storage["bytes"], sum(image["bytes"] for job in kept for image in job["images"]))
            for job in kept:
                self.assertEqual(len(server.get(job["images"][0]["url"]).body), job["images"][0]["bytes"])
            for job in kept:
                self.assertEqual(server.request("DELETE", f"/v1/jobs/{job['id']}?forget=true").status, 200)
            server.wait_until(lambda: server.get("/health/ready").status == 200)
            self.assertEqual(server.post("/v1/images/generations", drawing).status, 200)

    def test_a_job_whose_pictures_find_the_disk_full_waits_for_space(self):
        disk = self.mount("16m")
        with Server(data_dir=disk / "data") as server:
            jobs = [server.submit(num_inference_steps=100, width=128, height=128), server.submit(seed=8)]
            server.wait_for(jobs[0], "running")
            with contextlib.suppress(OSError):  # it ends where nothing more fits
                (disk / "filler").write_bytes(bytes(32 << 20))
            server.wait_until(lambda: [server.job(job)["status"] for job in jobs] == ["queued", "queued"])
            self.assertEqual(server.get("/health/ready").status, 503)
            server.kill()
            server.__exit__()
        with Server(data_dir=disk / "data", ready=False) as server:
            server.wait_until(lambda: server.get("/health/ready").json()["status"] == "unwritable")
            self.assertEqual(server.post("/v1/jobs", {"prompt": "x"}).status, 507)
            self.assertEqual([server.get(f"/v1/jobs/{job}").status for job in jobs], [200, 200])
            (disk / "filler").unlink()
            for job in jobs:
                self.assertEqual(server.wait_for(job)["status"], "completed")
            self.assertEqual(server.get("/health/ready").status, 200)


class Storage(unittest.TestCase):
    def test_the_oldest_are_forgotten(self):
        with tempfile.TemporaryDirectory() as folder:
            with Server("--keep-pictures", "2", data_dir=folder) as server:
                jobs = [server.wait_for(server.submit(seed=seed))["id"] for seed in range(3)]
                server.wait_until(lambda: server.get(f"/v1/jobs/{jobs[0]}").status == 404)
                self.assertEqual([job["id"] for job in server.get("/v1/jobs").json()["data"]], jobs[:0:-1])
                self.assertEqual(server.get("/v1/storage").json()["keep"], {"days": None, "pictures": 2, "bytes": 100 << 30})
            with Server("--keep-pictures", "0", "--keep-bytes", "1kb", data_dir=folder) as server:
                server.wait_until(lambda: server.get(f"/v1/jobs/{jobs[1]}").status == 404)
                self.assertEqual(server.job(jobs[2])["status"], "completed")  # the last stays
                self.assertEqual(len(list((Path(folder) / "images").iterdir())), 1)


class Busy(unittest.TestCase):
    """Clients of all kinds at once, with a model that is small enough for the thread sanitizer (preset cpu-tsan)."""

    model = Path(__file__).resolve().parents[1] / "data" / "tiny" / "diffusers_test"
    asked = {"prompt": "a boat", "width": 16, "height": 16, "num_inference_steps": 4, "guidance_scale": 0}

    def follow(self, server: Server, number: int):
        job = server.submit(**self.asked, seed=number)
        stream = server.connect()
        stream.request("GET", f"/v1/jobs/{job}/events")
        if number % 3 == 0:
            stream.getresponse().read1(10)
            stream.close()
            server.request("DELETE", f"/v1/jobs/{job}")
        else:
            self.assertIn(b"event: done", stream.getresponse().read())
            stream.close()
        if number % 4 == 1:
            server.request("DELETE", f"/v1/jobs/{job}?forget=true")

    def draw(self, server: Server, number: int):
        path, more = (("/v1/images/generations", {}), ("/v1/images/generations", {"stream": True, "partial_images": 2}),
                      ("/sdapi/v1/txt2img", {"steps": 4}))[number % 3]
        if number % 5 == 4:
            leaver = server.connect()
            leaver.request("POST", path, json.dumps({**self.asked, **more}))
            leaver.close()
        else:
            self.assertEqual(server.post(path, {**self.asked, **more, "seed": number}).status, 200)

    def look(self, server: Server, number: int):
        for path in ("/metrics", "/health/ready", "/v1/storage", "/sdapi/v1/progress", "/v1/jobs?limit=20"):
            self.assertEqual(server.get(path).status, 200)
        for job in server.get("/v1/jobs?limit=3").json()["data"]:
            for image in job["images"]:
                server.get(image["url"])  # or it is forgotten

    def test_all_kinds_of_clients_until_it_ends(self):
        with Server("--model-path", str(self.model), "--keep-pictures", "2", "--shutdown-grace", "1") as server:
            stopping, failed = threading.Event(), []

            def repeat(work):
                number = 0
                while not stopping.is_set():
                    try:
                        work(server, number := number + 1)
                    except Exception as error:
                        if not stopping.is_set():
                            failed.append(error)
                        return

            threads = [threading.Thread(target=repeat, args=(work,)) for work in (self.follow, self.follow, self.draw, self.draw, self.look)]
            for thread in threads:
                thread.start()
            time.sleep(3)
            has = lambda told: re.search(told, server.get("/metrics").body.decode())
            server.wait_until(lambda: has(r'nostos_jobs_total\{status="completed"\} [1-9]') and has("nostos_jobs_forgotten_total [1-9]"))
            stopping.set()
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            self.assertEqual(failed, [])
            self.assertEqual(server.process.wait(60), 0, "".join(line for line in server.log if not line.startswith("{")))


class Crash(unittest.TestCase):
    """kill -9 under load: every accepted job is finished or reported failed, none twice, nothing corrupt."""

    flags: tuple[str, ...] = ()

    def test_kill_at_random_moments(self):
        kills = int(os.environ.get("NOSTOS_KILLS", "5"))
        seed = int(os.environ.get("NOSTOS_SEED", random.randrange(10**6)))
        chance = random.Random(seed)
        accepted: dict[str, str] = {}  # idempotency key, job
        completed: dict[str, list] = {}
        with tempfile.TemporaryDirectory() as folder, self.subTest(kills=kills, NOSTOS_SEED=seed):
            for round in range(kills):
                server = Server("--queue", "1000", *self.flags, data_dir=folder, ready=chance.random() < 0.9)
                stop = threading.Event()

                def load(client: int):
                    number = 0
                    while not stop.is_set():
                        key = f"{round}-{client}-{number}"
                        body = {"prompt": key, **SMALL, "num_inference_steps": chance.choice((1, 2, 20)), "n": chance.choice((1, 1, 3))}
                        try:
                            answer = server.post("/v1/jobs", body, {"Idempotency-Key": key})
                            if answer.status == 202:
                                accepted[key] = answer.json()["id"]
                            number += 1
                            for job in server.get("/v1/jobs?status=completed&limit=20").json()["data"]:
                                completed.setdefault(job["id"], job)
                        except (OSError, ValueError, HTTPException):
                            pass
                        stop.wait(0.02)

                threads = [threading.Thread(target=load, args=(client,)) for client in range(3)]
                for thread in threads:
                    thread.start()
                time.sleep(chance.uniform(0.05, 1.0))
                server.kill()
                stop.set()
                for thread in threads:
                    thread.join()
                server.__exit__()
            self.assertGreater(len(accepted), kills // 2)
            with Server("--queue", "1000", data_dir=folder) as server:
                for key, job in accepted.items():
                    ended = server.wait_for(job)
                    self.assertIn(ended["status"], ("completed", "failed"), ended)
                    self.assertEqual(ended["request"]["prompt"], key)
                    if ended["status"] == "completed":
                        self.assertEqual(len(ended["images"]), ended["request"]["n"])
                        for image in ended["images"]:
                            data = server.get(image["url"]).body
                            self.assertEqual(len(data), image["bytes"])
                            check_png(data, (64, 64))
                # What was completed before a kill was never drawn again.
                for job, before in completed.items():
                    self.assertEqual(server.job(job), before)
                server.wait_until(lambda: not server.get("/v1/jobs?status=queued").json()["data"])
            database = sqlite3.connect(Path(folder) / "jobs.sqlite")
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone()[0], "ok")
            self.assertEqual(database.execute("SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')").fetchone()[0], 0)
            files = {row[0] + "." + row[1] for row in database.execute("SELECT id, format FROM images")}
            database.close()
            self.assertEqual({path.name for path in (Path(folder) / "images").iterdir()}, files)
            print(f"{kills} kills, seed {seed}: {len(accepted)} accepted, {len(files)} pictures", file=sys.stderr)


class CrashLanes(Crash):
    flags = ("--device", "cpu", "--num-gpus", "3", "--policy", "throughput")


if __name__ == "__main__":
    run_tests()
