"""Which accelerator a MODEL carries: attached here, by another loader, or as its own weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...loras.accelerator import Accelerator, some_ids
from ...loras.bases import BaseRow
from ...loras.decision import (
    merged_notes,
    refuse_merged,
    refuse_other_base,
    refuse_other_expert,
    refuse_second,
    taking_notes,
)
from ...loras.editions import edition_notes
from ...loras.fingerprint import lora_fingerprint
from ...loras.header import ENDINGS, alpha_in, read_header
from ...loras.recognition import (
    Recognition,
    is_published_as,
    is_titled_as_published,
    recognise,
    recognise_lora,
    recognise_model,
)
from ...loras.refusal import Refusal
from ...samplers.plan import PlanError
from .declared import Known, known_accelerators
from .files import model_path
from .foreign import PATCHES_KEY, ForeignLora
from .model import LoadedModel, LoaderNews, with_model_sampling

# Causal Wan has the tensors of ordinary Wan, and ComfyUI tells them apart by the file's metadata
# alone.
UNMARKED = (
    "If its file is a causal model, it lacks the mark by which ComfyUI knows one. Run"
    " scripts/mark_causal.py of this pack's repository, python mark_causal.py IN OUT.safetensors,"
    " which also converts .pt files, and load OUT."
)

# How a refusal begins, and goes on, for a model that has its accelerator in it by its name.
NOTHING_ATTACHED = "No accelerator is attached"
PUT_A_LOADER = "Put an Accelerator Loader in front of this node, set lora_name to none and"

# Its LoRAs are on the record, and not another loader's.
OWN_LOADER = "FewStepAccelerator"

# ---------------------------------------------------------------- a model that carries accelerators


@dataclass(frozen=True)
class AcceleratedModels:
    """The models of one run, one or two experts, with their accelerators' settings."""

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
    def news(self) -> list[LoaderNews]:
        """What their loaders have to tell."""
        return [news for loaded in self.loaded for news in loaded.news]

    @property
    def is_negative_forced(self) -> bool:
        """Whether a patch on one of them has the negative prompt evaluated at CFG 1."""
        return any(loaded.is_negative_forced for loaded in self.loaded)

    @property
    def carries_negative(self) -> bool:
        """Whether Few-Step Negative Prompt is on one of them."""
        return any(loaded.carries_negative for loaded in self.loaded)

    @property
    def has_self_attention_guidance(self) -> bool:
        return any(loaded.has_self_attention_guidance for loaded in self.loaded)


def accelerated(*models: LoadedModel) -> AcceleratedModels:
    """The models with their accelerators, as attached or recognised from another loader.

    Raises PlanError for a LoRA that cannot be identified.
    """
    accelerated_models, notes, known = [], [], None
    for loaded in models:
        # Declarations are files: read where there is something to recognise, and once.
        if known is None and (loaded.record is None or loaded.has_other_loras):
            known = known_accelerators()
        if loaded.record is None:
            recognition, told = recognise_carried(loaded, known)
            if recognition is not None:
                loaded = with_recognised(loaded, recognition)
                notes += [*told, *recognition.evidence]
        elif loaded.has_other_loras:
            refuse_second(loaded.record, loras_beside(loaded, known).accelerator)
        accelerated_models.append(loaded)
    return AcceleratedModels(tuple(accelerated_models), tuple(notes))


def loras_beside(loaded: LoadedModel, known: Known) -> RecognisedLoras:
    """What other loaders put on an accelerated model beside its accelerator. Where the Accelerator
    Loader took settings alone, the weights are one of these LoRAs.
    """
    foreign = recognise_loras(loaded, known)
    has_weights = bool(loaded.patcher.get_attachment(PATCHES_KEY))
    return foreign if has_weights else foreign.without(loaded.record)


def with_recognised(loaded: LoadedModel, recognition: Recognition) -> LoadedModel:
    """The model with the record that was recognised on it, and its settings."""
    record = recognition.record
    if record is None:
        candidates = some_ids(recognition.candidates)
        advice = (
            f"; it may be one of {candidates}."
            if candidates
            else ", or use the core KSampler for an ordinary LoRA."
        )
        raise PlanError(
            "No accelerator is attached, and the LoRA another loader put on the model cannot be"
            f" identified ({'; '.join(recognition.evidence)}). Load it with the Accelerator Loader,"
            f" which sees the file and its name{advice}"
        )
    return replace(loaded, patcher=with_model_sampling(loaded.patcher, record), record=record)


def recognise_carried(
    loaded: LoadedModel, known: Known
) -> tuple[Recognition | None, tuple[str, ...]]:
    """What accelerator a model is or carries from another loader, with notes; None if none.

    The host keeps a LoRA's weights as patches, and its metadata where the file has any; it forgets
    the file's name. Raises ValueError for what would run otherwise than it was distilled.
    """
    foreign, distilled = recognise_loras(loaded, known), recognise_distilled(loaded, known)
    if distilled.record is not None and not foreign.is_made_for(distilled.record):
        refuse_second(distilled.record, foreign.accelerator)
        # A distilled model needs no LoRA: those on it are the user's own styles.
        return distilled, ("Recognised without an Accelerator Loader, by the model's own file.",)
    if not loaded.foreign_loras:
        refuse_look_alike(distilled, loaded.file_name)
        refuse_merged(distilled, loaded.file_name, NOTHING_ATTACHED, PUT_A_LOADER)
        return None, ()
    lora = foreign.the_accelerator()
    record = lora.record
    if record is None:
        refuse_merged(distilled, loaded.file_name, NOTHING_ATTACHED, PUT_A_LOADER)
        return lora.recognition, ()
    name, records = "The LoRA that another loader put on the model", known.records.values()
    refuse_other_base(record, name, loaded.base, loaded.class_name, records)
    refuse_unscaled(lora)
    lora_name = lora.file_name or "The LoRA of another loader"
    refuse_other_expert(record, lora_name, loaded.file_name)
    return lora.recognition, (
        *lora.notes,
        *taking_notes(record, loaded.base, records),
        *edition_notes(record, lora_name, loaded.base, loaded.file_name, records),
        *merged_notes(distilled, lora_name, loaded.file_name),
    )


# ---------------------------------------------------------------- distilled as a whole


def recognise_distilled(
    loaded: LoadedModel, known: Known, base: BaseRow | None = None
) -> Recognition:
    """What the connected model is: by architecture, size, file name and the file's title.

    base: what to take its architecture for, where the host's word for it is not the last.
    """
    title, width, records = loaded.metadata, loaded.width, known.records.values()
    return recognise_model(base or loaded.base, width, title, loaded.file_name, records)


def refuse_look_alike(recognition: Recognition, name: str) -> None:
    if recognition.look_alike is not None:
        raise ValueError(
            f"{name} only looks like a few-step model: {recognition.look_alike.reason}."
        )


def accelerator_on(loaded: LoadedModel) -> Accelerator | None:
    """The accelerator that a MODEL is or carries, whoever put it there. LoRAs that are not known as
    accelerators are styles.
    """
    if loaded.record is not None:
        return loaded.record
    known = known_accelerators()
    lora = recognise_loras(loaded, known).accelerator
    return lora.record if lora is not None else recognise_distilled(loaded, known).record


# ---------------------------------------------------------------- LoRAs of other loaders


@dataclass(frozen=True)
class RecognisedLora:
    """A LoRA that another loader put on a model, and what it is."""

    lora: ForeignLora | None  # None where only the graph knows of it
    recognition: Recognition
    # An accelerator by its contents or a published name. The words of a title may be a style's as
    # well.
    is_beyond_doubt: bool
    file_name: str = ""  # as the graph's loader names it, if it does
    metadata: Mapping[str, str] = field(default_factory=dict)  # its own file's, where that is sure

    @property
    def record(self) -> Accelerator | None:
        return self.recognition.record

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of an accelerator that is run as another loader put it on."""
        unseen = (
            "Recognised from what another loader left on the model; its file was not seen, so"
            " nothing in it could be repaired."
        )
        if self.file_name:
            unseen = (
                f"Recognised by {self.file_name}, which another loader put on the model; nothing in"
                " it was repaired."
            )
        if self.lora.strengths == (self.record.strength,):
            return (unseen,)
        strengths = ", ".join(f"{strength:g}" for strength in self.lora.strengths)
        return (
            unseen,
            f"It was attached at strength {strengths}; {self.record.id} was released at"
            f" {self.record.strength:g}.",
        )


@dataclass(frozen=True)
class RecognisedLoras:
    """All the LoRAs that other loaders put on a model."""

    loras: tuple[RecognisedLora, ...]  # by what they left on it
    named: tuple[RecognisedLora, ...] = ()  # accelerators, by the files that the graph names
    # Of those, what lies on one of several ways that the model may have come: no evidence.
    perhaps: tuple[RecognisedLora, ...] = ()

    @property
    def accelerator(self) -> Recognition | None:
        """The first that is one beyond doubt. Beside it there may be any number of styles."""
        everything = (*self.loras, *self.named)
        return next((lora.recognition for lora in everything if lora.is_beyond_doubt), None)

    def without(self, record: Accelerator) -> RecognisedLoras:
        """The others than one accelerator."""
        groups = (self.loras, self.named, self.perhaps)
        return RecognisedLoras(
            *(
                tuple(lora for lora in group if lora.record is None or lora.record.id != record.id)
                for group in groups
            )
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of those that do not count as accelerators on the model."""
        return (*self.notes_on_styles, *self.notes_on_ways)

    @property
    def notes_on_ways(self) -> tuple[str, ...]:
        """Notes on accelerators on one of several ways, where the model has a LoRA of that rank."""
        ranks = {lora.lora.ranks for lora in self.loras}
        return tuple(
            f"{lora.file_name} ({lora.record.id}) lies on one of several ways in the graph, and"
            " which of them this model came is not seen here. Two accelerators on one model spoil"
            " each other: if both are on it, take one out."
            for lora in self.perhaps
            if lora.recognition.fingerprint.ranks in ranks
        )

    @property
    def notes_on_styles(self) -> tuple[str, ...]:
        """Notes on LoRAs that only have an accelerator's words in their title, so they pass."""
        suspected = {
            record.id: lora.recognition
            for lora in self.loras
            for record in ([lora.record] if lora.record else lora.recognition.suspected[:1])
            if not lora.is_beyond_doubt
        }
        return tuple(
            f"A LoRA that another loader put on the model was taken for a style. If it is {id}, as"
            f" its title may mean ({'; '.join(recognition.evidence[1:])}), take it out."
            for id, recognition in suspected.items()
        )

    def is_made_for(self, distilled: Accelerator) -> bool:
        """Whether one of them is made to go on this distilled model."""
        return any(
            lora.record is not None and distilled.id in lora.record.for_distilled
            for lora in self.loras
        )

    def the_accelerator(self) -> RecognisedLora:
        """The only one, or of several the one that is an accelerator beyond doubt.

        Raises ValueError unless there is exactly one.
        """
        if len(self.loras) == 1 and self.loras[0].record is not None:
            return self.loras[0]
        if (named := self._named_one()) is not None:
            return named
        if len(self.loras) == 1:
            return self.loras[0]
        sure = [lora for lora in self.loras if lora.is_beyond_doubt]
        # Where the contents of one decide, the title that all of them share is its own.
        decided = [lora for lora in sure if lora.recognition.is_certain] or sure
        if len(decided) == 1 and len({lora.record.id for lora in sure}) == 1:
            return decided[0]
        raise ValueError(
            "No accelerator is attached to this model, and several LoRAs of other loaders are on"
            " it, whose names ComfyUI does not keep: which of them is the accelerator is not sure."
            " Load the accelerator's LoRA with the Accelerator Loader, the others as before."
        )

    def _named_one(self) -> RecognisedLora | None:
        """The LoRA that is the one accelerator file the graph names, by its ranks."""
        if len(self.named) != 1:
            return None
        (named,) = self.named
        ranks = named.recognition.fingerprint.ranks
        same = [lora.lora for lora in self.loras if lora.lora.ranks == ranks]
        return replace(named, lora=same[0]) if len(same) == 1 else None


def recognise_loras(loaded: LoadedModel, known: Known) -> RecognisedLoras:
    """What each of the LoRAs is that other loaders put on a model."""
    named = list(recognise_named(loaded, known))
    loras = tuple(recognise_patches(lora, known) for lora in loaded.foreign_loras)
    if len(loras) == 1:
        # The host keeps the metadata of the file loaded last: here there is no other.
        loras = (replace(loras[0], metadata=loras[0].lora.metadata),)
    return RecognisedLoras(
        loras,
        tuple(lora for lora, is_certain in named if is_certain),
        tuple(lora for lora, is_certain in named if not is_certain and lora.is_beyond_doubt),
    )


def recognise_named(loaded: LoadedModel, known: Known) -> Iterator[tuple[RecognisedLora, bool]]:
    """The LoRA files that loaders of other packs upstream name, where they are accelerators, and
    whether every way of the model leads through that loader.
    """
    for file in loaded.upstream:
        path = model_path("loras", file.name) if file.is_lora else None
        if path is None or file.class_type == OWN_LOADER or not path.lower().endswith(ENDINGS):
            continue
        try:
            header = read_header(path)
            recognition = recognise(header, file.name, known.records.values())
        except Refusal:
            # It is its own loader's to refuse; what cannot be read says nothing here.
            continue
        record = recognition.record
        if record is not None:
            is_sure = recognition.is_certain or is_published_as(record, file.name)
            named = RecognisedLora(None, recognition, is_sure, file.name, header.metadata)
            yield named, file.is_certain


def recognise_patches(lora: ForeignLora, known: Known) -> RecognisedLora:
    """What another loader's LoRA is. Of several the host keeps one file's title alone, and not
    whose: it speaks for each.
    """
    fingerprint = lora_fingerprint(lora.layers, lora.ranks, lora.alpha, lora.has_differences)
    recognition = recognise_lora(fingerprint, lora.metadata, "", 0, known.records.values())
    record = recognition.record
    is_beyond_doubt = record is not None and (
        recognition.is_certain or is_titled_as_published(record, lora.metadata)
    )
    return RecognisedLora(lora, recognition, is_beyond_doubt)


def refuse_unscaled(recognised: RecognisedLora) -> None:
    """Raise where the release's alpha is not in the tensors: the loader took the rank for it."""
    lora, record = recognised.lora, recognised.record
    if lora.alpha != "absent":
        return
    stated = alpha_in(recognised.metadata)
    alpha = record.missing_alpha if stated is None else stated
    if alpha is not None and lora.ranks != (alpha,):
        raise ValueError(
            f"The LoRA that another loader put on the model is {record.id}, whose file has no alpha"
            f" among its tensors: that loader took its rank for alpha, which is {alpha:g}. Load it"
            f" with the Accelerator Loader, which takes {alpha:g}."
        )
