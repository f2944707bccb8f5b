"""What a clip is given frame by frame: ControlNet pictures, prompts, masks, pictures to paint over.

One of them is for the whole clip. Of more than the clip has frames, as of a longer control video,
the first are taken. A context window sees those of its own frames, whoever cuts the windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor

from ...loras.words import counted

# Tensors of a conditioning that may have a row for each frame, and what a row is.
PER_FRAME = {
    "cross_attn": "prompt",
    "cross_attn_controlnet": "prompt for the ControlNet",
    "mask": "mask",
    "concat_latent_image": "picture to paint over",
    "concat_mask": "mask to paint in",
}
PICTURE = "ControlNet picture"


@dataclass(frozen=True)
class Clips:
    """The frames of a run. has_windows: its clip is seen in context windows."""

    frames: int  # of each clip
    rows: int  # of the latent: those of all clips
    has_windows: bool

    def fitted(self, values: Tensor, what: str) -> Tensor:
        """One row for the clip, for each of its frames, or for each row of the latent.

        Raises ValueError for a number that leaves frames without.
        """
        count = values.shape[0]
        if count in (1, self.frames, self.rows):
            return values
        if count < self.frames:
            raise ValueError(
                f"There are {counted(count, what)} for a clip of {counted(self.frames, 'frame')}."
                f" Give it {self.frames} or more, of which the first {self.frames} are used, or 1"
                " for the whole clip."
            )
        return values[: self.frames]

    def repeated(self, values: Tensor) -> Tensor:
        """What `fitted` left of one clip's frames, for every clip; the host would stretch it."""
        if values.shape[0] != self.frames or self.rows == self.frames:
            return values
        return values.repeat(self.rows // self.frames, *[1] * (values.ndim - 1))


def fit_conditionings(conds: Mapping[str, list[dict[str, Any]]], clips: Clips) -> dict[str, list]:
    """A guider's conditionings by name, with what they hold for each frame fitted to the clip. What
    the graph handed in is not changed.
    """
    # Positive and negative share their ControlNets, and the host evaluates them together for it.
    fitted_controls: dict[int, Any] = {}

    def fitted(cond: dict[str, Any]) -> dict[str, Any]:
        changed = {
            key: clips.repeated(clips.fitted(cond[key], what))
            for key, what in PER_FRAME.items()
            if isinstance(cond.get(key), Tensor) and cond[key].ndim > 2
        }
        control = cond.get("control")
        if control is not None:
            changed["control"] = fit_control(control, clips, fitted_controls)
        return {**cond, **changed}

    return {name: [fitted(cond) for cond in each or ()] for name, each in conds.items()}


def fit_control(control, clips: Clips, done: dict[int, Any]):
    """A ControlNet, with those chained before it, for this run. done: those fitted, by id."""
    if id(control) not in done:
        done[id(control)] = _fit_control(control, clips, done)
    return done[id(control)]


def _fit_control(control, clips: Clips, done: dict[int, Any]):
    before = control.previous_controlnet
    previous = before and fit_control(before, clips, done)
    pictures = control.cond_hint_original
    # Advanced-ControlNet's keep pictures for some frames alone, and find their window themselves.
    is_plain = isinstance(pictures, Tensor) and not hasattr(control, "sub_idxs")
    fitted = clips.fitted(pictures, PICTURE) if is_plain else pictures
    is_cut = is_plain and clips.has_windows and fitted.shape[0] > 1
    if previous is before and fitted is pictures and not is_cut:
        return control
    part = control.copy()
    part.cond_hint_original = fitted
    part.set_previous_controlnet(previous)
    return WindowedControl(part, fitted) if is_cut else part


class WindowedControl(comfy.controlnet.ControlBase):
    """A ControlNet that shows each context window the pictures of its own frames.

    control: one of this run's own. pictures: (T, 3, H, W), one for every frame.
    """

    def __init__(self, control, pictures: Tensor):
        super().__init__()
        self.control, self.pictures = control, pictures
        self.previous_controlnet = control.previous_controlnet
        self.multigpu_clones = {}  # of older hosts' ControlNets there are none

    def get_control(self, x_noisy: Tensor, t, cond, batched_number: int, transformer_options):
        window = transformer_options.get("context_window")
        # What is kept of the pictures of the window before.
        self.control.cond_hint = None
        self.control.cond_hint_original = (
            self.pictures if window is None else window.get_tensor(self.pictures)
        )
        return self.control.get_control(x_noisy, t, cond, batched_number, transformer_options)

    def set_previous_controlnet(self, controlnet):
        self.control.set_previous_controlnet(controlnet)
        return super().set_previous_controlnet(controlnet)

    def pre_run(self, model, percent_to_timestep_function):
        self.control.pre_run(model, percent_to_timestep_function)

    def cleanup(self):
        for control in (self.control, *self.multigpu_clones.values()):
            control.cleanup()

    def get_models(self):
        clones = (control.control for control in self.multigpu_clones.values())
        return [model for control in (self.control, *clones) for model in control.get_models()]

    def get_extra_hooks(self):
        return self.control.get_extra_hooks()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return self.control.inference_memory_requirements(dtype)

    def deepclone_multigpu(self, load_device, autoregister: bool = False):
        clone = WindowedControl(self.control.deepclone_multigpu(load_device), self.pictures)
        if autoregister:
            self.multigpu_clones[load_device] = clone
        return clone


def name_frames(executor, model, conds, x: Tensor, timestep: Tensor, model_options: dict[str, Any]):
    """A CALC_COND_BATCH wrapper: tell patches which frames of the clip a context window holds.

    IP-Adapter and Advanced-ControlNet read it under this name, AnimateDiff-Evolved's. What they
    keep for each frame is in their own closures, where no conditioning shows it.
    """
    options = model_options["transformer_options"]
    window = options.get("context_window")
    if window is None or "ad_params" in options:
        return executor(model, conds, x, timestep, model_options)
    frames = window.get_tensor(torch.arange(window.total_frames)).tolist()
    named = {
        "sub_idxs": frames,
        "full_length": window.total_frames,
        "context_length": len(frames),
    }
    return executor(
        model,
        conds,
        x,
        timestep,
        {**model_options, "transformer_options": {**options, "ad_params": named}},
    )
