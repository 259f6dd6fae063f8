"""Nodes for ComfyUI that draw with nostos: a running server draws, or the Python package in ComfyUI's own process."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
