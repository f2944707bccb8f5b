"""The noise levels diffusers runs a schedule at: what the accelerators' authors sampled with."""

from __future__ import annotations

import math

import numpy as np
from comfyui_fewstep.loras.schedules import ConsistencyGrid, Schedule, ShiftedFlow, Trailing
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

Scheduler = EulerDiscreteScheduler | LCMScheduler | TCDScheduler | FlowMatchEulerDiscreteScheduler


def scheduler_of(schedule: Schedule, steps: int, consistency: type = LCMScheduler) -> Scheduler:
    """diffusers' scheduler of a schedule, set to this many steps. consistency: LCMScheduler or
    TCDScheduler, which share the grid.
    """
    if isinstance(schedule, ShiftedFlow):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=schedule.shift)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
        return scheduler
    if isinstance(schedule, ConsistencyGrid):
        scheduler = consistency(
            **STABLE_DIFFUSION, original_inference_steps=schedule.original_steps
        )
    else:
        assert isinstance(schedule, Trailing)
        scheduler = EulerDiscreteScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


def sigmas_of_scheduler(scheduler: Scheduler) -> list[float]:
    """Its steps + 1 noise levels; the consistency schedulers know timesteps alone."""
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.tolist()
    alphas = [scheduler.alphas_cumprod[int(t)].item() for t in scheduler.timesteps]
    return [*(math.sqrt((1 - a) / a) for a in alphas), 0.0]
