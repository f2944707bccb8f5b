"""TeaCache's rule, as far as it can be had without touching a model's inside.

Liu et al. 2025, arXiv 2411.19108 (ali-vilab/TeaCache, 7c10efc). The same here: the relative L1
change of a signal since the evaluation before, skipped or not; rescaled by the model's published
polynomial; summed up; and the model is evaluated, and the sum emptied, when the sum reaches the
threshold. For Wan the signal is the published one too: the time embedding, which depends on the
timestep alone.

Different: (1) TeaCache stores the residual of the transformer blocks and still runs the model's
last layer on the latent of the moment; here the derivative of the last real evaluation is repeated,
which is the same one layer later. (2) One decision for the guided result instead of one for each of
cond and uncond. (3) For models other than Wan the published signal is the first block's modulated
input, inside the model; here it is the model's input itself, with no polynomial, because the
published ones rescale another quantity. Thresholds of such models do not carry over. (4) The
warm-up and the end are those of this node.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .history import Entry
from .method import Decision, ModelSignals, Moment, RunFacts, Settings, SkipMethod
from .schedule import RunSchedule
from .tally import Tally
from .traits import SamplerTraits

Polynomial = tuple[float, ...]  # highest power first
IDENTITY: Polynomial = (1.0, 0.0)

# For the time embedding before its projection ("standard" mode).
POLYNOMIALS: dict[str, Polynomial] = {
    "Wan2.1 T2V 1.3B": (
        2.39676752e03,
        -1.31110545e03,
        2.01331979e02,
        -8.29855975e00,
        1.37887774e-01,
    ),  # TeaCache4Wan2.1
    "Wan2.1 T2V 14B": (
        -5784.54975374,
        5449.50911966,
        -1811.16591783,
        256.27178429,
        -13.02252404,
    ),  # TeaCache4Wan2.1
    "Wan2.1 I2V 480P": (
        -3.02331670e02,
        2.23948934e02,
        -5.25463970e01,
        5.87348440e00,
        -2.01973289e-01,
    ),  # TeaCache4Wan2.1
    "Wan2.1 I2V 720P": (
        -114.36346466,
        65.26524496,
        -18.82220707,
        4.91518089,
        -0.23412683,
    ),  # TeaCache4Wan2.1
    "Wan2.2 TI2V 5B": (
        1.57472669e5,
        -1.15702395e5,
        3.10761669e4,
        -3.83116651e3,
        2.21608777e2,
        -4.81179567,
    ),  # ModelTC/LightX2V
}

# Latent pixels per frame between 480P (104 x 60) and 720P (160 x 90): two files of one
# architecture, told apart by their use.
PIXELS_OF_720P = 10_000


def wan_polynomial(dim: int, in_dim: int, has_image_branch: bool, latent_pixels: int) -> str | None:
    """The entry of POLYNOMIALS for a Wan network of this shape; None where none is published.

    Wan 2.2's 14B text-to-video experts have the shape of Wan 2.1's 14B and are taken for it.
    """
    if (dim, in_dim) == (5120, 36) and has_image_branch:
        return "Wan2.1 I2V 720P" if latent_pixels > PIXELS_OF_720P else "Wan2.1 I2V 480P"
    return {
        (1536, 16): "Wan2.1 T2V 1.3B",
        (5120, 16): "Wan2.1 T2V 14B",
        (3072, 48): "Wan2.2 TI2V 5B",
    }.get((dim, in_dim))


def polynomial_name(signals: ModelSignals) -> str | None:
    """The entry of POLYNOMIALS for the model; None where none is published for it."""
    wan = signals.wan
    if wan is None:
        return None
    return wan_polynomial(wan.dim, wan.in_dim, wan.has_image_branch, signals.latent_pixels)


def evaluate_polynomial(polynomial: Polynomial, value: float) -> float:
    total = 0.0
    for coefficient in polynomial:
        total = total * value + coefficient
    return total


def relative_l1(now: Tensor, before: Tensor) -> Tensor:
    """mean|now - before| / mean|before|, 0-dim."""
    return (now - before).abs().mean() / before.abs().mean()


class TeaCache(SkipMethod):
    """Evaluates again once the rescaled change adds up to more than settings.threshold.

    settings.target_speedup is not read.

    signal_of: (sigma, x) -> what is compared between evaluations. polynomial: rescales its change.
    """

    does = (
        "repeats the last result until the model's signal has changed by threshold, for those who"
        " know its numbers."
    )
    about_threshold = "how much change may add up; higher is faster and less faithful."

    def __init__(
        self,
        schedule: RunSchedule,
        settings: Settings,
        traits: SamplerTraits,
        signal_of: Callable[[Tensor, Tensor], Tensor] = lambda sigma, x: x,
        polynomial: Polynomial = IDENTITY,
        note: str = "",
    ):
        super().__init__(schedule, settings, traits)
        self.signal_of, self.polynomial, self.note = signal_of, polynomial, note
        self.sum = 0.0
        self.before: Tensor | None = None

    @classmethod
    def for_run(cls, facts: RunFacts) -> TeaCache:
        signals = facts.signals
        name, signal_of, what = None, signals.model_input, "the model input"
        embedding = signals.time_embedding
        if embedding is not None:
            name, what = polynomial_name(signals), "the time embedding"
            signal_of = lambda sigma, x: embedding(sigma)  # noqa: E731
        rescaled = "not rescaled" if name is None else f"rescaled for {name}"
        return cls(
            facts.schedule,
            facts.settings,
            facts.traits,
            signal_of,
            IDENTITY if name is None else POLYNOMIALS[name],
            f"signal: {what}, {rescaled}",
        )

    @property
    def bytes(self) -> int:
        return 0 if self.before is None else self.before.nbytes

    def signal(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        # A copy: x may be the sampler's own tensor, which it is free to overwrite.
        now, before = self.signal_of(sigma, x).to(torch.float32, copy=True), self.before
        self.before = now
        return None if before is None or before.shape != now.shape else relative_l1(now, before)

    def decide(self, moment: Moment) -> Decision:
        if moment.signal is None:
            return Decision.EVALUATE
        self.sum += evaluate_polynomial(self.polynomial, moment.signal)
        return Decision.SKIP if self.sum < self.settings.threshold else Decision.EVALUATE

    def predict(
        self, x: Tensor, moment: Moment, entries: tuple[Entry, ...], run_length: int
    ) -> Tensor:
        return entries[-1].derivative.to(x.device, copy=True)

    def computed(
        self, moment: Moment, derivative: Tensor, entries: tuple[Entry, ...]
    ) -> Tensor | None:
        self.sum = 0.0
        return None

    def notes(self, tally: Tally) -> tuple[str, ...]:
        return (self.note,) if self.note else ()
