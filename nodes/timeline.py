"""FewStepTimeline: prompts of a stream that follow one another, each with the time it begins at."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.words import counted
from ..samplers.causal import in_seconds
from ..samplers.plan import PlanError
from .host.timeline import in_order, is_timed, refuse_carried, start_of, with_start


class FewStepTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepTimeline",
            display_name="Prompt Timeline",
            category="few-step",
            description=(
                "Gives a prompt the time at which it takes over in a streamed video. One node for"
                " each prompt: connect the one before to earlier, and the last to the Streaming"
                " Sampler."
            ),
            search_aliases=[
                "prompt schedule",
                "prompt travel",
                "prompt switch",
                "story",
                "scenes",
                "longlive",
                "streaming",
                "live",
            ],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the video should show from start_seconds on: one prompt.",
                ),
                io.Float.Input(
                    "start_seconds",
                    default=0.0,
                    min=0.0,
                    max=36000.0,
                    step=0.05,
                    tooltip=(
                        "When the prompt takes over, from the beginning of the clip, start_latent"
                        " included. Later leaves more of the clip to the prompt before; it begins"
                        " with the next block of frames."
                    ),
                ),
                io.Conditioning.Input(
                    "earlier",
                    optional=True,
                    tooltip=(
                        "The prompts before this one: another Prompt Timeline, or a CLIP Text"
                        " Encode that begins with the clip."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip=(
                        "All prompts with their times, for the Streaming Sampler or the next Prompt"
                        " Timeline. Other samplers would blend them."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, positive, start_seconds: float, earlier=None) -> io.NodeOutput:
        prompt, before = prompt_alone(positive), prompts_before(earlier or [])
        for other in before:
            refuse_same_time(start_seconds, start_of(other))
        return io.NodeOutput(in_order([*before, with_start(prompt, start_seconds)]))


def prompt_alone(positive) -> Any:
    """The one prompt of a CONDITIONING. Raises PlanError where it is none or several."""
    if any(is_timed(prompt) for prompt in positive):
        raise PlanError(
            "positive is a Prompt Timeline, and it should be the one prompt that begins here."
            " Connect the timeline to earlier, and a CLIP Text Encode to positive."
        )
    refuse_combined(positive, "positive")
    refuse_carried(positive[0])
    return positive[0]


def prompts_before(earlier) -> list[Any]:
    """Prompts with their times; a single one without begins with the clip. Raises PlanError."""
    if all(is_timed(prompt) for prompt in earlier):
        return list(earlier)
    refuse_combined(earlier, "earlier")
    refuse_carried(earlier[0])
    return [with_start(earlier[0], 0.0)]


def refuse_combined(conditioning, name: str) -> None:
    if len(conditioning) != 1:
        raise PlanError(
            f"{name} holds {counted(len(conditioning), 'prompt')}, combined, and a causal model"
            " follows one at a time. Connect a single CLIP Text Encode."
        )


def refuse_same_time(start: float, other: float) -> None:
    if in_seconds(start) == in_seconds(other):
        raise PlanError(
            f"Two prompts begin at {in_seconds(start)}: this one, and one that is connected to"
            " earlier. Set start_seconds to the time at which this one should take over."
        )


NODES = [FewStepTimeline]
