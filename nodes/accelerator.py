"""FewStepAccelerator: recognise an accelerator file, check it against the model, attach it with
everything it needs.
"""

from __future__ import annotations

import math
import os
import re

import folder_paths
from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Base, Expert, Kind, Solver
from ..loras.catalog import CATALOG
from ..loras.catalog.left_out import LEFT_OUT
from ..loras.damage import refuse_damaged
from ..loras.fingerprint import (
    ENDINGS,
    FileProblem,
    Header,
    Recognition,
    alpha_in,
    fitting,
    is_titled_as_published,
    lora_fingerprint,
    read_header,
    read_metadata,
    recognise,
    recognise_lora,
    recognise_model,
    short_name,
)
from ..loras.repair import repair
from ..loras.words import counted
from . import declared, host
from .report import Report

LORAS = "loras"
NONE = "none"
AUTO = "auto"

RecognisedLora = tuple[host.ForeignLora, Recognition]

# Causal Wan has the tensors of ordinary Wan, and ComfyUI tells them apart by the file's metadata
# alone.
UNMARKED = (
    "If its file is a causal model, it lacks the mark by which ComfyUI knows one. Run"
    " scripts/mark_causal.py of this pack's repository, python mark_causal.py IN OUT.safetensors,"
    " which also converts .pt files, and load OUT."
)


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
                    options=[NONE, *folder_paths.get_filename_list(LORAS)],
                    tooltip=(
                        "The accelerator's file in models/loras; none for a model that is itself"
                        " distilled."
                    ),
                ),
                io.Combo.Input(
                    "accelerator",
                    options=[AUTO, *CATALOG, *declared.ids()],
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
        return (
            lora_name in (None, NONE)
            or host.model_path(LORAS, lora_name) is not None
            or host.missing_file(LORAS, lora_name)
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **inputs) -> str:
        path = host.model_path(LORAS, lora_name) if lora_name not in (None, NONE) else None
        stamps = [path] if path else []
        return " ".join(
            f"{os.stat(file).st_size} {os.stat(file).st_mtime_ns}"
            for file in (*stamps, *declared.paths())
        )

    @classmethod
    def execute(cls, model, lora_name: str, accelerator: str, strength: float) -> io.NodeOutput:
        carried = host.accelerator_of(model)
        if carried is not None:
            advice = (
                "an LCM LoRA, which its record takes the place of, goes on the model in front of"
                " the Motion Module Loader"
                if carried.kind is Kind.MOTION_MODULE and carried.solver is Solver.LCM
                else "connect the model as it comes from its loader"
            )
            raise ValueError(
                f"This model already carries {carried.id}. Two accelerators on one model spoil each"
                f" other: {advice}."
            )
        attached, report = (
            attach_distilled(model, accelerator)
            if lora_name == NONE
            else attach(model, lora_name, accelerator, strength)
        )
        return io.NodeOutput(attached, report.markdown, ui=report.publish(cls.hidden))


# ---------------------------------------------------------------- a LoRA


def attach(model, lora_name: str, accelerator: str, strength: float):
    """(accelerated model, Report). Raises ValueError naming what was expected, what was found and
    what to do.
    """
    path = host.model_path(LORAS, lora_name)
    if path is None:
        raise FileProblem(host.missing_file(LORAS, lora_name))
    if not math.isfinite(strength):
        raise ValueError(
            f"strength is {strength}. It must be a finite number; 1 is the strength {lora_name} was"
            " released at."
        )
    known = declared.known()
    header = read_header(path)
    record, recognition = identify(header, lora_name, accelerator, known)
    refuse_other_base(model, record, lora_name, known)
    refuse_distilled_model(model, record, lora_name, known)
    refuse_other_expert(model, record, lora_name)
    foreign = recognised_loras(model, known)
    refuse_foreign_accelerator(foreign, record)
    refuse_damaged(path, header)

    tensors, metadata = host.load_tensors(path)
    repaired = repair(tensors, metadata, record.missing_alpha)
    # The weights last: every clone copies the list of all patches.
    prepared = host.with_record(host.with_model_sampling(model, record), record)
    patched, coverage = host.attach_lora(prepared, repaired.tensors, record.strength * strength)
    refuse_misfit(coverage, lora_name, record)
    more = (
        *repaired.notes,
        *choice_notes(record, recognition, lora_name),
        *strength_notes(strength),
        *foreign_notes(foreign),
        *known.problems,
    )
    return patched, describe(record, recognition, coverage, more, lora_name, strength)


def identify(
    header: Header, lora_name: str, accelerator: str, known: declared.Known | None = None
) -> tuple[Accelerator, Recognition]:
    """The record of a file: the one chosen by hand if the header allows it, else the one the
    evidence leaves.
    """
    known = known or declared.known()
    refuse_left_out(lora_name)
    recognition = recognise(header, lora_name, known.for_file(lora_name) or known.records.values())
    found = recognition.fingerprint
    if found.kind is not Kind.LORA:
        what = {
            Kind.MOTION_MODULE: (
                "made for AnimateDiff's motion. A motion module goes into the Motion Module Loader;"
                " a motion LoRA is not applied by this pack"
            ),
            Kind.MODEL: "a whole diffusion model: load it as the model and set lora_name to none",
        }.get(found.kind, "no accelerator: it holds neither a LoRA nor a diffusion model")
        raise FileProblem(f"{lora_name} is {what}.")
    if accelerator != AUTO:
        record = known.chosen(accelerator)
        refuse_other_header(record, recognition, lora_name)
        return record, recognition
    if recognition.record is not None:
        return recognition.record, recognition
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
        f"{lora_name} cannot be told apart by its contents ({'; '.join(found.evidence)}) and its"
        " name does not say. If it is an accelerator, choose which in accelerator:"
        f" {_ids(recognition.candidates)}."
    )


def refuse_left_out(name: str) -> None:
    """Raise for a release that is known, and known not to run here as it was distilled."""
    reason = next(
        (why for left_out, why in LEFT_OUT.items() if left_out.lower() == short_name(name)), None
    )
    if reason is not None:
        raise FileProblem(f"{short_name(name)} is known and left out: {reason}.")


def refuse_other_header(record: Accelerator, recognition: Recognition, lora_name: str) -> None:
    """Raise where a record chosen by hand contradicts what the file's tensors prove."""
    found = recognition.fingerprint
    if record.kind is not Kind.LORA:
        raise ValueError(
            f"{record.id} is a {record.kind.value}, and {lora_name} is a LoRA. Choose the LoRA's"
            " record, or set lora_name to none for a model that is itself distilled."
        )
    if found.bases and not set(found.bases) & set(record.bases) and not record.only_by_choice:
        raise ValueError(
            f"{lora_name} is a LoRA for {_bases(found.bases)}, and {record.id} is one for"
            f" {_bases(record.bases)}. Set accelerator to auto, or choose the file that belongs"
            " to it."
        )
    refuse_other_size(record, found.width, lora_name)


def refuse_other_size(record: Accelerator, width: int | None, name: str) -> None:
    """Raise where what is called `name` is another published size of the record's base: 1.3B for
    14B.
    """
    published = {other.width for other in CATALOG.values() if set(other.bases) & set(record.bases)}
    if record.width and width in published - {record.width}:
        raise ValueError(
            f"{record.id} is for the size of {_bases(record.bases)} that is {record.width} wide,"
            f" and {name} is for the one that is {width}. Choose what is of one size."
        )


def refuse_other_base(model, record: Accelerator, lora_name: str, known: declared.Known) -> None:
    base = host.base_of(model)
    if base in record.bases:
        return
    found = (
        base.value
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
        f"To run it on this model all the same, choose {_ids(recipes, ' or ')} in accelerator."
        if recipes
        else "Connect a model of that kind, or choose an accelerator made for this one."
    )
    raise ValueError(
        f"{lora_name} ({record.id}) is for {_bases(record.bases)}; the connected model is {found}."
        f" {advice}"
    )


def refuse_distilled_model(
    model, record: Accelerator, lora_name: str, known: declared.Known
) -> None:
    """Raise where the model's own file says that it is distilled already, unless the LoRA is made
    for such a model.
    """
    name, _ = host.file_of(model)
    already = recognise_distilled(model, known)
    if already.record is None or already.record.id in record.for_distilled:
        return
    raise ValueError(
        f"The connected model, {name}, is distilled already: {already.record.id}"
        f" ({already.evidence[-1]}). {lora_name} would distil it twice. Set lora_name to none to"
        " run it as it is, or connect the undistilled model; if its name misleads, rename it."
    )


def refuse_other_expert(model, record: Accelerator, lora_name: str) -> None:
    """Raise where the model's file is named as the one expert of Wan 2.2 and the accelerator is the
    other's.

    The two have the same tensors, so the names are all there is.
    """
    name = host.file_of(model)[0]
    words = set(re.findall(r"[a-z]+", name.lower()))
    named = {
        expert
        for expert, word in ((Expert.HIGH_NOISE, "high"), (Expert.LOW_NOISE, "low"))
        if word in words
    }
    if record.expert is not None and named and record.expert not in named:
        raise ValueError(
            f"{lora_name} ({record.id}) is for the {record.expert.value} expert, and {name} is the"
            " other one by its name. Connect the other model, or choose the other LoRA."
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


def refuse_misfit(coverage: host.Coverage, lora_name: str, record: Accelerator) -> None:
    if coverage.applied == 0 or len(coverage.misfit) > coverage.applied:
        unknown = len(coverage.lost) + len(coverage.not_needed)
        misfit = (
            f"{counted(len(coverage.misfit), 'layer')}"
            f" {'has' if len(coverage.misfit) == 1 else 'have'}"
        )
        why = (
            f"{misfit} another width than the model's, such as {coverage.misfit[0]}"
            if coverage.misfit
            else (
                "its 1 layer is not in this model"
                if unknown == 1
                else (
                    f"none of its {unknown} layers is in this model"
                    if unknown
                    else "none of its layers holds a change of a weight"
                )
            )
        )
        raise ValueError(
            f"{lora_name} ({record.id}) does not fit the connected model: {why}. It was probably"
            " made for another size or variant of the base; nothing was attached. Choose the file"
            " made for this model, or connect the model it was made for."
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


# ---------------------------------------------------------------- a model that is itself distilled


def recognise_distilled(model, known: declared.Known, base: Base | None = None) -> Recognition:
    """What the connected model is, by its architecture, its size, its file's name and the file's
    own title.

    base: what to take its architecture for, where the host's word for it is not the last.
    """
    name, path = host.file_of(model)
    metadata = {}
    if path is not None and path.lower().endswith(ENDINGS) and os.path.isfile(path):
        metadata = read_metadata(path)
    return recognise_model(
        base or host.base_of(model), host.width_of(model), metadata, name, known.records.values()
    )


def attach_distilled(model, accelerator: str):
    """(the distilled model with its record, Report). Raises ValueError for one that is not
    distilled or not known.
    """
    known = declared.known()
    recognition = recognise_distilled(model, known)
    name = host.file_of(model)[0] or "The connected model"
    refuse_left_out(name)
    record = known.chosen(accelerator) if accelerator != AUTO else recognition.record
    if record is None:
        refuse_look_alike(recognition, name)
        refuse_unmarked(model, recognise_distilled(model, known, Base.WAN_CAUSAL).record, name)
        width = recognition.fingerprint.width
        candidates = _ids(
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
    refuse_unmarked(model, record, name)
    refuse_other_model(record, recognition, name)
    foreign = recognised_loras(model, known)
    refuse_foreign_accelerator(foreign, record)
    patched = host.with_record(host.with_model_sampling(model, record), record)
    more = (
        *look_alike_notes(recognition, name),
        *size_notes(record, recognition, name),
        *foreign_notes(foreign),
        *known.problems,
    )
    return patched, describe(record, recognition, None, more, name, 1.0)


def refuse_look_alike(recognition: Recognition, name: str) -> None:
    if recognition.look_alike is not None:
        raise ValueError(
            f"{name} only looks like a few-step model: {recognition.look_alike.reason}."
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


def refuse_unmarked(model, record: Accelerator | None, name: str) -> None:
    """Raise for a causal model that the host could not know as one and loaded as ordinary Wan."""
    if record is not None and record.causal is not None and host.base_of(model) is Base.WAN_T2V:
        raise ValueError(
            f"{name} was loaded as {Base.WAN_T2V.value}, and {record.id} is a causal model."
            f" {UNMARKED}"
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
    found = recognition.fingerprint
    if not set(found.bases) & set(record.bases):
        raise ValueError(
            f"{record.id} is a {_bases(record.bases)} model, and {name} is"
            f" {_bases(found.bases) or 'of no base known here'}. Connect that model, or set"
            " accelerator to auto."
        )
    refuse_other_size(record, found.width, name)


# ---------------------------------------------------------------- what other loaders patched


def recognised_loras(model, known: declared.Known | None = None) -> list[RecognisedLora]:
    """What each of the LoRAs is that other loaders left on a MODEL. known: read here where it is
    not given and there are any.
    """
    loras = host.foreign_loras(model)
    if loras and known is None:
        known = declared.known()
    return [(lora, recognise_patches(lora, known)) for lora in loras]


def recognise_foreign(model) -> tuple[Recognition | None, tuple[str, ...]]:
    """What accelerator another loader left on a MODEL, and what to tell about it; None where
    nothing there can be one.

    The host keeps a LoRA's weights as patches, and its metadata where the file has any; it forgets
    the file's name. Raises ValueError for what would run otherwise than it was distilled.
    """
    known = declared.known()
    distilled, foreign = recognise_distilled(model, known), recognised_loras(model, known)
    if distilled.record is not None and not any(
        found.record is not None and distilled.record.id in found.record.for_distilled
        for _, found in foreign
    ):
        refuse_foreign_accelerator(foreign, distilled.record)
        # A distilled model needs no LoRA: those on it are the user's own styles.
        return distilled, ("Recognised without an Accelerator Loader, by the model's own file.",)
    if not foreign:
        refuse_look_alike(distilled, host.file_of(model)[0])
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


def is_beyond_doubt(lora: host.ForeignLora, found: Recognition) -> bool:
    """Whether a LoRA is an accelerator by its contents or a published name. The words of a title
    may be a style's as well.
    """
    return found.record is not None and (
        found.is_certain or is_titled_as_published(found.record, lora.metadata)
    )


def recognise_patches(lora: host.ForeignLora, known: declared.Known) -> Recognition:
    """What another loader's LoRA is. Of several the host keeps one file's title alone, and not
    whose: it speaks for each.
    """
    found = lora_fingerprint(lora.layers, lora.ranks, lora.alpha, lora.has_differences)
    return recognise_lora(found, lora.metadata, "", 0, known.records.values())


def refuse_unscaled(lora: host.ForeignLora, record: Accelerator) -> None:
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


# ---------------------------------------------------------------- words


def describe(
    record: Accelerator,
    recognition: Recognition,
    coverage: host.Coverage | None,
    more: tuple[str, ...],
    name: str,
    strength: float,
) -> Report:
    chosen = recognition.record is not record
    evidence = "chosen by hand; " * chosen + "; ".join(recognition.evidence)
    sure = (
        "as chosen"
        if chosen
        else "certain"
        if recognition.is_certain
        else "from the name, within what the header allows"
    )
    total = record.strength * strength
    attached = (
        f"{counted(coverage.applied, 'layer')} at strength {total:g}"
        if coverage
        else "nothing: the model itself is distilled"
    )
    lost = len(coverage.lost) + len(coverage.misfit) if coverage else 0
    attached += f", {lost} LOST" if lost else ""
    guidance = (
        ()
        if record.embedded_guidance is None
        else (
            (
                "embedded guidance",
                (
                    f"{record.embedded_guidance:g}, an input of the network and not CFG: left as"
                    " the graph sets it"
                ),
            ),
        )
    )
    return Report(
        node="Accelerator Loader",
        summary=f"{record.id}: {attached}, {_steps(record)} steps, CFG {record.cfg:g}",
        rows=(
            ("accelerator", f"{record.id} ({record.family})"),
            ("file", name),
            ("recognised", f"{sure}: {evidence}"),
            ("attached", attached),
            ("steps", _steps(record)),
            (
                "sampler",
                f"{record.solver.value}, CFG {record.cfg:g}"
                + (" (guidance kept)" if record.is_guided else " (locked)"),
            ),
            *guidance,
            ("licence", str(record.licence)),
        ),
        notes=(
            *(_coverage_notes(coverage) if coverage else ()),
            *more,
            *record.notes,
            *(f"Not confirmed: {what}." for what in record.unverified),
        ),
        data={
            "accelerator": record.id,
            "file": name,
            "strength": total,
            "layers_applied": coverage.applied if coverage else 0,
            "layers_lost": lost,
            "layers_not_needed": len(coverage.not_needed) if coverage else 0,
            "evidence": list(recognition.evidence),
            "licence": record.licence.name,
        },
    )


def _coverage_notes(coverage: host.Coverage) -> list[str]:
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


def _bases(bases) -> str:
    return " or ".join(base.value for base in bases)


def _ids(records, joint: str = ", ") -> str:
    return joint.join(record.id for record in records)


def _steps(record: Accelerator) -> str:
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
