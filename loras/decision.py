"""Which record a file or model runs with, and what speaks against it, before anything is attached.

Every refusal says what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .accelerator import (
    Accelerator,
    Kind,
    Solver,
    ids_in_words,
    is_recipe_for,
    is_recipe_of_family,
    is_taken,
    runs_on,
    some_ids,
)
from .adapters import OtherAdapter
from .bases import BaseRow, UnlistedBase, bases_in_words, needed_host
from .catalog import CATALOG
from .catalog.left_out import LEFT_OUT
from .fingerprint import LORA_ENDINGS
from .header import FileProblem, Header
from .names import experts_named, short_name
from .recognition import Recognition, are_layers_of, declared_for

# The Accelerator Loader's lora_name for a model that is itself distilled.
NO_LORA = "none"
# What to do with what the catalogue does not have.
DECLARE = (
    "An accelerator that is not in the list can be declared in a small .fewstep.json file beside it"
    " (docs/declaring-accelerators.md)."
)

# ---------------------------------------------------------------- a file and its record


def refuse_left_out(name: str) -> None:
    """Raise for a release that is known, and known not to run here as it was distilled."""
    short = short_name(name)
    reason = next((why for left_out, why in LEFT_OUT.items() if left_out.lower() == short), None)
    if reason is not None:
        raise FileProblem(f"{short} is known and left out: {reason}.")


def refuse_other_kind(recognition: Recognition, header: Header, lora_name: str) -> None:
    """Raise for a file that is not a LoRA for a model."""
    kind, adapter = recognition.fingerprint.kind, recognition.fingerprint.adapter
    if kind is Kind.LORA:
        return
    if adapter is not None:
        raise FileProblem(f"{lora_name} is {adapter.name}. {_advice(adapter)}")
    is_motion_lora = any(key.endswith(LORA_ENDINGS) for key in header.shapes)
    if kind is Kind.MODEL:
        what = "a whole diffusion model: load it as the model and set lora_name to none"
    elif kind is None:
        what = "not an accelerator: it holds neither a LoRA nor a diffusion model"
    elif is_motion_lora:
        what = (
            "a motion LoRA: it changes an AnimateDiff motion module and not the model, and a motion"
            " LoRA is not applied by this pack"
        )
    else:
        what = "an AnimateDiff motion module: load it with the Motion Module Loader"
    raise FileProblem(f"{lora_name} is {what}.")


def _advice(adapter: OtherAdapter) -> str:
    """What to do with an adapter that is no LoRA."""
    return adapter.elsewhere or (
        "No known accelerator is one: load it with core's Load LoRA. If it is an accelerator all"
        " the same, put an Accelerator Loader behind that, set lora_name to none and choose in"
        " accelerator whose settings it runs with."
    )


def record_of(
    recognition: Recognition,
    lora_name: str,
    chosen: Accelerator | None,
    records: Iterable[Accelerator],
) -> Accelerator:
    """The record of a LoRA: the one chosen by hand if its header allows it, else the evident one.

    records: all that are known.
    """
    if chosen is not None:
        refuse_other_header(chosen, recognition, lora_name)
        return chosen
    if recognition.record is not None:
        return recognition.record
    refuse_misdeclared(recognition, lora_name, records)
    if not recognition.candidates:
        cautions = [
            file.caution
            for record in records
            for file in record.files
            if file.caution and file.name.lower() == short_name(lora_name)
        ]
        evidence = "; ".join([*recognition.evidence, *cautions])
        raise ValueError(
            f"{lora_name} is not a known accelerator ({evidence}). Use the core LoRA loader for an"
            f" ordinary LoRA, or choose its record in accelerator if it is a renamed one. {DECLARE}"
        )
    raise ValueError(_unsure(recognition, lora_name))


def refuse_misdeclared(
    recognition: Recognition, lora_name: str, records: Iterable[Accelerator]
) -> None:
    """Raise for a file that the user declared twice, or for a base that its layers are not of."""
    declared = declared_for(records, lora_name)
    possible = [record for record in declared if record in recognition.candidates]
    if len(possible) > 1:
        raise ValueError(
            f"{lora_name} is declared more than once: choose {ids_in_words(possible, ' or ')} in"
            " accelerator, or keep one of the declarations."
        )
    fingerprint = recognition.fingerprint
    for record in declared:
        if not are_layers_of(record, fingerprint):
            found = bases_in_words(fingerprint.bases) or "no known base"
            raise ValueError(
                f"{lora_name} is declared as {record.id} for {bases_in_words(record.bases)}, and"
                f" its layers are those of {found}. Correct the base in the declaration."
            )


def _unsure(recognition: Recognition, lora_name: str) -> str:
    """What to do about a file that may be one of several accelerators, or an ordinary LoRA."""
    if recognition.doubt:
        return (
            f"{lora_name} may be {some_ids(recognition.suspected)} by its name, but"
            f" {recognition.doubt}. If it is that accelerator all the same, choose it in"
            " accelerator. If it is an ordinary LoRA, load it with core's Load LoRA."
        )
    candidates = recognition.suspected or recognition.candidates
    which = "which of them it is" if recognition.suspected else "what it is"
    return (
        f"{lora_name} cannot be identified by its contents ({'; '.join(recognition.evidence)}), and"
        f" its name does not say {which}. If it is an accelerator, which file did you download?"
        " Choose it in"
        f" accelerator: {some_ids(candidates)}. {DECLARE}"
    )


def refuse_other_header(record: Accelerator, recognition: Recognition, lora_name: str) -> None:
    """Raise where a record chosen by hand contradicts what the file's tensors prove."""
    fingerprint = recognition.fingerprint
    if record.kind is not Kind.LORA:
        raise ValueError(
            f"{record.id} is a {record.kind.value}, and {lora_name} is a LoRA. Choose the LoRA's"
            " record, or set lora_name to none for a model that is itself distilled."
        )
    bases = fingerprint.bases
    if bases and not are_layers_of(record, fingerprint) and not record.only_by_choice:
        raise ValueError(
            f"{lora_name} is a LoRA for {bases_in_words(bases)}, and {record.id} is one for"
            f" {bases_in_words(record.bases)}. Set accelerator to auto, or choose the file that"
            " belongs to it."
        )
    refuse_other_size(record, fingerprint.width, lora_name)


def refuse_other_model(record: Accelerator, recognition: Recognition, name: str) -> None:
    """Raise where a record does not belong to a model that is distilled as a whole."""
    if record.kind is Kind.MOTION_MODULE:
        raise ValueError(
            f"{record.id} is a motion module, and lora_name is none. Load it with the Motion Module"
            " Loader."
        )
    fingerprint = recognition.fingerprint
    if not any(runs_on(record, base) for base in fingerprint.bases):
        raise ValueError(
            f"{record.id} is for {bases_in_words(record.bases)}, and {name} is"
            f" {bases_in_words(fingerprint.bases) or 'of an unknown base'}. Connect that model,"
            " or set accelerator to auto."
        )
    refuse_other_size(record, fingerprint.width, name)


def refuse_other_size(record: Accelerator, width: int | None, name: str) -> None:
    """Raise where `name` is another published size of the record's base: 1.3B for 14B."""
    published = {other.width for other in CATALOG.values() if set(other.bases) & set(record.bases)}
    if record.width and width is not None and width in published - {record.width}:
        raise ValueError(
            f"{record.id} is for the size of {bases_in_words(record.bases)} that is"
            f" {record.width} wide, and {name} is for the one that is {width}. Choose what is of"
            " one size."
        )


# ---------------------------------------------------------------- a record and the model


class Connected(Protocol):
    """What is asked of the connected model."""

    base: BaseRow | None
    class_name: str  # what ComfyUI calls its architecture
    file_name: str  # with its folders in models/; "" if unknown
    record: Accelerator | None  # the accelerator it carries


def refuse_conflicts(
    record: Accelerator,
    lora_name: str,
    model: Connected,
    distilled: Recognition,
    other: Recognition | None,
    records: Iterable[Accelerator],
) -> None:
    """Raise where the connected model cannot take the accelerator.

    distilled: what the model itself was taken for. other: the accelerator among the LoRAs that
    other loaders put on it. records: all that are known.
    """
    refuse_carried(model.record, lora_name)
    refuse_other_base(record, lora_name, model.base, model.class_name, records)
    refuse_distilled_model(record, lora_name, distilled, model.file_name)
    refuse_other_expert(record, lora_name, model.file_name)
    refuse_second(record, other)


def refuse_carried(carried: Accelerator | None, lora_name: str) -> None:
    """Raise where the model has its accelerator already. lora_name: none, or a file that is one."""
    if carried is None:
        return
    found = f"This model already carries {carried.id}"
    if carried.kind is Kind.MODEL:
        sampler = "Few-Step Sampler" if carried.causal is None else "Streaming Sampler"
        is_lora = lora_name != NO_LORA
        second = f" {lora_name} is for a model that is not distilled." if is_lora else ""
        raise ValueError(
            f"{found}: it is distilled as a whole, and its settings are on it.{second} Leave this"
            f" node out and connect the model to the {sampler}."
        )
    advice = "connect the model as it comes from its loader"
    if carried.kind is Kind.MOTION_MODULE:
        found += ", its motion module"
        advice = (
            "it takes the place of an LCM LoRA, which goes on the model in front of the Motion"
            " Module Loader"
            if carried.solver is Solver.LCM
            else "leave this node out, or take a motion module that is not an accelerator, such as"
            " AnimateDiff v2 or v3"
        )
    raise ValueError(f"{found}. Two accelerators on one model spoil each other: {advice}.")


def refuse_other_base(
    record: Accelerator,
    lora_name: str,
    base: BaseRow | None,
    class_name: str,
    records: Iterable[Accelerator],
) -> None:
    """Raise where the connected model is not of a base that the accelerator is for, nor of one that
    takes it.

    class_name: what ComfyUI calls its architecture. records: all that are known, for a recipe that
    runs these files on this base all the same.
    """
    if runs_on(record, base):
        return
    connected = (
        f"a {class_name} model, for which no accelerator is known"
        if base is None or isinstance(base, UnlistedBase)
        else base.label
    )
    recipes = recipes_for(record, base, records)
    advice = (
        "To run it on this model all the same, choose"
        f" {ids_in_words(recipes, ' or ')} in accelerator."
        if recipes
        else "Connect a model of that kind, or choose an accelerator made for this one."
    )
    needed = needed_host(record.bases)
    raise ValueError(
        f"{lora_name} ({record.id}) is for {bases_in_words(record.bases)}; the connected model is"
        f" {connected}. {f'{needed}. ' if needed else ''}{advice}"
    )


def recipes_for(
    record: Accelerator, base: BaseRow | None, records: Iterable[Accelerator]
) -> list[Accelerator]:
    """The recipes that run the record's files on models of this base; where there are none, those
    for other files of its family.
    """
    here = [other for other in records if base in other.bases and other is not record]
    own = [other for other in here if is_recipe_for(other, record)]
    return own or [other for other in here if is_recipe_of_family(other, record)]


def taking_notes(
    record: Accelerator, base: BaseRow | None, records: Iterable[Accelerator]
) -> tuple[str, ...]:
    """What to tell where a model takes an accelerator that was not distilled for its own base."""
    if base is None or not is_taken(record, base):
        return ()
    recipes = recipes_for(record, base, records)
    better = (
        f" For its official settings on this model, choose {ids_in_words(recipes, ' or ')} in"
        " accelerator."
        if recipes
        else ""
    )
    return (
        (
            f"{record.id} was distilled for {bases_in_words(record.bases)}; the connected model is"
            f" {base.label}, which was made from it. It runs with the settings for"
            f" {bases_in_words(record.bases)}.{better}"
        ),
    )


def refuse_distilled_model(
    record: Accelerator, lora_name: str, distilled: Recognition, model_name: str
) -> None:
    """Raise where the model's file is distilled already, unless the LoRA is made for it.

    distilled: what the model was taken for.
    """
    already = distilled.record
    if already is None or already.id in record.for_distilled:
        return
    raise ValueError(
        f"The connected model, {model_name}, is distilled already: {already.id}"
        f" ({distilled.evidence[-1]}). {lora_name} would distil it twice. Set lora_name to none to"
        " run it as it is, or connect the undistilled model; if its name misleads, rename it."
    )


def merged_notes(distilled: Recognition, lora_name: str, model_name: str) -> tuple[str, ...]:
    """What to tell of an accelerator on a model that has one in it by its name."""
    if distilled.record is not None or not distilled.suspected:
        return ()
    return (
        (
            f"{model_name or 'The connected model'} is probably distilled already:"
            f" {distilled.doubt}. {lora_name} on top would distil it twice. If the picture comes"
            " out burnt, take the LoRA out: in an Accelerator Loader, set lora_name to none and"
            f" choose in accelerator what the model has in it: {some_ids(distilled.suspected)}."
        ),
    )


def refuse_merged(distilled: Recognition, model_name: str, found: str, advice: str) -> None:
    """Raise for a model that has an accelerator in it by its name, which is not enough to choose.

    found: what is missing besides. advice: how the sentence begins that says what to do.
    """
    if distilled.record is not None or not distilled.suspected:
        return
    raise ValueError(
        f"{found}, and {model_name or 'the connected model'} is probably distilled:"
        f" {distilled.doubt}. {advice} choose in"
        " accelerator which one it has in it, as its page says:"
        f" {some_ids(distilled.suspected)}. Only the settings are taken, no weights."
    )


def refuse_other_expert(record: Accelerator, lora_name: str, model_name: str) -> None:
    """Raise where the model's file is named as the other expert of Wan 2.2.

    The two have the same tensors, so the names are all there is.
    """
    if record.expert is None:
        return
    named = experts_named(model_name)
    if named and record.expert not in named:
        raise ValueError(
            f"{lora_name} ({record.id}) is for the {record.expert.value} expert, and {model_name}"
            " is the other one by its name. Connect the other model, or choose the other"
            f" {'LoRA' if record.kind is Kind.LORA else 'accelerator'}."
        )


def refuse_second(record: Accelerator, other: Recognition | None) -> None:
    """Raise where the model carries another accelerator.

    other: of another loader's LoRA, which is an accelerator beyond doubt.
    """
    carried_record = None if other is None else other.record
    # AnimateLCM goes on a model that an LCM LoRA has made a consistency model.
    if (
        other is None
        or carried_record is None
        or (record.kind is Kind.MOTION_MODULE and record.family == carried_record.family)
    ):
        return
    carried = (
        f"This model already carries {carried_record.id}, which another loader put on it"
        f" ({'; '.join(other.evidence)})"
    )
    if record.id in carried_record.for_distilled:
        raise ValueError(
            f"{carried}. It is made to go on {record.id} and has settings of its own: choose its"
            " file in the Accelerator Loader's lora_name, on the model as it comes from its"
            " loader."
        )
    raise ValueError(
        f"{carried}, and {record.id} is an accelerator itself. Two accelerators on one model spoil"
        " each other: take one of them out."
    )
