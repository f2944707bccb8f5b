"""FewStepNegative: a negative prompt for models that run at CFG 1."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..samplers.guidance import Guidance
from .host.negative import NegativeConfig, with_negative
from .host.timeline import refuse_timeline


class FewStepNegative(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepNegative",
            display_name="Few-Step Negative Prompt",
            category="few-step",
            description=(
                "A negative prompt that works at CFG 1, where a sampler's own is not read. It acts"
                " inside the model's attention to text, so a step costs a few per cent more (FLUX"
                " and Qwen-Image: about a third) and not twice as much. For SD 1.5, SDXL, Wan, LTX,"
                " FLUX and Qwen-Image, under any sampler and in streams."
            ),
            search_aliases=[
                "nag",
                "normalized attention guidance",
                "negative prompt",
                "cfg 1",
                "avoid",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A model with an accelerator, or any that runs at CFG 1. With Wan 2.2 each"
                        " expert takes a node of its own."
                    ),
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip=(
                        "What should not be seen: name the thing itself, without a no or not. Only"
                        " its text is read. A batch of texts goes to the pictures one by one."
                    ),
                ),
                io.Float.Input(
                    "scale",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip=(
                        "How hard it is kept out. Higher is stronger and takes more of the prompt"
                        " and of the detail with it; 1 does nothing and costs nothing."
                    ),
                ),
                io.Float.Input(
                    "alpha",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "How much of the pushed attention is mixed in. Higher is stronger and"
                        " changes the picture more; 0 does nothing and costs nothing."
                    ),
                ),
                io.Float.Input(
                    "tau",
                    default=2.5,
                    min=1.0,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip=(
                        "How many times its size the push may make of attention. Lower holds back"
                        " a high scale and keeps colours calm; higher lets it through."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "From which part of the schedule on it is kept out. Higher leaves the"
                        " layout to the prompt alone, and with few steps soon the whole picture."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Up to which part of the schedule it is kept out. Lower leaves fine detail"
                        " to the prompt alone, and makes the last steps cost nothing more."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip=(
                        "The model with the negative prompt in its attention, for any sampler. The"
                        " Few-Step Sampler's report says in how many passes it was kept out."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        negative,
        scale: float,
        alpha: float,
        tau: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        if start_percent >= end_percent:
            raise ValueError(
                f"start_percent ({start_percent:g}) must be below end_percent ({end_percent:g}):"
                " between them the negative prompt is kept out."
            )
        refuse_timeline(negative, "negative")
        guidance = Guidance(scale, alpha, tau)
        config = NegativeConfig(guidance, start_percent, end_percent)
        return io.NodeOutput(with_negative(model, negative, config))


NODES = [FewStepNegative]
