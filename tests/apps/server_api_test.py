"""Runs `nostos serve` and checks its APIs: its own of jobs, that of OpenAI and that of AUTOMATIC1111's web UI.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_api_test.py [Jobs] [OpenAi] [A1111] [Distilled] [Names] [Log] [ServedName]. Exits with 77 if everything was skipped. Draws with
the embedded model. Needs Python 3.11 alone; the OpenAI package's own test is skipped, saying so, without it (scripts/test.sh installs it).
"""

import base64
import json
import struct
import tempfile
import threading
import time
import unittest
import zlib
from pathlib import Path

from server_case import ServerTest, check_png, run_tests
from server_process import ENDLESS, SMALL, Server, events


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns width and height of a JPEG, from the header of its one frame."""
    assert data[:3] == b"\xff\xd8\xff" and data[-2:] == b"\xff\xd9"
    offset = 2
    while data[offset + 1] not in (0xC0, 0xC2):
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    height, width = struct.unpack(">HH", data[offset + 5 : offset + 9])
    return width, height


class Jobs(ServerTest):
    flags = ("--trust-client-id",)

    def test_a_job_from_request_to_picture(self):
        answer = self.server.post("/v1/jobs", {"prompt": "a boat", **SMALL, "n": 2})
        self.assertEqual(answer.status, 202)
        job = answer.json()
        self.assertEqual(answer.headers["location"], f"/v1/jobs/{job['id']}")
        self.assertEqual(job["object"], "job")
        done = self.server.wait_for(job["id"])
        self.assertEqual(done["status"], "completed", done)
        self.assertEqual([image["seed"] for image in done["images"]], [7, 8])
        self.assertGreater(done["finished_at"], done["started_at"])
        self.assertIn("denoise", [stage["name"] for stage in done["timings"]["stages"]])
        for image in done["images"]:
            picture = self.server.get(image["url"])
            self.assertEqual(picture.headers["content-type"], "image/png")
            self.assertEqual(len(picture.body), image["bytes"])
            check_png(picture.body, (64, 64))

    def test_equal_requests_give_equal_pictures(self):
        first, second = (self.server.wait_for(self.server.submit(seed=3)) for _ in range(2))
        bodies = [self.server.get(job["images"][0]["url"]).body for job in (first, second)]
        self.assertEqual(bodies[0], bodies[1])

    def test_events_tell_the_steps_and_end_with_the_job(self):
        blocker = self.server.submit(**ENDLESS)
        job = self.server.submit(num_inference_steps=3, n=2)
        connection = self.server.connect()
        connection.request("GET", f"/v1/jobs/{job}/events")
        response = connection.getresponse()
        self.assertEqual(response.getheader("content-type"), "text/event-stream")
        self.server.request("DELETE", f"/v1/jobs/{blocker}")
        told = events(response.read())
        connection.close()
        self.assertEqual(told[0], ("queued", {"id": job, "position": 1}))
        names = [name for name, _ in told]
        self.assertLess(names.index("started"), names.index("step"))
        steps = [(data["step"], data["steps"]) for name, data in told if name == "step"]
        self.assertEqual(steps, sorted(set(steps)))
        self.assertEqual((steps[0], steps[-1]), ((1, 6), (6, 6)))
        self.assertEqual([name for name in names if name == "done"], ["done"])
        self.assertEqual(names[-1], "done")
        self.assertEqual(told[-1][1], self.server.job(job))

    def drawn_with(self, job):
        """How many jobs were drawn together with one that has ended, itself included."""
        told = [json.loads(line) for line in list(self.server.log) if '"message":"job ended"' in line and job in line]
        return told[-1]["together"]

    def test_jobs_of_one_kind_are_drawn_together_and_get_the_pictures_they_get_alone(self):
        kinds = [{"prompt": "a boat", "seed": 1}, {"prompt": "two tall trees beside a lake at night", "guidance_scale": 0},
                 {"prompt": "x", "seed": 3, "n": 2, "guidance_scale": 4}, {"prompt": "a boat", "width": 96}]
        kinds = [{**kind, "num_inference_steps": 11} for kind in kinds]  # unlike what other tests left in the queue
        blocker = self.server.submit(**ENDLESS)
        jobs = [self.server.submit(**kind) for kind in kinds]
        self.server.request("DELETE", f"/v1/jobs/{blocker}")
        together = [self.server.wait_for(job) for job in jobs]
        alone = [self.server.wait_for(self.server.submit(**kind)) for kind in kinds]
        self.server.wait_until(lambda: any(alone[-1]["id"] in line and "job ended" in line for line in self.server.log))
        self.assertEqual([self.drawn_with(job) for job in jobs], [3, 3, 3, 1])
        self.assertEqual([self.drawn_with(job["id"]) for job in alone], [1] * 4)
        for one, other in zip(together, alone):
            self.assertEqual(one["status"], "completed", one)
            pictures = [[self.server.get(image["url"]).body for image in job["images"]] for job in (one, other)]
            self.assertEqual(pictures[0], pictures[1])

    def test_a_job_leaves_those_it_is_drawn_with(self):
        blocker = self.server.submit(**ENDLESS)
        leaver, stayer = (self.server.submit(num_inference_steps=300, seed=seed) for seed in (1, 2))
        self.server.request("DELETE", f"/v1/jobs/{blocker}")
        self.server.wait_until(lambda: (self.server.job(leaver)["progress"] or {}).get("step", 0) >= 2)
        self.server.request("DELETE", f"/v1/jobs/{leaver}")
        self.assertEqual(self.server.wait_for(stayer)["status"], "completed")
        self.assertEqual(self.server.job(leaver)["status"], "cancelled")
        self.server.wait_until(lambda: any(stayer in line and "job ended" in line for line in self.server.log))
        self.assertEqual(self.drawn_with(stayer), 2)

    def test_previews_are_shown_and_change_nothing(self):
        asked = {"num_inference_steps": 60, "width": 128, "height": 64, "guidance_scale": 2}
        unwatched = self.server.wait_for(self.server.submit(**asked))
        job = self.server.submit(**asked)
        told = [data for name, data in events(self.server.get(f"/v1/jobs/{job}/events").body) if name == "preview"]
        self.assertGreaterEqual(len(told), 1)
        for data in told:
            self.assertEqual((data["id"], data["picture"]), (job, 1))
            self.assertIn(data["step"], range(1, 60))
            kind, picture = data["image"].split(",")
            self.assertEqual(kind, "data:image/jpeg;base64")
            self.assertEqual(jpeg_size(base64.b64decode(picture, validate=True)), (16, 8))
        pictures = [self.server.get(one["images"][0]["url"]).body for one in (unwatched, self.server.job(job))]
        self.assertEqual(pictures[0], pictures[1])

    def test_previews_come_a_few_a_second(self):
        job = self.server.submit(**ENDLESS)
        start, stop = time.monotonic(), threading.Timer(2, lambda: self.server.request("DELETE", f"/v1/jobs/{job}"))
        stop.start()
        told = [data for name, data in events(self.server.get(f"/v1/jobs/{job}/events").body) if name == "preview"]
        self.assertGreaterEqual(len(told), 2)
        self.assertLessEqual(len(told), 1 + (time.monotonic() - start) / 0.25)
        self.assertEqual([data["step"] for data in told], sorted({data["step"] for data in told}))

    def test_head_of_events_is_a_head_alone(self):
        job = self.server.submit(**ENDLESS)
        connection = self.server.connect(timeout=10)
        for method, status in (("HEAD", 200), ("GET", 200)):
            connection.request(method, f"/v1/jobs/{job}/events" if method == "HEAD" else "/health/live")
            response = connection.getresponse()
            self.assertEqual(response.status, status)
            self.assertEqual(response.read(), b"" if method == "HEAD" else b'{"status":"ok"}')
        connection.close()
        self.server.request("DELETE", f"/v1/jobs/{job}")

    def test_events_of_an_ended_job_are_done_alone(self):
        job = self.server.submit()
        self.server.wait_for(job)
        told = events(self.server.get(f"/v1/jobs/{job}/events").body)
        self.assertEqual([name for name, _ in told], ["done"])

    def test_an_idempotency_key_makes_one_job(self):
        body = {"prompt": "once", **SMALL}
        first = self.server.post("/v1/jobs", body, {"Idempotency-Key": "key-1"})
        again = self.server.post("/v1/jobs", dict(reversed(body.items())), {"Idempotency-Key": "key-1"})
        self.assertEqual((first.status, again.status), (202, 202))
        self.assertEqual(first.json()["id"], again.json()["id"])
        other = self.server.post("/v1/jobs", {**body, "seed": 8}, {"Idempotency-Key": "key-1"})
        self.assertEqual(other.status, 409)
        self.assertEqual(other.json()["error"]["code"], "idempotency_key_reused")
        # Another client's key of the same text is its own, whatever comes with it.
        theirs = self.server.post("/v1/jobs", body, {"Idempotency-Key": "key-1", "X-Client-Id": "other"})
        self.assertEqual(theirs.status, 202)
        self.assertNotEqual(theirs.json()["id"], first.json()["id"])

    def test_seeds_of_64_bits_come_back_exactly(self):
        for seed in (2**64 - 1, 2**63, 2**53 + 1):
            job = self.server.wait_for(self.server.submit(seed=str(seed)))
            self.assertEqual((job["request"]["seed"], job["images"][0]["seed"]), (seed, seed))
            self.assertIn(f'"seed":{seed},'.encode(), self.server.get(job["images"][0]["url"]).body)

    def test_prompts_that_are_cut_or_name_networks_are_told(self):
        job = self.server.wait_for(self.server.submit(prompt="cat " * 1000 + "<lora:detail:0.8>", max_sequence_length=600))
        self.assertEqual((job["request"]["max_sequence_length"], job["prompt_truncated"], job["negative_prompt_truncated"]), (600, True, False))
        warnings = job["warnings"]
        self.assertEqual([name for name in ("<lora:", "first 600 tokens") for warning in warnings if name in warning], ["<lora:", "first 600 tokens"])
        logged = [json.loads(line) for line in list(self.server.log)]
        self.assertEqual([line["message"] for line in logged if line["level"] == "warning" and line.get("job") == job["id"]], warnings)
        job = self.server.wait_for(self.server.submit())
        self.assertEqual((job["prompt_truncated"], job["warnings"]), (False, []))

    def test_idempotent_requests_at_once_make_one_job(self):
        ids = []
        body = {"prompt": "once", **SMALL}
        send = lambda: ids.append(self.server.post("/v1/jobs", body, {"Idempotency-Key": "key-2"}).json()["id"])
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(ids), 8)
        self.assertEqual(len(set(ids)), 1)

    def test_the_list_is_newest_first_and_pages(self):
        ids = [self.server.submit(seed=seed) for seed in range(5)]
        for job in ids:
            self.server.wait_for(job)
        page = self.server.get("/v1/jobs?limit=3").json()
        self.assertTrue(page["has_more"])
        self.assertEqual([job["id"] for job in page["data"]], ids[:1:-1])
        following = self.server.get(f"/v1/jobs?limit=2&before={ids[2]}&status=completed").json()
        self.assertEqual([job["id"] for job in following["data"]], [ids[1], ids[0]])

    def test_cancel_ends_a_running_job_within_a_step(self):
        job = self.server.submit(**ENDLESS)
        self.server.wait_until(lambda: (self.server.job(job)["progress"] or {}).get("step", 0) >= 2)
        step_ms = self.server.job(job)["progress"]["step_ms"]
        start = time.monotonic()
        self.assertEqual(self.server.request("DELETE", f"/v1/jobs/{job}").status, 202)
        self.assertEqual(self.server.wait_for(job)["status"], "cancelled")
        # One step, and as much again for a busy machine and the polling above.
        self.assertLess(time.monotonic() - start, 2 * step_ms / 1000 + 0.5)
        self.assertEqual(self.server.request("DELETE", f"/v1/jobs/{job}").status, 200)

    def test_cancel_of_a_waiting_job_is_at_once(self):
        blocker = self.server.submit(**ENDLESS)
        job = self.server.submit()
        answer = self.server.request("DELETE", f"/v1/jobs/{job}")
        self.assertEqual((answer.status, answer.json()["status"]), (200, "cancelled"))
        self.server.request("DELETE", f"/v1/jobs/{blocker}")

    def test_forget_removes_job_and_pictures(self):
        job = self.server.wait_for(self.server.submit())
        url = job["images"][0]["url"]
        running = self.server.submit(**ENDLESS)
        self.assertEqual(self.server.request("DELETE", f"/v1/jobs/{running}?forget=true").status, 409)
        self.server.request("DELETE", f"/v1/jobs/{running}")
        self.assertTrue(self.server.request("DELETE", f"/v1/jobs/{job['id']}?forget=true").json()["deleted"])
        self.assertEqual(self.server.get(url).status, 404)
        self.assertEqual(self.server.get(f"/v1/jobs/{job['id']}").status, 404)
        self.assertFalse(list((self.server.data_dir / "images").glob(url.split("/")[-1] + "*")))

    def test_pictures_in_each_format(self):
        for name, magic in (("jpeg", b"\xff\xd8"), ("webp", b"RIFF"), ("png", b"\x89PNG")):
            job = self.server.wait_for(self.server.submit(output_format=name, output_compression=80))
            answer = self.server.get(job["images"][0]["url"])
            self.assertEqual(answer.headers["content-type"], f"image/{name}")
            self.assertTrue(answer.body.startswith(magic))

    def test_picture_ranges_and_caches(self):
        url = self.server.wait_for(self.server.submit())["images"][0]["url"]
        whole = self.server.get(url)
        self.assertIn("immutable", whole.headers["cache-control"])
        size = len(whole.body)
        for given, start, end in (("0-7", 0, 8), ("8-", 8, size), ("-5", size - 5, size), (f"3-{2 * size}", 3, size)):
            part = self.server.get(url, Range=f"bytes={given}")
            self.assertEqual(part.status, 206)
            self.assertEqual(part.body, whole.body[start:end])
            self.assertEqual(part.headers["content-range"], f"bytes {start}-{end - 1}/{size}")
        for given in (f"{size}-", "-0", f"{10**30}-"):
            self.assertIn(self.server.get(url, Range=f"bytes={given}").status, (416, 200))
        for ignored in ("bytes=0-1,3-4", "bytes=a-b", "lines=1-2", "bytes=5-2", "bytes=-"):
            self.assertEqual(self.server.get(url, Range=ignored).body, whole.body)
        same = self.server.get(url, If_None_Match=whole.headers["etag"])
        self.assertEqual((same.status, same.body), (304, b""))
        head = self.server.request("HEAD", url)
        self.assertEqual((head.status, int(head.headers["content-length"]), head.body), (200, size, b""))
        self.assertIn("attachment", self.server.get(url + "?download=true").headers["content-disposition"])


class OpenAi(ServerTest):
    def test_generations_in_both_forms(self):
        body = {"prompt": "a boat", "model": "any", "size": "64x48", "n": 2, "num_inference_steps": 1, "seed": 1,
                "guidance_scale": 0, "user": "me", "unheard_of": [1]}
        answer = self.server.post("/v1/images/generations", body)
        self.assertEqual(answer.status, 200, answer.body)
        entries = answer.json()["data"]
        self.assertEqual([entry["seed"] for entry in entries], [1, 2])
        pictures = [base64.b64decode(entry["b64_json"], validate=True) for entry in entries]
        for picture in pictures:
            check_png(picture, (64, 48))
        answer = self.server.post("/v1/images/generations", {**body, "n": 1, "response_format": "url"})
        url = answer.json()["data"][0]["url"]
        prefix = f"http://127.0.0.1:{self.server.port}"
        self.assertTrue(url.startswith(prefix), url)
        self.assertEqual(self.server.get(url[len(prefix):]).body, pictures[0])

    def test_stream_ends_with_the_pictures(self):
        body = {"prompt": "a boat", **SMALL, "n": 2, "stream": True, "partial_images": 2, "output_format": "webp"}
        told = events(self.server.post("/v1/images/generations", body).body)
        self.assertEqual([name for name, _ in told], ["image_generation.completed"] * 2)
        for _, data in told:
            self.assertEqual(data["type"], "image_generation.completed")
            self.assertTrue(base64.b64decode(data["b64_json"]).startswith(b"RIFF"))

    def test_stream_sends_partial_images(self):
        body = {"prompt": "a boat", **SMALL, "n": 2, "stream": True, "output_format": "png"}
        for steps, asked, sent in ((9, 3, 3), (2, 3, 1), (5, 0, 0)):
            told = events(self.server.post("/v1/images/generations", {**body, "num_inference_steps": steps, "partial_images": asked}).body)
            partials = [data for name, data in told if name == "image_generation.partial_image"]
            self.assertEqual([data["partial_image_index"] for data in partials], 2 * list(range(sent)), (steps, asked))
            for data in partials:
                self.assertEqual((data["type"], data["size"]), ("image_generation.partial_image", "64x64"))
                check_png(base64.b64decode(data["b64_json"], validate=True), (8, 8))
            self.assertEqual([name for name, _ in told[-2:]], ["image_generation.completed"] * 2)

    def test_models(self):
        models = self.server.get("/v1/models").json()
        self.assertEqual(models["object"], "list")
        name = models["data"][0]["id"]
        self.assertEqual(models["data"][0]["nostos"]["token_multiple"], 32)
        self.assertEqual(self.server.get(f"/v1/models/{name}").json(), models["data"][0])
        for other in ("other", "owner/other", "owner%2Fother"):
            self.assertEqual(self.server.get(f"/v1/models/{other}").json()["error"]["code"], "model_not_found")

    def test_a_cut_prompt_is_told(self):
        body = {"prompt": "cat " * 1000, **SMALL}
        answer = self.server.post("/v1/images/generations", body).json()
        self.assertEqual((answer["prompt_truncated"], len(answer["warnings"])), (True, 1))
        told = events(self.server.post("/v1/images/generations", {**body, "stream": True}).body)
        self.assertIs(told[-1][1]["prompt_truncated"], True)

    def test_errors_name_the_field(self):
        cases = [({}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": "x", "n": 11}, "n"), ({"prompt": "x", "n": 0}, "n"),
                 ({"prompt": "x", "n": 10**30}, "n"), ({"prompt": "x", "size": "64"}, "size"),
                 ({"prompt": "x", "size": "64x64x64"}, "size"), ({"prompt": "x", "size": "-64x64"}, "size"),
                 ({"prompt": "x", "size": "8192x8192"}, "size"), ({"prompt": "x", "width": 10**9}, "width"),
                 ({"prompt": "x", "width": 1.5}, "width"), ({"prompt": "x", "seed": -2}, "seed"),
                 ({"prompt": "x", "guidance_scale": "high"}, "guidance_scale"), ({"prompt": "x", "guidance_scale": 1e300}, "guidance_scale"),
                 ({"prompt": "x", "num_inference_steps": 1001}, "num_inference_steps"), ({"prompt": "x" * 40_000}, "prompt"),
                 ({"prompt": "x", "cfg_truncation": 0}, "cfg_truncation"), ({"prompt": "x", "output_format": "gif"}, "output_format"),
                 ({"prompt": "x", "response_format": "file"}, "response_format"), ({"prompt": "x", "stream": "yes"}, "stream"),
                 ({"prompt": "x", "background": "transparent"}, "background"), ({"prompt": ["a"]}, "prompt")]
        for body, param in cases:
            with self.subTest(body=str(body)[:80]):
                answer = self.server.post("/v1/images/generations", body)
                self.assertEqual(answer.status, 400, answer.body)
                error = answer.json()["error"]
                self.assertEqual(error["type"], "invalid_request_error")
                self.assertEqual(error["param"], param)
        answer = self.server.post("/v1/jobs", {"prompt": "x", "step": 4})
        self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "step"))


class OpenAiPackage(ServerTest):
    def test_the_unmodified_package(self):
        try:
            import openai
        except ImportError:
            self.skipTest("the openai package is not installed for this Python")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0)
        self.assertEqual(client.models.list().data[0].owned_by, "nostos")
        result = client.images.generate(model="nostos-mini", prompt="a boat", size="64x64", n=1,
                                        extra_body={"num_inference_steps": 1, "seed": 7, "guidance_scale": 0})
        check_png(base64.b64decode(result.data[0].b64_json), (64, 64))
        stream = client.images.generate(model="nostos-mini", prompt="a boat", size="64x64", stream=True, partial_images=1,
                                        extra_body={"num_inference_steps": 2, "seed": 7, "guidance_scale": 0})
        self.assertEqual([event.type for event in stream], ["image_generation.partial_image", "image_generation.completed"])
        with self.assertRaises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a boat", n=99)
        self.assertEqual(caught.exception.param, "n")


class A1111(ServerTest):
    def test_txt2img(self):
        body = {"prompt": "a boat", "negative_prompt": "rain", "steps": 1, "cfg_scale": 1, "width": 64, "height": 64,
                "batch_size": 2, "seed": 9, "sampler_name": "Euler a", "override_settings": {}, "styles": []}
        answer = self.server.post("/sdapi/v1/txt2img", body)
        self.assertEqual(answer.status, 200, answer.body)
        result = answer.json()
        self.assertEqual(len(result["images"]), 2)
        check_png(base64.b64decode(result["images"][0]), (64, 64))
        info = json.loads(result["info"])
        self.assertEqual(info["all_seeds"], [9, 10])
        self.assertEqual(info["batch_size"], 2)
        many = self.server.post("/sdapi/v1/txt2img", {**body, "n_iter": 2}).json()
        self.assertEqual((len(many["images"]), json.loads(many["info"])["batch_size"]), (4, 2))
        self.assertIn("Steps: 1", info["infotexts"][0])
        self.assertIn("Seed: 10", info["infotexts"][1])
        self.assertEqual(result["parameters"], body)

    def draw(self, **body):
        answer = self.server.post("/sdapi/v1/txt2img", {"prompt": "a red boat", "negative_prompt": "blue", "seed": 5, "width": 64,
                                                        "height": 64, "steps": 2, **body})
        self.assertEqual(answer.status, 200, answer.body)
        return base64.b64decode(answer.json()["images"][0]), json.loads(answer.json()["info"])

    def test_the_scale_is_the_usual_one(self):
        for scale, guidance in ((1, 0), (1.01, 0.01), ("5", 4)):
            picture, info = self.draw(cfg_scale=scale)
            self.assertEqual(info["cfg_scale"], float(scale))
            self.assertIn(f"CFG scale: {float(scale):g},", info["infotexts"][0])
            own = self.server.post("/v1/images/generations", {"prompt": "a red boat", "negative_prompt": "blue", "seed": 5, "size": "64x64",
                                                              "num_inference_steps": 2, "guidance_scale": guidance}).json()
            self.assertEqual(picture, base64.b64decode(own["data"][0]["b64_json"]), scale)
            # What its text says draws it again.
            read = self.server.post("/sdapi/v1/png-info", {"image": base64.b64encode(picture).decode()}).json()["parameters"]
            again, _ = self.draw(prompt=read["Prompt"], steps=read["Steps"], cfg_scale=read["CFG scale"], seed=read["Seed"])
            self.assertEqual(again, picture, scale)

    def test_errors_have_its_shape(self):
        for body in ({"prompt": 5}, {"prompt": "x", "steps": "many"}, {"prompt": "x", "batch_size": 4, "n_iter": 4}):
            answer = self.server.post("/sdapi/v1/txt2img", body)
            self.assertEqual(answer.status, 400)
            self.assertLessEqual({"error", "detail", "errors"}, set(answer.json()))

    def test_progress_and_interrupt(self):
        idle = self.server.get("/sdapi/v1/progress").json()
        self.assertEqual((idle["progress"], idle["state"]["job_count"]), (0, 0))
        results = []
        body = {"prompt": "x", "steps": 1000, "width": 256, "height": 256, "cfg_scale": 0}
        thread = threading.Thread(target=lambda: results.append(self.server.post("/sdapi/v1/txt2img", body)))
        thread.start()
        progress = lambda: self.server.get("/sdapi/v1/progress").json()
        self.server.wait_until(lambda: progress()["state"]["sampling_step"] >= 2)
        self.assertGreater(progress()["progress"], 0)
        self.server.wait_until(lambda: progress()["current_image"])
        check_png(base64.b64decode(progress()["current_image"], validate=True), (32, 32))
        self.assertIsNone(self.server.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"])
        self.assertEqual(self.server.post("/sdapi/v1/interrupt", {}).status, 200)
        thread.join()
        self.assertEqual((results[0].status, results[0].json()["images"]), (200, []))

    def test_lists_and_options(self):
        name = self.server.get("/v1/models").json()["data"][0]["id"]
        self.assertEqual(self.server.get("/sdapi/v1/sd-models").json()[0]["model_name"], name)
        self.assertEqual(self.server.get("/sdapi/v1/samplers").json()[0]["name"], "Euler")
        self.assertEqual(self.server.get("/sdapi/v1/options").json()["sd_model_checkpoint"], name)
        self.assertEqual(self.server.post("/sdapi/v1/options", {"sd_model_checkpoint": name, "x": 1}).status, 200)
        self.assertEqual(self.server.post("/sdapi/v1/options", {"sd_model_checkpoint": "other"}).status, 400)
        lists = {"schedulers": [{"name", "label", "aliases", "default_rho", "need_inner_model"}],
                 "upscalers": [{"name", "model_name", "model_path", "model_url", "scale"}], "samplers": [{"name", "aliases", "options"}],
                 "sd-models": [{"title", "model_name", "hash", "sha256", "filename", "config"}]}
        for path, entries in lists.items():
            self.assertEqual([set(entry) for entry in self.server.get(f"/sdapi/v1/{path}").json()], entries, path)
        for path in ("latent-upscale-modes", "sd-vae", "sd-modules", "loras", "hypernetworks", "face-restorers", "realesrgan-models",
                     "prompt-styles", "script-info"):
            self.assertEqual(self.server.get(f"/sdapi/v1/{path}").json(), [], path)
        self.assertEqual(self.server.get("/sdapi/v1/embeddings").json(), {"loaded": {}, "skipped": {}})
        self.assertEqual(self.server.get("/sdapi/v1/scripts").json(), {"txt2img": [], "img2img": []})
        self.assertEqual(self.server.get("/sdapi/v1/cmd-flags").json(), {"api": True})
        memory = self.server.get("/sdapi/v1/memory").json()
        self.assertGreater(memory["ram"]["total"], memory["ram"]["used"])
        self.assertGreater(memory["ram"]["used"], 0)
        for path in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "skip"):
            answer = self.server.post(f"/sdapi/v1/{path}", {})
            self.assertEqual((answer.status, answer.json()), (200, None), path)

    def test_png_info_of_a_large_picture(self):
        picture, info = self.draw()
        self.assertLess(len(picture), 1 << 20)
        ihdr_end = 8 + 25
        padding = b"noTE" + bytes(2 << 20)  # a chunk that readers skip
        large = picture[:ihdr_end] + struct.pack(">I", 2 << 20) + padding + struct.pack(">I", zlib.crc32(padding)) + picture[ihdr_end:]
        answer = self.server.post("/sdapi/v1/png-info", {"image": base64.b64encode(large).decode()})
        self.assertEqual((answer.status, answer.json()["info"]), (200, info["infotexts"][0]))

    def test_png_info(self):
        picture, info = self.draw(seed=2**64 - 1)
        for image in (base64.b64encode(picture).decode(), "data:image/png;base64," + base64.b64encode(picture).decode()):
            read = self.server.post("/sdapi/v1/png-info", {"image": image}).json()
            self.assertEqual(read["info"], info["infotexts"][0])
            self.assertEqual(json.loads(read["items"]["nostos"])["seed"], 2**64 - 1)
            self.assertEqual({name: read["parameters"][name] for name in ("Prompt", "Negative prompt", "Seed", "Size-1", "Size-2")},
                             {"Prompt": "a red boat", "Negative prompt": "blue", "Seed": str(2**64 - 1), "Size-1": "64", "Size-2": "64"})
        for bad in (None, 5, "", "?", "data:", "data:image/png;base64,", base64.b64encode(b"GIF89a").decode(),
                    base64.b64encode(picture[:100]).decode()):
            answer = self.server.post("/sdapi/v1/png-info", {"image": bad})
            self.assertEqual(answer.status, 400, bad)
            self.assertIn("image", answer.json()["detail"], bad)


class Distilled(ServerTest):
    """A model without guidance, which a negative prompt and a scale are nothing to."""

    flags = ("--model-path", str(Path(__file__).resolve().parents[1] / "data" / "klein_tiny" / "distilled"))

    def stages(self, prompt: str, **fields) -> list[str]:
        """Returns the stages that the event stream of a job names, but for loading weights."""
        blocker = self.server.submit(**ENDLESS)
        self.server.wait_for(blocker, "running")
        job = self.server.submit(prompt=prompt, max_sequence_length=64, **fields)
        connection = self.server.connect()
        connection.request("GET", f"/v1/jobs/{job}/events")
        response = connection.getresponse()
        first = response.readline()  # the job is watched before it is drawn
        self.server.request("DELETE", f"/v1/jobs/{blocker}")
        told = events(first + response.read())
        connection.close()
        self.assertEqual(told[-1][1]["status"], "completed", told[-1])
        return [data["stage"] for name, data in told if name == "stage" and data["stage"] != "load"]

    def test_pictures_are_a_stage_of_their_own(self):
        picture = (Path(self.flags[1]).parent / "references" / "a.png").read_bytes()
        self.assertEqual(self.stages("a boat", image=base64.b64encode(picture).decode()), ["encode", "text", "denoise", "decode"])
        self.assertEqual(self.stages("a boat"), ["text", "denoise", "decode"])

    def test_fields_that_change_nothing_are_named(self):
        self.assertIs(self.server.get("/v1/models").json()["data"][0]["nostos"]["has_guidance"], False)
        small = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 7, "max_sequence_length": 64}
        answer = self.server.post("/v1/jobs", {"prompt": "a boat", **small, "guidance_scale": 4, "negative_prompt": "a car"})
        self.assertEqual(answer.status, 202, answer.body)
        warnings = ["guidance_scale 4 changes nothing: this model is distilled and draws without guidance",
                    "negative_prompt changes nothing without guidance, which this distilled model has not"]
        self.assertEqual(answer.json()["warnings"], warnings)
        job = self.server.wait_for(answer.json()["id"])
        self.assertEqual((job["status"], job["warnings"]), ("completed", warnings), job)
        logged = [json.loads(line) for line in self.server.log if line.startswith("{")]
        self.assertEqual([line["message"] for line in logged if line["level"] == "warning" and line.get("job") == job["id"]], warnings)
        plain = self.server.post("/v1/jobs", {"prompt": "a boat", **small}).json()
        self.assertEqual(plain["warnings"], [])
        self.server.wait_for(plain["id"])
        pictures = [self.server.get(self.server.job(each["id"])["images"][0]["url"]).body for each in (job, plain)]
        pixels = [picture[picture.index(b"IDAT") :] for picture in pictures]
        self.assertEqual(pixels[0], pixels[1])


class Names(ServerTest):
    """A model that came from Hugging Face."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        snapshot = Path(folder.name) / "models--Some-Org--Z-Mini.v1" / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(Path(__file__).resolve().parents[2] / "models" / "mini")
        cls.flags = ("--model-path", str(snapshot))
        super().setUpClass()

    def test_it_is_known_by_its_short_and_full_name(self):
        models = self.server.get("/v1/models").json()["data"]
        self.assertEqual([model["id"] for model in models], ["Z-Mini.v1", "Some-Org/Z-Mini.v1"])
        self.assertEqual({**models[1], "id": "Z-Mini.v1"}, models[0])
        for name, model in (("Z-Mini.v1", models[0]), ("Some-Org/Z-Mini.v1", models[1]), ("Some-Org%2FZ-Mini.v1", models[1])):
            self.assertEqual(self.server.get(f"/v1/models/{name}").json(), model)
        for name in ("Z-Mini.v1", "Some-Org/Z-Mini.v1"):
            self.assertEqual(self.server.post("/sdapi/v1/options", {"sd_model_checkpoint": name}).status, 200)
        info = self.server.post("/sdapi/v1/txt2img", {"steps": 1, "width": 64, "height": 64}).json()["info"]
        self.assertIn("Model: Z-Mini.v1,", json.loads(info)["infotexts"][0])


class Log(unittest.TestCase):
    def test_every_line_is_json(self):
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "images"
            images.mkdir()
            (images / "stray.png").write_bytes(b"x")  # the store's own warning, from before the server listens
            with Server(data_dir=folder) as server:
                lines = [json.loads(line) for line in list(server.log)]
        told = [(line["level"], line["message"]) for line in lines if "stray.png" in line["message"]]
        self.assertEqual(told, [("info", f"{images / 'stray.png'} belongs to no completed job: removed")])


class ServedName(ServerTest):
    flags = ("--served-model-name", "my/model")

    def test_it_is_known_by_that_name_alone(self):
        self.assertEqual(self.server.get("/v1/models").json()["data"][0]["id"], "my/model")
        self.assertEqual([self.server.get(f"/v1/models/{name}").status for name in ("my/model", "my%2Fmodel", "nostos-mini")], [200, 200, 404])
        info = self.server.post("/sdapi/v1/txt2img", {"steps": 1, "width": 64, "height": 64}).json()["info"]
        self.assertIn("Model: my/model,", json.loads(info)["infotexts"][0])


if __name__ == "__main__":
    run_tests()
