"""FewStepMotion: load an AnimateDiff motion module onto SD 1.5, with its noise and steps."""

from __future__ import annotations

import os

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Kind, Solver
from ..loras.bases import Base
from ..loras.catalog import CATALOG
from ..loras.fingerprint import Fingerprint
from ..loras.header import ENDINGS, FileProblem, Header, read_header
from ..loras.recognition import recognise_lora
from ..loras.words import counted
from ..motion.keys import MotionFile, Version, inspect
from .host.attach import with_accelerator, with_news
from .host.files import (
    add_model_folder,
    is_there,
    model_files,
    model_path,
    required_path,
    stamp_of,
    whole_tensors,
)
from .host.model import LoadedModel, accelerator_of, look_at, with_linear_betas
from .host.motion import (
    FEW_FRAMES,
    NAME,
    TRAINED_FRAMES,
    Windows,
    beyond_training,
    load_network,
    motion_of,
    widths_of,
    windows_of,
    with_motion,
)
from .host.report import SENT_AGAIN, Report

FOLDER = "animatediff_models"
add_model_folder(FOLDER)


class FewStepMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepMotion",
            display_name="Motion Module Loader",
            category="few-step",
            description=(
                "Turns an SD 1.5 model into a video model with an AnimateDiff motion module: v1,"
                " v2, v3, AnimateLCM, or AnimateDiff-Lightning, which makes a clip in 1, 2, 4 or 8"
                " steps."
            ),
            search_aliases=[
                "animatediff",
                "animatediff-lightning",
                "animatelcm",
                "motion",
                "video",
                "sd15 video",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "An SD 1.5 model. Put an accelerator LoRA before this node, other LoRAs and"
                        " patches before or after it."
                    ),
                ),
                io.Combo.Input(
                    "motion_name",
                    options=model_files(FOLDER),
                    tooltip=(
                        "The motion module in models/animatediff_models. AnimateDiff-Lightning"
                        " files bring their step count with them; the others need an ordinary"
                        " number of steps."
                    ),
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip=(
                        "Frames of the clip, which is batch_size of the empty latent. Modules were"
                        " trained on 16. Fewer than 8 come out badly; more than 16 are made in"
                        " overlapping windows of 16, which costs more per frame."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip=(
                        "The model with motion: connect it to the Few-Step Sampler, or to any "
                        "sampler if the module is no accelerator."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What the file is, how that was decided, and what was set.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **SENT_AGAIN,
        )

    @classmethod
    def validate_inputs(cls, motion_name: str | None = None) -> bool | str:
        return motion_name is None or is_there(FOLDER, motion_name)

    @classmethod
    def fingerprint_inputs(cls, motion_name: str | None = None, **inputs) -> str:
        path = model_path(FOLDER, motion_name) if motion_name is not None else None
        return stamp_of([path] if path else [])

    @classmethod
    def execute(cls, model, motion_name: str, frames: int) -> io.NodeOutput:
        attached, report = attach_motion(model, motion_name, frames)
        return io.NodeOutput(attached, report.markdown, ui=report.publish(cls.hidden))


def attach_motion(model, motion_name: str, frames: int):
    """(model with motion, Report). Raises ValueError: expected, found, what to do."""
    path = required_path(FOLDER, motion_name)
    refuse_pickle(motion_name)
    header, loaded = read_header(path), look_at(model)
    file = inspect(header.shapes, motion_name)
    refuse_model(loaded, file, motion_name)
    record, evidence = accelerator_in(file, header, motion_name)
    refuse_second_accelerator(loaded.record, record)
    tensors = whole_tensors(path, header)

    network = load_network(model, file.architecture, tensors)
    patched = with_motion(model, network, motion_name, frames)
    if record is not None:
        # Not locked: this loader has no switch for it, and a clip may want guidance. It is logged.
        patched = with_accelerator(patched, record, is_locked=False)
    patched = with_linear_betas(patched)
    report = report_on_motion(patched, file, evidence)
    return with_news(patched, report), report


def refuse_pickle(motion_name: str) -> None:
    # The authors' first releases are .ckpt files; each has been published by them as .safetensors
    # since.
    ending = os.path.splitext(motion_name)[1].lower()
    if ending not in ENDINGS:
        raise FileProblem(
            f"{motion_name} is a {ending} file, which can carry code and is never opened here. The"
            " same modules are on Hugging Face as diffusion_pytorch_model.safetensors: v1, v2 and"
            " v3 in guoyww/animatediff-motion-adapter-v1-5, -v1-5-2 and -v1-5-3, AnimateLCM in"
            " wangfuyun/AnimateLCM. Download that one and put it here under a name that says what"
            f" it is, such as {os.path.splitext(motion_name)[0]}.safetensors."
        )


def refuse_model(loaded: LoadedModel, file: MotionFile, motion_name: str) -> None:
    if loaded.base is not Base.SD15:
        raise ValueError(
            f"{motion_name} is a motion module for SD 1.5; the connected model is "
            f"{loaded.class_name}. Connect an SD 1.5 checkpoint."
        )
    carried, widths = motion_of(loaded.patcher), widths_of(loaded.patcher)
    if carried is not None:
        raise ValueError(
            f"This model already carries the motion module {carried.name}. Connect the model as it"
            " comes from its loader."
        )
    if file.architecture.widths != widths:
        raise ValueError(
            f"{motion_name} is made for a UNet of widths {list(file.architecture.widths)}; the"
            f" connected model's are {list(widths)}. Connect an SD 1.5 checkpoint of"
            " ordinary size."
        )


def refuse_second_accelerator(carried: Accelerator | None, record: Accelerator | None) -> None:
    # AnimateLCM goes on a model that an LCM LoRA has made a consistency model; its record then
    # takes the LoRA's place.
    if carried is not None and record is not None and carried.family != record.family:
        raise ValueError(
            f"This model already carries {carried.id}, and {record.id} is an accelerator itself."
            " Two accelerators on one model spoil each other: leave one out, or take a motion"
            " module that is not one (AnimateDiff v2 or v3)."
        )


def accelerator_in(
    file: MotionFile, header: Header, motion_name: str
) -> tuple[Accelerator | None, tuple[str, ...]]:
    """(the accelerator this module is, None for an ordinary one; the evidence).

    AnimateDiff-Lightning has the very tensors of v2, so that only the file's size, title or name
    tells the two apart.
    """
    words = (
        f"header: {file.version.value}, {file.architecture.positions} positions,"
        f" {file.layout.value} key layout"
    )
    fingerprint = Fingerprint(Kind.MOTION_MODULE, (Base.SD15,), (words,))
    modules = [record for record in CATALOG.values() if record.kind is Kind.MOTION_MODULE]
    if file.version is Version.LCM:
        return (
            next((record for record in modules if record.solver is Solver.LCM), None),
            fingerprint.evidence,
        )
    if file.version is not Version.V2:
        return None, fingerprint.evidence
    recognition = recognise_lora(fingerprint, header.metadata, motion_name, header.size, modules)
    if recognition.record is not None:
        return recognition.record, recognition.evidence
    if recognition.evidence == fingerprint.evidence:
        return None, (*fingerprint.evidence, "nothing suggests a Lightning module")
    candidates = recognition.candidates
    raise ValueError(
        f"{motion_name} may be any of {', '.join(record.id for record in candidates)}: their"
        " tensors are alike and its name does not say which. Put the step count in the name, as"
        f" published: {candidates[0].files[0].name}."
    )


def report_on_motion(patched, file: MotionFile, evidence: tuple[str, ...]) -> Report:
    motion, record = motion_of(patched), accelerator_of(patched)
    windows = windows_of(patched)
    seen = (
        f"in {windows.count} windows of {windows.length}, {windows.overlap} of them shared"
        if windows
        else "at once"
    )
    settings = (
        "an ordinary number of steps and CFG"
        if record is None
        else f"{counted(record.default_steps, 'step')}, {record.solver.value}, CFG {record.cfg:g}"
    )
    return Report(
        node=NAME,
        summary=(
            f"{record.id if record else file.version.value}:"
            f" {counted(motion.frames, 'frame')} {seen}, {settings}"
        ),
        rows=(
            ("motion module", motion.name),
            ("recognised", "; ".join(evidence)),
            ("accelerator", f"{record.id} ({record.family})" if record else "none"),
            ("frames", f"{motion.frames}, {seen}"),
            ("run with", settings),
            ("noise schedule", "linear betas, as AnimateDiff was trained"),
            *((("licence", str(record.licence)),) if record else ()),
        ),
        notes=notes_on_motion(patched, file, windows),
        data={
            "motion_module": motion.name,
            "version": file.version.value,
            "accelerator": record.id if record else None,
            "frames": motion.frames,
            "positions": motion.positions,
            "windows": windows.count if windows else 1,
            "evidence": list(evidence),
        },
    )


def notes_on_motion(patched, file: MotionFile, windows: Windows | None) -> tuple[str, ...]:
    motion, record = motion_of(patched), accelerator_of(patched)
    notes = list(record.notes) if record else []
    seen = windows.length if windows else motion.frames
    if motion.frames < FEW_FRAMES:
        notes.append(
            f"{counted(motion.frames, 'frame')} {'is' if motion.frames == 1 else 'are'} few: motion"
            f" modules were trained on clips of {TRAINED_FRAMES}, and below {FEW_FRAMES} pictures"
            f" suffer as well as motion. Make {TRAINED_FRAMES} and keep those you want."
        )
    if seen > TRAINED_FRAMES:
        notes.append(f"{beyond_training(seen)}.")
    if windows:
        work = windows.count * windows.length / motion.frames
        notes.append(
            f"{motion.frames} frames in windows (motion modules were trained on {TRAINED_FRAMES}):"
            f" each step evaluates {windows.count} windows, {work:.2f} times the work of"
            f" {motion.frames} frames."
        )
    if record is None:
        notes.append(
            "This module is not an accelerator: use a sampler with its usual steps, or attach an"
            " accelerator LoRA for SD 1.5."
        )
    if record is None and file.version is Version.V2:
        notes.append(
            "An AnimateDiff-Lightning module under another name is recognised once its name says"
            " lightning and the step count."
        )
    if file.version is Version.V1:
        notes.append(
            "v1 was trained in a UNet that normalised over all frames together; here, as in"
            " diffusers, the UNet's own layers see each frame alone. v2 and later were trained so."
        )
    return tuple(notes)


NODES = [FewStepMotion]
