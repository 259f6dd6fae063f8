"""nostos draws images with diffusion transformers (Z-Image, FLUX.2-klein), on CPUs and GPUs.

    import nostos
    pipeline = nostos.Pipeline("Tongyi-MAI/Z-Image-Turbo")
    result = pipeline.generate("A lion on a beach", width=1280, seed=7)
    result[0].save("lion.png")

Without a model the small one draws that comes with the package. docs/library.md has the rules, docs/cli.md says what each field means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, overload

import numpy as np

from . import _core
from ._errors import Cancelled, DeviceError, Error, InvalidInputError, ModelError, OutOfMemoryError

if TYPE_CHECKING:
    import numpy.typing as npt
    import PIL.Image

__all__ = ["Cancel", "Cancelled", "DeviceError", "Error", "Image", "InvalidInputError", "ModelError", "OutOfMemoryError",
           "Pipeline", "Result"]
__version__: str = _core.version

PathLike = Union[str, "os.PathLike[str]"]
ImageLike = Union[PathLike, "npt.NDArray[np.uint8]", "PIL.Image.Image"]
LoraLike = Union[PathLike, "tuple[PathLike, float]"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
_MODELS = Path(__file__).parent / "models"


class Cancel:
    """Ends drawings from any thread: those that have it, and those that are still to begin."""

    def __init__(self) -> None:
        self._core = _core.Cancel()

    def set(self) -> None:
        self._core.set()

    def is_set(self) -> bool:
        return self._core.is_set()


class Image:
    """An image of a result."""

    def __init__(self, result: _core.Result, index: int) -> None:
        self._result, self._index = result, index

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The pixels, 8-bit RGB [height, width, 3]: a view that cannot be written."""
        return self._result.image(self._index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=True if copy is None else copy)

    @property
    def latents(self) -> npt.NDArray[np.float32]:
        """The state before decoding, [1, channels, height, width]: a view that cannot be written."""
        return self._result.latents(self._index)

    @property
    def seed(self) -> int:
        return self._result.seed(self._index)

    @property
    def record(self) -> dict[str, Any]:
        """Everything that decides the image, as its PNG carries it."""
        return json.loads(self._result.record(self._index))

    def pillow(self) -> PIL.Image.Image:
        """Returns the pixels for Pillow, which must be installed."""
        from PIL import Image as pillow

        return pillow.fromarray(self.array)

    def save(self, path: PathLike) -> None:
        """Writes a PNG, JPEG or WebP by its extension, with its record: the bytes that `nostos generate` writes."""
        self._result.write(self._index, os.fspath(path))

    def encode(self, format: Literal["png", "jpeg", "webp"] = "png") -> bytes:
        """Returns the bytes that save() would write."""
        return self._result.encode(self._index, format)

    def _repr_png_(self) -> bytes:
        return self.encode()


class Result(Sequence[Image]):
    """The images of a drawing."""

    def __init__(self, core: _core.Result) -> None:
        self._core = core

    def __len__(self) -> int:
        return len(self._core)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        places = range(len(self))[index]
        return Image(self._core, places) if isinstance(places, int) else [Image(self._core, place) for place in places]

    def __iter__(self) -> Iterator[Image]:
        return (Image(self._core, place) for place in range(len(self)))

    @property
    def report(self) -> dict[str, Any]:
        """What is said of the whole drawing: its request, warnings, times, bytes and ranks."""
        return json.loads(self._core.report())


class Pipeline:
    """A loaded model. Any number of threads may draw with it; they take turns."""

    def __init__(
        self,
        model_path: PathLike = "",
        *,
        revision: str = "",
        variant: str = "",
        transformer: PathLike = "",
        text_encoder: PathLike = "",
        vae: PathLike = "",
        tokenizer: PathLike = "",
        controlnet: PathLike = "",
        base_model: bool = False,
        device: str = "auto",
        precision: Literal["auto", "f32", "bf16", "int8"] = "auto",
        text_precision: Literal["auto", "int8"] = "auto",
        attention_precision: Literal["auto", "int8"] = "auto",
        memory: Literal["auto", "resident", "offload"] = "auto",
        memory_limit: float | None = None,
        threads: int | None = None,
        num_gpus: int | None = None,
        ulysses_degree: int | None = None,
        ring_degree: int | None = None,
        cfg_parallel_degree: int | None = None,
        sp_plan: Literal["token", "axis"] = "token",
        exchange: Literal["auto", "nccl"] = "auto",
        comm_timeout: float = 0,
        allow_shared_gpu: bool = False,
        cache_dir: PathLike | None = None,
        models_dir: PathLike = "",
        on_log: Callable[[LogLevel, str], object] | None = None,
        log_level: LogLevel = "info",
    ) -> None:
        """Loads a model: a folder, a file, or a name in the Hugging Face cache; "": the small model of the package.

        `on_log` is told of messages of `log_level` and above; any thread may make the call.
        """
        fields = dict(locals())
        for name in ("self", "on_log", "log_level"):
            del fields[name]
        options = _core.Options()
        if not models_dir and not os.environ.get("NOSTOS_MODELS_DIR") and _MODELS.is_dir():
            fields["models_dir"] = _MODELS
        for name, value in fields.items():
            if value is not None:
                setattr(options, name, os.fspath(value) if isinstance(value, os.PathLike) else value)
        if log_level not in _LEVELS:
            raise InvalidInputError(f"log_level '{log_level}' is unknown; use {', '.join(_LEVELS)}")
        options.log_level = _LEVELS.index(log_level)
        log = None if on_log is None else lambda level, message: on_log(_LEVELS[level], message)
        self._core = _core.Pipeline(options, log)

    @property
    def info(self) -> dict[str, Any]:
        """What the pipeline draws with, and what it draws where a request leaves it open."""
        return json.loads(self._core.info())

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        cfg_normalization: float | None = None,
        cfg_truncation: float | None = None,
        seed: int | None = None,
        num_outputs: int | None = None,
        max_sequence_length: int | None = None,
        rng: Literal["torch-cpu", "torch-cuda"] | None = None,
        sigmas: Sequence[float] = (),
        latents: PathLike | None = None,
        image: ImageLike | Iterable[ImageLike] | None = None,
        strength: float | None = None,
        mask_image: ImageLike | None = None,
        mask_blur: float | None = None,
        image_fit: Literal["crop", "pad", "stretch"] | None = None,
        control_image: ImageLike | None = None,
        control_scale: float | None = None,
        control_start: float | None = None,
        control_end: float | None = None,
        control_preprocessor: Literal["none", "canny", "gray", "tile"] | None = None,
        loras: Iterable[LoraLike] = (),
        on_stage: Callable[[str], object] | None = None,
        on_step: Callable[[int, int, float], object] | None = None,
        on_preview: Callable[[int, int, npt.NDArray[np.uint8]], object] | None = None,
        cancel: Cancel | None = None,
    ) -> Result:
        """Draws. The interpreter's lock is free meanwhile. Ctrl-C, `cancel` and what a callback raises end the drawing.

        Images are paths, NumPy arrays (8-bit RGB [height, width, 3]) or Pillow's. `on_step` is told of the step, their number and
        the milliseconds, `on_preview` of the image's index, the step and a small array.
        """
        fields = dict(locals())
        request = _core.Request()
        for name in ("self", "image", "mask_image", "control_image", "loras", "on_stage", "on_step", "on_preview", "cancel"):
            del fields[name]
        for name, value in fields.items():
            if value is not None:
                setattr(request, name, os.fspath(value) if isinstance(value, os.PathLike) else value)
        kept = []  # the request looks at their pixels
        for place, given in ((request.add_image, _listed(image)), (request.set_mask_image, _listed(mask_image)),
                             (request.set_control_image, _listed(control_image))):
            for one in given:
                kept.append(_path_or_array(one))
                place(kept[-1])
        for lora in loras:
            file, scale = lora if isinstance(lora, tuple) else (lora, 1.0)
            request.add_lora(os.fspath(file), scale)
        return Result(self._core.generate(request, on_stage, on_step, on_preview, (cancel or Cancel())._core))

    def close(self) -> None:
        """Releases the model, once no drawing is under way. The garbage collector does it, too."""
        self._core.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listed(images: ImageLike | Iterable[ImageLike] | None) -> list[ImageLike]:
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]


def _path_or_array(image: ImageLike) -> str | npt.NDArray[np.uint8]:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if hasattr(image, "convert"):  # Pillow's
        image = np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInputError(f"an image is {array.dtype} {list(array.shape)}; use uint8 [height, width, 3]")
    return np.ascontiguousarray(array)
