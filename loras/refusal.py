"""The base of this pack's exceptions: the host shows the pack's name, not its folder's path."""

from __future__ import annotations


class Refusal(ValueError):
    """A request that cannot be met. Says what was expected, what was found and what to do."""

    __module__ = "comfyui_fewstep"

    def __init_subclass__(cls) -> None:
        # The host shows the full name, and names a custom node's modules by the path of its folder.
        cls.__module__ = Refusal.__module__
