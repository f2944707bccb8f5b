"""FewStepSkip: leave evaluations out of a run that takes many steps."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..samplers.skip import METHODS
from ..samplers.skip.method import Settings
from ..samplers.skip.run import LEAST_EVALUATIONS
from .host.skip import SkipConfig, with_skip


class FewStepSkip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepSkip",
            display_name="Step Skip",
            category="few-step",
            description=(
                "Leaves out some of the model's evaluations in a run of many steps and forecasts"
                " them from the others. For models without an accelerator: below"
                f" {LEAST_EVALUATIONS} evaluations it changes nothing, since fewer steps are better"
                " there. Works with every model and most samplers; LCM, TCD, dpm_adaptive and"
                " causal ones pass through unchanged. The report says what was skipped."
            ),
            search_aliases=[
                "teacache",
                "easycache",
                "cache",
                "taylorseer",
                "magcache",
                "first block cache",
                "fbcache",
                "wavespeed",
                "speed",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model that is sampled in 10 steps or more. One skip node per model.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="forecast",
                    tooltip=" ".join(f"{name} {method.does}" for name, method in METHODS.items()),
                ),
                io.Float.Input(
                    "target_speedup",
                    default=1.5,
                    min=1.0,
                    max=4.0,
                    step=0.05,
                    tooltip=_by_method("about_target_speedup"),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.2,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip=_by_method("about_threshold"),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.15,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Nothing is skipped before this part of the schedule. Higher keeps the"
                        " layout closer to the full run. The first 15 % of the steps, and at least"
                        " 3, are always made."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.95,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Nothing is skipped after this part of the schedule. Lower keeps fine"
                        " detail closer to the full run. The last step is always made."
                    ),
                ),
                io.Int.Input(
                    "max_consecutive",
                    default=3,
                    min=1,
                    max=10,
                    advanced=True,
                    tooltip=(
                        "Evaluations left out in a row, at most. Lower is more faithful and bounds"
                        " the speed-up: 1 allows 2x at best."
                    ),
                ),
                io.Combo.Input(
                    "cache_device",
                    options=["auto", "model", "cpu"],
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "Where the few latents that forecasts are made from are kept: on the"
                        " model's device, on the CPU (slower, no video memory), or auto, which"
                        " moves them to the CPU when memory is short."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip=(
                        "The model with skipping, for any sampler. What it did is shown under this"
                        " node and in the log when sampling ends; Run Report behind the sampler"
                        " keeps it."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        method: str,
        target_speedup: float,
        threshold: float,
        start_percent: float,
        end_percent: float,
        max_consecutive: int,
        cache_device: str,
    ) -> io.NodeOutput:
        if start_percent >= end_percent:
            raise ValueError(
                f"start_percent ({start_percent:g}) must be below end_percent ({end_percent:g}):"
                " between them nothing could be skipped."
            )
        settings = Settings(target_speedup, threshold, max_consecutive)
        return io.NodeOutput(
            with_skip(
                model,
                SkipConfig(method, settings, start_percent, end_percent, cache_device),
                cls.hidden,
            )
        )


def _by_method(attribute: str) -> str:
    """What each method has to say about a setting, of those that read it."""
    said = {name: getattr(method, attribute) for name, method in METHODS.items()}
    return " ".join(f"{name}: {words}" for name, words in said.items() if words)


NODES = [FewStepSkip]
