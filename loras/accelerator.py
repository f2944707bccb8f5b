"""The accelerator record: one distilled release and everything its authors trained it for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Base(str, Enum):
    """A base architecture, as far apart as a loaded model can be told from another. Values are for people."""

    SD15 = "SD 1.5"
    SDXL = "SDXL"
    SSD1B = "SSD-1B"
    WAN_T2V = "Wan 2.1/2.2 text-to-video"
    WAN21_I2V = "Wan 2.1 image-to-video"
    WAN22_I2V = "Wan 2.2 image-to-video"


class Kind(str, Enum):
    """What the published file is."""

    LORA = "LoRA"
    MODEL = "full model"
    MOTION_MODULE = "motion module"


class Solver(str, Enum):
    """The update rule a student was distilled for. ODE and re-noise students are not interchangeable."""

    EULER = "euler"
    LCM = "lcm"
    TCD = "tcd"


class Parameterization(str, Enum):
    """How the network's output becomes the denoised latent, where the accelerator changed it."""

    NATIVE = "native"
    LCM = "lcm"
    X0 = "x0"


class Expert(str, Enum):
    """Which of Wan 2.2's two experts an accelerator belongs to."""

    HIGH_NOISE = "high-noise"
    LOW_NOISE = "low-noise"


@dataclass(frozen=True)
class Trailing:
    """Timesteps counted down from the last training one in equal strides: 999, 749, 499, 249 for 4 steps.

    "Trailing" of Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps Are Flawed, section 3.3.
    """


@dataclass(frozen=True)
class ConsistencyGrid:
    """An even choice from the `original_steps` timesteps a consistency model was distilled at: 999, 759, 499, 259."""

    original_steps: int = 50


@dataclass(frozen=True)
class ShiftedFlow:
    """Even flow times 1, (N-1)/N, ... 1/N, shifted: 1, .9375, .8333, .625 for 4 steps at shift 5."""

    shift: float


Schedule = Trailing | ConsistencyGrid | ShiftedFlow


@dataclass(frozen=True)
class PublishedFile:
    """Where one file of a release can be had. `folder` is the host's model folder it belongs in."""

    repo: str
    path: str
    rank: int | None = None
    folder: str = "loras"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repo}/resolve/main/{self.path}"


@dataclass(frozen=True)
class Licence:
    """`name` as published; `commercial`: True allowed, False forbidden, None not known."""

    name: str
    commercial: bool | None
    note: str = ""

    def __str__(self) -> str:
        terms = {True: "commercial use allowed", False: "NON-COMMERCIAL", None: "commercial use unknown"}[self.commercial]
        return f"{self.name} ({terms}{'; ' + self.note if self.note else ''})"


UNKNOWN_LICENCE = Licence("unknown", None)


@dataclass(frozen=True)
class Accelerator:
    """One accelerator and the settings it was distilled for. Frozen: it travels on a MODEL and is never changed.

    id: permanent, lower-case words joined by hyphens.
    bases: architectures it may be attached to.
    steps: every step count it was distilled for, ascending; `default_steps` is one of them.
    cfg: guidance scale it runs at; 1.0 for all but the few distilled with guidance kept.
    strength: the release's own LoRA strength; the node's `strength` multiplies it.
    gamma: TCD's stochasticity by step count, 0 (ODE) .. 1 (fully re-noised).
    boundary: sigma at and above which the high-noise expert runs; only with `expert`.
    name_words: what a path must say to speak for this release where the header cannot decide: each word, or one of
        several written "lightning|lightx2v".
    unverified: what could not be confirmed from the published material.
    """

    id: str
    family: str
    kind: Kind
    bases: tuple[Base, ...]
    steps: tuple[int, ...]
    default_steps: int
    schedule: Schedule
    solver: Solver
    licence: Licence
    files: tuple[PublishedFile, ...]
    sources: tuple[str, ...]
    name_words: tuple[str, ...]
    parameterization: Parameterization = Parameterization.NATIVE
    cfg: float = 1.0
    strength: float = 1.0
    gamma: Mapping[int, float] = field(default_factory=dict)
    expert: Expert | None = None
    boundary: float | None = None
    notes: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", MappingProxyType(dict(self.gamma)))
        for claim, holds in self._laws():
            if not holds:
                raise ValueError(f"Accelerator record {self.id!r}: {claim}.")

    def _laws(self) -> list[tuple[str, bool]]:
        return [
            ("id is lower-case words joined by hyphens", re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id) is not None),
            ("at least one base", bool(self.bases)),
            ("steps are positive and ascending", list(self.steps) == sorted(set(self.steps)) and min(self.steps) > 0),
            ("default_steps is one of steps", self.default_steps in self.steps),
            ("cfg is at least 1", math.isfinite(self.cfg) and self.cfg >= 1.0),
            ("strength is finite and not 0", math.isfinite(self.strength) and self.strength != 0.0),
            ("every step count has a gamma exactly when the solver is TCD",
             set(self.gamma) == (set(self.steps) if self.solver is Solver.TCD else set())),
            ("gamma lies in 0..1", all(0.0 <= g <= 1.0 for g in self.gamma.values())),
            ("an expert has a boundary in 0..1 and nothing else has one",
             (self.expert is None) == (self.boundary is None) and (self.boundary is None or 0 < self.boundary < 1)),
            ("it names its sources", bool(self.sources)),
        ]

    @property
    def is_guided(self) -> bool:
        """Whether it was distilled with classifier-free guidance kept, so that it runs both branches."""
        return not math.isclose(self.cfg, 1.0)
