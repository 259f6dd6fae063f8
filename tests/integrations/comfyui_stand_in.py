"""Stands in for ComfyUI: the modules that node packs import, loading a pack, and running workflows, as its documentation has them.

https://docs.comfy.org/custom-nodes/backend says what a node class is, and which types its inputs have.
"""

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class InterruptProcessingException(Exception):
    """What ends a prompt that the user cancelled."""


class Tensor:
    """The part of torch.Tensor that nodes use: one that keeps its numbers on the CPU."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return self._array


@dataclass
class Comfy:
    """What the user sees and does."""

    interrupted: bool = False
    progress: list[tuple[int, int]] = field(default_factory=list)
    previews: list[tuple] = field(default_factory=list)
    lora_files: dict[str, str] = field(default_factory=dict)
    on_progress: Any = None  # called after each

    def begin(self) -> None:
        self.interrupted, self.on_progress = False, None
        self.progress.clear()
        self.previews.clear()

    def interrupt(self) -> None:
        self.interrupted = True


COMFY = Comfy()


class ProgressBar:
    def __init__(self, total: int, node_id: str | None = None):
        self.total, self.current, self.node_id = total, 0, node_id

    def update_absolute(self, value: int, total: int | None = None, preview: tuple | None = None) -> None:
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        throw_exception_if_processing_interrupted()
        COMFY.progress.append((self.current, self.total))
        if preview is not None:
            COMFY.previews.append(preview)
        if COMFY.on_progress:
            COMFY.on_progress()


def throw_exception_if_processing_interrupted() -> None:
    if COMFY.interrupted:
        COMFY.interrupted = False
        raise InterruptProcessingException()


class SaveImage:
    """ComfyUI's own node that ends workflows."""

    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}}

    def save_images(self, images: Tensor, filename_prefix: str) -> dict:
        # As ComfyUI rounds: down.
        return {"images": [np.clip(255.0 * image, 0, 255).astype(np.uint8) for image in images.cpu().numpy()]}


def install() -> None:
    """Has `import comfy.utils` and the like find what stands in."""
    contents = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {
            "InterruptProcessingException": InterruptProcessingException,
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted,
            "processing_interrupted": lambda: COMFY.interrupted,
        },
        "folder_paths": {"get_full_path": lambda folder, name: COMFY.lora_files.get(name) if folder == "loras" else None},
        "torch": {"Tensor": Tensor, "from_numpy": Tensor},
    }
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def load_pack(folder: Path) -> types.ModuleType:
    """Imports a folder of custom_nodes: by its path, under a name that no import statement could have."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_workflow(workflow: dict[str, dict], classes: dict[str, type]) -> dict[str, Any]:
    """Runs a workflow in API format and returns what each node gave."""
    classes = {**classes, "SaveImage": SaveImage}
    given: dict[str, Any] = {}

    def value_of(node: str, name: str, declared: tuple) -> Any:
        value = workflow[node]["inputs"][name]
        if not isinstance(value, list):
            return check_widget(name, value, declared)
        source, output = value
        kind = classes[workflow[source]["class_type"]].RETURN_TYPES[output]
        if kind != declared[0]:
            raise TypeError(f"{name}: {kind} where {declared[0]} is wanted")
        return run(source)[output]

    def run(node: str) -> Any:
        if node not in given:
            kind = classes[workflow[node]["class_type"]]
            types_ = kind.INPUT_TYPES()
            declared = {**types_["required"], **types_.get("optional", {})}
            inputs = workflow[node]["inputs"]
            if missing := (types_["required"].keys() - inputs.keys()) | (inputs.keys() - declared.keys()):
                raise TypeError(f"{workflow[node]['class_type']}: inputs missing or unknown: {missing}")
            given[node] = getattr(kind(), kind.FUNCTION)(**{name: value_of(node, name, declared[name]) for name in inputs})
        return given[node]

    for node, content in workflow.items():
        if getattr(classes[content["class_type"]], "OUTPUT_NODE", False):
            run(node)
    return given


def check_widget(name: str, value: Any, declared: tuple) -> Any:
    """Returns the value of a widget as ComfyUI hands it on, or raises what ComfyUI shows instead of running the workflow."""
    kind, options = declared[0], declared[1] if len(declared) > 1 else {}
    value = {"INT": int, "FLOAT": float, "STRING": str}[kind](value)
    if "min" in options and value < options["min"] or "max" in options and value > options["max"]:
        raise ValueError(f"{name}: {value} is beyond {options.get('min')} to {options.get('max')}")
    return value
