"""The base of this pack's own exceptions, which the host shows under the pack's name and not the
path of its folder.
"""

from __future__ import annotations


class Refusal(ValueError):
    """Something asked for that cannot be had as asked. The message says what was expected, what was
    found and what to do.
    """

    __module__ = "comfyui_fewstep"

    def __init_subclass__(cls) -> None:
        # The host shows the full name, and names a custom node's modules by the path of its folder.
        cls.__module__ = Refusal.__module__
