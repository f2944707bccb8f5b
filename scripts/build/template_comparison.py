"""How a template's run differs from a record, setting by setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

from comfyui_fewstep.loras.accelerator import Accelerator
from comfyui_fewstep.loras.schedules import (
    FirstTimesteps,
    Flux2Flow,
    FluxFlow,
    HostSpacedFlow,
    OwnFlow,
    Schedule,
    ShiftedFlow,
    scaled_linear_sigma,
)

from template_runs import Run

# The host picks its levels from a table of 1000: this far they may lie from the formula's.
TOLERANCE = 0.003
TOKENS = 4096  # 1024 x 1024 pixels, for schedules that depend on the size
# Samplers that are a record's solver under another name.
SAME_SAMPLER = {"ar_video": "lcm"}  # core's own loop for causal models, which re-noises


@dataclass(frozen=True)
class Difference:
    """The settings that differ, by name, on both sides."""

    template: tuple[tuple[str, object], ...]
    record: tuple[tuple[str, object], ...]

    @property
    def of_template(self) -> dict[str, object]:
        return dict(self.template)

    def __str__(self) -> str:
        return f"template {_in_words(self.template)}; record {_in_words(self.record)}"


def differences(run: Run, file: str, record: Accelerator) -> Difference | None:
    """What a run of this file does otherwise than the record; None where nothing."""
    differing = [setting[:3] for setting in _settings(run, file, record) if not setting[3]]
    template = tuple((name, theirs) for name, theirs, _ in differing)
    own = tuple((name, ours) for name, _, ours in differing)
    return Difference(template, own) if differing else None


def _settings(run: Run, file: str, record: Accelerator) -> list[tuple[str, object, object, bool]]:
    """(name, the template's, the record's, whether they agree) of every setting."""
    solver = record.solver.value
    sampler = SAME_SAMPLER.get(run.sampler, run.sampler)
    strength = next(
        (strength for name, strength in run.loras if name.lower() == file.lower()), None
    )
    steps = run.steps or record.default_steps
    has_steps = steps in record.steps or _is_refining(run, record)
    return [
        ("steps", steps, record.default_steps, has_steps),
        ("sampler", run.sampler, solver, sampler == solver),
        ("noise", noise_in_words(run), _schedule_in_words(record), _same_noise(run, record)),
        (
            "strength",
            None if strength is None else round(strength, 3),
            record.strength,
            strength is None or math.isclose(strength, record.strength, abs_tol=5e-3),
        ),
        ("cfg", run.cfg, record.cfg, run.cfg is None or math.isclose(run.cfg, record.cfg)),
    ]


def noise_in_words(run: Run) -> str:
    """Where a run's noise levels come from, but for their count."""
    if run.sigmas:
        return "sigmas " + ", ".join(f"{sigma:g}" for sigma in run.sigmas if sigma)
    if isinstance(run.shift, tuple):
        shift = "FLUX's shift of {:g} to {:g}".format(*run.shift)
    else:
        shift = "the model's own shift" if run.shift is None else f"shift {run.shift:g}"
    if run.scheduler == "simple":
        return shift
    return f"{run.scheduler}, {shift}" if run.scheduler.islower() else run.scheduler


def _schedule_in_words(record: Accelerator) -> str:
    shift = record.schedule.shift
    return f"shift {shift:g}" if shift else "a schedule of its own"


def _same_noise(run: Run, record: Accelerator) -> bool:
    """Whether the run's noise levels are the record's, at the run's own step count."""
    steps = run.steps or record.default_steps
    is_own = isinstance(record.schedule, OwnFlow) and run.scheduler == "simple"
    if _is_refining(run, record) or (is_own and run.shift is None):
        return True
    if run.sigmas:
        theirs = list(run.sigmas[:-1])
    elif (schedule := _schedule_of(run, record)) is not None:
        theirs = _levels(schedule, steps)
    else:
        return False
    if not record.schedule.has_steps(steps):
        return False
    return _are_close(_levels(record.schedule, steps), theirs)


def _is_refining(run: Run, record: Accelerator) -> bool:
    """Whether these are the last of the record's own levels, as denoise below 1 runs them here."""
    theirs = run.sigmas[:-1]
    own = _levels(record.schedule, record.default_steps)
    return 0 < len(theirs) < len(own) and _are_close(own[-len(theirs) :], theirs)


def _are_close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(math.isclose(one, other, abs_tol=TOLERANCE) for one, other in pairs)


def _levels(schedule: Schedule, steps: int) -> list[float]:
    return schedule.sigmas(steps, 1.0, scaled_linear_sigma, TOKENS)[:-1]


def _schedule_of(run: Run, record: Accelerator) -> Schedule | None:
    """The schedule here that gives the levels of a run; None where none does."""
    if run.scheduler == "Flux2Scheduler":
        return Flux2Flow()
    if run.scheduler == "SDTurboScheduler":
        return FirstTimesteps(tuple(range(999, 0, -100)))
    if isinstance(run.shift, tuple):
        return FluxFlow(*run.shift) if run.scheduler == "simple" else None
    shift = record.bases[0].shift if run.shift is None else run.shift
    if shift is None:
        return None
    if run.scheduler == "simple":
        return ShiftedFlow(shift)
    if run.scheduler in ("normal", "sgm_uniform"):
        return HostSpacedFlow(shift, run.scheduler)
    return None


def _in_words(settings: tuple[tuple[str, object], ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings)
