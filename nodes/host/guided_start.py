"""A Guided Start on a MODEL: the undistilled model that makes the first part of its runs.

It lies in the model options, as Step Skip's settings do. An attachment more or less makes the host
take two clones for models of different weights, and so would a wrapper on the patcher itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...loras.words import counted, in_figures
from ...samplers.guided import GuidedSettings
from ...samplers.skip.run import LEAST_EVALUATIONS
from .model import look_at
from .run import Run, run_log
from .skip import carried_skip

KEY = "fewstep.guided_start"
NAME = "Guided Start"
IN_FRONT = f"connect the model as it is in front of {NAME}"


@dataclass(frozen=True, eq=False)
class GuidedStart:
    """What the node put on a MODEL."""

    model: Any  # the undistilled MODEL
    negative: Any  # CONDITIONING of the guided part
    settings: GuidedSettings

    @property
    def levels(self) -> list[float]:
        """The undistilled model's own sigma of each training timestep, ascending."""
        return self.model.get_model_object("model_sampling").sigmas.tolist()

    def shares_weights(self, model) -> bool:
        """Whether the host holds one copy of the weights for this MODEL and the undistilled one."""
        return self.model.is_clone(model)


def with_guided_start(model, start: GuidedStart):
    """A copy of the model with a Guided Start on it, which the Few-Step Sampler runs.

    Any other sampler would leave it out unseen, and is stopped.
    """

    def outer_sample(executor, *args, **kwargs):
        if run_log(executor.class_obj.model_options) is None:
            raise ValueError(
                f"The model carries a {NAME}, which this sampler would leave out. Use the Few-Step"
                f" Sampler, or {IN_FRONT}."
            )
        return executor(*args, **kwargs)

    patched = model.clone()
    patched.model_options[KEY] = start
    add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, outer_sample, patched.model_options, is_model_options=True
    )
    return patched


def guided_start_of(model) -> GuidedStart | None:
    """The Guided Start on a MODEL, if there is one."""
    return model.model_options.get(KEY)


def refuse_guided_start(model, words: str) -> None:
    """Raise ValueError where a MODEL carries a Guided Start. words: why it has no place here."""
    if guided_start_of(model) is not None:
        raise ValueError(f"The model carries a {NAME}, and {words}: {IN_FRONT}.")


def notes_on_guided(start: GuidedStart | None, model, run: Run) -> tuple[str, ...]:
    """What to tell of a run's guided part. model: the accelerated MODEL that went on with it."""
    if start is None:
        return ()
    settings, notes = start.settings, []
    if look_at(start.model).is_guidance_distilled and settings.per_step > 1:
        notes.append(
            f"The guided model takes guidance as an input of its network, and cfg {settings.cfg:g}"
            f" comes on top of that and doubles the price of its steps. Set cfg of {NAME} to 1 to"
            " leave it out."
        )
    if carried_skip(start.model) and settings.guided_steps < LEAST_EVALUATIONS:
        notes.append(
            "Step Skip on the guided model changes nothing at"
            f" {counted(settings.guided_steps, 'step')}: it begins at {LEAST_EVALUATIONS}."
        )
    return (*notes, note_on_loading(start, model, run))


def note_on_loading(start: GuidedStart, model, run: Run) -> str:
    """What it costs to have two models in a run."""
    loading = f"{in_figures(sum(stage.loading for stage in run.stages))} s of loading in all"
    if start.shares_weights(model):
        return (
            "The guided and the accelerated model share their weights, which are in memory once:"
            " ComfyUI takes the accelerator off for the guided part and puts it on again"
            f" ({loading})."
        )
    return (
        f"The guided and the accelerated model are two files, and ComfyUI loads both: {loading}."
        " Where they are the same model, connect one loader to both."
    )
