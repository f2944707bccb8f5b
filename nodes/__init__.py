"""The host layer: the only place that knows ComfyUI."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from . import (
    accelerator,
    budget,
    compare,
    demo,
    distil,
    guided_start,
    motion,
    negative,
    run_report,
    sampler,
    skip,
    stream,
    timeline,
)
from .host.live_routes import add_routes

MODULES = (
    accelerator,
    sampler,
    guided_start,
    stream,
    timeline,
    motion,
    negative,
    skip,
    run_report,
    budget,
    compare,
    distil,
    demo,
)


class FewStepExtension(ComfyExtension):
    async def on_load(self) -> None:
        demo.offer_loras()
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]
