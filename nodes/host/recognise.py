"""Which accelerator a MODEL carries: attached by this pack, put on it by another loader, or its
own where it is distilled as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ...loras.accelerator import Accelerator, Kind, ids_in_words
from ...loras.bases import Base, bases_in_words
from ...loras.fingerprint import lora_fingerprint
from ...loras.header import alpha_in
from ...loras.recognition import (
    Recognition,
    is_titled_as_published,
    recognise_lora,
    recognise_model,
)
from ...samplers.plan import PlanError
from .declared import Known, known_accelerators
from .foreign import ForeignLora
from .model import LoadedModel, with_model_sampling

# Causal Wan has the tensors of ordinary Wan, and ComfyUI tells them apart by the file's metadata
# alone.
UNMARKED = (
    "If its file is a causal model, it lacks the mark by which ComfyUI knows one. Run"
    " scripts/mark_causal.py of this pack's repository, python mark_causal.py IN OUT.safetensors,"
    " which also converts .pt files, and load OUT."
)


# ---------------------------------------------------------------- a model that carries accelerators


@dataclass(frozen=True)
class AcceleratedModels:
    """The models of one run, one or the high-noise and the low-noise expert, with the settings that
    go with their accelerators.
    """

    loaded: tuple[LoadedModel, ...]
    notes: tuple[str, ...]  # how a record was recognised where this pack did not attach it

    @property
    def patchers(self) -> list[Any]:
        """The host's MODELs."""
        return [loaded.patcher for loaded in self.loaded]

    @property
    def records(self) -> list[Accelerator | None]:
        return [loaded.record for loaded in self.loaded]

    @property
    def is_negative_forced(self) -> bool:
        """Whether a patch on one of them has the negative prompt evaluated at CFG 1."""
        return any(loaded.is_negative_forced for loaded in self.loaded)

    @property
    def has_self_attention_guidance(self) -> bool:
        return any(loaded.has_self_attention_guidance for loaded in self.loaded)


def accelerated(*models: LoadedModel) -> AcceleratedModels:
    """The models with their accelerators: as attached, or recognised from what another loader left
    on them. Raises PlanError for a LoRA that cannot be told.
    """
    accelerated_models, notes, known = [], [], None
    for loaded in models:
        # Declarations are files: read where there is something to recognise, and once.
        if known is None and (loaded.record is None or loaded.foreign_loras):
            known = known_accelerators()
        if loaded.record is not None:
            refuse_foreign_accelerator(recognised_loras(loaded, known), loaded.record)
        else:
            recognition, told = recognise_carried(loaded, known)
            if recognition is not None:
                loaded = with_recognised(loaded, recognition)
                notes += [*told, *recognition.evidence]
        accelerated_models.append(loaded)
    return AcceleratedModels(tuple(accelerated_models), tuple(notes))


def with_recognised(loaded: LoadedModel, recognition: Recognition) -> LoadedModel:
    """The model with the record that was recognised on it, and its settings."""
    record = recognition.record
    if record is None:
        raise PlanError(_why_not_told(recognition))
    return replace(loaded, patcher=with_model_sampling(loaded.patcher, record), record=record)


def recognise_carried(
    loaded: LoadedModel, known: Known
) -> tuple[Recognition | None, tuple[str, ...]]:
    """What accelerator a model is, or carries from another loader, and what to tell about it; None
    where nothing there can be one.

    The host keeps a LoRA's weights as patches, and its metadata where the file has any; it forgets
    the file's name. Raises ValueError for what would run otherwise than it was distilled.
    """
    distilled, loras = recognise_distilled(loaded, known), recognised_loras(loaded, known)
    if distilled.record is not None and not any(
        lora.record is not None and distilled.record.id in lora.record.for_distilled
        for lora in loras
    ):
        refuse_foreign_accelerator(loras, distilled.record)
        # A distilled model needs no LoRA: those on it are the user's own styles.
        return distilled, ("Recognised without an Accelerator Loader, by the model's own file.",)
    if not loras:
        refuse_look_alike(distilled, loaded.file_name)
        return None, ()
    lora = loras[0] if len(loras) == 1 else the_accelerator_among(loras)
    if lora.record is None:
        return lora.recognition, ()
    refuse_other_base(loaded, lora.record, "The LoRA that another loader put on the model", known)
    refuse_unscaled(lora.lora, lora.record)
    return lora.recognition, lora.notes


def _why_not_told(recognition: Recognition) -> str:
    """Why a LoRA of another loader is not taken for an accelerator."""
    candidates = ", ".join(record.id for record in recognition.candidates)
    return (
        "No accelerator is attached, and the LoRA another loader put on the model cannot be told"
        f" ({'; '.join(recognition.evidence)}). Load it with the Accelerator Loader, which sees the"
        " file and its name"
        + (
            f"; it may be one of {candidates}."
            if candidates
            else ", or use the core KSampler for an ordinary LoRA."
        )
    )


# ---------------------------------------------------------------- distilled as a whole


def recognise_distilled(loaded: LoadedModel, known: Known, base: Base | None = None) -> Recognition:
    """What the connected model is, by its architecture, its size, its file's name and the file's
    own title.

    base: what to take its architecture for, where the host's word for it is not the last.
    """
    records = known.records.values()
    return recognise_model(
        base or loaded.base, loaded.width, loaded.metadata, loaded.file_name, records
    )


def refuse_look_alike(recognition: Recognition, name: str) -> None:
    if recognition.look_alike is not None:
        raise ValueError(
            f"{name} only looks like a few-step model: {recognition.look_alike.reason}."
        )


# ---------------------------------------------------------------- LoRAs of other loaders


@dataclass(frozen=True)
class RecognisedLora:
    """A LoRA that another loader put on a model, and what it is."""

    lora: ForeignLora
    recognition: Recognition

    @property
    def record(self) -> Accelerator | None:
        return self.recognition.record

    @property
    def is_beyond_doubt(self) -> bool:
        """Whether it is an accelerator by its contents or a published name. The words of a title
        may be a style's as well.
        """
        return self.record is not None and (
            self.recognition.is_certain or is_titled_as_published(self.record, self.lora.metadata)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of an accelerator that is run as another loader put it on."""
        unseen = (
            "Recognised from what another loader left on the model; its file was not seen, so"
            " nothing in it could be repaired."
        )
        if self.lora.strengths == (self.record.strength,):
            return (unseen,)
        strengths = ", ".join(f"{strength:g}" for strength in self.lora.strengths)
        return (
            unseen,
            f"It was attached at strength {strengths}; {self.record.id} was released at"
            f" {self.record.strength:g}.",
        )


def recognised_loras(loaded: LoadedModel, known: Known | None) -> list[RecognisedLora]:
    """What each of the LoRAs is that other loaders left on a model. known: None where there are
    none.
    """
    return [RecognisedLora(lora, recognise_patches(lora, known)) for lora in loaded.foreign_loras]


def recognise_patches(lora: ForeignLora, known: Known) -> Recognition:
    """What another loader's LoRA is. Of several the host keeps one file's title alone, and not
    whose: it speaks for each.
    """
    fingerprint = lora_fingerprint(lora.layers, lora.ranks, lora.alpha, lora.has_differences)
    return recognise_lora(fingerprint, lora.metadata, "", 0, known.records.values())


def the_accelerator_among(loras: Iterable[RecognisedLora]) -> RecognisedLora:
    """The one of several LoRAs of other loaders that is an accelerator beyond doubt. Raises
    ValueError where no one alone is.
    """
    sure = [lora for lora in loras if lora.is_beyond_doubt]
    # Where the contents of one decide, the title that all of them share is its own.
    decided = [lora for lora in sure if lora.recognition.is_certain] or sure
    if len(decided) == 1 and len({lora.record.id for lora in sure}) == 1:
        return decided[0]
    raise ValueError(
        "No accelerator is attached to this model, and several LoRAs of other loaders are on it,"
        " whose names ComfyUI does not keep: which of them is the accelerator is not sure. Load the"
        " accelerator's LoRA with the Accelerator Loader, the others as before."
    )


def foreign_notes(loras: Iterable[RecognisedLora]) -> tuple[str, ...]:
    """What to tell of LoRAs that have only the words of an accelerator in their title, and so are
    let pass.
    """
    suspected = {
        lora.record.id: lora.recognition
        for lora in loras
        if lora.record is not None and not lora.is_beyond_doubt
    }
    return tuple(
        f"A LoRA that another loader put on the model was taken for a style. If it is {id}, as its"
        f" title may mean ({recognition.evidence[-1]}), take it out."
        for id, recognition in suspected.items()
    )


# ---------------------------------------------------------------- what does not go together


def refuse_other_base(
    loaded: LoadedModel, record: Accelerator, lora_name: str, known: Known
) -> None:
    if loaded.base in record.bases:
        return
    connected = (
        loaded.words
        if loaded.base
        else f"a {loaded.class_name} model, which no accelerator here is for"
    )
    recipes = [
        other
        for other in known.records.values()
        if other.only_by_choice
        and loaded.base in other.bases
        and {file.name for file in other.files} & {file.name for file in record.files}
    ]
    advice = (
        "To run it on this model all the same, choose"
        f" {ids_in_words(recipes, ' or ')} in accelerator."
        if recipes
        else "Connect a model of that kind, or choose an accelerator made for this one."
    )
    raise ValueError(
        f"{lora_name} ({record.id}) is for {bases_in_words(record.bases)}; the connected model is"
        f" {connected}. {advice}"
    )


def refuse_foreign_accelerator(loras: Iterable[RecognisedLora], record: Accelerator) -> None:
    """Raise where a LoRA of another loader is an accelerator, and `record` is one itself. Styles
    may be there, any number.
    """
    other = next((lora for lora in loras if lora.is_beyond_doubt), None)
    # AnimateLCM goes on a model that an LCM LoRA has made a consistency model.
    if other is None or (
        record.kind is Kind.MOTION_MODULE and record.family == other.record.family
    ):
        return
    carried = (
        f"This model already carries {other.record.id}, which another loader put on it"
        f" ({'; '.join(other.recognition.evidence)})"
    )
    if record.id in other.record.for_distilled:
        raise ValueError(
            f"{carried}. It is made to go on {record.id} and has settings of its own: choose its"
            " file in the Accelerator Loader's lora_name, on the model as it comes from its"
            " loader."
        )
    raise ValueError(
        f"{carried}, and {record.id} is an accelerator itself. Two accelerators on one model spoil"
        " each other: take one of them out."
    )


def refuse_unscaled(lora: ForeignLora, record: Accelerator) -> None:
    """Raise where the release's alpha is not among the tensors, so that the other loader took the
    rank for it.
    """
    stated = alpha_in(lora.metadata)
    alpha = record.missing_alpha if stated is None else stated
    if alpha is not None and lora.alpha == "absent" and lora.ranks != (alpha,):
        raise ValueError(
            f"The LoRA that another loader put on the model is {record.id}, whose file has no alpha"
            f" among its tensors: that loader took its rank for alpha, which is {alpha:g}. Load it"
            f" with the Accelerator Loader, which takes {alpha:g}."
        )
