"""FewStepDistill: makes an accelerator of one's own from a model and prompts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.accelerator import UNKNOWN_LICENCE, Accelerator, Kind, PublishedFile
from ..loras.declaration import DeclarationError, declaration_of, id_of, parse_declaration
from ..loras.names import experts_named
from ..loras.refusal import Refusal
from ..loras.words import counted
from ..quality.curves import Learning, draw_learning
from ..quality.figure import as_image
from ..quality.libraries import matplotlib_missing
from ..samplers.budget.cost import seconds_in_words
from ..samplers.distil import DistilSettings
from .host.declared import known_accelerators
from .host.distil import Assignment, DistilRun, course_of, distil, schedule_of
from .host.distil_files import DistilFiles, files_for
from .host.guided_start import refuse_guided_start
from .host.latent import fitted_latent
from .host.model import LoadedModel, look_at
from .host.other_skip import another_skip_node
from .host.recognise import accelerator_on
from .host.report import SENT_AGAIN, Report
from .host.server import drop_cached_results, is_connected, missing_output, node_id_of, show_on_node
from .host.skip import carried_skip
from .host.timeline import carried_by

NAME = "Distil Accelerator"
CHART = 2  # which output it is
MOST_ITERATIONS = 1_000_000
MOST_LOSSES = 1000  # in the data of a report


class DistilError(Refusal):
    """What cannot be distilled, with what was expected, what was found and what to do."""


class FewStepDistill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepDistill",
            display_name=NAME,
            category="few-step",
            description=(
                "Makes a few-step accelerator of your own: a LoRA that learns to do in 4 or 8"
                " evaluations what the connected model does in many steps with guidance. It needs"
                " prompts and no pictures. Written into models/loras with the settings it was made"
                " for, so that the Accelerator Loader knows it at once."
            ),
            search_aliases=[
                "distill",
                "distillation",
                "train",
                "training",
                "train lora",
                "make accelerator",
                "few step lora",
                "lightning",
                "turbo",
                "lcm",
                "progressive distillation",
                "student",
                "teacher",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=inputs(),
            outputs=[
                # The type of a loader's list of files, so that it connects to one.
                io.Custom("COMBO").Output(
                    display_name="lora_name",
                    tooltip="The file's name, for the Accelerator Loader's lora_name.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What was made, how near it came to the model, and what it took.",
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip="The loss, and the distance to the model's own end, over time.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **SENT_AGAIN,
        )

    @classmethod
    def execute(cls, **lists: list[Any]) -> io.NodeOutput:
        given = {name: values[0] for name, values in lists.items() if values}
        prompts = [entry for positive in lists["positive"] for entry in positive]
        no_chart = why_no_chart()
        if no_chart and is_connected(cls.hidden, CHART):
            raise DistilError(no_chart)
        assignment = assignment_of(given, prompts, cls.hidden)

        def show(text: str) -> None:
            show_on_node(text, node_id_of(cls.hidden))

        run = distil(assignment, show)
        if run.is_interrupted:
            # The same graph again goes on, and must not be handed this from the host's cache.
            drop_cached_results()
        report = report_on_distilling(assignment, run)
        chart = missing_output(no_chart) if no_chart else chart_of(run)
        return io.NodeOutput(
            assignment.files.lora_name, report.markdown, chart, ui=report.publish(cls.hidden)
        )


def inputs() -> list[Any]:
    return [
        io.Model.Input(
            "model",
            tooltip=(
                "The model to be made faster, undistilled, as it comes from its loader. Style LoRAs"
                " on it become part of what is learned."
            ),
        ),
        io.Conditioning.Input(
            "positive",
            tooltip=(
                "The prompts to learn from, one or as many as you like: a list, or several"
                " combined, each of which counts as one of its own. More and more varied ones make"
                " an accelerator for everything the model can do."
            ),
        ),
        io.Conditioning.Input(
            "negative", tooltip="The negative prompt that goes into the accelerator with the CFG."
        ),
        io.Latent.Input(
            "latent_image",
            tooltip=(
                "Size, length and batch to learn at; what it shows does not matter. A larger batch"
                " learns more steadily and takes more memory."
            ),
        ),
        io.Int.Input(
            "steps",
            default=4,
            min=1,
            max=32,
            tooltip="Steps of the accelerator. Fewer are faster and harder to learn.",
        ),
        io.Float.Input(
            "cfg",
            default=5.0,
            min=1.0,
            max=30.0,
            step=0.1,
            tooltip=(
                "Guidance that goes into the accelerator: the model's usual value. The accelerator"
                " itself then runs at CFG 1."
            ),
        ),
        io.Int.Input(
            "iterations",
            default=1000,
            min=1,
            max=MOST_ITERATIONS,
            tooltip=(
                "How often the accelerator learns from a batch. More comes nearer and takes longer."
            ),
        ),
        io.Float.Input(
            "minutes",
            display_name="minutes (0 = no limit)",
            default=0.0,
            min=0.0,
            max=100000.0,
            step=0.5,
            tooltip=(
                "Ends the run after so many minutes, with its learning rate brought down in time. 0"
                " runs all iterations."
            ),
        ),
        io.Int.Input(
            "rank",
            default=16,
            min=1,
            max=256,
            tooltip="Rank of the LoRA. Higher can learn more and takes more memory.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.002,
            min=0.0000001,
            max=1.0,
            step=0.0001,
            tooltip="Higher learns faster, until the loss jumps or grows.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Of noise and order. The same seed makes the same file on one machine.",
        ),
        io.String.Input(
            "file_name",
            default="my_accelerator",
            tooltip="Name of the file in models/loras, without folders.",
        ),
        io.Int.Input(
            "teacher_steps",
            default=16,
            min=1,
            max=1000,
            advanced=True,
            optional=True,
            tooltip=(
                "Guided steps in which the model walks each path that is learned from, of second"
                " order: 16 do what a first-order sampler does in many more. Higher is more exact"
                " and slower. Rounded up to a multiple of steps."
            ),
        ),
        io.Boolean.Input(
            "resume",
            default=False,
            advanced=True,
            optional=True,
            tooltip=(
                "On: go on with what is there under file_name, where a run was interrupted or"
                " iterations was raised. Off: a file that is there is never touched."
            ),
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=True,
            advanced=True,
            optional=True,
            tooltip=(
                "On: much less memory, a third slower. Off: faster where there is room, as for"
                " small models."
            ),
        ),
    ]


def why_no_chart() -> str:
    """Why the chart cannot be drawn here, and what to do; empty where it can."""
    why = matplotlib_missing()
    return why and (
        f"{NAME} cannot draw its chart: {why} Or disconnect chart; the other outputs do without."
    )


# ---------------------------------------------------------------- what is asked for


def assignment_of(
    given: Mapping[str, Any], prompts: Sequence[Any], hidden: Any = None
) -> Assignment:
    """What is to be done. given: the node's inputs. Raises DistilError for what cannot be."""
    model, settings = given["model"], settings_of(given)
    files = files_for(given["file_name"])
    loaded = look_at(model, hidden)
    refuse_model(loaded)
    refuse_prompts(prompts, "positive")
    refuse_prompts(given["negative"], "negative")
    shape = shape_of(model, given["latent_image"])
    record = record_of(loaded, settings, files)
    assignment = Assignment(
        model,
        settings,
        course_of(model, settings, record.schedule, shape[0], tuple(shape[1:])),
        record,
        prompts,
        given["negative"],
        tuple(shape[1:]),
        given.get("gradient_checkpointing", True),
        given.get("resume", False),
        files,
        facts_of(loaded, settings, shape),
    )
    refuse_files(assignment)
    return assignment


def settings_of(given: Mapping[str, Any]) -> DistilSettings:
    names = ("steps", "cfg", "iterations", "minutes", "rank", "learning_rate", "seed")
    return DistilSettings(
        *(given[name] for name in names), teacher_steps=given.get("teacher_steps", 16)
    )


def record_of(loaded: LoadedModel, settings: DistilSettings, files: DistilFiles) -> Accelerator:
    """The record of the accelerator to be. Raises DistilError where its declaration would not be
    taken.
    """
    source = loaded.file_name or loaded.words
    id = id_of(files.declaration.name)
    if id in known_accelerators().records and not files.declaration.exists():
        raise DistilError(
            f"{files.name} spells {id}, and there is an accelerator of that name already. Choose"
            " another file_name."
        )
    try:
        record = Accelerator(
            id=id or "unnamed",
            family="distilled here",
            kind=Kind.LORA,
            bases=(loaded.base,),
            steps=(settings.steps,),
            schedule=schedule_of(loaded.patcher),
            files=(PublishedFile("", files.lora_name),),
            licence=UNKNOWN_LICENCE,
            sources=(f"distilled from {source} with {NAME}",),
            notes=(f"Guidance {settings.cfg:g} is built in.",),
        )
        parse_declaration(declaration_of(record), files.declaration.name)
    except DeclarationError as error:
        raise DistilError(str(error)) from None
    return record


def facts_of(loaded: LoadedModel, settings: DistilSettings, shape: Sequence[int]) -> dict[str, Any]:
    """What made the file, for its metadata. Nothing in it depends on when or how fast."""
    return {
        "made_by": NAME,
        "model": loaded.file_name,
        "class": loaded.class_name,
        "width": loaded.width,
        "latent": list(shape),
        **settings.lasting,
    }


def shape_of(model, latent: Mapping[str, Any]) -> tuple[int, ...]:
    """(B, C, ...) of what is learned at."""
    if latent["samples"].is_nested:
        raise DistilError(
            "latent_image holds several tensors at once, such as a clip and its sound, and one is"
            " learned at. Connect an empty latent of one kind."
        )
    return tuple(fitted_latent(model, latent).shape)


# ---------------------------------------------------------------- what is refused


def refuse_model(loaded: LoadedModel) -> None:
    """Raise DistilError for a model that is no teacher."""
    record = accelerator_on(loaded)
    if record is not None:
        how = "is" if record.kind is Kind.MODEL else "carries"
        raise DistilError(
            f"The connected model {how} {record.id}, which is distilled for a few steps already."
            f" {NAME} takes the undistilled model, as it comes from its loader."
        )
    if loaded.is_causal:
        raise DistilError(
            "The connected model is causal: it makes frames one after another from those before,"
            f" and {NAME} teaches whole pictures and clips. Connect a model that is not causal."
        )
    if experts_named(loaded.file_name):
        raise DistilError(
            f"{loaded.file_name} is by its name one of Wan 2.2's two experts, and each makes only a"
            f" part of a run. {NAME} takes a model that makes the whole of it, such as Wan 2.1."
        )
    refuse_patches(loaded)


def refuse_patches(loaded: LoadedModel) -> None:
    """Raise DistilError for what other nodes put on a model that would be taught wrongly by it."""
    if loaded.has_motion:
        raise DistilError(
            f"The model carries a motion module, which {NAME} does not teach. Connect the model in"
            " front of the Motion Module Loader."
        )
    refuse_guided_start(loaded.patcher, "an accelerator is made of one model")
    if loaded.carries_negative or loaded.is_negative_forced:
        raise DistilError(
            "A patch on the model brings in a negative prompt of its own, and the accelerator would"
            f" learn what that makes of the picture. Connect the model without it: {NAME} has an"
            " input for the negative prompt."
        )
    skip = "Step Skip" if carried_skip(loaded.patcher) else another_skip_node(loaded.patcher)
    if skip:
        raise DistilError(
            f"The model skips evaluations with {skip}, and an accelerator learns from every one of"
            f" them. Remove {skip}."
        )


def refuse_prompts(prompts: Sequence[Any], name: str) -> None:
    """Raise DistilError for conditionings that change by place or by step."""
    if not prompts:
        raise DistilError(f"{name} holds no prompt. Connect at least one CLIP Text Encode.")
    for number, prompt in enumerate(prompts, 1):
        if carried := carried_by(prompt):
            raise DistilError(
                f"Prompt {number} of {name} carries {' and '.join(carried)}, and one batch holds"
                " many prompts at once. Connect the prompt without it."
            )


def refuse_files(assignment: Assignment) -> None:
    """Raise DistilError where something would be lost, or what is there is another run's."""
    files, made, begun = assignment.files, assignment.files.made, assignment.files.begun
    there = [path for path in (files.lora, files.declaration, files.checkpoint) if path.exists()]
    if not there:
        return
    if not assignment.is_resumed:
        advice = "turn resume on to go on with it, or " if made or begun else ""
        raise DistilError(
            f"{there[0].name} is in {files.folder} already, and no file is written over. Choose"
            f" another file_name, {advice or 'or '}move it away."
        )
    if begun is None:
        raise DistilError(
            f"resume is on, and {files.lora_name} is there without {files.checkpoint.name}, which"
            " says where to go on. Choose another file_name."
        )
    differing = [
        f"{name} was {begun.get(name)} and is {value}"
        for name, value in assignment.facts.items()
        if begun.get(name) != value
    ]
    if differing:
        raise DistilError(
            f"{files.name} was begun otherwise: {'; '.join(differing)}. Set it as it was to go on,"
            " or choose another file_name."
        )


# ---------------------------------------------------------------- what is told


def chart_of(run: DistilRun):
    distances = [(iteration, 100 * distance) for iteration, distance in run.checks]
    return as_image(draw_learning(Learning(run.losses, distances, run.own_from)))


def report_on_distilling(assignment: Assignment, run: DistilRun) -> Report:
    settings, files = assignment.settings, assignment.files
    cut = "Interrupted: " if run.is_interrupted else ""
    near = f"{100 * run.checks[-1][1]:.1f} % from the model's own end" if run.checks else ""
    return Report(
        node=NAME,
        summary=(
            f"{cut}{files.lora_name}, {counted(settings.steps, 'step')}, after"
            f" {counted(run.iterations, 'iteration')} in {seconds_in_words(run.seconds)}"
            f"{', ' * bool(near)}{near}"
        ),
        rows=rows_on_run(assignment, run),
        notes=notes_on_run(assignment, run),
        data=data_of_run(assignment, run),
    )


def rows_on_run(assignment: Assignment, run: DistilRun) -> tuple[tuple[str, str], ...]:
    settings, course = assignment.settings, assignment.course
    first = f"{100 * run.checks[0][1]:.1f} % at first, " if len(run.checks) > 1 else ""
    last = f"{100 * run.checks[-1][1]:.1f} %" if run.checks else "not measured"
    return (
        ("file", assignment.files.lora_name),
        ("accelerator", assignment.record.id),
        ("steps", f"{settings.steps}, euler, CFG 1, {schedule_in_words(assignment.record)}"),
        ("guidance built in", f"{settings.cfg:g}"),
        ("teacher", f"{len(course.grid) - 1} guided steps of second order for each path"),
        ("prompts", str(len(assignment.positive))),
        ("learned from", f"{counted(course.rows, 'row')} at once, {counted(run.paths, 'path')}"),
        ("rank", str(settings.rank)),
        ("loss", f"{run.losses[-1]:.4g} in the last iteration" if run.losses else "none"),
        ("distance to the teacher's end", f"{first}{last}, of its size"),
        ("evaluations", f"{run.evaluations} in this run, rows of each branch"),
        ("seconds", f"{run.seconds:.1f}, those of earlier runs among them"),
    )


def schedule_in_words(record: Accelerator) -> str:
    shift = record.schedule.shift
    return "trailing timesteps" if shift is None else f"shift {shift:g}"


def notes_on_run(assignment: Assignment, run: DistilRun) -> tuple[str, ...]:
    files, asked = assignment.files, assignment.settings.iterations
    notes = []
    if run.is_interrupted:
        notes.append(
            f"Interrupted after {run.iterations} of {counted(asked, 'iteration')}: what was learned"
            f" so far is in {files.lora_name}. Run it again with resume on to go on."
        )
    if run.resumed_at:
        notes.append(f"Gone on with after {counted(run.resumed_at, 'iteration')} of earlier runs.")
    if run.has_other_prompts:
        notes.append(
            "The prompts are not those of the earlier run, so the teacher's paths were walked anew."
        )
    if run.resumed_at and not run.evaluations:
        notes.append(
            "Nothing was left to do: raise iterations or minutes, which count earlier runs too."
        )
    notes.append(
        f"{files.declaration.name} beside it is its declaration, so that the Accelerator Loader"
        f" knows it; {files.checkpoint.name} is what resume goes on from, and may be deleted."
    )
    return tuple(notes)


def data_of_run(assignment: Assignment, run: DistilRun) -> dict[str, Any]:
    """The report for programs."""
    return {
        "lora_name": assignment.files.lora_name,
        "accelerator": assignment.record.id,
        **assignment.facts,
        "iterations": run.iterations,
        "resumed_at": run.resumed_at,
        "interrupted": run.is_interrupted,
        "paths": run.paths,
        "evaluations": run.evaluations,
        "seconds": run.seconds,
        "checks": run.checks,
        "own_from": run.own_from,
        # Of a long run, every so many.
        "losses": run.losses[:: -(-len(run.losses) // MOST_LOSSES) or 1],
    }


NODES = [FewStepDistill]
