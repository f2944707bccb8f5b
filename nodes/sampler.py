"""FewStepSampler and FewStepSchedule: the distilled run, whole or as parts for other samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Expert, Parameterization, ids_in_words
from ..loras.catalog import recipes_for_experts
from ..loras.names import experts_named
from ..loras.words import counted, in_figures
from ..samplers.causal import in_frames
from ..samplers.plan import (
    PlanError,
    Runner,
    SamplingPlan,
    make_expert_plan,
    make_high_noise_plan,
    make_plan,
    with_guided,
)
from .host.guided_start import guided_start_of, notes_on_guided, refuse_guided_start
from .host.latent import handed_on, image_tokens
from .host.model import LoadedModel, LoaderNews, look_at, sigma_of
from .host.provenance import leftover_noise_of
from .host.recognise import AcceleratedModels, accelerated
from .host.report import SENT_AGAIN, Report, notes_of_loaders, rows_on_loaders
from .host.run import (
    Run,
    StageRun,
    embedded_guidance,
    host_sampler,
    refuse_cfg_sent,
    sample,
    sigmas_tensor,
)
from .host.timeline import refuse_timeline

STEPS_LABEL = "steps (0 = auto)"
STEPS_TOOLTIP = (
    "0 runs the accelerator's own count, where it is best. Another count runs on the same formula"
    " and the report says so: more steps cost more and add little, fewer lose detail. Accelerators"
    " whose noise levels are a list have their own counts alone."
)
DENOISE_TOOLTIP = (
    "1 starts from pure noise. Lower keeps more of the latent it is given (image to image); most"
    " accelerators then run fewer of their steps."
)


class FewStepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepSampler",
            display_name="Few-Step Sampler",
            category="few-step",
            description=(
                "Samples an accelerated model on the exact schedule, with the exact sampler, it was"
                " distilled for. CFG is locked to the value of the distillation, 1 for nearly all,"
                " so every step costs one evaluation."
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
                "ksampler",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with an accelerator. With Wan 2.2: the high-noise expert.",
                ),
                io.Conditioning.Input("positive", tooltip="What the picture or video should show."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to start from: its size, batch and noise mask are obeyed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same result.",
                ),
                io.Int.Input(
                    "steps",
                    display_name=STEPS_LABEL,
                    default=0,
                    min=0,
                    max=100,
                    tooltip=STEPS_TOOLTIP,
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=DENOISE_TOOLTIP
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip=(
                        "Only read by accelerators that kept guidance, and by patches such as NAG."
                        " At CFG 1 a negative prompt has no effect here and costs nothing; the"
                        " Few-Step Negative Prompt node makes one work."
                    ),
                ),
                io.Model.Input(
                    "model_low_noise",
                    optional=True,
                    tooltip=(
                        "Wan 2.2 only: the low-noise expert with its own accelerator. It takes over"
                        " at the boundary."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The finished latent, for VAE Decode."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Steps, evaluations, seconds and the settings that were used.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **SENT_AGAIN,
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent_image,
        seed: int,
        steps: int,
        denoise: float,
        negative=None,
        model_low_noise=None,
    ) -> io.NodeOutput:
        refuse_timeline(positive, "positive")
        refuse_timeline(negative or (), "negative")
        models = accelerated(*experts_of(model, model_low_noise, cls.hidden))
        refuse_causal(models.records[0])
        notes_on_expert = notes_on_expert_alone(models)
        plan = plan_run(models, steps, denoise, latent_image)
        guided = guided_start_of(model)
        refuse_cfg_sent(cls.hidden, plan)
        notes = notes_on_negative(models, plan, is_connected=negative is not None)
        run = sample(models.patchers, plan, positive, negative, latent_image, seed, guided)
        guidance = embedded_guidance(positive)
        latent = handed_on(latent_image, run.samples)
        is_negative_read = negative is not None and models.is_negative_forced
        notes = (
            *models.notes,
            *notes_on_expert,
            *notes_on_latent(cls.hidden),
            *notes,
            *notes_on_guided(guided, models.patchers[0], run),
        )
        report = report_on_run(plan, run, notes, is_negative_read, guidance, models.news)
        return io.NodeOutput(latent, report.markdown, ui=report.publish(cls.hidden))


class FewStepSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepSchedule",
            display_name="Few-Step Schedule",
            category="few-step",
            description=(
                "The accelerator's exact sigmas, sampler, CFG and step count, for SamplerCustom and"
                " other samplers. With both experts of Wan 2.2 each gets its own part."
            ),
            search_aliases=["sigmas", "scheduler", "lightning", "lightx2v", "lcm"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with an accelerator. With Wan 2.2: the high-noise expert.",
                ),
                io.Int.Input(
                    "steps",
                    display_name=STEPS_LABEL,
                    default=0,
                    min=0,
                    max=100,
                    tooltip=STEPS_TOOLTIP,
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=DENOISE_TOOLTIP
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip=(
                        "Only read by accelerators whose schedule depends on the size of the"
                        " picture."
                    ),
                ),
                io.Model.Input(
                    "model_low_noise",
                    optional=True,
                    tooltip=(
                        "Wan 2.2 only: the low-noise expert with its own accelerator. Then sigmas"
                        " are the high-noise part, and low_noise_sigmas the rest."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip=(
                        "The noise levels of the distillation, one more than steps. Of Wan 2.2's"
                        " experts: the high-noise part."
                    ),
                ),
                io.Sampler.Output(
                    display_name="sampler", tooltip="The sampler it was distilled for."
                ),
                io.Float.Output(display_name="cfg", tooltip="The guidance scale it must run at."),
                io.Int.Output(
                    display_name="steps", tooltip="How many steps there are, of both parts."
                ),
                io.Sigmas.Output(
                    display_name="low_noise_sigmas",
                    tooltip=(
                        "The low-noise expert's part, for a second sampler that adds no noise."
                        " Empty for a single model."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **SENT_AGAIN,
        )

    @classmethod
    def execute(
        cls, model, steps: int, denoise: float, latent_image=None, model_low_noise=None
    ) -> io.NodeOutput:
        refuse_guided_start(model, "sigmas cannot say that another model makes the first of them")
        experts = (model,) if model_low_noise is None else (model, model_low_noise)
        models = accelerated(*experts_of(model, model_low_noise, cls.hidden))
        for given, loaded in zip(experts, models.loaded):
            refuse_changed(given, loaded)
        plan = plan_parts(models, steps, denoise, latent_image)
        first, rest = (*map(sigmas_tensor, plan.parts), sigmas_tensor(()))[:2]
        return io.NodeOutput(
            first,
            host_sampler(plan),
            plan.cfg,
            plan.steps,
            rest,
            ui=report_on_schedule(plan, models.notes).publish(cls.hidden),
        )


def experts_of(model, model_low_noise, hidden: Any) -> list[LoadedModel]:
    """The model of a run, or its two experts."""
    loaded = [look_at(model, hidden)]
    if model_low_noise is not None:
        refuse_guided_start(model_low_noise, "a run does not begin in the low-noise expert")
        loaded.append(look_at(model_low_noise, hidden, "model_low_noise"))
    return loaded


def plan_run(
    models: AcceleratedModels, steps: int, denoise: float, latent_image=None
) -> SamplingPlan:
    first = models.patchers[0]
    sigma, guided = sigma_of(first), guided_start_of(first)
    if len(models.loaded) == 2:
        plan = make_expert_plan(*models.records, steps, denoise, sigma)
    else:
        record = models.records[0]
        # To look at a latent takes a while where it is a long clip.
        needs_size = record is not None and record.schedule.needs_size
        tokens = (
            image_tokens(first, latent_image) if needs_size and latent_image is not None else None
        )
        plan = make_plan(record, steps, denoise, sigma, tokens)
    return plan if guided is None else with_guided(plan, guided.settings, guided.levels)


def plan_parts(
    models: AcceleratedModels, steps: int, denoise: float, latent_image=None
) -> SamplingPlan:
    """As plan_run, but of a high-noise expert its part alone can be had."""
    record = models.records[0]
    if len(models.loaded) == 1 and record is not None and record.expert is Expert.HIGH_NOISE:
        return make_high_noise_plan(record, steps, denoise, sigma_of(models.patchers[0]))
    return plan_run(models, steps, denoise, latent_image)


def notes_on_negative(
    models: AcceleratedModels, plan: SamplingPlan, is_connected: bool
) -> tuple[str, ...]:
    """What to tell of the negative prompt. Raises PlanError where a run cannot do without."""
    record = plan.accelerators[0]
    if is_connected:
        if record.is_guided or models.is_negative_forced:
            return ()
        if models.carries_negative:
            return (
                "negative is connected here and was not read at CFG 1; the one on Few-Step Negative"
                " Prompt is.",
            )
        return (
            "negative is connected and was not read: CFG is locked to 1, where it has no effect. To"
            " have it kept out, put Few-Step Negative Prompt on the model.",
        )
    if record.is_guided:
        raise PlanError(
            f"{record.id} was distilled with guidance kept and runs at CFG"
            f" {plan.cfg:g}: connect a negative prompt (an empty one will do)."
        )
    if models.has_self_attention_guidance:
        raise PlanError(
            "Self-Attention Guidance on the model reads the negative prompt at every step, and"
            " there is none: connect one to negative (an empty one will do), or take Self-Attention"
            " Guidance off."
        )
    if models.is_negative_forced:
        return (
            "A patch on the model (such as NAG) asks for the negative prompt and may do nothing"
            " without one: connect one to negative.",
        )
    return ()


def refuse_causal(record: Accelerator | None) -> None:
    """Raise for a model that is made block by block, not with all its frames at once."""
    if record is not None and record.causal is not None:
        raise PlanError(
            f"{record.id} is causal: it makes {in_frames(record.causal.frames_per_block)} at a"
            " time, each block after the one before. Use the Streaming Sampler, or core's"
            " SamplerARVideo with the sigmas of the Few-Step Schedule."
        )


def notes_on_expert_alone(models: AcceleratedModels) -> tuple[str, ...]:
    """What to tell of a model that is one of Wan 2.2's two experts by its name, with an accelerator
    for a single model. Raises PlanError for the high-noise one, which never finishes a picture.
    """
    loaded = models.loaded[0]
    record = loaded.record
    if len(models.loaded) > 1 or record is None or record.expert:
        return ()
    if not loaded.base.names_tell_experts or not loaded.file_name:
        return ()
    experts = experts_named(loaded.file_name)
    if len(experts) != 1:
        return ()
    recipes = recipes_for_experts(record)
    pair = (
        f" and choose {ids_in_words(recipes, ' and ')} in the accelerator of the two loaders"
        if recipes
        else ", each with its own accelerator"
    )
    if experts == {Expert.HIGH_NOISE}:
        raise PlanError(
            f"The connected model, {loaded.file_name}, is by its name Wan 2.2's high-noise expert,"
            f" which never finishes a picture, and {record.id} would run it alone. Connect the"
            f" low-noise model to model_low_noise{pair}."
        )
    if experts == {Expert.LOW_NOISE}:
        return (
            f"{loaded.file_name} is by its name Wan 2.2's low-noise expert, and runs the whole"
            f" schedule here. For video connect both experts{pair}.",
        )
    return ()


def notes_on_latent(hidden: Any) -> tuple[str, ...]:
    """What to tell of a latent that another sampler left noise in, by the graph."""
    sampler = leftover_noise_of(hidden, "latent_image")
    if not sampler:
        return ()
    return (
        f"latent_image comes from {sampler} with noise left in it, and this sampler added noise of"
        " its own to that. Let that sampler run to its last step and leave no noise; or go on from"
        " it with core's SamplerCustom, add_noise off, and the last sigmas of the Few-Step"
        " Schedule.",
    )


def refuse_changed(model, loaded: LoadedModel) -> None:
    """Raise where sigmas do not say all that the record sets, and `model`, which goes to another
    sampler as it is, lacks the rest.
    """
    record = loaded.record
    # It is another model only where a record was recognised.
    if loaded.patcher is not model and (
        record.schedule.audio_shift is not None or record.parameterization is Parameterization.X0
    ):
        raise PlanError(
            f"{record.id} was recognised without an Accelerator Loader, and it needs settings on"
            " the model that sigmas cannot carry. Put an Accelerator Loader in front of this node"
            " and of the sampler, or use the Few-Step Sampler."
        )


def report_on_run(
    plan: SamplingPlan,
    run: Run,
    notes: tuple[str, ...] = (),
    is_negative_read: bool = False,
    guidance: float | None = None,
    news: Sequence[LoaderNews] = (),
) -> Report:
    """What a run did.

    notes: what to tell from before it. is_negative_read: a patch has a negative prompt evaluated at
    CFG 1. guidance: what the graph sets as embedded guidance. news: of the loaders.
    """
    evaluations, record, log = run.evaluations, plan.accelerators[0], run.log
    locked = "guidance kept" if record.is_guided else "locked"
    count = notes_on_evaluations(plan, evaluations, is_negative_read)
    guidance_row, experts_row = rows_on_guidance(record, guidance), rows_on_experts(plan)
    steps, data = steps_in_words(plan), data_of_run(plan, run)
    seconds = in_figures(run.seconds)
    return Report(
        node="Few-Step Sampler",
        summary=(
            f"{steps}, {counted(evaluations, 'evaluation')}, {seconds} s,"
            f" CFG {cfg_in_words(plan)} {locked}"
        ),
        rows=(
            ("accelerator", " + ".join(record.id for record in plan.accelerators)),
            ("steps", str(plan.steps)),
            ("evaluations", f"{evaluations:g}{in_stages(plan)}"),
            ("seconds", seconds),
            ("CFG", f"{cfg_in_words(plan)} ({locked})"),
            ("sampler", plan.solver.value),
            *guidance_row,
            *experts_row,
            *rows_on_stages(plan, run),
            *((entry["node"], entry["summary"]) for entry in log.entries),
            *rows_on_loaders(news),
        ),
        details=details_of_run(plan, run),
        notes=(*notes, *plan.notes, *count, *notes_of_loaders(news)),
        data=data,
    )


def details_of_run(plan: SamplingPlan, run: Run) -> tuple[tuple[str, str], ...]:
    """How the run was made, and what one pass through the network took."""
    log = run.log
    guided = () if plan.guided is None else (("guided sigmas", in_list(plan.guided.sigmas)),)
    return (
        ("sigmas", in_list(plan.sigmas)),
        *guided,
        ("forward passes", f"{log.calls} of {counted(log.rows, 'row')} in all"),
        ("seconds loading models", in_figures(log.loading)),
        ("seconds per pass", in_figures((run.seconds - log.loading) / max(log.calls, 1))),
    )


def in_list(sigmas: Sequence[float]) -> str:
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas)


def notes_on_evaluations(
    plan: SamplingPlan, evaluations: float, is_negative_read: bool
) -> tuple[str, ...]:
    """What to tell of a count that is not the plan's."""
    is_guided = plan.accelerators[0].is_guided
    if is_negative_read and not is_guided and evaluations > plan.evaluations:
        return (
            "Another patch on the model (NAG, SAG or CFG++) has the host evaluate the negative"
            f" prompt too: {counted(evaluations, 'evaluation')} instead of {plan.evaluations}.",
        )
    if evaluations != plan.evaluations:
        return (
            f"{counted(evaluations, 'evaluation')} instead of the plan's {plan.evaluations}:"
            " regional prompts, context windows or a skip node change the count.",
        )
    return ()


def report_on_schedule(plan: SamplingPlan, notes: tuple[str, ...] = ()) -> Report:
    """notes: what to tell from before the plan."""
    return Report(
        node="Few-Step Schedule",
        summary=f"{steps_in_words(plan)}, {plan.solver.value}, CFG {plan.cfg:g}",
        rows=(),
        notes=(*notes, *plan.notes),
        data={
            "accelerators": [record.id for record in plan.accelerators],
            "steps": plan.steps,
            "cfg": plan.cfg,
            "sampler": plan.solver.value,
            "sigmas": list(plan.sigmas),
            "switch_step": plan.switch_step,
        },
    )


def steps_in_words(plan: SamplingPlan) -> str:
    """6 steps (distilled for 4); or 2 guided steps, then the last 3 of 4 steps."""
    told = f" (distilled for {plan.distilled_for})" if plan.distilled_for else ""
    steps = counted(plan.steps, "step") + told
    if plan.guided is None:
        return steps
    settings = plan.guided.settings
    left = plan.steps - settings.distilled_steps
    return f"{counted(settings.guided_steps, 'guided step')}, then the last {left} of {steps}"


def cfg_in_words(plan: SamplingPlan) -> str:
    """1; or 3.5, then 1."""
    guided = "" if plan.guided is None else f"{plan.guided.settings.cfg:g}, then "
    return f"{guided}{plan.cfg:g}"


def in_stages(plan: SamplingPlan) -> str:
    """: 2 guided steps of 2, then 3; nothing for a run without a guided start."""
    if plan.guided is None:
        return ""
    settings = plan.guided.settings
    guided = f"{counted(settings.guided_steps, 'guided step')} of {settings.per_step}"
    return f": {guided}, then {plan.evaluations - settings.evaluations}"


STAGES = {
    Runner.GUIDED: "guided part",
    Runner.FIRST: "accelerated part",
    Runner.LOW_NOISE: "low-noise part",
}


def rows_on_stages(plan: SamplingPlan, run: Run) -> tuple[tuple[str, str], ...]:
    """What each part of a run with a guided start took."""
    if plan.guided is None:
        return ()
    return tuple((STAGES[made.stage.runner], stage_in_words(made)) for made in run.stages)


def stage_in_words(made: StageRun) -> str:
    stage = made.stage
    return (
        f"{counted(made.evaluations, 'evaluation')} in {counted(stage.steps, 'step')} of"
        f" {stage.solver.value} at CFG {stage.cfg:g}, {in_figures(made.seconds)} s"
        f" ({in_figures(made.loading)} of it loading)"
    )


def rows_on_experts(plan: SamplingPlan) -> tuple[tuple[str, str], ...]:
    """Which expert runs which steps; one of them may have none. Where a guided start makes the
    first, the parts of the run say it.
    """
    if plan.switch_step is None or plan.guided is not None:
        return ()
    switch = plan.switch_step
    spans = (("high-noise", 1, switch), ("low-noise", switch + 1, plan.steps))
    parts = [
        f"{expert} for {f'step {first}' if first == last else f'steps {first} to {last}'}"
        for expert, first, last in spans
        if first <= last
    ]
    return (("experts", ", ".join(parts)),)


def rows_on_guidance(record: Accelerator, guidance: float | None) -> tuple[tuple[str, str], ...]:
    """Embedded guidance beside CFG: another knob, an input of the network that costs nothing."""
    if record.embedded_guidance is None:
        return ()
    value = "the model's default" if guidance is None else f"{guidance:g}"
    distilled = f"{record.id} was distilled at {record.embedded_guidance:g}"
    return (("embedded guidance", f"{value}, as the graph sets it; {distilled}"),)


def data_of_run(plan: SamplingPlan, run: Run) -> dict[str, Any]:
    """The report for programs."""
    return {
        "accelerators": [record.id for record in plan.accelerators],
        "steps": plan.steps,
        "evaluations": run.evaluations,
        "forward_passes": run.log.calls,
        "rows": run.log.rows,
        "seconds": run.seconds,
        "cfg": plan.cfg,
        "sampler": plan.solver.value,
        "sigmas": list(plan.sigmas),
        "switch_step": plan.switch_step,
        "stages": [
            {
                "part": made.stage.runner.value,
                "steps": made.stage.steps,
                "evaluations": made.evaluations,
                "seconds": made.seconds,
                "loading_seconds": made.loading,
                "cfg": made.stage.cfg,
                "sampler": made.stage.solver.value,
                "sigmas": list(made.stage.sigmas),
            }
            for made in run.stages
        ],
        "entries": run.log.entries,
    }


NODES = [FewStepSampler, FewStepSchedule]
