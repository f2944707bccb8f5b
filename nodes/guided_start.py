"""FewStepGuidedStart: the undistilled model makes the first part of an accelerator's run."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Expert
from ..loras.names import experts_named
from ..samplers.guided import GuidedSettings
from ..samplers.plan import PlanError
from .host.guided_start import NAME, GuidedStart, refuse_guided_start, with_guided_start
from .host.model import LoadedModel, look_at
from .host.recognise import accelerated, accelerator_on
from .host.timeline import refuse_timeline


class FewStepGuidedStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepGuidedStart",
            display_name=NAME,
            category="few-step",
            description=(
                "Lets the undistilled model make the first part of an accelerated run, with real"
                " guidance and a negative prompt, where accelerators lose variety, motion and"
                " obedience. The accelerator then goes on with the rest of its schedule. Only the"
                " Few-Step Sampler runs it."
            ),
            search_aliases=[
                "three samplers",
                "3 samplers",
                "ksampler chain",
                "slow motion",
                "diversity",
                "variety",
                "negative prompt",
                "cfg",
                "hybrid",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model with its accelerator. With Wan 2.2: the high-noise expert with"
                        " its own."
                    ),
                ),
                io.Model.Input(
                    "model_guided",
                    tooltip=(
                        "The same model without the accelerator: take it in front of the"
                        " Accelerator Loader. It makes the first part."
                    ),
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip=(
                        "What the picture should not show, in the guided part. At cfg 1 it is not"
                        " read."
                    ),
                ),
                io.Int.Input(
                    "distilled_steps",
                    default=1,
                    min=1,
                    max=50,
                    tooltip=(
                        "How many of the accelerator's first steps the guided part stands in for."
                        " More gives more of the undistilled model and leaves less to the"
                        " accelerator."
                    ),
                ),
                io.Int.Input(
                    "guided_steps",
                    default=2,
                    min=1,
                    max=50,
                    tooltip=(
                        "Steps of the undistilled model over that stretch. More is closer to it;"
                        " each costs two evaluations."
                    ),
                ),
                io.Float.Input(
                    "cfg",
                    default=3.5,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip=(
                        "Guidance of the guided part: the undistilled model's usual value. Higher"
                        " obeys the prompt more and burns sooner; 1 leaves guidance out and halves"
                        " the price."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip=(
                        "The accelerated model with its guided start, for the Few-Step Sampler. Its"
                        " report says what each part cost."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls, model, model_guided, negative, distilled_steps: int, guided_steps: int, cfg: float
    ) -> io.NodeOutput:
        refuse_timeline(negative, "negative")
        refuse_guided_start(model, "only one can begin a run")
        fast = accelerated(look_at(model, cls.hidden)).loaded[0]
        guided = look_at(model_guided, cls.hidden, "model_guided")
        refuse_model(fast)
        refuse_model_guided(guided)
        refuse_pair(fast, guided)
        settings = GuidedSettings(distilled_steps, guided_steps, cfg)
        return io.NodeOutput(
            with_guided_start(model, GuidedStart(model_guided, negative, settings))
        )


def refuse_model(fast: LoadedModel) -> None:
    """Raise PlanError for a model that has no run whose start could be guided."""
    record = fast.record
    if record is None:
        raise PlanError(
            f"No accelerator is attached to model. {NAME} stands between the Accelerator Loader and"
            " the Few-Step Sampler: connect the loader's model, and its input to model_guided."
        )
    if record.causal is not None:
        raise PlanError(
            f"{record.id} is causal: every block of a stream begins with noise of its own, and"
            f" {NAME} begins whole runs. Connect the model to the Streaming Sampler without it."
        )


def refuse_model_guided(guided: LoadedModel) -> None:
    """Raise PlanError for a distilled model: guidance burns its pictures. LoRAs that are not known
    as accelerators are styles.
    """
    record = accelerator_on(guided)
    if record is not None:
        raise PlanError(
            f"model_guided takes the undistilled model, and the connected one carries {record.id}."
            " Connect the model as it is in front of the Accelerator Loader."
        )


def refuse_pair(fast: LoadedModel, guided: LoadedModel) -> None:
    """Raise PlanError where the one model cannot go on with what the other began."""
    if (fast.base, fast.class_name, fast.width) != (guided.base, guided.class_name, guided.width):
        raise PlanError(
            f"model is {in_words(fast)} and model_guided is {in_words(guided)}: the one cannot go"
            " on with what the other began. Connect the same model to both, once with its"
            " accelerator and once without."
        )
    if fast.has_motion is not guided.has_motion:
        has, lacks = ("model", "model_guided") if fast.has_motion else ("model_guided", "model")
        raise PlanError(
            f"{has} carries a motion module and {lacks} does not: without it the frames have"
            " nothing to do with each other. Put one on both, or on neither."
        )
    is_high = fast.record is not None and fast.record.expert is Expert.HIGH_NOISE
    if is_high and experts_named(guided.file_name) == {Expert.LOW_NOISE}:
        raise PlanError(
            f"model_guided, {guided.file_name}, is by its name Wan 2.2's low-noise expert, and a"
            " run begins in the high-noise one. Connect the high-noise model without its"
            " accelerator."
        )


def in_words(loaded: LoadedModel) -> str:
    width = f" of width {loaded.width}" if loaded.width else ""
    return f"{loaded.words}{width}"


NODES = [FewStepGuidedStart]
