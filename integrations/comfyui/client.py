"""Draws on a nostos server by its job API (docs/api.md), with the standard library's HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .conversions import array_of_png, png_of_array
from .drawing import NostosError, Preview, Step, Tell

DEFAULT_URL = "http://127.0.0.1:30000"
TIMEOUT_S = 60  # of silence; a stream of events says something every 15 s
# What the server calls a field, where it is not what the package calls it.
SERVER_NAMES = {"num_outputs": "n", "mask_image": "mask"}


class Server:
    """A nostos server."""

    def __init__(self, url: str = "") -> None:
        """`url`: where the server is, by default what the environment's NOSTOS_URL says.

        The key is the environment's. A workflow may be a stranger's, and its url lead anywhere: the key goes to the
        server of NOSTOS_URL alone.
        """
        own_url = os.environ.get("NOSTOS_URL") or DEFAULT_URL
        self.url = url or own_url
        self._origin, self._path = _origin_and_path(self.url)
        self._key = _key() if self._origin == _origin_and_path(own_url)[0] else ""

    def begin(self, request: dict[str, Any]) -> Job:
        fields = {SERVER_NAMES.get(name, name): value for name, value in request.items()}
        if "image" in fields:
            fields["image"] = [_base64_png(array) for array in fields["image"]]
        if "mask" in fields:
            fields["mask"] = _base64_png(fields["mask"])
        if "loras" in fields:
            fields["loras"] = [{"name": name, "scale": strength} for name, strength in fields["loras"]]
        with self.ask("POST", "/v1/jobs", json.dumps(fields)) as answer:
            return Job(self, json.load(answer)["id"])

    @contextlib.contextmanager
    def ask(self, method: str, path: str, body: str | None = None) -> Iterator[http.client.HTTPResponse]:
        """Gives the answer, to be read as long as the context lasts. A refusal is an error, and so is a broken connection."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        scheme, host, port = self._origin
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=TIMEOUT_S)
        try:
            connection.request(method, self._path + path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise NostosError(_refusal(answer.status, answer.read()))
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise NostosError(f"The nostos server at {self.url} is not there: {error or type(error).__name__}") from error
        finally:
            connection.close()


class Job:
    """A job of a server, from when it was accepted."""

    def __init__(self, server: Server, job: str) -> None:
        self._server, self._path = server, f"/v1/jobs/{job}"

    def run(self, tell: Tell) -> list[np.ndarray]:
        job = self._ended(tell)
        if job["status"] == "failed":
            raise NostosError(f"The nostos server could not draw: {job['error']['message']}")
        if job["status"] != "completed":
            raise NostosError("The drawing was cancelled on the nostos server")
        for warning in job["warnings"]:
            logging.getLogger("nostos").warning(warning)
        images = []
        for image in job["images"]:
            with self._server.ask("GET", image["url"]) as answer:
                images.append(array_of_png(answer.read()))
        return images

    def cancel(self) -> None:
        with self._server.ask("DELETE", self._path):
            pass

    def _ended(self, tell: Tell) -> dict[str, Any]:
        """Returns the job object once the job has ended."""
        with self._server.ask("GET", f"{self._path}/events") as answer:
            for event, data in _events(answer):
                if event == "step":
                    tell(Step(data["step"], data["steps"]))
                elif event == "preview":
                    jpeg = base64.b64decode(data["image"].partition(",")[2])
                    tell(Preview(Image.open(io.BytesIO(jpeg)).convert("RGB")))
                elif event == "done":
                    return data
        raise NostosError(f"The nostos server at {self._server.url} ended before the image was drawn")


def _key() -> str:
    """Returns the key that the environment has, or the file that it names; without either an empty one."""
    key, file = os.environ.get("NOSTOS_API_KEY", ""), os.environ.get("NOSTOS_API_KEY_FILE")
    if file:
        try:
            key = Path(file).read_text()
        except OSError as error:
            raise NostosError(f"NOSTOS_API_KEY_FILE: {error}") from error
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise NostosError("The key of NOSTOS_API_KEY or NOSTOS_API_KEY_FILE is no line of visible ASCII characters")
    return key


def _origin_and_path(url: str) -> tuple[tuple[str, str, int], str]:
    """Returns the scheme, the host and the port of a server, and the path where its API begins."""
    with contextlib.suppress(ValueError):  # of a port that is none
        parts = urllib.parse.urlsplit(url.rstrip("/"))
        plain = not (parts.query or parts.fragment or parts.username)
        if plain and parts.hostname and parts.scheme in ("http", "https"):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            return (parts.scheme, parts.hostname, port), parts.path
    raise NostosError(f"url: '{url}' is no server's; use one like {DEFAULT_URL}")


def _base64_png(array: np.ndarray) -> str:
    return base64.b64encode(png_of_array(array)).decode()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives the name and the data of each server-sent event."""
    name = ""
    for line in answer:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def _refusal(status: int, body: bytes) -> str:
    """Returns what the server says of a request that it refused, and which input is to blame."""
    try:
        error = json.loads(body)["error"]
        message, field = error["message"], error["param"] or ""
    except (ValueError, LookupError, TypeError):  # what stands between, such as a proxy, answered
        return f"The nostos server answered with status {status}"
    if status == 401:
        return f"{message}. The key is that of NOSTOS_API_KEY or NOSTOS_API_KEY_FILE, and goes to the server of NOSTOS_URL alone"
    ours = {theirs: name for name, theirs in SERVER_NAMES.items()}
    field = ours.get(field, field)
    return message if field in message else f"{field}: {message}"
