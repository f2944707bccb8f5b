"""Which accelerator a MODEL carries: attached by this pack, left on it by another loader, or its own."""

from __future__ import annotations

import os

from ...loras.accelerator import Accelerator, Kind, ids_in_words
from ...loras.bases import Base, bases_in_words
from ...loras.fingerprint import lora_fingerprint
from ...loras.header import ENDINGS, alpha_in, read_metadata
from ...loras.recognition import (
    Recognition,
    is_titled_as_published,
    recognise_lora,
    recognise_model,
)
from ...samplers.plan import PlanError
from .declared import Known, known_accelerators
from .foreign import ForeignLora, foreign_loras
from .model import accelerator_of, base_of, file_of, width_of, with_model_sampling

RecognisedLora = tuple[ForeignLora, Recognition]


# Causal Wan has the tensors of ordinary Wan, and ComfyUI tells them apart by the file's metadata
# alone.
UNMARKED = (
    "If its file is a causal model, it lacks the mark by which ComfyUI knows one. Run"
    " scripts/mark_causal.py of this pack's repository, python mark_causal.py IN OUT.safetensors,"
    " which also converts .pt files, and load OUT."
)


def refuse_other_base(model, record: Accelerator, lora_name: str, known: Known) -> None:
    base = base_of(model)
    if base in record.bases:
        return
    found = (
        base.label
        if base
        else f"a {type(model.model.model_config).__name__} model, which no accelerator here is for"
    )
    recipes = [
        other
        for other in known.records.values()
        if other.only_by_choice
        and base in other.bases
        and {file.name for file in other.files} & {file.name for file in record.files}
    ]
    advice = (
        f"To run it on this model all the same, choose {ids_in_words(recipes, ' or ')} in accelerator."
        if recipes
        else "Connect a model of that kind, or choose an accelerator made for this one."
    )
    raise ValueError(
        f"{lora_name} ({record.id}) is for {bases_in_words(record.bases)}; the connected model is {found}."
        f" {advice}"
    )


def refuse_foreign_accelerator(foreign: list[RecognisedLora], record: Accelerator) -> None:
    """Raise where a LoRA of another loader is an accelerator, and `record` is one itself. Styles
    may be there, any number.
    """
    found = next((found for lora, found in foreign if is_beyond_doubt(lora, found)), None)
    # AnimateLCM goes on a model that an LCM LoRA has made a consistency model.
    if found is None or (
        record.kind is Kind.MOTION_MODULE and record.family == found.record.family
    ):
        return
    carried = (
        f"This model already carries {found.record.id}, which another loader put on it"
        f" ({'; '.join(found.evidence)})"
    )
    if record.id in found.record.for_distilled:
        raise ValueError(
            f"{carried}. It is made to go on {record.id} and has settings of its own: choose its"
            " file in the Accelerator Loader's lora_name, on the model as it comes from its"
            " loader."
        )
    raise ValueError(
        f"{carried}, and {record.id} is an accelerator itself. Two accelerators on one model spoil"
        " each other: take one of them out."
    )


def recognise_distilled(model, known: Known, base: Base | None = None) -> Recognition:
    """What the connected model is, by its architecture, its size, its file's name and the file's
    own title.

    base: what to take its architecture for, where the host's word for it is not the last.
    """
    name, path = file_of(model)
    metadata = {}
    if path is not None and path.lower().endswith(ENDINGS) and os.path.isfile(path):
        metadata = read_metadata(path)
    return recognise_model(
        base or base_of(model), width_of(model), metadata, name, known.records.values()
    )


def refuse_look_alike(recognition: Recognition, name: str) -> None:
    if recognition.look_alike is not None:
        raise ValueError(
            f"{name} only looks like a few-step model: {recognition.look_alike.reason}."
        )


def recognised_loras(model, known: Known | None = None) -> list[RecognisedLora]:
    """What each of the LoRAs is that other loaders left on a MODEL. known: read here where it is
    not given and there are any.
    """
    loras = foreign_loras(model)
    if loras and known is None:
        known = known_accelerators()
    return [(lora, recognise_patches(lora, known)) for lora in loras]


def recognise_foreign(model, known: Known) -> tuple[Recognition | None, tuple[str, ...]]:
    """What accelerator another loader left on a MODEL, and what to tell about it; None where
    nothing there can be one.

    The host keeps a LoRA's weights as patches, and its metadata where the file has any; it forgets
    the file's name. Raises ValueError for what would run otherwise than it was distilled.
    """
    distilled, foreign = recognise_distilled(model, known), recognised_loras(model, known)
    if distilled.record is not None and not any(
        found.record is not None and distilled.record.id in found.record.for_distilled
        for _, found in foreign
    ):
        refuse_foreign_accelerator(foreign, distilled.record)
        # A distilled model needs no LoRA: those on it are the user's own styles.
        return distilled, ("Recognised without an Accelerator Loader, by the model's own file.",)
    if not foreign:
        refuse_look_alike(distilled, file_of(model)[0])
        return None, ()
    lora, recognition = foreign[0] if len(foreign) == 1 else the_accelerator_among(foreign)
    record = recognition.record
    if record is None:
        return recognition, ()
    refuse_other_base(model, record, "The LoRA that another loader put on the model", known)
    refuse_unscaled(lora, record)
    notes = [
        "Recognised from what another loader left on the model; its file was not seen, so nothing"
        " in it could be repaired."
    ]
    if lora.strengths != (record.strength,):
        strengths = ", ".join(f"{strength:g}" for strength in lora.strengths)
        notes.append(
            f"It was attached at strength {strengths}; {record.id} was released at"
            f" {record.strength:g}."
        )
    return recognition, tuple(notes)


def the_accelerator_among(foreign: list[RecognisedLora]) -> RecognisedLora:
    """The one of several LoRAs of other loaders that is an accelerator beyond doubt. Raises
    ValueError where no one alone is.
    """
    sure = [(lora, found) for lora, found in foreign if is_beyond_doubt(lora, found)]
    # Where the contents of one decide, the title that all of them share is its own.
    decided = [(lora, found) for lora, found in sure if found.is_certain] or sure
    if len(decided) == 1 and len({found.record.id for _, found in sure}) == 1:
        return decided[0]
    raise ValueError(
        "No accelerator is attached to this model, and several LoRAs of other loaders are on it,"
        " whose names ComfyUI does not keep: which of them is the accelerator is not sure. Load the"
        " accelerator's LoRA with the Accelerator Loader, the others as before."
    )


def foreign_notes(foreign: list[RecognisedLora]) -> tuple[str, ...]:
    """What to tell of LoRAs that have only the words of an accelerator in their title, and so are
    let pass.
    """
    suspected = {
        found.record.id: found
        for lora, found in foreign
        if found.record is not None and not is_beyond_doubt(lora, found)
    }
    return tuple(
        f"A LoRA that another loader put on the model was taken for a style. If it is {id}, as its"
        f" title may mean ({found.evidence[-1]}), take it out."
        for id, found in suspected.items()
    )


def is_beyond_doubt(lora: ForeignLora, found: Recognition) -> bool:
    """Whether a LoRA is an accelerator by its contents or a published name. The words of a title
    may be a style's as well.
    """
    return found.record is not None and (
        found.is_certain or is_titled_as_published(found.record, lora.metadata)
    )


def recognise_patches(lora: ForeignLora, known: Known) -> Recognition:
    """What another loader's LoRA is. Of several the host keeps one file's title alone, and not
    whose: it speaks for each.
    """
    found = lora_fingerprint(lora.layers, lora.ranks, lora.alpha, lora.has_differences)
    return recognise_lora(found, lora.metadata, "", 0, known.records.values())


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


def accelerated(
    model, model_low_noise
) -> tuple[tuple, tuple[Accelerator | None, ...], tuple[str, ...]]:
    """(models, their records, what to tell): as attached, or recognised from what another loader
    left on them.
    """
    models, records, notes = [], [], []
    known: Known | None = None
    for one in (model,) if model_low_noise is None else (model, model_low_noise):
        record = accelerator_of(one)
        if record is None:
            known = known or known_accelerators()
            recognition, told = recognise_foreign(one, known)
            if recognition is not None and recognition.record is None:
                raise PlanError(refusal(recognition))
            record = recognition.record if recognition else None
            one = with_model_sampling(one, record) if record else one
            notes += [*told, *(recognition.evidence if record else ())]
        else:
            refuse_foreign_accelerator(recognised_loras(one), record)
        models.append(one)
        records.append(record)
    return tuple(models), tuple(records), tuple(notes)


def refusal(recognition: Recognition) -> str:
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
