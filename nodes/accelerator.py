"""FewStepAccelerator: recognise an accelerator, check it against the model, attach it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Kind, some_ids
from ..loras.architecture import is_in_diffusers
from ..loras.bases import Base
from ..loras.catalog import CATALOG
from ..loras.decision import (
    DECLARE,
    NO_LORA,
    merged_notes,
    record_of,
    refuse_carried,
    refuse_conflicts,
    refuse_left_out,
    refuse_merged,
    refuse_other_expert,
    refuse_other_kind,
    refuse_other_model,
    refuse_second,
    taking_notes,
)
from ..loras.editions import edition_notes
from ..loras.header import read_header
from ..loras.recognition import Recognition, fitting, recognise
from ..loras.repair import repair
from ..loras.words import counted, first_few
from .host.attach import Coverage, attach_lora, with_accelerator, with_news
from .host.declared import Known, declaration_paths, declared_ids, known_accelerators
from .host.files import (
    is_there,
    listed_files,
    model_path,
    required_path,
    stamp_of,
    whole_tensors,
)
from .host.model import LoadedModel, look_at
from .host.recognise import UNMARKED, recognise_distilled, recognise_loras, refuse_look_alike
from .host.report import SENT_AGAIN, Report

LORAS = "loras"
AUTO = "auto"
INSIDE = (
    "Taken at your word: the settings of {} are on the model, and whether its weights are in it was"
    " not checked. If the picture stays unfinished, they are not."
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
                "hypersd",
                "lightx2v",
                "turbo",
                "dmd",
                "dmd2",
                "schnell",
                "klein",
                "causvid",
                "self forcing",
                "distill",
                "distilled",
                "fast",
                "faster",
                "speed",
                "speed up",
                "few step",
                "few steps",
                "4 step",
                "4 steps",
                "8 step",
                "8 steps",
                "wan fast",
                "distill lora",
                "accelerator lora",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The base model the accelerator was made for."),
                io.Combo.Input(
                    "lora_name",
                    options=[NO_LORA, *listed_files(LORAS)],
                    tooltip=(
                        "The accelerator's file in models/loras; none for a model that is itself"
                        " distilled, or that has the LoRA in it already."
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
                io.Boolean.Input(
                    "lock_cfg",
                    default=True,
                    advanced=True,
                    optional=True,
                    tooltip=(
                        "On: samplers of other packs and of ComfyUI itself refuse to run this model"
                        " at another CFG than the accelerator's. Off: they run it, and it is"
                        " logged. The Few-Step Sampler always runs at its own."
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
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **SENT_AGAIN,
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        return lora_name in (None, NO_LORA) or is_there(LORAS, lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **inputs) -> str:
        path = model_path(LORAS, lora_name) if lora_name not in (None, NO_LORA) else None
        return stamp_of((*((path,) if path else ()), *declaration_paths()))

    @classmethod
    def execute(
        cls, model, lora_name: str, accelerator: str, strength: float, lock_cfg: bool = True
    ) -> io.NodeOutput:
        attached, report = (
            attach_distilled(model, accelerator, lock_cfg, cls.hidden)
            if lora_name == NO_LORA
            else attach_accelerator(model, lora_name, accelerator, strength, lock_cfg, cls.hidden)
        )
        return io.NodeOutput(attached, report.markdown, ui=report.publish(cls.hidden))


# ---------------------------------------------------------------- a LoRA


def attach_accelerator(
    model,
    lora_name: str,
    accelerator: str,
    strength: float,
    lock_cfg: bool = True,
    hidden: Any = None,
):
    """(accelerated model, Report). Raises ValueError: expected, found, what to do."""
    refuse_strength(strength, lora_name)
    loaded, known = look_at(model, hidden), known_accelerators()
    path, records = required_path(LORAS, lora_name), known.records.values()
    header = read_header(path)
    recognition = recognise(header, lora_name, records, loaded.base)
    foreign, distilled = recognise_loras(loaded, known), recognise_distilled(loaded, known)

    refuse_left_out(lora_name)
    refuse_other_kind(recognition, header, lora_name)
    chosen = None if accelerator == AUTO else known.chosen(accelerator)
    record = record_of(recognition, lora_name, chosen, records)
    refuse_conflicts(record, lora_name, loaded, distilled, foreign.accelerator, records)
    tensors = whole_tensors(path, header)

    repaired = repair(tensors, header.metadata, record.missing_alpha)
    # The weights last: every clone copies the list of all patches.
    patched = with_accelerator(model, record, lock_cfg)
    patched, coverage = attach_lora(patched, repaired.tensors, record.strength * strength)
    refuse_misfit(coverage, lora_name, record)
    refuse_twice(coverage, lora_name)

    notes = (
        *model_notes(record, lora_name, loaded, distilled, records),
        *coverage_notes(coverage),
        *repaired.notes,
        *choice_notes(record, recognition, lora_name),
        *strength_notes(strength),
        *foreign.notes,
        *known.problems,
    )
    report = report_on_loading(record, recognition, coverage, notes, lora_name, strength)
    return with_news(patched, report), report


def model_notes(
    record: Accelerator,
    lora_name: str,
    loaded: LoadedModel,
    distilled: Recognition,
    records: Iterable[Accelerator],
) -> tuple[str, ...]:
    """What to tell of an accelerator on this model. distilled: what the model was taken for."""
    return (
        *taking_notes(record, loaded.base, records),
        *edition_notes(record, lora_name, loaded.base, loaded.file_name, records),
        *merged_notes(distilled, lora_name, loaded.file_name),
        # The notes first: few records have any, and the other question looks at every weight.
        *(
            record.notes_on_plain_fp8
            if record.notes_on_plain_fp8 and loaded.is_in_plain_fp8
            else ()
        ),
    )


def refuse_strength(strength: float, lora_name: str) -> None:
    if not math.isfinite(strength):
        raise ValueError(
            f"strength is {strength}. It must be a finite number; 1 is the strength {lora_name} was"
            " released at."
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
    unknown = (*coverage.lost, *coverage.not_needed)
    if coverage.misfit:
        why = (
            f"{_have(coverage.misfit)} another width than the model's, such as"
            f" {coverage.misfit[0]}. Nothing was attached. Choose the file made for a model of"
            " this size, or connect the model it was made for."
        )
    elif unknown:
        why = f"{_none_of(unknown)}. Nothing was attached. {advice_on_names(unknown[0], coverage)}"
    else:
        why = (
            "none of its layers holds a change of a weight. Nothing was attached. Download it"
            " again, or choose another file."
        )
    raise ValueError(f"{lora_name} ({record.id}) does not fit the connected model: {why}")


def _have(layers: Sequence[str]) -> str:
    return f"{counted(len(layers), 'layer')} {'has' if len(layers) == 1 else 'have'}"


def _none_of(layers: Sequence[str]) -> str:
    none = "its 1 layer is not" if len(layers) == 1 else f"none of its {len(layers)} layers is"
    return f"{none} in this model under a name that ComfyUI knows, such as {layers[0]}"


def advice_on_names(layer: str, coverage: Coverage) -> str:
    """What to do with a file whose layers the model has no place for. layer: one of them."""
    own = f"The model's own are called {coverage.own_layer}, and so on." * bool(coverage.own_layer)
    if is_in_diffusers(layer) and not is_in_diffusers(coverage.own_layer):
        return (
            f"These are diffusers' names, which ComfyUI does not apply to this model. {own} Choose"
            " the file made for this model or its version for ComfyUI, or convert its names."
        )
    return f"{own} Choose the file made for this model, or its version for ComfyUI.".lstrip()


def refuse_twice(coverage: Coverage, lora_name: str) -> None:
    """Raise where another loader has put the same file on the model, perhaps under another name."""
    if coverage.strength_before is not None:
        raise ValueError(
            f"{lora_name} is on this model already: another loader put the same weights there at"
            f" strength {coverage.strength_before:g}, and the two would add up. Take that loader"
            " out."
        )


# ---------------------------------------------------------------- a model that is itself distilled


def attach_distilled(model, accelerator: str, lock_cfg: bool = True, hidden: Any = None):
    """(the distilled model with its record, Report). Raises ValueError for any other model."""
    loaded, known = look_at(model, hidden), known_accelerators()
    refuse_carried(loaded.record, NO_LORA)
    name = loaded.file_name or "The connected model"
    foreign, recognition = recognise_loras(loaded, known), recognise_distilled(loaded, known)

    refuse_left_out(name)
    record = known.chosen(accelerator) if accelerator != AUTO else recognition.record
    if record is None:
        refuse_undistilled(loaded, recognition, name, known)
    refuse_unmarked(loaded, record, name)
    refuse_other_model(record, recognition, name)
    refuse_other_expert(record, "The accelerator", loaded.file_name)
    is_inside = record.kind is Kind.LORA
    # Where it is said to be in the model, the loader that put it there may show it.
    refuse_second(record, foreign.without(record).accelerator if is_inside else foreign.accelerator)

    patched = with_accelerator(model, record, lock_cfg)
    notes = (
        *((INSIDE.format(record.id),) if is_inside else ()),
        *taking_notes(record, loaded.base, known.records.values()),
        *look_alike_notes(recognition, name),
        *size_notes(record, recognition, name),
        *foreign.notes,
        *known.problems,
    )
    report = report_on_loading(record, recognition, None, notes, name)
    return with_news(patched, report), report


def refuse_undistilled(
    loaded: LoadedModel, recognition: Recognition, name: str, known: Known
) -> NoReturn:
    """Raise for a model that was not recognised as one that is distilled as a whole."""
    refuse_look_alike(recognition, name)
    refuse_merged(recognition, name, "lora_name is none", "To run it,")
    refuse_unmarked(loaded, recognise_distilled(loaded, known, Base.WAN_CAUSAL).record, name)
    width = recognition.fingerprint.width
    candidates = [
        other
        for other in fitting(recognition.fingerprint, known.records.values())
        if other.width in (None, width)
    ]
    which = (
        f" If the model is one of these, choose it in accelerator: {some_ids(candidates)}."
        if candidates
        else ""
    )
    raise ValueError(
        f"Choose the accelerator's file in lora_name: it is none, and {name} is not known as a"
        f" model that is distilled as a whole ({'; '.join(recognition.evidence)}).{which} If a LoRA"
        " is in the model already (a merge, or another pack's loader), choose that LoRA in"
        f" accelerator: its settings are taken, no weights. {DECLARE}"
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


# ---------------------------------------------------------------- words


def report_on_loading(
    record: Accelerator,
    recognition: Recognition,
    coverage: Coverage | None,
    notes: tuple[str, ...],
    name: str,
    strength: float = 1.0,
) -> Report:
    """coverage: None for a model that is itself distilled. strength: multiplies the record's."""
    total, steps = record.strength * strength, counts_in_words(record)
    recognised, guidance = how_recognised(record, recognition), guidance_rows(record)
    locked = "guidance kept" if record.is_guided else "locked"
    cfg, plural = f"CFG {record.cfg:g}", "s" * (record.steps != (1,))
    attached = attached_in_words(record, coverage, total)
    return Report(
        node="Accelerator Loader",
        summary=f"{record.id}: {attached}, {steps} step{plural}, {cfg}",
        rows=(
            ("accelerator", f"{record.id} ({record.family})"),
            ("file", name),
            ("recognised", recognised),
            ("attached", attached),
            ("steps", steps),
            ("sampler", f"{record.solver.value}, {cfg} ({locked})"),
            *guidance,
            ("licence", str(record.licence)),
        ),
        notes=(
            *notes,
            *record.notes,
            *((record.template_note,) if record.template_note else ()),
            *(f"Not confirmed: {what}." for what in record.unverified),
        ),
        data={
            "accelerator": record.id,
            "file": name,
            "strength": total,
            "layers_applied": coverage.applied if coverage else 0,
            "layers_lost": coverage.all_lost if coverage else 0,
            "layers_not_needed": len(coverage.not_needed) if coverage else 0,
            "evidence": list(recognition.evidence),
            "licence": record.licence.name,
        },
    )


def attached_in_words(record: Accelerator, coverage: Coverage | None, strength: float) -> str:
    """What of the file is on the model now."""
    if coverage is None and record.kind is Kind.LORA:
        return "settings alone: it is in the model already"
    if coverage is None:
        return "nothing: the model itself is distilled"
    lost = f", {coverage.all_lost} LOST" if coverage.all_lost else ""
    return f"{counted(coverage.applied, 'layer')} at strength {strength:g}{lost}"


def guidance_rows(record: Accelerator) -> tuple[tuple[str, str], ...]:
    scale = record.embedded_guidance
    if scale is None:
        return ()
    words = f"{scale:g}, an input of the network and not CFG: left as the graph sets it"
    return (("embedded guidance", words),)


def how_recognised(record: Accelerator, recognition: Recognition) -> str:
    """How sure the record is, and the evidence."""
    evidence = "; ".join(recognition.evidence)
    if recognition.record is not record:
        return f"as chosen: chosen by hand; {evidence}"
    if recognition.is_certain:
        return f"certain: {evidence}"
    return f"from the name, within what the header allows: {evidence}"


def coverage_notes(coverage: Coverage) -> list[str]:
    """What became of the layers that were renamed or not applied, one sentence for each fate."""
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
        (
            coverage.other_input,
            "is left as it is ({}): the file is for another number of input channels.",
            "are left as they are ({}): the file is for another number of input channels.",
        ),
    )
    renamed = [
        f"{counted(len(coverage.renamed), 'layer')} renamed for ComfyUI, such as {layer} to {name}."
        for layer, name in list(coverage.renamed.items())[:1]
    ]
    return renamed + [
        f"{counted(len(layers), 'layer')}"
        f" {(one if len(layers) == 1 else several).format(first_few(layers))}"
        for layers, one, several in fates
        if layers
    ]


def counts_in_words(record: Accelerator) -> str:
    """Its own step count, and which others it has."""
    first, last = record.steps[0], record.steps[-1]
    if len(record.steps) == 1:
        return str(first)
    is_range = record.steps == tuple(range(first, last + 1))
    return (
        f"{record.default_steps} (of"
        f" {f'{first} to {last}' if is_range else ', '.join(map(str, record.steps))})"
    )


NODES = [FewStepAccelerator]
