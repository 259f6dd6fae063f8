"""Replays what front ends send to `nostos serve`, and reads of the answers what they read: the requests as their sources have them.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos front_ends_test.py [OpenWebUi] [SillyTavern] [LibreChat] [CyanicKrita] [ClientDefaults]. The model is
the embedded one, told to draw without guidance as a distilled one does. Needs Python 3.11 alone. docs/front-ends.md lists the programs.
"""

import base64
import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from server_case import BOUNDARY, ServerTest, check_png, form, run_tests
from server_process import ENDLESS, Server, basic

KEY = "s3cret"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
OWN_STEPS = 2  # of the model below


def distilled_model(folder: str) -> str:
    """Makes a folder of the embedded model with defaults as a distilled model has them, and returns its path."""
    model = Path(folder) / "mini-turbo"
    model.mkdir()
    for part in (Path(__file__).resolve().parents[2] / "models" / "mini").iterdir():
        (model / part.name).symlink_to(part)
    (model / "generation_config.json").unlink()
    (model / "generation_config.json").write_text(json.dumps({"num_inference_steps": OWN_STEPS, "guidance_scale": 0}))
    return str(model)


class FrontEnd(ServerTest):
    """A server of a distilled model. Every request of the program has `headers`."""

    has_key = False
    more_flags: tuple[str, ...] = ()
    headers: dict[str, str] = {}

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.flags = ("--model-path", distilled_model(folder.name), *cls.more_flags)
        if cls.has_key:
            key = Path(folder.name) / "key"
            key.write_text(KEY)
            cls.flags += ("--api-key-file", str(key))
        super().setUpClass()

    def ask(self, method: str, path: str, body=None, **headers: str):
        """Returns the answer, which must not be a refusal."""
        answer = self.server.request(method, path, body, {**self.headers, **headers})
        self.assertEqual(answer.status, 200, answer.body[:500])
        return answer

    def picture(self, size: tuple[int, int] = (64, 64)) -> bytes:
        """Returns a PNG of the server's."""
        body = {"prompt": "a boat", "width": size[0], "height": size[1], "seed": 3}
        answer = self.server.post("/sdapi/v1/txt2img", body, {"Authorization": basic(KEY)} if self.has_key else {})
        return base64.b64decode(answer.json()["images"][0], validate=True)


class OpenWebUi(FrontEnd):
    """Engines "openai" and "automatic1111" (backend/open_webui/routers/images.py), with a key."""

    has_key = True
    bearer = {"Authorization": f"Bearer {KEY}", "Accept": "*/*"}
    basic = {"authorization": basic(KEY), "Accept": "*/*"}

    def read_data(self, answer, size: tuple[int, int]) -> int:
        """Reads data[] as it does: fetches a url with the same header, else decodes b64_json. Returns how many there are."""
        for image in answer.json()["data"]:
            if url := image.get("url"):
                parts = urlsplit(url)
                self.assertEqual((parts.scheme, parts.netloc), ("http", f"127.0.0.1:{self.server.port}"))
                fetched = self.ask("GET", parts.path, **self.bearer)
                self.assertEqual(fetched.headers["content-type"].split("/")[0], "image")
                check_png(fetched.body, size)
            else:
                check_png(base64.b64decode(image["b64_json"], validate=True), size)
        return len(answer.json()["data"])

    def test_openai_generations(self):
        body = {"model": "dall-e-2", "prompt": "a boat", "n": 2, "size": "64x48", "response_format": "b64_json"}
        self.assertEqual(self.read_data(self.ask("POST", "/v1/images/generations", body, **self.bearer), (64, 48)), 2)
        # IMAGES_OPENAI_API_PARAMS are any fields; a version of the API stands in the query.
        params = {"num_inference_steps": 1, "steps": 50, "style": "vivid", "extra": {"a": [1]}, "response_format": "url"}
        answer = self.ask("POST", "/v1/images/generations?api-version=2024-02-01", {**body, **params}, **self.bearer)
        self.assertEqual(self.read_data(answer, (64, 48)), 2)

    def test_openai_edits(self):
        picture = self.picture()
        texts = [("model", None, "gpt-image-1"), ("prompt", None, "a red boat"), ("n", None, "1"), ("size", None, "64x64"),
                 ("background", None, "auto"), ("response_format", None, "b64_json")]
        for name in ("image", "image[]"):
            body = form(*texts, (name, "b6a1.png", picture))
            self.assertEqual(self.read_data(self.ask("POST", "/v1/images/edits", body, **FORM, **self.bearer), (64, 64)), 1)

    def test_automatic1111(self):
        self.ask("GET", "/sdapi/v1/options", **self.basic)  # config/url/verify
        models = [(model["title"], model["model_name"]) for model in self.ask("GET", "/sdapi/v1/sd-models", **self.basic).json()]
        self.assertEqual(models, [("mini-turbo", "mini-turbo")])
        options = self.ask("GET", "/sdapi/v1/options", **self.basic).json()
        self.assertEqual(options["sd_model_checkpoint"], models[0][0])
        self.ask("POST", "/sdapi/v1/options", {**options, "sd_model_checkpoint": models[0][0]}, **self.basic)
        body = {"prompt": "a boat", "batch_size": 2, "width": 64, "height": 64, "steps": 50, "negative_prompt": "rain",
                "cfg_scale": 7, "sampler_name": "Euler a", "scheduler": "Karras"}
        answer = self.ask("POST", "/sdapi/v1/txt2img", body, **self.basic).json()
        self.assertEqual(len(answer["images"]), 2)
        for image in answer["images"]:
            self.assertNotIn(",", image)  # without a data URI's head it is a PNG
            check_png(base64.b64decode(image, validate=True), (64, 64))
        self.assertIsInstance(answer["info"], str)

    def test_a_wrong_key_is_an_error(self):
        self.assertEqual(self.server.get("/sdapi/v1/options", authorization=basic("other")).status, 401)


class SillyTavern(FrontEnd):
    """Sources "auto" and "drawthings" (src/endpoints/stable-diffusion.js), with a key."""

    has_key = True
    headers = {"Authorization": basic(KEY), "Accept": "*/*"}
    # Of public/scripts/extensions/stable-diffusion/index.js, with its default settings but for the size.
    body = {"url": "http://127.0.0.1:7860", "auth": f"user:{KEY}", "prompt": "best quality, a boat", "negative_prompt": "lowres, bad anatomy",
            "sampler_name": "DDIM", "scheduler": "normal", "steps": 20, "cfg_scale": 7, "width": 64, "height": 64, "restore_faces": False,
            "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [], "denoising_strength": 0.7,
            "hr_second_pass_steps": 0, "seed": 11, "override_settings": {"CLIP_stop_at_last_layers": 1},
            "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
            "do_not_save_grid": False, "do_not_save_samples": False}

    def test_lists(self):
        self.ask("GET", "/sdapi/v1/options")  # ping
        names = lambda path: [each["name"] for each in self.ask("GET", f"/sdapi/v1/{path}").json()]
        self.assertEqual(names("upscalers")[0], "None")  # latent ones are put behind it
        self.assertEqual(names("latent-upscale-modes"), [])
        self.assertEqual(names("samplers"), ["Euler"])
        self.assertEqual(names("schedulers"), ["automatic"])
        for path in ("sd-vae", "sd-modules"):
            self.assertEqual([each["model_name"] for each in self.ask("GET", f"/sdapi/v1/{path}").json()], [])
        self.assertEqual([each["title"] for each in self.ask("GET", "/sdapi/v1/sd-models").json()], ["mini-turbo"])

    def test_setting_a_model_ends_when_nothing_is_drawn(self):
        self.assertEqual(self.ask("GET", "/sdapi/v1/options").json()["sd_model_checkpoint"], "mini-turbo")
        self.ask("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "mini-turbo"})
        progress = self.ask("GET", "/sdapi/v1/progress").json()
        self.assertEqual((progress["progress"], progress["state"]["job_count"]), (0, 0))

    def test_generate(self):
        self.assertNotIn("forge_preset", self.ask("GET", "/sdapi/v1/options").json())
        for more in ({}, {"alwayson_scripts": {"ADetailer": {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]}}}):
            answer = self.ask("POST", "/sdapi/v1/txt2img", {**self.body, **more}).json()
            check_png(base64.b64decode(answer["images"][0], validate=True), (64, 64))

    def test_a_client_that_leaves_interrupts(self):
        job = self.server.request("POST", "/v1/jobs", ENDLESS, self.headers).json()["id"]
        status = lambda: self.ask("GET", f"/v1/jobs/{job}").json()["status"]
        self.server.wait_until(lambda: status() == "running")
        self.ask("POST", "/sdapi/v1/interrupt")
        self.server.wait_until(lambda: status() == "cancelled")

    def test_draw_things(self):
        # Its pings come without a key.
        self.assertEqual(self.server.request("HEAD", "/", headers={"Accept": "*/*"}).status, 200)
        answer = self.server.get("/", Accept="*/*")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual((answer.json()["model"], answer.json()["upscaler"]), ("mini-turbo", None))
        body = {name: self.body[name] for name in ("prompt", "negative_prompt", "steps", "width", "height", "seed", "restore_faces")}
        body |= {"sampler_name": "Euler a", "cfg_scale": 7, "enable_hr": False, "denoising_strength": 0.7, "clip_skip": 1,
                 "upscaler": {"scale": 1, "name": "Latent"}}
        answer = self.ask("POST", "/sdapi/v1/txt2img", body).json()
        check_png(base64.b64decode(answer["images"][0], validate=True), (64, 64))


class LibreChat(FrontEnd):
    """The tool "stable-diffusion" (api/app/clients/tools/structured/StableDiffusion.js), which chooses everything but the prompts itself."""

    headers = {"Accept": "application/json, text/plain, */*"}

    def test_the_tool(self):
        body = {"prompt": "a boat", "negative_prompt": "cartoon", "cfg_scale": 4.5, "steps": 22, "width": 1024, "height": 1024}
        answer = self.ask("POST", "/sdapi/v1/txt2img", body).json()
        check_png(base64.b64decode(answer["images"][0].split(",", 1)[0], validate=True), (1024, 1024))
        info = json.loads(answer["info"])
        self.assertEqual((info["width"], info["height"]), (1024, 1024))
        self.assertIsInstance(info["seed"], int)
        self.assertIn(f"Steps: {OWN_STEPS}, Sampler: Euler, CFG scale: 1, Seed: {info['seed']},", info["infotexts"][0].split("\n").pop())


class CyanicKrita(FrontEnd):
    """cyanic-sd-krita (cyanic/sdapi_v1.py). To it an answer other than 200 is none."""

    body = {"width": 64, "height": 64, "save_images": True, "prompt": "a boat", "negative_prompt": "rain", "seed": -1, "batch_size": 2, "n_iter": 1,
            "steps": 20, "cfg_scale": 7.0, "sampler_name": "DPM++ 2M", "clip_skip": 1, "restore_faces": False, "tiling": False,
            "override_settings": {"sd_model_checkpoint": "mini-turbo", "sd_vae": "", "img2img_color_correction": True},
            "override_settings_restore_afterwards": False, "refiner": "None", "refiner_switch_at": 0.8, "enable_hr": False, "alwayson_scripts": {}}

    def results(self, path: str, body) -> dict:
        """Returns what its threadable_return() makes of the answer."""
        results = self.ask("POST", path, body).json()
        results["info"] = json.loads(results["info"])
        self.assertEqual(results["parameters"]["batch_size"] * results["parameters"]["n_iter"], len(results["images"]))
        return results

    def test_connecting_reads_every_list(self):
        get = lambda path: self.ask("GET", path).json()
        self.assertIsNotNone(get("/queue/status"))
        self.assertIsNotNone(get("/sdapi/v1/system-info/status"))
        models, options = get("/sdapi/v1/sd-models"), get("/sdapi/v1/options")
        self.assertIn(options["sd_model_checkpoint"], [model["title"] for model in models])
        self.assertEqual([model["model_name"] for model in models], ["mini-turbo"])
        self.assertFalse({"sd_lyco", "models_paths_sep_options", "outdir_sep_dirs"} & set(options))  # or it were SD.Next
        for path, names in (("samplers", ["Euler"]), ("upscalers", ["None"]), ("face-restorers", []), ("prompt-styles", []), ("loras", []),
                            ("hypernetworks", [])):
            self.assertEqual([each["name"] for each in get(f"/sdapi/v1/{path}")], names, path)
        self.assertEqual([each["model_name"] for each in get("/sdapi/v1/sd-vae")], [])
        self.assertEqual(list(get("/sdapi/v1/embeddings")["loaded"]), [])
        self.assertEqual({key: [name.lower() for name in names] for key, names in get("/sdapi/v1/scripts").items()}, {"txt2img": [], "img2img": []})

    def test_txt2img_img2img_and_inpainting(self):
        for image in self.results("/sdapi/v1/txt2img", self.body)["images"]:
            check_png(base64.b64decode(image, validate=True), (64, 64))
        start = base64.b64encode(self.picture()).decode()
        body = {**self.body, "init_images": [start], "denoising_strength": 0.75, "resize_mode": 1}
        self.assertEqual(len(self.results("/sdapi/v1/img2img", body)["images"]), 2)
        inpaint = {"mask": start, "mask_blur": 4, "inpainting_fill": 1, "inpainting_mask_invert": 0, "inpaint_full_res": 0,
                   "inpaint_full_res_padding": 32}
        self.assertEqual(len(self.results("/sdapi/v1/img2img", {**body, **inpaint})["images"]), 2)
        refused = self.server.post("/sdapi/v1/img2img", {**body, **inpaint, "inpaint_full_res": 1})
        self.assertEqual(refused.status, 400)
        self.assertIn("inpaint_full_res", refused.json()["detail"])

    def test_progress_and_cancel(self):
        job = self.server.submit(**ENDLESS)
        progress = lambda: self.ask("GET", "/sdapi/v1/progress").json()
        self.server.wait_until(lambda: progress()["current_image"])
        results = progress()
        self.assertFalse(results["state"]["skipped"] or results["state"]["interrupted"])
        self.assertIn(int(results["progress"] * 100), range(100))
        base64.b64decode(results["current_image"], validate=True)
        self.ask("POST", "/sdapi/v1/interrupt", {})
        self.assertEqual(self.server.wait_for(job)["status"], "cancelled")

    def test_upscaling_and_interrogating_are_refused_in_words(self):
        image = base64.b64encode(self.picture()).decode()
        upscale = {"resize_mode": 0, "upscaling_resize": 2.0, "upscaling_resize_w": 1024, "upscaling_resize_h": 1024, "upscaling_crop": True,
                   "upscaler_1": "None", "image": image, "override_settings": {}, "override_settings_restore_afterwards": False}
        for path, body, instead in (("extra-single-image", upscale, "/sdapi/v1/img2img"), ("interrogate", {"image": image, "model": "clip"}, "png-info"),
                                    ("extra-single-image", {**upscale, "image": image + "A" * (2 << 20)}, "/sdapi/v1/img2img")):
            answer = self.server.post(f"/sdapi/v1/{path}", body)
            self.assertEqual(answer.status, 501)
            self.assertIn(f"/sdapi/v1/{path} is not served here", answer.json()["detail"])
            self.assertIn(instead, answer.json()["detail"])

    def test_a_watchdog_pings(self):
        self.assertEqual(self.ask("GET", "/internal/ping").json(), {})


class ClientDefaults(FrontEnd):
    """--client-defaults, of a model whose own guidance is 0: clamp where the flag does not say."""

    body = {"prompt": "a boat", "seed": 5, "width": 64, "height": 64}

    def own(self, **fields) -> bytes:
        """Returns the picture of a job, which is drawn as asked for."""
        job = self.server.wait_for(self.server.submit(**{"num_inference_steps": OWN_STEPS, "guidance_scale": 0, "seed": 5, **fields}))
        self.assertEqual((job["status"], job["warnings"]), ("completed", []), job)
        return self.server.get(job["images"][0]["url"]).body

    def test_a1111(self):
        asked = {**self.body, "steps": 22, "cfg_scale": "4.5"}
        answer = self.ask("POST", "/sdapi/v1/txt2img", asked).json()
        info = json.loads(answer["info"])
        self.assertEqual((info["steps"], info["cfg_scale"]), (OWN_STEPS, 1))
        self.assertEqual(answer["parameters"], {**asked, "steps": OWN_STEPS, "cfg_scale": 1})
        words = "(serve --client-defaults keep draws what is asked for)"
        warnings = [f"steps 22 is drawn as {OWN_STEPS}, the model's own {words}", f"cfg_scale 4.5 is drawn as 1, the model's own {words}"]
        self.assertEqual(info["warnings"], warnings)
        # The picture is what its record says, and what a job with the model's own settings draws.
        picture = base64.b64decode(answer["images"][0])
        self.assertEqual(picture, self.own())
        logged = [json.loads(line) for line in list(self.server.log)]
        self.assertEqual([line["message"] for line in logged if line["message"] in warnings], warnings)

    def test_what_is_no_more_than_the_models_own_stays(self):
        for fields in ({}, {"steps": 1}, {"steps": OWN_STEPS, "cfg_scale": 1}, {"cfg_scale": 0}):
            asked = {**self.body, **fields}
            answer = self.ask("POST", "/sdapi/v1/txt2img", asked).json()
            self.assertEqual((json.loads(answer["info"])["warnings"], answer["parameters"]), ([], asked))

    def test_openai(self):
        asked = {"prompt": "a boat", "seed": 5, "size": "64x64", "num_inference_steps": 30, "guidance_scale": 7}
        answer = self.ask("POST", "/v1/images/generations", asked).json()
        self.assertEqual([warning.split(",")[0] for warning in answer["warnings"]],
                         [f"num_inference_steps 30 is drawn as {OWN_STEPS}", "guidance_scale 7 is drawn as 0"])
        self.assertEqual(base64.b64decode(answer["data"][0]["b64_json"]), self.own())
        parts = form(*((name, None, str(value)) for name, value in asked.items()), ("image", "a.png", self.picture()))
        warnings = self.ask("POST", "/v1/images/edits", parts, **FORM).json()["warnings"]
        self.assertEqual(len(warnings), 2, warnings)

    def test_a_value_out_of_range_is_still_refused(self):
        self.assertEqual(self.server.post("/sdapi/v1/txt2img", {**self.body, "steps": 1001}).status, 400)

    def test_jobs_are_drawn_as_asked_for(self):
        self.assertEqual(self.server.get("/v1/models").json()["data"][0]["nostos"]["client_defaults"], "clamp")
        self.assertNotEqual(self.own(num_inference_steps=3, guidance_scale=4), self.own())

    def test_keep(self):
        with Server(*self.flags, "--client-defaults", "keep") as server:
            self.assertEqual(server.get("/v1/models").json()["data"][0]["nostos"]["client_defaults"], "keep")
            answer = server.post("/sdapi/v1/txt2img", {**self.body, "steps": 3, "cfg_scale": 5}).json()
        info = json.loads(answer["info"])
        self.assertEqual((info["steps"], info["cfg_scale"], info["warnings"]), (3, 5, []))
        self.assertEqual(base64.b64decode(answer["images"][0]), self.own(num_inference_steps=3, guidance_scale=4))

    def test_a_model_with_guidance_keeps(self):
        with Server() as server:
            self.assertEqual(server.get("/v1/models").json()["data"][0]["nostos"]["client_defaults"], "keep")
        with Server("--client-defaults", "clamp") as server:
            answer = server.post("/sdapi/v1/txt2img", {**self.body, "steps": 30, "cfg_scale": 7}).json()
        self.assertEqual((json.loads(answer["info"])["steps"], json.loads(answer["info"])["cfg_scale"]), (9, 5))

    def test_refusals_at_the_start(self):
        with self.assertRaisesRegex(RuntimeError, "--client-defaults"):
            Server("--client-defaults", "maybe")
        # Ranks that share guidance cannot draw without it, which the start says when the model is known.
        flags = ("--cfg-parallel-degree", "2", "--num-gpus", "2", *self.flags)
        refused = Server(*flags, "--client-defaults", "clamp", ready=False)
        refused.process.wait(120)
        refused.__exit__()
        self.assertEqual(refused.process.returncode, 2, refused.log)
        self.assertIn("--client-defaults clamp would switch guidance off", "".join(refused.log))
        with Server(*flags) as server:
            self.assertEqual(server.get("/v1/models").json()["data"][0]["nostos"]["client_defaults"], "keep")


if __name__ == "__main__":
    run_tests()
