"""The accelerator record: one distilled release and everything its authors trained it for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Base(str, Enum):
    """A base architecture, as far apart as a loaded model can be told from another. Values are for
    people.

    Sizes of one architecture (Wan 1.3B and 14B) share a member; a record's `width` says which size
    it was made for.
    """

    SD15 = "SD 1.5"
    SD21 = "SD 2.1"
    SDXL = "SDXL"
    SSD1B = "SSD-1B"
    SD3 = "SD 3"
    FLUX = "FLUX.1 dev"
    FLUX_SCHNELL = "FLUX.1 schnell"
    FLUX2 = "FLUX.2"
    Z_IMAGE = "Z-Image"
    QWEN_IMAGE = "Qwen-Image"
    KREA2 = "Krea-2"
    ERNIE_IMAGE = "ERNIE-Image"
    ANIMA = "Anima"
    BOOGU = "Boogu-Image"
    LENS = "Lens"
    MAGE_FLOW = "Mage-Flow"
    HIDREAM = "HiDream-I1"
    HIDREAM_O1 = "HiDream-O1"
    PID = "PixelDiT upscaler"
    ACE_STEP15 = "ACE-Step 1.5"
    WAN_T2V = "Wan 2.1/2.2 text-to-video"
    WAN21_I2V = "Wan 2.1 image-to-video"
    WAN22_I2V = "Wan 2.2 image-to-video"
    WAN22_TI2V = "Wan 2.2 5B text-and-image-to-video"
    WAN_VACE = "Wan 2.1 VACE"
    WAN_HUMO = "Wan HuMo"
    WAN_SCAIL2 = "Wan SCAIL-2"
    WAN_CAUSAL = "causal Wan 2.1 text-to-video"
    HUNYUAN_VIDEO = "HunyuanVideo"
    HUNYUAN15 = "HunyuanVideo 1.5"
    HUNYUAN15_SR = "HunyuanVideo 1.5 super-resolution"
    LTXV = "LTX-Video"
    LTXAV = "LTX-2 audio-video"
    MINIMAX_H3 = "MiniMax-H3 audio-video"


# Noise levels of Stable Diffusion's training timesteps; every other base here is a flow, whose
# sigma runs from 1 to 0.
WITH_TIMESTEPS = frozenset({Base.SD15, Base.SD21, Base.SDXL, Base.SSD1B})


class Kind(str, Enum):
    """What the published file is."""

    LORA = "LoRA"
    MODEL = "full model"
    MOTION_MODULE = "motion module"


class Solver(str, Enum):
    """The update rule a student was distilled for. ODE and re-noise students are not
    interchangeable.

    Values are the host's sampler names; TCD is this pack's own.
    """

    EULER = "euler"
    EULER_ANCESTRAL = "euler_ancestral"
    LCM = "lcm"
    TCD = "tcd"
    UNI_PC = "uni_pc"
    DPMPP_2M = "dpmpp_2m"


class Parameterization(str, Enum):
    """How the network's output becomes the denoised latent, where the accelerator changed it."""

    NATIVE = "native"
    LCM = "lcm"
    X0 = "x0"


class Betas(str, Enum):
    """Spacing of the training noise schedule's betas: Stable Diffusion's, linear in their root, or
    AnimateDiff's, linear.
    """

    SCALED_LINEAR = "scaled_linear"
    LINEAR = "linear"


class Expert(str, Enum):
    """Which of Wan 2.2's two experts an accelerator belongs to."""

    HIGH_NOISE = "high-noise"
    LOW_NOISE = "low-noise"


# ---------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Trailing:
    """Timesteps counted down from the last training one in equal strides: 999, 749, 499, 249 for 4
    steps.

    "Trailing" of Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps Are Flawed,
    section 3.3.
    """


@dataclass(frozen=True)
class ConsistencyGrid:
    """An even choice from the `original_steps` timesteps a consistency model was distilled at: 999,
    759, 499, 259.
    """

    original_steps: int = 50


@dataclass(frozen=True)
class FirstTimesteps:
    """The first timesteps of a list, as many as there are steps: 999, 899, 799, 699 of SD-Turbo,
    800 of a 1-step UNet.
    """

    timesteps: tuple[int, ...]


@dataclass(frozen=True)
class ShiftedFlow:
    """Even flow times 1, (N-1)/N, ... 1/N, shifted: 1, .9375, .8333, .625 for 4 steps at shift 5."""

    shift: float


@dataclass(frozen=True)
class HostSpacedFlow:
    """A shifted flow spaced by the host's `normal` or `sgm_uniform` scheduler, where a release says
    no more than that.
    """

    shift: float
    scheduler: str


@dataclass(frozen=True)
class FluxFlow:
    """Even flow times, shifted more for larger pictures: mu rises linearly from `base_shift` to
    `max_shift`.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15


@dataclass(frozen=True)
class Flux2Flow:
    """Even flow times, shifted by FLUX.2's empirical mu of picture size and step count."""


@dataclass(frozen=True)
class TwoClockFlow:
    """A shifted flow whose second signal, sound, keeps a shift of its own: MiniMax-H3. The sampler
    walks the video's.
    """

    video_shift: float
    audio_shift: float


@dataclass(frozen=True)
class TrigFlow:
    """rCM: noise levels as angles, arctan(sigma_max) and then `angles`; sigma = sin / (sin + cos).
    N steps take the first N.
    """

    sigma_max: float
    angles: tuple[float, ...] = (1.5, 1.4, 1.0)


@dataclass(frozen=True)
class LiteralSigmas:
    """Published lists that no formula gives, one for each step count, each without its closing 0."""

    lists: tuple[tuple[float, ...], ...]


Schedule = (
    Trailing
    | ConsistencyGrid
    | FirstTimesteps
    | ShiftedFlow
    | HostSpacedFlow
    | FluxFlow
    | Flux2Flow
    | TwoClockFlow
    | TrigFlow
    | LiteralSigmas
)


@dataclass(frozen=True)
class Causal:
    """How a causal video model is unrolled: frames denoised together, and the first block's own
    schedule where it has one.
    """

    frames_per_block: int
    first_block: Schedule | None = None
    first_block_steps: int | None = None


# ---------------------------------------------------------------- files and terms


@dataclass(frozen=True)
class PublishedFile:
    """Where one file of a release can be had. `folder` is the host's model folder it belongs in.

    path: empty where the repository's file name is not known. size: exact bytes, where known; they
    tell a renamed file.
    caution: what stands between this file and the host.
    """

    repo: str
    path: str = ""
    rank: int | None = None
    folder: str = "loras"
    size: int | None = None
    caution: str = ""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        """Its address, the repository's where the file name is not known, empty for a user's own
        file.
        """
        if not self.repo:
            return ""
        return f"https://huggingface.co/{self.repo}" + (
            f"/resolve/main/{self.path}" if self.path else ""
        )


@dataclass(frozen=True)
class Licence:
    """`name` as published; `commercial`: True allowed, False forbidden, None not known. note: what
    else it limits.
    """

    name: str
    commercial: bool | None
    note: str = ""

    def __str__(self) -> str:
        terms = {
            True: "commercial use allowed",
            False: "NON-COMMERCIAL",
            None: "commercial use unknown",
        }[self.commercial]
        return f"{self.name} ({terms}{'; ' + self.note if self.note else ''})"


UNKNOWN_LICENCE = Licence("unknown", None)


# ---------------------------------------------------------------- the record


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator and the settings it was distilled for. Frozen: it travels on a MODEL and is
    never changed.

    id: permanent, lower-case words joined by hyphens.
    bases: architectures it may be attached to. width: hidden width of the size it was made for,
    where there are several.
    steps: every step count it was distilled for, ascending; `default_steps` is one of them, the
    first if not given.
    cfg: guidance scale it runs at; 1.0 for all but the few distilled with guidance kept.
    embedded_guidance: scale the network takes as an input (FLUX 3.5). Not CFG, costs nothing, left
    as the graph sets it.
    strength: the release's own LoRA strength; the node's `strength` multiplies it.
    missing_alpha: network alpha of the release's files that carry none, where that is not their
    rank.
    noise_clip: standard deviations at which LCM's fresh noise is clipped, 0 for none.
    gamma: TCD's stochasticity by step count, 0 (ODE) .. 1 (fully re-noised).
    boundary: sigma at and above which the high-noise expert runs; only with `expert`.
    name_words: what a path must say to speak for this release where the header cannot decide: each
        word, or one of several written "lightning|lightx2v". name_excludes: words that speak
        against it.
    only_by_choice: a recipe for another record's files: never recognised, only chosen by its id.
    for_distilled: ids of distilled models it is made to go on; any other distilled model refuses
    it.
    unverified: what could not be confirmed from the published material.
    """

    id: str
    family: str
    kind: Kind
    bases: tuple[Base, ...]
    steps: tuple[int, ...]
    default_steps: int = 0
    schedule: Schedule
    solver: Solver = Solver.EULER
    licence: Licence
    files: tuple[PublishedFile, ...]
    sources: tuple[str, ...]
    name_words: tuple[str, ...]
    name_excludes: tuple[str, ...] = ()
    width: int | None = None
    parameterization: Parameterization = Parameterization.NATIVE
    betas: Betas = Betas.SCALED_LINEAR
    cfg: float = 1.0
    embedded_guidance: float | None = None
    strength: float = 1.0
    missing_alpha: float | None = None
    noise_clip: float = 0.0
    gamma: Mapping[int, float] = field(default_factory=dict)
    expert: Expert | None = None
    boundary: float | None = None
    causal: Causal | None = None
    only_by_choice: bool = False
    for_distilled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", MappingProxyType(dict(self.gamma)))
        object.__setattr__(self, "default_steps", self.default_steps or (self.steps or (0,))[0])
        for claim, holds in self._laws():
            if not holds:
                raise ValueError(f"Accelerator record {self.id!r}: {claim}.")

    def _laws(self) -> list[tuple[str, bool]]:
        return [
            (
                "id is lower-case words joined by hyphens",
                re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id) is not None,
            ),
            ("at least one base", bool(self.bases)),
            (
                "steps are positive and ascending",
                bool(self.steps)
                and list(self.steps) == sorted(set(self.steps))
                and min(self.steps) > 0,
            ),
            ("default_steps is one of steps", self.default_steps in self.steps),
            (
                "the schedule has every step count",
                all(has_steps(self.schedule, steps) for steps in self.steps),
            ),
            (
                (
                    "a schedule of timesteps and a parameterization go with Stable Diffusion, a"
                    " flow with every other base"
                ),
                all(_fits_base(self.schedule, base) for base in self.bases)
                and (
                    self.parameterization is Parameterization.NATIVE
                    or set(self.bases) <= WITH_TIMESTEPS
                ),
            ),
            (
                "TCD has the grid of a consistency model",
                self.solver is not Solver.TCD or isinstance(self.schedule, ConsistencyGrid),
            ),
            (
                "LCM's parameterization has its grid of 50 timesteps, the one the host gives it",
                self.parameterization is not Parameterization.LCM
                or self.schedule == ConsistencyGrid(50),
            ),
            (
                "lists of sigmas fall and end above 0",
                not isinstance(self.schedule, LiteralSigmas)
                or all(map(_falls, self.schedule.lists)),
            ),
            ("cfg is at least 1", math.isfinite(self.cfg) and self.cfg >= 1.0),
            ("strength is finite and not 0", math.isfinite(self.strength) and self.strength != 0.0),
            ("missing_alpha is positive", self.missing_alpha is None or self.missing_alpha > 0.0),
            (
                "every step count has a gamma exactly when the solver is TCD",
                set(self.gamma) == (set(self.steps) if self.solver is Solver.TCD else set()),
            ),
            ("noise is clipped by LCM alone", self.noise_clip == 0.0 or self.solver is Solver.LCM),
            ("gamma lies in 0..1", all(0.0 <= g <= 1.0 for g in self.gamma.values())),
            (
                "an expert has a boundary in 0..1 and nothing else has one",
                (self.expert is None) == (self.boundary is None)
                and (self.boundary is None or 0 < self.boundary < 1),
            ),
            ("it names its sources", bool(self.sources)),
        ]

    @property
    def is_guided(self) -> bool:
        """Whether it runs with classifier-free guidance, and so both branches."""
        return not math.isclose(self.cfg, 1.0)


def _fits_base(schedule: Schedule, base: Base) -> bool:
    if isinstance(schedule, Trailing | ConsistencyGrid | FirstTimesteps):
        return base in WITH_TIMESTEPS
    return isinstance(schedule, LiteralSigmas) or base not in WITH_TIMESTEPS


def _falls(sigmas: tuple[float, ...]) -> bool:
    return (
        bool(sigmas)
        and sigmas[-1] > 0.0
        and all(now > then for now, then in zip(sigmas, sigmas[1:]))
    )


def has_steps(schedule: Schedule, steps: int) -> bool:
    """Whether a schedule says what `steps` steps are. Lists end; formulas do not."""
    if isinstance(schedule, LiteralSigmas):
        return any(len(sigmas) == steps for sigmas in schedule.lists)
    if isinstance(schedule, FirstTimesteps):
        return steps <= len(schedule.timesteps)
    if isinstance(schedule, TrigFlow):
        return steps <= 1 + len(schedule.angles)
    if isinstance(schedule, ConsistencyGrid):
        return steps <= schedule.original_steps
    return True


def bases_in_words(bases: Iterable[Base]) -> str:
    """SDXL or SSD-1B."""
    return " or ".join(base.value for base in bases)


def ids_in_words(records: Iterable[Accelerator], joint: str = ", ") -> str:
    """The ids of several records, as a list or with another word between them."""
    return joint.join(record.id for record in records)
