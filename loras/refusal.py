"""What this pack refuses, it refuses with a Refusal, whose message a person can act on."""

from __future__ import annotations


class Refusal(ValueError):
    """Something asked for that cannot be had as asked. The message says what was expected, what was found and what to do."""

    __module__ = "comfyui_fewstep"

    def __init_subclass__(cls) -> None:
        # The host shows an exception by its full name, and names a custom node's modules by the path of its folder.
        cls.__module__ = Refusal.__module__
