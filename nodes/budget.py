"""FewStepBudget: from "how long may it take" to steps, cost and method, here, with this model."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..loras.accelerator import Accelerator
from ..loras.bases import StepRange
from ..loras.words import counted, in_figures
from ..quality.figure import as_image, new_figure
from ..quality.libraries import matplotlib_missing
from ..samplers.budget.advice import Machine, levers, pitfalls
from ..samplers.budget.cost import (
    EXPERIENCES,
    BudgetError,
    Cost,
    Work,
    allowance_of,
    given_blocks,
    seconds_in_words,
    streaming_cost,
)
from ..samplers.budget.ways import (
    MOST_SPEEDUP,
    Choice,
    Route,
    Way,
    block_sizes,
    candidates,
    choose,
    full_run_of,
    known_ways,
)
from .host.at_hand import files_at_hand
from .host.declared import Known, known_accelerators
from .host.latent import first_tensor, fitted_latent
from .host.measure import device_name, machine_of, measure_blocks, measure_cost
from .host.model import LoadedModel, frames_per_latent_frame, look_at
from .host.recognise import recognise_carried
from .host.report import Report
from .host.server import is_connected, missing_output
from .host.stream import refuse_not_causal

OTHER_FRAME_RATE = 24.0  # where the base is not known
DEMO_FAMILY = "Demo"
ANIMATEDIFF_FRAME_RATE = 8.0
CHART = 3  # which output it is


class FewStepBudget(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepBudget",
            display_name="Step Budget",
            category="few-step",
            description=(
                "Turns the time a picture or clip may take into a step count. Measures what one"
                " evaluation of the connected model costs here at this size, and tells every way to"
                " run it, with seconds, price and licence."
            ),
            search_aliases=[
                "speed",
                "benchmark",
                "time",
                "cost",
                "price",
                "how many steps",
                "latency",
                "estimate",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model as the sampler gets it, with its accelerator if it has one.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent that will be sampled: larger and longer ones cost more.",
                ),
                io.Combo.Input(
                    "experience",
                    options=list(EXPERIENCES),
                    default="interactive",
                    tooltip=(
                        "batch: nobody waits, full steps. interactive: someone waits a few seconds."
                        " live: it reacts while someone moves something; a second, and for video"
                        " the time the clip plays."
                    ),
                ),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=0.1,
                    tooltip=(
                        "How long one run of the sampler may take. Lower gives fewer steps. 0 takes"
                        " the experience's own."
                    ),
                ),
                io.Float.Input(
                    "seconds_per_evaluation",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=0.001,
                    tooltip=(
                        "Seconds of one forward pass of the model at this size, in a stream of one"
                        " block. 0 measures it now, with two dozen evaluations at most."
                    ),
                ),
                io.Float.Input(
                    "price_per_hour",
                    default=0.0,
                    min=0.0,
                    max=10000.0,
                    step=0.01,
                    tooltip=(
                        "What the machine costs in an hour, in any currency. Higher raises the"
                        " prices shown and changes nothing else; 0 leaves them out."
                    ),
                ),
            ],
            outputs=[
                io.Int.Output(
                    display_name="steps",
                    tooltip=(
                        "The most steps that fit, for a sampler's steps. Always one the accelerator"
                        " was distilled for; the fewest where nothing fits."
                    ),
                ),
                io.Float.Output(
                    display_name="target_speedup",
                    tooltip="For Step Skip: above 1 where steps fit only with skipping.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Every way to run this model, and what to do first.",
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip=(
                        "Predicted seconds against evaluations, with the time allowed drawn in."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent_image,
        experience: str,
        seconds: float,
        seconds_per_evaluation: float,
        price_per_hour: float,
    ) -> io.NodeOutput:
        no_chart = why_no_chart()
        if no_chart and is_connected(cls.hidden, CHART):
            raise BudgetError(no_chart)
        subject = subject_of(model, latent_image, cls.hidden)
        allowance = allowance_of(experience, seconds, subject.work)
        cost = cost_of(subject, latent_image, seconds_per_evaluation)
        options = (cost, subject.work, subject.model.is_negative_forced)
        choice = choose(candidates(subject.record, subject.full_run, *options), allowance)
        ways = known_ways(
            subject.model.base,
            subject.model.width,
            subject.full_run,
            subject.catalogue,
            *options,
            subject.record,
        )
        report = describe(
            subject,
            experience,
            cost,
            choice,
            ways,
            price_per_hour,
            is_measured=seconds_per_evaluation == 0,
        )
        chart = (
            missing_output(no_chart) if no_chart else as_image(draw(cost, choice, ways, subject))
        )
        return io.NodeOutput(
            choice.way.steps,
            choice.way.target_speedup,
            report.markdown,
            chart,
            ui=report.publish(cls.hidden),
        )


def why_no_chart() -> str:
    """Why the chart cannot be drawn here, and what to do; empty where it can."""
    why = matplotlib_missing()
    return why and (
        f"Step Budget cannot draw its chart: {why} Or disconnect chart; the other outputs do"
        " without."
    )


# ---------------------------------------------------------------- what is connected


@dataclass(frozen=True)
class Subject:
    """The model and the work, as far as a budget depends on them."""

    model: LoadedModel
    record: Accelerator | None  # the accelerator it carries
    notes: tuple[str, ...]  # how that was recognised, or why it was not
    known: Known
    full_run: StepRange | None
    work: Work
    machine: Machine

    @property
    def catalogue(self) -> list[Accelerator]:
        """The accelerators for it. The demo model's are for it alone, and it has no others."""
        is_demo = self.model.facts is not None
        records = self.known.records.values()
        return [record for record in records if (record.family == DEMO_FAMILY) == is_demo]


def subject_of(model, latent: Mapping[str, Tensor], hidden: Any = None) -> Subject:
    loaded, known = look_at(model, hidden), known_accelerators()
    record, notes = carried_by(loaded, known)
    return Subject(
        loaded,
        record,
        notes,
        known,
        full_run_of(loaded.base, loaded.is_guidance_distilled),
        work_of(loaded, latent),
        machine_of(model),
    )


def carried_by(loaded: LoadedModel, known: Known) -> tuple[Accelerator | None, tuple[str, ...]]:
    """(a model's accelerator, how it was recognised): from this pack or another loader."""
    if loaded.record is not None:
        return loaded.record, ()
    try:
        recognition, notes = recognise_carried(loaded, known)
    except ValueError as error:
        return None, (f"Taken for a model without an accelerator: {error}",)
    if recognition is None or recognition.record is not None:
        return (recognition.record if recognition else None), notes
    return None, (
        "Taken for a model without an accelerator: the LoRA that another loader put on it is not a"
        " known accelerator.",
    )


def work_of(loaded: LoadedModel, latent: Mapping[str, Tensor]) -> Work:
    """What a latent becomes: pictures, clips, or with a motion module one clip, its batch."""
    first = first_tensor(fitted_latent(loaded.patcher, latent))
    if loaded.has_motion:
        return Work(1, clip_seconds=first.shape[0] / ANIMATEDIFF_FRAME_RATE)
    frames = first.shape[2] if first.ndim == 5 else 1
    if frames == 1:
        return Work(first.shape[0])
    played = (frames - 1) * frames_per_latent_frame(loaded) + 1
    return Work(first.shape[0], frames, played / _frame_rate(loaded))


def _frame_rate(loaded: LoadedModel) -> float:
    """Frames a second at which this model's clips play."""
    if loaded.facts is not None:
        return loaded.facts.frame_rate
    return loaded.base.frame_rate if loaded.base else OTHER_FRAME_RATE


def cost_of(
    subject: Subject,
    latent: Mapping[str, Tensor],
    given: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Seconds on this machine: measured now, or as given.

    given: of an evaluation, in a stream of one block; 0 for not given.
    """
    model, record = subject.model, subject.record
    if record is None or record.causal is None:
        return Cost(given, 2 * given) if given else measure_cost(model, latent, clock)
    refuse_not_causal(model)
    streams = [other for other in subject.catalogue if model.base in other.bases] + [record]
    size = record.causal.frames_per_block
    blocks = (
        given_blocks(given, size, block_sizes(streams))
        if given
        else measure_blocks(model, latent, streams, clock)
    )
    return streaming_cost(blocks, size)


# ---------------------------------------------------------------- what is told


def describe(
    subject: Subject,
    experience: str,
    cost: Cost,
    choice: Choice,
    ways: Sequence[Way],
    price_per_hour: float,
    is_measured: bool,
) -> BudgetReport:
    way = choice.way
    files = files_at_hand((record for way in ways for record in way.records), subject.known)
    speed = f", target_speedup {way.target_speedup:g}" if way.target_speedup > 1 else ""
    price = way.price(price_per_hour, subject.work)
    name = (
        way.records[0].id
        if way.records
        else subject.model.base.label
        if subject.model.base
        else "unknown"
    )
    todo = [
        f"{number}. {text}"
        for number, text in enumerate(levers(choice, ways, subject.machine, subject.work, files), 1)
    ]
    mind = [
        f"- {text}"
        for text in pitfalls(choice, experience, subject.work, subject.model.is_negative_forced)
    ]
    return BudgetReport(
        node="Step Budget",
        summary=(
            f"{counted(way.steps, 'step')}{speed}: about {seconds_in_words(way.seconds)}, {choice}"
        ),
        rows=(
            ("model", name),
            (
                "experience",
                (
                    f"{experience}: {EXPERIENCES[experience].words};"
                    f" {seconds_in_words(choice.allowance)} allowed"
                ),
            ),
            ("seconds per evaluation", cost_in_words(subject, cost, is_measured)),
            # Speed-Quality Compare reads the next rows, as it reads a sampler's.
            ("steps", str(way.steps)),
            *((("target_speedup", f"{way.target_speedup:g}"),) if way.target_speedup > 1 else ()),
            ("evaluations", str(way.evaluations)),
            ("seconds", f"{in_figures(way.seconds)} (predicted)"),
            *((("price", f"{price:.4g} for each {subject.work.noun}"),) if price_per_hour else ()),
            ("allowance", str(choice)),
            *(
                (("first block of the stream", seconds_in_words(way.first_block)),)
                if way.first_block is not None
                else ()
            ),
        ),
        notes=subject.notes,
        sections=(
            table(ways, subject, files, choice.allowance, price_per_hour),
            "\n".join(["**What to do, in this order**", "", *todo]),
            "\n".join(["**Mind**", "", *mind]),
        ),
        data={
            **choice_data(choice, ways),
            "experience": experience,
            "accelerator": subject.record.id if subject.record else None,
            "seconds_per_evaluation": cost.evaluation,
            "seconds_per_guided_step": cost.guided_step,
            "measured": is_measured,
            "seconds_per_block": {
                str(size): [block.first, block.last] for size, block in cost.blocks.items()
            },
            "price": price,
        },
    )


def cost_in_words(subject: Subject, cost: Cost, is_measured: bool) -> str:
    """The figures that the predictions rest on, and where they come from."""
    origin = f"measured now on {device_name(subject.model.patcher)}" if is_measured else "as given"
    if subject.record is None or subject.record.causal is None:
        return f"{cost.evaluation:.3g} ({origin}); with both prompts {cost.guided_step:.3g}"
    block = cost.blocks[subject.record.causal.frames_per_block]
    if is_measured:
        return (
            f"{block.first:.3g} in the first block of the stream, {block.last:.3g} in the last"
            f" ({origin})"
        )
    return (
        f"{block.first:.3g} ({origin}, for one block; later blocks look at more frames and cost"
        " more, so a stream's seconds are rough)"
    )


def choice_data(choice: Choice, ways: Sequence[Way]) -> dict[str, Any]:
    """The choice and every way for programs. JSON has no infinity: no allowance at all is None."""
    way = choice.way
    return {
        "steps": way.steps,
        "target_speedup": way.target_speedup,
        "evaluations": way.evaluations,
        "predicted_seconds": way.seconds,
        "allowance": choice.allowance if math.isfinite(choice.allowance) else None,
        "misses": choice.misses,
        "ways": [
            {
                "method": one.route.value,
                "accelerators": [record.id for record in one.records],
                "steps": one.steps,
                "evaluations": one.evaluations,
                "seconds": one.seconds,
            }
            for one in ways
        ],
    }


@dataclass(frozen=True)
class BudgetReport(Report):
    """A report with tables and lists of its own below the short one."""

    sections: tuple[str, ...] = ()

    @property
    def markdown(self) -> str:
        return "\n\n".join([super().markdown, *self.sections])


def table(
    ways: Sequence[Way],
    subject: Subject,
    files: Mapping[str, str],
    allowance: float,
    price_per_hour: float,
) -> str:
    """Every way to run the model, a line each. files: as files_at_hand says."""
    price = [f"price per {subject.work.noun}"] if price_per_hour else []
    head = [
        "way",
        "file",
        "there",
        "licence",
        "steps",
        "evaluations",
        "seconds",
        *price,
        "factor",
        "fits",
    ]
    full = next((way.seconds for way in ways if way.route is Route.FULL), None)
    rows = []
    for way in ways:
        cost = [f"{way.price(price_per_hour, subject.work):.4g}"] if price_per_hour else []
        factor = "" if full is None else f"{full / way.seconds:.1f}x"
        rows.append(
            [
                *_identity(way, subject, files),
                str(way.steps),
                str(way.evaluations),
                in_figures(way.seconds),
                *cost,
                factor,
                "yes" if way.seconds <= allowance else "no",
            ]
        )
    lines = ["| " + " | ".join(_cells(row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(["**Every way to run this model**", "", *lines])


def _identity(way: Way, subject: Subject, found: Mapping[str, str]) -> list[str]:
    """Name, file, whether it is there, licence."""
    if not way.records:
        guided = " and guidance" if subject.full_run.is_guided else ""
        return [
            f"full steps{guided}"
            + (f" + Step Skip {MOST_SPEEDUP:g}x" if way.route is Route.SKIP else ""),
            "",
            "",
            "",
        ]
    names = [record.id for record in way.records]
    files = [
        found.get(record.id)
        or next(
            (file.name for file in record.files if file.name),
            record.files[0].repo if record.files else "",
        )
        for record in way.records
    ]
    there = f"{'yes' if all(name in found for name in names) else 'no'} ({_folder(way)})"
    if way.records == (subject.record,):
        there = "yes (on the model)"
    made_for = (
        f" (on {' or '.join(way.records[0].for_distilled)})" if way.records[0].for_distilled else ""
    )
    what = "streaming" if way.route is Route.STREAM else way.records[0].kind.value
    return [
        f"{' + '.join(names)}{made_for}, {what}",
        " + ".join(files),
        there,
        str(way.records[0].licence),
    ]


def _folder(way: Way) -> str:
    return way.records[0].files[0].folder if way.records[0].files else "loras"


def _cells(row: Sequence[str]) -> list[str]:
    return [text.replace("|", "\\|") for text in row]


# ---------------------------------------------------------------- the chart


COLOURS = {
    Route.FULL: "#5b6770",
    Route.SKIP: "#2a7fba",
    Route.ACCELERATOR: "#2e9e5b",
    Route.STREAM: "#8a55b5",
}


def draw(cost: Cost, choice: Choice, ways: Sequence[Way], subject: Subject) -> Any:
    """A matplotlib Figure: seconds against evaluations, both logarithmic, and the allowance."""
    figure = new_figure(1000, 620)
    axes = figure.subplots()
    everything = [*ways, choice.way]
    span = [0.7, 1.6 * max(way.evaluations for way in everything)]
    axes.plot(
        span,
        [cost.evaluation * count for count in span],
        color="#c9d1d6",
        zorder=1,
        label=f"{cost.evaluation:.3g} s an evaluation, one prompt",
    )
    for route, colour in COLOURS.items():
        drawn = sorted({(way.evaluations, way.seconds) for way in everything if way.route is route})
        if drawn:
            axes.scatter(*zip(*drawn), s=70, color=colour, zorder=3, label=route.value)
        points = Counter((way.evaluations, way.seconds) for way in ways if way.route is route)
        for (evaluations, seconds), count in points.items():
            axes.annotate(
                _point_name(route, count),
                (evaluations, seconds),
                (8, -11),
                textcoords="offset points",
                fontsize=9,
                color=colour,
            )
    allowed = f"allowed: {seconds_in_words(choice.allowance)}"
    if math.isfinite(choice.allowance):
        axes.axhline(choice.allowance, color="#c0392b", linestyle="--", zorder=2, label=allowed)
    else:
        axes.plot([], [], linestyle="none", label=allowed)
    axes.scatter(
        [choice.way.evaluations],
        [choice.way.seconds],
        s=260,
        facecolors="none",
        edgecolors="#c0392b",
        linewidths=2,
        zorder=4,
        label=(
            f"chosen: {counted(choice.way.steps, 'step')}, {seconds_in_words(choice.way.seconds)}"
        ),
    )
    skipping = f" at {choice.way.target_speedup:g}x" if choice.way.target_speedup > 1 else ""
    # On the other side than the ways' own names.
    axes.annotate(
        f"{counted(choice.way.steps, 'step')}{skipping}",
        (choice.way.evaluations, choice.way.seconds),
        (-12, 8),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=9,
        color="#c0392b",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=span,
        ylabel="predicted seconds for one run",
        xlabel="evaluations for each sample; in a stream, each sees one block",
        title="Step Budget: "
        + (subject.model.base.label if subject.model.base else "connected model"),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="best", fontsize=9)
    return figure


def _point_name(route: Route, count: int) -> str:
    if route in (Route.ACCELERATOR, Route.STREAM):
        return counted(count, "accelerator")
    return "full" if route is Route.FULL else "skip"


NODES = [FewStepBudget]
