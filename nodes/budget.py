"""FewStepBudget: from "how long may it take" to steps, cost and method, here, with this model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..loras.accelerator import Accelerator
from ..loras.bases import BaseRow, StepRange
from ..loras.words import counted, in_figures
from ..quality.chart import Chart, Series, draw_chart
from ..quality.figure import as_image
from ..quality.libraries import matplotlib_missing
from ..samplers.budget.advice import Machine, levers, pitfalls
from ..samplers.budget.cost import (
    EXPERIENCES,
    BudgetError,
    Cost,
    Overhead,
    Work,
    allowance_of,
    given_blocks,
    seconds_in_words,
    streaming_cost,
)
from ..samplers.budget.decoding import TinyVae, is_worth_a_word
from ..samplers.budget.table import data_of, table_of
from ..samplers.budget.ways import (
    CarriedSkip,
    Choice,
    Route,
    Way,
    block_sizes,
    candidates,
    choose,
    full_run_of,
    known_ways,
)
from ..samplers.guided import GuidedSettings
from .host.at_hand import files_at_hand
from .host.declared import Known, known_accelerators
from .host.decoding import latent_to_decode, measure_decoding, refuse_other_channels, tiny_vae
from .host.guided_start import guided_start_of
from .host.latent import first_tensor, fitted_latent
from .host.measure import device_name, machine_of, measure_blocks, measure_cost, measure_once
from .host.model import LoadedModel, frames_per_latent_frame, look_at
from .host.recognise import recognise_carried
from .host.report import SENT_AGAIN, Report, paragraph
from .host.server import is_connected, missing_output
from .host.skip import carried_skip
from .host.stream import refuse_not_causal

DEMO_FAMILY = "Demo"
ANIMATEDIFF_FRAME_RATE = 8.0
CHART = 3  # which output it is
LEAST_SHARE = 0.005  # of the whole: what is less would be told as 0 %


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
                    display_name="seconds (0 = auto)",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=0.1,
                    tooltip=(
                        "How long one run may take: sampling, and decoding too where a vae is"
                        " connected. Lower gives fewer steps. 0 takes the experience's own."
                    ),
                ),
                io.Float.Input(
                    "seconds_per_evaluation",
                    display_name="seconds per evaluation (0 = measure)",
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
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "The VAE that decodes the result: decoding is measured too, and counts in"
                        " every figure. Without it they are the sampler's alone."
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
            **SENT_AGAIN,
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
        vae=None,
    ) -> io.NodeOutput:
        no_chart = why_no_chart()
        if no_chart and is_connected(cls.hidden, CHART):
            raise BudgetError(no_chart)
        subject = subject_of(model, latent_image, cls.hidden)
        allowance = allowance_of(experience, seconds, subject.work)
        cost, notes = whole_cost(subject, latent_image, seconds_per_evaluation, vae)
        prediction = predict(subject, cost, allowance)
        if is_worth_a_word(prediction.choice.way):
            samples = latent_to_decode(subject.model, latent_image)
            prediction = replace(prediction, tiny=tiny_vae(subject.model, vae, samples))
        report = report_on_budget(
            subject,
            prediction,
            experience,
            price_per_hour,
            is_measured=seconds_per_evaluation == 0,
            notes=notes,
        )
        chart = (
            missing_output(no_chart)
            if no_chart
            else as_image(draw_chart(chart_of(prediction, subject.model.base)))
        )
        way = prediction.choice.way
        return io.NodeOutput(
            way.steps, way.target_speedup, report.markdown, chart, ui=report.publish(cls.hidden)
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
    skip: CarriedSkip | None  # Step Skip that is on it already
    guided: GuidedSettings | None  # Guided Start that is on it

    @property
    def catalogue(self) -> list[Accelerator]:
        """The accelerators for it. The demo model's are for it alone, and it has no others."""
        is_demo = self.model.facts is not None
        records = self.known.records.values()
        return [record for record in records if (record.family == DEMO_FAMILY) == is_demo]


def subject_of(model, latent: Mapping[str, Tensor], hidden: Any = None) -> Subject:
    loaded, known = look_at(model, hidden), known_accelerators()
    record, notes = carried_by(loaded, known)
    guided = guided_start_of(model)
    return Subject(
        loaded,
        record,
        notes,
        known,
        full_run_of(loaded.base, loaded.is_guidance_distilled, loaded.is_negative_forced),
        work_of(loaded, latent),
        machine_of(model),
        carried_skip(model),
        None if guided is None else guided.settings,
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
    return Work(first.shape[0], frames, played / loaded.frame_rate)


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


def whole_cost(
    subject: Subject,
    latent: Mapping[str, Tensor],
    given: float,
    vae,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Cost, tuple[str, ...]]:
    """(the cost, with decoding where a VAE says what that takes; what to say of it)

    given: as of cost_of; what a run costs once is not measured then.
    """
    if vae is None:
        return cost_of(subject, latent, given, clock), ()
    samples = latent_to_decode(subject.model, latent)
    refuse_other_channels(vae, samples)
    cost = cost_of(subject, latent, given, clock)
    decoding = measure_decoding(vae, samples, is_stream=bool(cost.blocks), clock=clock)
    if decoding.seconds is None:
        return cost, (decoding.note,)
    once = 0.0 if given else measure_once(subject.model, latent, clock)
    return replace(cost, overhead=Overhead(decoding.seconds, once)), ()


# ---------------------------------------------------------------- what is predicted


@dataclass(frozen=True)
class Prediction:
    """What the ways to run the model take here, and which to take."""

    cost: Cost
    choice: Choice
    ways: list[Way]
    tiny: TinyVae | None = None  # where decoding takes long enough to be worth a word


def predict(subject: Subject, cost: Cost, allowance: float) -> Prediction:
    model, record = subject.model, subject.record
    options = (cost, subject.work, model.is_negative_forced)
    guided = subject.guided
    choice = choose(candidates(record, subject.full_run, *options, subject.skip, guided), allowance)
    ways = known_ways(
        model.base, model.width, subject.full_run, subject.catalogue, *options, record, guided
    )
    return Prediction(cost, choice, ways)


# ---------------------------------------------------------------- what is told


def report_on_budget(
    subject: Subject,
    prediction: Prediction,
    experience: str,
    price_per_hour: float,
    is_measured: bool,
    notes: tuple[str, ...] = (),
) -> Report:
    """notes: on what was measured."""
    cost, choice, ways, work = prediction.cost, prediction.choice, prediction.ways, subject.work
    way = choice.way
    whole = " with decoding" if way.overhead else ""
    speed = f", target_speedup {way.target_speedup:g}" if way.target_speedup > 1 else ""
    files = files_at_hand((record for way in ways for record in way.records), subject.known)
    table = table_of(ways, choice, work, price_per_hour, subject.full_run, subject.record, files)
    todo = levers(choice, ways, subject.machine, work, files, subject.skip, prediction.tiny)
    mind = pitfalls(choice, experience, work, subject.model.is_negative_forced)
    return Report(
        node="Step Budget",
        summary=(
            f"{counted(way.steps, 'step')}{speed}: about {seconds_in_words(way.whole)}{whole},"
            f" {choice}"
        ),
        rows=(
            ("model", name_of(subject, way)),
            ("experience", experience_in_words(experience, choice)),
            ("seconds per evaluation", cost_in_words(subject, cost, is_measured)),
            *rows_on_way(choice, price_per_hour, work),
        ),
        notes=(*subject.notes, *notes),
        sections=(
            *paragraph("What to do, in this order", numbered(todo)),
            *paragraph("Mind", [f"- {text}" for text in mind]),
            *paragraph("Every way to run this model", [table]),
        ),
        data=data_on_budget(subject, prediction, experience, is_measured)
        | {"price": way.price(price_per_hour, work)},
    )


def numbered(lines: Sequence[str]) -> list[str]:
    return [f"{number}. {text}" for number, text in enumerate(lines, 1)]


def name_of(subject: Subject, way: Way) -> str:
    """What is run: the accelerator, or the undistilled model."""
    if way.records:
        return way.records[0].id + (" with Guided Start" if way.guided else "")
    return subject.model.words


def experience_in_words(experience: str, choice: Choice) -> str:
    allowed = f"{seconds_in_words(choice.allowance)} allowed"
    return f"{experience}: {EXPERIENCES[experience].words}; {allowed}"


def rows_on_way(choice: Choice, price_per_hour: float, work: Work) -> tuple[tuple[str, str], ...]:
    """Speed-Quality Compare reads these rows, as it reads a sampler's: seconds and price are those
    of sampling alone.
    """
    way, sampling = choice.way, replace(choice.way, overhead=None)
    alone = ", sampling alone" if way.overhead else ""
    price = price_in_words(sampling, price_per_hour, work)
    rows = [
        ("steps", str(way.steps)),
        ("target_speedup", f"{way.target_speedup:g}" if way.target_speedup > 1 else ""),
        ("evaluations", str(way.evaluations)),
        ("seconds", f"{in_figures(way.seconds)} (predicted{alone})"),
        ("price", price and price + alone),
        ("whole", whole_in_words(way)),
        ("price of the whole", price_in_words(way, price_per_hour, work) if way.overhead else ""),
        ("allowance", str(choice)),
    ]
    if way.first_block is not None:
        rows.append(("first block of the stream", seconds_in_words(way.first_block)))
    return tuple((name, value) for name, value in rows if value)


def price_in_words(way: Way, price_per_hour: float, work: Work) -> str:
    return f"{way.price(price_per_hour, work):.4g} for each {work.noun}" if price_per_hour else ""


def whole_in_words(way: Way) -> str:
    """What the whole run takes, part by part; empty where decoding was not measured."""
    if way.overhead is None:
        return ""
    parts = {
        "sampling": way.seconds,
        "decoding": way.overhead.decoding,
        "once for each run": way.overhead.once,
    }
    shares = (
        f"{name} {seconds_in_words(seconds)} ({seconds / way.whole:.0%})"
        for name, seconds in parts.items()
        if seconds / way.whole >= LEAST_SHARE
    )
    return f"{in_figures(way.whole)}: {', '.join(shares)}"


def cost_in_words(subject: Subject, cost: Cost, is_measured: bool) -> str:
    """The figures that the predictions rest on, and where they come from."""
    origin = f"measured now on {device_name(subject.model.patcher)}" if is_measured else "as given"
    if subject.record is None or subject.record.causal is None:
        # As measure_cost has it where a second measurement would take too long.
        is_reckoned = is_measured and cost.guided_step == 2 * cost.evaluation
        how = " (reckoned as twice that)" * is_reckoned
        return f"{cost.evaluation:.3g} ({origin}); with both prompts {cost.guided_step:.3g}{how}"
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


def data_on_budget(
    subject: Subject, prediction: Prediction, experience: str, is_measured: bool
) -> dict[str, Any]:
    """The report for programs."""
    cost, tiny = prediction.cost, prediction.tiny
    return {
        **data_of(prediction.choice, prediction.ways),
        "experience": experience,
        "accelerator": subject.record.id if subject.record else None,
        "seconds_per_evaluation": cost.evaluation,
        "seconds_per_guided_step": cost.guided_step,
        "measured": is_measured,
        "seconds_per_block": {
            str(size): [block.first, block.last] for size, block in cost.blocks.items()
        },
        **({"tiny_vae": asdict(tiny)} if tiny else {}),
    }


# ---------------------------------------------------------------- the chart


COLOURS = {
    Route.FULL: "#5b6770",
    Route.SKIP: "#2a7fba",
    Route.ACCELERATOR: "#2e9e5b",
    Route.STREAM: "#8a55b5",
}


def chart_of(prediction: Prediction, base: BaseRow) -> Chart:
    """Predicted seconds against evaluations, and the allowance."""
    choice, seconds = prediction.choice, prediction.cost.evaluation
    way, steps = choice.way, counted(choice.way.steps, "step")
    overhead = way.overhead
    skipping = f" at {way.target_speedup:g}x" if way.target_speedup > 1 else ""
    return Chart(
        title=f"Step Budget: {base.label}",
        x_name="evaluations for each sample; in a stream, each sees one block",
        y_name="predicted seconds for one run" + (", decoding included" if overhead else ""),
        series=tuple(series_of(route, prediction) for route in COLOURS),
        slope=seconds,
        slope_name=f"{seconds:.3g} s an evaluation, one prompt",
        limit=choice.allowance,
        limit_name=f"allowed: {seconds_in_words(choice.allowance)}",
        ringed=point_of(way),
        ringed_name=f"chosen: {steps}, {seconds_in_words(way.whole)}",
        ringed_label=f"{steps}{skipping}",
        floor=overhead.seconds if overhead else 0.0,
        floor_name=f"decoding, however many steps: {seconds_in_words(overhead.seconds)}"
        if overhead
        else "",
    )


def series_of(route: Route, prediction: Prediction) -> Series:
    """A dot for every way of a route and for the choice, and names for the ways."""
    ways = [way for way in prediction.ways if way.route is route]
    counts = Counter(map(point_of, ways))
    chosen = [prediction.choice.way] if prediction.choice.way.route is route else []
    return Series(
        route.value,
        COLOURS[route],
        tuple(sorted({point_of(way) for way in [*ways, *chosen]})),
        {point: label_of(route, count) for point, count in counts.items()},
    )


def point_of(way: Way) -> tuple[float, float]:
    return way.evaluations, way.whole


def label_of(route: Route, count: int) -> str:
    """What stands beside a point where this many ways lie."""
    if route in (Route.ACCELERATOR, Route.STREAM):
        return counted(count, "accelerator")
    return "full" if route is Route.FULL else "skip"


NODES = [FewStepBudget]
