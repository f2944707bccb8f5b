"""FewStepAccelerator: recognise an accelerator file, check it against the model, attach it with
everything it needs.
"""

from __future__ import annotations

import math
from typing import NoReturn

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Kind, Solver, ids_in_words
from ..loras.bases import Base, bases_in_words
from ..loras.catalog import CATALOG
from ..loras.catalog.left_out import LEFT_OUT
from ..loras.damage import refuse_damaged
from ..loras.fingerprint import LORA_ENDINGS
from ..loras.header import FileProblem, Header, read_header
from ..loras.names import experts_named, short_name
from ..loras.recognition import Recognition, fitting, recognise
from ..loras.repair import repair
from ..loras.words import counted
from .host.attach import Coverage, attach_lora, with_accelerator
from .host.declared import Known, declaration_paths, declared_ids, known_accelerators
from .host.files import is_there, listed_files, load_tensors, model_path, required_path, stamp_of
from .host.model import LoadedModel, look_at
from .host.recognise import (
    UNMARKED,
    foreign_notes,
    recognise_distilled,
    recognised_loras,
    refuse_foreign_accelerator,
    refuse_look_alike,
    refuse_other_base,
)
from .host.report import Report

LORAS = "loras"
NONE = "none"
AUTO = "auto"


class FewStepAccelerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepAccelerator",
            display_name="Accelerator Loader",
            category="few-step",
            description=(
                "Attaches a few-step accelerator (LCM, Lightning, Hyper-SD, LightX2V, ...):"
                " recognises the file, checks that it belongs to the model, applies it and"
                " remembers the settings it was distilled for."
            ),
            search_aliases=[
                "lcm",
                "lightning",
                "hyper-sd",
                "lightx2v",
                "turbo",
                "4 step",
                "speed",
                "distill lora",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The base model the accelerator was made for."),
                io.Combo.Input(
                    "lora_name",
                    options=[NONE, *listed_files(LORAS)],
                    tooltip=(
                        "The accelerator's file in models/loras; none for a model that is itself"
                        " distilled."
                    ),
                ),
                io.Combo.Input(
                    "accelerator",
                    options=[AUTO, *CATALOG, *declared_ids()],
                    default=AUTO,
                    tooltip=(
                        "auto recognises the file from its contents, its name last. Choose one by"
                        " hand when it asks you to."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "Multiple of the strength it was released at. 1 is right; lower blends back"
                        " towards the undistilled model and is usually blurrier."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The accelerated model; connect it to the Few-Step Sampler.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What the file is, how that was decided, and what was attached.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        return lora_name in (None, NONE) or is_there(LORAS, lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **inputs) -> str:
        path = model_path(LORAS, lora_name) if lora_name not in (None, NONE) else None
        return stamp_of((*((path,) if path else ()), *declaration_paths()))

    @classmethod
    def execute(cls, model, lora_name: str, accelerator: str, strength: float) -> io.NodeOutput:
        attached, report = (
            attach_distilled(model, accelerator)
            if lora_name == NONE
            else attach_accelerator(model, lora_name, accelerator, strength)
        )
        return io.NodeOutput(attached, report.markdown, ui=report.publish(cls.hidden))


# ---------------------------------------------------------------- a LoRA


def attach_accelerator(model, lora_name: str, accelerator: str, strength: float):
    """(accelerated model, Report). Raises ValueError naming what was expected, what was found and
    what to do.
    """
    loaded = look_at(model)
    known, path = known_accelerators(), required_path(LORAS, lora_name)
    refuse_strength(strength, lora_name)
    header = read_header(path)
    recognition = recognise_file(header, lora_name, known)
    distilled, foreign = recognise_distilled(loaded, known), recognised_loras(loaded, known)

    record = record_of(recognition, lora_name, accelerator, known)
    refuse_carried(loaded.record, lora_name)
    refuse_other_base(loaded, record, lora_name, known)
    refuse_distilled_model(distilled, record, lora_name, loaded.file_name)
    refuse_other_expert(record, lora_name, loaded.file_name)
    refuse_foreign_accelerator(foreign, record)
    refuse_damaged(path, header)

    tensors, metadata = load_tensors(path)
    repaired = repair(tensors, metadata, record.missing_alpha)
    # The weights last: every clone copies the list of all patches.
    prepared = with_accelerator(model, record)
    patched, coverage = attach_lora(prepared, repaired.tensors, record.strength * strength)
    refuse_misfit(coverage, lora_name, record)

    notes = (
        *coverage_notes(coverage),
        *repaired.notes,
        *choice_notes(record, recognition, lora_name),
        *strength_notes(strength),
        *foreign_notes(foreign),
        *known.problems,
    )
    return patched, report_on_lora(record, recognition, coverage, notes, lora_name, strength)


def refuse_strength(strength: float, lora_name: str) -> None:
    if not math.isfinite(strength):
        raise ValueError(
            f"strength is {strength}. It must be a finite number; 1 is the strength {lora_name} was"
            " released at."
        )


def recognise_file(header: Header, lora_name: str, known: Known) -> Recognition:
    """What a LoRA file is. Raises ValueError for one that is no LoRA, or that cannot run here."""
    refuse_left_out(lora_name)
    recognition = recognise(header, lora_name, known.for_file(lora_name) or known.records.values())
    kind = recognition.fingerprint.kind
    if kind is not Kind.LORA:
        is_motion_lora = any(key.endswith(LORA_ENDINGS) for key in header.shapes)
        what = {
            Kind.MOTION_MODULE: (
                "a motion LoRA: it changes an AnimateDiff motion module and not the model, and a"
                " motion LoRA is not applied by this pack"
                if is_motion_lora
                else "an AnimateDiff motion module: load it with the Motion Module Loader"
            ),
            Kind.MODEL: "a whole diffusion model: load it as the model and set lora_name to none",
        }.get(kind, "not an accelerator: it holds neither a LoRA nor a diffusion model")
        raise FileProblem(f"{lora_name} is {what}.")
    return recognition


def record_of(
    recognition: Recognition, lora_name: str, accelerator: str, known: Known
) -> Accelerator:
    """The record of a file: the one chosen by hand if its header allows it, else the one the
    evidence leaves.
    """
    if accelerator != AUTO:
        record = known.chosen(accelerator)
        refuse_other_header(record, recognition, lora_name)
        return record
    if recognition.record is not None:
        return recognition.record
    if not recognition.candidates:
        cautions = [
            file.caution
            for record in known.records.values()
            for file in record.files
            if file.caution and file.name.lower() == short_name(lora_name)
        ]
        evidence = "; ".join([*recognition.evidence, *cautions])
        raise ValueError(
            f"{lora_name} is not an accelerator known here ({evidence}). Use the core LoRA loader"
            " for an ordinary LoRA, or choose its record in accelerator if it is a renamed one."
        )
    raise ValueError(
        f"{lora_name} cannot be told apart by its contents"
        f" ({'; '.join(recognition.fingerprint.evidence)}) and its name does not say. If it is an"
        f" accelerator, choose which in accelerator: {ids_in_words(recognition.candidates)}."
    )


def refuse_carried(carried: Accelerator | None, lora_name: str) -> None:
    """Raise where the model has its accelerator already. lora_name: none, or a file that is one."""
    if carried is None:
        return
    found = f"This model already carries {carried.id}"
    if carried.kind is Kind.MODEL:
        sampler = "Few-Step Sampler" if carried.causal is None else "Streaming Sampler"
        second = "" if lora_name == NONE else f" {lora_name} is for a model that is not distilled."
        raise ValueError(
            f"{found}: it is distilled as a whole, and its settings are on it.{second} Leave this"
            f" node out and connect the model to the {sampler}."
        )
    advice = "connect the model as it comes from its loader"
    if carried.kind is Kind.MOTION_MODULE:
        found += ", its motion module"
        advice = (
            "an LCM LoRA, which its record takes the place of, goes on the model in front of the"
            " Motion Module Loader"
            if carried.solver is Solver.LCM
            else "leave this node out, or take a motion module that is not an accelerator, such as"
            " AnimateDiff v2 or v3"
        )
    raise ValueError(f"{found}. Two accelerators on one model spoil each other: {advice}.")


def refuse_left_out(name: str) -> None:
    """Raise for a release that is known, and known not to run here as it was distilled."""
    reason = next(
        (why for left_out, why in LEFT_OUT.items() if left_out.lower() == short_name(name)), None
    )
    if reason is not None:
        raise FileProblem(f"{short_name(name)} is known and left out: {reason}.")


def refuse_other_header(record: Accelerator, recognition: Recognition, lora_name: str) -> None:
    """Raise where a record chosen by hand contradicts what the file's tensors prove."""
    fingerprint = recognition.fingerprint
    if record.kind is not Kind.LORA:
        raise ValueError(
            f"{record.id} is a {record.kind.value}, and {lora_name} is a LoRA. Choose the LoRA's"
            " record, or set lora_name to none for a model that is itself distilled."
        )
    bases = fingerprint.bases
    if bases and not set(bases) & set(record.bases) and not record.only_by_choice:
        raise ValueError(
            f"{lora_name} is a LoRA for {bases_in_words(bases)}, and {record.id} is one for"
            f" {bases_in_words(record.bases)}. Set accelerator to auto, or choose the file that"
            " belongs to it."
        )
    refuse_other_size(record, fingerprint.width, lora_name)


def refuse_other_size(record: Accelerator, width: int | None, name: str) -> None:
    """Raise where what is called `name` is another published size of the record's base: 1.3B for
    14B.
    """
    published = {other.width for other in CATALOG.values() if set(other.bases) & set(record.bases)}
    if record.width and width in published - {record.width}:
        raise ValueError(
            f"{record.id} is for the size of {bases_in_words(record.bases)} that is"
            f" {record.width} wide, and {name} is for the one that is {width}. Choose what is of"
            " one size."
        )


def refuse_distilled_model(
    distilled: Recognition, record: Accelerator, lora_name: str, model_name: str
) -> None:
    """Raise where the model's own file says that it is distilled already, unless the LoRA is made
    for such a model.
    """
    already = distilled.record
    if already is None or already.id in record.for_distilled:
        return
    raise ValueError(
        f"The connected model, {model_name}, is distilled already: {already.id}"
        f" ({distilled.evidence[-1]}). {lora_name} would distil it twice. Set lora_name to none to"
        " run it as it is, or connect the undistilled model; if its name misleads, rename it."
    )


def refuse_other_expert(record: Accelerator, lora_name: str, model_name: str) -> None:
    """Raise where the model's file is named as the one expert of Wan 2.2 and the accelerator is the
    other's.

    The two have the same tensors, so the names are all there is.
    """
    named = experts_named(model_name)
    if record.expert is not None and named and record.expert not in named:
        raise ValueError(
            f"{lora_name} ({record.id}) is for the {record.expert.value} expert, and {model_name}"
            " is the other one by its name. Connect the other model, or choose the other LoRA."
        )


def choice_notes(record: Accelerator, recognition: Recognition, lora_name: str) -> tuple[str, ...]:
    """What to tell of a record chosen by hand where the file itself says another."""
    said = recognition.record
    # A recipe runs the files of another record, and is there to be chosen.
    if said is None or said is record or record.only_by_choice:
        return ()
    return (
        (
            f"Chosen by hand: {record.id}, though {lora_name} was recognised as {said.id}. If the"
            " result is burnt or blurred, set accelerator to auto."
        ),
    )


def strength_notes(strength: float) -> tuple[str, ...]:
    if strength != 0:
        return ()
    return (
        (
            "strength is 0: nothing of the LoRA is applied, and a few steps leave the undistilled"
            " model unfinished."
        ),
    )


def refuse_misfit(coverage: Coverage, lora_name: str, record: Accelerator) -> None:
    if coverage.applied and len(coverage.misfit) <= coverage.applied:
        return
    misfit = len(coverage.misfit)
    unknown = len(coverage.lost) + len(coverage.not_needed)
    if misfit:
        why = (
            f"{counted(misfit, 'layer')} {'has' if misfit == 1 else 'have'} another width than the"
            f" model's, such as {coverage.misfit[0]}"
        )
    elif unknown == 1:
        why = "its 1 layer is not in this model"
    elif unknown:
        why = f"none of its {unknown} layers is in this model"
    else:
        why = "none of its layers holds a change of a weight"
    raise ValueError(
        f"{lora_name} ({record.id}) does not fit the connected model: {why}. It was probably"
        " made for another size or variant of the base; nothing was attached. Choose the file"
        " made for this model, or connect the model it was made for."
    )


# ---------------------------------------------------------------- a model that is itself distilled


def attach_distilled(model, accelerator: str):
    """(the distilled model with its record, Report). Raises ValueError for one that is not
    distilled or not known.
    """
    loaded, known = look_at(model), known_accelerators()
    refuse_carried(loaded.record, NONE)
    name = loaded.file_name or "The connected model"
    recognition, foreign = recognise_distilled(loaded, known), recognised_loras(loaded, known)

    refuse_left_out(name)
    record = known.chosen(accelerator) if accelerator != AUTO else recognition.record
    if record is None:
        refuse_undistilled(loaded, recognition, name, known)
    refuse_unmarked(loaded, record, name)
    refuse_other_model(record, recognition, name)
    refuse_foreign_accelerator(foreign, record)

    patched = with_accelerator(model, record)
    notes = (
        *look_alike_notes(recognition, name),
        *size_notes(record, recognition, name),
        *foreign_notes(foreign),
        *known.problems,
    )
    return patched, report_on_distilled(record, recognition, notes, name)


def refuse_undistilled(
    loaded: LoadedModel, recognition: Recognition, name: str, known: Known
) -> NoReturn:
    """Raise for a model that was not recognised as one that is distilled as a whole."""
    refuse_look_alike(recognition, name)
    refuse_unmarked(loaded, recognise_distilled(loaded, known, Base.WAN_CAUSAL).record, name)
    width = recognition.fingerprint.width
    candidates = ids_in_words(
        other
        for other in fitting(recognition.fingerprint, known.records.values())
        if other.width in (None, width)
    )
    raise ValueError(
        f"lora_name is none, and {name} is not known as a model that is distilled as a whole "
        f"({'; '.join(recognition.evidence)}). Choose the accelerator's LoRA file"
        + (
            f"; or, if the model is one of these, choose it in accelerator: {candidates}."
            if candidates
            else "."
        )
    )


def look_alike_notes(recognition: Recognition, name: str) -> tuple[str, ...]:
    """What a record chosen by hand overruled."""
    alike = recognition.look_alike
    return (
        ()
        if alike is None
        else (
            (
                f"Chosen by hand, though {name} only looks like a few-step model by its name:"
                f" {alike.reason}."
            ),
        )
    )


def size_notes(record: Accelerator, recognition: Recognition, name: str) -> tuple[str, ...]:
    """What to tell of a model of a size that no release has, and so of no size to refuse."""
    width = recognition.fingerprint.width
    if record.width is None or width is None or width == record.width:
        return ()
    return (
        (
            f"{record.id} is {record.width} wide, and {name} is {width}: if it was not distilled, a"
            " few steps leave it unfinished."
        ),
    )


def refuse_unmarked(loaded: LoadedModel, record: Accelerator | None, name: str) -> None:
    """Raise for a causal model that the host could not know as one and loaded as ordinary Wan."""
    if record is not None and record.causal is not None and loaded.base is Base.WAN_T2V:
        raise ValueError(
            f"{name} was loaded as {loaded.words}, and {record.id} is a causal model. {UNMARKED}"
        )


def refuse_other_model(record: Accelerator, recognition: Recognition, name: str) -> None:
    """Raise where a record does not belong to the connected model."""
    if record.kind is not Kind.MODEL:
        advice = (
            "Load it with the Motion Module Loader"
            if record.kind is Kind.MOTION_MODULE
            else "Choose its file in lora_name"
        )
        raise ValueError(f"{record.id} is a {record.kind.value}, and lora_name is none. {advice}.")
    fingerprint = recognition.fingerprint
    if not set(fingerprint.bases) & set(record.bases):
        raise ValueError(
            f"{record.id} is a {bases_in_words(record.bases)} model, and {name} is"
            f" {bases_in_words(fingerprint.bases) or 'of no base known here'}. Connect that model,"
            " or set accelerator to auto."
        )
    refuse_other_size(record, fingerprint.width, name)


# ---------------------------------------------------------------- words


def report_on_lora(
    record: Accelerator,
    recognition: Recognition,
    coverage: Coverage,
    notes: tuple[str, ...],
    name: str,
    strength: float,
) -> Report:
    """strength: the node's, a multiple of the record's."""
    total, lost = record.strength * strength, len(coverage.lost) + len(coverage.misfit)
    attached = f"{counted(coverage.applied, 'layer')} at strength {total:g}"
    figures = {
        "strength": total,
        "layers_applied": coverage.applied,
        "layers_lost": lost,
        "layers_not_needed": len(coverage.not_needed),
    }
    attached += f", {lost} LOST" if lost else ""
    return loader_report(record, recognition, attached, notes, name, figures)


def report_on_distilled(
    record: Accelerator, recognition: Recognition, notes: tuple[str, ...], name: str
) -> Report:
    figures = {
        "strength": record.strength,
        "layers_applied": 0,
        "layers_lost": 0,
        "layers_not_needed": 0,
    }
    attached = "nothing: the model itself is distilled"
    return loader_report(record, recognition, attached, notes, name, figures)


def loader_report(
    record: Accelerator,
    recognition: Recognition,
    attached: str,
    notes: tuple[str, ...],
    name: str,
    figures: dict[str, float],
) -> Report:
    """attached: what of the file is on the model now, in words; figures: the same for programs."""
    steps = steps_in_words(record)
    locked = "guidance kept" if record.is_guided else "locked"
    guidance = (
        ()
        if record.embedded_guidance is None
        else (
            (
                "embedded guidance",
                f"{record.embedded_guidance:g}, an input of the network and not CFG: left as the"
                " graph sets it",
            ),
        )
    )
    return Report(
        node="Accelerator Loader",
        summary=(
            f"{record.id}: {attached}, {steps} step{'s' * (record.steps != (1,))}, CFG"
            f" {record.cfg:g}"
        ),
        rows=(
            ("accelerator", f"{record.id} ({record.family})"),
            ("file", name),
            ("recognised", how_recognised(record, recognition)),
            ("attached", attached),
            ("steps", steps),
            ("sampler", f"{record.solver.value}, CFG {record.cfg:g} ({locked})"),
            *guidance,
            ("licence", str(record.licence)),
        ),
        notes=(*notes, *record.notes, *(f"Not confirmed: {what}." for what in record.unverified)),
        data={
            "accelerator": record.id,
            "file": name,
            **figures,
            "evidence": list(recognition.evidence),
            "licence": record.licence.name,
        },
    )


def how_recognised(record: Accelerator, recognition: Recognition) -> str:
    """How sure the record is, and the evidence."""
    evidence = "; ".join(recognition.evidence)
    if recognition.record is not record:
        return f"as chosen: chosen by hand; {evidence}"
    if recognition.is_certain:
        return f"certain: {evidence}"
    return f"from the name, within what the header allows: {evidence}"


def coverage_notes(coverage: Coverage) -> list[str]:
    """What became of the layers that were not applied, one sentence for each fate."""
    # What is said of one layer, and of several.
    fates = (
        (
            coverage.lost,
            "of real weight was lost: the model has no place for {}.",
            "of real weight were lost: the model has no place for {}.",
        ),
        (
            coverage.misfit,
            "was lost: its width is not the model's ({}).",
            "were lost: their width is not the model's ({}).",
        ),
        (
            coverage.not_needed,
            "does not matter for this model ({}).",
            "do not matter for this model ({}).",
        ),
    )
    return [
        f"{counted(len(layers), 'layer')}"
        f" {(one if len(layers) == 1 else several).format(_few(layers))}"
        for layers, one, several in fates
        if layers
    ]


def steps_in_words(record: Accelerator) -> str:
    """Its own step count, and which others it has."""
    first, last = record.steps[0], record.steps[-1]
    if len(record.steps) == 1:
        return str(first)
    is_range = record.steps == tuple(range(first, last + 1))
    return (
        f"{record.default_steps} (of"
        f" {f'{first} to {last}' if is_range else ', '.join(map(str, record.steps))})"
    )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


NODES = [FewStepAccelerator]
