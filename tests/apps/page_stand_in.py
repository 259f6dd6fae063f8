"""A small stand-in for `nostos serve`, for tests of its web page: the jobs API of docs/api.md with pictures of one colour.

Usage: python3 tests/apps/page_stand_in.py [PORT]  serves the page until Ctrl-C. Needs Python 3.11 alone.
"""

import contextlib
import hashlib
import json
import socket
import struct
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "src" / "apps" / "server" / "web"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
POLICY = "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; frame-ancestors 'none'"
MODEL = {
    "version": "0", "precision": "f32", "device": "cpu", "ranks": 2, "size_multiple": 16, "token_multiple": 32, "max_side": 8192, "max_pixels": 1 << 26,
    "max_n": 10, "max_reference_images": 0, "image_to_image": False, "control": False, "default_strength": 0.6, "reference_pixels": 1 << 16, "default_width": 96, "default_height": 64, "default_num_inference_steps": 8, "default_guidance_scale": 4.0,
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, colour: tuple[int, int, int], texts: list[bytes] = ()) -> bytes:
    """Returns a PNG of one colour with the given chunks, whole, before its pixels."""
    rows = (b"\0" + bytes(colour) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(texts) + pixels + chunk(b"IEND", b"")


class StandIn(ThreadingHTTPServer):
    """Draws one job after another. What tests may set: step_s, stage_s, key, refusal, failure, loading, model, loras."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.step_s = 0.0  # seconds a step
        self.stage_s = 0.0  # seconds of every stage before the steps
        self.key = None  # wanted from everybody
        self.refusal = None  # (status, headers, error): what POST /v1/jobs answers
        self.failure = None  # the message with which every job fails
        self.preview = False
        self.storage = {"object": "storage", "pictures": 1234, "bytes": 5 << 20, "free_bytes": 3 << 30, "writable": True, "reason": None,
                        "keep": {"days": None, "pictures": 100000, "bytes": 100 << 30}}
        self.loading = False
        self.loras = []  # names of those that there are
        self.model = {}  # fields of the model that differ from MODEL's
        self.jobs, self.images, self.bodies, self.connections = [], {}, [], []
        self.changed = threading.Condition()
        self.stopping = False
        self.made = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()
        threading.Thread(target=self.draw_jobs, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def close(self):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Browsers break connections off as they like."""

    def add(self, body: dict) -> dict:
        defaults = {"negative_prompt": "", "cfg_normalization": 0.0, "cfg_truncation": 1.0, "seed": 1, "n": 1, "output_format": "png",
                    "width": 96, "height": 64, "num_inference_steps": 8, "guidance_scale": 4.0, "output_compression": 95}
        # Of pictures the server tells what they were, not the pictures.
        loras = {"loras": [{"sha256": "0" * 64, **lora} for lora in body.get("loras", [])]}
        told = lambda text: {"file": "", "sha256": hashlib.sha256(text.encode()).hexdigest()}
        images = {"image": [told(text) for text in body.get("image", [])], "mask": told(body["mask"]) if body.get("mask") else None,
                  "control": {"preprocessor": "none", **body["control"], "image": told(body["control"]["image"]) if body["control"].get("image") else None}
                  if body.get("control") else None,
                  **{name: body.get(name) for name in ("strength", "mask_blur", "image_fit")}}
        with self.changed:
            self.made += 1
            job = {"id": f"job_{self.made:024x}", "object": "job", "status": "queued", "created_at": time.time(), "started_at": None,
                   "finished_at": None, "progress": None, "request": {**defaults, **body, **images, **loras}, "images": [], "error": None, "timings": None}
            self.bodies.append(body)
            self.jobs.append(job)
            self.place()
            self.changed.notify_all()
        return job

    def place(self):
        live = [job for job in self.jobs if job["status"] in ("running", "queued")]
        for job in self.jobs:
            job["position"] = live.index(job) if job["status"] == "queued" else None

    def find(self, name: str) -> dict | None:
        return next((job for job in self.jobs if job["id"] == name), None)

    def end(self, job: dict, status: str):
        job.update(status=status, finished_at=time.time(), progress=None, position=None)
        self.place()
        self.changed.notify_all()

    def draw_jobs(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or any(job["status"] == "queued" for job in self.jobs))
                if self.stopping:
                    return
                job = next(job for job in self.jobs if job["status"] == "queued")
                job.update(status="running", started_at=time.time(), position=None)
                job["progress"] = {"stage": "load", "picture": 1, "pictures": job["request"]["n"], "step": 0,
                                   "steps": job["request"]["num_inference_steps"], "step_ms": None, "eta_s": None}
                self.place()
                self.changed.notify_all()
            self.draw(job)

    def draw(self, job: dict):
        request = job["request"]
        for stage in ("load", "text", "encode")[: 3 if request["image"] or request["control"] else 2]:
            with self.changed:
                job["progress"]["stage"] = stage
                self.changed.notify_all()
            time.sleep(self.stage_s)
        steps, pictures = request["num_inference_steps"], request["n"]
        images = []
        for picture in range(pictures):
            for step in range(1, steps + 1):
                if self.step_s:
                    time.sleep(self.step_s)
                with self.changed:
                    if job.get("cancel"):
                        return self.end(job, "cancelled")
                    job["progress"] = {"stage": "denoise", "picture": picture + 1, "pictures": pictures, "step": step, "steps": steps,
                                       "step_ms": 1000 * self.step_s, "eta_s": self.step_s * ((pictures - picture) * steps - step)}
                    self.changed.notify_all()
            seed = int(request["seed"]) + picture
            record = {name: request[name] for name in ("prompt", "negative_prompt", "width", "height", "num_inference_steps",
                                                       "guidance_scale")} | {"seed": seed}
            if request["image"]:
                record["images"] = request["image"]
            if request["strength"] is not None:
                record |= {"strength": request["strength"], "image_fit": request["image_fit"]}
            if request["mask"]:
                record["mask"] = request["mask"] | {"blur": request["mask_blur"]}
            if request["control"]:
                record["control"] = {name: value for name, value in request["control"].items() if name != "image"} | (request["control"]["image"] or {})
            if request["loras"]:
                record["loras"] = [{"file": f"/loras/{lora['name']}.gguf", **lora} for lora in request["loras"]]
            text = chunk(b"iTXt", b"nostos\0\0\0\0\0" + json.dumps(record, ensure_ascii=False).encode())
            colour = (seed * 37 % 200 + 30, seed * 91 % 200 + 30, seed * 53 % 200 + 30)
            data = png(request["width"], request["height"], colour, [text])
            name = f"img_{job['id'][-20:]}{picture:04x}"
            self.images[name] = data
            images.append({"id": name, "url": f"/v1/images/{name}", "seed": seed, "width": request["width"],
                           "height": request["height"], "format": "png", "bytes": len(data)})
        with self.changed:
            if self.failure:
                job["error"] = {"message": self.failure, "type": "server_error", "code": None}
                return self.end(job, "failed")
            total = 1000 * (time.time() - job["started_at"])
            job.update(images=images, timings={"queue_ms": 1.0, "total_ms": total, "stages": []})
            self.end(job, "completed")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status: int, body, headers: dict[str, str] = {}):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status: int, message: str, headers={}, **fields):
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}, headers)

    def refused(self) -> bool:
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return False
        self.error(401, "This server wants an API key.")
        return True

    def do_GET(self):
        server, url = self.server, urlsplit(self.path)
        file = WEB / ("index.html" if url.path == "/" else url.path[1:])
        if file.parent == WEB and file.is_file():
            return self.answer(200, file.read_bytes(), {"Content-Type": TYPES[file.suffix], "Content-Security-Policy": POLICY})
        if self.refused():
            return
        parts = url.path.strip("/").split("/")
        if server.loading:
            return self.error(503, "the model is being loaded.", {"Retry-After": "1"}, code="loading")
        if parts == ["v1", "models"]:
            return self.answer(200, {"object": "list", "data": [{"id": "stand-in", "object": "model", "nostos": {
                **MODEL, **server.model}}]})
        if parts == ["v1", "storage"]:
            return self.answer(200, server.storage)
        if parts == ["v1", "loras"]:
            return self.answer(200, {"object": "list", "data": [{"name": name, "object": "lora", "bytes": 1, "summary": None} for name in server.loras]})
        if parts == ["v1", "jobs"]:
            query = parse_qs(url.query)
            with server.changed:
                jobs = server.jobs[::-1]
                if "before" in query:
                    jobs = jobs[[job["id"] for job in jobs].index(query["before"][0]) + 1 :]
                limit = int(query["limit"][0])
                return self.answer(200, {"object": "list", "data": jobs[:limit], "has_more": len(jobs) > limit})
        if parts[:2] == ["v1", "images"] and parts[2] in server.images:
            return self.answer(200, server.images[parts[2]], {"Content-Type": "image/png"})
        if parts[:2] == ["v1", "jobs"] and parts[3:] == ["events"] and server.find(parts[2]):
            return self.stream(server.find(parts[2]))
        self.error(404, f"there is no {url.path}")

    def stream(self, job: dict):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        told = None
        while True:
            with self.server.changed:
                self.server.changed.wait_for(lambda: self.server.stopping or self.state(job) != told)
                if self.server.stopping:
                    return
                previous, told = told, self.state(job)
                events = self.events(job, previous)
            # In two parts, as a network may cut them anywhere.
            text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                self.wfile.write(half)
                self.wfile.flush()
            if events[-1][0] == "done":
                return

    @staticmethod
    def state(job: dict) -> tuple:
        progress = job["progress"] or {}
        return job["status"], job["position"], progress.get("stage"), progress.get("picture"), progress.get("step")

    def events(self, job: dict, previous: tuple | None) -> list[tuple[str, dict]]:
        name = {"id": job["id"]}
        if job["status"] == "queued":
            return [("queued", name | {"position": job["position"]})]
        if job["status"] != "running":
            return [("done", job)]
        events = []
        if not previous or previous[0] != "running":
            events.append(("started", name | {"started_at": job["started_at"]}))
        progress = job["progress"]
        if not previous or previous[2] != progress["stage"]:
            events.append(("stage", name | {"stage": progress["stage"]}))
        if progress["step"]:
            events.append(("step", name | {field: progress[field] for field in ("picture", "pictures", "step", "steps", "step_ms", "eta_s")}))
            if self.server.preview:
                image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
                events.append(("preview", name | {"step": progress["step"], "image": image}))
        return events

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        if self.server.refusal:
            status, headers, error = self.server.refusal
            return self.error(status, error.pop("message"), headers, **error)
        body = json.loads(body)
        for i, text in enumerate(body.get("image", [])):
            if not text.startswith("data:") and text not in self.server.images:
                return self.error(400, f"image[{i}] names the picture {text}, which this server has not", param=f"image[{i}]")
        self.answer(202, self.server.add(body))

    def do_DELETE(self):
        if self.refused():
            return
        server, url = self.server, urlsplit(self.path)
        job = server.find(url.path.split("/")[-1])
        with server.changed:
            if not job:
                return self.error(404, "there is no such job")
            if "forget" in url.query:
                server.jobs.remove(job)
                return self.answer(200, {"id": job["id"], "object": "job", "deleted": True})
            if job["status"] == "queued":
                server.end(job, "cancelled")
            elif job["status"] == "running":
                job["cancel"] = True
            self.answer(200, job)


if __name__ == "__main__":
    stand_in = StandIn(int(sys.argv[1]) if len(sys.argv) > 1 else 30000)
    stand_in.step_s = 0.3
    print(stand_in.url)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        stand_in.close()
