"""What a method of leaving evaluations out is: one class in one file, and one entry in METHODS.

The base class has a default for everything that most methods do not need. What a method has to say
about itself, to the node's tooltips and to the report of a run, it says here too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from torch import Tensor

from .history import Entry
from .schedule import RunSchedule
from .tally import Tally
from .traits import SamplerTraits


@dataclass(frozen=True)
class Settings:
    """What the user asked for. Each method says what it makes of the first two."""

    target_speedup: float = 1.5  # evaluations asked for / evaluations made
    threshold: float = 0.2
    max_consecutive: int = 3  # evaluations left out in a row, at most


@dataclass(frozen=True)
class WanShape:
    """What tells one Wan network from another."""

    dim: int  # width of the transformer
    in_dim: int  # input channels
    has_image_branch: bool


def _latent_itself(sigma: Tensor, x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class ModelSignals:
    """What can be read off a model without evaluating it. sigma: 0-dim. x: (B, ...)."""

    # (sigma, x) -> x as the network is given it.
    model_input: Callable[[Tensor, Tensor], Tensor] = _latent_itself
    # sigma -> what the network makes of the timestep first; None where nobody knows where to look.
    time_embedding: Callable[[Tensor], Tensor] | None = None
    wan: WanShape | None = None
    latent_pixels: int = 0  # of one frame


@dataclass(frozen=True)
class RunFacts:
    """All that a method may need to know of the run that it is made for."""

    schedule: RunSchedule
    settings: Settings
    traits: SamplerTraits
    signals: ModelSignals = field(default_factory=ModelSignals)


@dataclass(frozen=True)
class Moment:
    """One evaluation that a sampler asks for."""

    sigma: float
    level: float  # RunSchedule.level of sigma
    step: int
    width: float  # from sigma to the end of the step, positive
    is_repeat: bool  # of the noise level of the last real evaluation
    has_repeats: bool  # this sampler has evaluated twice at one noise level in this run
    # Of a forecast made now, judged by the last one that could be checked; None before there is
    # one.
    expected_error: float | None
    signal: float | None  # the method's own number; None where there is nothing to compare with yet


class Decision(Enum):
    EVALUATE = "evaluate"
    SKIP = "skip"
    VETO = "veto"  # due to be left out, but the last forecast was too wrong


class SkipMethod(ABC):
    """How a method decides, and what it puts in place of an evaluation. One object per run."""

    # For the node's tooltips: what it does, to be read after its name, and what these two settings
    # mean to it, empty where it does not read one.
    does: ClassVar[str] = ""
    about_target_speedup: ClassVar[str] = ""
    about_threshold: ClassVar[str] = ""

    keeps: int = 2  # evaluations that `predict` looks at, two or more
    keeps_denoised: bool = False  # whether it looks at their denoised latents too
    extra_latents: int = 0  # latents that it keeps beside those
    refusal: str | None = None  # why it leaves nothing out in this run, if so

    def __init__(self, schedule: RunSchedule, settings: Settings, traits: SamplerTraits):
        self.schedule, self.settings, self.traits = schedule, settings, traits
        self.longest_run = settings.max_consecutive  # evaluations left out in a row, at most

    @classmethod
    def for_run(cls, facts: RunFacts) -> SkipMethod:
        return cls(facts.schedule, facts.settings, facts.traits)

    @property
    def latents_kept(self) -> int:
        """Latents in memory at once, at most, the history's included."""
        return self.keeps * (2 if self.keeps_denoised else 1) + self.extra_latents

    @property
    def bytes(self) -> int:
        """What it remembers now, beside the history."""
        return 0

    def signal(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        """A number (0-dim, on x's device) that the decision needs from the tensors, if it does."""
        return None

    @abstractmethod
    def decide(self, moment: Moment) -> Decision:
        """Called once for every evaluation that may be left out."""

    @abstractmethod
    def predict(
        self, x: Tensor, moment: Moment, entries: tuple[Entry, ...], run_length: int
    ) -> Tensor:
        """The derivative for the `run_length`-th skip in a row: a new tensor on x's device.

        entries: two or more, oldest first.
        """

    def skipped(self, moment: Moment, entries: tuple[Entry, ...], run_length: int) -> Tensor | None:
        """It was left out. A tensor returned is added to the denoised latent the sampler gets."""
        return None

    def computed(
        self, moment: Moment, derivative: Tensor, entries: tuple[Entry, ...]
    ) -> Tensor | None:
        """It was made. A tensor returned is added to the denoised latent that the sampler gets.

        It makes good for earlier forecasts.
        """
        return None

    def notes(self, tally: Tally) -> tuple[str, ...]:
        """What the report of the finished run has to say about the method, sentence by sentence."""
        return ()
