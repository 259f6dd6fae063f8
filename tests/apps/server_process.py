"""Starts `nostos serve` for tests and speaks HTTP to it with the standard library alone."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import mpirun  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
SMALL = {"width": 64, "height": 64, "num_inference_steps": 1, "guidance_scale": 0, "seed": 7}
# Long enough to be caught while it is drawn, never waited for.
ENDLESS = {"prompt": "endless", "width": 256, "height": 256, "num_inference_steps": 1000, "guidance_scale": 0}


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    def json(self):
        return json.loads(self.body)


class Server:
    """One server process, or several under a launcher. `with Server() as server:` ends it with SIGTERM."""

    def __init__(self, *flags: str, data_dir: str | Path | None = None, ready: bool = True, launcher: tuple[str, ...] = ()):
        self._own = None if data_dir else tempfile.TemporaryDirectory()
        self.data_dir = Path(data_dir or self._own.name)
        environment = {**(mpirun.ENVIRONMENT if launcher else os.environ), "OMP_WAIT_POLICY": "passive"}
        command = [*launcher, BINARY, "serve", "--port", "0", "--data-dir", str(self.data_dir), *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
        self.log: list[str] = []
        self.port = 0
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._listening.wait(60) or self.port == 0:
            self.__exit__()
            raise RuntimeError("the server did not start: " + "".join(self.log))
        if ready:
            self.wait_until(lambda: self.get("/health/ready").status == 200)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r'"message":"listening".*"port":(\d+)', line):
                self.port = int(found.group(1))
                self._listening.set()
        self._listening.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            self.process.stderr.close()
            if self._own:
                self._own.cleanup()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def wait_until(self, condition, seconds: float = 120):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"gave up waiting; exit {self.process.poll()}\n" + "".join(self.log[-20:]))
            time.sleep(0.01)

    def connect(self, timeout: float = 120) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method: str, path: str, body=None, headers: dict | None = None) -> Answer:
        connection = self.connect()
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            given = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**given, **(headers or {})})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, body, headers: dict | None = None) -> Answer:
        return self.request("POST", path, body, headers)

    def submit(self, **fields) -> str:
        """Submits a job and returns its id."""
        answer = self.post("/v1/jobs", {"prompt": "a boat", **SMALL, **fields})
        assert answer.status == 202, answer.body
        return answer.json()["id"]

    def job(self, job: str) -> dict:
        return self.get(f"/v1/jobs/{job}").json()

    def wait_for(self, job: str, *statuses: str) -> dict:
        wanted = statuses or ("completed", "failed", "cancelled")
        self.wait_until(lambda: self.job(job)["status"] in wanted)
        return self.job(job)

    def raw(self, data: bytes, timeout: float = 20, half_close: bool = False) -> bytes:
        """Sends bytes as they are and returns everything that comes until the server closes or the time is over."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            received = b""
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    received += part
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                pass
            return received


def status_of(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.") else 0


def events(body: bytes) -> list[tuple[str, dict]]:
    """Returns the name and data of each server-sent event."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"user:{key}".encode()).decode()
