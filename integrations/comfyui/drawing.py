"""What a node sees of a drawing, whoever draws it, and showing it in ComfyUI until it ends or the user cancels it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Union

import comfy.model_management
import comfy.utils
import numpy as np
from PIL import Image

POLL_S = 0.1  # how often ComfyUI is asked whether the user cancelled
PREVIEW_SIDE = 512  # ComfyUI enlarges previews to it, as those of its own samplers


class NostosError(Exception):
    """What a node fails with; the message names the input that is to blame, where one is."""


@dataclass(frozen=True)
class Step:
    """So many steps of all the drawing's images are done."""

    done: int
    total: int


@dataclass(frozen=True)
class Preview:
    """What one of the images is becoming: small."""

    image: Image.Image


Tell = Callable[[Union[Step, Preview]], object]


class Drawing(Protocol):
    """A drawing that has begun, or is ready to."""

    def run(self, tell: Tell) -> list[np.ndarray]:
        """Returns the images, uint8 [height, width, 3], once they are drawn; `tell` hears of the progress meanwhile."""

    def cancel(self) -> None:
        """Ends the drawing soon. Any thread may call it, at any time."""


class Source(Protocol):
    """What the nodes pass on as NOSTOS: a server, or a model in this process."""

    def begin(self, request: dict[str, Any]) -> Drawing:
        """Begins a drawing of the fields that the request has; those that it does not have are the model's to choose.

        The fields are named as the arguments of `nostos.Pipeline.generate`. `image` is a list of arrays, `mask_image` an
        array, `loras` a list of (name, strength).
        """


def watch(drawing: Drawing) -> list[np.ndarray]:
    """Returns the drawing's images. ComfyUI shows its progress and previews; cancelling there cancels the drawing.

    ComfyUI knows by the thread which node it hears of, so this thread talks to ComfyUI while another one draws.
    """
    told: queue.SimpleQueue[Step | Preview | None] = queue.SimpleQueue()
    images: Future[list[np.ndarray]] = Future()

    def run() -> None:
        try:
            images.set_result(drawing.run(told.put))
        except BaseException as error:
            images.set_exception(error)
        told.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        _show(told)
    except BaseException:
        drawing.cancel()
        raise
    return images.result()


def _show(told: queue.SimpleQueue[Step | Preview | None]) -> None:
    """Shows what is told until None is; raises ComfyUI's exception as soon as the user cancels."""
    bar = comfy.utils.ProgressBar(1)
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            event = told.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if event is None:
            return
        if isinstance(event, Step):
            bar.update_absolute(event.done, event.total)
        else:
            bar.update_absolute(bar.current, preview=("JPEG", event.image, PREVIEW_SIDE))
