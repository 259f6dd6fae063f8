"""Draws in ComfyUI's own process, by the Python package `nostos`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from PIL import Image

from .drawing import NostosError, Preview, Step, Tell


class Pipeline:
    """A model in this process."""

    def __init__(self, model_path: str = "") -> None:
        """Loads a model: a folder, a file, or a name in the Hugging Face cache; "": the small model of the package."""
        try:
            import nostos
        except ImportError as error:
            raise NostosError(f"The package nostos cannot be used: {error}. Install its wheel into ComfyUI's Python, "
                              "or draw with the node Nostos Server") from error
        self._pipeline, self._cancel = nostos.Pipeline(model_path), nostos.Cancel

    def begin(self, request: dict[str, Any]) -> PipelineDrawing:
        loras = [(_lora_file(name), strength) for name, strength in request.get("loras", [])]
        return PipelineDrawing(self._pipeline, {**request, "loras": loras}, self._cancel())


class PipelineDrawing:
    """A drawing of a pipeline."""

    def __init__(self, pipeline: Any, request: dict[str, Any], cancel: Any) -> None:
        self._pipeline, self._request, self._cancel = pipeline, request, cancel

    def run(self, tell: Tell) -> list[np.ndarray]:
        result = self._pipeline.generate(
            **self._request,
            on_step=lambda step, steps, _: tell(Step(step, steps)),
            on_preview=lambda _image, _step, array: tell(Preview(Image.fromarray(array))),
            cancel=self._cancel,
        )
        return [image.array for image in result]

    def cancel(self) -> None:
        self._cancel.set()


def _lora_file(name: str) -> str:
    """Returns the file of that name among ComfyUI's LoRAs, else the name, which is a path."""
    file = folder_paths.get_full_path("loras", name) or name
    if not Path(file).exists():
        raise NostosError(f"loras: '{name}' is neither in ComfyUI's folder of LoRAs nor a file")
    return file
