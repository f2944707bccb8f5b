"""What to do about a choice and what to mind about it, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...loras.words import counted
from ..skip.forecast import STOCHASTIC_SPEEDUP
from ..skip.run import LEAST_EVALUATIONS
from .cost import Work, seconds_in_words
from .decoding import TinyVae, decode_faster
from .ways import MOST_SPEEDUP, CarriedSkip, Choice, Route, Way

# At this many steps and fewer, students lose fine detail and, in video, motion.
VERY_FEW_STEPS = 2
LEFT_OUT = "Text encoding and the VAE are not in these figures, nor is loading the model."
LEFT_OUT_OF_THE_WHOLE = (
    "Loading models and saving pictures are not in these figures. Neither is text encoding: ComfyUI"
    " does it once and keeps the result for as long as the prompt stays the same."
)


@dataclass(frozen=True)
class Machine:
    """What decides whether quantising pays."""

    weight_bits: int  # of the model as loaded
    faster: str = ""  # low-precision arithmetic that the device has, such as "FP8"; empty for none


def levers(
    choice: Choice,
    ways: Sequence[Way],
    machine: Machine,
    work: Work,
    there: Collection[str] = (),
    carried_skip: CarriedSkip | None = None,
    tiny: TinyVae | None = None,
) -> list[str]:
    """What to change, in this order, and what each brings.

    there: ids of accelerators at hand. carried_skip: Step Skip on the model, if any. tiny: what
    decodes its latents faster, where decoding takes long enough to be worth a word.
    """
    return [
        *([] if tiny is None else [decode_faster(choice.way, tiny)]),
        _quantise(machine),
        _skip(choice.way) if carried_skip is None else _skip_done(choice.way, carried_skip),
        _distil(choice, ways, work, there),
        (
            "Quantising goes with either of the others. Skipping and distilling exclude each other:"
            " an accelerator's few steps leave nothing to skip."
        ),
    ]


def _quantise(machine: Machine) -> str:
    if machine.weight_bits < 16:
        return f"Quantise: done, the weights are {machine.weight_bits}-bit."
    if machine.faster:
        return (
            f"Quantise: the weights are {machine.weight_bits}-bit and this device computes faster"
            f" in {machine.faster}. Load the {machine.faster} version of the model and measure"
            " again."
        )
    return "Quantise: saves memory only; this device has no faster low-precision arithmetic."


def _skip(way: Way) -> str:
    # Break-even lies at 10 to 12 steps: Step Skip does at 10 what it is asked to, but nobody is
    # advised to ask.
    if way.steps <= LEAST_EVALUATIONS:
        return (
            f"Skip: nothing to gain at {counted(way.steps, 'step')}; it pays above"
            f" {LEAST_EVALUATIONS}."
        )
    if way.records:
        return (
            f"Skip: not with an accelerator; it was distilled to make every one of its {way.steps}"
            " steps."
        )
    if way.target_speedup > 1.0:
        return (
            f"Skip: put Step Skip on the model with target_speedup {way.target_speedup:g}; the step"
            " count above counts on it."
        )
    return (
        f"Skip: not needed for this allowance; Step Skip would bring up to {MOST_SPEEDUP:g}x at"
        f" {way.steps} steps."
    )


def _skip_done(way: Way, carried: CarriedSkip) -> str:
    """Of a model that carries Step Skip: nobody is advised to put it there again."""
    if way.steps < LEAST_EVALUATIONS:
        return (
            f"Skip: Step Skip is on the model and changes nothing at {counted(way.steps, 'step')}:"
            f" below {LEAST_EVALUATIONS} evaluations it does not pay."
        )
    if way.records:
        return (
            "Skip: take Step Skip off the model; its accelerator was distilled to make every one of"
            f" its {way.steps} steps."
        )
    if carried.speedup is None:
        return (
            f"Skip: done, Step Skip is on the model ({carried.settings}). What it leaves out cannot"
            " be foreseen and is not in these figures."
        )
    return (
        f"Skip: done, Step Skip is on the model ({carried.settings}); the figures above count on"
        " it."
    )


def _distil(choice: Choice, ways: Sequence[Way], work: Work, there: Collection[str]) -> str:
    if choice.way.records:
        return f"Distil: done, the model carries {choice.way.records[0].id}."
    distilled = [way for way in ways if way.records]
    if not distilled:
        return "Distil: no known accelerator is made for this model."
    fitting = [way for way in distilled if way.whole <= choice.allowance]
    if choice.misses and fitting:
        best = min(fitting, key=lambda way: _trouble(way, there))
        opening = (
            f"{len(fitting)} of the accelerators in the table fit, for example"
            if len(fitting) > 1
            else "what fits is"
        )
        words = (
            f"Distil: {opening} {best.records[0].id} at {counted(best.steps, 'step')}, about"
            f" {seconds_in_words(best.whole)}."
        )
        return " ".join([words, *_pitfalls_of(best, work)])
    if choice.misses:
        return (
            "Distil: no accelerator fits either; the fastest takes about"
            f" {seconds_in_words(distilled[-1].whole)}. What is left is a smaller"
            " picture or a shorter clip."
        )
    return "Distil: not needed for this allowance."


def _trouble(way: Way, there: Collection[str]) -> tuple[bool, bool]:
    """What an accelerator asks for, the worse first: a download, then a restrictive licence."""
    return (
        not all(record.id in there for record in way.records),
        not all(record.licence.commercial is True for record in way.records),
    )


def pitfalls(
    choice: Choice, experience: str, work: Work, is_negative_forced: bool = False
) -> list[str]:
    """What goes wrong with this choice, where something does."""
    way = choice.way
    told = [LEFT_OUT if way.overhead is None else LEFT_OUT_OF_THE_WHOLE, *_pitfalls_of(way, work)]
    if way.guided is not None:
        settings = way.guided
        told.append(
            f"Guided Start makes {counted(settings.guided_steps, 'step')} of"
            f" {counted(settings.per_step, 'evaluation')} each in place of the first"
            f" {counted(settings.distilled_steps, 'step')}. Taking the accelerator off the weights"
            " and putting it on again comes on top, in every run."
        )
    if is_negative_forced:
        told.append(
            "Another patch on the model has the negative prompt evaluated at CFG 1 too: every step"
            " costs two evaluations."
        )
    if way.target_speedup > STOCHASTIC_SPEEDUP:
        slower = way.whole + way.seconds * (way.target_speedup / STOCHASTIC_SPEEDUP - 1)
        told.append(
            f"target_speedup {way.target_speedup:g} is for samplers that follow the ODE, such as"
            f" euler. Those that inject noise (ancestral, SDE) get {STOCHASTIC_SPEEDUP:g}x"
            f" from Step Skip at most and take about {seconds_in_words(slower)}."
        )
    if way.route is Route.STREAM:
        told.append(
            "The stream is predicted with window_frames 0, which sees the whole clip: a window"
            " makes its later blocks cheaper."
        )
        told += _price_of_a_change(way, work)
    if way.route is Route.STREAM and experience == "live":
        told.append(
            "record in the Streaming Sampler writes each block to a file as it is finished; with"
            " nothing connected to images, no pictures are kept in memory however long it runs."
        )
    if experience == "live" and work.clip_seconds is not None and way.route is not Route.STREAM:
        told.append(
            "Live video needs a causal model (Self Forcing and its kin): any other shows nothing"
            " before the whole clip is done."
        )
    return told


def _price_of_a_change(way: Way, work: Work) -> list[str]:
    """What a stream takes beside, where its prompt changes on the way."""
    causal = way.records[0].causal
    assert causal is not None  # it streams
    half_way = work.latent_frames // causal.frames_per_block // 2
    if half_way < 2:
        return []  # what is in view is read anyway
    return [
        "A prompt that changes half-way (Prompt Timeline, or a text sent while it runs) has what is"
        f" in view read again: {counted(half_way - 1, 'evaluation')} more here, and fewer with a"
        " window."
    ]


def _pitfalls_of(way: Way, work: Work) -> list[str]:
    """Those that come with the accelerator of a way."""
    told = []
    for record in way.records:
        if not record.is_guided:
            told.append(
                f"{record.id} runs at CFG 1 and only there: any other value burns the picture and"
                " doubles the time."
            )
        if record.licence.commercial is not True:
            told.append(f"Licence of {record.id}: {record.licence}.")
    if any(record.expert is not None for record in way.records):
        told.append(
            "Wan 2.2 changes experts once in a run; where both do not fit into memory, the swap"
            " comes on top."
        )
    if way.records and way.steps <= VERY_FEW_STEPS:
        motion = ", and less motion" if work.clip_seconds else ""
        told.append(f"{counted(way.steps, 'step')}: expect soft fine detail{motion}.")
    return told
