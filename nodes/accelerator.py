"""FewStepAccelerator: recognise an accelerator file, check it against the model, attach it with everything it needs."""

from __future__ import annotations

import difflib
import os

import folder_paths
from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Kind
from ..loras.catalog import CATALOG
from ..loras.fingerprint import FileProblem, Header, Recognition, read_header, recognise
from ..loras.repair import repair
from . import host
from .report import Report

NONE = "none"
AUTO = "auto"


class FewStepAccelerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepAccelerator",
            display_name="Accelerator Loader",
            category="few-step",
            description="Attaches a few-step accelerator (LCM, Lightning, Hyper-SD, LightX2V, ...): recognises the file, checks "
                        "that it belongs to the model, applies it and remembers the settings it was distilled for.",
            search_aliases=["lcm", "lightning", "hyper-sd", "lightx2v", "turbo", "4 step", "speed", "distill lora"],
            inputs=[
                io.Model.Input("model", tooltip="The base model the accelerator was made for."),
                io.Combo.Input("lora_name", options=[NONE, *folder_paths.get_filename_list("loras")],
                               tooltip="The accelerator's file in models/loras; none for a model that is itself distilled."),
                io.Combo.Input("accelerator", options=[AUTO, *CATALOG], default=AUTO,
                               tooltip="auto recognises the file from its contents, its name last. Choose one by hand when it asks "
                                       "you to."),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01,
                               tooltip="Multiple of the strength it was released at. 1 is right; lower blends back towards the "
                                       "undistilled model and is usually blurrier."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The accelerated model; connect it to the Few-Step Sampler."),
                io.String.Output(display_name="report", tooltip="What the file is, how that was decided, and what was attached."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        if lora_name in (None, NONE) or host.lora_path(lora_name):
            return True
        near = difflib.get_close_matches(lora_name, folder_paths.get_filename_list("loras"), n=3, cutoff=0.4)
        return (f"{lora_name} is not in models/loras. " + (f"The nearest files there: {', '.join(near)}. " if near else "")
                + "Put the file there, or choose another.")

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **inputs) -> str:
        path = host.lora_path(lora_name) if lora_name not in (None, NONE) else None
        if path is None:
            return ""
        stat = os.stat(path)
        return f"{stat.st_size} {stat.st_mtime_ns}"

    @classmethod
    def execute(cls, model, lora_name: str, accelerator: str, strength: float) -> io.NodeOutput:
        carried = host.accelerator_of(model)
        if carried is not None:
            raise ValueError(f"This model already carries {carried.id}. Two accelerators on one model spoil each other: "
                             "connect the model as it comes from its loader.")
        if lora_name == NONE:
            raise ValueError("lora_name is none, and no model that is distilled as a whole is in the catalogue yet. "
                             "Choose the accelerator's LoRA file.")
        attached, report = attach(model, lora_name, accelerator, strength)
        return io.NodeOutput(attached, report.markdown, ui=report.publish(cls.hidden))


def attach(model, lora_name: str, accelerator: str, strength: float):
    """(accelerated model, Report). Raises ValueError naming what was expected, what was found and what to do."""
    path = host.lora_path(lora_name)
    if path is None:
        raise FileProblem(f"{lora_name} is not in models/loras. Put the file there, or choose another.")
    header = read_header(path)
    record, recognition = identify(header, lora_name, accelerator)
    refuse_other_base(model, record, lora_name)

    tensors, metadata = host.load_tensors(path)
    repaired = repair(tensors, metadata)
    patched, coverage = host.attach_lora(model, repaired.tensors, record.strength * strength)
    refuse_misfit(coverage, lora_name, record)
    patched = host.with_record(host.with_model_sampling(patched, record), record)
    return patched, describe(record, recognition, coverage, repaired.notes, lora_name, strength)


def identify(header: Header, lora_name: str, accelerator: str) -> tuple[Accelerator, Recognition]:
    """The record of a file: the one chosen by hand if the header allows it, else the one the evidence leaves."""
    recognition = recognise(header, lora_name, CATALOG.values())
    found = recognition.fingerprint
    if found.kind is not Kind.LORA:
        what = {Kind.MOTION_MODULE: "a motion module: load it with the Motion Module Loader",
                Kind.MODEL: "a whole diffusion model: load it as the model and set lora_name to none"}.get(
                    found.kind, "no accelerator: it holds neither a LoRA nor a diffusion model")
        raise FileProblem(f"{lora_name} is {what}.")
    if accelerator != AUTO:
        record = CATALOG[accelerator]
        if found.bases and not set(found.bases) & set(record.bases):
            raise ValueError(f"{lora_name} is a LoRA for {_bases(found.bases)}, and {record.id} is one for {_bases(record.bases)}. "
                             "Set accelerator to auto, or choose the file that belongs to it.")
        return record, recognition
    if recognition.record is not None:
        return recognition.record, recognition
    if not recognition.candidates:
        raise ValueError(f"{lora_name} is not an accelerator known here ({'; '.join(found.evidence)}). Use the core LoRA loader "
                         "for an ordinary LoRA, or choose its record in accelerator if it is a renamed one.")
    candidates = ", ".join(record.id for record in recognition.candidates)
    raise ValueError(f"{lora_name} cannot be told apart by its contents ({'; '.join(found.evidence)}) and its name does not say. "
                     f"If it is an accelerator, choose which in accelerator: {candidates}.")


def refuse_other_base(model, record: Accelerator, lora_name: str) -> None:
    base = host.base_of(model)
    if base not in record.bases:
        found = base.value if base else f"a {type(model.model.model_config).__name__} model, which no accelerator here is for"
        raise ValueError(f"{lora_name} ({record.id}) is for {_bases(record.bases)}; the connected model is {found}. "
                         "Connect a model of that kind, or choose an accelerator made for this one.")


def refuse_misfit(coverage: host.Coverage, lora_name: str, record: Accelerator) -> None:
    if coverage.applied == 0 or len(coverage.misfit) > coverage.applied:
        why = (f"{len(coverage.misfit)} layers have another width than the model's, such as {coverage.misfit[0]}" if coverage.misfit
               else f"none of its {len(coverage.lost) + len(coverage.not_needed)} layers is in this model")
        raise ValueError(f"{lora_name} ({record.id}) does not fit the connected model: {why}. It was probably made for another size "
                         "or variant of the base; nothing was attached.")


def describe(record: Accelerator, recognition: Recognition, coverage: host.Coverage, repairs: tuple[str, ...], lora_name: str,
             strength: float) -> Report:
    chosen = recognition.record is not record
    evidence = "chosen by hand; " * chosen + "; ".join(recognition.evidence)
    sure = "as chosen" if chosen else "certain" if recognition.is_certain else "from the name, within what the header allows"
    total = record.strength * strength
    lost = [f"{len(coverage.lost)} layers of real weight were lost: the model has no place for {_few(coverage.lost)}."] if coverage.lost else []
    misfit = [f"{len(coverage.misfit)} layers were lost: their width is not the model's ({_few(coverage.misfit)})."] if coverage.misfit else []
    spare = [f"{len(coverage.not_needed)} layers do not matter for this model ({_few(coverage.not_needed)})."] if coverage.not_needed else []
    return Report(
        node="Accelerator Loader",
        summary=f"{record.id}: {coverage.applied} layers at strength {total:g}, {_steps(record)} steps, CFG {record.cfg:g}",
        rows=(
            ("accelerator", f"{record.id} ({record.family})"),
            ("file", lora_name),
            ("recognised", f"{sure}: {evidence}"),
            ("attached", f"{coverage.applied} layers at strength {total:g}"),
            ("steps", _steps(record)),
            ("sampler", f"{record.solver.value}, CFG {record.cfg:g}" + (" (guidance kept)" if record.is_guided else " (locked)")),
            ("licence", str(record.licence)),
        ),
        notes=(*lost, *misfit, *spare, *repairs, *record.notes, *(f"Not confirmed: {what}." for what in record.unverified)),
        data={
            "accelerator": record.id, "file": lora_name, "strength": total, "layers_applied": coverage.applied,
            "layers_lost": len(coverage.lost) + len(coverage.misfit), "layers_not_needed": len(coverage.not_needed),
            "evidence": list(recognition.evidence), "licence": record.licence.name,
        },
    )


def _bases(bases) -> str:
    return " or ".join(base.value for base in bases)


def _steps(record: Accelerator) -> str:
    return str(record.steps[0]) if len(record.steps) == 1 else f"{record.default_steps} (of {record.steps[0]} to {record.steps[-1]})"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


NODES = [FewStepAccelerator]
