"""The nodes: where to draw, with which LoRAs, and drawing itself. Inputs have the names of nostos' own flags and fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client import DEFAULT_URL, Server
from .conversions import array_of_mask, arrays_of_images, images_of_arrays
from .drawing import Source, watch
from .in_process import Pipeline

if TYPE_CHECKING:
    import torch

Loras = list[tuple[str, float]]


class NostosServer:
    """Names the server that draws."""

    DESCRIPTION = "Draws on a nostos server."
    CATEGORY = "nostos"
    RETURN_TYPES = ("NOSTOS",)
    FUNCTION = "server"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = f"Such as {DEFAULT_URL}. Empty: what NOSTOS_URL says, else that one. A key is taken from the environment."
        return {"required": {"url": ("STRING", {"default": "", "tooltip": tooltip})}}

    def server(self, url: str) -> tuple[Server]:
        return (Server(url),)


class NostosPipeline:
    """Loads a model into ComfyUI's process."""

    DESCRIPTION = "Draws in ComfyUI's own process. Needs the Python package nostos."
    CATEGORY = "nostos"
    RETURN_TYPES = ("NOSTOS",)
    FUNCTION = "pipeline"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "A folder, a file, or a name in the Hugging Face cache. Empty: the small model of the package."
        return {"required": {"model_path": ("STRING", {"default": "", "tooltip": tooltip})}}

    def pipeline(self, model_path: str) -> tuple[Pipeline]:
        return (Pipeline(model_path),)


class NostosLora:
    """Adds a LoRA to a list of them."""

    DESCRIPTION = "A LoRA, after those that are given."
    CATEGORY = "nostos"
    RETURN_TYPES = ("NOSTOS_LORAS",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "In the server's folder of LoRAs; in process: in ComfyUI's, or a path."
        return {
            "required": {
                "name": ("STRING", {"default": "", "tooltip": tooltip}),
                "strength": ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05}),
            },
            "optional": {"loras": ("NOSTOS_LORAS",)},
        }

    def add(self, name: str, strength: float, loras: Loras | None = None) -> tuple[Loras]:
        return ([*(loras or []), (name, strength)],)


class NostosGenerate:
    """Draws images from text, and from images."""

    DESCRIPTION = "Draws. What is 0, or -1 as guidance_scale, is the model's to choose."
    CATEGORY = "nostos"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 0, "min": 0, "max": 16384, "step": 16, "tooltip": "0: the image's, else the model's"}
        steps = {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the model's"}
        guidance = {"default": -1.0, "min": -1.0, "max": 1000.0, "step": 0.1, "tooltip": "-1: the model's; 0: none"}
        seed = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        outputs = {"default": 1, "min": 1, "max": 10, "tooltip": "Each image's seed is one more than the one's before"}
        strength = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "How much of the image is drawn anew. 0: the model's"}
        return {
            "required": {
                "nostos": ("NOSTOS",),
                "prompt": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "negative_prompt": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "width": ("INT", size),
                "height": ("INT", size),
                "num_inference_steps": ("INT", steps),
                "guidance_scale": ("FLOAT", guidance),
                "seed": ("INT", seed),
                "num_outputs": ("INT", outputs),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "What the drawing begins with, or what a model that edits looks at"}),
                "strength": ("FLOAT", strength),
                "mask_image": ("MASK", {"tooltip": "What is drawn anew of the image"}),
                "loras": ("NOSTOS_LORAS",),
            },
        }

    def generate(
        self,
        nostos: Source,
        guidance_scale: float,
        image: torch.Tensor | None = None,
        mask_image: torch.Tensor | None = None,
        loras: Loras | None = None,
        **fields: Any,
    ) -> tuple[torch.Tensor]:
        # The seed is never the model's to choose.
        request = {name: value for name, value in fields.items() if value or name in ("prompt", "seed")}
        if guidance_scale >= 0:
            request["guidance_scale"] = guidance_scale
        if image is not None:
            request["image"] = arrays_of_images(image)
        if mask_image is not None:
            request["mask_image"] = array_of_mask(mask_image)
        if loras:
            request["loras"] = loras
        return (images_of_arrays(watch(nostos.begin(request))),)


NODE_CLASS_MAPPINGS = {
    "NostosServer": NostosServer,
    "NostosPipeline": NostosPipeline,
    "NostosLora": NostosLora,
    "NostosGenerate": NostosGenerate,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "NostosServer": "Nostos Server",
    "NostosPipeline": "Nostos Pipeline",
    "NostosLora": "Nostos LoRA",
    "NostosGenerate": "Nostos Generate",
}
