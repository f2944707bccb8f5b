"""The lock on CFG: it goes with the MODEL, so that other samplers than this pack's keep it too."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_execution.utils import get_executing_context

from ...loras.accelerator import Accelerator
from ...loras.words import counted
from .model import sigma_of
from .run import run_log
from .server import show_on_node
from .timeline import START

log = logging.getLogger(__name__)

KEY = "fewstep.lock"
# The host's schedulers round timesteps otherwise than one another: sgm_uniform, which publishers
# name, is up to one of the thousand off. Levels of one schedule lie much further apart.
SAME_SIGMA = 0.02


def with_lock(model, record: Accelerator, is_locked: bool = True):
    """A copy of the model, on which every sampler runs at the accelerator's own CFG.

    is_locked: another CFG is refused; else it runs and is logged. Other noise levels than the
    record's are the user's choice in either case, and told. This pack's own samplers, which say
    what they do in their reports, are let through.
    """

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        if run_log(guider.model_options) is None:
            others = [cfg for cfg in scales_of(guider) if not math.isclose(cfg, record.cfg)]
            if others:
                refuse_or_tell(record, others[0], is_locked)
            tell_other_levels(record, guider.model_patcher, sigmas.tolist())
            tell_blended(getattr(guider, "conds", {}))
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    patched = model.clone()
    # A record may take the place of an earlier one, as AnimateLCM's does: so does its lock.
    wrappers = patched.model_options.get("transformer_options", {}).get("wrappers", {})
    wrappers.get(WrappersMP.OUTER_SAMPLE, {}).pop(KEY, None)
    add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, outer_sample, patched.model_options, is_model_options=True
    )
    return patched


def scales_of(guider) -> list[float]:
    """The guidance scales that a guider of the host runs at; none where it does not say. Core's
    DualCFGGuider has two of its own, beside one that it never sets.
    """
    own = [getattr(guider, name) for name in ("cfg1", "cfg2") if hasattr(guider, name)]
    scales = own or [getattr(guider, "cfg", None)]
    return [scale for scale in scales if isinstance(scale, int | float)]


def refuse_or_tell(record: Accelerator, cfg: float, is_locked: bool) -> None:
    words = (
        f"{record.id} was distilled to run at CFG {record.cfg:g}, and this sampler runs it at"
        f" {cfg:g}, which burns or blurs the picture"
    )
    if is_locked:
        raise ValueError(
            f"{words}: use the Few-Step Sampler, or take cfg and sigmas from the Few-Step Schedule"
            " (to run it so all the same, switch lock_cfg off in the Accelerator Loader)."
        )
    # Asked for, so in the log alone: a text under the node would lie over the ones beside it.
    log.warning("%s.", words)


def tell_other_levels(record: Accelerator, model, sigmas: Sequence[float]) -> None:
    """Say so where a sampler runs on other noise levels than the record's."""
    steps = len(sigmas) - 1
    # Not those that depend on the picture's size, nor those of streams: they are unknown here.
    if steps < 1 or record.schedule.needs_size or record.causal is not None:
        return
    sigma = functools.cache(sigma_of(model))

    def has_run(count: int) -> bool:
        return any(_is_part_of(sigmas, run) for run in record.schedule.runs(count, sigma))

    if any(map(has_run, record.steps)):
        return
    is_same_formula = record.schedule.is_formula and record.schedule.has_steps(steps)
    if is_same_formula and has_run(steps):
        counts = ", ".join(map(str, record.steps))
        plural = "s" * (record.steps != (1,))
        _tell(f"{record.id} was distilled for {counts} step{plural} and runs at {steps} here.")
        return
    _tell(
        f"{record.id} runs on other noise levels here than it was distilled at:"
        f" {counted(steps, 'step')} from sigma {sigmas[0]:.4g}. The Few-Step Schedule gives its"
        " own."
    )


def tell_blended(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Say so where a sampler shows the prompts of a timeline all at once. conds: of its run."""
    timed = max((sum(START in each for each in prompts) for prompts in conds.values()), default=0)
    if timed > 1:
        _tell(
            f"The prompt is a Prompt Timeline of {counted(timed, 'prompt')}, and this sampler"
            " blends all of them: only the Streaming Sampler shows one after another."
        )


def _is_part_of(sigmas: Sequence[float], levels: Sequence[float]) -> bool:
    """Whether the sigmas are levels in a row: a sampler may run a part of a schedule."""

    def same(one: float, other: float) -> bool:
        return math.isclose(one, other, rel_tol=SAME_SIGMA, abs_tol=1e-4)

    return any(
        all(map(same, sigmas, levels[first:])) for first in range(len(levels) - len(sigmas) + 1)
    )


def _tell(words: str) -> None:
    """In the log, and under the node that is at work."""
    log.warning("%s", words)
    context = get_executing_context()
    show_on_node(words, None if context is None else context.node_id)
