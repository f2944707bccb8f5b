"""The accelerator record: one distilled release and everything its authors trained it for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from .bases import Base, BaseRow, Levels, is_of
from .schedules import ConsistencyGrid, Schedule
from .words import counted


class Kind(str, Enum):
    """What the published file is."""

    LORA = "LoRA"
    MODEL = "full model"
    MOTION_MODULE = "motion module"


class Solver(str, Enum):
    """The update rule a student was distilled for; ODE and re-noise students need different ones.

    Values are the host's sampler names; TCD is this pack's own.
    """

    EULER = "euler"
    EULER_ANCESTRAL = "euler_ancestral"
    LCM = "lcm"
    TCD = "tcd"
    UNI_PC = "uni_pc"
    DPMPP_2M = "dpmpp_2m"
    RES_MULTISTEP = "res_multistep"
    ER_SDE = "er_sde"


class Parameterization(str, Enum):
    """How the network's output becomes the denoised latent, where the accelerator changed it."""

    NATIVE = "native"
    LCM = "lcm"
    X0 = "x0"


class Expert(str, Enum):
    """Which of Wan 2.2's two experts an accelerator belongs to."""

    HIGH_NOISE = "high-noise"
    LOW_NOISE = "low-noise"

    @property
    def word(self) -> str:
        """As ids and names have it: high or low."""
        return self.value.partition("-")[0]

    @property
    def other(self) -> Expert:
        return Expert.LOW_NOISE if self is Expert.HIGH_NOISE else Expert.HIGH_NOISE


@dataclass(frozen=True)
class Causal:
    """How a causal video model is unrolled."""

    frames_per_block: int  # latent frames that are denoised together
    # The first block's own, where it has them.
    first_block: Schedule | None = None
    first_block_steps: int | None = None


# ---------------------------------------------------------------- files and terms


@dataclass(frozen=True)
class Make:
    """How the low-rank pairs of a published file are written."""

    naming: str  # what stands before and behind their layers: "lora_unet_*.lora_down"
    pairs: int | None = None  # how many there are, where that is known
    dtype: str = ""  # the format's name for their numbers, empty where not known


@dataclass(frozen=True)
class PublishedFile:
    """Where one file of a release can be had."""

    repo: str  # owner/name; empty where it is not known, and for a user's own file
    path: str = ""  # inside the repository; empty where it is not known
    rank: int | None = None
    folder: str = "loras"  # the host's model folder it belongs in
    size: int | None = None  # exact bytes, where they are known and no other release's
    caution: str = ""  # what stands between this file and the host
    make: Make | None = None  # how its pairs are written, where that is known
    # The base its layers are of, where the release is for another: Wan 2.1's LoRA, published as
    # Wan 2.2's.
    layers_of: Base | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        """Its address: the repository's if the file name is unknown, empty for a user's file."""
        if not self.repo:
            return ""
        return f"https://huggingface.co/{self.repo}" + (
            f"/resolve/main/{self.path}" if self.path else ""
        )


@dataclass(frozen=True)
class Licence:
    """Under which terms a release may be used."""

    name: str  # as published
    commercial: bool | None  # True allowed, False forbidden, None not known
    note: str = ""  # what else it limits

    def __str__(self) -> str:
        terms = {
            True: "commercial use allowed",
            False: "NON-COMMERCIAL",
            None: "commercial use unknown",
        }[self.commercial]
        return f"{self.name} ({terms}{'; ' + self.note if self.note else ''})"


UNKNOWN_LICENCE = Licence("unknown", None)


# ---------------------------------------------------------------- how others run it


@dataclass(frozen=True)
class TemplateWay:
    """How an official template of ComfyUI runs a release, where that is not as its record does.

    Only what differs is given; `python scripts/build/field.py` says it of every template.
    """

    steps: int | None = None
    sampler: str = ""  # the host's name
    noise: str = ""  # where its noise levels come from, in words: "shift 3.1"
    strength: float | None = None

    @property
    def settings(self) -> dict[str, object]:
        """What differs, by name."""
        given: dict[str, object] = {
            "steps": self.steps,
            "sampler": self.sampler,
            "noise": self.noise,
            "strength": self.strength,
        }
        return {name: value for name, value in given.items() if value not in (None, "")}

    def __str__(self) -> str:
        parts = (
            counted(self.steps, "step") if self.steps else "",
            self.sampler,
            self.noise,
            f"strength {self.strength:g}" if self.strength is not None else "",
        )
        return ", ".join(filter(None, parts))


# ---------------------------------------------------------------- the record


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator and the settings it was distilled for. It travels on a MODEL, unchanged."""

    id: str  # permanent, lower-case words joined by hyphens
    family: str  # for people
    kind: Kind
    bases: tuple[BaseRow, ...]  # architectures it was distilled for
    width: int | None = None  # hidden width of the size it was made for, where there are several

    # ------------------------------------------------ how it runs
    steps: tuple[int, ...]  # every count it was distilled for, ascending
    default_steps: int = 0  # one of them; 0 takes the first
    schedule: Schedule
    solver: Solver = Solver.EULER
    parameterization: Parameterization = Parameterization.NATIVE
    cfg: float = 1.0  # guidance scale; 1 for all but the few distilled with guidance kept
    # Scale the network takes as an input (FLUX 3.5). Not CFG, costs nothing, left as the graph sets
    # it.
    embedded_guidance: float | None = None
    strength: float = 1.0  # the release's own; the node's `strength` multiplies it
    missing_alpha: float | None = None  # of files that carry none, where it is not their rank
    noise_clip: float = 0.0  # standard deviations LCM's fresh noise is clipped at, 0 for none
    # TCD's stochasticity by step count, 0 (follows the ODE) to 1 (re-noised in full).
    gamma: Mapping[int, float] = field(default_factory=dict)
    causal: Causal | None = None

    # ------------------------------------------------ one of two experts
    expert: Expert | None = None
    boundary: float | None = None  # sigma at and above which the high-noise expert runs
    partner: str | None = None  # id of the other expert's record, where its release has one

    # ------------------------------------------------ how a file is known as it
    files: tuple[PublishedFile, ...]
    # What a path must say to speak for this release where the header cannot decide: each word, or
    # one of several written "lightning|lightx2v". Without any, only a file's own name speaks.
    name_words: tuple[str, ...] = ()
    name_excludes: tuple[str, ...] = ()  # words that speak against it
    is_declared: bool = False  # the user's own, from a .fewstep.json file
    only_by_choice: bool = False  # a recipe for another record's files: only chosen by its id
    for_distilled: tuple[str, ...] = ()  # distilled models it goes on; any other one refuses it

    # ------------------------------------------------ what to tell
    licence: Licence
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    notes_on_plain_fp8: tuple[str, ...] = ()  # only for a model in fp8 without scales
    template_ways: tuple[TemplateWay, ...] = ()  # how official templates run it otherwise
    unverified: tuple[str, ...] = ()  # what could not be confirmed from the published material

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", MappingProxyType(dict(self.gamma)))
        object.__setattr__(self, "default_steps", self.default_steps or (self.steps or (0,))[0])
        for claim, holds in (*self._laws_of_steps(), *self._laws_of_settings()):
            if not holds:
                raise ValueError(f"Accelerator record {self.id!r}: {claim}.")

    def _laws_of_steps(self) -> list[tuple[str, bool]]:
        schedules = [self.schedule]
        if self.causal is not None and self.causal.first_block is not None:
            schedules.append(self.causal.first_block)
        lists = [sigmas for schedule in schedules for sigmas in schedule.lists]
        levels = {base.levels for base in self.bases}
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
                all(self.schedule.has_steps(steps) for steps in self.steps),
            ),
            (
                "a schedule of timesteps and a parameterization go with Stable Diffusion, a flow"
                " with a flow model, and a list of sigmas with any",
                all(schedule.fits(base) for schedule in schedules for base in self.bases)
                and (
                    self.parameterization is Parameterization.NATIVE
                    or levels <= {Levels.TIMESTEPS, Levels.UNKNOWN}
                ),
            ),
            ("lists of sigmas fall and end above 0", all(map(_falls, lists))),
            (
                "a sigma of a flow lies in 0..1",
                Levels.FLOW not in levels or all(max(sigmas) <= 1.0 for sigmas in lists),
            ),
        ]

    def _laws_of_settings(self) -> list[tuple[str, bool]]:
        return [
            (
                "TCD has the grid of a consistency model",
                self.solver is not Solver.TCD or isinstance(self.schedule, ConsistencyGrid),
            ),
            (
                "LCM's parameterization has its grid of 50 timesteps, the one the host gives it",
                self.parameterization is not Parameterization.LCM
                or self.schedule == ConsistencyGrid(50),
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
            ("only an expert has a partner", self.partner is None or self.expert is not None),
            ("it names its sources", bool(self.sources)),
        ]

    @property
    def template_note(self) -> str:
        """What the official templates do otherwise, in one line; empty where they agree."""
        if not self.template_ways:
            return ""
        ways = "; or ".join(map(str, self.template_ways))
        differs = {name for way in self.template_ways for name in way.settings}
        shift = self.schedule.shift
        own = TemplateWay(
            self.default_steps if "steps" in differs else None,
            self.solver.value if "sampler" in differs else "",
            (f"shift {shift:g}" if shift else "a schedule of its own")
            if "noise" in differs
            else "",
            self.strength if "strength" in differs else None,
        )
        return f"Official templates run it with {ways}. Here: {own}, by {self.sources[0]}."

    @property
    def paths(self) -> tuple[str, ...]:
        """Of its files, where they are known."""
        return tuple(file.path for file in self.files if file.path)

    @property
    def is_guided(self) -> bool:
        """Whether it runs with classifier-free guidance, and so both branches."""
        return not math.isclose(self.cfg, 1.0)


def runs_on(record: Accelerator, base: BaseRow | None) -> bool:
    """Whether a record may be attached to a model of this base: one that it was distilled for, or
    one that was made from such a one and takes its accelerators.
    """
    return base is not None and (
        any(is_of(base, own) for own in record.bases) or is_taken(record, base)
    )


def is_taken(record: Accelerator, base: BaseRow) -> bool:
    """Whether a base takes a record that was distilled for one it was made from.

    One of two experts is no accelerator for a model that has no other one.
    """
    return (
        record.kind is Kind.LORA
        and record.expert is None
        and not record.only_by_choice
        and base not in record.bases
        and any(own is Base[name] for own in record.bases for name in base.takes)
    )


def is_recipe_for(recipe: Accelerator, record: Accelerator) -> bool:
    """Whether a recipe runs files of this record."""
    names = {file.name for file in record.files}
    return recipe.only_by_choice and any(file.name in names for file in recipe.files)


def is_recipe_of_family(recipe: Accelerator, record: Accelerator) -> bool:
    """Whether a recipe runs files of the record's family, of its kind and size."""
    return recipe.only_by_choice and (recipe.family, recipe.kind, recipe.width) == (
        record.family,
        record.kind,
        record.width,
    )


def are_partners(record: Accelerator, other: Accelerator | None) -> bool:
    """Whether two records are those of one release's two experts, each naming the other."""
    return (
        other is not None
        and (record.partner, other.partner) == (other.id, record.id)
        and record.expert is not other.expert
    )


def _falls(sigmas: tuple[float, ...]) -> bool:
    return (
        bool(sigmas)
        and sigmas[-1] > 0.0
        and all(now > then for now, then in zip(sigmas, sigmas[1:]))
    )


MOST_IDS = 5  # in one message


def some_ids(records: Iterable[Accelerator]) -> str:
    """The ids of several records: of many a few, the first of each family before its others.

    Those of the pack's own demo model are named where there are no others.
    """
    records = list(records)
    records = [record for record in records if record.family != "Demo"] or records
    families = [record.family for record in records]
    turns = [families[:place].count(family) for place, family in enumerate(families)]
    ids = [record.id for _, record in sorted(zip(turns, records), key=lambda pair: pair[0])]
    more = len(ids) - MOST_IDS
    return ", ".join(ids[:MOST_IDS]) + (f" and {more} more" if more > 0 else "")


def ids_in_words(records: Iterable[Accelerator], joint: str = ", ") -> str:
    """The ids of several records, of many a few, as a list or with another word between them."""
    ids = [record.id for record in records]
    more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
    return joint.join(ids[:MOST_IDS]) + more
